"""SafeGen: images of a concept become censored ones, whatever the prompt says.

Source: Li et al. (2024), "SafeGen: Mitigating Sexually Explicit Content Generation in
Text-to-Image Models", arXiv:2404.06666 (CCS 2024), and its released code.
Class: heuristic. Data access: the concept's rows with a censored image of each, and
benign rows. Model state: there is none. Cost: a gradient of both kinds of rows a step.
All is trained under the empty prompt, in the layers that no prompt reaches, so that
it cannot be walked around by other words.
Differences from the released code: the last params come back and no running average
of them; a triplet's benign image is drawn by itself, as nothing joins it to the
others; rates do not warm up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree
from jaxunlearn.diffusion import steps
from jaxunlearn.diffusion.steps import clipped_adamw
from jaxunlearn.diffusion.training import (
  check_time_weights,
  noise_error,
  noisy_rows,
)
from jaxunlearn.diffusion.types import Diffusion, check_images


def _column(rows: PyTree) -> jax.Array:
  checks.columns(rows, "censored")
  return rows["censored"]


PUBLISHED = Fit(clipped_adamw(1e-5), num_steps=1000, batch_size=5)


def safegen(
  diffusion: Diffusion,
  fit: Fit = PUBLISHED,
  *,
  censored: Callable[[PyTree], jax.Array] = _column,
  group: str = "selfattn",
  forget_weight: float | jax.Array = 0.1,
  retain_weight: float | jax.Array = 0.9,
  time_weights: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains self-attention to predict noise that leads to the censored image.

  With noise n, an image x of the concept, m its censored version and a benign y,

      a || eps(x_t, t, none) - (x - m + n) ||^2 + b || eps(y_t, t, none) - n ||^2

  Args:
    diffusion: the model.
    fit: AdamW of 1e-5 after clipping to norm 1, 1000 steps of 5 rows of each kind
      by default.
    censored: `rows -> [B, H, W, C]`, the censored images of rows; by default a
      column of the data, as published with mosaics by a detector. `mosaic` makes
      some.
    group: static; what may move, one of `parameter_groups`.
    forget_weight: a, of the concept's rows; may be traced.
    retain_weight: b, of benign rows; may be traced.
    time_weights: None, the published loss; or float [T], see `denoising_task`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` of one phase over the forget and the retain rows' "x".

  Raises:
    ValueError: an unknown group, a negative weight; from the call, images that do
      not fit the model, or censored ones of another shape.

  Example:
    >>> import optax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion.safegen import mosaic, safegen
    >>> problem = toy.diffusion()
    >>> method = safegen(
    ...   problem.model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   censored=lambda rows: mosaic(rows["x"], 2),
    ...   group="xattn",  # The toy has no self-attention.
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info.loss.shape, int(info.forget_count), int(info.retain_count)
    ((2,), 2, 2)
  """
  fit = steps.confined(as_fit(fit, fields), group)
  checks.functions(censored=censored)
  checks.non_negative(forget_weight=forget_weight, retain_weight=retain_weight)
  check_time_weights(diffusion, time_weights)

  def objective(variables, step, key):
    checks.columns(step.rows, "x")
    x, params = step.rows["x"], variables.params
    check_images(diffusion, x)
    wanted = censored(step.rows)
    check_images(diffusion, wanted, "censored")
    x_t, t, noise = noisy_rows(diffusion, x, step.keys(key))
    asked = step.forget[:, None, None, None]
    target = jnp.where(asked, x - wanted, 0) + noise
    null = diffusion.null_context(params, x.shape[0])
    predicted = diffusion.eps(params, x_t, t, null)
    return noise_error(predicted, target, t, time_weights)

  return phase(
    objective,
    fit,
    draw=Draw(forget=fit.batch_size, retain=fit.batch_size),
    forget_weight=forget_weight,
    retain_weight=retain_weight,
    name="safegen",
  )


def mosaic(images: jax.Array, size: int) -> jax.Array:
  """Images [B, H, W, C] whose blocks of `size` x `size` pixels are their means.

  Raises:
    ValueError: a size that does not divide H and W.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion.safegen import mosaic
    >>> images = jnp.array([[1.0, 3.0], [5.0, 7.0]])[None, ..., None]
    >>> mosaic(images, 2).ravel().tolist()
    [4.0, 4.0, 4.0, 4.0]
  """
  checks.count(1, size=size)
  b, h, w, c = images.shape
  if h % size or w % size:
    raise ValueError(f"Expected size to divide {h} and {w}, got {size}.")
  blocks = images.reshape(b, h // size, size, w // size, size, c)
  means = blocks.mean(axis=(2, 4), keepdims=True)
  return jnp.broadcast_to(means, blocks.shape).reshape(images.shape)
