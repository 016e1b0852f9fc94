"""Safe self-distillation: a concept's prompt learns what the empty one says.

Source: Kim et al. (2023), "Towards Safe Self-Distillation of Internet-Scale
Text-to-Image Diffusion Models", arXiv:2307.05977, and its released code.
Class: heuristic. Data access: none; images are made by the model itself. Model
state: there is none. Cost: a step 2 evaluations of the network for each sampled
step of an image, 1 under the empty prompt and one gradient.
Unlike ESD the target is the student's own noise, so nothing is negated and no
original is held, and both the images and the result are a running average's.
Difference from the released code: times are counted on the sampler's grid.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import ema, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Request, Slot
from jaxunlearn.diffusion import requests, steps
from jaxunlearn.diffusion.score_distillation import wide
from jaxunlearn.diffusion.steps import SAMPLING, Sampling, clipped_adamw
from jaxunlearn.diffusion.training import check_time_weights, noise_error
from jaxunlearn.diffusion.types import Diffusion

PUBLISHED = Fit(clipped_adamw(1e-5, weight_decay=1e-4), 1500, batch_size=1)


def sdd(
  diffusion: Diffusion,
  prompts: jax.Array | None = None,
  fit: Fit = PUBLISHED,
  *,
  together: jax.Array | None = None,
  group: str = "xattn",
  ema_decay: float | jax.Array = 0.999,
  sampling: Sampling = SAMPLING,
  time_weights: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains a concept's prompts to predict the noise of the empty prompt.

  At images x_t that a running average of the model, the teacher, began under the
  concept, with sg for what is not differentiated,

      || eps(x_t, t, c) - sg eps(x_t, t, none) ||^2

  Args:
    diffusion: the model.
    prompts: int [M, L], what names the concepts, drawn in turn; None takes those
      of the request. May be traced.
    fit: of the student; `PUBLISHED` by default.
    together: None, each image is begun under its own prompt; or int [L], one
      prompt that names all concepts, under which all are, as released. May be
      traced.
    group: static; what may move, one of `parameter_groups`.
    ema_decay: of the teacher, in [0, 1]; may be traced.
    sampling: of the images that are begun.
    time_weights: None, the published loss; or float [T], see `denoising_task`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` that returns the teacher and reads no data. Its info["rounds"]
    holds the `PhaseInfo` of the "student", losses [fit.num_steps, 1].

  Raises:
    ValueError: prompts that do not fit the model or are none, an unknown group,
      a decay outside [0, 1], a count that is not positive.

  Example:
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> from jaxunlearn.diffusion.sdd import sdd
    >>> problem = toy.diffusion()
    >>> method = sdd(
    ...   problem.model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   sampling=diffusion.Sampling(num_steps=2),
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info["rounds"]["student"].loss.shape
    (2, 1)
  """
  fit = steps.confined(as_fit(fit, fields), group)
  checks.fraction(ema_decay=ema_decay)
  steps.check_sampling(diffusion, sampling)
  check_time_weights(diffusion, time_weights)
  read = requests.reader(diffusion, requests.Concept(prompts), "prompts")
  if together is not None:
    together = jnp.asarray(together)[None]
    requests.check_prompts(diffusion, together, "together[None]")
  rows: Slot[dict[str, jax.Array]] = Slot("prompts")
  teacher: Slot[PyTree] = Slot("teacher")

  def told(request: Request) -> dict[str, jax.Array]:
    asked = read(request).prompts
    begun = asked if together is None else together
    return {"asked": asked, "begun": jnp.broadcast_to(begun, asked.shape)}

  def objective(variables, step, key):
    params, asked = variables.params, step.rows["asked"]
    keys = jax.vmap(jax.random.split)(step.keys(key))
    x, number = steps.begun_images(
      diffusion,
      step[teacher],
      step.rows["begun"],
      keys[:, 0],
      num_steps=sampling.num_steps,
      guidance=sampling.guidance,
    )
    t = steps.times_within(diffusion, sampling.num_steps, number, keys[:, 1])
    null = diffusion.null_context(params, x.shape[0])
    wanted = jax.lax.stop_gradient(diffusion.eps(params, x, t, null))
    predicted = diffusion.eps(params, x, t, diffusion.encode(params, asked))
    return noise_error(predicted, wanted, t, time_weights)

  draw = Draw(retain=fit.batch_size, source=rows)
  # In half precision a slow average would stay where it is.
  begin = lambda carry, *_: jax.tree.map(wide, carry.variables.params)
  distil = chain(
    provide(teacher, begin, reads="nothing"),
    alternate(
      phase(objective, fit._replace(num_steps=1), draw=draw, name="student"),
      ema(teacher, ema_decay),
      rounds=fit.num_steps,
      name="rounds",
    ),
    steps.adopt_group(teacher, group),
    name="sdd",
  )
  return requests.telling(rows, told, distil)
