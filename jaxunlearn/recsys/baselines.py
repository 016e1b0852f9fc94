"""What MMRecUN is compared with, beside retraining and RecEraser.

Class: heuristics, without guarantee.
Sources: arXiv:2405.15328 names the baselines; fine-tuning and ascent after
Golatkar et al. (2020), arXiv:1911.04933, relabelling after Graves et al. (2021),
AAAI, carried over to interactions here.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Slot
from jaxunlearn.losses.ranking import bpr
from jaxunlearn.methods import baselines
from jaxunlearn.recsys.negatives import draw_unseen
from jaxunlearn.recsys.objectives import SEEN, see, triples
from jaxunlearn.recsys.types import Recommender


def finetune(
  model: Recommender,
  fit: Fit | None = None,
  *,
  graph: str = "retain",
  **fields: Unpack[FitFields],
) -> Transform:
  """Goes on training on the retained interactions: MMRecUN with alpha = 1.

  The library's `finetune`, but that no forgotten item is a negative.

  Args:
    model: the recommender.
    fit: the recipe; the batch is of retained interactions.
    graph: "retain" or "full", see `Recommender.task_on`.
    **fields: the fields of `Fit` by keyword.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=5, batch_size=33)
    >>> after, info = recsys.finetune(problem.model, fit)(*problem.arguments)
    >>> toy.mean_scores(problem, after)  # It was 0.97 and 0.86.
    (1.11, 1.5)
  """
  return baselines.finetune(model.task_on(graph, "full"), fit, **fields)


def gradient_ascent(
  model: Recommender,
  fit: Fit | None = None,
  *,
  graph: str = "retain",
  **fields: Unpack[FitFields],
) -> Transform:
  """Maximises BPR on the forgotten interactions.

  The library's `gradient_ascent`, but that no forgotten item is a negative.
  Without bound, unlike reverse BPR; `is_finite` of the info tells.

  Args:
    model: the recommender.
    fit: the recipe, of few steps; the batch is of forgotten interactions.
    graph: "retain" or "full", see `Recommender.task_on`.
    **fields: the fields of `Fit` by keyword.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> fit = ju.Fit(optax.adam(0.1), num_steps=5, batch_size=3)
    >>> method = recsys.gradient_ascent(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> toy.mean_scores(problem, after)  # It was 0.97 and 0.86.
    (-0.16, 0.84)
  """
  return baselines.gradient_ascent(model.task_on(graph, "full"), fit, **fields)


def unlink() -> Transform:
  """Leaves the params: the request is taken out of the serving graph only.

  What `Recommender.embed_under` does with the request's mask then is all that
  is forgotten. Reads nothing.

  Example:
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> after, info = recsys.unlink()(*problem.arguments)
    >>> toy.mean_scores(problem, after)  # Only the graph forgets.
    (0.97, 0.86)
  """
  return edit(
    lambda variables, data, request, key: variables,
    reads="nothing",
    name="unlink",
  )


def reverse_only(
  model: Recommender,
  fit: Fit | None = None,
  *,
  graph: str = "retain",
  **fields: Unpack[FitFields],
) -> Transform:
  """Reverse BPR on the forgotten interactions alone: MMRecUN with alpha = 0.

  Args:
    model: the recommender.
    fit: the recipe, of few steps; the batch is of forgotten interactions.
    graph: "retain" or "full", see `Recommender.task_on`.
    **fields: the fields of `Fit` by keyword.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> fit = ju.Fit(optax.adam(0.1), num_steps=5, batch_size=3)
    >>> method = recsys.reverse_only(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> toy.mean_scores(problem, after)  # It was 0.97 and 0.86.
    (-0.15, 0.84)
  """
  fit = as_fit(fit, fields)
  draw = Draw(forget=fit.batch_size)
  return chain(
    see(model, graph),
    phase(triples(model), fit, draw=draw, name="reverse"),
    name="reverse_only",
  )


def amnesiac(
  model: Recommender,
  fit: Fit | None = None,
  *,
  graph: str = "retain",
  **fields: Unpack[FitFields],
) -> Transform:
  """Relabels each forgotten interaction with a random item and trains on.

  The item is drawn once per call from those that the user never interacted
  with; the batch mixes retained and relabelled rows in their natural
  proportion. A bool request only.

  Args:
    model: the recommender.
    fit: the recipe; the batch is of interactions of both kinds.
    graph: "retain" or "full", see `Recommender.task_on`.
    **fields: the fields of `Fit` by keyword.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=5, batch_size=36)
    >>> after, info = recsys.amnesiac(problem.model, fit)(*problem.arguments)
    >>> toy.mean_scores(problem, after)  # It was 0.97 and 0.86.
    (0.87, 1.44)
  """
  fit = as_fit(fit, fields)
  labels: Slot[jax.Array] = Slot("labels")

  def relabel(carry, data, request, key):
    checks.hard_request(request.forget)
    keys = jax.random.split(key, request.forget.shape[0])
    user, item = data["x"][:, 0], data["x"][:, 1]
    other, has_one = draw_unseen(carry[SEEN].history, user, keys)
    return jnp.where(request.forget & has_one, other, item)

  def relabelled(step):
    return step[labels][step.row_id]

  objective = triples(model, forget_loss=bpr, positives=relabelled)
  return chain(
    see(model, graph),
    provide(labels, relabel),
    phase(objective, fit, draw=Draw(mixed=fit.batch_size), name="fit"),
    name="amnesiac",
  )
