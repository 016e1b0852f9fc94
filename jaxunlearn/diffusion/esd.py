"""ESD: a concept's prompt is trained to steer away from the concept.

Source: Gandikota, Materzynska, Fiotto-Kaufman and Bau (2023), "Erasing Concepts
from Diffusion Models", arXiv:2303.07345, and its released code.
Class: heuristic. Data access: none; images are made by the model itself.
Cost: a step 2 evaluations of the network for each sampled step of an image, 2 of
the original and one gradient.
Differences: the loss is taken at the time at which the sampler was left (the
first code drew a time near it: `times="interval"`). The later code samples with
the original model (`sampler="original"`) and takes the concept's own noise for
a base (`base="cond"`, whose eta is one larger for the same target). ESD-u is the
first code's "noxattn", without time embedding and output layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.types import Transform
from jaxunlearn.diffusion import steps
from jaxunlearn.diffusion.guidance import both_eps
from jaxunlearn.diffusion.training import (
  check_time_weights,
  noise_error,
  row_keys,
)
from jaxunlearn.diffusion.types import Diffusion


def esd(
  diffusion: Diffusion,
  prompts: jax.Array,
  *,
  group: str = "xattn",
  eta: float | jax.Array = 1.0,
  base: str = "null",
  from_prompts: jax.Array | None = None,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 1000,
  batch_size: int = 1,
  sampler: str = "current",
  sampler_steps: int = 50,
  guidance: float | jax.Array = 3.0,
  times: str = "step",
  time_weights: jax.Array | None = None,
) -> Transform:
  """Trains a concept's prompts to predict the noise of the negated concept.

  With the original model's noise under the empty prompt, eps_0(none), and under
  the concept, eps_0(c), at images x_t that a sampler began under c,

      || eps(x_t, t, c) - [eps_0(none) - eta (eps_0(c) - eps_0(none))] ||^2

  Args:
    diffusion: the model.
    prompts: int [M, L], what names the concept; one is drawn for each image. May
      be traced. Prompts that name something else too erase that as well.
    group: static; what may move, of `parameter_groups`: "xattn" is ESD-x, for
      concepts that a word brings about (styles), "noxattn" ESD-u.
    eta: how far the concept is negated; 0 only takes the prompt's effect away,
      -1 asks for the original model. May be traced.
    base: "null", the noise under the empty prompt, or "cond", under the prompt,
      is what the negated concept is added to.
    from_prompts: None, or int [M, L]: train these prompts, on images begun under
      them, in place of the concept's, each with the concept of its number
      ("nurse" without "woman"; released with `base="cond"`). May be traced.
    optimizer: Adam of 1e-5 by default.
    num_steps: static.
    batch_size: static; images a step.
    sampler: "current" or "original", whose images are begun.
    sampler_steps: static; S, of the sampler.
    guidance: of the sampler. May be traced.
    times: the time of the loss: "step", that of the image; "interval", drawn
      between it and the sampler's next.
    time_weights: None, the published loss; or float [T], see `denoising`.

  Returns:
    A `Transform` of one phase, which reads neither data nor request.

  Raises:
    ValueError: no prompts, prompts of a wrong length or out of range, an unknown
      option, a count that is not positive.
  """
  return phase(
    _objective(
      diffusion,
      steps.check_prompts(diffusion, prompts, "prompts"),
      from_prompts,
      eta=eta,
      base=base,
      batch_size=batch_size,
      sampler=sampler,
      sampler_steps=sampler_steps,
      guidance=guidance,
      times=times,
      time_weights=time_weights,
    ),
    steps.restricted(
      optax.adam(1e-5) if optimizer is None else optimizer, group
    ),
    num_steps,
    name="esd",
  )


def _objective(
  diffusion: Diffusion,
  erased: jax.Array,
  from_prompts: jax.Array | None,
  *,
  eta: float | jax.Array,
  base: str,
  batch_size: int,
  sampler: str,
  sampler_steps: int,
  guidance: float | jax.Array,
  times: str,
  time_weights: jax.Array | None,
) -> Objective:
  checks.one_of(("null", "cond"), base=base)
  checks.one_of(("current", "original"), sampler=sampler)
  checks.one_of(("step", "interval"), times=times)
  checks.positive(batch_size=batch_size)
  steps.check_sampler_steps(diffusion, sampler_steps)
  check_time_weights(diffusion, time_weights)
  trained = erased
  if from_prompts is not None:
    trained = steps.check_prompts(diffusion, from_prompts, "from_prompts")
    if trained.shape != erased.shape:
      raise ValueError(
        f"Expected from_prompts of shape {erased.shape}, one a prompt, got "
        f"{trained.shape}."
      )
  grid = steps.step_times(diffusion, sampler_steps)

  def objective(variables, batch, key):
    params = variables.params
    original = batch.context.original.params
    rows = row_keys(key, jnp.arange(batch_size))
    keys = jax.vmap(lambda k: jax.random.split(k, 3))(rows)
    number = steps.draw_numbers(trained.shape[0], keys[:, 0])
    tokens = trained[number]
    x, step = steps.begun_images(
      diffusion,
      params if sampler == "current" else original,
      tokens,
      keys[:, 1],
      num_steps=sampler_steps,
      guidance=guidance,
    )
    t = grid[step]
    if times == "interval":
      t = jax.vmap(lambda k, low, high: jax.random.randint(k, (), low, high))(
        keys[:, 2], grid[step + 1] + 1, t + 1
      )
    encode = diffusion.encode
    null, concept = both_eps(
      diffusion, original, x, t, encode(original, erased[number])
    )
    start = null
    if base == "cond":
      start = concept
      if from_prompts is not None:
        start = diffusion.eps(original, x, t, encode(original, tokens))
    wanted = jax.lax.stop_gradient(start - eta * (concept - null))
    predicted = diffusion.eps(params, x, t, encode(params, tokens))
    return noise_error(predicted, wanted, t, time_weights)

  return objective
