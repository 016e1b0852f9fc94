"""Random keys by name, so that no two uses share one."""

from __future__ import annotations

import zlib

import jax


def derive(key: jax.Array, name: str) -> jax.Array:
  """The key of one use, by its name.

  Derive from a key by name only: `jax.random.split` and `fold_in` of small
  integers give the same keys as each other, and are for keys that nothing is
  derived from.

  Args:
    key: typed PRNG key, [] or, under `vmap`, one of many.
    name: what it is for; static. Other names, other keys (up to a collision of
      CRC-32, one in four billion pairs).

  Returns:
    A key of the same type.

  Example:
    >>> key = jax.random.key(0)
    >>> bool(derive(key, "train") == derive(key, "measure"))
    False
  """
  return jax.random.fold_in(key, zlib.crc32(name.encode()))
