"""A small prompt-conditioned noise predictor, and its text encoder.

Cross-attention and its projections have the names that diffusers gives them
(`attn2`, `to_q`, `to_k`, `to_v`, `to_out`), so that methods which edit them by
name fit both. Everything is a matrix product, which is fast on a CPU and under
`vmap` over weights alike.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class TextEncoder(nn.Module):
  """Token and position embeddings, causal attention layers, layer norm.

  Attributes:
    vocab_size: V.
    length: L, tokens a prompt.
    width: D of the context.
    num_layers: each of one attention head and a dense block.
    dtype: dtype of the computation and output; None infers it.
  """

  vocab_size: int
  length: int
  width: int = 32
  num_layers: int = 1
  dtype: Any = None

  def setup(self) -> None:
    init = nn.initializers.normal(0.1)
    self.token_embedding = nn.Embed(
      self.vocab_size, self.width, embedding_init=init, dtype=self.dtype
    )
    self.position_embedding = self.param(
      "position_embedding", init, (self.length, self.width)
    )
    self.layers = [
      _TextLayer(self.width, self.dtype) for _ in range(self.num_layers)
    ]
    self.norm = nn.LayerNorm(dtype=self.dtype)

  def embed(self, tokens: jax.Array) -> jax.Array:
    """[B, L, D] of tokens int [B, L], positions not added."""
    return self.token_embedding(tokens)

  def encode_embeddings(self, embeddings: jax.Array) -> jax.Array:
    """The context [B, L, D] of embeddings [B, L, D]."""
    h = embeddings + self.position_embedding.astype(embeddings.dtype)[None]
    for layer in self.layers:
      h = layer(h)
    return self.norm(h)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """The context [B, L, D] of tokens int [B, L]."""
    return self.encode_embeddings(self.embed(tokens))


class _TextLayer(nn.Module):
  """Causal attention of one head, then a dense block; both are added."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    dense = lambda name, size: nn.Dense(size, dtype=self.dtype, name=name)
    x = nn.LayerNorm(dtype=self.dtype, name="norm1")(h)
    q, k, v = (dense(n, self.width)(x) for n in ("q_proj", "k_proj", "v_proj"))
    scores = jnp.einsum("bqd,bkd->bqk", q, k) / math.sqrt(self.width)
    causal = jnp.tril(jnp.ones(scores.shape[1:], bool))[None]
    scores = jnp.where(causal, scores, -1e9)
    mixed = jnp.einsum("bqk,bkd->bqd", nn.softmax(scores), v)
    h = h + dense("out_proj", self.width)(mixed)
    x = nn.LayerNorm(dtype=self.dtype, name="norm2")(h)
    return h + dense("fc2", self.width)(
      nn.gelu(dense("fc1", 4 * self.width)(x))
    )


class PromptDenoiser(nn.Module):
  """Predicts the noise in small images, with the prompt in cross-attention.

  The image is one hidden vector; in each block its scale and shift come from the
  time, `num_heads` slots of it ask the prompt's tokens, and a gated dense block
  follows.

  Sows `intermediates`: `attention` of each cross-attention layer, [B, heads, 1,
  L].

  Attributes:
    width: of the hidden vector.
    num_blocks: blocks.
    num_heads: slots, a divisor of `width`.
    time_width: of the time's features, even.
    dtype: dtype of the computation and output; None infers it.
  """

  width: int = 256
  num_blocks: int = 3
  num_heads: int = 8
  time_width: int = 64
  dtype: Any = None

  @nn.compact
  def __call__(
    self, x: jax.Array, t: jax.Array, context: jax.Array
  ) -> jax.Array:
    """Noise [B, H, W, C] in images x at times t [B], given context [B, L, D]."""
    dense = lambda name, size: nn.Dense(size, dtype=self.dtype, name=name)
    time = time_features(t, self.time_width).astype(x.dtype)
    time = nn.silu(dense("time_embedding", self.time_width)(time))
    h = dense("conv_in", self.width)(x.reshape(x.shape[0], -1))
    for i in range(self.num_blocks):
      block = _Block(self.width, self.num_heads, self.dtype, name=f"block_{i}")
      h = block(h, time, context)
    h = nn.LayerNorm(dtype=self.dtype, name="norm_out")(h)
    # Starts at zero, as is usual: the first prediction is no noise at all.
    out = nn.Dense(
      math.prod(x.shape[1:]),
      kernel_init=nn.initializers.zeros_init(),
      dtype=self.dtype,
      name="conv_out",
    )(h)
    return out.reshape(x.shape)


class _Block(nn.Module):
  """Cross-attention and a dense block, each scaled and shifted by the time."""

  width: int
  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(
    self, h: jax.Array, time: jax.Array, context: jax.Array
  ) -> jax.Array:
    dense = lambda name, size: nn.Dense(size, dtype=self.dtype, name=name)
    shifts = dense("time_proj", 4 * self.width)(time)
    scale1, shift1, scale2, shift2 = jnp.split(shifts, 4, axis=-1)
    norm = lambda name: nn.LayerNorm(
      dtype=self.dtype, use_bias=False, use_scale=False, name=name
    )
    x = norm("norm1")(h) * (1 + scale1) + shift1
    h = h + CrossAttention(
      self.width, self.num_heads, self.dtype, name="attn2"
    )(x, context)
    x = norm("norm2")(h) * (1 + scale2) + shift2
    # A gate can turn what one word says by what another does: a digit's shape
    # changes its sign with the style "negative".
    value, gate = jnp.split(dense("ff_in", 3 * self.width)(x), 2, axis=-1)
    return h + dense("ff_out", self.width)(value * nn.gelu(gate))


class CrossAttention(nn.Module):
  """Slots of a hidden vector attend to the tokens of a prompt.

  Attributes:
    width: of the hidden vector.
    num_heads: slots, a divisor of `width`.
    dtype: dtype of the computation and output; None infers it.
  """

  width: int
  num_heads: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
    """[B, width] of x [B, width] and context [B, L, D]."""
    if self.width % self.num_heads:
      raise ValueError(
        f"Expected num_heads to divide width={self.width}, got "
        f"num_heads={self.num_heads}."
      )
    size = self.width // self.num_heads
    project = lambda name: nn.Dense(
      self.width, use_bias=False, dtype=self.dtype, name=name
    )
    batch, length = context.shape[:2]
    q = project("to_q")(x).reshape(batch, self.num_heads, size)
    k = project("to_k")(context).reshape(batch, length, self.num_heads, size)
    v = project("to_v")(context).reshape(batch, length, self.num_heads, size)
    scores = jnp.einsum("bhd,blhd->bhl", q, k) / math.sqrt(size)
    attention = nn.softmax(scores)
    self.sow("intermediates", "attention", attention[:, :, None])
    mixed = jnp.einsum("bhl,blhd->bhd", attention, v)
    out = nn.Dense(self.width, dtype=self.dtype, name="to_out")
    return out(mixed.reshape(batch, self.width))


def time_features(t: jax.Array, width: int) -> jax.Array:
  """Sines and cosines of times [B] at falling frequencies; float32 [B, width].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.models.text_to_image import time_features
    >>> features = time_features(jnp.array([0.0, 1.0]), 6)
    >>> features.shape, features[0].tolist()
    ((2, 6), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
  """
  half = width // 2
  frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half) / half)
  angles = jnp.asarray(t, jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
