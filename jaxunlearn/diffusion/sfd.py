"""Score forgetting distillation: a one-step generator that lacks a concept.

Source: Chen et al. (2025), arXiv:2409.11219, and the released code; the loss is
that of score identity distillation, Zhou et al. (2024), arXiv:2404.04057.
Class: heuristic. Data access: none; the model makes its own images. Model state:
there is none. Cost per step, for the retained prompts and again for the concept:
one gradient of the fake score, and one of the generator through the generator,
the fake score and the frozen model.
What comes back are the params of a generator that makes an image in ONE
evaluation (`one_step`); the samplers of a diffusion model are not for it.
Differences from the released code: retained prompts are drawn uniformly from
those given, where the code takes the labels of a loader of retained rows; both
networks start from the params given, there from their running average; left out
are overrides that are random classes or an external classifier's answer, the
Diff-Instruct gradient, the warm-up on other times, and what the code does about
nan in half precision. The defaults are those of CIFAR-10; for Stable Diffusion
the code takes rates of 3e-6 and 1e-6, alpha 1, both weights 1, guidance 4.5,
other times and no average.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import ema, provide
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Slot
from jaxunlearn.diffusion import requests, samplers, schedules
from jaxunlearn.diffusion.guidance import guided_eps
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.score_distillation import (
  check_times,
  from_noise,
  published_times,
  score_identity_loss,
  wide,
)
from jaxunlearn.diffusion.steps import adopt_group, confined
from jaxunlearn.diffusion.training import noisy_rows, squared_error
from jaxunlearn.diffusion.types import Diffusion

_ADAM = optax.chain(optax.clip(1.0), optax.adam(1e-5, b1=0.0))
GENERATOR = Fit(_ADAM, num_steps=50_000, batch_size=128)
FAKE = Fit(_ADAM, num_steps=1, batch_size=128)
_NAMES = Concept("forget_tokens", "override_tokens", "retain_tokens", "marks")

# The params of the fake score; a second stage goes on with those of the first.
FAKE_SCORE: Slot[PyTree] = Slot("fake_score")


class Distillation(NamedTuple):
  """The loss of `sfd`; all may be traced.

  Attributes:
    forget_weight: kappa_f >= 0, of both losses; 0 distils only.
    retain_weight: kappa_r >= 0.
    alpha: see `score_identity_loss`.
    times: (t_min, t_init, t_max): noise is added at times in [t_min, t_max), the
      generator asks the network at t_init. By default those with as much signal
      as the published ones.
    guidance: None, or the guidance of the fake score and of the frozen model.
  """

  forget_weight: float | jax.Array = 0.01
  retain_weight: float | jax.Array = 1.0
  alpha: float | jax.Array = 1.2
  times: tuple[Any, Any, Any] | None = None
  guidance: float | jax.Array | None = None


DISTILLATION = Distillation()


@old_fits(fake=("fake_optimizer", "", ""))
def sfd(
  diffusion: Diffusion,
  forget_tokens: jax.Array | None = None,
  override_tokens: jax.Array | None = None,
  fit: Fit = GENERATOR,
  *,
  retain_tokens: jax.Array | None = None,
  fake: Fit = FAKE,
  loss: Distillation = DISTILLATION,
  ema_decay: float | jax.Array = 0.9999,
  group: str = "full",
  **fields: Unpack[FitFields],
) -> Transform:
  """Distils the model into one step, the concept from another prompt's score.

  Each round first fits the fake score to the generator's images, then the
  generator to `score_identity_loss` of retained prompts, and of the concept's
  with the frozen model asked for the override. The two stages of the paper are

      chain(sfd(..., loss=Distillation(forget_weight=0.0)), sfd(...))

  Args:
    diffusion: the model.
    forget_tokens: int [F, L], the concept's prompts, F > 0; None takes those of
      the request. May be traced, as all prompts.
    override_tokens: int [F, L], what the generator makes for them instead; the
      empty prompt may be among them. None takes the request's anchors.
    fit: of the generator, one step per round; by default clips every entry to
      +-1 and takes Adam of 1e-5 without momentum, 50,000 steps with 128 images
      of retained prompts and as many of the concept, as published.
    retain_tokens: int [R, L], prompts to keep, R > 0; None takes the request's.
    fake: of the fake score, its steps per round; as the generator's by default.
    loss: weights, times and guidance.
    ema_decay: of the average of the generator that is returned, in [0, 1]; may
      be traced.
    group: static; one of `parameter_groups`, of generator and fake score.
    **fields: the fields of `fit` by keyword.

  Returns:
    A `Transform` whose info["rounds"] holds a `PhaseInfo` of "fake_score" and of
    "generator" with losses [fit.num_steps, steps of a round]; the generator's
    has no lower bound and says nothing of progress.

  Raises:
    ValueError: no prompts, prompts that do not fit the model, concept and
      override alike or of different number, (unless forget_weight is 0) prompts
      to forget among those to keep, an option out of range, times out of order.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> method = diffusion.sfd(
    ...   problem.model,
    ...   optimizer=optax.sgd(1e-3),
    ...   num_steps=2,
    ...   batch_size=2,
    ...   fake=ju.Fit(optax.sgd(1e-3), num_steps=1),
    ... )
    >>> generator, info = method.compiled(*problem.arguments)
    >>> info["rounds"]["generator"].loss.shape
    (2, 1)
    >>> params, tokens = generator.params, problem.data["tokens"]
    >>> diffusion.one_step(problem.model, params, tokens, problem.key).shape
    (4, 2, 2, 1)
  """
  fit, fake = as_fit(fit, fields), as_fit(fake, {})
  checks.non_negative(
    forget_weight=loss.forget_weight,
    retain_weight=loss.retain_weight,
    alpha=loss.alpha,
  )
  read = requests.reader(
    diffusion,
    Concept(forget_tokens, override_tokens, retain_tokens),
    *("prompts", "anchors", "retain"),
    names=_NAMES,
  )
  requests.check_differ(forget_tokens, override_tokens, "override_tokens")
  is_forgetting = not (
    checks.is_concrete(loss.forget_weight) and loss.forget_weight == 0
  )
  if is_forgetting:
    requests.check_apart(forget_tokens, retain_tokens, "retain_tokens")
  times = published_times(diffusion) if loss.times is None else loss.times
  check_times(times, diffusion.num_train_steps)
  concept: Slot[Concept] = Slot("concept")
  average: Slot[PyTree] = Slot("average")
  prompts: Slot[dict[str, jax.Array]] = Slot("prompts")
  fit_fake, fit_generator = _objectives(diffusion, loss._replace(times=times))

  def drawn(carry, data, request, key):
    """The round's prompts, which both networks see."""
    return _pairs(carry[concept], loss, key, fit.batch_size)

  def turn(objective, fit, name, **on):
    draw = Draw(retain=2 * fit.batch_size, source=prompts)
    return phase(objective, confined(fit, group), draw=draw, name=name, **on)

  begin = lambda carry, *_: carry.slots.get(FAKE_SCORE, carry.original.params)
  # In half precision a slow average would stay where it is.
  start = lambda carry, *_: jax.tree.map(wide, carry.variables.params)
  links = chain(
    provide(FAKE_SCORE, begin, reads="nothing"),
    provide(average, start, reads="nothing"),
    alternate(
      provide(prompts, drawn, reads="nothing"),
      turn(fit_fake, fake, "fake_score", on=FAKE_SCORE),
      turn(fit_generator, fit._replace(num_steps=1), "generator"),
      ema(average, ema_decay),
      rounds=fit.num_steps,
      name="rounds",
    ),
    adopt_group(average, group),
    name="sfd",
  )
  return requests.telling(concept, read, links)


