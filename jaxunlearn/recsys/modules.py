"""The recommenders as Flax modules: called on a graph, they return embeddings.

Imported by `models` when a recommender is made, so that the library can be
imported without Flax. Features are constants, float [I, F] each.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.recsys import graphs
from jaxunlearn.recsys.types import Embeddings

_INIT = nn.initializers.xavier_uniform()


class GraphRecommender(nn.Module):
  """Id embeddings, with features beside those of items, propagated.

  Without layers it is matrix factorisation, or VBPR if there are features.

  Attributes:
    num_users: U.
    num_items: I.
    dim: width of the id embeddings; with features users and items have twice
      that, the second half of an item being a linear map of its features.
    num_layers: propagation steps.
    features: by modality, concatenated; empty for none.
  """

  num_users: int
  num_items: int
  dim: int
  num_layers: int
  features: Mapping[str, jax.Array]

  @nn.compact
  def __call__(self, graph: graphs.Graph) -> Embeddings:
    width = self.dim * (2 if self.features else 1)
    users = self.param("users", _INIT, (self.num_users, width))
    items = self.param("items", _INIT, (self.num_items, self.dim))
    if self.features:
      raw = jnp.concatenate(list(self.features.values()), axis=1)
      shown = nn.Dense(self.dim, name="features")(raw).astype(items.dtype)
      items = jnp.concatenate([items, shown], axis=1)
    users, items = graphs.propagate(graph, users, items, self.num_layers)
    return Embeddings(users, items)


class MGCN(nn.Module):
  """Multi-view graph convolution: ids purified by modalities, then fused.

  Attributes:
    num_users: U.
    num_items: I.
    dim: D.
    num_layers: propagation steps on the user-item graph.
    features: by modality.
    neighbours: by modality, the item-item graph.
  """

  num_users: int
  num_items: int
  dim: int
  num_layers: int
  features: Mapping[str, jax.Array]
  neighbours: Mapping[str, graphs.Neighbours]

  @nn.compact
  def __call__(self, graph: graphs.Graph) -> Embeddings:
    users = self.param("users", _INIT, (self.num_users, self.dim))
    items = self.param("items", _INIT, (self.num_items, self.dim))
    content = jnp.concatenate(
      graphs.propagate(graph, users, items, self.num_layers)
    )
    views = []
    for name, raw in self.features.items():
      projected = nn.Dense(self.dim, name=f"project_{name}")(raw)
      gate = nn.sigmoid(nn.Dense(self.dim, name=f"purify_{name}")(projected))
      purified = graphs.propagate_items(
        self.neighbours[name], graph.has_edge, items * gate.astype(items.dtype)
      )
      receivers = graphs.to_users(graph, purified, self.num_users)
      views.append(jnp.concatenate([receivers, purified]))
    stacked = jnp.stack(views)  # [modalities, U + I, D]
    hidden = nn.tanh(nn.Dense(self.dim, name="query_hidden")(stacked))
    scores = nn.Dense(1, use_bias=False, name="query")(hidden)
    attention = jax.nn.softmax(scores, axis=0)
    common = (attention * stacked).sum(axis=0)
    side = common
    for name, view in zip(self.features, stacked):
      prefer = nn.sigmoid(nn.Dense(self.dim, name=f"prefer_{name}")(content))
      side += (view - common) * prefer
    side = (side / (len(views) + 1)).astype(content.dtype)
    final = content + side
    split = lambda both: (both[: self.num_users], both[self.num_users :])
    (side_users, side_items), (users, items) = split(side), split(content)
    return Embeddings(*split(final), ((side_users, users), (side_items, items)))
