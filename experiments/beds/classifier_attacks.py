"""The attacks of an audit: every model under every attack.

Two attacks need other models: LiRA and RMIA compare with shadow models on random
parts of all rows, U-LiRA with models that were retrained without the request.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import attacks, metrics, report
from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.report.taxonomy import FINE_TUNING, WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from ..bench import RETRAINED, Bed, Case, Evidence, Measure, Rule, lanes

QUANTIZED_BITS = 4
MIN_MODELS = 4  # Of a method, for U-LiRA: two to fit, two to attack.
PER_EXAMPLE_FROM = 16  # Models on each side that a variance a row wants.
_PROBE_SIZE = 1024  # A layer of more numbers is not probed.
_TOLD = ("u_lira_members", "u_lira_others")

RULES = (
  Rule("forget_accuracy", 0.05, TRACE, TELLTALE),
  Rule("retain_accuracy", 0.02, NOTHING, DAMAGE),
  Rule("test_accuracy", 0.02, NOTHING, DAMAGE),
)
ATTACK_RULES = (
  Rule("lira_auc", 0.05, TRACE, TELLTALE, threat=WHITE_BOX),
  Rule("rmia_auc", 0.05, TRACE, TELLTALE, threat=WHITE_BOX),
  Rule("loss_auc", 0.05, TRACE, TELLTALE, threat=WHITE_BOX),
  Rule("relearn_area", 0.05, TRACE, TELLTALE, threat=FINE_TUNING),
  Rule("quantized_knowledge", 0.05, TRACE, threat=WHITE_BOX),
  Rule("probe_accuracy", 0.05, TRACE, threat=WHITE_BOX),
  Rule("u_lira_auc", 0.1, TELLTALE, above_original=TRACE, threat=WHITE_BOX),
)

ATTACKED = (
  report.Metric(
    "lira_auc",
    "LiRA AUC",
    "How often LiRA, a likelihood-ratio attack with shadow models, takes a "
    "forgotten row for a member rather than an unseen one.",
    headline=True,
  ),
  report.Metric(
    "lira_tpr_1_percent",
    "LiRA TPR at 1 % FPR",
    "Share of the forgotten rows that LiRA finds while it takes one unseen row "
    "in a hundred for a member.",
    "%",
    1,
  ),
  report.Metric(
    "rmia_auc",
    "RMIA AUC",
    "The same by RMIA, which compares with other rows as well.",
  ),
  report.Metric(
    "rmia_tpr_1_percent",
    "RMIA TPR at 1 % FPR",
    "The same by RMIA.",
    "%",
    1,
  ),
  report.Metric(
    "loss_auc",
    "Loss AUC",
    "How often a forgotten row has a lower loss than an unseen one.",
  ),
  report.Metric(
    "loss_tpr_1_percent", "Loss TPR at 1 % FPR", "The same by the loss.", "%", 1
  ),
  report.Metric(
    "knowledge",
    "Knowledge",
    "Accuracy on unseen rows of the forgotten classes; for other requests the "
    "mean probability of the label of the forgotten rows.",
  ),
  report.Metric(
    "quantized_knowledge",
    f"Knowledge at {QUANTIZED_BITS} bits",
    "The same after the weights are rounded, which can undo small changes.",
  ),
  report.Metric(
    "probe_accuracy",
    "Linear probe",
    "Accuracy of the best linear read-out of an inner layer on forgotten "
    "classes or rows. A retrained model's layers tell unseen classes apart too.",
    "%",
    1,
  ),
)
FOUND_LATER = (
  report.Metric(
    "u_lira_auc",
    "U-LiRA AUC",
    "How often an attacker with models of both kinds can tell from one "
    "forgotten row that the model was unlearned, not retrained; 0.5 is best.",
    headline=True,
  ),
  report.Metric(
    "forgetting_quality",
    "Forgetting quality",
    "The score of the 2023 unlearning challenge, before it is multiplied by "
    "accuracies. Its scale depends on the number of models: compare with the "
    "row of the model that was retrained again.",
    direction=report.HIGHER,
  ),
  report.Metric(
    "epsilon",
    "Median epsilon",
    "Of the forgotten rows: how far the models of both kinds can be told apart, "
    "as in differential privacy. Bounded by the number of models.",
    "",
    2,
  ),
  report.Metric(
    "relearn_area",
    "Relearning curve",
    "What the model knows of the rows on average while it learns them again.",
  ),
)


class Shadows(NamedTuple):
  """Shadow models, as what they say of the label of each row.

  Attributes:
    statistics: float [S, P, 1], of the training and then the test rows.
    population: float [S, Z, 1], of rows that no model was trained on.
    masks: bool [S, P], the rows that each was trained on.
  """

  statistics: jax.Array
  population: jax.Array
  masks: jax.Array


class Told(NamedTuple):
  """How well a method's models are told from retrained ones, by U-LiRA.

  Attributes:
    members: float [L, F], scores of unlearned models; nan for a seed of which
      either model diverged.
    others: float [L, F], of retrained models.
    auc: float [L], how well the two models of a seed are told apart, by its
      forgotten rows; nan for a seed that was left out.
    forgetting_quality: the 2023 challenge's F.
    epsilon: its median over the rows.
  """

  members: np.ndarray
  others: np.ndarray
  auc: np.ndarray
  forgetting_quality: float
  epsilon: float


def measure(
  rules: Sequence[Any], num_shadows: int, single: Sequence[str], strategy: Any
) -> Measure:
  """All attacks as one measure.

  Args:
    rules: of its columns.
    num_shadows: S.
    single: methods with one model, which U-LiRA cannot attack.
    strategy: how shadow models share the device.
  """
  return Measure(
    (*ATTACKED, *FOUND_LATER),
    _attack,
    ("statistics", "lira", *_TOLD),
    functools.partial(_told_apart, tuple(single)),
    tuple(rules),
    fit_all=lanes.on_first(functools.partial(_shadows, num_shadows, strategy)),
  )


def pool_of(bed: Bed) -> Any:
  """The training rows and then the test rows, P together."""
  both = lambda train, test: jnp.concatenate([train, test])
  return jax.tree.map(both, bed.data, bed.test)


def _shadows(count: int, strategy: Any, bed: Bed, key: jax.Array) -> Shadows:
  """Models of as large a part of the pool as the target's."""
  pool, aside = pool_of(bed), bed.extra.aside
  num_train, num_rows = len(bed.data["label"]), checks.num_rows(pool)
  members = round(count * num_train / num_rows)
  members = min(max(members, 2), count - 2)
  masks = attacks.shadow_masks(
    derive(key, "masks"), count, num_rows, members / count
  )
  said = attacks.train_shadows(
    bed.model,
    pool,
    masks,
    jax.random.split(derive(key, "train"), count),
    jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pool, aside),
    strategy=strategy,
    **bed.recipe.fit._asdict(),
  )
  return Shadows(said[:, :num_rows], said[:, num_rows:], masks)


