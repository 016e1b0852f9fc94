"""A small convolutional network without BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxunlearn.models.conv import Conv, Implementation
from jaxunlearn.models.layers import check_images, max_pool


class CNN(nn.Module):
  """Convolution, ReLU and 2x2 max pooling in turn, then one hidden layer.

  Works for 8x8x1 digits and 32x32x3 images alike; an axis of length 1 is no
  longer pooled. Sows `intermediates`: `stage0`, `stage1`, ... [B, H, W, C]
  after pooling, and `features` [B, hidden] before dropout.

  Attributes:
    num_classes: outputs.
    channels: output channels of each convolution.
    hidden: width of the layer before the classifier.
    kernel_size: of every convolution.
    dropout_rate: before the classifier, in training mode; in [0, 1).
    dtype: dtype of the computation and output; None infers it.
    implementation: see `convolution`.
  """

  num_classes: int
  channels: Sequence[int] = (32, 64)
  hidden: int = 128
  kernel_size: tuple[int, int] = (3, 3)
  dropout_rate: float = 0.0
  dtype: Any = None
  implementation: Implementation = "auto"

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits [B, num_classes] of images [B, H, W, C].

    Raises:
      ValueError: if `x` is not a batch of images.
    """
    check_images(x)
    for i, channels in enumerate(self.channels):
      x = Conv(
        channels,
        self.kernel_size,
        dtype=self.dtype,
        implementation=self.implementation,
        name=f"conv{i}",
      )(x)
      x = nn.relu(x)
      if min(x.shape[1:3]) > 1:
        x = max_pool(x)
      self.sow("intermediates", f"stage{i}", x)
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
    self.sow("intermediates", "features", x)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier")(x)
