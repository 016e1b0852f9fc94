"""Score forgetting distillation: a one-step generator that lacks a concept.

Source: Chen et al. (2025), arXiv:2409.11219, and the released code; the loss is
that of score identity distillation, Zhou et al. (2024), arXiv:2404.04057.
Class: heuristic. Data access: none; the model makes its own images. Model state:
there is none. Cost a step, for the retained prompts and again for the concept:
one gradient of the fake score, and one of the generator through the generator,
the fake score and the frozen model.
What comes back are the params of a generator that makes an image in ONE
evaluation (`one_step`); the samplers of a diffusion model are not for it.
Differences from the released code: retained prompts are drawn uniformly from
those given, where the code takes the labels of a loader of retained rows; an
external classifier as the override, and the Diff-Instruct gradient, are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide, repeat
from jaxunlearn.core.phase import mask_change, phase
from jaxunlearn.core.types import PyTree, Transform
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.guidance import guided_eps
from jaxunlearn.diffusion.steps import check_prompts, restricted
from jaxunlearn.diffusion.types import Diffusion

# Shares of signal at the published times 38, 440 and 712 of 1000.
_LEVELS = (0.981507, 0.13771, 0.00578701)
_FAKE, _AVERAGE, _RETAIN = "fake_score", "average", "retained_prompts"
_OPTIMIZERS = ("fake_optimizer", "generator_optimizer")


def sfd(
  diffusion: Diffusion,
  forget_tokens: jax.Array,
  override_tokens: jax.Array,
  *,
  retain_tokens: jax.Array,
  optimizer: optax.GradientTransformation | None = None,
  fake_optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 50_000,
  batch_size: int = 128,
  forget_weight: float | jax.Array = 0.01,
  retain_weight: float | jax.Array = 1.0,
  alpha: float | jax.Array = 1.2,
  ema_decay: float | jax.Array = 0.9999,
  times: tuple[Any, Any, Any] | None = None,
  guidance: float | jax.Array | None = None,
  group: str = "full",
  is_checkpointed: bool = False,
) -> Transform:
  """Distils the model into one step, the concept from another prompt's score.

  Each step first fits the fake score to the generator's images, then the
  generator to `score_identity_loss` of retained prompts, and of the concept's
  with the frozen model asked for the override. The two stages of the paper are

      chain(sfd(..., forget_weight=0.0, retain_tokens=every_prompt), sfd(...))

  Args:
    diffusion: the model.
    forget_tokens: int [F, L], the concept's prompts, F > 0; may be traced, as
      all prompts.
    override_tokens: int [F, L], what the generator makes for them instead.
    retain_tokens: int [R, L], prompts to keep, R > 0.
    optimizer: of the generator; by default clips every entry to +-1 and takes
      Adam of 1e-5 without momentum, as published.
    fake_optimizer: of the fake score; the same by default.
    num_steps: static.
    batch_size: static; images of retained prompts a step, and as many of the
      concept.
    forget_weight: kappa_f >= 0, of both losses; 0 distils only. May be traced.
    retain_weight: kappa_r >= 0; may be traced.
    alpha: see `score_identity_loss`; may be traced.
    ema_decay: of the average of the generator that is returned, in [0, 1]; may
      be traced.
    times: (t_min, t_init, t_max): noise is added at times in [t_min, t_max), the
      generator asks the network at t_init; may be traced. By default those with
      as much signal as the published ones.
    guidance: None, or the guidance of the fake score and of the frozen model.
    group: static; one of `parameter_groups`, of generator and fake score.
    is_checkpointed: static; whether activations are computed twice to save
      memory.

  Returns:
    A `Transform` with infos "fake_score" and "generator", losses [num_steps, 1];
    the generator's has no lower bound and says nothing of progress.

  Raises:
    ValueError: no prompts, prompts that do not fit the model, concept and
      override alike or of different number, (unless forget_weight is 0) prompts
      to forget among those to keep, an option out of range, times out of order.
  """
  checks.positive(batch_size=batch_size)
  checks.non_negative(
    num_steps=num_steps,
    forget_weight=forget_weight,
    retain_weight=retain_weight,
    alpha=alpha,
  )
  checks.fraction(ema_decay=ema_decay)
  forget, override, retain = _check_request(
    diffusion, forget_tokens, override_tokens, retain_tokens, forget_weight
  )
  span = published_times(diffusion) if times is None else times
  _check_times(span, diffusion.num_train_steps)
  t_min, t_init, t_max = (jnp.asarray(t, jnp.int32) for t in span)
  optimizers = (
    restricted(fake_optimizer or _published_optimizer(), group),
    restricted(optimizer or _published_optimizer(), group),
  )

  def plain(params, x, t, tokens):
    return diffusion.eps(params, x, t, diffusion.encode(params, tokens))

  def guided(params, x, t, tokens):
    context = diffusion.encode(params, tokens)
    return guided_eps(diffusion, params, x, t, context, guidance)

  eps = plain if guidance is None else guided
  if is_checkpointed:
    plain, eps = jax.checkpoint(plain), jax.checkpoint(eps)

  def make(params, tokens, keys):
    z = samplers.start_noise(diffusion, keys)
    of = lambda x, t: plain(params, x, t, tokens)
    return _from_noise(diffusion, of, z, t_init)

  def noised(x, keys):
    def draw(key):
      time_key, noise_key = jax.random.split(key)
      t = jax.random.randint(time_key, (), t_min, t_max)
      return t, jax.random.normal(noise_key, x.shape[1:], x.dtype)

    t, noise = jax.vmap(draw)(keys)
    return schedules.add_noise(diffusion.alphas_bar, x, noise, t), t, noise

  def pairs(batch, key):
    """Prompts of the generator, of the frozen model, and the rows' weights."""
    kept = retain[batch.context.extra[_RETAIN]]
    which = jax.random.randint(key, (batch_size,), 0, forget.shape[0])
    asked = jnp.concatenate([kept, forget[which]])
    told = jnp.concatenate([kept, override[which]])
    weights = jnp.stack(
      [jnp.asarray(w) for w in (retain_weight, forget_weight)]
    )
    # The phase takes the mean over both halves; the paper adds their means.
    return asked, told, 2 * jnp.repeat(weights, batch_size)

  def split(key):
    prompt_key, key = jax.random.split(key)
    return prompt_key, *jax.random.split(key, (2, 2 * batch_size))

  def fake_objective(fake, batch, key):
    prompt_key, make_keys, noise_keys = split(key)
    tokens, _, weights = pairs(batch, prompt_key)
    generator = batch.context.variables.params
    x = jax.lax.stop_gradient(make(generator, tokens, make_keys))
    x_t, t, noise = noised(x, noise_keys)
    error = jnp.square(_wide(eps(fake, x_t, t, tokens)) - _wide(noise))
    return _weighted(error.sum(axis=(1, 2, 3)), weights)

  def generator_objective(variables, batch, key):
    prompt_key, make_keys, noise_keys = split(key)
    tokens, told, weights = pairs(batch, prompt_key)
    fake = batch.context.extra[_FAKE]
    x = make(variables.params, tokens, make_keys)
    x_t, t, _ = noised(x, noise_keys)
    clean = lambda e: schedules.predict_clean(diffusion.alphas_bar, x_t, e, t)
    real = clean(eps(batch.context.original.params, x_t, t, told))
    losses = score_identity_loss(
      real, clean(eps(fake, x_t, t, tokens)), x, alpha
    )
    return _weighted(losses, weights)

  def draw(carry, data, forget_mask, key):
    return jax.random.randint(key, (batch_size,), 0, retain.shape[0])

  def average(carry, data, forget_mask, key):
    return optax.incremental_update(
      carry.variables.params, carry.extra[_AVERAGE], 1 - ema_decay
    )

  def updates(objective, index, name, target=None):
    return phase(
      objective,
      optimizers[index],
      1,
      target=target,
      shared_state=_OPTIMIZERS[index],
      name=name,
    )

  return chain(
    *_starts(optimizers),
    repeat(
      chain(
        _provide(_RETAIN, draw),
        updates(fake_objective, 0, "fake_score", _FAKE),
        updates(generator_objective, 1, "generator"),
        _provide(_AVERAGE, average),
        name="steps",
      ),
      num_steps,
    ),
    _adopt(_AVERAGE),
    name="sfd",
  )


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
  """
  context = diffusion.context_of(params, tokens)
  keys = samplers.image_keys(key, context.shape[0])
  z = samplers.start_noise(diffusion, keys, noise)
  time = published_times(diffusion)[1] if time is None else time
  if checks.is_concrete(time):
    checks.labels(np.asarray(time), diffusion.num_train_steps, "time")
  eps = lambda x, t: diffusion.eps(params, x, t, context)
  return _from_noise(diffusion, eps, z, time)


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
  """
  real, fake, x = _wide(real), _wide(fake), _wide(x)
  omega = jnp.abs(real - x).mean(axis=(1, 2, 3))
  omega = jax.lax.stop_gradient(jnp.maximum(omega, 1e-5))
  gap = real - fake
  return (gap * ((real - x) - alpha * gap)).sum(axis=(1, 2, 3)) / omega


