"""The attacks of an audit: every model of a study under every attack.

All models of a method (a lane is a seed) are attacked by one compiled program,
which all methods share. Two attacks need other models: LiRA and RMIA compare
with shadow models on random parts of all rows, U-LiRA with models that were
retrained without the request.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments import study
from jaxunlearn import attacks, metrics
from jaxunlearn.core import checks
from jaxunlearn.core.reduction import all_finite

QUANTIZED_BITS = 4
MIN_SHADOWS = 4
MIN_MODELS = 4  # Of a method, for U-LiRA: two to fit, two to attack.
PER_EXAMPLE_FROM = 16  # Models on each side that a variance a row wants.
_PROBE_SIZE = 1024  # A layer of more numbers is not probed.
# Seed 0's key is folded with these; `study` and `relearning` take 0 to 4.
_SHADOWS = 5


class Setup(NamedTuple):
  """What all models are attacked with.

  Attributes:
    study: a study of a single request.
    whole_classes: whether the request is a union of classes. Then test rows of
      these classes show what a model knows of them; otherwise it is shown by
      the forgotten rows themselves.
    layers: names of the activations that are probed; none where the model does
      not give them.
    pool: {"x", "label"}, the training rows and then the test rows, P together.
    forget: bool [P], the rows of the request.
    unseen: bool [P], test rows to compare them with, of the same classes where
      whole classes are forgotten.
    shadow_signals: (statistic [S, P, 1], probability [S, P, 1]) of the label.
    shadow_masks: bool [S, P].
  """

  study: study.Study
  whole_classes: bool
  layers: tuple[str, ...]
  pool: Any
  forget: jax.Array
  unseen: jax.Array
  shadow_signals: tuple[jax.Array, jax.Array]
  shadow_masks: jax.Array


class Attacked(NamedTuple):
  """What the attacks found, a lane (seed) each.

  Attributes:
    values: name -> float [L].
    statistics: float [L, P], logit-scaled confidence of the pool's rows.
    lira: float [L, P], scores.
  """

  values: dict[str, np.ndarray]
  statistics: np.ndarray
  lira: np.ndarray


class Told(NamedTuple):
  """How well a method's models are told from retrained ones, by U-LiRA.

  Attributes:
    member_scores: float [L, F], of unlearned models; nan for a seed of which
      either model diverged.
    other_scores: float [L, F], of retrained models.
    auc: float [L], how well the two models of a seed are told apart, by its
      forgotten rows; nan for a seed that was left out.
    forgetting_quality: the 2023 challenge's F.
    epsilon: its median over the rows.
  """

  member_scores: np.ndarray
  other_scores: np.ndarray
  auc: np.ndarray
  forgetting_quality: float
  epsilon: float


class DivergedError(ValueError):
  """The models that others are held against are no models."""


def check_trained(name: str, variables: Any, learning_rate: float) -> None:
  """Two models at least must be finite: what all others are held against.

  Args:
    name: of the models.
    variables: leaves [L, ...].
    learning_rate: to name in the error.

  Raises:
    DivergedError: there are fewer.
  """
  finite = np.asarray(jax.vmap(all_finite)(variables))
  if finite.sum() < 2:
    raise DivergedError(
      f"Expected two {name} models at least that did not diverge, got "
      f"{int(finite.sum())} of {len(finite)} with learning rate "
      f"{learning_rate:g}; a lower --learning-rate may help."
    )


def prepare(this: study.Study, num_shadows: int) -> Setup:
  """Trains shadow models on as large a part of the pool as the target's."""
  pool = jax.tree.map(
    lambda train, test: jnp.concatenate([train, test]), this.train, this.test
  )
  num_train, num_rows = this.masks.shape[1], checks.num_rows(pool)
  members = round(num_shadows * num_train / num_rows)
  members = min(max(members, 2), num_shadows - 2)
  mask_key, train_key = jax.random.split(_key(_SHADOWS))
  masks = attacks.shadow_masks(
    mask_key, num_shadows, num_rows, members / num_shadows
  )
  model, recipe = this.access.model, this.access.recipe.kwargs()

  @jax.jit
  def train_shadows(pool, masks, keys):
    statistic = attacks.train_shadows(
      model, pool, masks, keys, strategy=this.strategy, **recipe
    )
    return statistic, jax.nn.sigmoid(statistic)  # p / (1 - p) is its exp.

  of_classes = this.test_masks[0, 0]
  whole_classes = bool(of_classes.any())
  nowhere = jnp.zeros(num_rows - num_train, bool)
  unseen = of_classes if whole_classes else ~nowhere
  return Setup(
    this,
    whole_classes,
    _probed_layers(this),
    pool,
    jnp.concatenate([this.masks[0], nowhere]),
    jnp.concatenate([jnp.zeros(num_train, bool), unseen]),
    train_shadows(pool, masks, jax.random.split(train_key, num_shadows)),
    masks,
  )