def _attack(case: Case) -> dict[str, Any]:
  bed, shadows = case.bed, case.fitted
  model, variables = bed.model, case.variables
  pool, aside = pool_of(bed), bed.extra.aside
  num_train = len(bed.data["label"])
  whole = case.marks.any()
  forget = jnp.concatenate([case.forget, jnp.zeros_like(case.marks)])
  unseen = jnp.concatenate(
    [jnp.zeros_like(case.forget), jnp.where(whole, case.marks, True)]
  )
  is_train = jnp.arange(len(forget)) < num_train
  knowledge = functools.partial(_knowledge, model, pool, forget, unseen, whole)
  logits = ju.predict(model, variables, pool["x"])
  statistic = metrics.logit_confidence(logits, pool["label"])
  population = metrics.logit_confidence(
    ju.predict(model, variables, aside["x"]), aside["label"]
  )
  lira = attacks.lira_scores(
    statistic[:, None], shadows.statistics, shadows.masks, variance="fixed"
  )
  chance = jax.nn.sigmoid  # p / (1 - p) is the statistic's exp.
  rmia = attacks.rmia_scores(
    chance(statistic)[:, None],
    chance(population)[:, None],
    chance(shadows.statistics),
    shadows.masks,
    chance(shadows.population),
  )
  scores = {"loss": -model.loss(logits, pool), "lira": lira, "rmia": rmia}
  found: dict[str, Any] = {"statistics": statistic, "lira": lira}
  for name, score in scores.items():
    summary = attacks.attack_summary(score, score, forget, unseen)
    found[f"{name}_auc"] = summary.auc
    found[f"{name}_tpr_1_percent"] = summary.tpr_at_1_percent_fpr
  rounded = attacks.quantize(variables.params, QUANTIZED_BITS)
  found["knowledge"] = knowledge(variables)
  found["quantized_knowledge"] = knowledge(variables._replace(params=rounded))
  layers = _probed_layers(model, bed.data["x"])
  if layers:
    # Rows that a read-out is fitted on, and rows that it is judged by.
    probes = attacks.probe_model(
      model,
      variables,
      pool,
      is_train & (whole | ~forget),
      jnp.where(whole, unseen, forget),
      layers=layers,
      num_classes=bed.extra.num_classes,
    )
    accuracies = [probe.accuracy for probe in probes.values()]
    found["probe_accuracy"] = jnp.stack(accuracies).max()
  return found


