"""How sure the numbers of an attack are: intervals and certified thresholds.

Three sources of doubt, three tools. `bootstrap` resamples rows, or whole target
models, in one compiled program, and works for any statistic. `tpr_interval`
gives exact binomial bounds of TPR and FPR at a threshold that was chosen on
other rows. `certified_threshold` chooses the threshold itself so that its FPR,
and not its estimate, is below a limit.

Class: `bootstrap` is asymptotic (percentile); the others are exact for rows
that are independent of each other given the model. They run on the host, with
SciPy. No data access but the scores.

Sources: exact binomial bounds, Clopper and Pearson (1934); low-FPR reporting,
Carlini et al. (2021), arXiv:2112.03570.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks import roc
from jaxunlearn.core import checks
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.shaped import arrays, shaped


class Interval(NamedTuple):
  """A statistic and its percentile interval, pytrees of one structure."""

  estimate: Any
  low: Any
  high: Any


@renamed(chunk_size="batch_size")
def bootstrap(
  key: jax.Array,
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
  *,
  statistic: Callable[..., Any] = roc.attack_summary,
  resample_rows: bool = False,
  num_samples: int = 1000,
  level: Any = 0.95,
  chunk_size: int = 50,
) -> Interval:
  """Percentile bootstrap interval of a statistic of the two groups.

  Scores [N] and [M]: rows are resampled within each group. Scores [T, N] and
  [T, M] of T target models: whole models are resampled and their rows pooled,
  since the scores of one model depend on each other; the number of clusters is
  T, and a small T makes a coarse interval. It speaks of other models and these
  very rows, whose luck all models share. With `resample_rows` the rows of each
  group are drawn as well, the same ones for all models: it then speaks of other
  rows of the kind too, and is wider.

  Args:
    key: PRNG key; the same key, the same bits.
    member_scores: float [N] or [T, N].
    other_scores: float [M] or [T, M].
    member_mask: bool, of the shape of `member_scores`; only rows that count
      are drawn.
    other_mask: bool, of the shape of `other_scores`.
    statistic: `(member_scores [N'], other_scores [M'], member_weights,
      other_weights) -> pytree`; weights are float32 counts.
    resample_rows: static; for [T, N] and [T, M], of which column j is the same
      row in all models. Of a column that is masked in a model that model's entry
      does not count.
    num_samples: static; replicates.
    level: float in (0, 1); may be traced.
    chunk_size: static; replicates at a time. Memory holds about
      chunk_size * 5 (N' + M') numbers.

  Returns:
    The statistic and the two ends. An end is nan where a replicate has no
    value.

  Raises:
    ValueError: as `roc.roc_curve`; ranks differ; masks that are no bool; fewer than
      two models; num_samples or chunk_size < 1; level outside (0, 1).

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> members, others = jnp.arange(20.0) + 10, jnp.arange(20.0)
    >>> found = attacks.bootstrap(
    ...   jax.random.key(0), members, others, statistic=attacks.auc,
    ...   num_samples=20)
    >>> float(found.estimate), bool(found.low < 0.875 < found.high)
    (0.875, True)
  """
  checks.counts(num_samples=num_samples, chunk_size=chunk_size)
  _check_level(level)
  shapes = [jnp.shape(member_scores), jnp.shape(other_scores)]
  clustered = len(shapes[0]) == 2
  if len(shapes[0]) not in (1, 2) or (
    len(shapes[1]) != len(shapes[0])
    or (clustered and (shapes[0][0] != shapes[1][0] or shapes[0][0] < 2))
  ):
    raise ValueError(
      "Expected scores [N] and [M], or [T, N] and [T, M] with T >= 2, got "
      f"shapes {shapes[0]} and {shapes[1]}."
    )
  masks = []
  for name, mask, shape in (
    ("member_mask", member_mask, shapes[0]),
    ("other_mask", other_mask, shapes[1]),
  ):
    mask = jnp.ones(shape, bool) if mask is None else mask
    mask = arrays(f"{name} bool {list(shape)}", mask)
    masks.append(mask)
  members, others, *weights = roc.groups_of(
    jnp.ravel(member_scores), jnp.ravel(other_scores), *map(jnp.ravel, masks)
  )
  orders = [jnp.argsort(weight == 0, stable=True) for weight in weights]

  def counts(draw_key, count):
    drawn = jax.random.randint(draw_key, (count,), 0, count)
    return jnp.zeros(count).at[drawn].add(1)

  def resampled(row_key, weight, order):
    drawn = jax.random.randint(
      row_key, weight.shape, 0, weight.sum().astype(int)
    )
    # As many draws count as there are rows that do.
    counted = jnp.arange(weight.size) < weight.sum()
    return (
      jnp.zeros_like(weight).at[order[drawn]].add(counted.astype(weight.dtype))
    )

  def replicate(sample_key):
    if clustered:
      model_key, *row_keys = jax.random.split(sample_key, 3)
      times = counts(model_key if resample_rows else sample_key, shapes[0][0])
      drawn_weights = []
      for mask, row_key in zip(masks, row_keys):
        weight = times[:, None] * mask
        if resample_rows:
          weight *= counts(row_key, mask.shape[1])[None]
        drawn_weights.append(weight.reshape(-1).astype(jnp.float32))
    else:
      keys = jax.random.split(sample_key)
      drawn_weights = [
        resampled(*parts) for parts in zip(keys, weights, orders)
      ]
    return statistic(members, others, *drawn_weights)

  replicates = jax.lax.map(
    replicate, jax.random.split(key, num_samples), batch_size=chunk_size
  )
  tail = (1 - jnp.asarray(level)) / 2
  ends = jax.tree.map(
    lambda x: jnp.quantile(x, jnp.stack([tail, 1 - tail]), axis=0), replicates
  )
  low, high = (jax.tree.map(lambda x, i=i: x[i], ends) for i in (0, 1))
  return Interval(statistic(members, others, *weights), low, high)


class TprInterval(NamedTuple):
  """TPR and FPR of one threshold with exact bounds, floats.

  Attributes:
    threshold: a row is called a member if its score is above (>) it.
    tpr: share of members found.
    tpr_low, tpr_high: its Clopper-Pearson bounds.
    fpr: share of the held-out half of the non-members called members.
    fpr_low, fpr_high: its bounds.
  """

  threshold: float
  tpr: float
  tpr_low: float
  tpr_high: float
  fpr: float
  fpr_low: float
  fpr_high: float


def clopper_pearson(
  count: Any, total: Any, level: float = 0.95, *, sides: str = "two"
) -> tuple[Any, Any]:
  """Exact bounds of a binomial share, on the host.

  Args:
    count: int, any shape, successes in 0 .. total.
    total: int, trials, >= 1.
    level: coverage, in (0, 1).
    sides: "two"; or "upper" or "lower" for a bound on one side only, the other
      end then being 0 or 1.

  Returns:
    (low, high), float64 in [0, 1], of the common shape.

  Raises:
    ValueError: count outside 0 .. total, total < 1, level outside (0, 1).

  Example:
    >>> low, high = clopper_pearson(0, 1000)
    >>> float(low), round(float(high), 5)
    (0.0, 0.00368)
  """
  from scipy.stats import beta

  _check_level(level)
  checks.one_of(("two", "upper", "lower"), sides=sides)
  count, total = np.broadcast_arrays(count, total)
  if not ((total >= 1) & (count >= 0) & (count <= total)).all():
    raise ValueError(
      f"Expected count in 0 .. total and total >= 1, got {count} of {total}."
    )
  tail = (1 - level) / (2 if sides == "two" else 1)
  low, high = np.zeros(count.shape), np.ones(count.shape)
  inner = count > 0
  if sides != "upper":
    # The maximum keeps a degenerate shape away from the unused branch.
    shape = np.maximum(count, 1), total - count + 1
    low = np.where(inner, beta.ppf(tail, *shape), 0.0)
  inner = count < total
  if sides != "lower":
    shape = count + 1, np.maximum(total - count, 1)
    high = np.where(inner, beta.ppf(1 - tail, *shape), 1.0)
  return low[()], high[()]


def certified_threshold(
  other_scores: Any,
  other_mask: Any = None,
  *,
  fpr: float,
  level: float = 0.95,
) -> float:
  """The smallest threshold whose true FPR is at most `fpr`, with confidence.

  The (k + 1)-th highest score of the non-members, k being the largest count
  whose one-sided upper Clopper-Pearson bound is <= fpr. Since k depends on the
  number of rows only, the statement holds although the threshold is chosen on
  these very scores: it is the distribution-free tolerance bound.

  Args:
    other_scores: float [M], independent non-members.
    other_mask: bool [M], the rows that count.
    fpr: limit, in (0, 1).
    level: confidence, in (0, 1).

  Returns:
    The threshold; a row is called a member if its score is above (>) it. inf,
    so that nobody is, where there are too few rows: 0.1 % at 95 % takes 2,995.

  Raises:
    ValueError: no rows, nan, fpr or level outside (0, 1).

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import attacks
    >>> attacks.certified_threshold(np.arange(100.0), fpr=0.1)
    95.0
  """
  _check_level(level)
  _check_open(fpr=fpr)
  scores = _kept(other_scores, other_mask, "other")
  bounds = clopper_pearson(
    np.arange(len(scores)), len(scores), level, sides="upper"
  )[1]
  num_allowed = int((bounds <= fpr).sum())
  if num_allowed == 0:
    return float("inf")
  return float(np.sort(scores)[::-1][num_allowed - 1])


def tpr_interval(
  member_scores: Any,
  other_scores: Any,
  member_mask: Any = None,
  other_mask: Any = None,
  *,
  fpr: float,
  level: float = 0.95,
  seed: int = 0,
) -> TprInterval:
  """TPR and FPR at a threshold chosen on half of the non-members.

  The threshold is the smallest of empirical FPR <= fpr on a random half of the
  non-members. The members and the other half had no part in it, so that the
  binomial bounds of both shares hold.

  Args:
    member_scores: float [N], independent rows.
    other_scores: float [M].
    member_mask: bool [N], the rows that count.
    other_mask: bool [M].
    fpr: in (0, 1).
    level: coverage of each interval.
    seed: of the split.

  Returns:
    See `TprInterval`; all nan where the half has fewer than 1 / fpr rows.

  Raises:
    ValueError: no members, fewer than two non-members, nan, fpr or level
      outside (0, 1).

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import attacks
    >>> members = np.array([5.0, 5.0, 5.0, -5.0])
    >>> others = np.linspace(0.0, 1.0, 100)
    >>> found = attacks.tpr_interval(members, others, fpr=0.1)
    >>> found.tpr, round(found.tpr_low, 3), round(found.tpr_high, 3)
    (0.75, 0.194, 0.994)
  """
  _check_level(level)
  _check_open(fpr=fpr)
  members = _kept(member_scores, member_mask, "member")
  others = _kept(other_scores, other_mask, "other")
  if len(others) < 2:
    raise ValueError(f"Expected other_scores of >= 2 rows, got {len(others)}.")
  others = np.random.default_rng(seed).permutation(others)
  chosen_on, held_out = np.array_split(others, 2)
  # As everywhere a hair of tolerance: 0.29 * 100 is 28.999999999999996.
  num_allowed = int(np.floor(fpr * len(chosen_on) * (1 + 1e-9)))
  if num_allowed < 1:
    return TprInterval(*[float("nan")] * 7)
  threshold = np.sort(chosen_on)[::-1][num_allowed]
  numbers = []
  for scores in (members, held_out):
    count = int((scores > threshold).sum())
    bounds = clopper_pearson(count, len(scores), level)
    numbers += [count / len(scores), *map(float, bounds)]
  return TprInterval(float(threshold), *numbers)


def _check_level(level: Any) -> None:
  if checks.is_concrete(level) and not 0 < float(level) < 1:
    raise ValueError(f"Expected level in (0, 1), got level={level}.")


def _check_open(**named: float) -> None:
  for name, value in named.items():
    if not 0 < value < 1:
      raise ValueError(f"Expected {name} in (0, 1), got {name}={value}.")


def _kept(scores: Any, mask: Any, name: str) -> np.ndarray:
  """The scores [N] that count, on the host."""
  scores = np.asarray(scores)
  if not np.issubdtype(scores.dtype, np.float64):
    scores = scores.astype(np.float32)
  mask = np.ones(scores.shape, bool) if mask is None else np.asarray(mask)
  shaped(f"{name}_scores [N] and {name}_mask bool [N]", scores, mask)
  scores = scores[mask]
  if scores.size == 0:
    raise ValueError(f"Expected {name}_scores of some rows, got 0.")
  bad = int(np.isnan(scores).sum())
  if bad:
    raise ValueError(f"Expected {name}_scores, got {bad} that are nan.")
  return scores
