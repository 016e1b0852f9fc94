"""Keys by name, so that no two uses of one key meet."""

from __future__ import annotations

import zlib

import jax


def derive(key: jax.Array, name: str) -> jax.Array:
  """The key for one purpose: `key` folded with a hash of its name.

  With partitionable threefry `fold_in(key, i)` equals `split(key)[i]`, so that
  small integers collide with the keys that a chain splits off; a hash of a word
  does not.

  Args:
    key: a typed PRNG key, or keys of any shape.
    name: what the key is for, such as "mask".

  Example:
    >>> key = jax.random.key(0)
    >>> bool((derive(key, "mask") == derive(key, "noise")).all())
    False
  """
  # The highest bit keeps it clear of the counts that `split` uses.
  tag = zlib.crc32(name.encode()) | 0x80000000
  fold = lambda k: jax.random.fold_in(k, tag)
  for _ in range(key.ndim):
    fold = jax.vmap(fold)
  return fold(key)
