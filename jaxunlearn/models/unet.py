"""A convolutional noise predictor with cross-attention to a prompt.

The U-Net of latent diffusion models (Rombach et al. 2022, arXiv:2112.10752) at
the size of small images. Parts have the names that diffusers gives them
(`attn1`, `attn2`, `to_q`, `to_k`, `to_v`, `to_out`, `time_embedding`, `conv_out`),
so that methods which edit them by name fit both. Convolutions are
`models.conv.Conv`, which a CPU runs as fast inside a scan as outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.conv import Conv, Implementation
from jaxunlearn.models.layers import check_images
from jaxunlearn.models.text_to_image import time_features


class PromptUNet(nn.Module):
  """Predicts the noise in images, with the prompt in cross-attention.

  Levels of residual blocks, each half the size of the one before, and back with
  skip connections; at some levels a self-attention over positions, an attention
  to the prompt's tokens and a gated dense block follow each residual block.

  Sows `intermediates`: `attention` of each cross-attention layer, [B, heads,
  positions, L].

  Attributes:
    channels: of each level, from the full size down.
    num_blocks: residual blocks of a level, on the way down; one more up.
    attention_levels: the levels with attention.
    num_heads: of it, a divisor of the channels there.
    groups: of the normalisations, a divisor of all channels.
    dtype: dtype of the computation and output; None infers it.
    implementation: see `models.conv.convolution`.
  """

  channels: Sequence[int] = (128, 256, 256)
  num_blocks: int = 2
  attention_levels: Sequence[int] = (1, 2)
  num_heads: int = 4
  groups: int = 32
  dtype: Any = None
  implementation: Implementation = "auto"

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, context: jax.Array
  ) -> jax.Array:
    """Noise [B, H, W, C] in images x at times t [B], given context [B, L, D].

    Raises:
      ValueError: no images, or a size that cannot be halved as often as there
        are levels; heads or groups that do not divide the channels.
    """
    _check(self, x)
    conv = lambda name, size, **options: Conv(
      size,
      (3, 3),
      dtype=self.dtype,
      implementation=self.implementation,
      name=name,
      **options,
    )
    time = _TimeEmbedding(self.channels[0], self.dtype, name="time_embedding")(
      t, x.dtype
    )

    def block(h, size, level, name):
      h = _Residual(
        size,
        self.groups,
        self.dtype,
        self.implementation,
        name=f"{name}_resnet",
      )(h, time)
      if level in self.attention_levels:
        h = _Transformer(
          self.num_heads, self.groups, self.dtype, name=f"{name}_attention"
        )(h, context)
      return h

    h = conv("conv_in", self.channels[0])(x)
    skips = [h]
    last = len(self.channels) - 1
    for level, size in enumerate(self.channels):
      for i in range(self.num_blocks):
        h = block(h, size, level, f"down{level}_{i}")
        skips.append(h)
      if level < last:
        h = conv(f"down{level}_downsample", size, strides=2)(h)
        skips.append(h)
    size = self.channels[-1]
    h = block(h, size, last, "mid_0")
    h = block(h, size, None, "mid_1")
    for level, size in reversed(list(enumerate(self.channels))):
      for i in range(self.num_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, size, level, f"up{level}_{i}")
      if level > 0:
        h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
        h = conv(f"up{level}_upsample", size)(h)
    h = nn.GroupNorm(self.groups, dtype=self.dtype, name="conv_norm_out")(h)
    # Starts at zero, as is usual: the first prediction is no noise at all.
    zeros = nn.initializers.zeros_init()
    return conv("conv_out", x.shape[-1], kernel_init=zeros)(nn.silu(h))


def _check(module: PromptUNet, x: jax.Array) -> None:
  check_images(x)
  halvings = 2 ** (len(module.channels) - 1)
  if x.shape[1] % halvings or x.shape[2] % halvings:
    raise ValueError(
      f"Expected images of a height and width divisible by {halvings}, got "
      f"{x.shape[1]}x{x.shape[2]}."
    )
  for level, size in enumerate(module.channels):
    parts = {"groups": module.groups}
    if level in module.attention_levels:
      parts["num_heads"] = module.num_heads
    for name, count in parts.items():
      if size % count:
        raise ValueError(
          f"Expected {name} to divide channels={tuple(module.channels)}, got "
          f"{name}={count}."
        )


class _TimeEmbedding(nn.Module):
  """Two dense layers on sines and cosines; [B, 4 width]."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, t: jax.Array, dtype: Any) -> jax.Array:
    h = time_features(t, self.width).astype(dtype)
    dense = lambda name: nn.Dense(4 * self.width, dtype=self.dtype, name=name)
    return nn.silu(dense("linear_2")(nn.silu(dense("linear_1")(h))))


