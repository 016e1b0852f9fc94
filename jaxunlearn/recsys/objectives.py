"""What the methods of this room optimise: triples of the drawn interactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, sampling
from jaxunlearn.core.links import provide
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  Losses,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
  read_slot,
)
from jaxunlearn.losses.ranking import bpr, reverse_bpr
from jaxunlearn.recsys.negatives import History, draw_unseen, make_history
from jaxunlearn.recsys.types import Embeddings, Recommender, check_data

_TEMPERATURE = 0.2
SETS = ("retain", "full")


class Seen(NamedTuple):
  """What a model sees of the interactions beside the rows of a step.

  Attributes:
    graph: what `Recommender.embed` takes.
    history: what negatives are drawn around.
  """

  graph: PyTree
  history: History


SEEN: Slot[Seen] = Slot("seen")


def task_of(
  model: Recommender, graph: str = "retain", history: str = "retain"
) -> Task:
  """See `Recommender.task_on`."""
  objective = triples(model, forget_loss=bpr)

  def loss(
    variables: Variables, step: Step, key: jax.Array, *, train: bool = False
  ) -> Losses:
    del train  # Nothing is random but the negatives.
    return objective(variables, step, key)

  init = lambda key, data: model.init(key)
  return Task(init, loss, prepare=see(model, graph, history))


def see(
  model: Recommender, graph: str = "retain", history: str = "full"
) -> Transform:
  """The link that checks the request and fills `SEEN`.

  Args:
    model: the model.
    graph: "retain", the graph of the interactions to retain; "full", also of
      those to forget.
    history: "full", no item that a user interacted with, forgotten or not, is a
      negative; "retain", forgotten rows are not read at all.
  """
  checks.one_of(SETS, graph=graph)
  checks.one_of(SETS, history=history)
  return provide(
    SEEN,
    lambda carry, data, request, key: seen(
      model, data, request, graph, history
    ),
  )


def seen(
  model: Recommender, data: PyTree, request: Request, graph: str, history: str
) -> Seen:
  """What `see` provides; rows in neither mask are not read."""
  forget, retain = (
    jnp.asarray(mask).astype(jnp.float32)
    for mask in (request.forget, request.retain)
  )
  sets = {"retain": retain, "full": forget + retain}
  check_data(data, request, model.num_users, model.num_items)
  data = sampling.blank_rows({"x": data["x"]}, sets["full"])
  return Seen(
    model.graph(data, 1.0 - sets[graph]),
    make_history(data, sets[history] > 0, model.num_users, model.num_items),
  )


def row_keys(key: jax.Array, step: Step) -> jax.Array:
  """A key for each row that depends on the row and not on its place.

  So the retained rows of a step get the same negatives whether or not forgotten
  rows are drawn beside them.
  """
  tag = step.row_id.astype(jnp.uint32) + step.epoch.astype(
    jnp.uint32
  ) * jnp.uint32(0x9E3779B9)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, tag)


def triples(
  model: Recommender,
  *,
  forget_loss: Callable[[jax.Array, jax.Array], jax.Array] = reverse_bpr,
  positives: Callable[[Step], jax.Array] | None = None,
) -> Callable[[Variables, Step, jax.Array], Losses]:
  """The objective: BPR of retained rows, another loss of forgotten ones.

  The model's penalty and contrastive term are added to retained rows. A row
  whose user has seen every item has no negative and weight 0.

  Args:
    model: the model.
    forget_loss: `(positive, negative) -> [B]` for rows of the request.
    positives: None takes the rows' items; or `step -> int [B]`.
  """

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    graph, history = read_slot(step.slots, SEEN)
    made = model.embed(variables, graph)
    user, item = step.rows["x"][:, 0], step.rows["x"][:, 1]
    if positives is not None:
      item = positives(step)
    other, has_one = draw_unseen(history, user, row_keys(key, step))
    parts = made.users[user], made.items[item], made.items[other]
    of_user, of_item, of_other = (
      p.astype(jnp.promote_types(jnp.float32, p.dtype)) for p in parts
    )
    positive = (of_user * of_item).sum(axis=1)
    negative = (of_user * of_other).sum(axis=1)
    squares = sum((p**2).sum(axis=1) for p in (of_user, of_item, of_other))
    forward = bpr(positive, negative) + 0.5 * model.penalty * squares
    losses = jnp.where(step.forget, forget_loss(positive, negative), forward)
    if made.views:
      counted = (step.weight > 0) & ~step.forget
      contrast = _contrast(made, user, item, counted)
      losses = losses + model.contrast_weight * contrast
    return Losses(losses, has_one.astype(losses.dtype))

  return objective


def _contrast(
  made: Embeddings, user: jax.Array, item: jax.Array, counted: jax.Array
) -> jax.Array:
  """InfoNCE between the two views of a batch's users, and of its items.

  Source: arXiv:2308.03588. Returns [B], 0 for rows that are not counted.
  """

  def one(pair: tuple[jax.Array, jax.Array], rows: jax.Array) -> jax.Array:
    first, second = (_unit(view[rows]) for view in pair)
    logits = first @ second.T / _TEMPERATURE
    logits = jnp.where(counted[None, :], logits, -jnp.inf)
    own = (first * second).sum(axis=1) / _TEMPERATURE
    # A row of its own in the sum keeps it finite for rows that do not count.
    total = jax.nn.logsumexp(
      jnp.where(jnp.eye(len(rows), dtype=bool), own[:, None], logits), axis=1
    )
    return jnp.where(counted, total - own, 0.0)

  users, items = made.views
  return one(users, user) + one(items, item)


def _unit(x: jax.Array) -> jax.Array:
  wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  square = (wide**2).sum(axis=1, keepdims=True)
  return wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
