"""One-step generators: how they make an image, and the loss that distils one.

Source: Zhou et al. (2024), arXiv:2404.04057 (score identity distillation), with
the times of the code released for Chen et al. (2025), arXiv:2409.11219.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.types import Diffusion

# Shares of signal at the published times 38, 440 and 712 of 1000.
_LEVELS = (0.981507, 0.13771, 0.00578701)


def one_step(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  key: jax.Array,
  *,
  time: int | jax.Array | None = None,
  noise: jax.Array | None = None,
) -> jax.Array:
  """Images of a generator that `sfd` trained, in one evaluation of the network.

  With s = sqrt((1 - a) / a), a the share of signal at the given time,

      G(z, c) = s (z - eps(sqrt(1 - a) z, time, c))

  Args:
    diffusion: the model.
    params: the generator's.
    tokens: int [B, L], a prompt an image.
    key: see `sample`.
    time: t_init of `sfd`; that by default.
    noise: None, or z [B, H, W, C].

  Returns:
    float [B, H, W, C], not clipped.

  Raises:
    ValueError: as `sample`; a time outside 0 .. T - 1.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> params, tokens = problem.variables.params, problem.data["tokens"]
    >>> diffusion.one_step(problem.model, params, tokens, problem.key).shape
    (4, 2, 2, 1)
  """
  context = diffusion.context_of(params, tokens)
  keys = samplers.image_keys(key, context.shape[0])
  z = samplers.start_noise(diffusion, keys, noise)
  time = published_times(diffusion)[1] if time is None else time
  if checks.is_concrete(time):
    checks.labels(np.asarray(time), diffusion.num_train_steps, "time")
  eps = lambda x, t: diffusion.eps(params, x, t, context)
  return from_noise(diffusion, eps, z, time)


def score_identity_loss(
  real: jax.Array,
  fake: jax.Array,
  x: jax.Array,
  alpha: float | jax.Array = 1.2,
) -> jax.Array:
  """The score identity loss of generated images, float32 [B], without a bound.

      sum (real - fake) ((real - x) - alpha (real - fake)) / omega,
      omega = max(mean |real - x|, 1e-5), not differentiated

  Args:
    real: clean images [B, H, W, C] that the frozen model sees in noised `x`.
    fake: those that the fake score sees.
    x: the generator's images.
    alpha: 1.2 as published; 1 gives sum (real - fake) (fake - x) / omega.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import score_distillation
    >>> image = lambda value: jnp.full((1, 1, 1, 2), value)
    >>> loss = score_distillation.score_identity_loss(
    ...   real=image(2.0), fake=image(1.0), x=image(0.0), alpha=1.0
    ... )
    >>> loss.tolist()  # Of each entry 1 times (2 - 1), over an omega of 2.
    [1.0]
  """
  real, fake, x = wide(real), wide(fake), wide(x)
  omega = jnp.abs(real - x).mean(axis=(1, 2, 3))
  omega = jax.lax.stop_gradient(jnp.maximum(omega, 1e-5))
  gap = real - fake
  return (gap * ((real - x) - alpha * gap)).sum(axis=(1, 2, 3)) / omega


def published_times(diffusion: Diffusion) -> tuple[int, int, int]:
  """(t_min, t_init, t_max) with the share of signal of 38, 440, 712 of 1000.

  Raises:
    ValueError: a schedule that is not concrete or does not hold three such, one
      later than the other.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import schedules, score_distillation
    >>> model = toy.diffusion().model
    >>> score_distillation.published_times(model)  # Of 20.
    (1, 15, 19)
    >>> levels = schedules.linear(1000)
    >>> score_distillation.published_times(model._replace(alphas_bar=levels))
    (38, 440, 712)
  """
  if not checks.is_concrete(diffusion.alphas_bar):
    raise ValueError("Expected times for a traced schedule, got None.")
  levels = np.asarray(diffusion.alphas_bar, np.float64)
  levels = np.log(np.maximum(levels, np.finfo(np.float32).tiny))
  t_min, t_init, t_max = (
    int(np.abs(levels - np.log(level)).argmin()) for level in _LEVELS
  )
  if not t_min < t_init < t_max:
    raise ValueError(
      "Expected times for a schedule this short or flat, got the nearest to the "
      f"published at {t_min}, {t_init}, {t_max}."
    )
  return t_min, t_init, t_max


def from_noise(
  diffusion: Diffusion,
  eps: Callable[[jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  time: int | jax.Array,
) -> jax.Array:
  """The generator's image of z [B, H, W, C], given `(x, t [B]) -> eps`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import score_distillation
    >>> model = toy.diffusion().model._replace(alphas_bar=jnp.array([0.64]))
    >>> z, eps = jnp.full((1, 1, 1, 1), 4.0), lambda x, t: jnp.zeros_like(x)
    >>> image = score_distillation.from_noise(model, eps, z, 0)
    >>> round(image.item(), 3)  # 0.6 / 0.8 of z.
    3.0
  """
  t = jnp.full(z.shape[:1], time, jnp.int32)
  signal, spread = schedules.signal_and_noise(diffusion.alphas_bar, t, z)
  return (spread / signal * (z - eps(spread * z, t))).astype(z.dtype)


def check_times(times: tuple[Any, Any, Any], num_train_steps: int) -> None:
  """(t_min, t_init, t_max) are integers and in order.

  Raises:
    ValueError: they are not.

  Example:
    >>> from jaxunlearn.diffusion import score_distillation
    >>> score_distillation.check_times((5, 10, 20), 20)
    >>> score_distillation.check_times((20, 10, 5), 20)
    Traceback (most recent call last):
      ...
    ValueError: Expected 0 <= t_min < t_max <= 20, got t_min=20, t_max=5.
  """
  t_min, t_init, t_max = times
  if not all(checks.is_concrete(t) for t in times):
    return
  if not 0 <= t_min < t_max <= num_train_steps:
    raise ValueError(
      f"Expected 0 <= t_min < t_max <= {num_train_steps}, got t_min={t_min}, "
      f"t_max={t_max}."
    )
  checks.labels(np.asarray(t_init), num_train_steps, "t_init")
  for name, value in (("t_min", t_min), ("t_max", t_max)):
    checks.labels(np.asarray(value), num_train_steps + 1, name)


def wide(x: jax.Array) -> jax.Array:
  """As float32, or as wide as it is.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import score_distillation
    >>> score_distillation.wide(jnp.ones(1, jnp.bfloat16)).dtype.name
    'float32'
  """
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))
