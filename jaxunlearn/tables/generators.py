"""Generators of tables, and the closed ones: columns apart, copula, copies.

A generator is two pure functions. `fit` reads the rows that a mask selects and
no other, so that leaving a request out is fitting under its complement, and
`vmap` over masks or keys fits many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxunlearn.core.columns import Columns, columns_of
from jaxunlearn.core.types import PyTree
from jaxunlearn.tables.encoding import (
  Encoding,
  check_rows,
  decode,
  encode,
  fit_encoding,
)

_JITTER = 1e-4


class Generator(NamedTuple):
  """How to learn a table and how to draw rows like it.

  Attributes:
    fit: `(x, weights, key) -> (state, info)`. Table float [N, D] of numbers and
      codes; weights bool [N] (True = learn from the row) or float in [0, 1];
      PRNG key. Rows of weight 0 are not read. ValueError for a table, codes or
      weights that do not fit, or no row to learn from.
    sample: `(state, key, num_rows) -> table`, float [num_rows, D]; num_rows is
      static.
  """

  fit: Callable[[jax.Array, jax.Array, jax.Array], tuple[Any, PyTree]]
  sample: Callable[[Any, jax.Array, int], jax.Array]


class Rows(NamedTuple):
  """A table under weights, kept as it is.

  Attributes:
    x: float [N, D].
    reached: float [N], sums of weights so far over their total.
  """

  x: jax.Array
  reached: jax.Array


class Copula(NamedTuple):
  """A Gaussian copula.

  Attributes:
    encoding: of the columns.
    root: float [D, D], the Cholesky factor of the scores' correlations; numbers
      first, then categories.
  """

  encoding: Encoding
  root: jax.Array


def resampled_rows(categories: Sequence[int]) -> Generator:
  """Rows of the table itself, drawn with replacement: what memorises all.

  Args:
    categories: static; D numbers, 0 for a column of numbers, K for one of codes
      0 .. K - 1.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> generator = tables.resampled_rows([0, 2])
    >>> x = jnp.array([[5.0, 0], [6.0, 1], [7.0, 1]])
    >>> keep = jnp.array([False, True, False])
    >>> state, _ = generator.fit(x, keep, jax.random.key(0))
    >>> generator.sample(state, jax.random.key(1), 2).tolist()
    [[6.0, 1.0], [6.0, 1.0]]
  """

  def sample(state: Rows, key: jax.Array, num_rows: int) -> jax.Array:
    return state.x[_drawn(state, key, num_rows)]

  return Generator(_keeping_rows(columns_of(categories)), sample)


def independent_columns(categories: Sequence[int]) -> Generator:
  """Each column resampled by itself: right margins and no association.

  Args:
    categories: see `resampled_rows`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> generator = tables.independent_columns([2, 2])
    >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0]] * 50)  # Always alike.
    >>> state, _ = generator.fit(x, jnp.ones(100, bool), jax.random.key(0))
    >>> made = generator.sample(state, jax.random.key(1), 1000)
    >>> round(float((made[:, 0] == made[:, 1]).mean()), 1)
    0.5
  """
  columns = columns_of(categories)

  def sample(state: Rows, key: jax.Array, num_rows: int) -> jax.Array:
    keys = jax.random.split(key, len(columns.categories))
    pick = lambda column, k: column[_drawn(state, k, num_rows)]
    return jax.vmap(pick, in_axes=(1, 0), out_axes=1)(state.x, keys)

  return Generator(_keeping_rows(columns), sample)


def gaussian_copula(categories: Sequence[int]) -> Generator:
  """Margins by quantiles, and the correlations of their normal scores.

  A category takes the scores of its stretch of the cumulative shares, in the
  order of the codes, spread at random within it; with many unordered
  categories associations are thus weakened.

  Args:
    categories: see `resampled_rows`.

  Source: Patki et al. (2016), the synthetic data vault; arXiv:2207.05295 for
  the comparison. Quantiles in the place of parametric margins.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> generator = tables.gaussian_copula([0, 0])
    >>> x = jax.random.normal(jax.random.key(0), (500, 1)) * jnp.array([[1, 3]])
    >>> state, _ = jax.jit(generator.fit)(
    ...   x, jnp.ones(500, bool), jax.random.key(1))
    >>> made = generator.sample(state, jax.random.key(2), 1000)
    >>> round(float(jnp.corrcoef(made.T)[0, 1]), 1)
    1.0
  """
  columns = columns_of(categories)
  groups = columns.level_group
  starts = np.searchsorted(groups, groups)

  def stretches(encoding: Encoding) -> tuple[jax.Array, jax.Array]:
    """Where each level begins and ends, in [0, 1]."""
    ends = jnp.cumsum(encoding.shares)
    before = ends - encoding.shares
    if not len(groups):
      return before, ends
    offset = before[starts]
    return before - offset, ends - offset

  def fit(x, weights, key):
    x, weights = check_rows(x, weights, columns)
    encoding = fit_encoding(x, weights, columns)
    encoded = encode(encoding, x, columns)
    split = len(columns.numeric)
    scores, hot = encoded[:, :split], encoded[:, split:]
    low, high = stretches(encoding)
    places = np.arange(len(columns.categorical))
    member = jnp.asarray(groups[:, None] == places[None], x.dtype)
    low, high = (hot * low[None]) @ member, (hot * high[None]) @ member
    u = low + (high - low) * jax.random.uniform(key, low.shape, x.dtype)
    z = ndtri(jnp.clip(u, 1e-4, 1 - 1e-4))
    z = jnp.concatenate([scores, z], axis=1)
    total = jnp.maximum(weights.sum(), jnp.finfo(x.dtype).tiny)
    centred = z - (weights @ z / total)[None]
    covariance = centred.T @ (weights[:, None] * centred) / total
    spread = jnp.sqrt(jnp.diagonal(covariance))
    spread = jnp.where(spread > 0, spread, 1)
    size = len(spread)
    correlation = covariance / (spread[:, None] * spread[None])
    correlation = jnp.where(jnp.eye(size, dtype=bool), 1 + _JITTER, correlation)
    return Copula(encoding, jnp.linalg.cholesky(correlation)), None

  def sample(state: Copula, key: jax.Array, num_rows: int) -> jax.Array:
    split = len(columns.numeric)
    z = jax.random.normal(key, (num_rows, len(state.root)), state.root.dtype)
    z = z @ state.root.T
    u = ndtr(z[:, split:])
    # The code is the number of levels that end below.
    ends = stretches(state.encoding)[1]
    below = u[:, groups] >= ends[None]
    # The last level that occurs ends at 1, up to rounding.
    occurs = state.encoding.shares > 0
    codes = (
      jnp.zeros(u.shape, jnp.int32).at[:, groups].add(below.astype(jnp.int32))
    )
    highest = jax.ops.segment_max(
      jnp.where(occurs, columns.level_code, 0), groups, u.shape[1]
    )
    codes = jnp.minimum(codes, highest[None])
    return decode(state.encoding, z[:, :split], codes, columns)

  return Generator(fit, sample)


def _keeping_rows(columns: Columns) -> Callable[..., tuple[Rows, None]]:
  def fit(x, weights, key):
    del key
    x, weights = check_rows(x, weights, columns)
    reached = jnp.cumsum(weights)
    total = jnp.maximum(reached[-1], jnp.finfo(x.dtype).tiny)
    return Rows(x, reached / total), None

  return fit


def _drawn(state: Rows, key: jax.Array, num_rows: int) -> jax.Array:
  """Row numbers [num_rows], in proportion to the weights."""
  u = jax.random.uniform(key, (num_rows,), state.x.dtype)
  # Beyond u, so that a row of weight 0 is never met.
  u = jnp.minimum(u * state.reached[-1], jnp.nextafter(state.reached[-1], 0.0))
  return jnp.searchsorted(state.reached, u, side="right")