class _Residual(nn.Module):
  """Two 3x3 convolutions, the time added between, and a shortcut."""

  size: int
  groups: int
  dtype: Any
  implementation: Implementation

  @nn.compact
  def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
    def conv(name, window=(3, 3), **options):
      return Conv(
        self.size,
        window,
        dtype=self.dtype,
        implementation=self.implementation,
        name=name,
        **options,
      )

    norm = lambda name: nn.GroupNorm(self.groups, dtype=self.dtype, name=name)
    h = conv("conv1")(nn.silu(norm("norm1")(x)))
    shift = nn.Dense(self.size, dtype=self.dtype, name="time_emb_proj")(time)
    h = nn.silu(norm("norm2")(h + shift[:, None, None]))
    h = conv("conv2", kernel_init=nn.initializers.zeros_init())(h)
    if x.shape[-1] != self.size:
      x = conv("conv_shortcut", (1, 1))(x)
    return x + h


class _Transformer(nn.Module):
  """Self-attention over positions, attention to the prompt, a gated block."""

  num_heads: int
  groups: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    batch, *_, channels = x.shape
    dense = lambda name, size: nn.Dense(size, dtype=self.dtype, name=name)
    norm = lambda name: nn.LayerNorm(dtype=self.dtype, name=name)
    h = nn.GroupNorm(self.groups, dtype=self.dtype, name="norm")(x)
    h = dense("proj_in", channels)(h.reshape(batch, -1, channels))
    near = norm("norm1")(h)
    h = h + PromptAttention(self.num_heads, False, self.dtype, name="attn1")(
      near, near
    )
    h = h + PromptAttention(self.num_heads, True, self.dtype, name="attn2")(
      norm("norm2")(h), context
    )
    value, gate = jnp.split(
      dense("ff_in", 8 * channels)(norm("norm3")(h)), 2, axis=-1
    )
    h = h + dense("ff_out", channels)(value * nn.gelu(gate))
    zeros = nn.initializers.zeros_init()
    h = nn.Dense(
      channels, kernel_init=zeros, dtype=self.dtype, name="proj_out"
    )(h)
    return x + h.reshape(x.shape)


class PromptAttention(nn.Module):
  """Positions attend to tokens, or to positions.

  Attributes:
    num_heads: a divisor of the width.
    shown: whether to sow the probabilities as `attention`.
    dtype: dtype of the computation and output; None infers it.
  """

  num_heads: int
  shown: bool = True
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """[B, N, width] of x [B, N, width] and context [B, L, D]."""
    width = x.shape[-1]

    def heads(name, source):
      made = nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(
        source
      )
      return made.reshape(*source.shape[:2], self.num_heads, -1)

    q, k, v = heads("to_q", x), heads("to_k", context), heads("to_v", context)
    scores = jnp.einsum("bnhd,blhd->bhnl", q, k) / math.sqrt(q.shape[-1])
    attention = nn.softmax(scores)
    if self.shown:
      self.sow("intermediates", "attention", attention)
    mixed = jnp.einsum("bhnl,blhd->bnhd", attention, v)
    out = nn.Dense(width, dtype=self.dtype, name="to_out")
    return out(mixed.reshape(x.shape))
