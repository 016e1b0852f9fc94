"""UnlearnDiffAtk: tokens that bring an erased concept back, and its controls.

K tokens are put into a prompt so that the unlearned model itself explains an
image of the concept best: its denoising error is a classifier. Success is judged
by what it then generates from the prompt's own noise.

    result = attack_prompts(model, params, tokens, images, recognise, key)
    attack_rates(result)

A model never trained on the concept yields to it too, now and then, and random
tokens are a strong attack where words are few: a rate means something beside
`random`, with as many generations, and beside the rates of the retrained model.
The soft variant optimises free embeddings, which are no prompt and invert nearly
any image, on any model: never read it alone.

Source: Zhang et al. (2023), arXiv:2310.11868, and its released code
(OPTML-Group/Diffusion-MU-Attack).
Class: an attack; heuristic. Data access: an image of the concept a prompt; the
unlearned model's params, no others. White box.
Cost a prompt: outer_steps (inner_steps + 2 num_steps) evaluations, and as many
generations for the control; soft.num_steps gradients.
Differences from the released code: all candidates are generated, where that
stops at the first success (the rate is the same); images come from DDIM, there
from 50 steps of a linear multistep sampler; the ids are judged as they are,
without a round trip through text; rows are projected on the simplex by sorting,
exactly, instead of bisection; the control draws as many random prompts as there
are candidates, there 40. Left out are tokens spread over the prompt, the
absolute error, other seeds, projection on the nearest tokens (P4D), and
universal prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.training import map_many
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import samplers, splicing, token_search
from jaxunlearn.diffusion.guidance import guided_eps
from jaxunlearn.diffusion.types import (
  Diffusion,
  Predictor,
  check_images,
  check_tokens,
)

NO_SOFT = token_search.SoftSearch(0)
_STARTS = ("uniform", "random")


class PromptAttack(NamedTuple):
  """What was recognised in the generations of P prompts, O candidates each.

  Attributes:
    pre: bool [P], of the prompts themselves.
    adversarial: bool [P, O], with the tokens after each outer step.
    random: bool [P, O], with as many draws of random tokens: the control.
    soft: bool [P], with free embeddings; False if there were no steps of it.
    tokens: int32 [P, O, K], the adversarial tokens.
    random_tokens: int32 [P, O, K].
    loss: float32 [P, O, inner_steps], the denoising error while searching.
  """

  pre: jax.Array
  adversarial: jax.Array
  random: jax.Array
  soft: jax.Array
  tokens: jax.Array
  random_tokens: jax.Array
  loss: jax.Array


class Sampler(NamedTuple):
  """How the images of an attack are made.

  Attributes:
    num_steps: static.
    guidance: may be traced.
    strategy: over prompts; see `core.training.map_many`.
  """

  num_steps: int = 20
  guidance: float | jax.Array = 4.0
  strategy: str | int = "vmap"


SAMPLER = Sampler()


class AttackRates(NamedTuple):
  """Shares of prompts, float32 [], in [0, 1]; lower is better unlearning.

  Attributes:
    pre: the prompt itself succeeds.
    random: it, or one of the random draws.
    adversarial: it, or one of the candidates; the attack success rate.
    soft: it, or the free embeddings.
  """

  pre: jax.Array
  random: jax.Array
  adversarial: jax.Array
  soft: jax.Array


def attack_rates(result: PromptAttack) -> AttackRates:
  """The shares of prompts on which each attack succeeds.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> pre = jnp.array([True, False, False, False])
    >>> found = jnp.array([[False], [True], [True], [False]])
    >>> none = jnp.zeros((4, 1), bool)
    >>> result = diffusion.PromptAttack(
    ...   pre,
    ...   adversarial=found,
    ...   random=none,
    ...   soft=none[:, 0],
    ...   tokens=None,
    ...   random_tokens=None,
    ...   loss=None,
    ... )
    >>> rates = diffusion.attack_rates(result)
    >>> rates.pre.item(), rates.adversarial.item()
    (0.25, 0.75)
  """
  rate = lambda hits: (result.pre | hits).astype(jnp.float32).mean()
  return AttackRates(
    rate(result.pre),
    rate(result.random.any(axis=1)),
    rate(result.adversarial.any(axis=1)),
    rate(result.soft),
  )


@old_fields(
  search=token_search.TokenSearch,
  sampler=Sampler,
  soft={
    "soft_steps": "num_steps",
    "soft_learning_rate": "learning_rate",
    "soft_batch_size": "batch_size",
  },
)
def attack_prompts(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  images: jax.Array,
  recognise: Callable[[jax.Array], jax.Array],
  key: jax.Array,
  *,
  search: token_search.TokenSearch = token_search.PUBLISHED,
  soft: token_search.SoftSearch = NO_SOFT,
  allowed: jax.Array | None = None,
  sampler: Sampler = SAMPLER,
) -> PromptAttack:
  """Attacks prompts, each with an image of the concept of its own.

  Under `vmap` over stacked params several models are attacked with the same
  noise. The defaults are the released settings for objects and styles.

  Args:
    diffusion: the model.
    params: of the unlearned model.
    tokens: int [P, L], prompts that used to produce the concept.
    images: float [P, H, W, C], clean images of the concept, that no method was
      given.
    recognise: `images [B, H, W, C] -> bool [B]`, whether the concept shows; by a
      classifier that had no part in the unlearning.
    key: one PRNG key, or keys [P]; a prompt's key gives the noise that all of
      its generations start from.
    search: of tokens; see `TokenSearch`.
    soft: of the soft variant, left out by default; see `SoftSearch`.
    allowed: None, or bool [V], the tokens that attack and control may use.
    sampler: of the generations that are looked at.

  Returns:
    A `PromptAttack`.

  Raises:
    ValueError: shapes that do not fit the model, images that are not finite, no
      prompts, no room for the tokens, no allowed token, an unknown word, a count
      that is not positive; from `recognise`, something else than bool [B].

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion, toy
    >>> model, variables, data, _, key = toy.diffusion()
    >>> attack = lambda params: diffusion.attack_prompts(
    ...   model,
    ...   params,
    ...   data["tokens"][:2],
    ...   data["x"][:2],
    ...   lambda images: images.mean(axis=(1, 2, 3)) > 0,
    ...   key,
    ...   search=diffusion.TokenSearch(2, outer_steps=3, inner_steps=1),
    ...   sampler=diffusion.Sampler(num_steps=2),
    ... )
    >>> result = jax.jit(attack)(variables.params)
    >>> result.adversarial.shape, result.tokens.shape
    ((2, 3), (2, 3, 2))
  """
  _check_arguments(
    diffusion, tokens, images, search.num_tokens, search.insertion
  )
  checks.counts(
    outer_steps=search.outer_steps,
    inner_steps=search.inner_steps,
    batch_size=search.batch_size,
    soft_batch_size=soft.batch_size,
  )
  checks.non_negative(soft_steps=soft.num_steps)
  checks.one_of(_STARTS, start=search.start)
  allowed = _check_allowed(diffusion, allowed)
  tokens, images = jnp.asarray(tokens), jnp.asarray(images)

  def one(prompt, image, key):
    search_key, random_key, soft_key, seed = jax.random.split(key, 4)
    point = splicing.insertion_points(diffusion, prompt[None], search.insertion)

    def shown(context):
      noise = jnp.broadcast_to(seed, context.shape[:1])
      return _recognised(
        diffusion, params, context, noise, recognise, *sampler[:2]
      )

    def with_tokens(ids):
      many = jnp.broadcast_to(prompt, (ids.shape[0], *prompt.shape))
      points = jnp.broadcast_to(point, ids.shape[:1])
      return shown(diffusion.encode(params, splicing.insert(many, ids, points)))

    found, loss = token_search.adversarial_tokens(
      diffusion, params, prompt, image, search_key, search, allowed=allowed
    )
    drawn = token_search.random_tokens(
      random_key, (search.outer_steps, search.num_tokens), allowed
    )
    inverted = jnp.zeros((), bool)
    if soft.num_steps:
      free = token_search.soft_prompt(
        diffusion,
        params,
        prompt,
        image,
        soft_key,
        soft,
        num_tokens=search.num_tokens,
        insertion=search.insertion,
      )
      inverted = shown(
        splicing.encode_with(diffusion, params, prompt[None], free[None], point)
      )[0]
    pre = shown(diffusion.encode(params, prompt[None]))[0]
    return PromptAttack(
      pre, with_tokens(found), with_tokens(drawn), inverted, found, drawn, loss
    )

  keys = samplers.image_keys(key, tokens.shape[0])
  return map_many(one, tokens, images, keys, strategy=sampler.strategy)


def _recognised(
  diffusion, params, context, keys, recognise, num_steps, guidance
):
  """Whether the concept shows in images of contexts [B, L, D]; bool [B]."""

  def predict(state, x, t, index):
    del index
    return guided_eps(diffusion, params, x, t, context, guidance), state

  images = samplers.walk(
    diffusion,
    Predictor(lambda x: (), predict),
    samplers.start_noise(diffusion, keys),
    keys,
    num_steps=num_steps,
  )
  found = recognise(images)
  shaped(f"recognise to return bool [{len(images)}]", found)
  return found


def _check_arguments(
  diffusion: Diffusion,
  tokens: Any,
  images: Any,
  num_tokens: int,
  insertion: str,
) -> None:
  check_tokens(diffusion, tokens)
  check_images(diffusion, images, "images")
  if not 0 < len(tokens) == len(images):
    raise ValueError(
      f"Expected an image a prompt, got {len(tokens)} prompts and "
      f"{len(images)} images."
    )
  checks.finite(images, "images")
  checks.one_of(splicing.INSERTIONS, insertion=insertion)
  splicing.check_room(diffusion, tokens, num_tokens)


def _check_allowed(diffusion: Diffusion, allowed: Any) -> jax.Array:
  splicing.embedders(diffusion)
  size = int(diffusion.vocab_size or 0)
  if allowed is None:
    return jnp.ones(size, bool)
  shaped(f"allowed bool [{size}]", allowed)
  if checks.is_concrete(allowed) and not np.asarray(allowed).any():
    raise ValueError("Expected allowed to leave tokens, got none.")
  return jnp.asarray(allowed)
