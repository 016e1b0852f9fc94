"""ESD: a concept's prompt is trained to steer away from the concept.

Source: Gandikota, Materzynska, Fiotto-Kaufman and Bau (2023), "Erasing Concepts
from Diffusion Models", arXiv:2303.07345, and its released code.
Class: heuristic. Data access: none; images are made by the model itself.
Cost: a step 2 evaluations of the network for each sampled step of an image, 2 of
the original and one gradient.
Differences from the first release, `FIRST_RELEASE`: its noisy image is that of
the sampler's step, its times are counted on another grid. From the later one,
`SECOND_RELEASE`, whose eta is one larger for the same target: its ESD-u moves the
time embedding and the output layer too (`group="full"` less cross-attention).
ESD-u is the first release's "noxattn".
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.phase import phase
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Request, Slot
from jaxunlearn.diffusion import requests, steps
from jaxunlearn.diffusion.guidance import both_eps
from jaxunlearn.diffusion.steps import SAMPLING, Sampling
from jaxunlearn.diffusion.training import check_time_weights, noise_error
from jaxunlearn.diffusion.types import Diffusion

PUBLISHED = Fit(optax.adam(1e-5), num_steps=1000, batch_size=1)


class Variant(NamedTuple):
  """In which the paper and the released codes differ; all static.

  Attributes:
    base: "null", the noise under the empty prompt, or "cond", under the prompt,
      is what the negated concept is added to.
    sampler: "current" or "original", the model whose images are begun.
    times: the time of the loss: "step", that of the image; "interval", drawn
      between it and the sampler's next.
  """

  base: str = "null"
  sampler: str = "current"
  times: str = "step"


PAPER = Variant()
FIRST_RELEASE = Variant(times="interval")
SECOND_RELEASE = Variant(base="cond", sampler="original")


def esd(
  diffusion: Diffusion,
  prompts: jax.Array | None = None,
  fit: Fit = PUBLISHED,
  *,
  from_prompts: jax.Array | None = None,
  group: str = "xattn",
  eta: float | jax.Array = 1.0,
  variant: Variant = PAPER,
  sampling: Sampling = SAMPLING,
  time_weights: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains a concept's prompts to predict the noise of the negated concept.

  With the original model's noise under the empty prompt, eps_0(none), and under
  the concept, eps_0(c), at images x_t that a sampler began under c,

      || eps(x_t, t, c) - [eps_0(none) - eta (eps_0(c) - eps_0(none))] ||^2

  Args:
    diffusion: the model.
    prompts: int [M, L], what names the concept, drawn in turn; None takes those
      of the request. May be traced. Prompts that name something else too erase
      that as well.
    fit: Adam of 1e-5, 1000 steps of one image by default.
    from_prompts: None, or int [M, L]: train these prompts, on images begun under
      them, in place of the concept's, each with the concept of its number
      ("nurse" without "woman"; released with `SECOND_RELEASE`). May be traced.
    group: static; what may move, of `parameter_groups`: "xattn" is ESD-x, for
      concepts that a word brings about (styles), "noxattn" ESD-u.
    eta: how far the concept is negated; 0 only takes the prompt's effect away,
      -1 asks for the original model. May be traced.
    variant: `PAPER`, `FIRST_RELEASE` or `SECOND_RELEASE`.
    sampling: of the images that are begun.
    time_weights: None, the published loss; or float [T], see `denoising_task`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` of one phase, which reads no data.

  Raises:
    ValueError: no prompts, prompts of a wrong length or out of range, an unknown
      option, a count that is not positive.

  Example:
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> method = diffusion.esd(
    ...   problem.model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   sampling=diffusion.Sampling(num_steps=2),
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info.loss.shape, round(float(info.moved), 2)
    ((2,), 0.49)
  """
  fit = steps.confined(as_fit(fit, fields), group)
  checks.one_of(("null", "cond"), base=variant.base)
  checks.one_of(("current", "original"), sampler=variant.sampler)
  checks.one_of(("step", "interval"), times=variant.times)
  steps.check_sampling(diffusion, sampling)
  check_time_weights(diffusion, time_weights)
  read = requests.reader(diffusion, requests.Concept(prompts), "prompts")
  if from_prompts is not None:
    from_prompts = requests.check_prompts(
      diffusion, from_prompts, "from_prompts"
    )
  pairs: Slot[dict[str, jax.Array]] = Slot("prompts")
  grid = steps.step_times(diffusion, sampling.num_steps)

  def erased_and_trained(request: Request) -> dict[str, jax.Array]:
    erased = read(request).prompts
    trained = erased if from_prompts is None else from_prompts
    shaped(f"from_prompts {list(erased.shape)}", trained)
    return {"erased": erased, "trained": trained}

  def objective(variables, step, key):
    params, original = variables.params, step.original.params
    keys = jax.vmap(jax.random.split)(step.keys(key))
    erased, tokens = step.rows["erased"], step.rows["trained"]
    x, number = steps.begun_images(
      diffusion,
      params if variant.sampler == "current" else original,
      tokens,
      keys[:, 0],
      num_steps=sampling.num_steps,
      guidance=sampling.guidance,
    )
    t = grid[number]
    if variant.times == "interval":
      t = steps.times_within(diffusion, sampling.num_steps, number, keys[:, 1])
    encode = diffusion.encode
    null, concept = both_eps(
      diffusion, original, x, t, encode(original, erased)
    )
    start = null
    if variant.base == "cond":
      start = concept
      if from_prompts is not None:
        start = diffusion.eps(original, x, t, encode(original, tokens))
    wanted = jax.lax.stop_gradient(start - eta * (concept - null))
    predicted = diffusion.eps(params, x, t, encode(params, tokens))
    return noise_error(predicted, wanted, t, time_weights)

  draw = Draw(retain=fit.batch_size, source=pairs)
  erase = phase(objective, fit, draw=draw, name="esd")
  return requests.telling(pairs, erased_and_trained, erase)
