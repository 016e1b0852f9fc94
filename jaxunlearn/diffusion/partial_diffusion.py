"""Partial diffusion: does an unlearned model finish what another one began?

The original model runs the first, noisiest share psi of a sampler's steps under
the prompt, the unlearned one the rest. Where the concept comes out, the
unlearned model had lost the link from the prompt to it, not the concept. But any
model finishes a nearly clean image: only what a model exceeds the one retrained
without the concept by is concealment (`attacks.excess_retrieval`).

Source: Sharma et al. (2024), arXiv:2409.05668, and its released notebook.
Class: an attack; heuristic. Data access: none; both models' params.
Cost: 2 num_steps evaluations an image for the first leg, once for all psi, and
2 (1 - psi) num_steps for the second; under `vmap` over psi the second leg costs
every psi what it costs the smallest.
Differences from the released code: it scores one image a psi, here as many as
there are prompts or keys; nothing else is changed, and as there no noise is
added where one model hands over to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import samplers
from jaxunlearn.diffusion.guidance import classifier_free
from jaxunlearn.diffusion.types import Diffusion, Predictor


def partial_diffusion(
  diffusion: Diffusion,
  original_params: PyTree,
  unlearned_params: PyTree,
  tokens: jax.Array,
  psi: float | jax.Array,
  key: jax.Array,
  *,
  num_steps: int = 20,
  guidance: float | jax.Array = 4.0,
  noise: jax.Array | None = None,
  **walk: Any,
) -> jax.Array:
  """Images that the original model began and the unlearned one finished.

  Under `vmap` over psi or over stacked unlearned params the first leg is
  computed once.

  Args:
    diffusion: the model.
    original_params: of the first floor(psi num_steps) steps.
    unlearned_params: of the others.
    tokens: int [B, L], the prompts of both legs.
    psi: share of steps that the original model takes, in [0, 1]; may be traced.
    key: one PRNG key, or keys [B]; the same for every psi, so that the images of
      a curve begin with the same noise.
    num_steps: static.
    guidance: of both legs; may be traced.
    noise: see `sample`.
    **walk: `eta` and `times` of the steps; see `sample`.

  Returns:
    float [B, H, W, C]; for psi 0 `sample` of the unlearned model, for 1 of the
    original one.

  Raises:
    ValueError: psi outside [0, 1]; as `sample`.

  Source: arXiv:2409.05668, algorithm on its project page.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion, toy
    >>> model, (original, *_), data, _, key = toy.diffusion()
    >>> unlearned = jax.tree.map(lambda p: p / 2, original)
    >>> tokens = data["tokens"]
    >>> images = diffusion.partial_diffusion(
    ...   model, original, unlearned, tokens, 0.5, key, num_steps=4
    ... )
    >>> images.shape
    (4, 2, 2, 1)
  """
  checks.fraction(psi=psi)
  if jnp.ndim(psi) != 0:
    raise ValueError(
      f"Expected psi to be a scalar (vmap over several), got {jnp.shape(psi)}."
    )
  tokens = jnp.asarray(tokens)
  first = classifier_free(diffusion, original_params, tokens, guidance)
  second = classifier_free(diffusion, unlearned_params, tokens, guidance)
  keys = samplers.image_keys(key, tokens.shape[0])
  x = samplers.start_noise(diffusion, keys, noise)
  return hand_over(
    diffusion,
    first,
    second,
    x,
    keys,
    handed_over_at(psi, num_steps),
    num_steps=num_steps,
    **walk,
  )


def hand_over(
  diffusion: Diffusion,
  first: Predictor,
  second: Predictor,
  x: jax.Array,
  keys: jax.Array,
  stop: int | jax.Array,
  *,
  num_steps: int = 20,
  eta: float | jax.Array = 0.0,
  times: jax.Array | None = None,
) -> jax.Array:
  """`partial_diffusion` with any two predictors: other networks, a guard.

  Args:
    diffusion: schedule, image shape and clipping are taken.
    first: gives the noise in the first `stop` steps.
    second: gives it in the others; its state begins where it takes over.
    x: noise [B, H, W, C].
    keys: PRNG keys [B].
    stop: int in 0 .. num_steps; may be traced.
    num_steps: static.
    eta: see `sample`.
    times: see `sample`.

  Returns:
    float [B, H, W, C].

  Raises:
    ValueError: as `walk`.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> model, (params, *_), data, _, key = toy.diffusion()
    >>> first, second = (
    ...   diffusion.classifier_free(model, params, data["tokens"], guidance)
    ...   for guidance in (3.0, 1.0)
    ... )
    >>> keys = diffusion.image_keys(key, 4)
    >>> x = diffusion.start_noise(model, keys)
    >>> diffusion.hand_over(model, first, second, x, keys, 1, num_steps=2).shape
    (4, 2, 2, 1)
  """
  # All of the first leg's images are kept: it then does not depend on `stop`.
  begun = samplers.trajectory(
    diffusion, first, x, keys, num_steps=num_steps, eta=eta, times=times
  )
  return samplers.walk(
    diffusion,
    second,
    begun[stop],
    keys,
    num_steps=num_steps,
    eta=eta,
    times=times,
    start=stop,
  )


def concept_curve(
  diffusion: Diffusion,
  original_params: PyTree,
  unlearned_params: PyTree,
  tokens: jax.Array,
  psis: jax.Array,
  key: jax.Array,
  recognise: Callable[[jax.Array], jax.Array],
  **sampler: object,
) -> jax.Array:
  """How often the concept is recognised, by the share of the original's steps.

  Args:
    diffusion: the model.
    original_params: see `partial_diffusion`.
    unlearned_params: see `partial_diffusion`.
    tokens: int [B, L].
    psis: float [P] in [0, 1].
    key: see `partial_diffusion`.
    recognise: `images [B, H, W, C] -> [B]`, bool or a probability, by a
      classifier that had no part in the unlearning.
    **sampler: the keyword arguments of `partial_diffusion`.

  Returns:
    float32 [P], means over the images. At 0 the rate of the unlearned model, at
    1 of the original one. Read it beside the curve of the retrained model.

  Raises:
    ValueError: psis that are no shares [P], something else than a number an
      image from `recognise`; as `partial_diffusion`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion, toy
    >>> model, (original, *_), data, _, key = toy.diffusion()
    >>> unlearned = jax.tree.map(jnp.zeros_like, original)
    >>> curve = diffusion.concept_curve(
    ...   model,
    ...   original,
    ...   unlearned,
    ...   data["tokens"],
    ...   jnp.array([0.0, 0.5, 1.0]),
    ...   key,
    ...   lambda images: images[:, 0, 0, 0] > 0,
    ...   num_steps=2,
    ... )
    >>> curve.tolist()
    [0.5, 0.25, 0.0]
  """
  psis = arrays("psis [P > 0]", psis)
  if checks.is_concrete(psis):
    found = np.asarray(psis)
    checks.fraction(lowest_psi=found.min(), highest_psi=found.max())

  def one(psi):
    images = partial_diffusion(
      diffusion,
      original_params,
      unlearned_params,
      tokens,
      psi,
      key,
      **sampler,  # type: ignore[arg-type]
    )
    found = recognise(images)
    shaped(f"recognise to return [{len(images)}]", found)
    return found.astype(jnp.float32).mean()

  return jax.vmap(one)(psis)


def handed_over_at(psi: float | jax.Array, num_steps: int) -> jax.Array:
  """floor(psi num_steps), int32 []: the first step of the second model.

  Example:
    >>> from jaxunlearn.diffusion.partial_diffusion import handed_over_at
    >>> [int(handed_over_at(psi, 20)) for psi in (0.0, 0.3, 1.0)]
    [0, 6, 20]
  """
  # A little more than the product, which rounding may leave below an integer.
  steps = jnp.floor(jnp.asarray(psi, jnp.float32) * num_steps + 1e-3)
  return jnp.clip(steps, 0, num_steps).astype(jnp.int32)
