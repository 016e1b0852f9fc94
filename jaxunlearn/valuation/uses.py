"""What values are for: requests, noisy labels, and curves that judge them.

`lowest` makes a request of the least valuable rows, for any method of this
library:

    harmful = lowest(found.values, fraction=0.1)
    unlearned, _ = unlearn(variables, data, harmful, key)

`highest` picks the most valuable ones: to look at, or, among points that one
might buy, by `ecoval_of_points`. A removal curve retrains without the most (or least) valuable rows and
shows whether the values mean anything.

Sources: removal and addition curves, Ghorbani and Zou (2019), arXiv:1904.02868;
noisy labels by two-means, Kwon and Zou (2021), arXiv:2110.14049; weighted
accuracy drop, Schoch et al. (2022), arXiv:2211.06800.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics.membership import separation_auc
from jaxunlearn.valuation.types import Utility

_ORDERS = ("high", "low")


def lowest(
  values: jax.Array,
  *,
  count: int | jax.Array | None = None,
  fraction: float | jax.Array | None = None,
) -> jax.Array:
  """The least valuable rows, as a request.

  Args:
    values: float [N]; rows of unknown value (nan) are never selected.
    count: how many, in 0 .. N; may be traced.
    fraction: or which fraction, in [0, 1]: round(fraction * N) rows; may be
      traced.

  Returns:
    forget_mask, bool [N]; of equal values the first rows.

  Raises:
    ValueError: neither or both of count and fraction, or one out of range;
      values of another shape.

  Example:
    >>> lowest(jnp.array([0.3, -1.0, 0.1, 0.2]), count=2).tolist()
    [False, True, True, False]
  """
  values = _values_of(values)
  n = values.shape[0]
  if fraction is not None and count is None:
    checks.fraction(fraction=fraction)
    count = _counts(fraction, n)
  elif count is None or fraction is not None:
    raise ValueError(
      f"Expected count or fraction, got count={count}, fraction={fraction}."
    )
  elif not jnp.issubdtype(jnp.result_type(count), jnp.integer):
    raise ValueError(f"Expected count to be an integer, got count={count}.")
  elif checks.is_concrete(count) and not 0 <= int(count) <= n:
    raise ValueError(f"Expected count in 0 .. {n}, got count={count}.")
  return (_rank(values) < count) & ~jnp.isnan(values)


def highest(
  values: jax.Array,
  *,
  count: int | jax.Array | None = None,
  fraction: float | jax.Array | None = None,
) -> jax.Array:
  """The most valuable rows: what to keep, to label or to buy.

  Args:
    values: float [N]; rows of unknown value (nan) are never selected.
    count: see `lowest`.
    fraction: see `lowest`.

  Returns:
    bool [N]; of equal values the first rows.

  Raises:
    ValueError: see `lowest`.

  Example:
    >>> highest(jnp.array([0.3, -1.0, 0.1, 0.2]), count=2).tolist()
    [True, False, False, True]
  """
  return lowest(-_values_of(values), count=count, fraction=fraction)


def flagged(
  values: jax.Array, *, fraction: float | jax.Array | None = None
) -> jax.Array:
  """The rows whose labels the values call noisy.

  Args:
    values: float [N]; nan is never flagged.
    fraction: of rows to flag, the lowest; None splits the values in two by the
      best two-means threshold and flags the lower part.

  Returns:
    bool [N]; nothing where all values are the same.

  Raises:
    ValueError: a fraction outside [0, 1]; values of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> values = jnp.array([0.9, 0.1, 1.0, 0.0, 0.8])
    >>> valuation.flagged(values).tolist()
    [False, True, False, True, False]
  """
  if fraction is not None:
    return lowest(values, fraction=fraction)
  values = _values_of(values)
  known = ~jnp.isnan(values)
  n = known.sum()
  # About the mean, so that an offset costs no digits.
  centre = jnp.where(known, values, 0).sum() / jnp.maximum(n, 1)
  ordered = jnp.sort(values - centre)  # nan comes last.
  below = jnp.cumsum(jnp.nan_to_num(ordered, nan=0.0))
  size = jnp.arange(1, values.shape[0] + 1)
  # What a split after `size` rows takes off the sum of squares.
  rest = jnp.maximum(n - size, 1)
  gain = below**2 / size + (below[-1] - below) ** 2 / rest
  # Equal values stay together.
  above = jnp.concatenate([ordered[1:], jnp.full(1, jnp.nan, ordered.dtype)])
  gain = jnp.where((size < n) & (above > ordered), gain, -jnp.inf)
  split = jnp.argmax(gain)
  lower = (values - centre) <= ordered[split]
  return lower & known & jnp.isfinite(gain[split])


class NoisyLabelScores(NamedTuple):
  """How well low values find rows with wrong labels.

  Attributes:
    roc_auc: [], chance that a noisy row has the lower value; 0.5 is chance.
    precision_at_noisy: [], share of noisy rows among as many lowest ones as
      there are noisy ones.
    precision: [], of the flagged rows; nan if none is.
    recall: [], of the flagged rows.
    f1: [], of the flagged rows.
  """

  roc_auc: jax.Array
  precision_at_noisy: jax.Array
  precision: jax.Array
  recall: jax.Array
  f1: jax.Array


def noisy_label_scores(
  values: jax.Array,
  is_noisy: jax.Array,
  *,
  fraction: float | jax.Array | None = None,
) -> NoisyLabelScores:
  """How well low values find the rows whose labels were flipped.

  Rows of unknown value (nan) are left out of the AUC, and never flagged. All
  scores are better the higher.

  Args:
    values: float [N].
    is_noisy: bool [N].
    fraction: see `flagged`.

  Returns:
    See `NoisyLabelScores`; without noisy rows nan, F1 0 if rows are flagged.

  Raises:
    ValueError: see `flagged`; is_noisy not bool [N].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> values = jnp.array([0.9, 0.1, 1.0, 0.0, 0.8])
    >>> is_noisy = jnp.array([False, True, False, False, False])
    >>> found = valuation.noisy_label_scores(values, is_noisy)
    >>> float(found.roc_auc), float(found.precision), float(found.recall)
    (0.75, 0.5, 1.0)
  """
  values = _values_of(values)
  is_noisy = arrays(f"is_noisy bool [{len(values)}]", is_noisy)
  known = ~jnp.isnan(values)
  score = jnp.where(known, -values, 0)
  auc = separation_auc(score, score, is_noisy & known, ~is_noisy & known)
  num_noisy = is_noisy.sum()
  first = lowest(values, count=num_noisy)
  chosen = flagged(values, fraction=fraction)
  hits = (chosen & is_noisy).sum()
  return NoisyLabelScores(
    auc,
    _ratio((first & is_noisy).sum(), num_noisy),
    _ratio(hits, chosen.sum()),
    _ratio(hits, num_noisy),
    _ratio(2 * hits, chosen.sum() + num_noisy),
  )


def removal_curve(
  utility: Utility,
  values: jax.Array,
  fractions: jax.Array,
  *,
  order: str = "high",
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
  """The utility after the most (or least) valuable rows are removed.

  All points of the curve are trained in one call. Judge values on rows that
  they have not seen: make the utility anew with the test set for validation.
  With order "high" a lower curve is better, with "low" a higher one; removing
  at random, say by `jax.random.uniform` for values, is the reference.

  Args:
    utility: of N rows.
    values: float [N]; rows of unknown value (nan) are removed last.
    fractions: float [F], in [0, 1], of the rows to remove; may be traced.
    order: "high" removes the most valuable rows first, "low" the least.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    float32 [F]; at fraction 1 the utility's `empty_value`.

  Raises:
    ValueError: an unknown order, fractions outside [0, 1], values that do not
      fit the utility.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> values = jnp.array([1.0, 2.0, 5.0])
    >>> fractions = jnp.array([0.0, 1 / 3, 1.0])
    >>> valuation.removal_curve(game, values, fractions).tolist()
    [8.0, 3.0, 0.0]
  """
  rank, counts = _ordered(utility, values, fractions, order)
  return utility.over(
    lambda count: rank >= count, counts, strategy=strategy, mesh=mesh
  )


def addition_curve(
  utility: Utility,
  values: jax.Array,
  fractions: jax.Array,
  *,
  order: str = "high",
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
  """The utility of the most (or least) valuable rows alone.

  With order "high" a higher curve is better, with "low" a lower one.

  Args:
    utility: of N rows.
    values: float [N]; rows of unknown value (nan) are added last.
    fractions: float [F], in [0, 1], of the rows to add; may be traced.
    order: "high" adds the most valuable rows first, "low" the least.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    float32 [F]; at fraction 0 the utility's `empty_value`.

  Raises:
    ValueError: see `removal_curve`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> values = jnp.array([1.0, 2.0, 5.0])
    >>> fractions = jnp.array([0.0, 1 / 3, 1.0])
    >>> valuation.addition_curve(game, values, fractions).tolist()
    [0.0, 5.0, 8.0]
  """
  rank, counts = _ordered(utility, values, fractions, order)
  return utility.over(
    lambda count: rank < count, counts, strategy=strategy, mesh=mesh
  )


def weighted_accuracy_drop(accuracies: jax.Array) -> jax.Array:
  """How fast accuracy falls when the best rows go one by one.

  sum_{j=1..K} (1 / j) sum_{i<=j} (a_{i-1} - a_i), which is a_0 H_K minus the sum
  of a_j / j, H_K the harmonic number. Higher is better.

  Args:
    accuracies: float [K + 1], after removing the 0, 1, ..., K most valuable
      rows: `removal_curve` at fractions k / N.

  Returns:
    [], float32; 0 for a curve of one point.

  Raises:
    ValueError: no points, or more axes than one.

  Source: arXiv:2211.06800, as pyDVL's documentation gives it.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> accuracies = jnp.array([1.0, 0.5, 0.25])
    >>> float(valuation.weighted_accuracy_drop(accuracies))
    0.875
  """
  shaped("accuracies [K > 0]", accuracies)
  accuracies = jnp.asarray(accuracies, jnp.float32)
  removed = jnp.arange(1, accuracies.shape[0], dtype=jnp.float32)
  return ((accuracies[0] - accuracies[1:]) / removed).sum()


def rank_correlation(a: jax.Array, b: jax.Array) -> jax.Array:
  """Spearman's correlation: of ranks, ties sharing their mean.

  Args:
    a: float [N].
    b: float [N].

  Returns:
    float32 [], in [-1, 1]; nan where either side is constant or has nan.

  Example:
    >>> float(rank_correlation(jnp.array([1.0, 2.0, 9.0]), jnp.array([3, 4, 5])))
    1.0
  """
  a, b = (_ranks(jnp.asarray(v)) for v in (a, b))
  a, b = a - a.mean(), b - b.mean()
  size = jnp.sqrt((a**2).sum() * (b**2).sum())
  return jnp.where(
    size > 0, (a * b).sum() / jnp.where(size > 0, size, 1), jnp.nan
  )


def _ranks(x: jax.Array) -> jax.Array:
  """Ranks from 0, ties sharing their mean."""
  ordered = jnp.sort(x)
  below = jnp.searchsorted(ordered, x, side="left")
  above = jnp.searchsorted(ordered, x, side="right")
  ranks = (below + above - 1).astype(jnp.float32) / 2
  return jnp.where(jnp.isnan(x), jnp.nan, ranks)


def _values_of(values: jax.Array) -> jax.Array:
  shaped("values [N]", values)
  values = jnp.asarray(values, jnp.float32)
  return values


def _rank(values: jax.Array) -> jax.Array:
  """A row's place from the lowest, int32 [N]; nan last, ties by row number."""
  order = jnp.argsort(values, stable=True)
  place = jnp.arange(values.shape[0], dtype=jnp.int32)
  return jnp.zeros_like(place).at[order].set(place)


def _counts(fraction: float | jax.Array, num_rows: int) -> jax.Array:
  return jnp.round(jnp.asarray(fraction) * num_rows).astype(jnp.int32)


def _ordered(utility, values, fractions, order):
  """Places of rows in the order asked for, and how many each point takes."""
  checks.one_of(_ORDERS, order=order)
  values = _values_of(values)
  shaped(f"values [{utility.num_rows}]", values)
  given, fractions = fractions, jnp.asarray(fractions, jnp.float32)
  shaped("fractions [F]", fractions)
  if checks.is_concrete(given):
    f = np.asarray(given)  # Also under jit, if it closes over them.
    if not ((f >= 0) & (f <= 1)).all():
      raise ValueError(f"Expected fractions in [0, 1], got {f.tolist()}.")
  rank = _rank(-values if order == "high" else values)
  return rank, _counts(fractions, values.shape[0])


def _ratio(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.where(b > 0, a / jnp.maximum(b, 1), jnp.nan)
