"""How weights lie on a mesh of devices, by rule.

A rule names paths and says which axes of the mesh split the axes of such a leaf.
While a program is traced for a mesh, `placed` lays what is like the params
(gradients, moments, importances, a fresh network) where the params lie, and
`placed_rows` splits the rows of a batch; the compiler alone would hold whole
copies of them on each device.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

if TYPE_CHECKING:
  from jaxunlearn.core.transform import Transform

PyTree = Any
Rule = str | tuple[str | EllipsisType | None, ...]
Rules = Mapping[str, Rule]

# Of any model: a leaf is stored in shares of its longest side.
FSDP: Rules = {r".*": "fsdp"}
# Of layers as Flax names them: outputs over "tensor", inputs over "fsdp".
LAYERS: Rules = {r"kernel": (..., "fsdp", "tensor"), r".*": "fsdp"}
# The axes of a mesh that may split the rows of a batch.
_ROWS = ("batch", "fsdp")
_layout: contextvars.ContextVar[tuple[jax.sharding.Mesh, Rules] | None]
_layout = contextvars.ContextVar("layout", default=None)


def shardings(
  mesh: jax.sharding.Mesh, tree: PyTree, rules: Rules = FSDP
) -> PyTree:
  """A sharding for every leaf, by the first rule that its path ends in.

  Args:
    mesh: with the axes that the rules name; an axis that it does not have
      splits nothing.
    tree: `Variables`, params or an optimiser's state; or their shapes.
    rules: pattern of a path's end -> an axis of the mesh for each axis of the
      leaf, None where it is not split, `...` for all axes before; or one axis of
      the mesh, for the longest side that its devices divide.

  Returns:
    A pytree of `NamedSharding`s. A leaf that no rule names, or an axis that the
    devices do not divide, is whole on each device.

  Raises:
    ValueError: a rule for a leaf of another number of axes.
  """

  def fits(axis: Any, size: int) -> bool:
    return axis in mesh.shape and size > 0 and size % mesh.shape[axis] == 0

  def axes_of(rule: Rule, name: str, shape: tuple[int, ...]) -> list[Any]:
    if isinstance(rule, str):
      sides = [i for i, size in enumerate(shape) if fits(rule, size)]
      longest = max(sides, key=lambda i: shape[i], default=None)
      return [rule if i == longest else None for i in range(len(shape))]
    wanted = list(rule)
    if wanted[:1] == [...]:
      missing = len(shape) - len(wanted) + 1
      wanted = [None] * missing + wanted[1:]
    if len(wanted) != len(shape):
      raise ValueError(
        f"Expected {name} to have {len(rule)} axes for its rule {rule}, got "
        f"shape {shape}."
      )
    return [a if fits(a, size) else None for a, size in zip(wanted, shape)]

  def place(path: Any, leaf: Any) -> NamedSharding:
    name = "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
    for pattern, rule in rules.items():
      if re.search(rf"(?:^|/){pattern}$", name):
        axes = axes_of(rule, name, tuple(leaf.shape))
        return NamedSharding(mesh, PartitionSpec(*axes))
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(place, tree)


def sharded(
  transform: Transform,
  mesh: jax.sharding.Mesh,
  variables: PyTree,
  rules: Rules = FSDP,
) -> Callable[..., Any]:
  """A transform as one program that takes and leaves sharded variables.

  Args:
    transform: any method.
    mesh: see `shardings`.
    variables: the model's, or their shapes.
    rules: see `shardings`.

  Returns:
    `(variables, data, request, key) -> (variables, info)`, compiled at its
    first call; the result is that of one device up to rounding. Data is whole
    on each device, the rows of a step are shared.
  """
  lie = shardings(mesh, variables, rules)
  whole = NamedSharding(mesh, PartitionSpec())

  def run(variables, data, request, key):
    with laid_out(mesh, rules):
      return transform(variables, data, request, key)

  return jax.jit(
    run,
    in_shardings=(lie, whole, whole, whole),
    out_shardings=(lie, whole),
  )


@contextlib.contextmanager
def laid_out(mesh: jax.sharding.Mesh, rules: Rules = FSDP) -> Iterator[None]:
  """What is traced meanwhile is for this mesh, by these rules."""
  before = _layout.set((mesh, rules))
  try:
    yield
  finally:
    _layout.reset(before)


def is_spread() -> bool:
  """Whether what is being traced is for weights that lie on a mesh."""
  return _layout.get() is not None


def placed(tree: PyTree) -> PyTree:
  """A tree like the params, or around one, laid out as they are."""
  layout = _layout.get()
  if layout is None:
    return tree
  return jax.lax.with_sharding_constraint(
    tree, shardings(layout[0], tree, layout[1])
  )


def placed_rows(rows: PyTree) -> PyTree:
  """Rows [B, ...] of a step, shared by the devices that divide them."""
  layout = _layout.get()
  if layout is None:
    return rows
  mesh = layout[0]

  def place(leaf: jax.Array) -> jax.Array:
    axes = tuple(axis for axis in _ROWS if axis in mesh.shape)
    while axes and leaf.shape[0] % math.prod(mesh.shape[a] for a in axes):
      axes = axes[1:]
    where = NamedSharding(mesh, PartitionSpec(axes or None))
    return jax.lax.with_sharding_constraint(leaf, where)

  return jax.tree.map(place, rows)
