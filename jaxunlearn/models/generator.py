"""Networks that turn noise into inputs of a classifier, without any data.

Source: the generator of "Zero-shot Knowledge Transfer via Adversarial Belief
Matching", Micaelli and Storkey (2019), arXiv:1905.09768, which zero-shot
unlearning (arXiv:2201.05629) uses.

Each batch is normalised by its own statistics, the output included, so that what
comes out is standardised up to a scale and an offset of each channel; nothing
else is kept, and there is no evaluation mode.
Difference from the source: images of any size, by cropping, where that has a
last convolution of its own for 28x28.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Variables
from jaxunlearn.models.conv import Conv

_SLOPE = 0.2  # Of the leaky ReLU for negative inputs.


class VectorGenerator(nn.Module):
  """Dense layers, each followed by batch statistics; for inputs of any shape.

  Attributes:
    shape: of one input.
    hidden: width of each hidden layer.
  """

  shape: Sequence[int]
  hidden: Sequence[int] = (256,)

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Inputs [B, *shape] of noise [B, Z]; B > 1, or all is 0."""
    for width in self.hidden:
      z = nn.leaky_relu(_standardise(nn.Dense(width)(z)), _SLOPE)
    x = _standardise(nn.Dense(math.prod(self.shape))(z))
    return x.reshape(-1, *self.shape)


class ImageGenerator(nn.Module):
  """A dense layer and three convolutions, doubling the size twice.

  Attributes:
    shape: of one image, (H, W, C).
    channels: of the first two convolutions.
  """

  shape: Sequence[int]
  channels: tuple[int, int] = (128, 64)

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    """Images [B, H, W, C] of noise [B, Z].

    Raises:
      ValueError: shape is not that of an image.
    """
    if len(self.shape) != 3:
      raise ValueError(f"Expected shape (H, W, C), got {tuple(self.shape)}.")
    (height, width, last), (first, second) = self.shape, self.channels
    low = (-(-height // 4), -(-width // 4))
    x = nn.Dense(first * math.prod(low))(z).reshape(-1, *low, first)
    x = Conv(first, (3, 3))(_double(_standardise(x)))
    x = _double(nn.leaky_relu(_standardise(x), _SLOPE))
    x = Conv(second, (3, 3))(x[:, :height, :width])
    x = nn.leaky_relu(_standardise(x), _SLOPE)
    return _standardise(Conv(last, (3, 3))(x))


def vector_generator(
  shape: Sequence[int], hidden: Sequence[int] = (256,)
) -> Model:
  """`VectorGenerator` as a `Model` from noise [B, Z] to inputs [B, *shape].

  Example:
    >>> import jax
    >>> from jaxunlearn.models import generator
    >>> model = generator.vector_generator((6,), hidden=(4,))
    >>> z = jax.ShapeDtypeStruct((3, 5), "float32")
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), z)
    >>> jax.eval_shape(model.predict, variables, z).shape
    (3, 6)
  """
  return _as_model(VectorGenerator(tuple(shape), tuple(hidden)))


def image_generator(
  shape: Sequence[int], channels: tuple[int, int] = (128, 64)
) -> Model:
  """`ImageGenerator` as a `Model` from noise [B, Z] to images [B, H, W, C].

  Example:
    >>> import jax
    >>> from jaxunlearn.models import generator
    >>> model = generator.image_generator((8, 8, 1), channels=(4, 2))
    >>> z = jax.ShapeDtypeStruct((3, 5), "float32")
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), z)
    >>> jax.eval_shape(model.predict, variables, z).shape
    (3, 8, 8, 1)
  """
  return _as_model(ImageGenerator(tuple(shape), channels))


def default_generator(shape: Sequence[int]) -> Model:
  """`image_generator` for three axes, `vector_generator` for other shapes.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn.models import generator
    >>> z = jnp.ones((2, 5))
    >>> for shape in ((6,), (8, 8, 1)):
    ...   model = generator.default_generator(shape)
    ...   made = jax.eval_shape(model.init, jax.random.key(0), z)
    ...   print(jax.eval_shape(model.predict, made, z).shape)
    (2, 6)
    (2, 8, 8, 1)
  """
  return (image_generator if len(shape) == 3 else vector_generator)(shape)


def _standardise(x: jax.Array) -> jax.Array:
  """Batch statistics, then a learned scale and offset a channel."""
  axes = tuple(range(x.ndim - 1))
  norm = functools.partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)
  return norm(reduction_axes=axes, feature_axes=-1)(x)


def _double(x: jax.Array) -> jax.Array:
  """Each pixel twice in height and in width."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _as_model(module: nn.Module) -> Model:
  def init(key, z):
    return Variables(dict(module.init(key, z)["params"]), {})

  def apply(variables, z, *, train=False, key=None):
    del train, key  # The same in both modes.
    return module.apply({"params": variables.params}, z), variables.model_state

  def no_loss(outputs, rows):
    raise ValueError("Expected no loss of a generator, which has no labels.")

  return Model(init, apply, no_loss)
