"""Second views of images for self-supervision: cropped, enlarged and turned.

Source: the augmentation of online contrastive distillation (OCD-Net, IJCAI
2022), as arXiv:2408.11374 uses it. Difference: the crop is a square of 2/3 of
the area; the released code draws shares of 0.66 to 0.67 and aspects of 0.99 to
1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import arrays

_AREA = 2 / 3


def turned_crops(
  key: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Crops each image at random, enlarges the crop and turns it.

  Args:
    key: PRNG key.
    images: float [B, S, S, channels], square.

  Returns:
    Views of the shape and dtype of images, and the quarter turns int32 [B] in
    0 .. 3, as many of each as B allows, in random order.

  Raises:
    ValueError: images of another shape.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import views
    >>> images = jnp.ones((4, 6, 6, 1))
    >>> turned, turns = views.turned_crops(jax.random.key(0), images)
    >>> turned.shape, sorted(turns.tolist())
    ((4, 6, 6, 1), [0, 1, 2, 3])
  """
  images = arrays("square images [B, S, S, C]", images)
  size = images.shape[1]
  corner_key, turn_key = jax.random.split(key)
  scale = _AREA**-0.5
  room = size * (1 - _AREA**0.5)
  corner = jax.random.uniform(corner_key, (images.shape[0], 2)) * room

  def crop(image: jax.Array, start: jax.Array) -> jax.Array:
    return jax.image.scale_and_translate(
      image.astype(jnp.promote_types(jnp.float32, image.dtype)),
      image.shape,
      (0, 1),
      jnp.full(2, scale),
      -start * scale,
      "linear",
      antialias=False,
    ).astype(image.dtype)

  turns = jax.random.permutation(turn_key, jnp.arange(images.shape[0]) % 4)
  turn = lambda image, k: jax.lax.switch(
    k, [lambda x, q=q: jnp.rot90(x, q) for q in range(4)], image
  )
  views = jax.vmap(turn)(jax.vmap(crop)(images, corner), turns)
  return views, turns.astype(jnp.int32)
