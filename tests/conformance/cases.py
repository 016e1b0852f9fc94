"""One row per transform: how it is built, and what must hold for it.

Rows are in the file of their room. A new method adds one there, and
`test_battery.py` does the rest; a public function that returns a `Transform`
and has no row fails a test.
"""

from conformance.case import Case
from conformance.classifiers import CLASSIFIERS
from conformance.graphs import GRAPHS
from conformance.prompted import PROMPTED
from conformance.recommenders import RECOMMENDERS

CASES: list[Case] = [*CLASSIFIERS, *GRAPHS, *RECOMMENDERS, *PROMPTED]

# Public functions that return a part and no method, and what stands for them.
PARTS = {
  **dict.fromkeys(
    (
      "core.combinators.chain",
      "core.combinators.edit",
      "core.combinators.masked",
      "core.combinators.provide",
      "core.combinators.repeat",
      "core.phase.phase",
      "core.recording.record",
      "core.recording.repeat_with_curve",
    ),
    "what methods are made of: tests/core",
  ),
  "core.classes.provide_classes": "unsir, zero_shot_noise, gkt",
  "core.relabel.mixed": "random_label, salun",
  "core.relabel.sequential": "random_label, salun",
  "core.training.fitting": "retrain",
  "diffusion.training.fitting": "diffusion.train: tests/diffusion",
  "graph.training.fitting": "graph.retrain",
  "methods.unsir.impair": "unsir",
  "methods.unsir.learn_noise": "unsir",
  "methods.unsir.repair": "unsir",
  "methods.zero_shot.learn_noise": "zero_shot_noise",
  "methods.zero_shot.train_on_noise": "zero_shot_noise",
  "recsys.objectives.fitting": "recsys.retrain",
  "recsys.objectives.with_graph": "recsys.mmrecun",
  "recsys.objectives.with_history": "recsys.mmrecun",
}
