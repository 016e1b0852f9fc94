"""A multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax


class MLP(nn.Module):
  """Dense layers with ReLU between; flattens its input.

  Sows `intermediates`: `hidden0`, `hidden1`, ... and `features` (the last of
  them, before dropout), each [B, width].

  Attributes:
    num_classes: outputs.
    hidden: width of each hidden layer.
    dropout_rate: after each hidden layer, in training mode; in [0, 1).
    dtype: dtype of the computation and output; None infers it.
  """

  num_classes: int
  hidden: Sequence[int] = (128, 128)
  dropout_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits [B, num_classes] of inputs [B, ...]."""
    x = features = x.reshape(x.shape[0], -1)
    for i, width in enumerate(self.hidden):
      features = nn.relu(nn.Dense(width, dtype=self.dtype)(x))
      self.sow("intermediates", f"hidden{i}", features)
      x = nn.Dropout(self.dropout_rate, deterministic=not train)(features)
    self.sow("intermediates", "features", features)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)
