"""Masked graphs against rebuilt ones, and the models that live on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recsys.small_recsys import dataset, embedded, nothing, small
from refusals import refused

from jaxunlearn import recsys
from jaxunlearn.core.types import Variables
from jaxunlearn.recsys import graphs

LAYOUTS = ("dense", "edges")


def models(**options):
  data = dataset()
  sizes = data.num_users, data.num_items
  return {
    "lightgcn": recsys.lightgcn(*sizes, dim=4, **options),
    "features": small(**options),
    "mgcn": recsys.mgcn(
      *sizes, data.features, dim=4, num_neighbours=3, **options
    ),
  }


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def normalised(pairs, num_users, num_items):
  matrix = np.zeros((num_users, num_items))
  np.add.at(matrix, (pairs[:, 0], pairs[:, 1]), 1)
  scale = lambda degree: 1 / np.sqrt(np.maximum(degree, 1))
  rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
  return matrix * scale(rows)[:, None] * scale(columns)[None], columns > 0


def light_by_hand(matrix, users, items, num_layers):
  both = np.block(
    [
      [np.zeros((len(users), len(users))), matrix],
      [matrix.T, np.zeros((len(items), len(items)))],
    ]
  )
  layers = [np.concatenate([users, items])]
  for _ in range(num_layers):
    layers.append(both @ layers[-1])
  return np.mean(layers, axis=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["lightgcn", "features", "mgcn"])
def test_a_masked_graph_equals_a_rebuilt_one(name, layout):
  data = dataset().train
  model = models(layout=layout)[name]
  variables = jax.jit(model.init)(jax.random.key(3))
  forget = recsys.requests.users(data, [1, 5])
  forget |= recsys.requests.items(data, [2, 3])
  masked = embedded(model, variables, data, forget)
  kept = {"x": data["x"][~np.asarray(forget)]}
  none = jnp.zeros(len(kept["x"]), bool)
  rebuilt = embedded(model, variables, kept, none)
  whole = embedded(model, variables, data, nothing())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), masked, rebuilt
  )
  assert np.abs(masked.items - whole.items).max() > 1e-3


def test_lightgcn_agrees_with_float64_also_where_an_edge_is_doubled():
  pairs = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [3, 2]])
  model = recsys.lightgcn(4, 4, dim=3, num_layers=3)
  variables = jax.jit(model.init)(jax.random.key(0))
  made = embedded(
    model, variables, {"x": jnp.asarray(pairs)}, jnp.zeros(5, bool)
  )
  users, items = (
    np.asarray(variables.params[k], float) for k in ("users", "items")
  )
  matrix, _ = normalised(pairs, 4, 4)
  wanted = light_by_hand(matrix, users, items, 3)
  found = np.concatenate([made.users, made.items])
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  np.testing.assert_allclose(made.users[2], users[2] / 4, atol=1e-6)  # Alone.


def test_a_soft_request_weighs_edges():
  data = {"x": jnp.array([[0, 0], [0, 1]])}
  graph = recsys.interaction_graph(data, jnp.array([0.25, 1.0]), 1, 2)
  np.testing.assert_allclose(graph.weight, [0.75, 0])
  np.testing.assert_array_equal(graph.has_edge, [True, False])


def mgcn_by_hand(params, data, neighbours, pairs, dim, num_layers=2):
  num_users, num_items = data.num_users, data.num_items
  p = jax.tree.map(lambda x: np.asarray(x, float), params)
  dense = lambda name, x: x @ p[name]["kernel"] + p[name].get("bias", 0)
  matrix, has_edge = normalised(pairs, num_users, num_items)
  content = light_by_hand(matrix, p["users"], p["items"], num_layers)
  views = []
  for name, raw in data.features.items():
    raw = np.asarray(raw, float)
    gate = sigmoid(dense(f"purify_{name}", dense(f"project_{name}", raw)))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    cosine = unit @ unit.T
    adjacency = np.zeros_like(cosine)
    for i in range(num_items):
      best = np.argsort(-cosine[i], kind="stable")[:neighbours]
      adjacency[i, best] = np.maximum(cosine[i, best], 0)
    adjacency *= has_edge[:, None] & has_edge[None]
    degree = adjacency.sum(axis=1)
    scale = np.where(
      degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0
    )
    item_view = (adjacency * scale[:, None] * scale[None]) @ (p["items"] * gate)
    views.append(np.concatenate([matrix @ item_view, item_view]))
  scores = [dense("query", np.tanh(dense("query_hidden", v))) for v in views]
  shares = np.exp(scores) / np.exp(scores).sum(axis=0)
  common = sum(a * v for a, v in zip(shares, views))
  side = common.copy()
  for name, view in zip(data.features, views):
    side += (view - common) * sigmoid(dense(f"prefer_{name}", content))
  side /= len(views) + 1
  return content + side, side, content


def test_mgcn_agrees_with_float64():
  data = dataset()
  forget = recsys.requests.items(data.train, [0, 7])
  model = models()["mgcn"]
  variables = jax.jit(model.init)(jax.random.key(2))
  # Away from the initial zeros of the biases.
  params = jax.tree.map(lambda x: x + 0.05, variables.params)
  made = embedded(model, params, data.train, forget)
  pairs = np.asarray(data.train["x"])[~np.asarray(forget)]
  final, side, content = mgcn_by_hand(params, data, 3, pairs, 4)
  joined = lambda pair: np.concatenate(pair)
  np.testing.assert_allclose(joined(made[:2]), final, atol=2e-5)
  (side_users, users), (side_items, items) = made.views
  np.testing.assert_allclose(joined((side_users, side_items)), side, atol=2e-5)
  np.testing.assert_allclose(joined((users, items)), content, atol=2e-5)
  assert np.abs(side).max() > 1e-2


def test_mgcn_with_closed_gates_is_lightgcn():
  data = dataset().train
  both = models()
  params = jax.jit(both["mgcn"].init)(jax.random.key(2)).params
  for name in dataset().features:
    params[f"purify_{name}"]["bias"] -= 1e9
  made = embedded(both["mgcn"], params, data, nothing())
  ids = {k: params[k] for k in ("users", "items")}
  light = embedded(both["lightgcn"], ids, data, nothing())
  np.testing.assert_allclose(made.users, light.users, atol=1e-6)
  np.testing.assert_allclose(made.items, light.items, atol=1e-6)


def test_vbpr_puts_projected_features_beside_ids():
  data = dataset()
  model = recsys.vbpr(data.num_users, data.num_items, data.features, dim=4)
  variables = jax.jit(model.init)(jax.random.key(0))
  made = embedded(model, variables, data.train, nothing())
  p = jax.tree.map(lambda x: np.asarray(x, float), variables.params)
  raw = np.concatenate(list(data.features.values()), axis=1)
  shown = raw @ p["features"]["kernel"] + p["features"]["bias"]
  wanted = np.concatenate([p["items"], shown], axis=1)
  np.testing.assert_allclose(made.items, wanted, atol=1e-5)
  np.testing.assert_allclose(made.users, p["users"], atol=1e-7)


def test_matrix_factorisation_ignores_the_graph():
  data = dataset()
  model = recsys.bpr_mf(data.num_users, data.num_items, dim=3)
  variables = jax.jit(model.init)(jax.random.key(0))
  made = embedded(model, variables, data.train, nothing())
  np.testing.assert_array_equal(made.users, variables.params["users"])
  np.testing.assert_array_equal(made.items, variables.params["items"])


def test_neighbours_in_chunks_are_those_at_once():
  features = jax.random.normal(jax.random.key(0), (11, 3)).at[4].set(0.0)
  found = recsys.item_neighbours(features, 4, chunk_size=3)
  wide = np.asarray(features, float)
  norm = np.linalg.norm(wide, axis=1, keepdims=True)
  unit = wide / np.where(norm > 0, norm, 1)
  cosine = unit @ unit.T
  for i in set(range(11)) - {4}:
    best = np.sort(cosine[i])[::-1][:4]
    np.testing.assert_allclose(
      found.similarity[i], np.maximum(best, 0), 1e-5, 1e-6
    )
    assert int(found.item[i, 0]) == i
  np.testing.assert_array_equal(found.similarity[4], np.zeros(4))
  assert recsys.item_neighbours(features, 40).item.shape == (11, 11)


def test_a_module_of_ones_own_is_a_recommender():
  import flax.linen as nn

  class Constant(nn.Module):
    @nn.compact
    def __call__(self, graph):
      users = self.param("users", nn.initializers.ones, (2, 1))
      return recsys.Embeddings(users, graph.has_edge[:, None] * 1.0)

  model = recsys.from_module(Constant(), 2, 3)
  variables = jax.jit(model.init)(jax.random.key(0))
  assert isinstance(variables, Variables)
  data = {"x": jnp.array([[0, 1], [1, 2]])}
  made = embedded(model, variables, data, jnp.array([False, True]))
  np.testing.assert_array_equal(made.items[:, 0], [0, 1, 0])


def test_bad_models_are_refused():
  features = {"a": jnp.ones((3, 2))}
  for call, match in (
    (lambda: recsys.vbpr(2, 4, features), r"features\['a'\] \[4, F\]"),
    (
      lambda: recsys.vbpr(2, 3, {"a": jnp.full((3, 2), jnp.nan)}),
      "to be finite",
    ),
    (lambda: recsys.mgcn(2, 3, {}), "at least one modality"),
    (lambda: recsys.bpr_mf(2, 3, dim=0), "dim > 0"),
    (lambda: recsys.bpr_mf(0, 3), "num_users > 0"),
    (lambda: recsys.from_module(None, 0, 3), "num_users > 0"),
    (lambda: recsys.lightgcn(2, 3, num_layers=-1), "num_layers >= 0"),
    (lambda: recsys.lightgcn(2, 3, penalty=-1.0), "penalty >= 0"),
    (lambda: recsys.lightgcn(2, 3, layout="sparse"), "layout to be one of"),
    (
      lambda: graphs.interaction_graph(
        {"x": jnp.zeros((1, 2), int)}, jnp.zeros(1, bool), 1, 1, layout="sparse"
      ),
      "layout to be one of",
    ),
    (lambda: recsys.item_neighbours(jnp.ones(3)), r"features \[num_items, F\]"),
    (
      lambda: recsys.item_neighbours(jnp.full((3, 2), jnp.inf)),
      "features to be finite",
    ),
    (lambda: recsys.item_neighbours(jnp.ones((3, 2)), 0), "num_neighbours > 0"),
  ):
    refused(match, call)
