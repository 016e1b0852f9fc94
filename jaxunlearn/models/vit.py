"""A small vision transformer.

Source: Dosovitskiy et al. (2021), arXiv:2010.11929. Difference from the source:
the mean over patches stands in the place of the class token.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.layers import check_images


class EncoderBlock(nn.Module):
  """Self-attention and a perceptron, each after LayerNorm, each residual.

  Attributes:
    num_heads: attention heads.
    mlp_ratio: hidden width of the perceptron over that of the tokens.
    dropout_rate: of both branches, in training mode.
    dtype: dtype of the computation.
  """

  num_heads: int
  mlp_ratio: float
  dropout_rate: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width = x.shape[-1]
    drop = nn.Dropout(self.dropout_rate, deterministic=not train)
    y = nn.LayerNorm(dtype=self.dtype)(x)
    y = nn.MultiHeadDotProductAttention(
      self.num_heads, dtype=self.dtype, name="attention"
    )(y)
    x = x + drop(y)
    y = nn.LayerNorm(dtype=self.dtype)(x)
    y = nn.Dense(round(self.mlp_ratio * width), dtype=self.dtype)(y)
    y = nn.Dense(width, dtype=self.dtype)(drop(nn.gelu(y)))
    return x + drop(y)


class ViT(nn.Module):
  """Patches, encoder blocks, the mean over patches, a linear classifier.

  Sows `intermediates`: `tokens`, `block0`, `block1`, ... [B, T, hidden_size]
  for T patches, and `features` [B, hidden_size].

  Attributes:
    num_classes: outputs.
    patch_size: side of a square patch; divides height and width.
    hidden_size: width of a token; a multiple of `num_heads`.
    depth: encoder blocks.
    num_heads: attention heads.
    mlp_ratio: hidden width of the perceptrons over `hidden_size`.
    dropout_rate: in training mode; in [0, 1).
    dtype: dtype of the computation and output; None infers it.
  """

  num_classes: int
  patch_size: int = 4
  hidden_size: int = 64
  depth: int = 4
  num_heads: int = 4
  mlp_ratio: float = 2.0
  dropout_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits [B, num_classes] of images [B, H, W, C].

    Raises:
      ValueError: if `x` is not a batch of images, or sizes do not divide.
    """
    check_images(x)
    batch, height, width, channels = x.shape
    side = self.patch_size
    if height % side or width % side:
      raise ValueError(
        "Expected patch_size to divide height and width, got "
        f"patch_size={side} and x.shape={x.shape}."
      )
    if self.hidden_size % self.num_heads:
      raise ValueError(
        "Expected num_heads to divide hidden_size, got "
        f"num_heads={self.num_heads} and hidden_size={self.hidden_size}."
      )
    rows, columns = height // side, width // side
    x = x.reshape(batch, rows, side, columns, side, channels)
    x = x.swapaxes(2, 3).reshape(batch, rows * columns, -1)
    x = nn.Dense(self.hidden_size, dtype=self.dtype, name="embedding")(x)
    position = self.param(
      "position",
      nn.initializers.normal(0.02),
      (1, rows * columns, self.hidden_size),
    )
    x = x + position.astype(x.dtype)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    self.sow("intermediates", "tokens", x)
    for i in range(self.depth):
      x = EncoderBlock(
        self.num_heads,
        self.mlp_ratio,
        self.dropout_rate,
        self.dtype,
        name=f"encoder{i}",
      )(x, train)
      self.sow("intermediates", f"block{i}", x)
    x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
    x = jnp.mean(x, axis=1)
    self.sow("intermediates", "features", x)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)
