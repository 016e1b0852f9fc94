"""Recommenders: matrix factorisation, LightGCN, VBPR, MGCN, or your own module.

Sources: Rendle et al. (2009), arXiv:1205.2618 (BPR); He et al. (2020),
arXiv:2002.02126 (LightGCN); He and McAuley (2016), arXiv:1510.01784 (VBPR, here
without biases); Yu et al. (2023), arXiv:2308.03588 (MGCN).

Difference from the sources: all penalise half the squared norms of the final
embeddings of a training triple (LightGCN: of the first ones), and MGCN's
item-item graph leaves out items without interactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import Variables
from jaxunlearn.recsys import graphs
from jaxunlearn.recsys.types import Recommender

Features = Mapping[str, jax.Array]


def from_module(
  module: Any,
  num_users: int,
  num_items: int,
  *,
  layout: str = "auto",
  penalty: float | jax.Array = 1e-4,
  contrast_weight: float | jax.Array = 0.0,
) -> Recommender:
  """A recommender from a Flax linen module without model state.

  Args:
    module: called on a `Graph` it returns `Embeddings`.
    num_users: U.
    num_items: I.
    layout: of the graph, see `graphs.interaction_graph`.
    penalty: see `Recommender`; may be traced.
    contrast_weight: see `Recommender`; may be traced.

  Raises:
    ValueError: counts that are not positive, coefficients below 0, an unknown
      layout.

  Example:
    >>> import flax.linen as nn
    >>> import jax
    >>> from jaxunlearn import recsys
    >>> class Factors(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, graph):
    ...     ones = nn.initializers.ones
    ...     users = self.param("users", ones, (12, 2))
    ...     return recsys.Embeddings(users, self.param("items", ones, (8, 2)))
    >>> model = recsys.from_module(Factors(), num_users=12, num_items=8)
    >>> jax.tree.map(lambda p: p.shape, model.init(jax.random.key(0)).params)
    {'items': (8, 2), 'users': (12, 2)}
  """
  checks.counts(num_users=num_users, num_items=num_items)
  checks.non_negative(penalty=penalty, contrast_weight=contrast_weight)
  checks.one_of(graphs.LAYOUTS, layout=layout)

  def graph(data, forget_mask):
    return graphs.interaction_graph(
      data, forget_mask, num_users, num_items, layout=layout
    )

  def init(key):
    pair = {"x": jnp.zeros((1, 2), jnp.int32)}
    empty = graph(pair, jnp.zeros(1, bool))
    return Variables(module.init(key, empty)["params"])

  def embed(variables, graph):
    return module.apply({"params": variables.params}, graph)

  return Recommender(
    num_users, num_items, init, graph, embed, penalty, contrast_weight
  )


def lightgcn(
  num_users: int,
  num_items: int,
  *,
  dim: int = 64,
  num_layers: int = 2,
  features: Features | None = None,
  **options: Any,
) -> Recommender:
  """LightGCN; with features, their linear map stands beside the item's id.

  Args:
    num_users: U.
    num_items: I.
    dim: width of the id embeddings.
    num_layers: propagation steps; 0 is matrix factorisation.
    features: None, or by modality float [I, F].
    **options: of `from_module`.

  Raises:
    ValueError: features of another number of rows or not finite; as
      `from_module`.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> model = recsys.lightgcn(num_users=12, num_items=8, dim=4, num_layers=2)
    >>> variables = model.init(jax.random.key(0))
    >>> made = model.embed_under(variables, problem.data, problem.request)
    >>> made.users.shape, made.items.shape
    ((12, 4), (8, 4))
  """
  from jaxunlearn.recsys import modules

  checks.counts(num_users=num_users, num_items=num_items)
  checks.counts(dim=dim)
  checks.non_negative(num_layers=num_layers)
  shown = _checked(features, num_items) if features is not None else {}
  module = modules.GraphRecommender(
    num_users, num_items, dim, num_layers, shown
  )
  return from_module(module, num_users, num_items, **options)


def bpr_mf(
  num_users: int, num_items: int, *, dim: int = 64, **options: Any
) -> Recommender:
  """Matrix factorisation: `lightgcn` without layers.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys
    >>> model = recsys.bpr_mf(num_users=12, num_items=8, dim=4)
    >>> jax.tree.map(lambda p: p.shape, model.init(jax.random.key(0)).params)
    {'items': (8, 4), 'users': (12, 4)}
  """
  return lightgcn(num_users, num_items, dim=dim, num_layers=0, **options)


def vbpr(
  num_users: int,
  num_items: int,
  features: Features,
  *,
  dim: int = 64,
  **options: Any,
) -> Recommender:
  """VBPR: matrix factorisation of ids and of projected features.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> features = {"image": jnp.ones((8, 5))}
    >>> model = recsys.vbpr(num_users=12, num_items=8, features=features, dim=4)
    >>> params = model.init(jax.random.key(0)).params
    >>> params["users"].shape, params["features"]["kernel"].shape
    ((12, 8), (5, 4))
  """
  return lightgcn(
    num_users,
    num_items,
    dim=dim,
    num_layers=0,
    features=features,
    **options,
  )


def mgcn(
  num_users: int,
  num_items: int,
  features: Features,
  *,
  dim: int = 64,
  num_layers: int = 2,
  num_neighbours: int = 10,
  contrast_weight: float | jax.Array = 0.01,
  **options: Any,
) -> Recommender:
  """MGCN, a multi-modal graph recommender.

  Args:
    num_users: U.
    num_items: I.
    features: by modality float [I, F].
    dim: width of all embeddings.
    num_layers: propagation steps on the user-item graph.
    num_neighbours: of an item in each modality's item-item graph.
    contrast_weight: of the loss between the side and the content view.
    **options: of `from_module`.

  Raises:
    ValueError: as `lightgcn`.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> keys = jax.random.split(jax.random.key(0))
    >>> features = {"image": jax.random.normal(keys[0], (8, 5))}
    >>> model = recsys.mgcn(12, 8, features, dim=4, num_neighbours=3)
    >>> variables = jax.jit(model.init)(keys[1])
    >>> embed = jax.jit(model.embed_under)
    >>> made = embed(variables, problem.data, problem.request)
    >>> made.items.shape, len(made.views)
    ((8, 4), 2)
  """
  from jaxunlearn.recsys import modules

  checks.counts(num_users=num_users, num_items=num_items)
  checks.counts(dim=dim)
  checks.non_negative(num_layers=num_layers)
  shown = _checked(features, num_items)
  module = modules.MGCN(
    num_users,
    num_items,
    dim,
    num_layers,
    shown,
    {
      name: graphs.item_neighbours(values, num_neighbours)
      for name, values in shown.items()
    },
  )
  return from_module(
    module, num_users, num_items, contrast_weight=contrast_weight, **options
  )


def _checked(features: Features, num_items: int) -> dict[str, jax.Array]:
  """Features as arrays, a row for each item."""
  if not features:
    raise ValueError("Expected features of at least one modality, got none.")
  found = {}
  for name, values in features.items():
    shaped(f"features[{name!r}] [{num_items}, F]", values)
    checks.finite(values, f"features[{name!r}]")
    found[name] = jnp.asarray(values, jnp.float32)
  return found
