"""A network that tells two kinds of images apart, patch by patch.

Source: the discriminator of Isola et al. (2017), arXiv:1611.07004, in small and
without normalisation: statistics of a batch would tell a batch of one kind from
a batch of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Variables
from jaxunlearn.models.conv import Conv

_SLOPE = 0.2  # Of the leaky ReLU for negative inputs.


class PatchDiscriminator(nn.Module):
  """Convolutions that halve the image, then a logit a patch.

  Attributes:
    channels: of each convolution, 3x3 of stride 2.
  """

  channels: Sequence[int] = (32, 64)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits [B, h, w, 1] of images [B, H, W, C]; h is H / 2^layers, rounded up."""
    for width in self.channels:
      x = nn.leaky_relu(Conv(width, (3, 3), strides=2)(x), _SLOPE)
    return Conv(1, (1, 1))(x)


def patch_discriminator(channels: Sequence[int] = (32, 64)) -> Model:
  """`PatchDiscriminator` as a `Model` from images to logits [B, h, w, 1].

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn.models import patch_discriminator as patches
    >>> model = patches.patch_discriminator(channels=(4, 8))
    >>> x = jnp.ones((2, 16, 16, 3))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.predict, variables, x).shape
    (2, 4, 4, 1)
  """
  module = PatchDiscriminator(tuple(channels))

  def init(key, x):
    return Variables(dict(module.init(key, x)["params"]), {})

  def apply(variables, x, *, train=False, key=None):
    del train, key  # The same in both modes.
    return module.apply({"params": variables.params}, x), variables.model_state

  def no_loss(outputs, rows):
    raise ValueError(
      "Expected no loss of a discriminator, which has no labels."
    )

  return Model(init, apply, no_loss)
