"""A small recurrent network that reads a sequence and predicts numbers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import shaped


class LSTMRegressor(nn.Module):
  """Long short-term memory over the steps of a sequence, then two dense layers.

  Sows `intermediates`: `hidden` [B, T, width], the state after each step, whose
  attention map has a position for each step; `features` [B, width], the last
  layer before the output.

  The inputs of all gates at all steps are one matrix product, so that the loop
  over steps has only the recurrent product left.

  Attributes:
    num_outputs: numbers a sequence.
    width: of the state and of the dense layer.
    dropout_rate: after the recurrent and the dense layer, in training mode; in
      [0, 1).
    dtype: dtype of the computation and output; None infers it.
  """

  num_outputs: int = 1
  width: int = 32
  dropout_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Outputs [B, num_outputs] of sequences [B, T, F]."""
    shaped("sequences x [B, T, F]", x)
    hidden = LSTM(self.width, self.dtype, name="lstm")(x)
    self.sow("intermediates", "hidden", hidden)
    dropped = nn.Dropout(self.dropout_rate, deterministic=not train)
    last = dropped(hidden[:, -1])
    features = nn.relu(nn.Dense(self.width, dtype=self.dtype)(last))
    self.sow("intermediates", "features", features)
    dropped = nn.Dropout(self.dropout_rate, deterministic=not train)
    return nn.Dense(self.num_outputs, dtype=self.dtype)(dropped(features))


class LSTM(nn.Module):
  """One layer of long short-term memory, from a state of zeros.

  Gates i, f, g, o, in this order, of z = x K + h R + b: c = f c + i g and
  h = o tanh(c), with sigmoids of z_i, z_f + 1 and z_o and tanh of z_g. The 1
  keeps the memory open at the start of training.

  Attributes:
    width: of the state.
    dtype: dtype of the computation and output; None infers it.
  """

  width: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """States [B, T, width] of sequences [B, T, F]."""
    width = self.width
    recurrent = self.param(
      "recurrent", nn.initializers.orthogonal(), (width, 4 * width)
    )
    z_inputs = nn.Dense(4 * width, dtype=self.dtype, name="input")(x)
    recurrent = recurrent.astype(z_inputs.dtype)

    def step(state, z_input):
      h, c = state
      i, f, g, o = jnp.split(z_input + h @ recurrent, 4, axis=-1)
      c = nn.sigmoid(f + 1) * c + nn.sigmoid(i) * jnp.tanh(g)
      h = nn.sigmoid(o) * jnp.tanh(c)
      return (h, c), h

    zeros = jnp.zeros((x.shape[0], width), z_inputs.dtype)
    _, states = jax.lax.scan(step, (zeros, zeros), z_inputs.swapaxes(0, 1))
    return states.swapaxes(0, 1)
