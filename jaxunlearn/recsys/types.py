"""What a recommender is here: pure functions, and the data they see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import PyTree, Request, Variables, as_request


class Embeddings(NamedTuple):
  """A recommender's final embeddings; a score is an inner product.

  Attributes:
    users: float [U, D].
    items: float [I, D].
    views: () or ((users_a, users_b), (items_a, items_b)), two views of users
      and of items, [U, D] and [I, D], that a contrastive term draws together.
  """

  users: jax.Array
  items: jax.Array
  views: tuple[Any, ...] = ()


class Recommender(NamedTuple):
  """A recommender as pure functions; the factories of `models` make one.

  Attributes:
    num_users: U, static.
    num_items: I, static.
    init: `key -> Variables`.
    graph: `(data, forget_mask) -> pytree`, the interaction graph that the
      retained rows span.
    embed: `(variables, graph) -> Embeddings`.
    penalty: coefficient >= 0 of half the squared norms of a training triple's
      final embeddings.
    contrast_weight: coefficient >= 0 of the contrastive loss of the views.
  """

  num_users: int
  num_items: int
  init: Callable[[jax.Array], Variables]
  graph: Callable[[PyTree, jax.Array], PyTree]
  embed: Callable[[Variables, PyTree], Embeddings]
  penalty: float | jax.Array = 1e-4
  contrast_weight: float | jax.Array = 0.0

  @property
  def task(self) -> Task:
    """What the library's own methods fit; nothing of a forgotten row is read."""
    return self.task_on()

  def task_on(self, graph: str = "retain", history: str = "retain") -> Task:
    """The task on other interactions than the retained ones.

    A retained row's loss is BPR with a drawn negative, plus penalty and
    contrastive term; a forgotten row's is BPR alone. A row whose user has seen
    every item has no negative and weight 0.

    Args:
      graph: "retain", the model sees the interactions to retain; "full", also
        those to forget.
      history: which items are no negatives of a user, likewise.
    """
    from jaxunlearn.recsys import objectives  # It needs this class.

    return objectives.task_of(self, graph, history)

  def embed_under(
    self, variables: Variables, data: PyTree, forget_mask: jax.Array
  ) -> Embeddings:
    """Embeddings on the graph of the retained rows: how a model is served.

    Args:
      variables: `Variables` or a bare params pytree.
      data: {"x": int [N, 2]}, the training interactions.
      forget_mask: bool [N]; all False is the graph of the original model.
    """
    request = as_request(forget_mask, data)
    check_data(data, request, self.num_users, self.num_items)
    if not isinstance(variables, Variables):
      variables = Variables(variables)
    return self.embed(variables, self.graph(data, forget_mask))


def check_data(
  data: PyTree, request: Request, num_users: int, num_items: int
) -> None:
  """Raises a ValueError for interactions or a request that cannot be served.

  An empty request passes: methods then go on training. Values are looked at
  where they are concrete only, and never those of rows in neither mask.
  """
  pairs = pairs_of(data)
  if not all(map(checks.is_concrete, request[:2])):
    return
  forget, retain = (np.asarray(m, np.float32) for m in request[:2])
  if not all(((m >= 0) & (m <= 1)).all() for m in (forget, retain)):
    raise ValueError("Expected forget_mask weights in [0, 1], got others.")
  if not retain.any():
    raise ValueError(
      "Expected forget_mask to leave interactions to retain, got a request "
      f"that covers all {retain.size}."
    )
  check_pairs(pairs[np.flatnonzero(forget + retain)], num_users, num_items)


def pairs_of(data: PyTree) -> jax.Array:
  """The interactions data["x"], int [N, 2] of (user, item).

  Raises:
    ValueError: there are none, their shape or dtype is another.
  """
  if not isinstance(data, dict) or "x" not in data:
    raise ValueError('Expected data {"x": int [N, 2]}, got no "x".')
  pairs = data["x"]
  shaped('data["x"] int [N > 0, 2]', pairs)
  return pairs


def check_pairs(pairs: Any, num_users: int, num_items: int) -> None:
  """Ids in range, where they can be looked at."""
  if not checks.is_concrete(pairs):
    return
  pairs = np.asarray(pairs)
  checks.labels(pairs[:, 0], num_users, "user ids")
  checks.labels(pairs[:, 1], num_items, "item ids")
