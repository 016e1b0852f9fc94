"""One row per transform: how it is built, and what must hold for it.

Rows are in the file of their room. A new method adds one there, and
`test_battery.py` does the rest; a public function that returns a `Transform`
and has no row fails a test.
"""

from conformance.answers import ANSWERS
from conformance.case import Case
from conformance.classifiers import CLASSIFIERS
from conformance.exact_systems import EXACT
from conformance.gans import GANS
from conformance.graphs import GRAPHS
from conformance.guards import GUARDS
from conformance.identities import IDENTITIES
from conformance.pictures import PICTURES
from conformance.prompted import PROMPTED
from conformance.recommenders import RECOMMENDERS
from conformance.texts import TEXTS

CASES: list[Case] = [
  *CLASSIFIERS,
  *EXACT,
  *GANS,
  *GRAPHS,
  *IDENTITIES,
  *RECOMMENDERS,
  *PROMPTED,
  *ANSWERS,
  *GUARDS,
  *TEXTS,
  *PICTURES,
]

# Public functions that return a part and no method, and what stands for them.
PARTS = {
  **dict.fromkeys(
    (
      "core.rounds.alternate",
      "core.combinators.by_forget_gradient",
      "core.combinators.chain",
      "core.combinators.masked",
      "core.rounds.repeat",
      "core.combinators.with_term",
      "core.links.adopt",
      "core.links.edit",
      "core.links.ema",
      "core.links.per_row",
      "core.links.provide",
      "core.links.restore",
      "core.phase.phase",
      "core.phase.remember",
      "core.recording.alternate_with_curve",
      "core.recording.record",
      "core.views.through",
    ),
    "what methods are made of: tests/core",
  ),
  "core.training.fitting": "retrain, finetune",
  "core.training.prepared": "those of methods on graphs, of recommenders",
  "diffusion.requests.telling": "those of methods for diffusion models",
  "diffusion.steps.adopt_group": "diffusion.sdd, diffusion.sfd",
  "gan.training.adopt": "gan.adversarial, gan.extrapolate",
  "gan.training.adversarial": "those of methods for GANs",
  "graph.tasks.provide_non_edges": "retrain on edges",
  "identity.forget.beside_retain": "those of identities",
  "language._objectives.keeping": "those of methods for text",
  "language._objectives.provide_score": "npo, dpo",
  "language.gate.learn": "language.eco, language.guard",
  "methods._classes.provide_classes": "unsir, zero_shot_noise, gkt",
  "methods._relabel.mixed": "random_label, salun",
  "methods._relabel.sequential": "random_label, salun",
  "methods.unsir.learn_noise": "unsir",
  "methods.unsir.train_on_noise": "unsir",
  "methods.unsir.train_on_rows": "unsir",
  "methods.zero_shot.learn_noise": "zero_shot_noise",
  "methods.zero_shot.train_on_noise": "zero_shot_noise",
  "methods.task_vector.reinforce": "task_vector, whp",
  "recsys.objectives.see": "recsys.mmrecun",
}
