"""GCN, GAT and GIN against published numbers, dense algebra and rebuilt graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import graph
from jaxunlearn.core.types import Variables
from jaxunlearn.graph.layers import GAT, GCN, GIN, Encoder


def init(task, seed):
  return jax.jit(lambda key: task.model.init(key, None))(jax.random.key(seed))


N, D = 12, 5
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D)).astype(np.float32)
PAIRS = np.argwhere(np.triu(np.ones((N, N)), 1))
EDGES = PAIRS[RNG.permutation(len(PAIRS))[:22]]


def task_of(layer, edges=EDGES, x=X, **kwargs):
  g = graph.from_edges(x, edges, **kwargs)
  return graph.link_prediction(Encoder(layer, (6, 4)), g)


@pytest.mark.parametrize("layer", [GCN, GAT, GIN])
def test_a_masked_graph_equals_the_rebuilt_one(layer):
  keep = RNG.random(len(EDGES)) < 0.6
  keep[(EDGES == 3).any(axis=1)] = False  # Isolates a node.
  task = task_of(layer, pad_nodes_to=16, pad_edges_to=30)
  variables = init(task, 0)
  weight = jnp.asarray(np.append(keep, np.zeros(8)), jnp.float32)
  rebuilt = task_of(layer, EDGES[keep])
  own = graph.with_weight(variables, jnp.ones(int(keep.sum())))
  embed = jax.jit(task.embed)
  masked = embed(graph.with_weight(variables, weight))
  for z, wanted in zip(masked, jax.jit(rebuilt.embed)(own)):
    np.testing.assert_allclose(z[:N], wanted, atol=1e-5)
  # And the mask matters.
  assert np.abs(embed(variables)[-1][:N] - masked[-1][:N]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("layer", [GCN, GAT, GIN])
def test_a_soft_weight_lies_between_and_has_the_gradient_of_a_difference(layer):
  task = task_of(layer)
  variables = init(task, 1)

  @jax.jit
  def out(w):
    weight = jnp.ones(len(EDGES)).at[4].set(w)
    return (task.embed(graph.with_weight(variables, weight))[1] ** 2).sum()

  slope = jax.jit(jax.grad(out))(0.5)
  step = 1e-2
  between = (out(0.5 + step) - out(0.5 - step)) / (2 * step)
  np.testing.assert_allclose(slope, between, rtol=2e-2, atol=1e-3)
  assert abs(out(0.0) - out(1e-4)) < 1e-2 and abs(out(0.0) - out(1.0)) > 1e-3


@pytest.mark.parametrize("layer", [GCN, GAT, GIN])
def test_renaming_the_nodes_permutes_the_outputs(layer):
  order = RNG.permutation(N)
  place = np.argsort(order)
  task, renamed = task_of(layer), task_of(layer, place[EDGES], X[order])
  variables = init(task, 2)
  both = (jax.jit(t.embed)(variables) for t in (task, renamed))
  for z, other in zip(*both):
    np.testing.assert_allclose(z[order], other, atol=1e-5)


def test_gcn_is_the_dense_formula():
  task = task_of(GCN)
  variables = init(task, 3)
  a = np.eye(N)
  a[EDGES[:, 0], EDGES[:, 1]] = a[EDGES[:, 1], EDGES[:, 0]] = 1
  scale = np.diag(a.sum(axis=1) ** -0.5)
  x = X.astype(np.float64)
  found = jax.jit(task.embed)(variables)
  for layer, z in zip(("layers_0", "layers_1"), found):
    kernel = np.asarray(
      variables.params[layer]["Dense_0"]["kernel"], np.float64
    )
    x = scale @ a @ scale @ x @ kernel
    np.testing.assert_allclose(z, x, atol=1e-5)
    x = np.maximum(x, 0)


@pytest.mark.parametrize("layer", [GCN, GAT, GIN])
def test_bfloat16_params_give_bfloat16_embeddings_and_float32_logits(layer):
  task = task_of(layer, x=jnp.asarray(X, jnp.bfloat16))
  variables = init(task, 3)
  params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), variables.params)
  low = variables._replace(params=params)
  z = jax.eval_shape(task.embed, low)
  assert z[0].dtype == z[1].dtype == jnp.bfloat16
  logits = jax.eval_shape(task.model.predict, low, jnp.asarray(EDGES))
  assert logits.dtype == jnp.float32


def test_a_node_classifier_without_a_head_is_refused():
  g = graph.from_edges(X, EDGES)
  refused("num_classes > 0", graph.node_classification, Encoder(GCN, (6, 4)), g)


def test_bad_rows_and_bare_params_are_refused():
  task = task_of(GCN)
  variables = init(task, 0)
  for rows, message in (
    (jnp.zeros((3,), jnp.int32), r"pairs \[B, 2\]"),
    (jnp.zeros((3, 3), jnp.int32), r"pairs \[B, 2\]"),
    (jnp.array([[0, 12]]), "node numbers in 0 .. 11"),
    (jnp.ones((3, 2)), "integer"),
  ):
    refused(message, task.model.predict, variables, rows)
  with pytest.raises(ValueError, match="got bare params"):
    task.model.predict(Variables(variables.params), jnp.asarray(EDGES))


def test_features_are_the_ends_of_a_pair_side_by_side():
  task = task_of(GCN)
  variables = init(task, 0)
  found = task.model.features(variables, jnp.asarray(EDGES[:3]))
  z = task.embed(variables)[1]
  wanted = jnp.concatenate([z[EDGES[:3, 0]], z[EDGES[:3, 1]]], axis=1)
  np.testing.assert_array_equal(found["layer1"], wanted)
