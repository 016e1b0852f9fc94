"""Noise schedules, the forward process and the grid of a sampler.

Source: Ho et al. (2020), arXiv:2006.11239 (linear); Rombach et al. (2022),
arXiv:2112.10752 (scaled linear); Nichol and Dhariwal (2021), arXiv:2102.09672
(cosine); Lin et al. (2023), arXiv:2305.08891 (trailing grid); Salimans and Ho
(2022), arXiv:2202.00512 (v-prediction).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks

_SPACINGS = ("trailing", "leading")


def linear(
  num_train_steps: int, start: float = 1e-4, end: float = 0.02
) -> jax.Array:
  """alphas_bar of betas that rise linearly; float32 [T].

  Args:
    num_train_steps: static, T > 0.
    start: the first beta, in (0, 1).
    end: the last beta, in (0, 1).

  Raises:
    ValueError: a count or a beta out of range.

  Example:
    >>> from jaxunlearn.diffusion import schedules
    >>> [round(a, 3) for a in schedules.linear(3, 0.1, 0.3).tolist()]
    [0.9, 0.72, 0.504]
  """
  checks.counts(num_train_steps=num_train_steps)
  return _alphas_bar(np.linspace(start, end, num_train_steps))


def scaled_linear(
  num_train_steps: int = 1000, start: float = 0.00085, end: float = 0.012
) -> jax.Array:
  """alphas_bar of betas whose roots rise linearly (Stable Diffusion's).

  Args:
    num_train_steps: static, T > 0.
    start: the first beta, in (0, 1).
    end: the last beta, in (0, 1).

  Returns:
    float32 [T].

  Raises:
    ValueError: a count or a beta out of range.

  Example:
    >>> from jaxunlearn.diffusion import schedules
    >>> levels = schedules.scaled_linear()  # Stable Diffusion's.
    >>> levels.shape, round(float(levels[0]), 4), round(float(levels[-1]), 4)
    ((1000,), 0.9991, 0.0047)
  """
  checks.counts(num_train_steps=num_train_steps)
  checks.fraction(start=start, end=end)
  roots = np.linspace(start**0.5, end**0.5, num_train_steps)
  return _alphas_bar(roots**2)


def cosine(num_train_steps: int, offset: float = 0.008) -> jax.Array:
  """alphas_bar that follow a squared cosine, betas at most 0.999; float32 [T].

  Args:
    num_train_steps: static, T > 0.
    offset: >= 0, keeps the first betas from vanishing.

  Raises:
    ValueError: a count that is not positive or a negative offset.

  Example:
    >>> from jaxunlearn.diffusion import schedules
    >>> [round(a, 3) for a in schedules.cosine(4).tolist()]
    [0.847, 0.494, 0.144, 0.0]
  """
  checks.counts(num_train_steps=num_train_steps)
  checks.non_negative(offset=offset)
  time = np.arange(num_train_steps + 1) / num_train_steps
  level = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
  return _alphas_bar(np.minimum(1 - level[1:] / level[:-1], 0.999))


def _alphas_bar(betas: np.ndarray) -> jax.Array:
  # The product of a thousand factors is taken in float64, on the host.
  if not ((betas > 0) & (betas < 1)).all():
    raise ValueError(
      "Expected betas between 0 and 1, got "
      f"{float(betas.min()):g} .. {float(betas.max()):g}."
    )
  return jnp.asarray(np.cumprod(1 - betas), jnp.float32)


def signal_and_noise(
  alphas_bar: jax.Array, t: jax.Array, like: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """sqrt(alphas_bar) and sqrt(1 - alphas_bar) at t [B], to scale `like` [B, ...].

  A time of -1 is a clean image: 1 and 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import schedules
    >>> levels, x = jnp.array([0.64, 0.36]), jnp.zeros((2, 1, 1, 1))
    >>> t = jnp.array([0, -1])  # The second image is clean.
    >>> signal, noise = schedules.signal_and_noise(levels, t, x)
    >>> [round(v, 3) for v in signal.ravel().tolist()]
    [0.8, 1.0]
  """
  t = jnp.asarray(t)
  level = jnp.where(t >= 0, alphas_bar[jnp.maximum(t, 0)], 1.0)
  level = level.reshape(level.shape + (1,) * (like.ndim - level.ndim))
  return jnp.sqrt(level), jnp.sqrt(1 - level)


def add_noise(
  alphas_bar: jax.Array, x: jax.Array, noise: jax.Array, t: jax.Array
) -> jax.Array:
  """The forward process: sqrt(a) x + sqrt(1 - a) noise, a = alphas_bar[t].

  Args:
    alphas_bar: float32 [T].
    x: clean images [B, H, W, C].
    noise: standard normal, of that shape.
    t: int [B], 0 .. T - 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import schedules
    >>> levels, t = jnp.array([0.64]), jnp.array([0])
    >>> x, noise = jnp.full((1, 1, 1, 1), 10.0), jnp.full((1, 1, 1, 1), 5.0)
    >>> noisy = schedules.add_noise(levels, x, noise, t)
    >>> round(noisy.item(), 3)  # 0.8 x + 0.6 noise.
    11.0
  """
  signal, spread = signal_and_noise(alphas_bar, t, x)
  return (signal * x + spread * noise).astype(x.dtype)


def predict_clean(
  alphas_bar: jax.Array,
  x: jax.Array,
  eps: jax.Array,
  t: jax.Array,
  clip: float | None = None,
) -> jax.Array:
  """The clean image that the noise `eps` in x_t implies: (x - s eps) / sqrt(a).

  Args:
    alphas_bar: float32 [T].
    x: noisy images [B, H, W, C].
    eps: noise of that shape; with the true one the forward process is inverted.
    t: int [B].
    clip: None, or clips to +-clip: at large t the quotient explodes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import schedules
    >>> levels, t = jnp.array([0.64]), jnp.array([0])
    >>> noisy, eps = jnp.full((1, 1, 1, 1), 11.0), jnp.full((1, 1, 1, 1), 5.0)
    >>> round(schedules.predict_clean(levels, noisy, eps, t).item(), 3)
    10.0
    >>> schedules.predict_clean(levels, noisy, eps, t, clip=1.0).item()
    1.0
  """
  signal, spread = signal_and_noise(alphas_bar, t, x)
  clean = (x - spread * eps) / signal
  return clean if clip is None else jnp.clip(clean, -clip, clip)


def eps_from_v(
  alphas_bar: jax.Array, x: jax.Array, v: jax.Array, t: jax.Array
) -> jax.Array:
  """The noise that a v-prediction in x_t implies: sqrt(a) v + sqrt(1 - a) x.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import schedules
    >>> levels, t = jnp.array([0.64]), jnp.array([0])
    >>> x, v = jnp.full((1, 1, 1, 1), 10.0), jnp.full((1, 1, 1, 1), 5.0)
    >>> round(schedules.eps_from_v(levels, x, v, t).item(), 3)
    10.0
  """
  signal, spread = signal_and_noise(alphas_bar, t, x)
  return signal * v + spread * x


def sampling_times(
  num_train_steps: int, num_steps: int, spacing: str = "trailing"
) -> jax.Array:
  """The times that a sampler visits, from noise to image; int32 [num_steps].

  Args:
    num_train_steps: T.
    num_steps: S, static, 1 .. T.
    spacing: "trailing" starts at T - 1, from pure noise; "leading" ends at 0
      (plus 1 for Stable Diffusion: add it) and never sees the noisiest times.

  Raises:
    ValueError: more steps than times, or an unknown spacing.

  Example:
    >>> from jaxunlearn.diffusion import schedules
    >>> schedules.sampling_times(1000, 4).tolist()
    [999, 749, 499, 249]
    >>> schedules.sampling_times(1000, 4, spacing="leading").tolist()
    [750, 500, 250, 0]
  """
  checks.one_of(_SPACINGS, spacing=spacing)
  if not 1 <= num_steps <= num_train_steps:
    raise ValueError(
      f"Expected num_steps in 1 .. {num_train_steps}, got {num_steps}."
    )
  if spacing == "leading":
    times = (np.arange(num_steps) * (num_train_steps // num_steps))[::-1]
  else:
    shares = np.arange(num_steps) * (num_train_steps / num_steps)
    times = np.round(num_train_steps - shares).astype(int) - 1
  return jnp.asarray(times.copy(), jnp.int32)
