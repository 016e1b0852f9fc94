"""Concept Ablation: a concept's prompt is trained to mean an anchor's.

Source: Kumari, Zhang, Wang, Shechtman, Zhang and Zhu (2023), "Ablating Concepts
in Text-to-Image Diffusion Models", arXiv:2303.13516, and its released code.
Class: heuristic. Data access: none; the original model makes images of the
anchor once, before the phase.
Cost: 2 S evaluations of the network per image of the anchor; a step one gradient
and one evaluation, twice that with the prior.
Differences from the released code: no resizing of images, whose mask is then all
ones; as many images of the prior as of the concept, drawn from the same anchor's
and not from a class of their own (one of its two codes weighs them 0.2); the
anchor's noise that is the aim can also be the original model's
(`target="original"`), as the model's own drifts when the learning rate is not
tiny; the paper's weight of each time is 1, as in the code.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Slot
from jaxunlearn.diffusion import requests, steps
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.steps import Sampling
from jaxunlearn.diffusion.training import (
  check_time_weights,
  noise_error,
  noisy_rows,
)
from jaxunlearn.diffusion.types import Diffusion

PUBLISHED = Fit(steps.clipped_adamw(8e-6), num_steps=100, batch_size=4)
SAMPLING = Sampling(num_steps=50, guidance=7.5, num_images=1000)
_NAMES = requests.NAMES._replace(anchors="anchor_prompts")


def concept_ablation(
  diffusion: Diffusion,
  prompts: jax.Array | None = None,
  anchor_prompts: jax.Array | None = None,
  fit: Fit = PUBLISHED,
  *,
  group: str = "xattn-kv",
  target: str = "self",
  prior_weight: float | jax.Array | None = None,
  sampling: Sampling = SAMPLING,
  time_weights: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains the concept's prompts to predict the noise of their anchors'.

  At noisy images x_t of the anchor, c the concept's and a the anchor's prompt,

      || eps(x_t, t, c) - sg eps(x_t, t, a) ||^2
        + prior_weight || eps(x'_t, t', a') - noise' ||^2

  the first summed over channels and averaged over pixels, as released, the
  second averaged over both.

  Args:
    diffusion: the model.
    prompts: int [M, L], that name the concept; None takes those of the request.
      May be traced.
    anchor_prompts: int [M, L]; each stands for the prompt of its number and
      names what is to come in its place; may be empty. None takes the request's
      anchors. May be traced.
    fit: AdamW of 8e-6 with decay 0.01, gradients clipped to norm 1, 100 steps of
      4 images by default.
    group: static; what may move, of `parameter_groups`: "xattn-kv" for styles
      and objects, "xattn" or "full" for more.
    target: whose noise under the anchor is the aim: "self", the model's in
      training, as released; "original"; "noise", that in the image (the paper's
      noise-based variant).
    prior_weight: None, no prior; or the weight >= 0 of the denoising loss of
      as many other anchor images, 1 where the authors use it. May be traced.
    sampling: of the anchor's images, its prompts taken in turn.
    time_weights: None, the published loss; or float [T], see `denoising_task`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` with info "ablate", which reads no data.

  Raises:
    ValueError: no prompts, prompts of a wrong length or out of range, another
      number of anchors, an unknown option, a count that is not positive.

  Example:
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> method = diffusion.concept_ablation(
    ...   problem.model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   sampling=diffusion.Sampling(num_steps=2, num_images=2),
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info["ablate"].loss.shape, round(float(info["ablate"].moved), 2)
    ((2,), 0.33)
  """
  fit = steps.confined(as_fit(fit, fields), group)
  checks.one_of(("self", "original", "noise"), target=target)
  steps.check_sampling(diffusion, sampling)
  check_time_weights(diffusion, time_weights)
  if prior_weight is not None:
    checks.non_negative(prior_weight=prior_weight)
  read = requests.reader(
    diffusion,
    Concept(prompts, anchor_prompts),
    *("prompts", "anchors"),
    names=_NAMES,
  )
  concept: Slot[Concept] = Slot("concept")
  images: Slot[dict[str, jax.Array]] = Slot("anchor_images")
  channels = diffusion.image_shape[-1]

  def make(carry, data, request, key):
    del data, request
    asked, params = carry[concept], carry.original.params
    made = steps.made_images(diffusion, params, asked.anchors, key, sampling)
    which = made["prompt"]
    return {
      "x": made["x"],
      "concept": asked.prompts[which],
      "anchor": asked.anchors[which],
    }

  def predict(params: PyTree, x: jax.Array, t: jax.Array, prompts: jax.Array):
    return diffusion.eps(params, x, t, diffusion.encode(params, prompts))

  def objective(variables, step, key):
    params, rows = variables.params, step.rows
    x, t, noise = noisy_rows(diffusion, rows["x"], step.keys(key))
    # Half of the rows are the prior's, where there is one.
    half = len(t) if prior_weight is None else len(t) // 2
    wanted = noise[:half]
    if target != "noise":
      aim = params if target == "self" else step.original.params
      wanted = predict(aim, x[:half], t[:half], rows["anchor"][:half])
    prompts = rows["concept"][:half]
    if prior_weight is not None:
      prompts = jnp.concatenate([prompts, rows["anchor"][half:]])
    predicted = predict(params, x, t, prompts)
    wanted = jnp.concatenate([jax.lax.stop_gradient(wanted), noise[half:]])
    losses = noise_error(predicted, wanted, t, time_weights)
    if prior_weight is None:
      return channels * losses
    scale = jnp.where(jnp.arange(len(t)) < half, channels, prior_weight)
    return scale * losses

  priors = 0 if prior_weight is None else fit.batch_size
  draw = Draw(retain=fit.batch_size, mixed=priors, source=images)
  links = chain(
    provide(images, make, reads="nothing"),
    phase(objective, fit, draw=draw, name="ablate"),
    name="concept_ablation",
  )
  return requests.telling(concept, read, links)
