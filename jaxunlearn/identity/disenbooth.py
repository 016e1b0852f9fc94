"""DisenBooth: a subject in a text embedding, the rest of each image in its own.

Source: Chen et al. (2023), arXiv:2305.03374, and its released code.
Class: objectives, no method of unlearning; what they are to it: the subject can
be dropped with its embedding, or anchored to its class (`identity.forget`).
Model state: none.
Differences from the released code: a loss of each image instead of a mean, and a
cosine of each image, where there a batch above 1 breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.shaped import shaped
from jaxunlearn.identity.vectors import cosine
from jaxunlearn.losses import squared_error

# `(noisy [B, ...], time int [B], condition [B, L, D]) -> noise [B, ...]`.
PredictNoise = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
WEAK, CONTRAST = 0.01, 0.001  # Theirs.


def init_adapter(key: jax.Array, width: int) -> dict[str, Any]:
  """Params of `identity_adapter`, whose mask begins half open."""
  checks.count(1, width=width)
  draw = lambda name: (
    jax.random.normal(derive(key, name), (width, width)) / width**0.5
  )
  return {
    "mask": jnp.zeros(width),
    "inner": {"kernel": draw("inner"), "bias": jnp.zeros(width)},
    "outer": {"kernel": draw("outer"), "bias": jnp.zeros(width)},
  }


def identity_adapter(params: Any, image: jax.Array) -> jax.Array:
  """What an image has that its subject has not: m + MLP(m), m = sigmoid(mask) P.

  P [B, D] are a frozen encoder's embeddings of images; the result is [B, D] too.
  """
  m = jax.nn.sigmoid(params["mask"])[None] * image
  inner, outer = params["inner"], params["outer"]
  hidden = jax.nn.relu(m @ inner["kernel"] + inner["bias"][None])
  return m + hidden @ outer["kernel"] + outer["bias"][None]


def condition(
  shared: jax.Array,
  own: jax.Array,
  shared_weight: float | jax.Array = 1.0,
  own_weight: float | jax.Array = 1.0,
) -> jax.Array:
  """What the denoiser is told; weights (1, 0) are the subject alone, (0, 1) the rest.

  Args:
    shared: float [B, L, D], states of the subject's prompt.
    own: float [B, D], the image's own embedding, told at every token.
    shared_weight: may be traced.
    own_weight: likewise.
  """
  return shared_weight * shared + own_weight * own[:, None]


def alignment(shared: jax.Array, own: jax.Array) -> jax.Array:
  """The cosine [B] of a prompt's mean state and an image's embedding."""
  return cosine(shared.mean(axis=1), own)


def disenbooth_loss(
  predict: PredictNoise,
  noisy: jax.Array,
  noise: jax.Array,
  time: jax.Array,
  shared: jax.Array,
  own: jax.Array,
  *,
  weak_weight: float | jax.Array = WEAK,
  contrast_weight: float | jax.Array = CONTRAST,
  contrast: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Denoising, weak denoising by the subject alone, and contrast of the two.

  |predict(shared + own) - noise|^2 + weak_weight |predict(shared) - noise|^2
  + contrast_weight contrast(cosine), means over pixels.

  Args:
    predict: the denoiser.
    noisy: float [B, ...], images with noise.
    noise: float [B, ...], the target.
    time: int [B].
    shared: see `condition`.
    own: likewise.
    weak_weight: >= 0; 0 leaves the subject's embedding without use of its own.
    contrast_weight: >= 0.
    contrast: of the cosine. None is the cosine itself, as released, which is
      least where the two are opposite (-1); `jnp.abs` or `jnp.square` are least
      where they are orthogonal.

  Returns:
    [B]. Both weights 0: plain denoising.

  Raises:
    ValueError: shapes do not match, a negative weight.
  """
  checks.non_negative(weak_weight=weak_weight, contrast_weight=contrast_weight)
  shaped("shared [B, L, D] and own [B, D]", shared, own)
  both = squared_error(predict(noisy, time, condition(shared, own)), noise)
  weak = squared_error(predict(noisy, time, shared), noise)
  apart = alignment(shared, own)
  apart = apart if contrast is None else contrast(apart)
  return both + weak_weight * weak + contrast_weight * apart
