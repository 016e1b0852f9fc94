"""Graphs of fixed shapes, requests on them, and pairs that no edge joins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import graph
from jaxunlearn.graph import partition

RNG = np.random.default_rng(0)
N = 14


def some_edges(num_nodes=N, count=24, seed=0):
  pairs = np.argwhere(np.triu(np.ones((num_nodes, num_nodes)), 1))
  rng = np.random.default_rng(seed)
  return pairs[rng.permutation(len(pairs))[:count]]


EDGES = some_edges()
FEATURES = RNG.normal(size=(N, 5)).astype(np.float32)
GRAPH = graph.from_edges(FEATURES, EDGES)


def adjacency(edges, num_nodes=N):
  a = np.zeros((num_nodes, num_nodes), bool)
  a[edges[:, 0], edges[:, 1]] = a[edges[:, 1], edges[:, 0]] = True
  return a


def test_a_graph_is_jraphs_and_holds_both_directions():
  import jraph

  g = graph.from_edges(FEATURES, EDGES, pad_nodes_to=20, pad_edges_to=30)
  assert isinstance(g, jraph.GraphsTuple)
  assert g.nodes.shape == (20, 5) and g.senders.shape == (60,)
  real = np.asarray(jraph.get_edge_padding_mask(g))
  np.testing.assert_array_equal(np.asarray(g.edges) > 0, real)
  assert np.asarray(jraph.get_node_padding_mask(g)).sum() == N
  s, r = np.asarray(g.senders)[real], np.asarray(g.receivers)[real]
  found = np.zeros((N, N), bool)
  found[s, r] = True
  np.testing.assert_array_equal(found, adjacency(EDGES))
  assert graph.num_nodes(g) == N


def test_int64_ids_are_taken_and_isolated_nodes_are_fine():
  g = graph.from_edges(FEATURES, np.array([[0, 1]], np.int64))
  assert g.senders.dtype == jnp.int32 and g.nodes.shape[0] == N


BAD_GRAPHS = (
  ({"edges": np.array([[0, 14]])}, "node numbers in 0 .. 13"),
  ({"edges": np.array([[-1, 2]])}, "node numbers in 0 .. 13"),
  ({"edges": np.array([[3, 3]])}, "without self-loops"),
  ({"edges": np.array([[1, 2], [2, 1]])}, "each edge once"),
  ({"edges": np.zeros((0, 2), int)}, "a graph with edges"),
  ({"edges": np.zeros((2, 3), int)}, r"edges int \[E, 2\]"),
  ({"edges": np.zeros((2, 2))}, r"edges int \[E, 2\]"),
  ({"features": FEATURES * np.nan}, "features.* to be finite"),
  ({"features": FEATURES[0]}, r"features float \[n, d\]"),
  ({"features": np.ones((N, 2), int)}, r"features float \[n, d\]"),
  ({"pad_edges_to": 3}, "pad_edges_to >= 24"),
  ({"pad_edges_to": 30, "pad_nodes_to": N}, "pad_nodes_to >= 15"),
  ({"pad_nodes_to": 3}, "pad_nodes_to >= 14"),
)


def test_bad_graphs_are_refused():
  for kwargs, message in BAD_GRAPHS:
    with pytest.raises(ValueError, match=message):
      graph.from_edges(**{"features": FEATURES, "edges": EDGES, **kwargs})


@pytest.mark.parametrize("num_hops", [0, 1, 2, 3])
def test_hops_are_those_of_powers_of_the_adjacency(num_hops):
  start = np.zeros(N, bool)
  start[[2, 5]] = True
  reach = np.linalg.matrix_power(
    adjacency(EDGES).astype(int) + np.eye(N, dtype=int), num_hops
  )
  expected = reach[start].sum(axis=0) > 0
  got = jax.jit(lambda m: graph.hops(GRAPH, m, num_hops))(jnp.asarray(start))
  np.testing.assert_array_equal(got, expected)


def test_hops_do_not_walk_edges_of_weight_zero():
  start = jnp.zeros(N, bool).at[EDGES[0, 0]].set(True)
  got = graph.hops(GRAPH, start, 3, jnp.zeros(len(EDGES)))
  np.testing.assert_array_equal(got, start)


def test_incident_and_inner_edges_are_those_of_a_loop():
  mask = np.zeros(N, bool)
  mask[[0, 3, 4, 7, 9]] = True
  g = graph.from_edges(FEATURES, EDGES, pad_edges_to=30)
  padded = jnp.asarray(np.append(mask, True))  # The padding node is asked too.
  any_end = [mask[u] or mask[v] for u, v in EDGES] + [False] * 6
  both = [mask[u] and mask[v] for u, v in EDGES] + [False] * 6
  np.testing.assert_array_equal(graph.incident_edges(g, padded), any_end)
  np.testing.assert_array_equal(graph.edges_within(g, padded), both)
  assert 0 < sum(both) < sum(any_end)


def test_edges_of_a_class_have_their_ends_in_it():
  labels = np.arange(N) % 3
  one = labels[EDGES] == 1
  got = graph.edge_classes(GRAPH, labels, [1])
  np.testing.assert_array_equal(got, one.all(axis=1))
  got = graph.edge_classes(GRAPH, labels, [1], ends="any")
  np.testing.assert_array_equal(got, one.any(axis=1))


def test_a_sampled_request_has_its_size_and_keeps_to_the_eligible():
  g = graph.from_edges(FEATURES, EDGES, pad_edges_to=40)
  eligible = jnp.arange(40) % 2 == 0
  keys = jax.random.split(jax.random.key(1), 50)
  masks = jax.vmap(lambda k: graph.sample_edges(k, g, 0.25, eligible))(keys)
  assert (masks.sum(axis=1) == 6).all()
  assert not (masks & ~eligible[None]).any() and not masks[:, 24:].any()
  assert (masks.sum(axis=0)[:24:2] > 0).all()  # Every eligible one at times.
  one = graph.sample_edges(keys[3], g, 0.25, eligible)
  np.testing.assert_array_equal(one, masks[3])


BAD_ARGUMENTS = (
  (lambda: graph.hops(GRAPH, jnp.ones(3, bool), 1), r"node_mask bool \[14\]"),
  (lambda: graph.hops(GRAPH, jnp.ones(N), 1), r"node_mask bool \[14\]"),
  (lambda: graph.edges_within(GRAPH, jnp.ones(N)), r"node_mask bool \[14\]"),
  (lambda: graph.hops(GRAPH, jnp.ones(N, bool), -1), "num_hops >= 0"),
  (lambda: graph.sample_edges(jax.random.key(0), GRAPH, 1.5), "fraction"),
  (
    lambda: graph.sample_edges(
      jax.random.key(0), GRAPH, 0.5, jnp.arange(24) < 3
    ),
    "at least 12 eligible edges, got 3",
  ),
  (
    lambda: graph.sample_edges(jax.random.key(0), GRAPH, 0.5, jnp.ones(2)),
    "Expected eligible bool",
  ),
  (lambda: graph.edge_classes(GRAPH, np.zeros(3, int), [0]), "labels of"),
  (lambda: graph.edge_classes(GRAPH, np.zeros(N, int), [4]), "a class"),
  (
    lambda: graph.edge_classes(GRAPH, np.zeros(N, int), [0], ends="one"),
    "ends",
  ),
  (
    lambda: graph.non_edges(
      graph.from_edges(FEATURES[:3], np.array([[0, 1], [0, 2], [1, 2]]))
    ),
    "a pair that no edge joins",
  ),
  (
    lambda: graph.non_edges(
      graph.from_edges(np.ones((70_000, 1), np.float32), np.array([[0, 1]]))
    ),
    "at most 65535 nodes",
  ),
  (
    lambda: partition.balanced_shards(jax.random.key(0), GRAPH, 99),
    "num_shards <= 14",
  ),
)


def test_bad_arguments_are_refused():
  for call, message in BAD_ARGUMENTS:
    refused(message, call)


def test_drawn_pairs_are_uniform_over_all_free_pairs_and_never_an_edge():
  g = graph.from_edges(FEATURES, EDGES, pad_edges_to=30, pad_nodes_to=17)
  free = graph.non_edges(g)
  count = 40_000
  pairs = np.asarray(graph.draw_non_edges(free, jax.random.key(2), count))
  times = np.zeros((N, N), int)
  np.add.at(times, (pairs[:, 0], pairs[:, 1]), 1)
  allowed = ~adjacency(EDGES) & ~np.eye(N, dtype=bool)
  assert times[~allowed].sum() == 0
  expected = count / allowed.sum()
  chi2 = ((times[allowed] - expected) ** 2 / expected).sum()
  degrees = allowed.sum() - 1
  assert abs(chi2 - degrees) < 5 * np.sqrt(2 * degrees)


def test_a_deleted_edge_is_a_free_pair():
  weight = jnp.ones(len(EDGES)).at[7].set(0)
  free = graph.non_edges(GRAPH, weight)
  pairs = np.asarray(graph.draw_non_edges(free, jax.random.key(2), 20_000))
  found = {tuple(sorted(p)) for p in pairs.tolist()}
  taken = {tuple(sorted(e)) for e in EDGES.tolist()}
  assert found & taken == {tuple(sorted(EDGES[7].tolist()))}
  assert len(found) == N * (N - 1) // 2 - len(EDGES) + 1
  joined = graph.are_joined(free, jnp.asarray(EDGES[:, ::-1]))
  np.testing.assert_array_equal(joined, np.arange(len(EDGES)) != 7)
  assert not graph.are_joined(free, jnp.asarray(pairs)).any()


def test_shards_are_balanced_and_keep_communities_together():
  # Three cliques, and a ring between them.
  blocks = [np.argwhere(np.triu(np.ones((8, 8)), 1)) + 8 * b for b in range(3)]
  edges = np.concatenate([*blocks, [[0, 8], [9, 16], [17, 1]]])
  g = graph.from_edges(np.ones((24, 2), np.float32), edges)
  cut = []
  for seed in range(5):
    shard = graph.balanced_shards(jax.random.key(seed), g, 3)
    assert np.bincount(shard, minlength=3).max() <= 8
    cut.append(
      (np.asarray(shard)[edges[:, 0]] != np.asarray(shard)[edges[:, 1]]).sum()
    )
  random = graph.balanced_shards(jax.random.key(0), g, 3, num_rounds=0)
  shuffled = (
    np.asarray(random)[edges[:, 0]] != np.asarray(random)[edges[:, 1]]
  ).sum()
  assert min(cut) == 3 and np.mean(cut) < shuffled / 2


@pytest.mark.parametrize("num_shards", [1, 4, 9, 14])
def test_sizes_of_shards_differ_by_one_at_most(num_shards):
  shard = graph.balanced_shards(
    jax.random.key(1), GRAPH, num_shards, num_rounds=3
  )
  sizes = np.bincount(shard, minlength=num_shards)
  assert sizes.sum() == N and sizes.max() - sizes.min() <= 1
