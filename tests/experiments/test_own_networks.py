"""A user's own graph and interactions: their network, checkpoint and ids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import own_networks
import pytest
from refusals import refused

import jaxunlearn as ju
from experiments import common, forget_graph, forget_recommendations
from experiments.datasets import graphs, interactions
from experiments.datasets import interaction_requests as asked
from experiments.requests import Ask
from jaxunlearn import graph
from jaxunlearn.adapters.flax import from_module

CLUB = graphs.load("karate")
IDS = 2**40 + np.arange(34)[::-1]  # That no float32, nor an int32, holds.
ORDER = np.random.default_rng(0).permutation(len(CLUB.edges))
GRAPH = {
  "features": CLUB.features,
  "edges": IDS[CLUB.edges[ORDER[12:]]],
  "edges_test": IDS[CLUB.edges[ORDER[:12]]],
  "nodes_test": IDS[4:14],
  "label": CLUB.label,
  "ids": IDS,
}
USERS = np.array([f"u{i:02}" for i in range(12)])[::-1]  # Not in order.
ITEMS = 7 + 2**33 * np.random.default_rng(1).permutation(9)
PAIRS = np.array(
  [
    (u, i)
    for u in range(12)
    for i in np.random.default_rng(u).permutation(9)[:7]
  ]
)
IS_TEST = np.arange(len(PAIRS)) % 7 > 4
BOUGHT = {
  "users": USERS[PAIRS[~IS_TEST, 0]],
  "items": ITEMS[PAIRS[~IS_TEST, 1]],
  "users_test": USERS[PAIRS[IS_TEST, 0]],
  "items_test": ITEMS[PAIRS[IS_TEST, 1]],
  "user_ids": USERS,
  "item_ids": ITEMS,
}


def save(path, arrays, **change):
  arrays = {n: a for n, a in {**arrays, **change}.items() if a is not None}
  np.savez(path, **arrays)
  return f"npz:{path}"


def checkpoint(path, variables):
  with ocp.StandardCheckpointer() as saver:
    saver.save(path, variables)
  return str(path)


def served(study, **options):
  """The plan, and what a smoke run finds; without timing, which compiles again."""
  plan = study.prepare(study.Options(preset="smoke", **options))
  declared = dataclasses.replace(plan.study, time_alone=False)
  with common.progress() as progress:
    return plan, study.run(plan._replace(study=declared), progress)


def of_original(found):
  return [row for row in found.rows if row["method"] == "original"]


def test_a_trained_graph_network_forgets_edges_by_name(tmp_path):
  source = save(tmp_path / "own.npz", GRAPH)
  network = from_module(own_networks.links)
  g = graph.from_edges(CLUB.features, CLUB.edges[ORDER[12:]])
  made = jax.jit(network.init)(jax.random.key(3), g)
  edge = GRAPH["edges"][5]
  (tmp_path / "edges.csv").write_text(f"{edge[1]},{edge[0]}\n")
  there = checkpoint(tmp_path / "there", made.params)
  plan, found = served(
    forget_graph,
    data=source,
    model="own_networks:links",
    methods="unlink",
    checkpoint=there,
    request=f"edges:{tmp_path / 'edges.csv'}",
  )
  z = np.asarray(network.predict(made, g).nodes, np.float64)
  logit = (z[CLUB.edges[ORDER[17]]]).prod(axis=0).sum()
  assert len(of_original(found)) == 2
  for row in of_original(found):
    np.testing.assert_allclose(
      row["forget_probability"], 1 / (1 + np.exp(-logit)), rtol=1e-4
    )
    assert np.isnan(row["seconds_run"])
  notes = " ".join(plan.study.notes(plan))
  assert "The original model was trained elsewhere" in notes
  assert "All edges of the file" in notes
  assert f"loaded from {there}" in plan.study.lead(plan)


def test_a_network_as_a_whole_trains_with_its_noise_and_statistics():
  g = graph.from_edges(CLUB.features, CLUB.edges)
  network = from_module(own_networks.classes)
  task = graph.from_network(network, g, on_edges=False)
  rows = graph.node_data(CLUB.label)

  @jax.jit
  def run(key):
    fit = ju.Fit(optax.sgd(0.1), 2, ju.ALL)
    everything = jnp.ones(34, bool)
    return graph.train(task, rows, everything, key, fit)[0]

  made = run(jax.random.key(0))
  moved = made.model_state["batch_stats"]["BatchNorm_0"]["mean"]
  assert np.abs(moved).max() > 0
  np.testing.assert_array_equal(made.model_state["edge_weight"], 1)
  drawn = [task.forward(made, jax.random.key(i))[0] for i in (0, 1, 1)]
  assert np.abs(drawn[0] - drawn[1]).max() > 0
  np.testing.assert_array_equal(drawn[1], drawn[2])
  # By hand: no edge, no message; a weight of 0 is no edge.
  bare = ju.Variables(
    made.params, {"batch_stats": made.model_state["batch_stats"]}
  )
  weight = jnp.arange(len(CLUB.edges)) % 2
  few = graph.from_edges(CLUB.features, CLUB.edges[1::2])
  np.testing.assert_allclose(
    task.model.predict(graph.with_weight(made, weight * 1.0), rows["x"]),
    network.predict(bare, few).nodes,
    atol=1e-5,
  )


def test_rows_and_tests_of_the_file_are_kept_apart(tmp_path):
  data = graphs.load(save(tmp_path / "own.npz", GRAPH))
  known = {tuple(e) for e in CLUB.edges[ORDER[:12]].tolist()}
  for seed in (0, 1):
    split = graphs.split_links(data, seed)
    chosen = graphs.split_links(data, seed, "select")
    np.testing.assert_array_equal(split.edges, CLUB.edges[ORDER[12:]])
    parts = [split.test, split.absent[: len(split.absent) // 2]]
    parts += [chosen.test, chosen.absent[: len(chosen.absent) // 2]]
    listed = [tuple(e) for part in parts for e in part.tolist()]
    assert sorted(listed) == sorted(known)
    joined = CLUB.edges @ np.array([34, 1])
    assert not np.isin(np.sort(split.others) @ np.array([34, 1]), joined).any()
    nodes = graphs.split_nodes(data, seed)
    assert not np.isin(nodes.rows, np.arange(4, 14)).any()
    aside = graphs.split_nodes(data, seed, "select").test
    both = np.sort(np.append(nodes.test, aside))
    np.testing.assert_array_equal(both, np.arange(4, 14))


def test_a_trained_recommender_forgets_a_user_by_name(tmp_path):
  source = save(tmp_path / "own.npz", BOUGHT)
  network = from_module(own_networks.factors)
  made = jax.jit(network.init)(jax.random.key(0), None)
  plan, found = served(
    forget_recommendations,
    data=source,
    k=2,
    model="own_networks:factors",
    methods="unlink",
    checkpoint=checkpoint(tmp_path / "there", {"params": made.params}),
    request="users:u03;users:u03,u07",
  )
  # The rows of the model are in the order of user_ids and item_ids.
  user, item = (np.asarray(made.params[n]) for n in ("user", "item"))
  score = user @ item.T
  for request, named in (
    ("users:u03", ["u03"]),
    ("users:u03,u07", ["u03", "u07"]),
  ):
    hits = []
    for u in np.flatnonzero(np.isin(USERS, named)):
      own = PAIRS[~IS_TEST & (PAIRS[:, 0] == u), 1]
      top = np.argsort(-score[u])[:2]
      hits.append(np.isin(own, top).sum() / len(own))
    recalls = [
      row["forget_recall"]
      for row in of_original(found)
      if row["request"] == request
    ]
    np.testing.assert_allclose(recalls, np.mean(hits), rtol=1e-5)
  assert "trained elsewhere" in " ".join(plan.study.notes(plan))


def test_interactions_to_test_on_are_never_trained_on(tmp_path):
  load = lambda data: interactions.load(data, preset="smoke")
  source = load(save(tmp_path / "own.npz", BOUGHT))
  np.testing.assert_array_equal(
    source.pairs, np.concatenate([PAIRS[~IS_TEST], PAIRS[IS_TEST]])
  )
  split = interactions.split(source, 0)
  aside = interactions.split(source, 1, "select")
  assert split.row_id.tolist() == list(range(source.trained))
  held = np.append(split.held_id, aside.held_id)
  assert sorted(held) == list(range(source.trained, len(PAIRS)))
  (tmp_path / "rows.txt").write_text("0\n59\n")
  mask, _ = asked.mask("index", str(tmp_path / "rows.txt"), split)
  assert np.flatnonzero(mask).tolist() == [0, 59]
  (tmp_path / "rows.txt").write_text("60\n")
  refused(r"0 \.\. 59", asked.mask, "index", str(tmp_path / "rows.txt"), split)
  asks = (Ask("items:7", "items", "7"),)
  assert asked.pinned(asks, source).sum() == 1


def test_what_a_whole_network_cannot_do_is_left_out(tmp_path):
  options = forget_graph.Options(
    data="karate", model="own_networks:of_each_node", preset="smoke"
  )
  plan = forget_graph.prepare(options)
  assert plan.methods == (
    *("unlink", "gradient_ascent", "descent_to_delete", "d2dgn"),
  )
  said = [n.partition(" is left out") for n in plan.notes]
  assert [name for name, out, _ in said if out] == ["partition", "gnndelete"]
  layered = dataclasses.replace(options, model="own_networks:layers")
  assert "gnndelete" in forget_graph.prepare(layered).methods
  model = "own_networks:nnx_factors"
  data = save(tmp_path / "own.npz", BOUGHT)
  there = checkpoint(
    tmp_path / "there", own_networks.Factors().init(jax.random.key(0), None)
  )
  plan = forget_recommendations.prepare(
    forget_recommendations.Options(
      data=data, model=model, checkpoint=there, preset="quick"
    )
  )
  assert not {"shards", "scif"} & set(plan.methods)
  assert sum(" is left out" in note for note in plan.notes) == 2


OWN = "own_networks:"
# What arrays are changed, what options are given, by what is said.
GRAPHS = {
  "to have 'nobody'": {"model": OWN + "nobody"},
  r"a row a node, \[34, D\], got \[\]": {"model": OWN + "summed"},
  "edges of weight 0 for none": {"model": OWN + "reads_every_edge"},
  "2 classes or more": {"model": OWN + "one_class", "task": "nodes"},
  "--methods without gnndelete for a": {"methods": "unlink,gnndelete"},
  "--checkpoint .*layers_0": {"checkpoint": 34, "model": None},
  r"kernel of shape \(34, 6\), got \(5, 6\)": {"checkpoint": 5},
  "npz:PATH with edges_test": {"checkpoint": 34, "edges_test": None},
  "a node of these data, got": {"request": f"nodes:{IDS[0] + 1}"},
  "got 1 of nodes_test": {
    **{"request": f"nodes:{IDS[0]},{IDS[5]}", "task": "nodes", "model": None}
  },
  "once, got 8": {"edges_test": IDS[CLUB.edges[ORDER[10:20]]]},
  "of ids, got the unknown 0": {"nodes_test": np.arange(5)},
  "nodes_test of .* to be 2 or more, got 1": {"nodes_test": IDS[4:5]},
  "--learning-rate > 0, got 0": {"learning_rate": 0.0},
}
RECOMMENDERS = {
  "--model to be one of bpr_mf": {"model": "gru"},
  "no attribute 'nodes'": {"model": OWN + "links"},
  r"users \[12, D\] .* got \[11, 3\]": {"model": OWN + "other_factors"},
  "interactions of weight 0 for none": {"model": OWN + "all_factors"},
  "--checkpoint .*users": {"checkpoint": 1, "model": "bpr_mf"},
  "with users_test and items_test, which": {
    **{"users_test": None, "items_test": None, "checkpoint": 1}
  },
  "models of the groups kept": {"methods": "shards", "checkpoint": 1},
  "a user of these data, got u99": {"request": "users:u99"},
  "an item of these data, got 8": {"request": "items:8"},
  "users_test and items_test or neither": {"items_test": None},
  "users_test in .* of the kind of users": {"users_test": np.arange(24)},
  "to have all users, got none": {"user_ids": USERS[:11]},
  "item_ids in .* to differ": {"item_ids": np.append(ITEMS, 7)},
}


@pytest.mark.parametrize("said", [*GRAPHS, *RECOMMENDERS])
def test_what_does_not_fit_is_one_line(tmp_path, said):
  is_graph = said in GRAPHS
  study = forget_graph if is_graph else forget_recommendations
  given = dict(GRAPHS[said] if is_graph else RECOMMENDERS[said])
  arrays = GRAPH if is_graph else BOUGHT
  change = {name: given.pop(name) for name in [*arrays] if name in given}
  if width := given.get("checkpoint"):
    module, inputs = own_networks.Factors(), None
    if is_graph:
      module = own_networks.Net()
      inputs = graph.from_edges(np.ones((34, width), "f4"), CLUB.edges)
    made = module.init(jax.random.key(0), inputs)["params"]
    given["checkpoint"] = checkpoint(tmp_path / "there", made)
  usual = {
    "data": save(tmp_path / "own.npz", arrays, **change),
    "model": OWN + ("links" if is_graph else "factors"),
    "request": "edges:0.1" if is_graph else "users:u03",
    "methods": "unlink",
    "preset": "smoke",
  }
  if given.get("task") and "request" not in given:
    usual["request"] = "nodes:0.1"
  refused(said, study.prepare, study.Options(**{**usual, **given}))
