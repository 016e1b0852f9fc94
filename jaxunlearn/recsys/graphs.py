"""Interaction graphs under a request: edges get weight 0, shapes stay.

A masked graph gives the embeddings of a graph that was built anew from the
retained interactions, since the degrees follow the mask as well. Duplicate
interactions add up to one heavier edge.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.per_example import map_chunks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.types import PyTree
from jaxunlearn.recsys.types import pairs_of

LAYOUTS = ("auto", "dense", "edges")
_DENSE_ENTRIES = 1 << 22  # A matrix of 16 MiB.


class Graph(NamedTuple):
  """The user-item graph, symmetrically normalised.

  Attributes:
    user: int32 [N].
    item: int32 [N].
    weight: float32 [N], 0 where an interaction is forgotten.
    has_edge: bool [I], whether any weight is left on the item's edges.
    dense: None, or float32 [U, I], the same weights as a matrix.
  """

  user: jax.Array
  item: jax.Array
  weight: jax.Array
  has_edge: jax.Array
  dense: jax.Array | None


class Neighbours(NamedTuple):
  """The k nearest items of each item, itself among them.

  Attributes:
    item: int32 [I, k].
    similarity: float32 [I, k], cosine of the features, at least 0.
  """

  item: jax.Array
  similarity: jax.Array


def interaction_graph(
  data: PyTree,
  forget_mask: jax.Array,
  num_users: int,
  num_items: int,
  *,
  layout: str = "auto",
) -> Graph:
  """The graph of the retained interactions.

  Args:
    data: {"x": int [N, 2]}.
    forget_mask: bool [N], or float weights in [0, 1]: an edge weighs one minus
      that, over the root of its ends' degrees (at least 1, so that a user or
      item without edges is merely isolated).
    num_users: U, static.
    num_items: I, static.
    layout: static; "edges" propagates by two segment sums, "dense" by products
      with a [U, I] matrix, "auto" densely up to 4 million entries.

  Raises:
    ValueError: an unknown layout; data that hold no interactions.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 0, 1], [0, 1, 1], 2, num_items=2)
    >>> forget_mask = jnp.array([False, False, True])
    >>> graph = recsys.interaction_graph(data, forget_mask, 2, 2)
    >>> [round(w, 3) for w in graph.weight.tolist()]  # 1 / sqrt(2 * 1).
    [0.707, 0.707, 0.0]
  """
  checks.one_of(LAYOUTS, layout=layout)
  pairs = pairs_of(data)
  user, item = pairs[:, 0], pairs[:, 1]
  kept = 1.0 - jnp.asarray(forget_mask).astype(jnp.float32)
  user_degree = jax.ops.segment_sum(kept, user, num_users)
  item_degree = jax.ops.segment_sum(kept, item, num_items)
  scale = lambda degree: jax.lax.rsqrt(jnp.maximum(degree, 1.0))
  weight = kept * scale(user_degree)[user] * scale(item_degree)[item]
  is_dense = layout == "dense" or (
    layout == "auto" and num_users * num_items <= _DENSE_ENTRIES
  )
  dense = None
  if is_dense:
    dense = jnp.zeros((num_users, num_items)).at[user, item].add(weight)
  return Graph(user, item, weight, item_degree > 0, dense)


def to_users(graph: Graph, items: jax.Array, num_users: int) -> jax.Array:
  """What users receive from their items [I, D]: [U, D], dtype of `items`."""
  wide = items.astype(jnp.promote_types(jnp.float32, items.dtype))
  if graph.dense is not None:
    return (graph.dense @ wide).astype(items.dtype)
  sent = graph.weight[:, None] * wide[graph.item]
  return jax.ops.segment_sum(sent, graph.user, num_users).astype(items.dtype)


def to_items(graph: Graph, users: jax.Array, num_items: int) -> jax.Array:
  """What items receive from their users [U, D]: [I, D], dtype of `users`."""
  wide = users.astype(jnp.promote_types(jnp.float32, users.dtype))
  if graph.dense is not None:
    return (graph.dense.T @ wide).astype(users.dtype)
  sent = graph.weight[:, None] * wide[graph.user]
  return jax.ops.segment_sum(sent, graph.item, num_items).astype(users.dtype)


def propagate(
  graph: Graph, users: jax.Array, items: jax.Array, num_layers: int
) -> tuple[jax.Array, jax.Array]:
  """LightGCN: the mean of the embeddings and of `num_layers` propagations.

  Args:
    graph: the graph.
    users: float [U, D].
    items: float [I, D].
    num_layers: static, >= 0; 0 leaves the embeddings as they are.

  Returns:
    Users [U, D] and items [I, D].

  Source: He et al. (2020), arXiv:2002.02126.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 0], [0, 1], num_users=1, num_items=2)
    >>> graph = recsys.interaction_graph(data, jnp.zeros(2, bool), 1, 2)
    >>> users, items = jnp.array([[2.0]]), jnp.array([[0.0], [4.0]])
    >>> users, items = recsys.propagate(graph, users, items, num_layers=1)
    >>> round(float(users[0, 0]), 3)  # (2 + 4 / sqrt(2)) / 2.
    2.414
  """
  total_users, total_items = users, items
  for _ in range(num_layers):
    users, items = (
      to_users(graph, items, users.shape[0]),
      to_items(graph, users, items.shape[0]),
    )
    total_users, total_items = total_users + users, total_items + items
  return total_users / (num_layers + 1), total_items / (num_layers + 1)


def item_neighbours(
  features: jax.Array, num_neighbours: int = 10, *, chunk_size: int = 1024
) -> Neighbours:
  """The items nearest to each item by the cosine of their features.

  Args:
    features: float [I, F]; an item whose features are all 0 is similar to none.
    num_neighbours: static; the item itself is one of them. At most I are taken.
    chunk_size: static; items at a time, so that no [I, I] matrix exists.

  Raises:
    ValueError: features that are no matrix or not finite, a count below 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> features = jnp.array([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    >>> found = recsys.item_neighbours(features, num_neighbours=2)
    >>> found.item.tolist()
    [[0, 1], [1, 2], [2, 1]]
    >>> [round(s, 2) for s in found.similarity[1].tolist()]
    [1.0, 0.8]
  """
  checks.counts(num_neighbours=num_neighbours)
  features = arrays("features [num_items, F]", features)
  checks.finite(features, "features")
  wide = features.astype(jnp.promote_types(jnp.float32, features.dtype))
  norm = jnp.linalg.norm(wide, axis=1, keepdims=True)
  unit = wide / jnp.where(norm > 0, norm, 1.0)
  k = min(num_neighbours, features.shape[0])

  def nearest(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(rows @ unit.T, k)

  similarity, item = map_chunks(nearest, unit, chunk_size=chunk_size)
  return Neighbours(item, jnp.maximum(similarity, 0.0))


def propagate_items(
  neighbours: Neighbours, has_edge: jax.Array, items: jax.Array
) -> jax.Array:
  """One symmetrically normalised step over the item-item graph.

  Args:
    neighbours: the graph, made from features alone.
    has_edge: bool [I]; an item without interactions neither sends nor receives,
      so that a forgotten item leaves this graph too (and an item that never had
      any takes no part).
    items: float [I, D].

  Returns:
    [I, D], dtype of `items`.
  """
  both = has_edge[:, None] & has_edge[neighbours.item]
  weight = jnp.where(both, neighbours.similarity, 0.0)
  degree = weight.sum(axis=1)
  scale = jnp.where(
    degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1)), 0
  )
  weight = weight * scale[:, None] * scale[neighbours.item]
  wide = items.astype(jnp.promote_types(jnp.float32, items.dtype))
  # One neighbour at a time: [I, D] at once and not [I, k, D].
  out = jnp.zeros_like(wide)
  for place in range(weight.shape[1]):
    out += weight[:, place, None] * wide[neighbours.item[:, place]]
  return out.astype(items.dtype)
