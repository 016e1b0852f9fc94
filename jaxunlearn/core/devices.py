"""Meshes of devices, and how many rows or lanes fit a budget of memory.

Two ways to be parallel, alone or together on one mesh: over lanes (models,
requests, seeds), which never talk to each other, and over the batch of a step,
whose gradients are averaged. `map_many`, `train_many` and `unlearn_many` take
the mesh. Over several hosts call `jax.distributed.initialize` first; a mesh of
`jax.devices()` is then global and nothing else changes.

The budgets look at what the compiler reserves: no program is run. Counted are
a program's temporaries and its results, on each device; not its arguments,
which are there in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree


def make_mesh(
  devices: Sequence[jax.Device] | None = None, **axes: int
) -> jax.sharding.Mesh:
  """A mesh of named axes.

  Args:
    devices: what to spread over, `jax.devices()` if None. Neighbours end up on
      the last axis, so put the batch there: its devices talk to each other.
    **axes: name=size; one size may be -1, for all devices that are left.

  Returns:
    The mesh.

  Raises:
    ValueError: no axes, a size below 1, or sizes whose product is not the
      number of devices.

  Example:
    >>> make_mesh(jax.devices()[:1], models=-1, batch=1).axis_names
    ('models', 'batch')
  """
  found = list(jax.devices() if devices is None else devices)
  sizes = list(axes.values())
  if sizes.count(-1) == 1:
    rest = math.prod(size for size in sizes if size != -1)
    if rest > 0:
      sizes[sizes.index(-1)] = len(found) // rest
  if not sizes or min(sizes) < 1 or math.prod(sizes) != len(found):
    raise ValueError(
      f"Expected axes whose sizes multiply to the {len(found)} devices, got "
      f"{axes}."
    )
  grid = np.empty(len(found), dtype=object)
  grid[:] = found
  return jax.sharding.Mesh(grid.reshape(sizes), tuple(axes))


def spread(
  fn: Callable[..., Any],
  many: int,
  mesh: jax.sharding.Mesh | None,
  batch_axis: str | None,
) -> Callable[..., Any]:
  """`fn` of stacked arguments, its `many` lanes spread over a mesh.

  Args:
    fn: maps over the leading axis of its arguments, [M, ...] to [M, ...].
    many: M.
    mesh: None leaves `fn` as it is.
    batch_axis: see `jaxunlearn.core.training.map_many`.

  Returns:
    A function of the same signature; each device sees its share of the lanes.

  Raises:
    ValueError: a batch axis that the mesh does not have, or an M that the
      devices along the other axes do not divide.
  """
  if mesh is None:
    if batch_axis is not None:
      raise ValueError(
        f"Expected a mesh with an axis batch_axis={batch_axis!r}, got "
        "mesh=None."
      )
    return fn
  if batch_axis is not None:
    checks.one_of(mesh.axis_names, batch_axis=batch_axis)
  lanes = tuple(axis for axis in mesh.axis_names if axis != batch_axis)
  size = math.prod(mesh.shape[axis] for axis in lanes)
  if many % size:
    raise ValueError(
      f"Expected stacked arguments that the {size} devices of mesh axes "
      f"{lanes} divide, got {many}."
    )
  spec = jax.sharding.PartitionSpec(lanes) if lanes else None
  spec = jax.sharding.PartitionSpec() if spec is None else spec
  # Lanes do not talk to each other, and the devices of a batch agree by
  # construction, so nothing needs checking.
  return jax.shard_map(
    fn, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )


def program_bytes(fn: Callable[..., Any], *args: PyTree) -> int:
  """Bytes that a compiled program reserves on a device beside its arguments.

  Args:
    fn: a pure function, jitted or not; it is compiled and not run.
    *args: arrays, or `jax.ShapeDtypeStruct`s in their place.

  Returns:
    Temporaries and results, in bytes.

  Raises:
    ValueError: a backend that does not report a program's memory.
  """
  shapes = jax.tree.map(_shape, args)
  program: Any = fn if hasattr(fn, "lower") else jax.jit(fn)
  stats = program.lower(*shapes).compile().memory_analysis()
  if stats is None:
    raise ValueError(
      "Expected a backend that reports the memory of a program, got "
      f"{jax.default_backend()!r}."
    )
  return int(stats.temp_size_in_bytes + stats.output_size_in_bytes)


def rows_for_budget(
  kernel: Callable[[PyTree, int], Any], data: PyTree, *, budget_bytes: int
) -> int:
  """The chunk of rows with which a kernel fills a budget and stays within it.

  Args:
    kernel: `(data, chunk_size) -> results`, such as `map_rows`, `sum_rows` or a
      metric of `jaxunlearn.metrics.per_example`, with all else bound.
    data: pytree of arrays [N, ...], or of `jax.ShapeDtypeStruct`s.
    budget_bytes: for the program's temporaries and results, on one device.

  Returns:
    A chunk size in 1 .. N. The program with it was compiled, and is within the
    budget; about four compilations in all, nothing is run.

  Raises:
    ValueError: a budget that one row exceeds, or an empty data set.

  Example:
    >>> from jaxunlearn.core.per_example import map_rows
    >>> square = lambda data, k: map_rows(lambda x: x @ x.T, data, chunk_size=k)
    >>> rows = jnp.ones((1000, 8, 1))
    >>> 1 <= rows_for_budget(square, rows, budget_bytes=400_000) <= 1000
    True
  """
  n = checks.num_rows(data)
  checks.counts(num_rows=n)
  # Programs for very few rows are compiled unlike those for many.
  return _largest(
    lambda k: program_bytes(lambda d: kernel(d, k), data),
    (8, 16),
    n,
    budget_bytes,
    "rows",
  )


def largest_within(
  measure: Callable[[int], int], most: int, budget_bytes: int, unit: str
) -> int:
  """A count in 1 .. most that fills a budget and stays within it.

  Goes by the straight line through one and two, measures what it finds, and
  takes less until it fits: the largest where memory grows in proportion.
  """
  return _largest(measure, (1, 2), most, budget_bytes, unit)


def _largest(
  measure: Callable[[int], int],
  points: tuple[int, int],
  most: int,
  budget_bytes: int,
  unit: str,
) -> int:
  checks.positive(budget_bytes=budget_bytes)
  low, high = (min(point, most) for point in points)
  base = measure(low)
  if base > budget_bytes and low > 1:
    high, low, base = low, 1, measure(1)
  if base > budget_bytes:
    raise ValueError(
      f"Expected budget_bytes >= {base}, what a chunk of {low} {unit} takes, "
      f"got budget_bytes={budget_bytes}."
    )
  if most == low:
    return low
  slope = max((measure(high) - base) / (high - low), 0.0)
  room = (budget_bytes - base) / slope if slope else most
  count = min(most, low + int(min(room, most)))
  while count > low:
    found = measure(count)
    if found <= budget_bytes:
      break
    # The line through what was just measured; strictly below it.
    share = (budget_bytes - base) / (found - base)
    count = low + int((count - low) * share)
  return count


def _shape(leaf: Any) -> Any:
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return leaf
  leaf = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
