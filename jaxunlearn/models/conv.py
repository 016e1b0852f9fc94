"""A convolution that is fast inside loops and under vmap over its weights.

`Conv` has the parameters of `flax.linen.Conv`; only how it is computed differs.
Two facts about XLA on a CPU (JAX 0.10) are the reason. A convolution's weight
gradient as autodiff writes it is one to two orders of magnitude slower inside
`lax.scan` than outside, and its input gradient up to twenty times. And `vmap`
over the weights makes a grouped convolution, an order of magnitude slower than
the models one by one.

Here both gradients are written as forward convolutions (or matrix products),
and a `vmap` over weights as a loop; see `conv_primitive`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from jaxunlearn.models.conv_primitive import (
  OUTPUT,
  Geometry,
  convolution_p,
  lax_convolution,
  shifted_convolution,
)

Implementation = Literal[
  "auto", "lax", "conv_gradient", "matmul_gradient", "shifted"
]
Padding = str | int | Sequence[int | tuple[int, int]]

IMPLEMENTATIONS = get_args(Implementation)


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

      - "auto": on a CPU output and gradients as forward convolutions, or as
        matrix products where these are faster (weight gradients of small
        inputs; outputs of two or three channels); `vmap` over both operands as
        a loop. Elsewhere "lax", and "shifted" under such a `vmap`.
      - "conv_gradient": as "auto" on a CPU, every weight gradient a convolution.
      - "matmul_gradient": as "auto" on a CPU, every weight gradient ONE product
        of the shifted slices of the input with the output's gradient; that
        buffer is prod(kernel_size) times the input.
      - "lax": what `nn.Conv` does, gradients by autodiff.
      - "shifted": the output too is one product of shifted slices and kernel.

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
  geometry = Geometry(
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
    return lax_convolution(x, kernel, geometry)
  if implementation == "shifted":
    return shifted_convolution(x, kernel, geometry)
  x, kernel = _same_varying_axes(x, kernel)
  return convolution_p.bind(
    x, kernel, role=OUTPUT, geometry=geometry, implementation=implementation
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


def _pad(x, padding, geometry: Geometry):
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
