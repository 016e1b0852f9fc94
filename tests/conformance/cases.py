"""One row per transform: how it is built, and what must hold for it.

A new method adds a row here, and `test_battery.py` does the rest. A public
function that returns a `Transform` and has no row fails a test.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import problems
import tiny_attention
from conformance import worlds
from conformance.worlds import ADAM, World

import jaxunlearn as ju
from jaxunlearn import attacks, diffusion, graph, recsys
from jaxunlearn.core import (
  classes,
  combinators,
  phase,
  recording,
  relabel,
  training,
)
from jaxunlearn.diffusion import training as diffusion_training
from jaxunlearn.graph import training as graph_training
from jaxunlearn.methods import unsir, zero_shot
from jaxunlearn.recsys import objectives as recsys_objectives


class Case(NamedTuple):
  """A row of the table.

  Attributes:
    factory: the public function that the row stands for.
    world: what it is called on.
    build: `subject -> Transform`.
    variant: what tells it from other rows of the factory.
    reads: the rows whose inputs may change the result: "all", "forget",
      "retain" or "nothing".
    keyless: the key changes nothing.
    requestless: the request changes nothing; a concept stands in its place.
    moves: whether params change; otherwise the model state does.
    identity: nothing changes at all.
    keeps_state: whether the model state keeps its structure.
    soft_request: float weights are taken as well as a bool mask.
    low_precision: bfloat16 params are taken.
    devices: a batch may be shared by devices.
    slow: the battery takes over ten seconds.
  """

  factory: Callable
  world: Callable[[], World]
  build: Callable[..., ju.Transform]
  variant: str = ""
  reads: str = "all"
  keyless: bool = False
  requestless: bool = False
  moves: bool = True
  identity: bool = False
  keeps_state: bool = True
  soft_request: bool = True
  low_precision: bool = True
  devices: bool = True
  slow: bool = False

  @property
  def name(self) -> str:
    room = self.factory.__module__.split(".")[1]
    return f"{room}.{self.factory.__name__}" + self.variant * bool(self.variant)


STEPS = {"optimizer": ADAM, "num_steps": 5, "batch_size": 8}
SALUN = {
  "num_classes": 4,
  "num_epochs": 2,
  "forget_steps": 1,
  "retain_steps": 2,
  "batch_size": 8,
  "optimizer": ADAM,
}
SCRUB = {
  "optimizer": ADAM,
  "num_epochs": 3,
  "max_epochs": 2,
  "max_steps": 2,
  "min_steps": 3,
  "forget_batch_size": 8,
  "retain_batch_size": 16,
}


def ledger():
  return jax.tree.map(lambda p: 0.1 * p, problems.trained()[2].params)


def _row(world, factory, build, variant="", **flags) -> Case:
  return Case(factory, world, build, variant and f"-{variant}", **flags)


def _classes(factory, build, variant="", **flags):
  return _row(worlds.classes, factory, build, variant, **flags)


CLASSIFIERS = [
  _classes(ju.retrain, lambda m: ju.retrain(m, **STEPS), reads="retain"),
  _classes(ju.finetune, lambda m: ju.finetune(m, **STEPS), reads="retain"),
  _classes(
    ju.gradient_ascent,
    lambda m: ju.gradient_ascent(m, loss_ceiling=5.0, **STEPS),
    reads="forget",
  ),
  _classes(
    ju.neggrad_plus,
    lambda m: ju.neggrad_plus(
      m,
      optimizer=ADAM,
      num_steps=5,
      forget_batch_size=8,
      retain_batch_size=16,
    ),
  ),
  _classes(
    ju.random_label,
    lambda m: ju.random_label(m, num_classes=4, **STEPS),
    soft_request=False,
  ),
  _classes(
    ju.random_label,
    lambda m: ju.random_label(
      m, num_classes=4, redraw="batch", exclude_true=False, **STEPS
    ),
    "batch",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.random_label,
    lambda m: ju.random_label(
      m,
      num_classes=4,
      order="sequential",
      num_epochs=2,
      forget_steps=2,
      redraw="epoch",
      **STEPS,
    ),
    "sequential",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.l1_sparse,
    lambda m: ju.l1_sparse(m, penalty=1e-3, plain_steps=1, **STEPS),
    reads="retain",
  ),
  _classes(
    ju.salun,
    lambda m: ju.salun(m, **SALUN),
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.salun,
    lambda m: ju.salun(m, schedule="mixed", **SALUN),
    "mixed",
    soft_request=False,
    slow=True,
  ),
  _classes(ju.ssd, lambda m: ju.ssd(m, alpha=1.0, batch_size=8), keyless=True),
  _classes(
    ju.ssd,
    lambda m: ju.ssd(m, selection=10.0, estimator="example", batch_size=8),
    "adaptive",
    keyless=True,
    slow=True,
  ),
  _classes(
    ju.boundary_shrink,
    lambda m: ju.boundary_shrink(m, radius=0.5, exclude_true=True, **STEPS),
    reads="forget",
  ),
  _classes(
    ju.boundary_expand,
    lambda m: ju.boundary_expand(m, **STEPS),
    reads="forget",
  ),
  _classes(
    ju.influence_unlearning,
    lambda m: ju.influence_unlearning(
      m, damping=0.1, max_iterations=8, chunk_size=16
    ),
    keyless=True,
  ),
  _classes(
    ju.amnesiac,
    lambda m: ju.amnesiac(m, ledger(), **STEPS),
    reads="retain",
    low_precision=False,  # The ledger is that of the float32 training.
  ),
  _classes(
    ju.cf_k, lambda m: ju.cf_k(m, num_layers=1, **STEPS), reads="retain"
  ),
  _classes(
    ju.eu_k, lambda m: ju.eu_k(m, num_layers=1, **STEPS), reads="retain"
  ),
  _classes(
    ju.fisher_forgetting,
    lambda m: ju.fisher_forgetting(
      m, num_classes=4, noise_scale=1e-4, chunk_size=16
    ),
    devices=False,  # Noise that is scaled by a small number's root.
    soft_request=False,
  ),
  _classes(ju.scrub, lambda m: ju.scrub(m, **SCRUB), slow=True),
  _classes(
    ju.scrub,
    lambda m: ju.scrub(m, rewind_data=problems.blobs(20, seed=1), **SCRUB),
    "rewind",
    slow=True,
  ),
  _classes(
    ju.unsir,
    lambda m: ju.unsir(
      m,
      num_classes=4,
      max_classes=2,
      noise_batch=8,
      noise_steps=4,
      impair_steps=4,
      repair_steps=3,
      batch_size=16,
      copies=3.0,
      retain_per_class=10,
    ),
    reads="retain",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.zero_shot_noise,
    lambda m: ju.zero_shot_noise(
      m,
      num_classes=4,
      noise_steps=4,
      noise_batch=8,
      impair_steps=4,
      repair_steps=3,
      batch_size=16,
    ),
    reads="nothing",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.gkt,
    lambda m: ju.gkt(
      m,
      num_classes=4,
      cycles=3,
      student_steps=2,
      batch_size=16,
      z_dim=4,
      gate=0.3,
    ),
    reads="nothing",
    soft_request=False,
    slow=True,
  ),
  _classes(
    ju.bad_teacher,
    lambda m: ju.bad_teacher(m, num_steps=5, batch_size=16),
    soft_request=False,
  ),
  _row(
    worlds.targets,
    ju.blindspot,
    lambda m: ju.blindspot(
      m, attention=0.0, blind_steps=3, num_steps=5, batch_size=8
    ),
    soft_request=False,
  ),
  _row(
    worlds.targets,
    ju.gaussian_amnesiac,
    lambda m: ju.gaussian_amnesiac(m, num_steps=5, batch_size=8),
    soft_request=False,
  ),
  _classes(
    attacks.relearning,
    lambda m: attacks.relearning(m, **STEPS),
    reads="forget",
    slow=True,
  ),
]

GRAPHS = [
  _row(
    worlds.edges,
    graph.unlink,
    graph.unlink,
    keyless=True,
    moves=False,
  ),
  _row(
    worlds.edges,
    graph.retrain,
    lambda t: graph.retrain(t, optimizer=ADAM, num_steps=4),
    slow=True,
  ),
  _row(
    worlds.nodes,
    graph.retrain,
    lambda t: graph.retrain(t, optimizer=ADAM, num_steps=4),
    "nodes",
    slow=True,
  ),
  _row(
    worlds.edges,
    graph.gradient_ascent,
    lambda t: graph.gradient_ascent(t, num_steps=3),
    keyless=True,
  ),
  _row(
    worlds.edges,
    graph.descent_to_delete,
    lambda t: graph.descent_to_delete(t, num_steps=3, noise_scale=0.01),
    slow=True,
  ),
  _row(worlds.edges, graph.d2dgn, lambda t: graph.d2dgn(t, num_steps=4)),
  _row(
    worlds.nodes,
    graph.d2dgn,
    lambda t: graph.d2dgn(t, num_steps=4),
    "nodes",
    slow=True,
  ),
  _row(
    worlds.edges,
    graph.d2dgn,
    lambda t: graph.d2dgn(
      t, num_steps=4, knowledge="feature", student_init="random"
    ),
    "feature",
    slow=True,
  ),
  _row(
    worlds.edges,
    graph.d2dgn,
    lambda t: graph.d2dgn(
      t,
      num_steps=4,
      knowledge="feature",
      feature_loss="kl",
      destroyer="non_edges",
      destroyer_steps=3,
    ),
    "non_edges",
    slow=True,
  ),
  _row(
    worlds.edges,
    graph.gnndelete,
    lambda t: graph.gnndelete(t, num_steps=4),
    moves=False,
    keeps_state=False,
    soft_request=False,
  ),
  _row(
    worlds.nodes,
    graph.gnndelete,
    lambda t: graph.gnndelete(t, num_steps=4),
    "nodes",
    moves=False,
    keeps_state=False,
    soft_request=False,
    slow=True,
  ),
]

FEW = {"optimizer": ADAM, "num_steps": 4, "batch_size": 64}


def _users(factory, build, variant="", **flags):
  return _row(worlds.interactions, factory, build, variant, **flags)


RECOMMENDERS = [
  _users(recsys.mmrecun, lambda m: recsys.mmrecun(m, **FEW)),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, schedule="alternate", **FEW),
    "alternate",
    slow=True,
  ),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, schedule="sequential", **FEW),
    "sequential",
    slow=True,
  ),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, graph="full", **FEW),
    "full_graph",
    slow=True,
  ),
  _users(recsys.retrain, lambda m: recsys.retrain(m, **FEW), slow=True),
  _users(recsys.finetune, lambda m: recsys.finetune(m, **FEW), slow=True),
  _users(recsys.reverse_only, lambda m: recsys.reverse_only(m, **FEW)),
  _users(
    recsys.gradient_ascent,
    lambda m: recsys.gradient_ascent(m, **FEW),
    slow=True,
  ),
  _users(
    recsys.amnesiac,
    lambda m: recsys.amnesiac(m, **FEW),
    soft_request=False,
    slow=True,
  ),
  _users(
    recsys.unlink,
    lambda m: recsys.unlink(),
    keyless=True,
    requestless=True,
    moves=False,
    identity=True,
  ),
  _row(
    worlds.shards,
    recsys.receraser,
    lambda m: recsys.receraser(
      m, worlds.shard(), worlds.SHARDS, **worlds.SHARD_STEPS
    ),
    soft_request=False,
    slow=True,
  ),
]

CONCEPT, OTHER = tiny_attention.CONCEPT, tiny_attention.OTHER
RETAIN = tiny_attention.RETAIN
# No row is read: the concept comes as prompts.
BY_CONCEPT = {"requestless": True, "reads": "nothing"}
SGD = optax.sgd(0.05)


def _prompts(factory, build, variant="", **flags):
  return _row(worlds.prompts, factory, build, variant, **flags)


PROMPTED = [
  _prompts(
    diffusion.esd,
    lambda d: diffusion.esd(
      d,
      CONCEPT,
      optimizer=SGD,
      num_steps=3,
      batch_size=8,
      sampler_steps=3,
    ),
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.concept_ablation,
    lambda d: diffusion.concept_ablation(
      d,
      CONCEPT,
      OTHER,
      optimizer=ADAM,
      num_images=6,
      sampler_steps=3,
      batch_size=8,
      num_steps=3,
    ),
    **BY_CONCEPT,
  ),
  _row(
    worlds.kernels,
    diffusion.uce,
    lambda d: diffusion.uce(d, CONCEPT, OTHER, preserve_tokens=RETAIN),
    keyless=True,
    devices=False,  # It has no batch.
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.forget_me_not,
    lambda d: diffusion.forget_me_not(
      d,
      CONCEPT[0],
      jnp.arange(tiny_attention.LENGTH) == 1,
      optimizer=ADAM,
      num_steps=3,
      batch_size=8,
      inversion_steps=2,
    ),
    reads="forget",
  ),
  _prompts(
    diffusion.salun,
    lambda d: diffusion.salun(
      d,
      diffusion.replace_words(jnp.arange(8).at[2].set(4)),
      optimizer=ADAM,
      num_steps=3,
      batch_size=8,
    ),
    slow=True,
  ),
  _prompts(
    diffusion.sfd,
    lambda d: diffusion.sfd(
      d,
      CONCEPT,
      OTHER,
      retain_tokens=RETAIN,
      optimizer=ADAM,
      fake_optimizer=ADAM,
      num_steps=3,
      batch_size=8,
      forget_weight=1.0,
      ema_decay=0.5,
    ),
    slow=True,
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.adv_unlearn,
    lambda d: diffusion.adv_unlearn(
      d,
      CONCEPT,
      RETAIN,
      optimizer=ADAM,
      num_steps=4,
      warm_up=1,
      batch_size=8,
      retain_batch_size=3,
      num_tokens=2,
      attack_steps=2,
      num_images=8,
      sampler_steps=3,
    ),
    devices=False,  # A batch of three does not fall into eight parts.
    slow=True,
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.doco,
    lambda d: diffusion.doco(
      d,
      CONCEPT,
      OTHER,
      optimizer=ADAM,
      num_steps=5,
      warm_up=2,
      batch_size=8,
      num_images=4,
      sampler_steps=2,
    ),
    slow=True,
    **BY_CONCEPT,
  ),
]

CASES: list[Case] = [*CLASSIFIERS, *GRAPHS, *RECOMMENDERS, *PROMPTED]

# Public functions that return a part and no method, with the reason why no row
# stands for them.
PARTS: dict[Callable, str] = {
  **dict.fromkeys(
    (
      combinators.chain,
      combinators.edit,
      combinators.masked,
      combinators.provide,
      combinators.repeat,
      phase.phase,
      recording.record,
      recording.repeat_with_curve,
    ),
    "what methods are made of; tests/core",
  ),
  classes.provide_classes: "a link of unsir, zero_shot_noise and gkt",
  relabel.mixed: "random_label and salun",
  relabel.sequential: "random_label and salun",
  training.fitting: "retrain",
  unsir.learn_noise: "unsir",
  unsir.impair: "unsir",
  unsir.repair: "unsir",
  zero_shot.learn_noise: "zero_shot_noise",
  zero_shot.train_on_noise: "zero_shot_noise",
  graph_training.fitting: "graph.retrain",
  recsys_objectives.with_graph: "recsys.mmrecun",
  recsys_objectives.with_history: "recsys.mmrecun",
  recsys_objectives.fitting: "recsys.retrain",
  diffusion_training.fitting: "diffusion.train; tests/diffusion",
}
