"""The primitive behind `convolution`: one trilinear form in three roles.

Output y, input x and kernel k meet in the form <y, conv(x, k)>, and each of the
three is a linear function of the other two. The primitive is that form with a
role, the operand it solves for; its derivatives are itself in another role, so
forward mode, reverse mode and any mixture of them work.

On a CPU every role is a plain forward convolution or one matrix product, and a
`vmap` over both operands is a loop; `conv.py` says why.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

# Up to this many entries the shifted slices of the input are written out for
# the weight gradient's matrix product (measured; they leave the cache beyond).
_MATMUL_ENTRIES = 2_500_000

OUTPUT, INPUT, WEIGHTS = "output", "input", "weights"


class Geometry(NamedTuple):
  """Everything static about a convolution but batch size and channels."""

  input_size: tuple[int, ...]
  kernel_size: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  input_dilation: tuple[int, ...]
  kernel_dilation: tuple[int, ...]
  groups: int

  @property
  def dilated_input_size(self) -> tuple[int, ...]:
    pairs = zip(self.input_size, self.input_dilation)
    return tuple((n - 1) * d + 1 if n else 0 for n, d in pairs)

  @property
  def dilated_kernel_size(self) -> tuple[int, ...]:
    pairs = zip(self.kernel_size, self.kernel_dilation)
    return tuple((k - 1) * d + 1 for k, d in pairs)

  @property
  def output_size(self) -> tuple[int, ...]:
    return tuple(
      max((n + sum(pad) - k) // s + 1, 0)
      for n, pad, k, s in zip(
        self.dilated_input_size,
        self.padding,
        self.dilated_kernel_size,
        self.strides,
      )
    )


# The three products. Each takes and returns arrays of its role's shapes.


def _numbers(ndim: int) -> tuple[str, str, str]:
  spatial = "DHWXYZ"[-ndim:] if ndim > 3 else "DHW"[3 - ndim :]
  return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def _conv(x, kernel, strides, padding, x_dilation, k_dilation, groups=1):
  """`lax` convolution; cropping by negative padding is done beforehand."""
  if any(low < 0 or high < 0 for low, high in padding):
    config = [(low, high, d - 1) for (low, high), d in zip(padding, x_dilation)]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [(0, 0, 0), *config, (0, 0, 0)])
    padding, x_dilation = [(0, 0)] * len(padding), None
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    lhs_dilation=x_dilation,
    rhs_dilation=k_dilation,
    dimension_numbers=_numbers(x.ndim - 2),
    feature_group_count=groups,
  )


def lax_convolution(x, kernel, g: Geometry):
  return _conv(
    x,
    kernel,
    g.strides,
    g.padding,
    g.input_dilation,
    g.kernel_dilation,
    g.groups,
  )


def _input_as_conv(y, kernel, g: Geometry):
  """The input's cotangent: y, dilated by the strides, with k turned round."""
  *size, inner, outer = kernel.shape
  kernel = jnp.flip(kernel, range(len(size)))
  kernel = kernel.reshape(*size, inner, g.groups, outer // g.groups)
  kernel = jnp.moveaxis(kernel, -3, -1)  # [..., groups, C_out / groups, inner]
  kernel = jnp.moveaxis(kernel, -3, -2)
  kernel = kernel.reshape(*size, outer // g.groups, g.groups * inner)
  # Without the barrier the flip becomes part of the convolution, which then
  # leaves the fast path inside loops.
  kernel = lax.optimization_barrier(kernel)
  padding = []
  for n, k, m, s, (low, _) in zip(
    g.dilated_input_size,
    g.dilated_kernel_size,
    g.output_size,
    g.strides,
    g.padding,
  ):
    padding.append((k - 1 - low, n + low - (m - 1) * s - 1))
  return _conv(
    y,
    kernel,
    g.input_dilation,
    padding,
    g.strides,
    g.kernel_dilation,
    g.groups,
  )


def _weights_as_conv(x, y, g: Geometry):
  """The weights' cotangent: channels are the batch, the batch is summed."""
  batch, channels = x.shape[0], x.shape[-1]
  size = x.shape[1:-1]
  x = jnp.moveaxis(x, 0, -1)  # [*spatial, C_in, B]
  x = x.reshape(*size, g.groups, channels // g.groups, batch)
  x = jnp.moveaxis(x, -2, 0).reshape(-1, *size, g.groups * batch)
  y = jnp.moveaxis(y, 0, -2)  # [*spatial', B, C_out]
  padding = []
  for n, k, m, s, (low, _) in zip(
    g.dilated_input_size,
    g.dilated_kernel_size,
    g.output_size,
    g.strides,
    g.padding,
  ):
    padding.append((low, k + (m - 1) * s - n - low))
  out = _conv(
    x,
    y,
    g.kernel_dilation,
    padding,
    g.input_dilation,
    g.strides,
    g.groups,
  )
  return jnp.moveaxis(out, 0, -2)


def _slices(x, g: Geometry):
  """The input as each kernel entry sees it: [B, *spatial', entries, C_in]."""
  config = [
    (low, high, d - 1) for (low, high), d in zip(g.padding, g.input_dilation)
  ]
  zero = jnp.zeros((), x.dtype)
  x = lax.pad(x, zero, [(0, 0, 0), *config, (0, 0, 0)])
  slices = []
  for entry in itertools.product(*map(range, g.kernel_size)):
    starts = [i * d for i, d in zip(entry, g.kernel_dilation)]
    limits = [
      i + (m - 1) * s + 1 for i, m, s in zip(starts, g.output_size, g.strides)
    ]
    slices.append(
      lax.slice(
        x,
        (0, *starts, 0),
        (x.shape[0], *limits, x.shape[-1]),
        (1, *g.strides, 1),
      )
    )
  return jnp.stack(slices, axis=-2)


def _matmul(a, b, contract: str):
  """Einsum that accumulates in at least float32."""
  dtype = jnp.promote_types(a.dtype, jnp.float32)
  return jnp.einsum(contract, a, b, preferred_element_type=dtype).astype(
    a.dtype
  )


def shifted_convolution(x, kernel, g: Geometry):
  if 0 in g.output_size:
    return lax_convolution(x, kernel, g)
  slices = _slices(x, g)
  lead = slices.shape[:-2]
  outer = kernel.shape[-1]
  if g.groups == 1:
    y = _matmul(
      slices.reshape(math.prod(lead), -1),
      kernel.reshape(-1, outer),
      "ni,io->no",
    )
  else:
    inner = kernel.shape[-2]
    slices = slices.reshape(math.prod(lead), -1, g.groups, inner)
    kernel = kernel.reshape(-1, inner, g.groups, outer // g.groups)
    y = _matmul(slices, kernel, "nkgi,kigo->ngo")
  return y.reshape(*lead, outer)


def _weights_as_matmul(x, y, g: Geometry):
  outer = y.shape[-1]
  inner = x.shape[-1] // g.groups
  slices = _slices(x, g)
  if g.groups == 1:
    kernel = _matmul(
      slices.reshape(-1, math.prod(g.kernel_size) * inner),
      y.reshape(-1, outer),
      "ni,no->io",
    )
  else:
    slices = slices.reshape(-1, math.prod(g.kernel_size), g.groups, inner)
    y = y.reshape(-1, g.groups, outer // g.groups)
    kernel = _matmul(slices, y, "nkgi,ngo->kigo")
  return kernel.reshape(*g.kernel_size, inner, outer)


# The primitive: one trilinear form, three roles.


def _shape(a, b, role: str, g: Geometry) -> tuple[int, ...]:
  if role == OUTPUT:
    return (a.shape[0], *g.output_size, b.shape[-1])
  if role == INPUT:
    return (a.shape[0], *g.input_size, b.shape[-2] * g.groups)
  return (*g.kernel_size, a.shape[-1] // g.groups, b.shape[-1])


def _by_autodiff(forward, a, b, role: str, g: Geometry):
  """A role as the transpose of `forward(x, kernel, geometry)`."""
  if role == OUTPUT:
    return forward(a, b, g)
  like = jax.ShapeDtypeStruct(_shape(a, b, role, g), a.dtype)
  if role == INPUT:
    return jax.linear_transpose(lambda x: forward(x, b, g), like)(a)[0]
  return jax.linear_transpose(lambda k: forward(a, k, g), like)(b)[0]


def _has_few_channels(kernel) -> bool:
  """Two or three input channels, as colours, are slow as a convolution.

  The slices are then taken instead, where they are no larger than the output.
  """
  *size, inner, outer = kernel.shape
  return inner in (2, 3) and math.prod(size) * inner <= outer


def _loop_friendly(a, b, *, role, geometry, implementation):
  if 0 in geometry.output_size:
    return _by_autodiff(lax_convolution, a, b, role, geometry)
  if role == OUTPUT:
    if implementation == "auto" and _has_few_channels(b):
      return shifted_convolution(a, b, geometry)
    return lax_convolution(a, b, geometry)
  if role == INPUT:
    return _input_as_conv(a, b, geometry)
  entries = math.prod(b.shape[:-1]) * math.prod(geometry.kernel_size)
  entries *= a.shape[-1]
  if implementation == "matmul_gradient" or (
    implementation == "auto" and entries <= _MATMUL_ENTRIES
  ):
    return _weights_as_matmul(a, b, geometry)
  return _weights_as_conv(a, b, geometry)


def _elsewhere(a, b, *, role, geometry, implementation):
  if implementation == "auto":
    return _by_autodiff(lax_convolution, a, b, role, geometry)
  return _loop_friendly(
    a, b, role=role, geometry=geometry, implementation=implementation
  )


def _transpose_first(cotangent, a, b, *, role, **params):
  del a
  if role == OUTPUT:
    return convolution_p.bind(cotangent, b, role=INPUT, **params)
  if role == INPUT:
    return convolution_p.bind(cotangent, b, role=OUTPUT, **params)
  return convolution_p.bind(b, cotangent, role=INPUT, **params)


def _transpose_second(cotangent, a, b, *, role, **params):
  del b
  if role == OUTPUT:
    return convolution_p.bind(a, cotangent, role=WEIGHTS, **params)
  if role == INPUT:
    return convolution_p.bind(cotangent, a, role=WEIGHTS, **params)
  return convolution_p.bind(a, cotangent, role=OUTPUT, **params)


def _batch(operands, axes, *, role, geometry, implementation):
  a, b = (
    operand if axis is None else jnp.moveaxis(operand, axis, 0)
    for operand, axis in zip(operands, axes)
  )
  one = functools.partial(
    convolution_p.bind,
    role=role,
    geometry=geometry,
    implementation=implementation,
  )
  if axes[1] is None and role != WEIGHTS:
    # The same weights for all: a longer batch.
    y = one(a.reshape(-1, *a.shape[2:]), b)
    return y.reshape(*a.shape[:2], *y.shape[1:]), 0
  if implementation == "auto" and jax.default_backend() != "cpu":
    shifted = functools.partial(
      _by_autodiff, shifted_convolution, role=role, g=geometry
    )
    in_axes = tuple(None if axis is None else 0 for axis in axes)
    return jax.vmap(shifted, in_axes)(a, b), 0
  if axes[0] is None:
    return lax.map(lambda b: one(a, b), b), 0
  if axes[1] is None:
    return lax.map(lambda a: one(a, b), a), 0
  return lax.map(lambda both: one(*both), (a, b)), 0


@functools.partial(
  jax.jit, static_argnames=("role", "geometry", "implementation")
)
def _eager(a, b, *, role, geometry, implementation):
  return convolution_p.bind(
    a, b, role=role, geometry=geometry, implementation=implementation
  )


def _abstract_eval(a, b, *, role, geometry, implementation):
  del implementation
  return a.update(shape=_shape(a, b, role, geometry), weak_type=False)


convolution_p = jex_core.Primitive("unlearn_convolution")
convolution_p.def_impl(_eager)
convolution_p.def_abstract_eval(_abstract_eval)
ad.defbilinear(convolution_p, _transpose_first, _transpose_second)
batching.primitive_batchers[convolution_p] = _batch
mlir.register_lowering(
  convolution_p, mlir.lower_fun(_elsewhere, multiple_results=False)
)
mlir.register_lowering(
  convolution_p,
  mlir.lower_fun(_loop_friendly, multiple_results=False),
  platform="cpu",
)
