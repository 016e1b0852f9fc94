"""Dynamic images: a clip of subtle motion as one image.

Source: Bilen et al. (2016) and their released code, as EmoNAS (arXiv:2303.13653)
uses it. Weights of frames sum to 0, so that what does not move vanishes; of one
frame, whose image would be 0, the weight is 1, as released.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped


def harmonic_weights(
  num_frames: int, length: int | jax.Array | None = None
) -> jax.Array:
  """Approximate rank pooling of time averages: float32 [num_frames].

  2 (T - t + 1) - (T + 1) (H_T - H_{t-1}) of frame t = 1 .. T, H the harmonic
  numbers; T is the number of frames that count, which may be traced.

  Example:
    >>> from jaxunlearn import nas
    >>> [round(v, 3) for v in nas.harmonic_weights(3).tolist()]
    [-1.333, 0.667, 0.667]
    >>> [round(v, 3) for v in nas.harmonic_weights(5, length=3).tolist()]
    [-1.333, 0.667, 0.667, 0.0, 0.0]
  """
  t, length = _frames(num_frames, length)
  harmonic = jnp.cumsum(1 / t)
  before = harmonic - 1 / t
  whole = harmonic[jnp.maximum(length, 1).astype(int) - 1]
  return _masked(2 * (length - t + 1) - (length + 1) * (whole - before), length)


def simple_weights(
  num_frames: int, length: int | jax.Array | None = None
) -> jax.Array:
  """Rank pooling of raw frames: 2 t - T - 1; see `harmonic_weights`.

  Example:
    >>> from jaxunlearn import nas
    >>> nas.simple_weights(5).tolist()
    [-4.0, -2.0, 0.0, 2.0, 4.0]
    >>> nas.simple_weights(5, length=3).tolist()
    [-2.0, 0.0, 2.0, 0.0, 0.0]
  """
  t, length = _frames(num_frames, length)
  return _masked(2 * t - length - 1, length)


def dynamic_image(
  frames: jax.Array,
  length: int | jax.Array | None = None,
  *,
  weights: Callable[..., jax.Array] = harmonic_weights,
) -> jax.Array:
  """The weighted sum of a clip's frames [T, H, W, C]: [H, W, C].

  `vmap` over clips, and over their lengths where they are padded.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> still = jnp.ones((3, 1, 2, 1))
    >>> clip = still.at[:, 0, 1, 0].set(jnp.array([0.0, 1.0, 2.0]))
    >>> image = nas.dynamic_image(clip, weights=nas.simple_weights)
    >>> image[0, :, 0].tolist()  # What stands still, and what grows.
    [0.0, 4.0]
  """
  shaped("frames [T, H, W, C]", frames)
  of_frame = weights(frames.shape[0], length)
  # What a padded clip holds beyond its length is not read.
  kept = jnp.where((of_frame != 0)[:, None, None, None], frames, 0)
  return jnp.tensordot(of_frame.astype(kept.dtype), kept, axes=1)


def to_unit_range(image: jax.Array) -> jax.Array:
  """An image [H, W, C] from its least to its largest value as 0 to 1.

  Its amplitude is lost; of a constant image all is 0.
  """
  low, high = image.min(), image.max()
  return (image - low) / jnp.where(high == low, 1.0, high - low)


def _frames(num_frames, length):
  checks.count(1, num_frames=num_frames)
  if length is None:
    length = num_frames
  checks.positive(length=length)
  t = jnp.arange(1, num_frames + 1, dtype=jnp.float32)
  return t, jnp.asarray(length, jnp.float32)


def _masked(weights, length):
  place = jnp.arange(len(weights))
  alone = (place == 0).astype(weights.dtype)
  return jnp.where(length == 1, alone, jnp.where(place < length, weights, 0))
