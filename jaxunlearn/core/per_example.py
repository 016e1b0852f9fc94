"""Sums over rows of something computed row by row, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.types import PyTree


def sum_rows(
  fn: Callable[[PyTree], PyTree],
  data: PyTree,
  weights: jax.Array,
  *,
  chunk_size: int,
) -> PyTree:
  """The weighted sum of `fn(row)` over the rows of a data pytree.

  Args:
    fn: of one row, leaves without the row axis; returns a pytree of floats.
    data: pytree of arrays [N, ...].
    weights: float or bool [N]; rows of weight 0 are replaced by zeros first, so
      that nothing in them reaches the sum.
    chunk_size: static; rows at a time. Memory holds that many results.

  Returns:
    The sum, float32 or wider.
  """
  checks.positive(chunk_size=chunk_size)
  n = checks.num_rows(data)
  chunks = -(-n // chunk_size)
  index = jnp.arange(chunks * chunk_size).reshape(chunks, chunk_size)

  def body(total, rows_index):
    inside = rows_index < n
    clipped = jnp.minimum(rows_index, n - 1)
    weight = jnp.where(inside, weights[clipped].astype(jnp.float32), 0.0)
    values = jax.vmap(fn)(take_rows(data, clipped, weight))

    def add(t, v):
      w = weight.reshape(weight.shape + (1,) * (v.ndim - 1))
      return t + jnp.where(w > 0, w * v.astype(t.dtype), 0).sum(axis=0)

    return jax.tree.map(add, total, values), None

  row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), data)
  zero = jax.tree.map(
    lambda s: jnp.zeros(s.shape, jnp.promote_types(jnp.float32, s.dtype)),
    jax.eval_shape(fn, row),
  )
  return jax.lax.scan(body, zero, index)[0]
