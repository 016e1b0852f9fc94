"""A convolution that is fast inside loops and under vmap over its weights.

`Conv` has the parameters of `flax.linen.Conv`; only how it is computed differs.
Two facts about XLA on a CPU (JAX 0.10) are the reason. A convolution's weight
gradient as autodiff writes it is one to two orders of magnitude slower inside
`lax.scan` than outside, and its input gradient up to twenty times. And `vmap`
over the weights makes a grouped convolution, an order of magnitude slower than
the models one by one.

Output y, input x and kernel k meet in one trilinear form <y, conv(x, k)>, and
each of the three is a linear function of the other two. The primitive below is
that form with a role, the operand it solves for. So its derivatives are itself
in another role: forward mode, reverse mode and any mixture of them work. On a
CPU every role is computed as a plain forward convolution or one matrix product,
and a `vmap` over both operands as a loop.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

Implementation = Literal[
  "auto", "lax", "conv_gradient", "matmul_gradient", "shifted"
]
Padding = str | int | Sequence[int | tuple[int, int]]

IMPLEMENTATIONS = get_args(Implementation)

# Up to this many entries the shifted slices of the input are written out for
# the weight gradient's matrix product (measured; they leave the cache beyond).
_MATMUL_ENTRIES = 2_500_000

_OUTPUT, _INPUT, _WEIGHTS = "output", "input", "weights"


class _Geometry(NamedTuple):
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


def convolution(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int | Sequence[int] = 1,
  padding: Padding = "SAME",
  input_dilation: int | Sequence[int] = 1,
  kernel_dilation: int | Sequence[int] = 1,
  feature_group_count: int = 1,
  implementation: Implementation = "auto",
) -> jax.Array:
  """Convolves channels-last images, as `lax.conv_general_dilated` does.

  Args:
    x: input [B, *spatial, C_in], any number of spatial axes.
    kernel: weights [*kernel_size, C_in / groups, C_out], dtype of `x`.
    strides: static; one int, or one for each spatial axis.
    padding: "SAME", "VALID", "CIRCULAR", "REFLECT", "CAUSAL" (one spatial axis
      only), an int, or for each spatial axis an int or a `(low, high)` pair.
    input_dilation: zeros are put between input pixels; "SAME" excludes it.
    kernel_dilation: zeros are put between kernel entries.
    feature_group_count: groups of channels that do not see each other.
    implementation: how it is computed; never what.
      "auto": on a CPU output and gradients as forward convolutions, or as
        matrix products where these are faster (weight gradients of small
        inputs; outputs of two or three channels); `vmap` over both operands as
        a loop. Elsewhere "lax", and "shifted" under such a `vmap`.
      "conv_gradient": as "auto" on a CPU, every weight gradient a convolution.
      "matmul_gradient": as "auto" on a CPU, every weight gradient ONE product
        of the shifted slices of the input with the output's gradient; that
        buffer is prod(kernel_size) times the input.
      "lax": what `nn.Conv` does, gradients by autodiff.
      "shifted": the output too is one product of shifted slices and kernel.

  Returns:
    The output [B, *spatial', C_out] in the dtype of `x`.

  Raises:
    ValueError: for an unknown implementation or padding, or operands that do
      not fit each other.

  Example:
    >>> x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    >>> convolution(x, kernel, strides=2).shape
    (2, 4, 4, 4)
  """
  _check(x, kernel, feature_group_count, implementation)
  ndim = x.ndim - 2
  strides = _per_axis("strides", strides, ndim)
  input_dilation = _per_axis("input_dilation", input_dilation, ndim)
  kernel_dilation = _per_axis("kernel_dilation", kernel_dilation, ndim)
  geometry = _Geometry(
    x.shape[1:-1],
    kernel.shape[:-2],
    strides,
    ((0, 0),) * ndim,
    input_dilation,
    kernel_dilation,
    feature_group_count,
  )
  x, pairs = _pad(x, padding, geometry)
  geometry = geometry._replace(input_size=x.shape[1:-1], padding=pairs)
  if implementation == "lax":
    return _lax(x, kernel, geometry)
  if implementation == "shifted":
    return _shifted(x, kernel, geometry)
  x, kernel = _same_varying_axes(x, kernel)
  return _convolution_p.bind(
    x, kernel, role=_OUTPUT, geometry=geometry, implementation=implementation
  )


class Conv(nn.Module):
  """`flax.linen.Conv` with a choice of `implementation`, see `convolution`.

  Parameters (names, shapes, dtypes, initial values) are those of `nn.Conv`, so
  that either can load the other's. Input [..., *spatial, C_in]; all leading
  axes are batch axes.

  Attributes:
    features: output channels.
    kernel_size: one int for each spatial axis; an int means one spatial axis.
    strides, padding, input_dilation, kernel_dilation, feature_group_count,
      implementation: see `convolution`.
    use_bias: whether to add a bias [features].
    dtype: dtype of the computation and output; None infers it.
    param_dtype: dtype of the parameters.
    kernel_init, bias_init: initialisers.
  """

  features: int
  kernel_size: int | Sequence[int]
  strides: int | Sequence[int] | None = 1
  padding: Padding = "SAME"
  input_dilation: int | Sequence[int] | None = 1
  kernel_dilation: int | Sequence[int] | None = 1
  feature_group_count: int = 1
  use_bias: bool = True
  dtype: Any = None
  param_dtype: Any = jnp.float32
  kernel_init: Callable[..., jax.Array] = nn.linear.default_kernel_init
  bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
  implementation: Implementation = "auto"

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Applies the layer. [..., *spatial, C_in] to [..., *spatial', features].

    Raises:
      ValueError: for an input of too few axes, and as `convolution`.
    """
    size = self.kernel_size
    size = (size,) if isinstance(size, int) else tuple(size)
    ndim = len(size)
    if inputs.ndim < ndim + 1:
      raise ValueError(
        f"Expected inputs of shape [..., {ndim} spatial axes, channels], got "
        f"inputs.shape={inputs.shape}."
      )
    channels = inputs.shape[-1]
    if channels % self.feature_group_count:
      raise ValueError(
        "Expected feature_group_count to divide the input channels, got "
        f"feature_group_count={self.feature_group_count} and {channels}."
      )
    shape = (*size, channels // self.feature_group_count, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = None
    if self.use_bias:
      bias_shape = (self.features,)
      bias = self.param("bias", self.bias_init, bias_shape, self.param_dtype)
    inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
    batch = inputs.shape[: inputs.ndim - ndim - 1]
    flat = (math.prod(batch), *inputs.shape[len(batch) :])
    y = convolution(
      inputs.reshape(flat),
      kernel,
      strides=1 if self.strides is None else self.strides,
      padding=self.padding,
      input_dilation=1 if self.input_dilation is None else self.input_dilation,
      kernel_dilation=(
        1 if self.kernel_dilation is None else self.kernel_dilation
      ),
      feature_group_count=self.feature_group_count,
      implementation=self.implementation,
    )
    if bias is not None:
      y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
    return y.reshape(batch + y.shape[1:])


# Arguments.


def _check(x, kernel, groups, implementation) -> None:
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f"Expected implementation in {IMPLEMENTATIONS}, got "
      f"implementation={implementation!r}."
    )
  if x.ndim < 3 or kernel.ndim != x.ndim:
    raise ValueError(
      "Expected x of shape [B, *spatial, C] and a kernel with as many axes, "
      f"got x.shape={x.shape} and kernel.shape={kernel.shape}."
    )
  if x.dtype != kernel.dtype:
    raise ValueError(
      "Expected x and kernel of the same dtype, got "
      f"x.dtype={x.dtype} and kernel.dtype={kernel.dtype}."
    )
  channels, (inner, outer) = x.shape[-1], kernel.shape[-2:]
  if groups < 1 or inner * groups != channels or outer % groups:
    raise ValueError(
      "Expected kernel of shape [..., C_in / groups, C_out] with groups "
      f"dividing C_out, got x.shape={x.shape}, kernel.shape={kernel.shape}, "
      f"feature_group_count={groups}."
    )


def _per_axis(name: str, value, ndim: int) -> tuple[int, ...]:
  values = (value,) * ndim if isinstance(value, int) else tuple(value)
  if len(values) != ndim or any(v < 1 for v in values):
    raise ValueError(
      f"Expected {name} to be one positive int or {ndim} of them, got "
      f"{name}={value}."
    )
  return tuple(operator.index(v) for v in values)


def _pad(x, padding, geometry: _Geometry):
  """Turns any padding into pairs; those that are not of zeros are done here."""
  ndim = x.ndim - 2
  dilated = geometry.dilated_kernel_size
  none = ((0, 0),) * ndim
  if padding == "VALID":
    return x, none
  if padding == "SAME" and set(geometry.input_dilation) == {1}:
    return x, tuple(
      lax.padtype_to_pads(x.shape[1:-1], dilated, geometry.strides, "SAME")
    )
  if padding == "CAUSAL" and ndim == 1:
    return x, ((dilated[0] - 1, 0),)
  if padding in ("CIRCULAR", "REFLECT"):
    mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding]
    pairs = [((k - 1) // 2, k // 2) for k in dilated]
    return jnp.pad(x, [(0, 0), *pairs, (0, 0)], mode=mode), none
  values = None
  if isinstance(padding, int):
    values = [padding] * ndim
  elif isinstance(padding, Sequence) and not isinstance(padding, str):
    values = list(padding)
  pairs = [(v, v) if isinstance(v, int) else v for v in values or ()]
  if len(pairs) != ndim or any(len(tuple(pair)) != 2 for pair in pairs):
    raise ValueError(
      "Expected padding to be 'SAME' (without input_dilation), 'VALID', "
      "'CIRCULAR', 'REFLECT', 'CAUSAL' (one spatial axis), an int, or for each "
      f"of {ndim} axes an int or a pair, got padding={padding!r}."
    )
  return x, tuple((int(low), int(high)) for low, high in pairs)


def _varying_axes(x) -> frozenset[str]:
  kind = jax.typeof(x)
  kind = getattr(kind, "manual_axis_type", kind)
  return frozenset(getattr(kind, "varying", getattr(kind, "vma", ())))


def _same_varying_axes(x, kernel):
  """Under `shard_map`, marks both as varying over the same mesh axes."""
  axes = _varying_axes(x) | _varying_axes(kernel)
  return tuple(
    lax.pcast(a, missing, to="varying")
    if (missing := tuple(sorted(axes - _varying_axes(a))))
    else a
    for a in (x, kernel)
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


def _lax(x, kernel, g: _Geometry):
  return _conv(
    x,
    kernel,
    g.strides,
    g.padding,
    g.input_dilation,
    g.kernel_dilation,
    g.groups,
  )


def _input_as_conv(y, kernel, g: _Geometry):
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


def _weights_as_conv(x, y, g: _Geometry):
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


def _slices(x, g: _Geometry):
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


def _shifted(x, kernel, g: _Geometry):
  if 0 in g.output_size:
    return _lax(x, kernel, g)
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


def _weights_as_matmul(x, y, g: _Geometry):
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


def _shape(a, b, role: str, g: _Geometry) -> tuple[int, ...]:
  if role == _OUTPUT:
    return (a.shape[0], *g.output_size, b.shape[-1])
  if role == _INPUT:
    return (a.shape[0], *g.input_size, b.shape[-2] * g.groups)
  return (*g.kernel_size, a.shape[-1] // g.groups, b.shape[-1])


def _by_autodiff(forward, a, b, role: str, g: _Geometry):
  """A role as the transpose of `forward(x, kernel, geometry)`."""
  if role == _OUTPUT:
    return forward(a, b, g)
  like = jax.ShapeDtypeStruct(_shape(a, b, role, g), a.dtype)
  if role == _INPUT:
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
    return _by_autodiff(_lax, a, b, role, geometry)
  if role == _OUTPUT:
    if implementation == "auto" and _has_few_channels(b):
      return _shifted(a, b, geometry)
    return _lax(a, b, geometry)
  if role == _INPUT:
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
    return _by_autodiff(_lax, a, b, role, geometry)
  return _loop_friendly(
    a, b, role=role, geometry=geometry, implementation=implementation
  )


def _transpose_first(cotangent, a, b, *, role, **params):
  del a
  if role == _OUTPUT:
    return _convolution_p.bind(cotangent, b, role=_INPUT, **params)
  if role == _INPUT:
    return _convolution_p.bind(cotangent, b, role=_OUTPUT, **params)
  return _convolution_p.bind(b, cotangent, role=_INPUT, **params)


def _transpose_second(cotangent, a, b, *, role, **params):
  del b
  if role == _OUTPUT:
    return _convolution_p.bind(a, cotangent, role=_WEIGHTS, **params)
  if role == _INPUT:
    return _convolution_p.bind(cotangent, a, role=_WEIGHTS, **params)
  return _convolution_p.bind(a, cotangent, role=_OUTPUT, **params)


def _batch(operands, axes, *, role, geometry, implementation):
  a, b = (
    operand if axis is None else jnp.moveaxis(operand, axis, 0)
    for operand, axis in zip(operands, axes)
  )
  one = functools.partial(
    _convolution_p.bind,
    role=role,
    geometry=geometry,
    implementation=implementation,
  )
  if axes[1] is None and role != _WEIGHTS:
    # The same weights for all: a longer batch.
    y = one(a.reshape(-1, *a.shape[2:]), b)
    return y.reshape(*a.shape[:2], *y.shape[1:]), 0
  if implementation == "auto" and jax.default_backend() != "cpu":
    shifted = functools.partial(_by_autodiff, _shifted, role=role, g=geometry)
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
  return _convolution_p.bind(
    a, b, role=role, geometry=geometry, implementation=implementation
  )


def _abstract_eval(a, b, *, role, geometry, implementation):
  del implementation
  return a.update(shape=_shape(a, b, role, geometry), weak_type=False)


_convolution_p = jex_core.Primitive("unlearn_convolution")
_convolution_p.def_impl(_eager)
_convolution_p.def_abstract_eval(_abstract_eval)
ad.defbilinear(_convolution_p, _transpose_first, _transpose_second)
batching.primitive_batchers[_convolution_p] = _batch
mlir.register_lowering(
  _convolution_p, mlir.lower_fun(_elsewhere, multiple_results=False)
)
mlir.register_lowering(
  _convolution_p,
  mlir.lower_fun(_loop_friendly, multiple_results=False),
  platform="cpu",
)
