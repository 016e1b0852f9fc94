"""Random keys by name, so that no two uses share one."""

from __future__ import annotations

import zlib

import jax

from jaxunlearn.core import checks


def derive(key: jax.Array, name: str) -> jax.Array:
  """The key of one use, by its name.

  Derive from a key by name only: `jax.random.split` and `fold_in` of small
  integers give the same keys as each other, and are for keys that nothing is
  derived from.

  Args:
    key: typed PRNG key, or keys of any shape.
    name: what it is for; static. Other names, other keys (up to a collision of
      CRC-32, one in four billion pairs).

  Returns:
    A key of the same type and shape.

  Example:
    >>> key = jax.random.key(0)
    >>> bool(derive(key, "train") == derive(key, "measure"))
    False
  """
  checks.typed_key(key, shape=getattr(key, "shape", ()))
  if not isinstance(name, str):
    raise ValueError(f"Expected name to be a text, got {name!r}.")
  tag = zlib.crc32(name.encode())
  fold = lambda k: jax.random.fold_in(k, tag)
  for _ in range(key.ndim):
    fold = jax.vmap(fold)
  return fold(key)
