"""Rounding of weights: does it undo what unlearning changed?

Source: Zhang et al. (2024), "Catastrophic Failure of LLM Unlearning via
Quantization", arXiv:2410.16454 (ICLR 2025): an update smaller than half a step of
the grid is rounded away, and the original model's knowledge is back. The NF4
table is that of Dettmers et al. (2023), arXiv:2305.14314.

Class: heuristic audit, deterministic; it reads no data. What it brings back is
`recovery(metric(unlearned), metric(quantised unlearned), metric(original))`.
Model state: left alone; BatchNorm's statistics are not estimated anew.
Cost: one pass over the weights.

Differences from the released code, which quantises with a library for GPUs: the
grid is simulated (the arrays keep their dtype), scales are kept exactly and not
quantised again, and blocks run along the inputs of one output channel. For dense
kernels these are the blocks of the transposed matrix that PyTorch stores; within
a convolution's channel the order of the weights differs.

In Flax the OUTPUT channel of dense and convolution kernels is the LAST axis, in
PyTorch the first: `channel_axis` says which one it is.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import _rows

Group = str | int
Select = Callable[[str, jax.Array], bool]
GROUPS = ("tensor", "channel")


def is_matrix(path: str, leaf: jax.Array) -> bool:
  """Selects arrays of two axes or more: no biases, no scales of norms.

  Under `vmap` over stacked models an array has its own axes only; stacked and
  not mapped, every array has one more and the biases of a stack look like
  matrices.
  """
  del path
  return leaf.ndim >= 2


def quantize(
  params: PyTree,
  bits: int | jax.Array,
  group: Group = "channel",
  *,
  symmetric: bool = False,
  select: Select = is_matrix,
  channel_axis: int = -1,
) -> PyTree:
  """Rounds weights to the grid of a signed integer of so many bits.

  For each group g of weights, with half = 2^(bits - 1):

      step_g = max |w_g| / half,
      Q(w) = step_g * clip(round(w / step_g), -half, half - 1)

  so that a largest weight that is positive loses one step, and quantising again
  may round again. With `symmetric` the step is max |w_g| / (half - 1), nothing
  is clipped and quantising again changes nothing. Ties round to even.

  Args:
    params: pytree of arrays, or `Variables`, of which only `.params` changes.
    bits: >= 2; may be traced: `vmap` over [8, 4, 3] is one program.
    group: static; which weights share a scale: "tensor", all of an array;
      "channel", those of an output channel; an int k, blocks of k in row-major
      order within a channel. An array of fewer than two axes is one channel.
    symmetric: static; see above.
    select: static; `(path, array) -> bool` with paths like "Dense_0/kernel".
      What it does not choose, and what is not float, comes back as it is.
    channel_axis: static; the output axis, for "channel" and blocks.

  Returns:
    As `params`, same dtypes; the computation is in at least float32. A group
    of zeros stays zero.

  Raises:
    ValueError: (concrete) bits < 2 or no integer, (concrete) params that are
      not finite, an unknown group, a block size below 1, an axis that a selected
      array does not have.

  Example:
    >>> weights = {"kernel": jnp.array([[0.7, -0.35, 0.02, 0.1]])}
    >>> print(quantize(weights, 4, "tensor")["kernel"])
    [[ 0.6125 -0.35    0.      0.0875]]
  """
  half = _half_of(bits)

  def rounded(leaf: jax.Array) -> jax.Array:
    scale = _largest(leaf, group, channel_axis) / _positive(half, symmetric)
    return scale * _codes(leaf, scale, half, symmetric)

  return _map_selected(rounded, params, group, select, channel_axis)


def quantize_nf4(
  params: PyTree,
  group: Group = 64,
  *,
  select: Select = is_matrix,
  channel_axis: int = -1,
) -> PyTree:
  """Rounds weights to the 16 values of NF4, scaled by the group's largest.

  Args:
    params: as of `quantize`.
    group: as of `quantize`; blocks of 64 are what NF4 is used with.
    select: as of `quantize`.
    channel_axis: as of `quantize`.

  Returns:
    As `params`, same dtypes. The largest weight of a group is kept exactly, so
    that quantising again changes nothing; a group of zeros stays zero.

  Raises:
    ValueError: as `quantize`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> weights = {"kernel": jnp.array([[1.0], [0.5], [0.01], [-0.7]])}
    >>> rounded = attacks.quantize_nf4(weights)["kernel"]
    >>> [round(w, 3) for w in rounded.ravel().tolist()]
    [1.0, 0.441, 0.0, -0.696]
  """

  def rounded(leaf: jax.Array) -> jax.Array:
    table = jnp.asarray(nf4_table(), leaf.dtype)
    scale = _largest(leaf, group, channel_axis)
    middles = (table[1:] + table[:-1]) / 2
    code = jnp.searchsorted(middles, leaf / jnp.where(scale > 0, scale, 1))
    return scale * table[code]

  return _map_selected(rounded, params, group, select, channel_axis)


@functools.cache
def nf4_table() -> tuple[float, ...]:
  """The 16 NF4 values: normal quantiles with 0 among them, scaled to [-1, 1].

  Eight quantiles above 0 and seven below, evenly spaced in probability from 1/2
  to the mean of 1 - 1/30 and 1 - 1/32.

  Example:
    >>> from jaxunlearn import attacks
    >>> [round(value, 3) for value in attacks.nf4_table()[6:10]]
    [-0.091, 0.0, 0.08, 0.161]
  """
  quantile = statistics.NormalDist().inv_cdf
  outer = 1 - (1 / 30 + 1 / 32) / 2

  def side(count: int) -> list[float]:
    spacing = (outer - 0.5) / count
    return [quantile(0.5 + spacing * (i + 1)) for i in range(count)]

  above, below = side(8), side(7)
  values = [-v for v in reversed(below)] + [0.0] + above
  return tuple(v / above[-1] for v in values)


def quantize_stacked(
  params: PyTree,
  bits: int | jax.Array,
  group: Group = "channel",
  *,
  below: str = "blocks",
  **options: Any,
) -> PyTree:
  """`quantize` of weights that are stacked over layers, each layer by itself.

  As decoders have them: scales are not shared by layers, and norms, which are
  vectors of a layer, stay. What is not below the name, embeddings and head,
  comes back as it is.

  Args:
    params: a dict of pytrees, or `Variables`.
    bits: as of `quantize`.
    group: as of `quantize`.
    below: static; the entry that is rounded, leaves [layers, ...].
    **options: the other keyword arguments of `quantize`.

  Raises:
    ValueError: no such entry; as `quantize`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> layer = jnp.array([[0.7, -0.35, 0.02, 0.1]])
    >>> params = {"blocks": {"w": jnp.stack([layer, 2 * layer])}, "head": layer}
    >>> rounded = attacks.quantize_stacked(params, 4, "tensor")
    >>> print(rounded["blocks"]["w"][1])
    [[ 1.225 -0.7    0.     0.175]]
  """
  if isinstance(params, Variables):
    made = quantize_stacked(params.params, bits, group, below=below, **options)
    return params._replace(params=made)
  if below not in params:
    raise ValueError(
      f"Expected params with {below!r}, got {', '.join(map(repr, params))}."
    )
  checks.finite(params[below], below)
  one = lambda layer: quantize(layer, bits, group, **options)
  return {**params, below: jax.vmap(one)(params[below])}


def bucket_survival(
  original: PyTree,
  unlearned: PyTree,
  bits: int | jax.Array,
  group: Group = "channel",
  *,
  symmetric: bool = False,
  select: Select = is_matrix,
  channel_axis: int = -1,
) -> jax.Array:
  """Share of weights that rounding puts back where the original had them.

  Both models are rounded on the ORIGINAL's grid: a weight survives in its bucket
  if the codes are equal. Better: that of the retrained model; near 1 rounding
  erases most of what unlearning did.

  Args:
    original: pytree of arrays, or `Variables`: the original model.
    unlearned: the unlearned one, same structure.
    bits: as of `quantize`.
    group: as of `quantize`.
    symmetric: as of `quantize`.
    select: as of `quantize`.
    channel_axis: as of `quantize`.

  Returns:
    float32 [], in [0, 1], over all selected weights; nan if there are none. In a
    group that is zero in the original only zeros survive.

  Raises:
    ValueError: the two do not have the same leaves and shapes; as `quantize`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> original = {"kernel": jnp.array([[1.0, 0.3, -0.6, 0.0]])}
    >>> unlearned = {"kernel": jnp.array([[1.0, 0.31, -0.2, 0.01]])}
    >>> float(attacks.bucket_survival(original, unlearned, 4, "tensor"))
    0.75
  """
  half = _half_of(bits)
  original, unlearned = (
    p.params if isinstance(p, Variables) else p for p in (original, unlearned)
  )
  checks.same_structure(unlearned, original, "unlearned")
  checks.finite(unlearned, "unlearned")
  kept, total = [jnp.zeros(())], 0

  def compare(leaf: jax.Array, other: jax.Array) -> None:
    nonlocal total
    scale = _largest(leaf, group, channel_axis) / _positive(half, symmetric)
    equal = _codes(leaf, scale, half, symmetric) == _codes(
      other, scale, half, symmetric
    )
    # Counted in integers: a float32 sum of ones ends at 2^24.
    kept.append(equal.sum(dtype=jnp.int32).astype(jnp.float32))
    total += leaf.size

  others = iter(jax.tree.leaves(unlearned))
  for path, leaf in jax.tree_util.tree_leaves_with_path(original):
    other = jnp.asarray(next(others))
    if _chosen(path, jnp.asarray(leaf), select):
      _check_leaf(path, leaf, group, channel_axis, "original")
      compare(_rows.widened(leaf, "leaf"), _rows.widened(other, "other"))
  return sum(kept, jnp.zeros(())) / (total or jnp.nan)


def _map_selected(fn, params, group, select, channel_axis) -> Any:
  """`fn` of the selected leaves, in float32 or wider and back."""
  if isinstance(params, Variables):
    changed = _map_selected(fn, params.params, group, select, channel_axis)
    return params._replace(params=changed)

  def change(path: Any, leaf: Any) -> jax.Array:
    leaf = arrays("leaf [...]", leaf)
    if not _chosen(path, leaf, select):
      return leaf
    _check_leaf(path, leaf, group, channel_axis, "params")
    return fn(_rows.widened(leaf, "leaf")).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(change, params)


def _chosen(path: Any, leaf: jax.Array, select: Select) -> bool:
  name = jax.tree_util.keystr(path, simple=True, separator="/")
  return jnp.issubdtype(leaf.dtype, jnp.floating) and select(name, leaf)


def _check_leaf(path, leaf, group, channel_axis, name) -> None:
  where = name + jax.tree_util.keystr(path)
  checks.finite(leaf, where)
  if isinstance(group, int) and not isinstance(group, bool):
    checks.counts(group=group)
  else:
    checks.one_of(GROUPS, group=group)
  ndim = jnp.ndim(leaf)
  if group != "tensor" and ndim >= 2 and not -ndim <= channel_axis < ndim:
    raise ValueError(
      f"Expected channel_axis to be an axis of {where}, which has {ndim}, got "
      f"channel_axis={channel_axis}."
    )


def _half_of(bits: int | jax.Array) -> jax.Array:
  """2^(bits - 1), exactly."""
  bits = jnp.asarray(arrays("bits [...]", bits))
  if not jnp.issubdtype(bits.dtype, jnp.integer):
    raise ValueError(f"Expected bits to be an integer, got dtype {bits.dtype}.")
  if checks.is_concrete(bits) and (np.asarray(bits) < 2).any():
    raise ValueError(f"Expected bits >= 2, got bits={bits}.")
  return jnp.ldexp(jnp.float32(1), bits - 1)


def _positive(half: jax.Array, symmetric: bool) -> jax.Array:
  """The code of the largest weight."""
  return half - 1 if symmetric else half


def _largest(leaf: jax.Array, group: Group, channel_axis: int) -> jax.Array:
  """max |w| of each weight's group, broadcastable to `leaf`."""
  size = jnp.abs(leaf)
  if group == "tensor" or (group == "channel" and leaf.ndim < 2):
    return jnp.broadcast_to(size.max(initial=0.0), (1,) * leaf.ndim)
  if isinstance(group, str):
    others = set(range(leaf.ndim)) - {channel_axis % leaf.ndim}
    return size.max(axis=tuple(others), keepdims=True, initial=0.0)
  channels = (
    size[None] if leaf.ndim < 2 else jnp.moveaxis(size, channel_axis, 0)
  )
  rows = channels.reshape(channels.shape[0], -1)
  length = rows.shape[1]
  blocks = -(-length // group)
  padded = jnp.pad(rows, ((0, 0), (0, blocks * group - length)))
  largest = padded.reshape(-1, blocks, group).max(axis=2, initial=0.0)
  spread = jnp.repeat(largest, group, axis=1)[:, :length]
  spread = spread.reshape(channels.shape)
  return spread[0] if leaf.ndim < 2 else jnp.moveaxis(spread, 0, channel_axis)


def _codes(
  leaf: jax.Array, scale: jax.Array, half: jax.Array, symmetric: bool
) -> jax.Array:
  """Integers of the grid as floats; the sign where the grid has no step."""
  code = jnp.round(leaf / jnp.where(scale > 0, scale, 1))
  low = 1 - half if symmetric else -half
  return jnp.where(scale > 0, jnp.clip(code, low, half - 1), jnp.sign(leaf))
