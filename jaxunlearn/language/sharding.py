"""How a decoder's weights lie on a mesh of devices.

Columns of q, k, v, gate and up, and rows of o and down, over the axis "tensor":
heads and hidden units are whole on a device, and a block sums over devices
twice. The other side over "fsdp", which stores a share and gathers it for use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree

Rules = Mapping[str, tuple[str | None, ...]]

# A pattern of paths and the mesh axis of each axis of the leaf.
RULES: Rules = {
  r"embed/embedding": ("tensor", "fsdp"),
  r"positions/embedding": (None, "fsdp"),
  r"(q|k|v|gate|up)/kernel": (None, "fsdp", "tensor"),
  r"(q|k|v|gate|up)/bias": (None, "tensor"),
  r"(o|down)/kernel": (None, "tensor", "fsdp"),
  r"head/kernel": ("fsdp", "tensor"),
}


def shardings(
  mesh: jax.sharding.Mesh, tree: PyTree, rules: Rules = RULES
) -> PyTree:
  """A sharding for every leaf, by the first rule that its path ends in.

  Args:
    mesh: with axes "fsdp" and "tensor", or those of the rules; an axis that it
      does not have splits nothing.
    tree: `Variables`, params or an optimiser's state; or their shapes.
    rules: pattern of a path's end -> axes of the mesh, None does not split.

  Returns:
    A pytree of `NamedSharding`s. A leaf that no rule names, or an axis that the
    devices do not divide, is whole on each device.

  Raises:
    ValueError: a rule for a leaf of another number of axes.
  """

  def place(path: Any, leaf: Any) -> NamedSharding:
    name = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
    for pattern, axes in rules.items():
      if not re.search(rf"(?:^|/){pattern}$", name):
        continue
      if len(axes) != len(leaf.shape):
        raise ValueError(
          f"Expected {name} to have {len(axes)} axes for its rule {axes}, got "
          f"shape {tuple(leaf.shape)}."
        )
      fits = [
        axis if axis in mesh.shape and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(axes, leaf.shape)
      ]
      return NamedSharding(mesh, PartitionSpec(*fits))
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(place, tree)


def sharded(
  transform: Transform,
  mesh: jax.sharding.Mesh,
  variables: PyTree,
  rules: Rules = RULES,
) -> Callable[..., Any]:
  """A transform as one program that takes and leaves sharded variables.

  Args:
    transform: any method.
    mesh: see `shardings`.
    variables: the model's, or their shapes.
    rules: see `shardings`.

  Returns:
    `(variables, data, request, key) -> (variables, info)`, compiled at its
    first call. Data is whole on each device.
  """
  lie = shardings(mesh, variables, rules)
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.jit(
    transform,
    in_shardings=(lie, whole, whole, whole),
    out_shardings=(lie, whole),
  )