def attack(
  setup: Setup, models: Mapping[str, Any]
) -> Iterator[tuple[str, Attacked]]:
  """Attacks models with leaves [L, ...], one name after the other.

  Args:
    setup: see `Setup`.
    models: name -> variables.
  """

  @jax.jit
  def program(variables, shadows, masks, *arrays):
    one = _attack_one(setup, shadows, masks, *arrays)
    return ju.map_many(one, variables, strategy=setup.study.strategy)

  arrays = setup.pool, setup.forget, setup.unseen
  for name, variables in models.items():
    found = program(
      variables, setup.shadow_signals, setup.shadow_masks, *arrays
    )
    values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
    yield name, Attacked(*values)


def tell_apart(
  setup: Setup, unlearned: Attacked, retrained: Attacked
) -> Told | None:
  """U-LiRA for the request at hand: is a model unlearned or retrained?

  Two normals a forgotten row, fitted to the models of every other seed and
  tried on the others, and the other way round: a model and the retrained one of
  its seed share their start and never stand on both sides.

  Returns:
    None where there are fewer than `MIN_MODELS` seeds whose models are both
    finite.
  """
  rows = np.flatnonzero(np.asarray(setup.forget))
  every = np.stack(
    [unlearned.statistics[:, rows], retrained.statistics[:, rows]]
  )
  usable = np.flatnonzero(np.isfinite(every).all(axis=(0, 2)))
  count = len(usable)
  if count < MIN_MODELS:
    return None
  both = jnp.asarray(every[:, usable], jnp.float32)[..., None]
  variance = "per_example" if count // 2 >= PER_EXAMPLE_FROM else "fixed"
  scores, auc, quality, epsilon = _two_fold(both, variance)
  found, area = np.full(every.shape, np.nan), np.full(every.shape[1], np.nan)
  found[:, usable], area[usable] = scores, np.asarray(auc)
  return Told(
    found[0],
    found[1],
    area,
    float(quality),
    float(epsilon),
  )


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


def _attack_one(setup, shadows, shadow_masks, pool, forget, unseen):
  """`variables -> ` the fields of `Attacked`."""
  this = setup.study
  model, num_train = this.access.model, this.masks.shape[1]
  knowledge = _knowledge(setup, pool, forget, unseen)
  # Rows that a read-out is fitted on and rows that it is judged by.
  is_train = jnp.arange(len(forget)) < num_train
  fit, judged = is_train & ~forget, forget
  if setup.whole_classes:
    fit, judged = is_train, unseen

  def one(variables):
    logits = ju.predict(model, variables, pool["x"])
    statistic = metrics.logit_confidence(logits, pool["label"])
    lira = attacks.lira_scores(
      statistic[:, None], shadows[0], shadow_masks, variance="fixed"
    )
    chance = jax.nn.sigmoid(statistic)[:, None]
    rmia = attacks.rmia_scores(
      chance,
      chance[num_train:],
      shadows[1],
      shadow_masks,
      shadows[1][:, num_train:],
    )
    scores = {"loss": -model.loss(logits, pool), "lira": lira, "rmia": rmia}
    values = {}
    for name, score in scores.items():
      found = attacks.attack_summary(score, score, forget, unseen)
      values[f"{name}_auc"] = found.auc
      values[f"{name}_tpr_1_percent"] = found.tpr_at_1_percent_fpr
    rounded = attacks.quantize(variables.params, QUANTIZED_BITS)
    values |= {
      "knowledge": knowledge(variables),
      "quantized_knowledge": knowledge(variables._replace(params=rounded)),
    }
    if setup.layers:
      probes = attacks.probe_model(
        model,
        variables,
        pool,
        fit,
        judged,
        layers=setup.layers,
        num_classes=this.access.num_classes,
      )
      accuracies = [probe.accuracy for probe in probes.values()]
      values["probe_accuracy"] = jnp.stack(accuracies).max()
    return values, statistic, lira

  return one


def _knowledge(setup, pool, forget, unseen):
  """What a model knows of the request, in [0, 1]: a function of variables.

  Accuracy on unseen rows of the forgotten classes, or the mean probability of
  the label of the forgotten rows.
  """
  model = setup.study.access.model

  def knowledge(variables):
    logits = ju.predict(model, variables, pool["x"])
    if setup.whole_classes:
      return metrics.accuracy(logits, pool["label"], unseen)
    confidence = metrics.confidence(logits, pool["label"])
    return jnp.where(forget, confidence, 0).sum() / forget.sum()

  return knowledge


def _probed_layers(this: study.Study) -> tuple[str, ...]:
  """Inner activations that are small enough."""
  model = this.access.model
  if model.features is None:
    return ()

  def shapes(inputs):
    variables = model.init(jax.random.key(0), inputs)
    return model.features(variables, inputs), model.predict(variables, inputs)

  row = jax.tree.map(lambda x: x[:1], this.train["x"])
  found, output = jax.eval_shape(shapes, row)
  return tuple(
    name
    for name, leaf in found.items()
    if math.prod(leaf.shape) <= _PROBE_SIZE and leaf.shape != output.shape
  )


def _key(number: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(0), number)
