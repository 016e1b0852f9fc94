"""Integers of the caller, which may be wider than those of JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks


def as_given(values: Any, name: str) -> Any:
  """Integers of the caller with all their digits, before JAX narrows them.

  Args:
    values: integers, a sequence of them, or traced ones.
    name: what the message calls them.

  Returns:
    A NumPy array, at least 1-D; what is traced as an array of JAX.

  Raises:
    ValueError: of another dtype, or beyond 64 bits.
  """
  if all(map(checks.is_concrete, jax.tree.leaves(values))):
    found: Any = np.atleast_1d(np.asarray(values))
  else:
    found = jnp.atleast_1d(jnp.asarray(values))
  if found.size == 0:
    found = found.astype(np.int32)
  if not jnp.issubdtype(found.dtype, jnp.integer):
    raise ValueError(
      f"Expected {name} of integer dtype, got {_kind_of(found)}."
    )
  return found


def narrowed(tree: Any, name: str) -> None:
  """No integer of NumPy loses its upper half when JAX takes the arrays over.

  Without x64 JAX keeps the lower 32 bits of an integer of 64, so that two ids
  become one. Nothing is looked at that is traced or JAX's already.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if not checks.is_concrete(leaf) or isinstance(leaf, jax.Array):
      continue
    values = np.asarray(leaf)
    if values.dtype.kind not in "iu" or values.size == 0:
      continue
    kept = jax.dtypes.canonicalize_dtype(values.dtype)
    if kept == values.dtype:
      continue
    info, low, high = np.iinfo(kept), int(values.min()), int(values.max())
    if low < info.min or high > info.max:
      raise ValueError(
        f"Expected {name}{jax.tree_util.keystr(path)} to fit into {kept}, got "
        f"{low} .. {high}; number them anew, or enable jax_enable_x64."
      )


def _kind_of(values: Any) -> str:
  if values.dtype != object:
    return str(values.dtype)
  # NumPy takes whole numbers beyond 64 bits for objects.
  return str(max(values.flat, key=lambda v: isinstance(v, int)))
