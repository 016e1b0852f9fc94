"""AUCs, distances to retraining, the presence attack, and shards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused
from scipy.spatial.distance import jensenshannon
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from jaxunlearn import graph
from jaxunlearn.graph.layers import GCN, Encoder

KEY = jax.random.key(3)
N = 16
RNG = np.random.default_rng(4)


@functools.cache
def problem():
  pairs = np.argwhere(np.triu(np.ones((N, N)), 1))
  edges = pairs[np.random.default_rng(2).permutation(len(pairs))[:30]]
  x = np.random.default_rng(3).normal(size=(N, 5)).astype(np.float32)
  g = graph.from_edges(x, edges, pad_edges_to=34)
  task = graph.link_prediction(Encoder(GCN, (6, 4)), g)
  variables = jax.jit(lambda key: task.model.init(key, None))(KEY)
  return task, graph.link_data(g), variables


def test_the_auc_is_exact_with_ties_and_reads_no_row_of_weight_zero():
  high = RNG.integers(0, 6, 40).astype(np.float32)
  low = RNG.integers(0, 5, 30).astype(np.float32)
  over, under = RNG.random(40) < 0.7, RNG.random(30) < 0.7
  wanted = roc_auc_score(
    np.repeat([1, 0], [over.sum(), under.sum()]),
    np.concatenate([high[over], low[under]]),
  )
  high[~over], low[~under] = np.nan, np.nan
  got = jax.jit(graph.ranking_auc)(high, low, over, under)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  assert np.isnan(graph.ranking_auc(high, low))
  assert np.isnan(graph.ranking_auc(high, low, over, np.zeros(30, bool)))


def test_df_auc_is_the_mean_over_many_equal_draws():
  task, data, variables = problem()
  mask = jnp.zeros(34, bool).at[jnp.array([1, 4, 9, 20])].set(True)
  exact = float(graph.df_auc(task, variables, mask))
  scores = np.asarray(jax.jit(task.model.predict)(variables, data["x"]))[:30]
  gone = np.asarray(mask)[:30]
  rng = np.random.default_rng(5)
  draws = [
    roc_auc_score(
      np.repeat([1, 0], 4),
      np.append(rng.choice(scores[~gone], 4, replace=False), scores[gone]),
    )
    for _ in range(200)
  ]
  assert abs(exact - np.mean(draws)) < 3 * np.std(draws) / np.sqrt(200)
  assert 0 < exact < 1
  assert np.isnan(graph.df_auc(task, variables, jnp.zeros(34, bool)))


def test_dt_auc_is_scikit_learns():
  task, data, variables = problem()
  others = graph.draw_non_edges(graph.non_edges(task.graph), KEY, 12)
  edges = data["x"][:10]
  predict = jax.jit(task.model.predict)
  scores = predict(variables, jnp.concatenate([edges, others]))
  wanted = roc_auc_score(np.repeat([1, 0], [10, 12]), scores)
  got = graph.dt_auc(task, variables, edges, others)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_distance_to_retraining_is_that_of_bernoullis():
  logits, retrained = RNG.normal(size=(2, 20)).astype(np.float32) * 3
  weight = RNG.random(20) < 0.6
  p, q = (1 / (1 + np.exp(-s.astype(np.float64))) for s in (logits, retrained))
  js = jensenshannon(np.stack([p, 1 - p]), np.stack([q, 1 - q])) ** 2
  logits[~weight] = np.nan
  got = graph.edge_distance(logits, retrained, weight)
  np.testing.assert_allclose(got.js, js[weight].mean(), rtol=1e-4)
  np.testing.assert_allclose(got.delta, (p - q)[weight].mean(), rtol=1e-4)
  np.testing.assert_allclose(got.mean, p[weight].mean(), rtol=1e-5)
  nothing = graph.edge_distance(logits, retrained, np.zeros(20))
  assert all(np.isnan(x) for x in nothing)
  same = graph.edge_distance(retrained, retrained, np.ones(20))
  assert abs(same.js) < 1e-6 and same.delta == 0


def test_the_divergence_never_leaves_its_bounds_by_rounding():
  logits = jnp.linspace(-40, 40, 999)
  each = jax.vmap(lambda s: graph.edge_distance(s[None], s[None], jnp.ones(1)))
  assert (each(logits).js >= 0).all()


def test_the_distance_of_the_surest_predictions_is_a_number():
  far = jnp.array([-200.0, 300.0, -1000.0, 300.0])
  near = jnp.array([-200.0, 300.0, -900.0, -300.0])
  got = graph.edge_distance(far, near, jnp.ones(4))
  np.testing.assert_allclose(got.js, np.log(2) / 4, rtol=1e-6)
  np.testing.assert_allclose(got.delta, 0.25, rtol=1e-6)


def test_pair_features_do_not_depend_on_the_basis_of_the_embeddings():
  task, data, variables = problem()
  turn, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
  kernel = variables.params["layers_1"]["Dense_0"]["kernel"] @ turn
  last = {**variables.params["layers_1"], "Dense_0": {"kernel": kernel}}
  turned = variables._replace(params={**variables.params, "layers_1": last})
  pairs = data["x"][:30]  # No padding, whose embedding has no direction.
  features = jax.jit(lambda v: graph.pair_features(task, v, pairs))
  found = [features(v) for v in (variables, turned)]
  np.testing.assert_allclose(*found, atol=1e-4)
  z = np.asarray(task.embed(variables)[1], np.float64)
  u, v = z[np.asarray(pairs[:, 0])], z[np.asarray(pairs[:, 1])]
  inner = (u * v).sum(axis=1)
  length = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
  wanted = np.stack([1 / (1 + np.exp(-inner)), inner / length], axis=1)
  np.testing.assert_allclose(found[0], wanted, atol=1e-4)


def test_the_attack_is_a_balanced_logistic_regression():
  present = RNG.normal(size=(80, 2)) + np.array([1.0, 0.5])
  absent = RNG.normal(size=(30, 2)) * 1.5
  attack = graph.fit_presence(present, absent, ridge=0.01)
  x = np.concatenate([present, absent])
  mean, std = x.mean(axis=0), x.std(axis=0)
  # The same objective: a ridge of 0.01 on a mean loss of both sides, halves.
  wanted = LogisticRegression(
    C=1 / (0.01 * len(x)), class_weight="balanced", tol=1e-10
  ).fit((x - mean) / std, np.repeat([1, 0], [80, 30]))
  got = graph.presence(attack, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(
    got, wanted.predict_proba((x - mean) / std)[:, 1], atol=1e-4
  )


def test_deletion_operators_cost_operations_in_their_zones_alone():
  task, data, variables = problem()
  mask = jnp.arange(34) == 2
  method = graph.gnndelete(task, num_steps=1)
  out, _ = method.compiled(variables, data, mask, KEY)
  before, after = (graph.forward_flops(task, v) for v in (variables, out))
  ends = graph.endpoints(task.graph, mask)
  near, far = (int(graph.hops(task.graph, ends, k).sum()) for k in (1, 2))
  # Products of so many rows with [6, 6] and [4, 4].
  assert after - before == 2 * (near * 36 + far * 16)


def shards():
  task, data, _ = problem()
  shard = graph.balanced_shards(KEY, task.graph, 2)
  return task, data, shard, graph.shard_rows(task, data, shard, 2)


@pytest.mark.slow
def test_a_request_changes_the_models_of_its_shards_only():
  task, data, shard, rows = shards()
  pairs = np.asarray(shard)[np.asarray(data["x"])]
  inner = pairs[:, 0] == pairs[:, 1]
  inner[30:] = False  # Padding is in no shard.
  np.testing.assert_array_equal(rows.any(axis=0), inner)
  assert 0 < inner.sum() < 30
  forget = jnp.arange(34) == int(np.flatnonzero(np.asarray(rows[1]))[0])
  np.testing.assert_array_equal(graph.touched(rows, forget), [False, True])
  keys = jax.random.split(KEY, 2)
  fit = jax.jit(
    lambda r: graph.train_shards(
      task, data, r, keys, optimizer=optax.adam(0.01), num_steps=5
    )
  )
  before, after = fit(rows), fit(rows & ~forget[None])
  for a, b in zip(
    jax.tree.leaves(before.params), jax.tree.leaves(after.params)
  ):
    np.testing.assert_array_equal(a[0], b[0])
  kernel = lambda v: v.params["layers_0"]["Dense_0"]["kernel"][1]
  assert np.abs(kernel(before) - kernel(after)).max() > 0
  # The aggregate is the mean probability, on the whole graph.
  whole = graph.edge_weight(task.graph)
  each = [
    jax.nn.sigmoid(
      task.model.predict(
        graph.with_weight(jax.tree.map(lambda x: x[i], before), whole),
        data["x"],
      )
    )
    for i in range(2)
  ]
  got = jax.nn.sigmoid(graph.predict_shards(task, before, data["x"]))
  np.testing.assert_allclose(got, sum(each) / 2, atol=1e-6)


def test_shards_of_nodes_answer_with_the_mean_probability():
  task, _, _ = problem()
  nodes = graph.node_classification(Encoder(GCN, (6, 4), 3), task.graph)
  stacked = jax.jit(jax.vmap(lambda k: nodes.model.init(k, None)))(
    jax.random.split(KEY, 3)
  )
  x = jnp.arange(5)
  predict = jax.jit(nodes.model.predict)
  each = [
    jax.nn.softmax(predict(jax.tree.map(lambda v: v[i], stacked), x))
    for i in range(3)
  ]
  mean = jax.jit(lambda v: graph.predict_shards(nodes, v, x))
  got = jnp.exp(mean(stacked))
  np.testing.assert_allclose(got, sum(each) / 3, atol=1e-6)
  rows = graph.shard_rows(
    nodes, graph.node_data(jnp.zeros(N, int)), jnp.arange(N + 1) % 2, 2
  )
  np.testing.assert_array_equal(rows[1], np.arange(N) % 2 == 1)


PRESENCE = lambda a, b, **k: graph.fit_presence(jnp.ones(a), jnp.ones(b), **k)
BAD_SCORES = [
  (
    lambda: graph.ranking_auc(jnp.ones(3), jnp.ones(2), jnp.ones(2)),
    "positive_weights",
  ),
  (lambda: graph.touched(jnp.ones((2, 3), bool), jnp.ones(3)), "dtype bool"),
  (lambda: graph.df_auc(*problem()[::2], jnp.ones(3, bool)), "forget_mask"),
  (lambda: graph.df_auc(*problem()[::2], jnp.ones(34)), "dtype bool"),
  (
    lambda: graph.edge_distance(jnp.ones(3), jnp.ones(2), jnp.ones(3)),
    "of one shape",
  ),
  (lambda: PRESENCE((3, 2), (0, 2)), "Expected absent"),
  (lambda: PRESENCE((3, 2), (2, 3)), "Expected absent"),
  (lambda: PRESENCE((3,), (3,)), "Expected present"),
  (lambda: PRESENCE((3, 2), (3, 2), ridge=0), "ridge > 0"),
]


def test_bad_scores_are_refused():
  for call, message in BAD_SCORES:
    refused(message, call)
