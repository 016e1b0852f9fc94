"""Kernel distance between two sets of features, as of generated and real images.

Source: Binkowski, Sutherland, Arbel and Gretton (2018), arXiv:1801.01401, whose
kernel inception distance (KID) it is where the features are Inception's; the
unbiased estimate is that of Gretton et al. (2012), JMLR 13. Unlike a Frechet
distance its expectation does not depend on how many images there are.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows


class KernelDistance(NamedTuple):
  """A mean over subsets and their standard deviation; both float32 []."""

  mean: jax.Array
  spread: jax.Array


def polynomial_mmd(features: jax.Array, references: jax.Array) -> jax.Array:
  """The squared maximum mean discrepancy of k(a, b) = (a . b / D + 1)^3.

  With means over pairs, of one row with itself left out (unbiased),

      mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

  Args:
    features: float [N, D], of generated images; N > 1.
    references: float [M, D], of real ones; M > 1.

  Returns:
    float32 [], lower is better; 0 in expectation for rows of one law, so that it
    is often negative then. nan where a feature is.

  Raises:
    ValueError: shapes that do not match, fewer than two rows.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> drawn, real = jnp.zeros((2, 1)), jnp.ones((2, 1))
    >>> float(metrics.polynomial_mmd(drawn, real))  # 1 + 8 - 2.
    7.0
  """
  x, y = _sides(features, references)
  across = _kernel(x, y).mean()
  return _within(x) + _within(y) - 2 * across


def kernel_distance(
  features: jax.Array,
  references: jax.Array,
  key: jax.Array,
  *,
  num_subsets: int = 100,
  subset_size: int = 1000,
) -> KernelDistance:
  """`polynomial_mmd` of subsets of both sets, as the KID is reported.

  Args:
    features: see `polynomial_mmd`.
    references: see there.
    key: of the subsets, whose rows are drawn without replacement.
    num_subsets: static; how many.
    subset_size: static; rows of each set in a subset, 2 .. the smaller number of
      rows. Published with 1,000.

  Returns:
    `KernelDistance`. The spread tells how far a set of this size decides; the
    subsets share rows, so it is no standard error.

  Raises:
    ValueError: as `polynomial_mmd`; counts out of range.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> drawn, real = jnp.zeros((4, 1)), jnp.ones((4, 1))
    >>> found = metrics.kernel_distance(
    ...   drawn, real, jax.random.key(0), num_subsets=3, subset_size=2)
    >>> [float(number) for number in found]
    [7.0, 0.0]
  """
  x, y = _sides(features, references)
  checks.counts(num_subsets=num_subsets)
  checks.count(2, subset_size=subset_size)
  if subset_size > min(len(x), len(y)):
    raise ValueError(
      f"Expected subset_size at most {min(len(x), len(y))}, the rows of the "
      f"smaller set, got {subset_size}."
    )

  def one(key):
    first, second = jax.random.split(key)
    return polynomial_mmd(_some(x, first), _some(y, second))

  def _some(rows, key):
    return rows[jax.random.permutation(key, len(rows))[:subset_size]]

  found = jax.lax.map(one, jax.random.split(key, num_subsets))
  return KernelDistance(found.mean(), found.std())


def _sides(features, references) -> tuple[jax.Array, jax.Array]:
  x, y = (
    _rows.rows_of(features, "features"),
    _rows.rows_of(references, "references"),
  )
  shaped("features [N, D] and references [M, D]", x, y)
  checks.count(2, **{"rows of features": len(x), "rows of references": len(y)})
  return x, y


def _kernel(x: jax.Array, y: jax.Array) -> jax.Array:
  dots = jnp.matmul(x, y.T, precision="highest")
  return jnp.power(dots / x.shape[1] + 1, 3)


def _within(x: jax.Array) -> jax.Array:
  """The mean over pairs of different rows."""
  count = len(x)
  different = ~jnp.eye(count, dtype=bool)
  return jnp.where(different, _kernel(x, x), 0).sum() / (count * (count - 1))