def _knowledge(model, pool, forget, unseen, whole, variables) -> jax.Array:
  """What a model knows of the request, in [0, 1]; see the metric."""
  logits = ju.predict(model, variables, pool["x"])
  right = metrics.accuracy(logits, pool["label"], unseen)
  confidence = metrics.confidence(logits, pool["label"])
  mean = jnp.where(forget, confidence, 0).sum() / forget.sum()
  return jnp.where(whole, right, mean)


def _probed_layers(model: ju.Model, x: Any) -> tuple[str, ...]:
  """Inner activations that are small enough."""
  if model.features is None:
    return ()

  def shapes(inputs):
    variables = model.init(jax.random.key(0), inputs)
    return model.features(variables, inputs), model.predict(variables, inputs)

  row = jax.tree.map(lambda leaf: leaf[:1], x)
  found, output = jax.eval_shape(shapes, row)
  return tuple(
    name
    for name, leaf in found.items()
    if math.prod(leaf.shape) <= _PROBE_SIZE and leaf.shape != output.shape
  )


def _told_apart(
  single: tuple[str, ...], evidence: Evidence, method: str
) -> dict[str, np.ndarray]:
  """Relearning as one number, and U-LiRA against the retrained models."""
  found = {name: f.values for name, f in evidence.found.items()}
  area = attacks.relearn_area(found[method]["relearn_curve"])
  columns = {"relearn_area": np.asarray(area)}
  lanes = len(area)
  rows = np.flatnonzero(evidence.plan.forget[0])
  ours, theirs = (
    found[name]["statistics"][:, rows] for name in (method, RETRAINED)
  )
  told = None if method in single else tell_apart(ours, theirs)
  if method == RETRAINED:  # Told from itself by guessing alone.
    columns["u_lira_auc"] = np.full(lanes, 0.5)
  elif told is None:
    later = ("u_lira_auc", "forgetting_quality", "epsilon")
    columns |= {name: np.full(lanes, np.nan) for name in later}
  else:
    columns |= {
      "u_lira_auc": told.auc,
      "forgetting_quality": np.full(lanes, told.forgetting_quality),
      "epsilon": np.full(lanes, told.epsilon),
      **dict(zip(_TOLD, (told.members, told.others))),
    }
  return columns


def tell_apart(unlearned: np.ndarray, retrained: np.ndarray) -> Told | None:
  """U-LiRA for the request at hand: is a model unlearned or retrained?

  Two normals a forgotten row, fitted to the models of every other seed and
  tried on the others, and the other way round: a model and the retrained one of
  its seed never stand on both sides.

  Args:
    unlearned: float [L, F], statistics of the forgotten rows by seed.
    retrained: float [L, F].

  Returns:
    None where there are fewer than `MIN_MODELS` seeds whose models are both
    finite.
  """
  every = np.stack([unlearned, retrained])
  usable = np.flatnonzero(np.isfinite(every).all(axis=(0, 2)))
  count = len(usable)
  if count < MIN_MODELS:
    return None
  both = jnp.asarray(every[:, usable], jnp.float32)[..., None]
  variance = "per_example" if count // 2 >= PER_EXAMPLE_FROM else "fixed"
  scores, auc, quality, epsilon = _two_fold(both, variance)
  found, area = np.full(every.shape, np.nan), np.full(every.shape[1], np.nan)
  found[:, usable], area[usable] = scores, np.asarray(auc)
  return Told(*found, area, float(quality), float(epsilon))


@functools.partial(jax.jit, static_argnames="variance")
def _two_fold(both, variance):
  """`tell_apart` of statistics [2, L, F, 1]; compiled once for all methods."""
  scores = jnp.zeros(both.shape[:-1])
  for fold in range(2):
    tried, fitted = both[:, fold::2], both[:, 1 - fold :: 2]
    references = fitted.reshape(-1, *fitted.shape[2:])
    is_unlearned = jnp.arange(len(references)) < fitted.shape[1]
    found = attacks.lira_scores(
      tried.reshape(-1, *tried.shape[2:]),
      references,
      jnp.broadcast_to(is_unlearned[:, None], references.shape[:2]),
      variance=variance,
    )
    scores = scores.at[:, fold::2].set(found.reshape(tried.shape[:-1]))
  auc = jax.vmap(attacks.auc)(*scores)
  quality = attacks.forgetting_quality(*both[..., 0])
  return scores, auc, quality.score, jnp.median(quality.epsilon)


def rows_of(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the forgotten and of the unseen rows, among all rows."""
  forget, gone = evidence.plan.forget[0], evidence.plan.requests.marks[0, 0]
  unseen = gone if gone.any() else np.ones_like(gone)
  return np.flatnonzero(forget), len(forget) + np.flatnonzero(unseen)
