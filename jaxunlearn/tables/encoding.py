"""Mixed tables as what networks like: normal scores and indicators.

A column of numbers becomes a normal score by its own quantiles, so that peaks,
tails and many equal values (a column that is mostly 0) need no special care; a
column of K categories becomes K indicators. Both ways are pure, and fitted to
the rows that a mask selects and to nothing else, so that a row to be forgotten
leaves no trace in the encoding either.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from jaxunlearn.core import checks
from jaxunlearn.core.columns import Columns
from jaxunlearn.core.shaped import arrays

NUM_QUANTILES = 129


class Encoding(NamedTuple):
  """What is known about the columns.

  Attributes:
    quantiles: float [Q, D_n], not falling.
    is_whole: bool [D_n], columns that hold whole numbers only.
    shares: float [L], of rows that have each level.
  """

  quantiles: jax.Array
  is_whole: jax.Array
  shares: jax.Array


def check_rows(
  x: jax.Array, weights: jax.Array, columns: Columns
) -> tuple[jax.Array, jax.Array]:
  """A table and its rows' weights as float arrays; rows of weight 0 are zeros.

  Raises:
    ValueError: shapes or dtypes that do not fit; of concrete tables weights
      outside [0, 1], no row that counts, a value that is not finite, a code out
      of range.
  """
  x = arrays(f"x [N, {len(columns.categories)}]", x)
  x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  checks.request(x, weights, name="weights")
  if checks.is_concrete(weights):
    checked = np.asarray(weights, np.float32)
    if not ((checked >= 0) & (checked <= 1)).all():
      raise ValueError("Expected weights in [0, 1], got values outside.")
  counted = jnp.asarray(weights) > 0
  if checks.is_concrete(x) and checks.is_concrete(counted):
    kept = np.asarray(x)[np.asarray(counted)]
    if not len(kept):
      raise ValueError("Expected weights to select rows, got none.")
    if not np.isfinite(kept).all():
      raise ValueError(
        "Expected x to be finite, got missing or infinite values."
      )
    codes = kept[:, columns.categorical]
    sizes = np.array(columns.categories)[columns.categorical]
    if ((codes < 0) | (codes >= sizes) | (codes != np.floor(codes))).any():
      raise ValueError(
        "Expected codes 0 .. K - 1 in columns of K categories, got others."
      )
  return (
    jnp.where(counted[:, None], x, 0),
    jnp.where(counted, jnp.asarray(weights).astype(x.dtype), 0),
  )


def fit_encoding(
  x: jax.Array, weights: jax.Array, columns: Columns
) -> Encoding:
  """Quantiles and shares of the rows that count.

  Args:
    x: float [N, D], finite.
    weights: float [N] >= 0.
    columns: static.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> columns = tables.columns_of([0, 2])  # A number, and one of two codes.
    >>> x = jnp.array([[5.0, 0], [6.0, 0], [7.0, 1], [99.0, 1]])
    >>> weights = jnp.array([1.0, 1.0, 1.0, 0.0])  # Without the last row.
    >>> encoding = tables.fit_encoding(x, weights, columns)
    >>> [round(v, 2) for v in encoding.shares.tolist()]
    [0.67, 0.33]
    >>> float(encoding.quantiles.max())
    7.0
  """
  total = jnp.maximum(weights.sum(), jnp.finfo(x.dtype).tiny)
  numbers = x[:, columns.numeric]
  order = jnp.argsort(numbers, axis=0)
  ranked = jnp.take_along_axis(numbers, order, axis=0)
  reached = jnp.cumsum(weights[order], axis=0) / total
  # A trace above 0, so that the first is the first row that counts, and a trace
  # below 1, which sums of float32 may miss.
  levels = jnp.linspace(1e-6, 1 - 1e-5, NUM_QUANTILES, dtype=x.dtype)
  find = lambda r, v: v[jnp.minimum(jnp.searchsorted(r, levels), len(v) - 1)]
  quantiles = jax.vmap(find, in_axes=1, out_axes=1)(reached, ranked)
  counted = (weights > 0)[:, None]
  highest = jnp.where(counted, numbers, -jnp.inf).max(axis=0, initial=-jnp.inf)
  quantiles = quantiles.at[-1].set(highest)
  is_whole = jnp.where(counted, numbers == jnp.round(numbers), True).all(axis=0)
  shares = weights @ one_hot(x, columns) / total
  return Encoding(quantiles, is_whole, shares)


def one_hot(x: jax.Array, columns: Columns) -> jax.Array:
  """Indicators of all levels: [N, L]."""
  codes = x[:, columns.level_column]
  return (codes == columns.level_code[None]).astype(x.dtype)


def encode(encoding: Encoding, x: jax.Array, columns: Columns) -> jax.Array:
  """Normal scores of the numbers, then indicators: [N, D_n + L].

  Values beyond the quantiles get the score of the nearest.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> columns = tables.columns_of([0, 2])
    >>> x = jnp.array([[5.0, 0], [6.0, 0], [7.0, 1]])
    >>> encoding = tables.fit_encoding(x, jnp.ones(3), columns)
    >>> print(tables.encode(encoding, x[1:2], columns).round(1))
    [[0. 1. 0.]]
  """
  last = NUM_QUANTILES - 1

  def place(quantiles, values):
    left = jnp.searchsorted(quantiles, values, side="left")
    right = jnp.searchsorted(quantiles, values, side="right")
    below = quantiles[jnp.clip(left - 1, 0, last)]
    above = quantiles[jnp.clip(left, 0, last)]
    gap = jnp.where(above > below, above - below, 1)
    between = left - 1 + (values - below) / gap
    # Of equal quantiles the middle.
    tied = (left + right - 1) / 2
    return jnp.where(right > left, tied, between) / last

  numbers = x[:, columns.numeric]
  rank = jax.vmap(place, in_axes=1, out_axes=1)(encoding.quantiles, numbers)
  rank = jnp.clip(rank, 0.5 / last, 1 - 0.5 / last)
  scores = ndtri(rank.astype(x.dtype))
  return jnp.concatenate([scores, one_hot(x, columns)], axis=1)


def decode(
  encoding: Encoding, scores: jax.Array, codes: jax.Array, columns: Columns
) -> jax.Array:
  """A table [N, D] from normal scores [N, D_n] and codes [N, D_c].

  Numbers lie in the range of the rows that the encoding was fitted to; those of
  whole columns are rounded.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> columns = tables.columns_of([0, 2])
    >>> x = jnp.array([[5.0, 0], [6.0, 0], [7.0, 1]])
    >>> encoding = tables.fit_encoding(x, jnp.ones(3), columns)
    >>> scores, codes = jnp.array([[0.0], [9.0]]), jnp.array([[1], [0]])
    >>> tables.decode(encoding, scores, codes, columns).tolist()
    [[6.0, 1.0], [7.0, 0.0]]
  """
  last = NUM_QUANTILES - 1
  place = ndtr(scores) * last
  lower = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, last - 1)
  pick = lambda rows: jnp.take_along_axis(encoding.quantiles, rows, axis=0)
  below, above = pick(lower), pick(lower + 1)
  numbers = below + jnp.clip(place - lower, 0, 1) * (above - below)
  numbers = jnp.where(encoding.is_whole[None], jnp.round(numbers), numbers)
  table = jnp.zeros((len(scores), len(columns.categories)), scores.dtype)
  table = table.at[:, columns.numeric].set(numbers)
  return table.at[:, columns.categorical].set(codes.astype(scores.dtype))


def group_log_softmax(logits: jax.Array, columns: Columns) -> jax.Array:
  """Logarithms of shares of levels, each column by itself: [N, L]."""
  groups, count = columns.level_group, len(columns.categorical)
  top = jax.ops.segment_max(jax.lax.stop_gradient(logits).T, groups, count)
  off = logits.T - top[groups]
  total = jax.ops.segment_sum(jnp.exp(off), groups, count)
  return (off - jnp.log(total)[groups]).T


def draw_codes(
  logits: jax.Array, key: jax.Array, columns: Columns
) -> jax.Array:
  """A code of each categorical column by logits [N, L]: [N, D_c]."""
  noisy = (logits + jax.random.gumbel(key, logits.shape, logits.dtype)).T
  groups, count = columns.level_group, len(columns.categorical)
  top = jax.ops.segment_max(noisy, groups, count)
  codes = jnp.where(noisy == top[groups], columns.level_code[:, None], 0)
  return jax.ops.segment_max(codes, groups, count).T
