"""What a phase trains: the params, a path below them, or a slot."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.transform import Carry
from jaxunlearn.core.types import PyTree, Slot, Variables


def _steps_of(path: str) -> list[str]:
  return [name for name in path.split("/") if name]


def below(tree: PyTree, path: str) -> PyTree:
  """The subtree at a path; of a tree that ends above it, that end."""
  for name in _steps_of(path):
    if not hasattr(tree, "keys"):
      return tree
    tree = tree[name]
  return tree


def _with(tree: PyTree, path: list[str], value: PyTree) -> PyTree:
  if not path:
    return value
  return {**tree, path[0]: _with(tree[path[0]], path[1:], value)}


def read_target(carry: Carry, on: str | Slot) -> tuple[PyTree, PyTree]:
  """What a phase trains, and the model state that goes with it."""
  if not isinstance(on, Slot):
    variables = carry.variables
    if _steps_of(on):
      try:
        return below(variables.params, on), variables.model_state
      except KeyError as error:
        raise ValueError(
          f"Expected params below {on!r}, got {sorted(variables.params)}."
        ) from error
    return variables.params, variables.model_state
  value = carry[on]
  if isinstance(value, Variables):
    return value.params, value.model_state
  return value, {}


def write_target(
  carry: Carry, on: str | Slot, trained: PyTree, model_state: PyTree
) -> Carry:
  """The carry with it trained, in the dtypes that it had."""
  before, _ = read_target(carry, on)
  trained = jax.tree.map(narrowed, trained, before)
  if not isinstance(on, Slot):
    params = _with(carry.variables.params, _steps_of(on), trained)
    variables = carry.variables._replace(params=params, model_state=model_state)
    return carry._replace(variables=variables)
  value = carry[on]
  if isinstance(value, Variables):
    return carry.put(
      on, value._replace(params=trained, model_state=model_state)
    )
  return carry.put(on, trained)


def widened(leaf: jax.Array) -> jax.Array:
  """Half precision as float32: steps below its last place must add up."""
  is_half = leaf.dtype in (jnp.bfloat16, jnp.float16)
  return leaf.astype(jnp.float32) if is_half else leaf


def narrowed(leaf: jax.Array, like: jax.Array) -> jax.Array:
  """Back in the dtype that it had before `widened`."""
  return leaf.astype(like.dtype)


def full_precision(trained: PyTree, before: PyTree) -> list[jax.Array]:
  """The leaves that `widened` changed."""
  pairs = zip(jax.tree.leaves(trained), jax.tree.leaves(before), strict=True)
  return [wide for wide, leaf in pairs if wide.dtype != leaf.dtype]


def with_full_precision(
  trained: PyTree, before: PyTree, kept: list[jax.Array]
) -> PyTree:
  """What `full_precision` gave, in the entries that nothing has moved since."""
  leaves, tree = jax.tree.flatten(trained)
  rest = iter(kept)
  for index, leaf in enumerate(jax.tree.leaves(before)):
    if leaves[index].dtype != leaf.dtype:
      wide = next(rest)
      is_same = narrowed(wide, leaf) == leaf
      leaves[index] = jnp.where(is_same, wide, leaves[index])
  return jax.tree.unflatten(tree, leaves)
