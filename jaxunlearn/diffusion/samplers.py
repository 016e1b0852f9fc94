"""Samplers from noise to image as one loop: DDIM, DDPM and all between.

Source: Song et al. (2021), arXiv:2010.02502, equation 12; Ho et al. (2020),
arXiv:2006.11239. With eta = 1 on the grid of all T times the DDIM step is the
ancestral DDPM step with the posterior variance.
Difference from diffusers: where the clean image was clipped, the direction is
the one that the clipped image implies (as in guided-diffusion's sampler).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.guidance import classifier_free
from jaxunlearn.diffusion.types import (
  Diffusion,
  Predictor,
  check_images,
)


def sample(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  key: jax.Array,
  *,
  num_steps: int = 20,
  guidance: float | jax.Array = 4.0,
  eta: float | jax.Array = 0.0,
  noise: jax.Array | None = None,
  times: jax.Array | None = None,
) -> jax.Array:
  """Images for prompts, by classifier-free guidance, in one `lax.scan`.

  Cost: 2 num_steps evaluations of the network an image.

  Args:
    diffusion: the model.
    params: its params.
    tokens: int [B, L], a prompt an image.
    key: PRNG key, split into one for each image; or keys [B], one an image, so
      that an image does not depend on the batch that it is made in.
    num_steps: static, 1 .. T.
    guidance: 1 is the prompt alone, 0 no prompt; may be traced.
    eta: 0 is DDIM, 1 DDPM; in [0, 1]; may be traced.
    noise: None, or the noise [B, H, W, C] to start from.
    times: None, or int [num_steps], falling, in 0 .. T - 1;
      `schedules.sampling_times` by default.

  Returns:
    float [B, H, W, C].

  Raises:
    ValueError: shapes, dtypes or counts do not fit; eta, tokens or times out of
      range.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> params, tokens = problem.variables.params, problem.data["tokens"]
    >>> images = diffusion.sample(
    ...   problem.model, params, tokens, problem.key, num_steps=2
    ... )
    >>> images.shape, float(abs(images).max()) <= problem.model.clip
    ((4, 2, 2, 1), True)
  """
  tokens = jnp.asarray(tokens)
  predictor = classifier_free(diffusion, params, tokens, guidance)
  keys = image_keys(key, tokens.shape[0])
  x = start_noise(diffusion, keys, noise)
  return walk(
    diffusion, predictor, x, keys, num_steps=num_steps, eta=eta, times=times
  )


def walk(
  diffusion: Diffusion,
  predictor: Predictor,
  x: jax.Array,
  keys: jax.Array,
  *,
  num_steps: int = 20,
  eta: float | jax.Array = 0.0,
  times: jax.Array | None = None,
  start: int | jax.Array | None = None,
  stop: int | jax.Array | None = None,
) -> jax.Array:
  """Takes images from step `start` to step `stop` of a sampler's grid.

  The whole walk is a `lax.scan` and can be differentiated. A part of it costs
  only the steps it takes (`lax.fori_loop`), even for traced bounds; reverse-mode
  derivatives do not exist there: put `stop_gradient` on the params.

  Args:
    diffusion: schedule, image shape and clipping are taken.
    predictor: what gives the noise.
    x: images [B, H, W, C] as they are before step `start`: noise for 0.
    keys: PRNG keys [B], one an image.
    num_steps: static, of the grid.
    eta: see `sample`.
    times: see `sample`.
    start: first step; 0 by default. May be traced.
    stop: the step not taken any more; num_steps by default. May be traced; at
      most `start`, nothing happens.

  Returns:
    [B, H, W, C]: before step `stop`, that is at time times[stop]; clean at the
    end.

  Raises:
    ValueError: as `sample`; bounds outside 0 .. num_steps.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> model, variables, data, _, key = toy.diffusion()
    >>> keys = diffusion.image_keys(key, 4)
    >>> predictor = diffusion.classifier_free(
    ...   model, variables.params, data["tokens"], 3.0
    ... )
    >>> x = diffusion.start_noise(model, keys)
    >>> half = diffusion.walk(model, predictor, x, keys, num_steps=4, stop=2)
    >>> half.shape
    (4, 2, 2, 1)
  """
  grid = _grid(diffusion, x, keys, num_steps, eta, times)
  for name, bound in (("start", start), ("stop", stop)):
    if bound is None or not checks.is_concrete(bound):
      continue
    if not 0 <= int(bound) <= num_steps:
      raise ValueError(
        f"Expected {name} in 0 .. {num_steps}, got {name}={bound}."
      )
  step = _stepper(diffusion, predictor, keys, grid, eta)
  state = (x, predictor.init(x))
  if start is None and stop is None:
    state, _ = jax.lax.scan(
      lambda s, i: (step(i, s), None), state, jnp.arange(num_steps)
    )
  else:
    first = jnp.asarray(0 if start is None else start, jnp.int32)
    last = jnp.asarray(num_steps if stop is None else stop, jnp.int32)
    state = jax.lax.fori_loop(first, last, step, state)
  return state[0]


def trajectory(
  diffusion: Diffusion,
  predictor: Predictor,
  x: jax.Array,
  keys: jax.Array,
  *,
  num_steps: int = 20,
  eta: float | jax.Array = 0.0,
  times: jax.Array | None = None,
) -> jax.Array:
  """All images of a walk, [num_steps + 1, B, H, W, C].

  Entry i is the image before step i, at time times[i]: the first is `x`, the
  last the clean image. Arguments and errors are those of `walk`.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> model, variables, data, _, key = toy.diffusion()
    >>> keys = diffusion.image_keys(key, 4)
    >>> predictor = diffusion.classifier_free(
    ...   model, variables.params, data["tokens"], 3.0
    ... )
    >>> x = diffusion.start_noise(model, keys)
    >>> diffusion.trajectory(model, predictor, x, keys, num_steps=2).shape
    (3, 4, 2, 2, 1)
  """
  grid = _grid(diffusion, x, keys, num_steps, eta, times)
  step = _stepper(diffusion, predictor, keys, grid, eta)

  def body(state, index):
    moved = step(index, state)
    return moved, moved[0]

  state = (x, predictor.init(x))
  _, later = jax.lax.scan(body, state, jnp.arange(num_steps))
  return jnp.concatenate([x[None], later])


def image_keys(key: jax.Array, batch_size: int) -> jax.Array:
  """One key an image, [B]: of one key, or such keys themselves.

  Keys may be of the old kind, uint32 [2] or [B, 2].

  Raises:
    ValueError: keys of another number.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion
    >>> keys = diffusion.image_keys(jax.random.key(0), 4)
    >>> keys.shape, diffusion.image_keys(keys, 4) is keys
    ((4,), True)
  """
  key = jnp.asarray(key)
  # Two numbers that are one key would pass for the keys of two images.
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.shape == (batch_size,):
    return key
  if key.shape != ():
    raise ValueError(
      f"Expected one key or keys of shape ({batch_size},), got {key.shape}."
    )
  return jax.random.split(key, batch_size)


def start_noise(
  diffusion: Diffusion, keys: jax.Array, noise: jax.Array | None = None
) -> jax.Array:
  """The noise to start from, [B, H, W, C]: each image's, from its key.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> model, keys = problem.model, jax.random.split(problem.key, 3)
    >>> three = diffusion.start_noise(model, keys)
    >>> one = diffusion.start_noise(model, keys[1:2])  # Whatever its batch.
    >>> three.shape, float(abs(three[1] - one[0]).max())
    ((3, 2, 2, 1), 0.0)
  """
  if noise is None:
    return _noise(keys, 0, diffusion.image_shape)
  check_images(diffusion, noise, "noise")
  if noise.shape[0] != keys.shape[0]:
    raise ValueError(
      f"Expected noise for {keys.shape[0]} images, got {noise.shape[0]}."
    )
  return jnp.asarray(noise)


def ddim_step(
  diffusion: Diffusion,
  x: jax.Array,
  eps: jax.Array,
  t: jax.Array,
  t_next: jax.Array,
  noise: jax.Array,
  eta: float | jax.Array,
) -> jax.Array:
  """One step from time t to time t_next < t, which is -1 for the clean image.

  With a, b = alphas_bar at t and t_next, and x0 the (clipped) clean image,

      sigma^2 = eta^2 (1 - b) / (1 - a) (1 - a / b)
      x_next = sqrt(b) x0 + sqrt(1 - b - sigma^2) eps + sigma noise

  Args:
    diffusion: schedule and clipping are taken.
    x: [B, H, W, C] at time t.
    eps: the noise predicted in it.
    t: int32 [B].
    t_next: int32 [B].
    noise: standard normal [B, H, W, C]; read where eta is not 0.
    eta: see `sample`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import samplers
    >>> model = toy.diffusion().model._replace(alphas_bar=jnp.array([0.64]))
    >>> x = jnp.full((1, 1, 1, 1), 1.4)  # Of a clean image and a noise of ones.
    >>> one, t, clean = jnp.ones((1, 1, 1, 1)), jnp.array([0]), jnp.array([-1])
    >>> moved = samplers.ddim_step(model, x, one, t, clean, noise=one, eta=0.0)
    >>> round(moved.item(), 3)
    1.0
  """
  levels = diffusion.alphas_bar
  clean = schedules.predict_clean(levels, x, eps, t, diffusion.clip)
  signal, spread = schedules.signal_and_noise(levels, t, x)
  next_signal, next_spread = schedules.signal_and_noise(levels, t_next, x)
  eps = (x - signal * clean) / spread
  ratio = jnp.square(signal / next_signal)
  sigma = eta * next_spread / spread * jnp.sqrt(jnp.maximum(1 - ratio, 0))
  along = jnp.sqrt(jnp.maximum(jnp.square(next_spread) - jnp.square(sigma), 0))
  moved = next_signal * clean + along * eps + sigma * noise
  return moved.astype(x.dtype)


def _grid(
  diffusion: Diffusion,
  x: jax.Array,
  keys: jax.Array,
  num_steps: int,
  eta: Any,
  times: jax.Array | None,
) -> jax.Array:
  """The times and a last -1, int32 [num_steps + 1]; arguments are checked."""
  check_images(diffusion, x)
  checks.fraction(eta=eta)
  shaped(f"keys [{len(x)}]", keys)
  if times is None:
    times = schedules.sampling_times(diffusion.num_train_steps, num_steps)
  shaped(f"times [{num_steps}]", times)
  _check_times(times, diffusion.num_train_steps)
  return jnp.append(jnp.asarray(times, jnp.int32), jnp.int32(-1))


def _check_times(times: Any, num_train_steps: int) -> None:
  """Integers that fall: on a rising grid there would be signal to add."""
  checks.labels(times, num_train_steps, "times")
  if not checks.is_concrete(times):
    return
  found = np.asarray(times)
  if (np.diff(found) >= 0).any():
    raise ValueError(f"Expected times to fall, got {found.tolist()}.")


def _stepper(
  diffusion: Diffusion,
  predictor: Predictor,
  keys: jax.Array,
  grid: jax.Array,
  eta: Any,
):
  """`(index, (x, state)) -> (x, state)`."""

  def step(index, moving):
    x, state = moving
    t = jnp.full(x.shape[:1], grid[index])
    t_next = jnp.full(x.shape[:1], grid[index + 1])
    eps, state = predictor.predict(state, x, t, index)
    noise = _noise(keys, index + 1, diffusion.image_shape)
    return ddim_step(diffusion, x, eps, t, t_next, noise, eta), state

  return step


def _noise(keys: jax.Array, stream: Any, shape: tuple[int, ...]) -> jax.Array:
  """Standard normal [B, *shape], each image's from its key."""
  return jax.vmap(
    lambda key: jax.random.normal(jax.random.fold_in(key, stream), shape)
  )(keys)