def published_times(diffusion: Diffusion) -> tuple[int, int, int]:
  """(t_min, t_init, t_max) with the share of signal of 38, 440, 712 of 1000.

  Raises:
    ValueError: a schedule that is not concrete or does not hold three such.
  """
  if not checks.is_concrete(diffusion.alphas_bar):
    raise ValueError("Expected times for a traced schedule, got None.")
  levels = np.log(np.asarray(diffusion.alphas_bar, np.float64))
  found = [int(np.abs(levels - np.log(level)).argmin()) for level in _LEVELS]
  return found[0], found[1], found[2]


def _from_noise(
  diffusion: Diffusion,
  eps: Callable[[jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  time: int | jax.Array,
) -> jax.Array:
  t = jnp.full(z.shape[:1], time, jnp.int32)
  signal, spread = schedules.signal_and_noise(diffusion.alphas_bar, t, z)
  return (spread / signal * (z - eps(spread * z, t))).astype(z.dtype)


def _published_optimizer() -> optax.GradientTransformation:
  return optax.chain(optax.clip(1.0), optax.adam(1e-5, b1=0.0))


def _weighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
  # A half of weight 0 may hold anything.
  return jnp.where(weights > 0, weights * losses, 0.0)


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _starts(optimizers: tuple[Any, Any]) -> list[Transform]:
  """Fake score, average and both optimisers' states before the first step."""
  # After an earlier stage its fake score goes on; the average starts anew.
  fake = lambda carry, *_: carry.extra.get(_FAKE, carry.original.params)
  generator = lambda carry, *_: carry.variables.params
  return [
    _provide(_FAKE, fake),
    _provide(_AVERAGE, generator),
    _provide(_OPTIMIZERS[0], lambda c, *_: optimizers[0].init(c.extra[_FAKE])),
    _provide(
      _OPTIMIZERS[1], lambda c, *_: optimizers[1].init(c.variables.params)
    ),
  ]


def _provide(name: str, fn: Callable[..., PyTree]) -> Transform:
  return provide(name, fn, reads="nothing")


def _adopt(name: str) -> Transform:
  """Puts what earlier links made in the place of the params."""

  def run(carry, data, forget_mask, key, env):
    before, params = carry.variables.params, carry.extra[name]
    for weight_mask in env.weight_masks:
      params = mask_change(before, params, weight_mask)
    variables = carry.variables._replace(params=params)
    return carry._replace(variables=variables), None

  link = provide(name, lambda *_: None, reads="nothing")
  this = dataclasses.replace(link, run=run, expand=lambda key: [(this, key)])
  return this


def _check_request(
  diffusion: Diffusion,
  forget_tokens: Any,
  override_tokens: Any,
  retain_tokens: Any,
  forget_weight: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  forget = check_prompts(diffusion, forget_tokens, "forget_tokens")
  override = check_prompts(diffusion, override_tokens, "override_tokens")
  retain = check_prompts(diffusion, retain_tokens, "retain_tokens")
  if override.shape != forget.shape:
    raise ValueError(
      f"Expected an override for each of {forget.shape[0]} prompts to forget, "
      f"got {override.shape[0]}."
    )
  if not all(checks.is_concrete(t) for t in (forget, override, retain)):
    return forget, override, retain
  asked, told, kept = (np.asarray(t) for t in (forget, override, retain))
  if (asked == told).all(axis=1).any():
    same = int((asked == told).all(axis=1).argmax())
    raise ValueError(
      f"Expected override_tokens other than forget_tokens, got the same at "
      f"{same}."
    )
  distilled = checks.is_concrete(forget_weight) and forget_weight == 0
  both = (asked[:, None] == kept[None]).all(axis=2).any(axis=1)
  if both.any() and not distilled:
    raise ValueError(
      "Expected retain_tokens without prompts to forget, got forget_tokens at "
      f"{int(both.argmax())} among them."
    )
  return forget, override, retain


def _check_times(times: tuple[Any, Any, Any], num_train_steps: int) -> None:
  t_min, t_init, t_max = times
  if not all(checks.is_concrete(t) for t in times):
    return
  if not 0 <= t_min < t_max <= num_train_steps:
    raise ValueError(
      f"Expected 0 <= t_min < t_max <= {num_train_steps}, got t_min={t_min}, "
      f"t_max={t_max}."
    )
  checks.labels(np.asarray(t_init), num_train_steps, "t_init")
