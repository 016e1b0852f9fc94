"""Concept Ablation: a concept's prompt is trained to mean an anchor's.

Source: Kumari, Zhang, Wang, Shechtman, Zhang and Zhu (2023), "Ablating Concepts
in Text-to-Image Diffusion Models", arXiv:2303.13516, and its released code.
Class: heuristic. Data access: none; the original model makes images of the
anchor once, before the phase.
Cost: 2 `sampler_steps` evaluations of the network an anchor's image; a step one
gradient and one evaluation, twice that with the prior.
Differences from the released code: no resizing of images, whose mask is then all
ones; the anchor's noise that is the aim can also be the original model's
(`target="original"`), as the model's own drifts when the learning rate is not
tiny; the images of the prior are drawn from the same anchor's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.types import Transform
from jaxunlearn.diffusion import steps
from jaxunlearn.diffusion.training import (
  check_time_weights,
  noise_error,
  noisy_rows,
  row_keys,
)
from jaxunlearn.diffusion.types import Diffusion

_IMAGES = "anchor_images"


def concept_ablation(
  diffusion: Diffusion,
  prompts: jax.Array,
  anchor_prompts: jax.Array,
  *,
  group: str = "xattn-kv",
  target: str = "self",
  prior_weight: float | jax.Array | None = None,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 100,
  batch_size: int = 4,
  num_images: int = 1000,
  sampler_steps: int = 50,
  guidance: float | jax.Array = 7.5,
  chunk_size: int = 64,
  time_weights: jax.Array | None = None,
) -> Transform:
  """Trains the concept's prompts to predict the noise of their anchors'.

  At noisy images x_t of the anchor, c the concept's and a the anchor's prompt,

      || eps(x_t, t, c) - sg eps(x_t, t, a) ||^2
        + prior_weight || eps(x'_t, t', a') - noise' ||^2

  the first summed over channels and averaged over pixels, as released, the
  second averaged over both.

  Args:
    diffusion: the model.
    prompts: int [M, L], that name the concept. May be traced.
    anchor_prompts: int [M, L]; each stands for the prompt of its number and
      names what is to come in its place; may be empty. May be traced.
    group: static; what may move, of `parameter_groups`: "xattn-kv" for styles
      and objects, "xattn" or "full" for more.
    target: whose noise under the anchor is the aim: "self", the model's in
      training, as released; "original"; "noise", that in the image (the paper's
      noise-based variant).
    prior_weight: None, no prior; or the weight >= 0 of the denoising loss of
      other anchor images, 1 where the authors use it. May be traced.
    optimizer: AdamW of 8e-6 with decay 0.01, gradients clipped to norm 1, by
      default.
    num_steps: static.
    batch_size: static; images a step.
    num_images: static; images of the anchor, its prompts taken in turn; at
      least M.
    sampler_steps: static; of the sampler that makes them.
    guidance: of that sampler. May be traced.
    chunk_size: static; images made at a time.
    time_weights: None, the published loss; or float [T], see `denoising`.

  Returns:
    A `Transform` with info "ablate", which reads neither data nor request.

  Raises:
    ValueError: no prompts, prompts of a wrong length or out of range, another
      number of anchors, fewer images than anchors, an unknown option, a count
      that is not positive.
  """
  concept = steps.check_prompts(diffusion, prompts, "prompts")
  anchor = steps.check_prompts(
    diffusion, anchor_prompts, "anchor_prompts", may_be_empty=True
  )
  if anchor.shape != concept.shape:
    raise ValueError(
      f"Expected anchor_prompts of shape {concept.shape}, one a prompt, got "
      f"{anchor.shape}."
    )
  checks.positive(
    batch_size=batch_size, num_images=num_images, chunk_size=chunk_size
  )
  if num_images < anchor.shape[0]:
    raise ValueError(
      f"Expected num_images >= {anchor.shape[0]}, one an anchor, got "
      f"{num_images}."
    )
  steps.check_sampler_steps(diffusion, sampler_steps)
  if prior_weight is not None:
    checks.non_negative(prior_weight=prior_weight)

  def make(carry, data, forget_mask, key):
    del data, forget_mask
    return steps.made_images(
      diffusion,
      carry.original.params,
      anchor,
      key,
      num_images=num_images,
      num_steps=sampler_steps,
      guidance=guidance,
      chunk_size=chunk_size,
    )

  if optimizer is None:
    optimizer = steps.clipped_adamw(8e-6)
  ablate = phase(
    _objective(
      diffusion, concept, anchor, target, prior_weight, batch_size, time_weights
    ),
    steps.restricted(optimizer, group),
    num_steps,
    name="ablate",
  )
  images = provide(_IMAGES, make, reads="nothing")
  return chain(images, ablate, name="concept_ablation")


def _objective(
  diffusion: Diffusion,
  concept: jax.Array,
  anchor: jax.Array,
  target: str,
  prior_weight: float | jax.Array | None,
  batch_size: int,
  time_weights: jax.Array | None,
) -> Objective:
  checks.one_of(("self", "original", "noise"), target=target)
  check_time_weights(diffusion, time_weights)
  channels = diffusion.image_shape[-1]

  def draw(images, key):
    """Noisy images of the anchor, with their prompts' numbers."""
    keys = row_keys(key, jnp.arange(batch_size))
    keys = jax.vmap(jax.random.split)(keys)
    which = steps.draw_numbers(images["x"].shape[0], keys[:, 0])
    noisy = noisy_rows(diffusion, images["x"][which], keys[:, 1])
    return *noisy, images["prompt"][which]

  def objective(variables, batch, key):
    params, images = variables.params, batch.context.extra[_IMAGES]
    ablate_key, prior_key = jax.random.split(key)

    def predict(p, x, t, prompts):
      return diffusion.eps(p, x, t, diffusion.encode(p, prompts))

    x, t, wanted, number = draw(images, ablate_key)
    if target != "noise":
      aim = params if target == "self" else batch.context.original.params
      wanted = jax.lax.stop_gradient(predict(aim, x, t, anchor[number]))
    predicted = predict(params, x, t, concept[number])
    losses = channels * noise_error(predicted, wanted, t, time_weights)
    if prior_weight is None:
      return losses
    x, t, noise, number = draw(images, prior_key)
    predicted = predict(params, x, t, anchor[number])
    prior = noise_error(predicted, noise, t, time_weights)
    return losses + prior_weight * prior

  return objective
