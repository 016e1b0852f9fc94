"""SalUn for diffusion models: another prompt for the images of a concept.

Source: Fan et al. (2024), arXiv:2310.12508 (generation), and the released code.
Class: heuristic. Data access: forget and retain rows, images and prompts. Model
state: there is none. Cost: for the mask one gradient over all rows, of which
those to keep weigh 0; one gradient and one more forward pass per step.
Differences from the released code: both prompts see the same noisy image and the
same dropped prompts; forget and retain terms are both means over pixels (its
DDPM part sums the retain term, so that its alpha of 1e-3 is about 3 here); the
mask is that of the mean over the forget set, weights outside it get no update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import masked
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.tasks import Fit, FitFields, Task, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  ALL,
  Draw,
  Losses,
  PyTree,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.diffusion import requests, steps
from jaxunlearn.diffusion.guidance import guided_eps
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.training import (
  Augment,
  changed_prompts,
  check_data,
  check_time_weights,
  noise_error,
  noisy_rows,
)
from jaxunlearn.diffusion.types import Diffusion, parameter_group
from jaxunlearn.methods.salun import saliency_mask

PUBLISHED = Fit(optax.adam(1e-5), num_steps=1000, batch_size=8)


def salun(
  diffusion: Diffusion,
  relabel: Augment | None = None,
  fit: Fit = PUBLISHED,
  *,
  keep: float | jax.Array = 0.5,
  retain_weight: float | jax.Array = 0.5,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  group: str = "full",
  mask_guidance: float | jax.Array = 8.5,
  time_weights: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Learns to see in a concept's images what another prompt says.

  Minimises over the salient weights, with c' the new prompt of a forget row,

      mean |eps(x_t, t, c) - stop_gradient(eps(x_t, t, c'))|^2  (forget rows)
        + retain_weight mean |eps(x_t, t, c) - noise|^2         (retain rows)

  Args:
    diffusion: the model.
    relabel: static; `(tokens int [L], key) -> tokens int [L]`, another prompt
      for that of a forget row: `replace_words`, or a constant prompt. None takes
      the request's anchors: that of the row's own prompt, if it is one of the
      concept's, or else any.
    fit: how, with as many retain rows as forget rows per step; Adam of 1e-5,
      1000 steps of 8 by default, the published setting. The mask takes as many
      rows at a time.
    keep: share of the group's weights that may change, in [0, 1]; 1 is plain
      relabelling. May be traced.
    retain_weight: alpha >= 0; may be traced.
    null_rate: share of rows that get the empty prompt, in [0, 1]; a forget row
      then teaches nothing. May be traced.
    augment: None, or what is done to a prompt before: `drop_words`.
    group: static; one of `parameter_groups`, of whose weights the share is
      taken.
    mask_guidance: w of the guided noise whose error marks the weights; the
      published 1 + 7.5. May be traced.
    time_weights: None, the paper's loss; or float [T], see `denoising_task`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` whose info is a `PhaseInfo`, needing forget and retain rows. An
    empty request marks no weights and returns the params as they are; only with
    a keep of 1 that is not traced, which needs no mask, does it fine-tune.

  Raises:
    ValueError: an option outside its range, an unknown group; from the call,
      rows that do not fit the model, no relabelling and no anchors.

  Example:
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> method = diffusion.salun(
    ...   problem.model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=2
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info.loss.shape, round(float(info.moved), 2)
    ((2,), 0.25)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(retain_weight=retain_weight)
  checks.fraction(keep=keep, null_rate=null_rate)
  check_time_weights(diffusion, time_weights)
  concept: Slot[Concept] = Slot("concept")

  if relabel is None:
    new = lambda step: to_anchors(step[concept])
  else:
    new = lambda step: relabel
  fitted = phase(
    relabelling(diffusion, new, null_rate, augment, time_weights),
    steps.confined(fit, group),
    draw=Draw(forget=fit.batch_size, retain=fit.batch_size),
    retain_weight=retain_weight,
    name="salun",
  )
  if relabel is None:
    read = requests.reader(diffusion, Concept(), "prompts", "anchors")
    fitted = requests.telling(concept, read, fitted)
  # Without a choice there is no gradient to take.
  if checks.is_concrete(keep) and keep == 1:
    return fitted
  task = guided_task(diffusion, mask_guidance, time_weights=time_weights)
  chunk_size = 256 if fit.batch_size == ALL else fit.batch_size
  mask = mask_within(task, keep, group=group, chunk_size=chunk_size)
  return masked(fitted, mask, needs=Draw(forget=ALL))


def relabelling(
  diffusion: Diffusion,
  relabel: Callable[[Step], Augment],
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  time_weights: jax.Array | None = None,
) -> Objective:
  """SalUn's loss of rows; `relabel` of a step is what its forget rows become.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import diffusion, toy
    >>> from jaxunlearn.diffusion.salun import relabelling
    >>> model, variables, data, request, key = toy.diffusion()
    >>> relabel = diffusion.replace_words(jnp.arange(8).at[2].set(4))
    >>> objective = relabelling(model, lambda step: relabel)
    >>> step = ju.core.as_step(data)._replace(forget=request.forget)
    >>> objective(variables, step, key).shape
    (4,)
  """

  def objective(variables, step, key):
    check_data(diffusion, step.rows)
    params, new = variables.params, relabel(step)
    keys = jax.vmap(jax.random.split)(step.keys(key))
    x_t, t, noise = noisy_rows(diffusion, step.rows["x"], keys[:, 0])
    change = lambda row, key: changed_prompts(
      diffusion, row, key, null_rate, augment, new
    )
    tokens = jax.vmap(change)(step.rows["tokens"], keys[:, 1])
    of = lambda q, c: diffusion.eps(q, x_t, t, diffusion.encode(q, c))
    other = of(jax.lax.stop_gradient(params), tokens[:, 1])
    forget = step.forget[:, None, None, None]
    wanted = jnp.where(forget, other, noise)
    return noise_error(of(params, tokens[:, 0]), wanted, t, time_weights)

  return objective


def guided_task(
  diffusion: Diffusion,
  guidance: float | jax.Array = 8.5,
  *,
  time_weights: jax.Array | None = None,
) -> Task:
  """|eps_guided(x_t, t, c) - noise|^2 of rows, whose gradient marks weights.

  Args:
    diffusion: the model.
    guidance: see `mask_guidance` of `salun`.
    time_weights: see `salun`.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> task = diffusion.guided_task(problem.model, guidance=2.0)
    >>> mark = diffusion.saliency_mask(task, 0.25)
    >>> marks = mark(*problem.arguments)
    >>> sum(int(m.sum()) for m in jax.tree.leaves(marks))  # Of 97 weights.
    24
  """

  def loss(variables, step, key, *, train=False):
    check_data(diffusion, step.rows)
    params = variables.params
    x_t, t, noise = noisy_rows(diffusion, step.rows["x"], step.keys(key))
    context = diffusion.encode(params, step.rows["tokens"])
    guided = guided_eps(diffusion, params, x_t, t, context, guidance)
    return Losses(noise_error(guided, noise, t, time_weights))

  return diffusion.task._replace(loss=loss)


def mask_within(
  task: Task, keep: float | jax.Array, *, group: str, chunk_size: int
) -> Callable[..., PyTree]:
  """`saliency_mask` among the weights of one group; others are not marked.

  Example:
    >>> import jax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion.salun import mask_within
    >>> problem = toy.diffusion()
    >>> mark = mask_within(problem.model.task, 0.5, group="xattn", chunk_size=4)
    >>> marks = mark(*problem.arguments)
    >>> sum(int(m.sum()) for m in jax.tree.leaves(marks))  # Of 48 weights.
    24
  """

  def mask(variables, data, request, key):
    leaves, tree = jax.tree.flatten(variables.params)
    marks = jax.tree.leaves(parameter_group(variables.params, group))

    def filled(chosen, others):
      rest = iter(chosen)
      pairs = zip(marks, others, strict=True)
      return tree.unflatten([next(rest) if m else o for m, o in pairs])

    def loss(chosen, step, key, *, train=False):
      whole = variables._replace(params=filled(chosen.params, leaves))
      return task.loss(whole, step, key, train=train)

    own = Variables([p for p, m in zip(leaves, marks, strict=True) if m])
    of_group = task._replace(loss=loss)
    marked = saliency_mask(of_group, keep, chunk_size=chunk_size)(
      own, data, request, key
    )
    return filled(marked, [jnp.zeros(p.shape, bool) for p in leaves])

  return mask


def to_anchors(concept: Concept) -> Augment:
  """The anchor of a prompt of the concept, and any for other prompts.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion.salun import to_anchors
    >>> relabel = to_anchors(toy.diffusion().request.concept)
    >>> relabel(jnp.array([1, 3, 2, 0, 0]), jax.random.key(0)).tolist()
    [1, 3, 4, 0, 0]
  """

  def augment(tokens, key):
    same = (concept.prompts == tokens[None]).all(axis=1)
    drawn = jax.random.randint(key, (), 0, same.size)
    which = jnp.where(same.any(), jnp.argmax(same), drawn)
    return concept.anchors[which].astype(tokens.dtype)

  return augment


def replace_words(table: jax.Array) -> Augment:
  """Puts another token in the place of each: an `Augment`.

  Args:
    table: int [V], what each token becomes; those that stay are themselves, as
      do tokens beyond the table. May be traced, so that one program serves every
      concept.

  Raises:
    ValueError: a table that is not int [V], or with tokens out of range.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> relabel = diffusion.replace_words(jnp.arange(8).at[2].set(4))
    >>> relabel(jnp.array([1, 3, 2, 0, 0]), jax.random.key(0)).tolist()
    [1, 3, 4, 0, 0]
  """
  table = arrays("table [V > 0]", table)
  checks.labels(table, table.size, "table")

  def augment(tokens, key):
    del key
    known = table[jnp.minimum(tokens, table.size - 1)]
    return jnp.where(tokens < table.size, known, tokens).astype(tokens.dtype)

  return augment
