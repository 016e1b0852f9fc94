"""Row-by-row computations in bounded memory, whatever the number of rows.

Rows are taken in chunks by a loop in the program: `map_rows` keeps a result for
every row, `sum_rows` adds them up; `map_chunks` and `sum_chunks` are the same
for functions of a whole chunk, which are cheaper where rows need no gradient of
their own. Beside the data and the result, memory holds what one chunk needs.
Under `shard_map` with rows spread over devices each device walks over its own;
add up the sums by `jax.lax.psum`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.sampling import blank_rows, take_rows
from jaxunlearn.core.types import PyTree


def map_chunks(
  fn: Callable[[PyTree], PyTree], data: PyTree, *, chunk_size: int
) -> PyTree:
  """Applies a function of a batch of rows to all rows, a chunk at a time.

  Args:
    fn: of rows [B, ...]; returns a pytree of arrays [B, ...] in which a row's
      result depends on that row alone.
    data: pytree of arrays [N, ...].
    chunk_size: static; rows at a time. The last chunk starts early instead of
      being padded, so that some rows may be computed twice.

  Returns:
    What `fn` returns, leaves [N, ...]; of no rows, leaves [0, ...].

  Raises:
    ValueError: chunk_size < 1, or leaves of different lengths.

  Example:
    >>> import jax.numpy as jnp
    >>> map_chunks(lambda x: x**2, jnp.arange(5), chunk_size=2).tolist()
    [0, 1, 4, 9, 16]
  """
  checks.counts(chunk_size=chunk_size)
  n = checks.num_rows(data)
  size = min(chunk_size, max(n, 1))
  empty = _zeros(fn, (data,), size, lambda v: ((n, *v.shape[1:]), v.dtype))
  if n == 0:
    return empty

  def body(index: jax.Array, filled: PyTree) -> PyTree:
    start = jnp.minimum(index * size, n - size)
    values = fn(_slice(data, start, size))
    write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
      old, new, start, axis=0
    )
    return jax.tree.map(write, filled, values)

  return jax.lax.fori_loop(0, -(-n // size), body, empty)


def map_chosen(
  fn: Callable[[PyTree], PyTree],
  data: PyTree,
  chosen: jax.Array,
  *,
  chunk_size: int,
) -> PyTree:
  """`map_chunks` of some rows, at the cost of those; the others are not read.

  Args:
    fn: see `map_chunks`.
    data: pytree of arrays [N, ...].
    chosen: bool [N], or float weights: the rows above 0.
    chunk_size: static; rows at a time.

  Returns:
    What `fn` returns, leaves [N, ...]; 0 of rows that are not chosen.

  Raises:
    ValueError: chunk_size < 1, or leaves of different lengths.
  """
  checks.counts(chunk_size=chunk_size)
  n = checks.num_rows(data)
  size, chosen = min(chunk_size, max(n, 1)), jnp.asarray(chosen) > 0
  empty = _zeros(fn, (data,), size, lambda v: ((n, *v.shape[1:]), v.dtype))
  if n == 0:
    return empty
  order = jnp.argsort(~chosen, stable=True)

  def body(index: jax.Array, filled: PyTree) -> PyTree:
    start = jnp.minimum(index * size, n - size)
    place = jax.lax.dynamic_slice_in_dim(order, start, size)
    live = chosen[place]
    values = fn(take_rows(data, place, live))

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
      of_row = live.reshape(live.shape + (1,) * (new.ndim - 1))
      return old.at[place].set(jnp.where(of_row, new, 0))

    return jax.tree.map(write, filled, values)

  # The number of rounds is a run-time number.
  rounds = -(-chosen.sum(dtype=jnp.int32) // size)
  return jax.lax.fori_loop(0, rounds, body, empty)


def map_rows(
  fn: Callable[[PyTree], PyTree],
  data: PyTree,
  *,
  chunk_size: int,
) -> PyTree:
  """Applies a function of one row to every row of a data pytree.

  Args:
    fn: of one row, leaves without the row axis; returns a pytree of arrays.
    data: pytree of arrays [N, ...].
    chunk_size: static; rows at a time. Memory holds that many intermediate
      results, and all final ones.

  Returns:
    What `fn` returns, leaves [N, ...]; of no rows, leaves [0, ...].

  Raises:
    ValueError: chunk_size < 1, or leaves of different lengths.

  Example:
    >>> import jax.numpy as jnp
    >>> rows = {"x": jnp.arange(6.0).reshape(3, 2)}
    >>> map_rows(lambda row: row["x"].sum(), rows, chunk_size=2).tolist()
    [1.0, 5.0, 9.0]
  """
  return map_chunks(jax.vmap(fn), data, chunk_size=chunk_size)


def sum_chunks(
  fn: Callable[[PyTree, jax.Array], PyTree],
  data: PyTree,
  weights: jax.Array,
  *,
  chunk_size: int,
) -> PyTree:
  """Adds up a function of a batch of rows and their weights over all rows.

  Args:
    fn: of rows [B, ...] and weights [B] (float32 or wider); returns a pytree of
      floats, additive over rows and zero where all weights are.
    data: pytree of arrays [N, ...].
    weights: float or bool [N]; rows of weight 0 are replaced by zeros first, so
      that nothing in them reaches the sum.
    chunk_size: static; rows at a time.

  Returns:
    The sum, float32 or wider; zeros for no rows.

  Raises:
    ValueError: chunk_size < 1, or leaves of different lengths.
  """
  checks.counts(chunk_size=chunk_size)
  n = checks.num_rows((data, weights), name="data and weights")
  size = min(chunk_size, max(n, 1))
  wide = lambda v: (v.shape, jnp.promote_types(jnp.float32, v.dtype))
  of_rows = lambda rows, weight: fn(rows, _widened(weight))
  zero = _zeros(of_rows, (data, weights), size, wide)
  if n == 0:
    return zero

  def body(index: jax.Array, total: PyTree) -> PyTree:
    start = jnp.minimum(index * size, n - size)
    rows, weight = _slice((data, weights), start, size)
    # The last chunk starts early; what was counted already counts no more.
    is_new = start + jnp.arange(size) >= index * size
    weight = jnp.where(is_new, _widened(weight), 0)
    values = fn(blank_rows(rows, weight), weight)
    return jax.tree.map(lambda t, v: t + v.astype(t.dtype), total, values)

  return jax.lax.fori_loop(0, -(-n // size), body, zero)


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
    The sum, float32 or wider; zeros for no rows.

  Raises:
    ValueError: chunk_size < 1, or leaves of different lengths.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> data = {"x": jnp.array([1.0, 2.0, 30.0])}
    >>> weights = jnp.array([1.0, 0.5, 0.0])
    >>> total = ju.core.sum_rows(
    ...   lambda row: row["x"] ** 2, data, weights, chunk_size=2)
    >>> float(total)  # 1 + 0.5 * 4.
    3.0
  """

  def weighted(rows: PyTree, weight: jax.Array) -> PyTree:
    def add(v: jax.Array) -> jax.Array:
      w = weight.reshape(weight.shape + (1,) * (v.ndim - 1))
      return jnp.where(w > 0, w * _widened(v), 0).sum(axis=0)

    return jax.tree.map(add, jax.vmap(fn)(rows))

  return sum_chunks(weighted, data, weights, chunk_size=chunk_size)


def _widened(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _slice(data: PyTree, start: jax.Array | int, size: int) -> PyTree:
  return jax.tree.map(
    lambda x: jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, size), data
  )


def _zeros(
  fn: Callable[..., PyTree],
  args: PyTree,
  size: int,
  kind: Callable[[jax.Array], tuple[tuple[int, ...], Any]],
) -> PyTree:
  """Zeros for the results of `fn` on `size` rows, of the shape and dtype `kind`.

  Made from the results themselves, of which the compiler keeps nothing, because
  a loop's carry has to vary over the same axes of a `shard_map` as they do.
  """

  def like(leaf: jax.Array) -> jax.Array:
    shape, dtype = kind(leaf)
    return jnp.zeros_like(leaf, shape=shape, dtype=dtype)

  if checks.num_rows(args) < size:  # No rows at all.
    args = jax.tree.map(
      lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), args
    )
  make = jax.jit(lambda a: jax.tree.map(like, fn(*_slice(a, 0, size))))
  return make(args)
