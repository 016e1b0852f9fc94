"""Safe latent guidance: steers away from a prompt while sampling; no training.

Source: Schramowski et al. (2023), arXiv:2211.05105 (safe latent diffusion), and
the released code.
Class: a guard, heuristic: no parameter changes, and whoever holds the params may
sample without it. Data access: none. Cost: 3 evaluations of the network a step
instead of 2.
Differences: the paper's max(1, |phi|) is the code's min(|phi|, 1), which is
what is computed here; nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion.guidance import both_eps
from jaxunlearn.diffusion.types import Diffusion, Predictor, check_tokens


class SafetyStrength(NamedTuple):
  """How hard `safe_guidance` steers; all may be traced.

  Attributes:
    warmup: int >= 0, steps of the sampler (of 50 in the presets) before it acts;
      its momentum gathers from the first.
    scale: >= 0, how soon a difference counts in full.
    threshold: differences of the noise under the prompt to that under the
      safety prompt, with their sign, count below it only.
    momentum_scale: of the momentum in the guidance, >= 0.
    momentum: share of the momentum that stays, in [0, 1].
  """

  warmup: int | jax.Array
  scale: float | jax.Array
  threshold: float | jax.Array
  momentum_scale: float | jax.Array
  momentum: float | jax.Array


# The published settings, for 50 steps.
SAFETY_WEAK = SafetyStrength(15, 200.0, 0.0, 0.0, 0.0)
SAFETY_MEDIUM = SafetyStrength(10, 1000.0, 0.01, 0.3, 0.4)
SAFETY_STRONG = SafetyStrength(7, 2000.0, 0.025, 0.5, 0.7)
SAFETY_MAX = SafetyStrength(0, 5000.0, 1.0, 0.5, 0.7)


def safe_guidance(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  guidance: float | jax.Array,
  *,
  safety_tokens: jax.Array,
  strength: SafetyStrength = SAFETY_MEDIUM,
) -> Predictor:
  """Classifier-free guidance that keeps away from a safety prompt.

  With e, p, s the noise under the empty, the given and the safety prompt, v the
  momentum and w the guidance, entry by entry,

      mu = min(scale |p - s|, 1) where p - s < threshold, else 0
      g = mu (s - e) + momentum_scale v;   v <- momentum v + (1 - momentum) g
      eps = e + w ((p - e) - g)            (g = 0 during the warm-up)

  A sampler follows it in the place of `classifier_free`:

      keys = image_keys(key, tokens.shape[0])
      walk(diffusion, safe_guidance(...), start_noise(diffusion, keys), keys)

  Args:
    diffusion: the model.
    params: its params, of the original model.
    tokens: int [B, L], a prompt an image.
    guidance: w; may be traced.
    safety_tokens: int [L], or [B, L], what to keep away from; may be traced.
    strength: one of the presets, or your own.

  Returns:
    A `Predictor` whose state is v, [B, H, W, C].

  Raises:
    ValueError: tokens of a wrong shape, dtype or range; a strength out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion, toy
    >>> model, (params, *_), data, request, key = toy.diffusion()
    >>> guard = diffusion.safe_guidance(
    ...   model,
    ...   params,
    ...   data["tokens"],
    ...   guidance=3.0,
    ...   safety_tokens=request.concept.prompts[0],
    ... )
    >>> keys = diffusion.image_keys(key, 4)
    >>> x = diffusion.start_noise(model, keys)
    >>> diffusion.walk(model, guard, x, keys, num_steps=2).shape
    (4, 2, 2, 1)
  """
  check_tokens(diffusion, tokens)
  _check_strength(strength)
  tokens, safety = jnp.asarray(tokens), jnp.asarray(safety_tokens)
  if safety.ndim == 1:
    safety = safety[None]
  check_tokens(diffusion, safety, "safety_tokens")
  if safety.shape[0] not in (1, tokens.shape[0]):
    raise ValueError(
      f"Expected safety_tokens for {tokens.shape[0]} images, got "
      f"{safety.shape[0]}."
    )
  context = diffusion.encode(params, tokens)
  # One safety prompt is encoded once.
  unsafe = diffusion.encode(params, safety)
  unsafe = jnp.broadcast_to(unsafe, (tokens.shape[0], *unsafe.shape[1:]))

  def predict(velocity, x, t, index):
    # Two calls, so that without steering the first is that of plain guidance.
    null, prompted = both_eps(diffusion, params, x, t, context)
    shunned = diffusion.eps(params, x, t, unsafe)
    difference = prompted - shunned
    share = jnp.minimum(jnp.abs(difference) * strength.scale, 1.0)
    share = jnp.where(difference >= strength.threshold, 0.0, share)
    steer = share * (shunned - null) + strength.momentum_scale * velocity
    velocity = (
      strength.momentum * velocity + (1 - strength.momentum) * steer
    ).astype(velocity.dtype)
    steer = jnp.where(index >= strength.warmup, steer, 0.0)
    return null + guidance * ((prompted - null) - steer), velocity

  return Predictor(jnp.zeros_like, predict)


def _check_strength(strength: SafetyStrength) -> None:
  checks.non_negative(
    warmup=strength.warmup,
    scale=strength.scale,
    momentum_scale=strength.momentum_scale,
  )
  checks.fraction(momentum=strength.momentum)
