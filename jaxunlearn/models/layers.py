"""Small parts that the models share."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import shaped


def check_images(x: jax.Array) -> None:
  """Raises a ValueError unless `x` is a batch of images [B, H, W, C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.models import layers
    >>> layers.check_images(jnp.ones((2, 8, 8, 3)))
    >>> layers.check_images(jnp.ones((8, 8, 3)))
    Traceback (most recent call last):
      ...
    ValueError: Expected images x [B, H, W, C], got shape (8, 8, 3).
  """
  shaped("images x [B, H, W, C]", x)


def max_pool(x: jax.Array) -> jax.Array:
  """The maximum of each 2x2 window. [B, H, W, C] to [B, H // 2, W // 2, C].

  An odd last row or column is dropped. Ties share the gradient. Written with
  reshapes: the gradient of a windowed maximum (`nn.max_pool`) is about eight
  times slower on a CPU.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.models import max_pool
    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> max_pool(x)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
  """
  batch, height, width, channels = x.shape
  height, width = height // 2, width // 2
  x = x[:, : 2 * height, : 2 * width]
  x = x.reshape(batch, height, 2, width, 2, channels)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1])
  return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])
