"""A replay buffer of fixed size as a pure pytree.

Every row that is offered draws a random priority; the buffer keeps those of the
highest priority. That is reservoir sampling (Vitter 1985) in the form of
Efraimidis and Spirakis (2006): after any number of offers each row of the
stream is in the buffer with the same probability, and a whole event's rows
enter in one sort instead of one after the other. The class-balanced rule ranks
by the place within the class first. Purging a row erases it, number, priority
and contents; the rows that stay are still a uniform sample of what remains. A
row turned away is gone: what comes after a purge fills the freed slots and may
be kept more often than what came before it, as may a row offered again.

Difference from the released code of arXiv:2408.11374: that offers a row once an
epoch, so that it may be held several times; it moves the rest together after a
purge, keeps counting as if the rows were there, and so replays all-zero images
labelled 0. Here an explicit mask says which slots hold a row, and each row is
held once.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.sampling import blank_rows
from jaxunlearn.core.types import PyTree

RULES = ("reservoir", "balanced")


class Buffer(NamedTuple):
  """Rows kept from the past.

  Attributes:
    rows: pytree of arrays [K, ...], copies of rows; zeros in empty slots.
    row_id: int32 [K], the row's number in the data; -1 in empty slots.
    priority: float32 [K], in [0, 1); 0 in empty slots.
    valid: bool [K], whether the slot holds a row.
  """

  rows: PyTree
  row_id: jax.Array
  priority: jax.Array
  valid: jax.Array


def empty_buffer(capacity: int, data: PyTree) -> Buffer:
  """A buffer without rows.

  Args:
    capacity: static, K >= 1.
    data: pytree of arrays [N, ...]; only shapes and dtypes matter.

  Raises:
    ValueError: capacity < 1, leaves of different lengths.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> buffer = continual.empty_buffer(3, {"x": jnp.ones((10, 2))})
    >>> buffer.rows["x"].shape, buffer.row_id.tolist()
    ((3, 2), [-1, -1, -1])
  """
  if capacity < 1:
    raise ValueError(f"Expected buffer_size >= 1, got {capacity}.")
  checks.num_rows(data)
  rows = jax.tree.map(
    lambda x: jnp.zeros((capacity, *jnp.shape(x)[1:]), jnp.asarray(x).dtype),
    data,
  )
  return Buffer(
    rows,
    jnp.full(capacity, -1, jnp.int32),
    jnp.zeros(capacity, jnp.float32),
    jnp.zeros(capacity, bool),
  )


def offer(
  buffer: Buffer,
  data: PyTree,
  mask: jax.Array,
  key: jax.Array,
  *,
  rule: str = "reservoir",
) -> Buffer:
  """Offers rows of the data to the buffer; those it holds already stay as is.

  Args:
    buffer: of capacity K.
    data: pytree of arrays [N, ...]; "balanced" reads `data["label"]`. Rows that
      are not offered are not read.
    mask: bool [N], the rows offered.
    key: draws the priorities.
    rule: static. "reservoir", each row ever offered (once, and none purged) is
      as likely to be held as any other; "balanced", as many rows of each class
      as there are and fit, which row of a class at random. Of more classes than
      slots, K random classes keep a row.

  Returns:
    The buffer; of an empty mask the same rows, perhaps in other slots.

  Raises:
    ValueError: an unknown rule, rows of another shape or dtype than the
      buffer's, a mask that is not bool [N].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> data = {"x": jnp.arange(5.0)}
    >>> buffer = continual.empty_buffer(3, data)
    >>> mask = jnp.array([True, True, True, True, False])
    >>> buffer = continual.offer(buffer, data, mask, jax.random.key(0))
    >>> int(buffer.valid.sum()), 4.0 in buffer.rows["x"].tolist()
    (3, False)
  """
  checks.one_of(RULES, rule=rule)
  checks.request(data, mask, "mask")
  checks.hard_request(mask, "mask")
  _same_rows(buffer.rows, data)
  n, capacity = mask.shape[0], buffer.valid.shape[0]
  # Index n is out of bounds, and dropped: an empty slot holds no row.
  held = jnp.where(buffer.valid, buffer.row_id, n)
  is_held = jnp.zeros(n, bool).at[held].set(True, mode="drop")
  offered = jnp.asarray(mask) & ~is_held
  valid = jnp.concatenate([buffer.valid, offered])
  drawn = jax.random.uniform(key, (n,))
  priority = jnp.concatenate([buffer.priority, drawn])
  priority = jnp.where(valid, priority, -1.0)
  if rule == "balanced":
    label = jnp.concatenate([buffer.rows["label"], data["label"]])
    order = jnp.lexsort((-priority, _rank_in_class(label, priority), ~valid))
  else:
    order = jnp.lexsort((-priority, ~valid))
  kept = order[:capacity]
  is_valid = valid[kept]
  is_new = kept >= capacity
  slot = jnp.minimum(kept, capacity - 1)
  row = jnp.maximum(kept - capacity, 0)

  def choose(old: jax.Array, fresh: jax.Array) -> jax.Array:
    new = is_new.reshape(is_new.shape + (1,) * (old.ndim - 1))
    return jnp.where(new, jnp.asarray(fresh)[row], old[slot])

  rows = jax.tree.map(choose, buffer.rows, data)
  number = jnp.where(is_new, row, buffer.row_id[slot]).astype(jnp.int32)
  merged = Buffer(rows, number, priority[kept], is_valid)
  return _erase(merged, ~is_valid)


def purge(buffer: Buffer, forget_mask: jax.Array) -> Buffer:
  """Erases the rows of a request from the buffer.

  Args:
    buffer: of capacity K.
    forget_mask: bool [N], by the row numbers of the data from which the buffer
      was filled. `task == t` purges a task.

  Returns:
    The buffer with those slots empty: contents are zeros, not hidden. The same
    bits for a request of which it holds nothing.

  Raises:
    ValueError: forget_mask is not bool [N], or outside jit too short for a row
      that is held.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> data = {"x": jnp.array([7.0, 8.0])}
    >>> buffer = continual.empty_buffer(2, data)
    >>> mask = jnp.ones(2, bool)
    >>> buffer = continual.offer(buffer, data, mask, jax.random.key(0))
    >>> buffer = continual.purge(buffer, jnp.array([True, False]))
    >>> sorted(buffer.rows["x"].tolist()), sorted(buffer.row_id.tolist())
    ([0.0, 8.0], [-1, 1])
  """
  checks.hard_request(forget_mask)
  shape = jnp.shape(forget_mask)
  if len(shape) != 1:
    raise ValueError(f"Expected forget_mask of shape [N], got {shape}.")
  if checks.is_concrete(buffer.row_id):
    needed = int(np.asarray(buffer.row_id).max()) + 1
    if shape[0] < needed:
      raise ValueError(
        f"Expected forget_mask of at least {needed} rows, got {shape[0]}."
      )
  hit = jnp.asarray(forget_mask)[jnp.maximum(buffer.row_id, 0)]
  return _erase(buffer, hit & buffer.valid)


def draw(
  buffer: Buffer, size: int, key: jax.Array
) -> tuple[PyTree, jax.Array, jax.Array]:
  """Draws rows at random, without replacement.

  Args:
    buffer: of capacity K.
    size: static, rows to draw.
    key: PRNG key.

  Returns:
    Rows [size, ...], their slots int32 [size] and their weights float32 [size]:
    1, and 0 (with rows of zeros) where the buffer holds too few.

  Raises:
    ValueError: size < 1.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> data = {"x": jnp.array([7.0, 8.0])}
    >>> buffer = continual.empty_buffer(2, data)
    >>> mask = jnp.ones(2, bool)
    >>> buffer = continual.offer(buffer, data, mask, jax.random.key(0))
    >>> rows, slot, weight = continual.draw(buffer, 3, jax.random.key(1))
    >>> sorted(rows["x"].tolist()), weight.tolist()
    ([0.0, 7.0, 8.0], [1.0, 1.0, 0.0])
  """
  checks.counts(size=size)
  capacity = buffer.valid.shape[0]
  lot = jnp.where(
    buffer.valid, jax.random.uniform(key, buffer.valid.shape), -1.0
  )
  _, slot = jax.lax.top_k(lot, min(size, capacity))
  weight = buffer.valid[slot].astype(jnp.float32)
  if size > capacity:
    extra = size - capacity
    slot = jnp.concatenate([slot, jnp.zeros(extra, slot.dtype)])
    weight = jnp.concatenate([weight, jnp.zeros(extra)])
  rows = jax.tree.map(lambda leaf: leaf[slot], buffer.rows)
  return blank_rows(rows, weight), slot.astype(jnp.int32), weight


def _rank_in_class(label: jax.Array, priority: jax.Array) -> jax.Array:
  """How many rows of the same class have a higher priority; int32 [M].

  Invalid rows have a negative priority and so the last ranks.
  """
  size = label.shape[0]
  order = jnp.lexsort((-priority, label))
  place = jnp.arange(size, dtype=jnp.int32)
  ordered = label[order]
  starts = jnp.concatenate(
    [jnp.ones(min(size, 1), bool), ordered[1:] != ordered[:-1]]
  )
  first = jax.lax.cummax(jnp.where(starts, place, 0))
  return jnp.zeros(size, jnp.int32).at[order].set(place - first)


def _erase(buffer: Buffer, gone: jax.Array) -> Buffer:
  return Buffer(
    blank_rows(buffer.rows, ~gone),
    jnp.where(gone, -1, buffer.row_id),
    jnp.where(gone, 0.0, buffer.priority),
    buffer.valid & ~gone,
  )


def _same_rows(rows: PyTree, data: PyTree) -> None:
  kind = lambda tree: {
    jax.tree_util.keystr(path): (leaf.shape[1:], jnp.asarray(leaf).dtype.name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  found, wanted = kind(data), kind(rows)
  if found != wanted:
    raise ValueError(
      f"Expected rows like those of the buffer, {wanted}, got {found}."
    )
