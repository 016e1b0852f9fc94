"""Which weights a score marks: the largest entries over a whole pytree."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree


def largest(scores: PyTree, keep: float | jax.Array) -> PyTree:
  """Marks the entries of largest absolute value over all leaves together.

  Args:
    scores: pytree of float arrays, P entries altogether; a nan comes last.
    keep: in [0, 1]; floor(keep * P) entries are marked, of equal ones the first
      in the order of the pytree. May be traced, and is then a float32, whose
      product may round to the next number.

  Returns:
    Pytree of bool like the scores.

  Raises:
    ValueError: a pytree without leaves.
  """
  leaves, treedef = jax.tree.flatten(scores)
  if not leaves:
    raise ValueError("Expected scores to hold arrays, got an empty pytree.")
  flat = jnp.concatenate(
    [jnp.abs(s).astype(jnp.float32).reshape(-1) for s in leaves]
  )
  if checks.is_concrete(keep):
    count = jnp.asarray(math.floor(float(keep) * flat.size), jnp.int32)
  else:
    count = jnp.floor(keep * flat.size).astype(jnp.int32)
  order = jnp.argsort(-flat, stable=True)
  marked = (
    jnp.zeros(flat.size, bool).at[order].set(jnp.arange(flat.size) < count)
  )
  ends = [0]
  for s in leaves:
    ends.append(ends[-1] + s.size)
  return jax.tree.unflatten(
    treedef,
    [marked[a:b].reshape(s.shape) for a, b, s in zip(ends, ends[1:], leaves)],
  )
