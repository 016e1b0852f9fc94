"""Order statistics over all entries of a pytree, without putting them in a row.

Sorting P numbers takes them to one place first; these are counts, so that
leaves may lie on a mesh as they are and nothing of their size is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree

_SMALL = 2**14  # Leaves below are counted together: fewer kernels to compile.
_BITS = 31


def magnitude(x: jax.Array) -> jax.Array:
  """|x| as int32 in the same order, which floats >= 0 share with their bits.

  A nan is larger than all numbers.
  """
  wide = jnp.abs(x).astype(jnp.float32)
  return jax.lax.bitcast_convert_type(wide, jnp.int32)


def from_magnitude(bits: jax.Array) -> jax.Array:
  """The float32 that `magnitude` made an int32 of."""
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def reached(keys: Sequence[jax.Array], wanted: jax.Array) -> jax.Array:
  """The largest number that so many entries reach, found bit by bit.

  Args:
    keys: int32 arrays of any shapes; entries below 0 never count.
    wanted: int32 [], >= 1; the largest entry is that of 1.

  Returns:
    int32 []; 0 where there are not so many.

  Raises:
    ValueError: 2^31 entries or more, which cannot be counted in an int32.
  """
  _check_size(keys)
  small = [k.reshape(-1) for k in keys if k.size < _SMALL]
  groups = [k for k in keys if k.size >= _SMALL]
  groups += [jnp.concatenate(small)] if small else []

  def set_bit(index: jax.Array, low: jax.Array) -> jax.Array:
    higher = low | (1 << (_BITS - 1 - index))
    counts = [(k >= higher).sum(dtype=jnp.int32) for k in groups]
    return jnp.where(sum(counts) >= wanted, higher, low)

  return jax.lax.fori_loop(0, _BITS, set_bit, jnp.zeros((), jnp.int32))


def mark_largest(scores: PyTree, count: jax.Array) -> PyTree:
  """Marks the `count` entries of largest absolute value of all leaves together.

  Args:
    scores: pytree of float arrays; a nan comes last.
    count: int32 [], >= 0; of equal entries the first in the order of the pytree
      are taken.

  Returns:
    Pytree of bool like the scores.
  """
  leaves, treedef = jax.tree.flatten(scores)
  _check_size(leaves)
  keys = [jnp.where(jnp.isnan(s), 0, magnitude(s) + 1) for s in leaves]
  least = reached(keys, jnp.maximum(count, 1))
  above = sum((k > least).sum(dtype=jnp.int32) for k in keys)
  # Among equals, earlier places are the larger keys.
  ties, place = [], sum(s.size for s in leaves)
  for k in keys:
    own = jnp.arange(k.size, dtype=jnp.int32).reshape(k.shape)
    ties.append(jnp.where(k == least, place - own, -1))
    place -= k.size
  last = reached(ties, jnp.maximum(count - above, 1))
  marked = [
    (count > 0) & ((k > least) | ((tie >= last) & (count > above)))
    for k, tie in zip(keys, ties)
  ]
  return jax.tree.unflatten(treedef, marked)


def _check_size(leaves: Sequence[jax.Array]) -> None:
  size = sum(leaf.size for leaf in leaves)
  if size >= 2**_BITS:
    raise ValueError(
      f"Expected fewer than {2**_BITS} entries to choose among, got {size}."
    )
