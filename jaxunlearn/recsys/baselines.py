"""What MMRecUN is compared with, beside retraining and RecEraser.

Class: heuristics, without guarantee.
Sources: arXiv:2405.15328 names the baselines; fine-tuning and ascent after
Golatkar et al. (2020), arXiv:1911.04933, relabelling after Graves et al. (2021),
AAAI, carried over to interactions here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import Draw, Transform
from jaxunlearn.losses.ranking import bpr
from jaxunlearn.recsys.negatives import draw_unseen
from jaxunlearn.recsys.objectives import (
  fitting,
  triples,
  with_graph,
  with_history,
)
from jaxunlearn.recsys.types import Recommender


def finetune(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  graph: str = "retain",
) -> Transform:
  """Goes on training on the retained interactions: MMRecUN with alpha = 1.

  Of a forgotten row it reads only that its item is no negative.

  Args:
    model: the recommender.
    optimizer: starts fresh.
    num_steps: steps.
    batch_size: retained interactions a step.
    graph: "retain" or "full".
  """
  return fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    graph=graph,
    name="finetune",
  )


def unlink() -> Transform:
  """Leaves the params: the request is taken out of the serving graph only.

  What `Recommender.embed_under` does with the request's mask then is all that
  is forgotten. Reads nothing.
  """
  return edit(
    lambda variables, data, forget_mask, key: variables,
    reads="nothing",
    name="unlink",
  )


def reverse_only(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  graph: str = "retain",
) -> Transform:
  """Reverse BPR on the forgotten interactions alone: MMRecUN with alpha = 0.

  Args:
    model: the recommender.
    optimizer: starts fresh.
    num_steps: few.
    batch_size: forgotten interactions a step.
    graph: "retain" or "full".
  """
  return _on_forgotten(
    model, optimizer, num_steps, batch_size, graph, "reverse_only"
  )


def gradient_ascent(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  graph: str = "retain",
) -> Transform:
  """Maximises BPR on the forgotten interactions.

  Without bound, unlike reverse BPR; `info["ascent"].is_finite` tells.

  Args:
    model: the recommender.
    optimizer: of the ascent; it is given the negated gradient.
    num_steps: few.
    batch_size: forgotten interactions a step.
    graph: "retain" or "full".
  """
  return _on_forgotten(
    model, optimizer, num_steps, batch_size, graph, "gradient_ascent"
  )


def amnesiac(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  graph: str = "retain",
) -> Transform:
  """Relabels each forgotten interaction with a random item and trains on.

  The item is drawn once a call from those that the user never interacted with;
  the batch mixes retained and relabelled rows in their natural proportion. A
  bool request only.

  Args:
    model: the recommender.
    optimizer: starts fresh.
    num_steps: steps.
    batch_size: interactions a step.
    graph: "retain" or "full".
  """
  checks.positive(batch_size=batch_size)

  def draw(carry, data, forget_mask, key):
    checks.hard_request(forget_mask)
    keys = jax.random.split(key, forget_mask.shape[0])
    user, item = data["x"][:, 0], data["x"][:, 1]
    other, has_one = draw_unseen(carry.extra["history"], user, keys)
    return jnp.where(forget_mask & has_one, other, item)

  def relabelled(batch):
    return batch.context.extra["labels"][batch.row_id]

  fit = phase(
    triples(model, forget_loss=bpr, positives=relabelled),
    optimizer,
    num_steps,
    draw=Draw(mixed=batch_size),
    name="fit",
  )
  return chain(
    with_graph(model, graph),
    with_history(model),
    provide("labels", draw),
    fit,
    name="amnesiac",
  )


def _on_forgotten(
  model: Recommender,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  graph: str,
  name: str,
) -> Transform:
  """A phase that sees forgotten interactions only."""
  checks.positive(batch_size=batch_size)
  ascends = name == "gradient_ascent"
  fit = phase(
    triples(model, forget_loss=bpr) if ascends else triples(model),
    optimizer,
    num_steps,
    draw=Draw(forget=batch_size),
    forget_weight=-1.0 if ascends else 1.0,
    name="ascent" if ascends else "reverse",
  )
  return chain(with_graph(model, graph), with_history(model), fit, name=name)
