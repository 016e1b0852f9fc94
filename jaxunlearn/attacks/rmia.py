"""RMIA: was a row trained on, by its likelihood against that of other rows?

The signal of a row (the probability of its label) over its mean under reference
models is a ratio; the score of a row is the share of population rows whose ratio
it beats by a factor of gamma. A few reference models are enough, since no
variance is fitted. HIGH speaks for membership.

Source: Zarifzadeh, Liu & Shokri (2024), arXiv:2312.03262.
Data access: signals only, of the rows and of population rows that no model was
trained on; `shadow.train_shadows` with `RowQueries(statistic=metrics.confidence)` gives both.
Differences: the paper takes ">=", the authors' tool ">" (`strict=True`); of the
references of population rows the tool takes the larger half only
(`population_references="largest"`). Augmented queries are scored one by one and
averaged. Only ratios count, so signals are probabilities, not logits.
Cost: O((N + Z) log Z) for N rows and Z population rows, beside the means.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks import _normals
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.training import map_many
from jaxunlearn.metrics import _rows, separation_auc

MODES = ("online", "offline")
REFERENCES = ("all", "largest")


def rmia_scores(
  target_signals: jax.Array,
  target_population: jax.Array,
  shadow_signals: jax.Array,
  shadow_masks: jax.Array,
  shadow_population: jax.Array,
  *,
  mode: str = "online",
  gamma: float | jax.Array = 1.0,
  offline_a: float | jax.Array = 0.33,
  strict: bool = False,
  population_references: str = "all",
) -> jax.Array:
  """Share of population rows z with ratio(x) / ratio(z) >= gamma.

  ratio(x) is the signal of x under the target over its reference: online, the
  mean of its means over IN and over OUT models; offline `((1 + a) * mean OUT +
  1 - a) / 2`, which takes `a * OUT + 1 - a` for what IN models would say.

  Args:
    target_signals: float [N, A] or [T, N, A], >= 0, under the targets.
    target_population: float [Z, A] or [T, Z, A], of the population rows.
    shadow_signals: float [S, N, A], under the reference models.
    shadow_masks: bool [S, N], True = the model was trained on the row.
    shadow_population: float [S, Z, A]; no model was trained on those rows.
    mode: static, "online" or "offline".
    gamma: > 0; may be traced.
    offline_a: in [0, 1]; 1 takes IN for OUT. 0.33 was used for CIFAR-10, 0.6
      for CIFAR-100, 0.2 for tables; see `tune_offline_a`. May be traced.
    strict: static; ">" for ">=".
    population_references: static, "all" reference models or the "largest"
      half of the signals of each population row.

  Returns:
    [N] or [T, N], in [0, 1]; nan in rows without IN or OUT models under jit.

  Raises:
    ValueError: shapes that do not match, unknown options, gamma <= 0; with
      values at hand: nan, infinite or negative signals, a row without IN or OUT
      model.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> target = jnp.array([[0.9], [0.2]])  # Two rows, a query each.
    >>> population = jnp.array([[0.5], [0.5]])
    >>> shadows = jnp.full((2, 2, 1), 0.5)
    >>> masks = jnp.array([[True, False], [False, True]])
    >>> scores = attacks.rmia_scores(
    ...   target, population, shadows, masks, shadows)
    >>> scores.tolist()
    [1.0, 0.0]
  """
  signals, masks, population = _shadows(
    shadow_signals, shadow_masks, shadow_population
  )
  _check_options(mode, gamma, offline_a, population_references)
  target = _signals(target_signals, "target_signals")
  others = _signals(target_population, "target_population")
  for name, x, like in (
    ("target_signals", target, signals),
    ("target_population", others, population),
  ):
    if x.ndim not in (2, 3) or x.shape[-2:] != like.shape[1:]:
      raise ValueError(
        f"Expected {name} of shape {like.shape[1:]} or [T, ...] of it, that of "
        f"the shadows, got {x.shape}."
      )
  if target.shape[:-2] != others.shape[:-2]:
    raise ValueError(
      "Expected target_population of as many targets as target_signals "
      f"{target.shape}, got {others.shape}."
    )
  if mode == "online":
    _normals.enough_models(masks, 1, "IN")
  _normals.enough_models(masks, 1, "OUT", member=False)
  every = jnp.ones(signals.shape[0], bool)
  reference = _reference(signals, masks, every, mode, offline_a)
  z_reference = _population_reference(
    population, every, signals.shape[0], mode, offline_a, population_references
  )
  return _share_beaten(
    _ratio(target, reference), _ratio(others, z_reference), gamma, strict
  )


def rmia_leave_one_out(
  signals: jax.Array,
  masks: jax.Array,
  population: jax.Array,
  *,
  mode: str = "online",
  gamma: float | jax.Array = 1.0,
  offline_a: float | jax.Array = 0.33,
  strict: bool = False,
  population_references: str = "all",
  strategy: str | int = "map",
) -> jax.Array:
  """Every model in turn as the target, the others as its references.

  Args:
    signals: float [S, N, A], >= 0.
    masks: bool [S, N].
    population: float [S, Z, A].
    mode: as of `rmia_scores`, as are the rest.
    gamma: see `rmia_scores`.
    offline_a: see `rmia_scores`.
    strict: see `rmia_scores`.
    population_references: see `rmia_scores`.
    strategy: see `core.training.map_many`. A target reads all signals, so that
      one after the other is as fast on a CPU.

  Returns:
    [S, N]: row s holds the scores under model s, whose members are `masks[s]`.

  Raises:
    ValueError: as `rmia_scores`; a row needs one model more on either side.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> masks = jnp.array([[True], [True], [False], [False]])
    >>> signals = jnp.where(masks, 0.9, 0.3)[..., None]
    >>> population = jnp.full((4, 5, 1), 0.5)
    >>> scores = attacks.rmia_leave_one_out(signals, masks, population)
    >>> scores.ravel().tolist()
    [1.0, 1.0, 0.0, 0.0]
  """
  signals, masks, population = _shadows(signals, masks, population)
  _check_options(mode, gamma, offline_a, population_references)
  if mode == "online":
    _normals.enough_models(masks, 2, "IN")
  _normals.enough_models(masks, 2, "OUT", member=False)
  count = signals.shape[0]

  def one(model: jax.Array) -> jax.Array:
    others = jnp.arange(count) != model
    reference = _reference(signals, masks, others, mode, offline_a)
    z_reference = _population_reference(
      population, others, count - 1, mode, offline_a, population_references
    )
    return _share_beaten(
      _ratio(signals[model], reference),
      _ratio(population[model], z_reference),
      gamma,
      strict,
    )

  return map_many(one, jnp.arange(count), strategy=strategy)


def tune_offline_a(
  target_signals: jax.Array,
  target_mask: jax.Array,
  target_population: jax.Array,
  shadow_signals: jax.Array,
  shadow_masks: jax.Array,
  shadow_population: jax.Array,
  candidates: jax.Array | None = None,
  **options: Any,
) -> jax.Array:
  """The `offline_a` with which the attack on a model of one's own does best.

  Args:
    target_signals: float [N, A], of a model whose members are known: a shadow
      that is none of the references.
    target_mask: bool [N], its members.
    target_population: float [Z, A].
    shadow_signals: see `rmia_scores`.
    shadow_masks: see `rmia_scores`.
    shadow_population: see `rmia_scores`.
    candidates: float [K]; 0, 0.1, ..., 1 by default.
    **options: gamma, strict and population_references of `rmia_scores`.

  Returns:
    float [], the first candidate of the largest AUC.

  Raises:
    ValueError: as `rmia_scores`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> target = jnp.array([[0.9], [0.2]])
    >>> masks = jnp.array([[True, False], [False, True]])
    >>> shadows = jnp.full((2, 2, 1), 0.5)
    >>> found = attacks.tune_offline_a(
    ...   target, jnp.array([True, False]), target, shadows, masks, shadows)
    >>> float(found)
    0.0
  """
  if candidates is None:
    candidates = jnp.arange(11) / 10

  def auc(a: jax.Array) -> jax.Array:
    scores = rmia_scores(
      target_signals,
      target_population,
      shadow_signals,
      shadow_masks,
      shadow_population,
      mode="offline",
      offline_a=a,
      **options,
    )
    return separation_auc(scores, scores, target_mask, ~target_mask)

  return candidates[jnp.argmax(jax.lax.map(auc, candidates))]


def taylor_confidence(
  logits: jax.Array,
  labels: jax.Array,
  *,
  temperature: float | jax.Array = 2.0,
  margin: float | jax.Array = 0.6,
) -> jax.Array:
  """The signal of the paper: a softmax with 1 + v + v^2/2 + v^3/6 for exp(v).

  v is a logit over the temperature; of the label's the margin is taken off,
  above and below the line (SM-Taylor softmax). It saturates less than the
  softmax. A `statistic` for `shadow.train_shadows` through `functools.partial`.

  Args:
    logits: float [..., C].
    labels: int [...], in 0 .. C - 1.
    temperature: > 0; 1 was used for CIFAR-100. May be traced.
    margin: of the label, in units of v. May be traced.

  Returns:
    [...], in [0, 1]. The cubic is negative below v = -1.6: it counts as 0
    there, where published code goes on to negative "probabilities".

  Raises:
    ValueError: shapes do not match, labels out of range, temperature <= 0.
  """
  checks.positive(temperature=temperature)
  logits = _rows.widened(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  v = logits / temperature
  v = jnp.where(is_label, v - margin, v)
  weight = jnp.maximum(1 + v * (1 + v / 2 * (1 + v / 3)), 0)
  total = weight.sum(axis=-1)
  share = weight / jnp.where(total > 0, total, 1)[..., None]
  return _rows.at_label(share, labels)


def _reference(
  signals: jax.Array,
  masks: jax.Array,
  counted: jax.Array,
  mode: str,
  a: float | jax.Array,
) -> jax.Array:
  """The reference of each row [N, A] over the models that count [S]."""

  def mean(use: jax.Array) -> jax.Array:
    count = use.sum(axis=0)[..., None]
    total = jnp.where(use[..., None], signals, 0).sum(axis=0)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)

  outside = mean(~masks & counted[:, None])
  if mode == "offline":
    return ((1 + a) * outside + (1 - a)) / 2
  return (mean(masks & counted[:, None]) + outside) / 2


def _population_reference(
  signals: jax.Array,
  counted: jax.Array,
  count: int,
  mode: str,
  a: float | jax.Array,
  references: str,
) -> jax.Array:
  """The reference of each population row [Z, A]; all `count` models are OUT."""
  use = counted[:, None, None]
  if references == "largest":
    half = max(count // 2, 1)
    ordered = jnp.moveaxis(jnp.where(use, signals, -jnp.inf), 0, -1)
    mean = jax.lax.top_k(ordered, half)[0].mean(axis=-1)
  else:
    mean = jnp.where(use, signals, 0).sum(axis=0) / count
  return mean if mode == "online" else ((1 + a) * mean + (1 - a)) / 2


def _ratio(signals: jax.Array, reference: jax.Array) -> jax.Array:
  """signals / reference, 1 where both are 0."""
  tiny = jnp.finfo(signals.dtype).tiny
  reference = reference.reshape((1,) * (signals.ndim - 2) + reference.shape)
  return jnp.maximum(signals, tiny) / jnp.maximum(reference, tiny)


def _share_beaten(
  ratio: jax.Array,
  population: jax.Array,
  gamma: float | jax.Array,
  strict: bool,
) -> jax.Array:
  """Scores [..., N] from ratios [..., N, A] and [..., Z, A]."""
  side = "left" if strict else "right"

  def one(x: jax.Array, z: jax.Array) -> jax.Array:
    beaten = jnp.searchsorted(jnp.sort(z), x / gamma, side=side)
    share = beaten / z.shape[0]
    return jnp.where(jnp.isnan(x), jnp.nan, share)

  over_queries = jax.vmap(one, in_axes=(-1, -1), out_axes=-1)
  if ratio.ndim == 3:
    over_queries = jax.vmap(over_queries)
  return over_queries(ratio, population).mean(axis=-1)


def _signals(x: Any, name: str, ndim: int | None = None) -> jax.Array:
  signals = _normals.floats(x, name, ndim)
  if checks.is_concrete(signals) and (np.asarray(signals) < 0).any():
    raise ValueError(
      f"Expected {name} >= 0, such as probabilities, got {signals.min():.3g}."
    )
  return signals


def _shadows(
  signals: Any, masks: Any, population: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
  signals = _signals(signals, "shadow_signals", 3)
  masks = _normals.mask_of(masks, signals, "shadow_masks")
  population = _signals(population, "shadow_population", 3)
  wanted = "shadow_signals [S, N, A] and shadow_population [S, Z > 0, A]"
  shaped(wanted, signals, population)
  return signals, masks, population


def _check_options(
  mode: str,
  gamma: float | jax.Array,
  offline_a: float | jax.Array,
  population_references: str,
) -> None:
  checks.one_of(MODES, mode=mode)
  checks.positive(gamma=gamma)
  checks.fraction(offline_a=offline_a)
  checks.one_of(REFERENCES, population_references=population_references)