def _objectives(
  diffusion: Diffusion, loss: Distillation
) -> tuple[Objective, Objective]:
  """What the fake score and the generator minimise, on rows of `_pairs`."""
  t_min, t_init, t_max = (jnp.asarray(t, jnp.int32) for t in loss.times or ())
  num_values = math.prod(diffusion.image_shape)

  def plain(params, x, t, tokens):
    return diffusion.eps(params, x, t, diffusion.encode(params, tokens))

  def eps(params, x, t, tokens):
    if loss.guidance is None:
      return plain(params, x, t, tokens)
    context = diffusion.encode(params, tokens)
    return guided_eps(diffusion, params, x, t, context, loss.guidance)

  def make(params, tokens, keys):
    z = samplers.start_noise(diffusion, keys)
    return from_noise(
      diffusion, lambda x, t: plain(params, x, t, tokens), z, t_init
    )

  def noised(x, keys):
    return noisy_rows(diffusion, x, keys, times=(t_min, t_max))

  def fit_fake(fake, step, key):
    keys = jax.vmap(jax.random.split)(step.keys(key))
    asked = step.rows["asked"]
    x = make(step.variables.params, asked, keys[:, 0])
    x_t, t, noise = noised(jax.lax.stop_gradient(x), keys[:, 1])
    error = squared_error(eps(fake, x_t, t, asked), noise)
    return _weighted(num_values * error, step.rows["weight"])

  def fit_generator(variables, step, key):
    keys = jax.vmap(jax.random.split)(step.keys(key))
    asked, told = step.rows["asked"], step.rows["told"]
    x = make(variables.params, asked, keys[:, 0])
    x_t, t, _ = noised(x, keys[:, 1])
    clean = lambda e: schedules.predict_clean(diffusion.alphas_bar, x_t, e, t)
    real = clean(eps(step.original.params, x_t, t, told))
    false = clean(eps(step[FAKE_SCORE], x_t, t, asked))
    losses = score_identity_loss(real, false, x, loss.alpha)
    return _weighted(losses, step.rows["weight"])

  return fit_fake, fit_generator


def _pairs(
  concept: Concept, loss: Distillation, key: jax.Array, size: int
) -> dict[str, jax.Array]:
  """Prompts of the generator and of the frozen model, and their weights.

  Retained ones [B, L], then as many of the concept.
  """
  kept_key, asked_key = jax.random.split(key)
  draw = lambda key, rows: jax.random.randint(key, (size,), 0, rows.shape[0])
  kept = concept.retain[draw(kept_key, concept.retain)]
  which = draw(asked_key, concept.prompts)
  # A concept of weight 0 is not even looked at: its gradient may be nan.
  is_asked = jnp.asarray(loss.forget_weight) > 0
  halves = lambda tokens: jnp.concatenate(
    [kept, jnp.where(is_asked, tokens[which], kept)]
  )
  by_half = jnp.stack(
    [jnp.asarray(w) for w in (loss.retain_weight, loss.forget_weight)]
  )
  # A phase takes the mean over both halves; the paper adds their means.
  return {
    "asked": halves(concept.prompts),
    "told": halves(concept.anchors),
    "weight": 2 * jnp.repeat(by_half, size),
  }


def _weighted(losses: jax.Array, weights: jax.Array) -> jax.Array:
  return jnp.where(weights > 0, weights * losses, 0.0)
