"""Small generators with a latent w, after StyleGAN, and their discriminators.

A mapping network turns noise z into w; a synthesis network begins with a learned
constant, and w scales the channels that go into each of its layers. So a sample
is edited by moving its w.

Source: Karras et al. (2019, 2020), arXiv:1812.04948 and 1912.04958, in small.
Differences: outputs are normalised by their root mean square instead of by the
kernel's (demodulation); no noise inside; one layer a resolution; learning rates
are not equalised; the discriminator judges each row by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.models.conv import Conv

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
_START = 4  # Height and width of the constant that images begin with.


class Gan(NamedTuple):
  """A generator and a discriminator as pure functions.

  Params are `{"generator": {"mapping": ..., "synthesis": ...}, "discriminator":
  ...}`; functions of the generator take its part alone.

  Attributes:
    init: `key -> Variables`.
    mapping: `(generator, z [B, Z]) -> w [B, W]`.
    synthesis: `(generator, w) -> x [B, *shape]`, w [B, W] or one a layer,
      [B, L, W].
    discriminate: `(discriminator, x [B, *shape]) -> logits [B]`, high for real.
    latent_dim: Z.
    shape: of one sample.
  """

  init: Callable[[jax.Array], Variables]
  mapping: Callable[[PyTree, jax.Array], jax.Array]
  synthesis: Callable[[PyTree, jax.Array], jax.Array]
  discriminate: Callable[[PyTree, jax.Array], jax.Array]
  latent_dim: int
  shape: tuple[int, ...]

  def generate(self, generator: PyTree, z: jax.Array) -> jax.Array:
    """Samples [B, *shape] of noise [B, Z]."""
    return self.synthesis(generator, self.mapping(generator, z))

  def noise(self, keys: jax.Array) -> jax.Array:
    """Standard normal z [B, Z], a row a key [B]."""
    return jax.vmap(lambda k: jax.random.normal(k, (self.latent_dim,)))(keys)


class Mapping(nn.Module):
  """Dense layers from noise [B, Z], brought to unit size first, to w [B, W]."""

  widths: Sequence[int]

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    x = _normalised(z)
    for width in self.widths:
      x = _leaky(nn.Dense(width)(x))
    return x


class Synthesis(nn.Module):
  """Layers styled by w [B, W] or [B, L, W]: samples [B, *shape].

  Attributes:
    shape: of one sample.
    widths: channels of each layer.
    is_image: whether layers are 3x3 convolutions from 4x4 on, the size doubled
      between them and cropped at the end; else they are dense.
  """

  shape: Sequence[int]
  widths: Sequence[int]
  is_image: bool

  @nn.compact
  def __call__(self, w: jax.Array) -> jax.Array:
    count = len(self.widths)
    if w.ndim == 2:
      w = jnp.repeat(w[:, None], count, axis=1)
    shaped(f"w [B, W] or [B, {count}, W]", w)
    size = (_START, _START) if self.is_image else ()
    begin = nn.initializers.normal(1.0)
    x = self.param("start", begin, (*size, self.widths[0]))
    x = jnp.broadcast_to(x, (len(w), *x.shape))
    for i, width in enumerate(self.widths):
      if i and self.is_image:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
      scale = nn.Dense(
        x.shape[-1], bias_init=nn.initializers.ones, name=f"style_{i}"
      )(w[:, i])
      x = x * scale.reshape(len(w), *[1] * (x.ndim - 2), -1)
      x = _leaky(_normalised(self._layer(width, 3, f"layer_{i}")(x)))
    last = self.shape[-1] if self.is_image else math.prod(self.shape)
    x = self._layer(last, 1, "to_sample")(x)
    if self.is_image:
      return x[:, : self.shape[0], : self.shape[1]]
    return x.reshape(-1, *self.shape)

  def _layer(self, width: int, side: int, name: str) -> Any:
    if self.is_image:
      return Conv(width, (side, side), name=name)
    return nn.Dense(width, name=name)


class Discriminator(nn.Module):
  """Layers to logits [B]: convolutions, of stride 2 but the first; or dense."""

  widths: Sequence[int]
  is_image: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.is_image:
      for i, width in enumerate(self.widths):
        x = _leaky(Conv(width, (3, 3), strides=1 + (i > 0))(x))
    x = x.reshape(len(x), -1)
    for width in self.widths[-1:] if self.is_image else self.widths:
      x = _leaky(nn.Dense(width)(x))
    return nn.Dense(1)(x)[:, 0]


def vector_gan(
  shape: Sequence[int],
  widths: Sequence[int] = (64, 128),
  judge: Sequence[int] = (128, 64),
  *,
  latent_dim: int = 16,
  mapping: Sequence[int] = (32, 32),
) -> Gan:
  """A `Gan` of dense layers, for samples of any shape.

  Args:
    shape: of one sample.
    widths: of the synthesis network.
    judge: widths of the discriminator.
    latent_dim: Z.
    mapping: widths of the mapping network, the last of them W.

  Example:
    >>> import jax
    >>> from jaxunlearn import gan
    >>> model = gan.vector_gan((3,), (8, 8), (8,), latent_dim=4, mapping=(6,))
    >>> params = model.init(jax.random.key(0)).params
    >>> z = model.noise(jax.random.split(jax.random.key(1), 5))
    >>> x = model.generate(params["generator"], z)
    >>> x.shape, model.discriminate(params["discriminator"], x).shape
    ((5, 3), (5,))
  """
  made = Synthesis(tuple(shape), tuple(widths), False)
  return _gan(made, Discriminator(tuple(judge), False), latent_dim, mapping)


def image_gan(
  shape: Sequence[int],
  width: int = 32,
  *,
  latent_dim: int = 64,
  mapping: Sequence[int] = (64, 64),
) -> Gan:
  """A `Gan` of convolutions for images (H, W, C); 8x8 has 2 layers, 32x32 has 4.

  Args:
    shape: of one image.
    width: channels of every layer.
    latent_dim: Z.
    mapping: see `vector_gan`.

  Raises:
    ValueError: shape is not that of an image.

  Example:
    >>> import jax
    >>> from jaxunlearn import gan
    >>> model = gan.image_gan((8, 8, 1), width=2, latent_dim=4, mapping=(6,))
    >>> params = jax.jit(model.init)(jax.random.key(0)).params["generator"]
    >>> z = model.noise(jax.random.split(jax.random.key(1), 5))
    >>> jax.jit(model.generate)(params, z).shape
    (5, 8, 8, 1)
  """
  if len(shape) != 3:
    raise ValueError(f"Expected shape (H, W, C), got {tuple(shape)}.")
  doublings = math.ceil(math.log2(max(*shape[:2], _START) / _START))
  widths = (width,) * (doublings + 1)
  made = Synthesis(tuple(shape), widths, True)
  return _gan(made, Discriminator(widths, True), latent_dim, mapping)


def _gan(synthesis, discriminator, latent_dim, mapping) -> Gan:
  to_w = Mapping(tuple(mapping))
  shapes = ((latent_dim,), (mapping[-1],), synthesis.shape)

  def init(key: jax.Array) -> Variables:
    modules = zip((to_w, synthesis, discriminator), jax.random.split(key, 3))
    first, second, judge = (
      dict(module.init(k, jnp.zeros((1, *shape)))["params"])
      for (module, k), shape in zip(modules, shapes)
    )
    generator = {"mapping": first, "synthesis": second}
    return Variables({GENERATOR: generator, DISCRIMINATOR: judge})

  def run(module: nn.Module, params: PyTree, inputs: jax.Array) -> Any:
    return module.apply({"params": params}, inputs)

  return Gan(
    init,
    lambda params, z: run(to_w, params["mapping"], z),
    lambda params, w: run(synthesis, params["synthesis"], w),
    lambda params, x: run(discriminator, params, x),
    latent_dim,
    synthesis.shape,
  )


def _leaky(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, 0.2)


def _normalised(x: jax.Array) -> jax.Array:
  """The last axis brought to a mean square of 1."""
  return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-8)
