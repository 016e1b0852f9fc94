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
external classifier as the override, the Diff-Instruct gradient, and what the code
does about nan in half precision, are left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide, repeat
from jaxunlearn.core.phase import Objective, mask_change, phase
from jaxunlearn.core.types import PyTree, Transform
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.guidance import guided_eps
from jaxunlearn.diffusion.score_distillation import (
  check_times,
  from_noise,
  published_times,
  score_identity_loss,
  wide,
)
from jaxunlearn.diffusion.steps import check_prompts, restricted
from jaxunlearn.diffusion.training import noisy_rows, squared_error
from jaxunlearn.diffusion.types import Diffusion

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
    override_tokens: int [F, L], what the generator makes for them instead; the
      empty prompt may be among them.
    retain_tokens: int [R, L], prompts to keep, R > 0; likewise.
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
    A `Transform` whose info["steps"] holds a `PhaseInfo` of "fake_score" and of
    "generator" with losses [num_steps, 1]; the generator's has no lower bound
    and says nothing of progress.

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
  check_times(span, diffusion.num_train_steps)
  fake_objective, generator_objective = _objectives(
    diffusion,
    (forget, override, retain),
    span,
    (retain_weight, forget_weight),
    alpha=alpha,
    guidance=guidance,
    is_checkpointed=is_checkpointed,
  )
  optimizers = (
    restricted(fake_optimizer or _published_optimizer(), group),
    restricted(optimizer or _published_optimizer(), group),
  )

  def draw(carry, data, forget_mask, key):
    return jax.random.randint(key, (batch_size,), 0, retain.shape[0])

  def average(carry, data, forget_mask, key):
    # What does not change keeps its bits.
    return jax.tree.map(
      lambda old, new: (
        old + ((1 - ema_decay) * (wide(new) - old)).astype(old.dtype)
      ),
      carry.extra[_AVERAGE],
      carry.variables.params,
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


def _objectives(
  diffusion: Diffusion,
  prompts: tuple[jax.Array, jax.Array, jax.Array],
  times: tuple[Any, Any, Any],
  weights: tuple[Any, Any],
  *,
  alpha: float | jax.Array,
  guidance: float | jax.Array | None,
  is_checkpointed: bool,
) -> tuple[Objective, Objective]:
  """What the fake score and the generator minimise; arguments as of `sfd`.

  Args:
    prompts: to forget, their overrides, to retain.
    weights: of the retained prompts, and of those to forget.
  """
  t_min, t_init, t_max = (jnp.asarray(t, jnp.int32) for t in times)
  num_values = math.prod(diffusion.image_shape)
  plain, eps = _networks(diffusion, guidance, is_checkpointed)

  def make(params, tokens, keys):
    z = samplers.start_noise(diffusion, keys)
    return from_noise(
      diffusion, lambda x, t: plain(params, x, t, tokens), z, t_init
    )

  def noised(x, keys):
    return noisy_rows(diffusion, x, keys, times=(t_min, t_max))

  def draw(batch, key):
    """Prompts told to each side, their weights, keys of images and noise."""
    prompt_key, key = jax.random.split(key)
    asked, told, by_row = _pairs(
      prompts, weights, batch.context.extra[_RETAIN], prompt_key
    )
    return asked, told, by_row, *jax.random.split(key, (2, asked.shape[0]))

  def fake_objective(fake, batch, key):
    asked, _, by_row, make_keys, noise_keys = draw(batch, key)
    generator = batch.context.variables.params
    x = jax.lax.stop_gradient(make(generator, asked, make_keys))
    x_t, t, noise = noised(x, noise_keys)
    error = squared_error(eps(fake, x_t, t, asked), noise)
    return _weighted(num_values * error, by_row)

  def generator_objective(variables, batch, key):
    asked, told, by_row, make_keys, noise_keys = draw(batch, key)
    fake = batch.context.extra[_FAKE]
    x = make(variables.params, asked, make_keys)
    x_t, t, _ = noised(x, noise_keys)
    clean = lambda e: schedules.predict_clean(diffusion.alphas_bar, x_t, e, t)
    real = clean(eps(batch.context.original.params, x_t, t, told))
    losses = score_identity_loss(
      real, clean(eps(fake, x_t, t, asked)), x, alpha
    )
    return _weighted(losses, by_row)

  return fake_objective, generator_objective


def _networks(
  diffusion: Diffusion,
  guidance: float | jax.Array | None,
  is_checkpointed: bool,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  """`(params, x, t, tokens) -> eps` of the generator, and of the scores."""

  def plain(params, x, t, tokens):
    return diffusion.eps(params, x, t, diffusion.encode(params, tokens))

  def guided(params, x, t, tokens):
    context = diffusion.encode(params, tokens)
    return guided_eps(diffusion, params, x, t, context, guidance)

  eps = plain if guidance is None else guided
  if is_checkpointed:
    return jax.checkpoint(plain), jax.checkpoint(eps)
  return plain, eps


def _pairs(
  prompts: tuple[jax.Array, jax.Array, jax.Array],
  weights: tuple[Any, Any],
  which_kept: jax.Array,
  key: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Prompts of the generator, of the frozen model, and the rows' weights.

  Retained ones [B, L], then as many of the concept.
  """
  forget, override, retain = prompts
  size = which_kept.shape[0]
  kept = retain[which_kept]
  which = jax.random.randint(key, (size,), 0, forget.shape[0])
  # A concept of weight 0 is not even looked at: its gradient may be nan.
  is_asked = jnp.asarray(weights[1]) > 0
  halves = lambda tokens: jnp.concatenate(
    [kept, jnp.where(is_asked, tokens[which], kept)]
  )
  by_half = jnp.stack([jnp.asarray(w) for w in weights])
  # The phase takes the mean over both halves; the paper adds their means.
  return halves(forget), halves(override), 2 * jnp.repeat(by_half, size)


def _published_optimizer() -> optax.GradientTransformation:
  return optax.chain(optax.clip(1.0), optax.adam(1e-5, b1=0.0))


def _weighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
  return jnp.where(weights > 0, weights * losses, 0.0)


def _starts(optimizers: tuple[Any, Any]) -> list[Transform]:
  """Fake score, average and both optimisers' states before the first step."""
  # After an earlier stage its fake score goes on; the average starts anew.
  fake = lambda carry, *_: carry.extra.get(_FAKE, carry.original.params)
  # In half precision a slow average would stay where it is.
  generator = lambda carry, *_: jax.tree.map(wide, carry.variables.params)
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
    before = carry.variables.params
    params = jax.tree.map(
      lambda old, new: new.astype(old.dtype), before, carry.extra[name]
    )
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
  override = check_prompts(
    diffusion, override_tokens, "override_tokens", may_be_empty=True
  )
  retain = check_prompts(
    diffusion, retain_tokens, "retain_tokens", may_be_empty=True
  )
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
  known = set(map(tuple, kept.tolist()))
  both = [tuple(row) in known for row in asked.tolist()]
  if any(both) and not distilled:
    raise ValueError(
      "Expected retain_tokens without prompts to forget, got forget_tokens at "
      f"{both.index(True)} among them."
    )
  return forget, override, retain
