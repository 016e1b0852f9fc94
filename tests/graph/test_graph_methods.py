"""Methods on a small graph of two communities, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import graph
from jaxunlearn.core.recording import record
from jaxunlearn.core.types import as_step
from jaxunlearn.graph import objectives
from jaxunlearn.graph.d2dgn import TEACHERS
from jaxunlearn.graph.layers import GCN, Encoder
from jaxunlearn.losses import kl_to_teacher

KEY = jax.random.key(5)
N = 20
ADAM = optax.adam(0.02)
GENTLE = optax.adam(0.01)


@functools.cache
def problem(on_edges=True):
  """A task, its data, and a model trained on all of it."""
  rng = np.random.default_rng(1)
  side = np.arange(N) % 2
  pairs = np.argwhere(np.triu(np.ones((N, N)), 1))
  same = side[pairs[:, 0]] == side[pairs[:, 1]]
  edges = pairs[rng.random(len(pairs)) < np.where(same, 0.35, 0.03)]
  x = rng.normal(size=(N, 5)) + side[:, None]
  g = graph.from_edges(x.astype(np.float32), edges, pad_edges_to=48)
  if on_edges:
    task = graph.link_prediction(Encoder(GCN, (6, 4)), g)
    data = graph.link_data(g)
  else:
    task = graph.node_classification(Encoder(GCN, (6, 4), 2), g)
    data = graph.node_data(side, np.arange(16))
  rows = len(data["label"])
  fit = functools.partial(graph.train, task, optimizer=ADAM, num_steps=40)
  original, _ = jax.jit(fit)(data, jnp.ones(rows, bool), KEY)
  return task, data, original


def request(which, on_edges=True):
  rows = len(problem(on_edges)[1]["label"])
  return jnp.asarray(np.isin(np.arange(rows), which))


METHODS = {
  "retrain": lambda t: graph.retrain(t, optimizer=ADAM, num_steps=4),
  "d2dgn": lambda t: graph.d2dgn(t, num_steps=4),
  "gnndelete": lambda t: graph.gnndelete(t, num_steps=4),
}


def close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def move(a, b):
  """The largest change of a parameter."""
  return change(a.params, b.params)


@pytest.mark.parametrize("name", METHODS)
def test_rows_in_neither_mask_and_padding_are_never_read(name):
  task, data, original = problem()
  unseen = (graph.edge_weight(task.graph) == 0) | request([3, 9])
  forget = request([0, 5])
  asked = ju.Request(forget, ~forget & ~unseen)
  other = {**data, "x": jnp.where(unseen[:, None], 10**6, data["x"])}
  method = METHODS[name](task)
  runs = [method.compiled(original, d, asked, KEY)[0] for d in (data, other)]
  same(*runs)
  left = graph.edge_weight(task.graph) * ~(forget | unseen)
  np.testing.assert_array_equal(graph.weight_of(runs[0]), left)


def test_a_model_that_has_grown_deletions_can_be_retrained():
  task, data, original = problem()
  first, second = request([0, 5]), request([1, 2])
  deletion = graph.gnndelete(task, num_steps=2).compiled
  grown, _ = deletion(original, data, first, KEY)
  assert "deletions" in grown.model_state
  asked = ju.Request(second, ~(first | second))
  retrain = graph.retrain(task, optimizer=ADAM, num_steps=2).compiled
  made, wanted = (retrain(v, data, asked, KEY)[0] for v in (grown, original))
  same(made, wanted)


def test_a_loss_by_itself_is_that_of_a_phase():
  task, data, original = problem()
  one, free = task.task, graph.non_edges(task.graph)
  step = as_step(data)
  losses = jax.jit(one.loss)(original, step, KEY)
  real = graph.edge_weight(task.graph)
  np.testing.assert_array_equal(losses.weight, real)
  x, others = data["x"], graph.draw_non_edges(free, KEY, len(data["x"]))
  predict = jax.jit(task.model.predict)
  yes, no = (predict(original, pairs) for pairs in (x, others))
  wanted = np.logaddexp(0, -yes) + np.logaddexp(0, no)
  np.testing.assert_allclose(losses.value, wanted, rtol=1e-4, atol=1e-5)


def test_the_original_and_a_retrained_model_of_an_empty_request_are_one():
  task, data, original = problem()
  method = graph.retrain(task, optimizer=ADAM, num_steps=40)
  again, _ = method.compiled(original, data, request([]), KEY)
  close(again, original, atol=1e-6)


def test_requests_add_up():
  task, data, original = problem()
  first, second = request([0, 5]), request([3])
  for make in (graph.unlink, METHODS["gnndelete"]):
    once, _ = make(task).compiled(original, data, first, KEY)
    twice, _ = make(task).compiled(once, data, second, KEY)
    left = graph.edge_weight(task.graph) * (1 - (first | second))
    np.testing.assert_array_equal(graph.weight_of(twice), left)
  assert len(operators(twice)) == 2
  assert np.isfinite(jax.jit(task.model.predict)(twice, data["x"])).all()


def test_places_set_aside_serve_a_sequence_and_no_request_more():
  task, data, original = problem()
  roomy = graph.link_prediction(
    Encoder(GCN, (6, 4)), task.graph, max_deletions=2
  )
  made = jax.jit(lambda key: roomy.model.init(key, None))(KEY)
  empty = made.model_state["deletions"]
  state = {**original.model_state, "deletions": empty}
  start = original._replace(model_state=state)
  masks = jnp.stack([request([0, 5]), request([3]), request([7])])
  keys = jax.random.split(KEY, 3)
  method = METHODS["gnndelete"](roomy)
  served, _ = ju.unlearn_sequence(method, start, data, masks, keys)
  look = jax.vmap(lambda v: roomy.model.predict(v, data["x"]))
  scores = jax.jit(look)(served)
  assert np.isfinite(scores[:2]).all() and not np.isfinite(scores[2]).any()
  grown = original
  for mask, key in zip(masks[:2], keys):
    grown, _ = METHODS["gnndelete"](task).compiled(grown, data, mask, key)
  wanted = jax.jit(task.model.predict)(grown, data["x"])
  np.testing.assert_allclose(scores[1], wanted, rtol=1e-3, atol=1e-4)
  full = jax.tree.map(lambda leaf: leaf[1], served)
  refused("at most max_deletions=2 requests", method, full, data, masks[2], KEY)


def test_retraining_does_not_read_the_features_of_forgotten_nodes():
  task, data, original = problem(on_edges=False)
  mask = request([2, 6], on_edges=False)
  # Other numbers in the first two columns of these two nodes.
  changed = task.graph.nodes.at[jnp.array([2, 6]), :2].add(3.0)
  graphs = (task.graph, task.graph._replace(nodes=changed))
  tasks = [
    graph.node_classification(Encoder(GCN, (6, 4), 2), g) for g in graphs
  ]
  runs = [
    jax.jit(METHODS["retrain"](t))(original, data, mask, KEY)[0] for t in tasks
  ]
  close(*runs, atol=1e-6)
  everything = [jax.jit(t.model.predict)(original, data["x"]) for t in tasks]
  assert np.abs(everything[0] - everything[1]).max() > 1e-3


def test_retraining_after_another_request_is_retraining_on_both():
  task, data, original = problem()
  method = METHODS["retrain"](task)
  first, second = request([0, 5]), request([3])
  both, _ = method.compiled(original, data, first | second, KEY)
  once, _ = graph.unlink(task).compiled(original, data, first, KEY)
  twice, _ = method.compiled(once, data, second, KEY)
  close(twice, both, atol=1e-5)
  masks, keys = jnp.stack([first, second]), jnp.stack([KEY, KEY])
  served, _ = ju.unlearn_sequence(method, original, data, masks, keys)
  close(jax.tree.map(lambda leaf: leaf[1], served), both, atol=1e-5)


def test_gradient_ascent_lowers_the_forgotten_edges_and_zero_steps_unlink():
  task, data, original = problem()
  mask = request([0, 5, 8])
  unlinked, _ = graph.unlink(task).compiled(original, data, mask, KEY)
  none, _ = graph.gradient_ascent(task, num_steps=0).compiled(
    original, data, mask, KEY
  )
  same(none, unlinked)
  some, _ = graph.gradient_ascent(task, num_steps=5, optimizer=GENTLE)(
    original, data, mask, KEY
  )
  before, after = (
    jax.jit(task.model.predict)(v, data["x"])[mask] for v in (unlinked, some)
  )
  assert after.mean() < before.mean()


@pytest.mark.slow
def test_the_noise_of_descent_to_delete_has_its_scale():
  task, data, original = problem()
  runs = [
    graph.descent_to_delete(task, num_steps=2, noise_scale=s)(
      original, data, request([1]), KEY
    )[0]
    for s in (0.0, 0.1)
  ]
  noise = [
    np.ravel(b - a) for a, b in zip(*(jax.tree.leaves(r.params) for r in runs))
  ]
  assert abs(np.concatenate(noise).std() - 0.1) < 0.02


# D2DGN.


@pytest.mark.parametrize("knowledge", ["response", "feature"])
@pytest.mark.parametrize("on_edges", [True, False])
def test_a_weight_of_one_on_the_full_graph_changes_nothing(knowledge, on_edges):
  task, data, original = problem(on_edges)
  method = graph.d2dgn(
    task,
    num_steps=5,
    retain_weight=1.0,
    knowledge=knowledge,
    student_graph="full",
    optimizer=optax.sgd(0.1),
  )
  out, info = method.compiled(original, data, request([0, 5], on_edges), KEY)
  assert np.abs(info["distil"].loss).max() < 1e-6
  assert move(out, original) < 1e-5
  same(out.model_state, original.model_state)


def teachers_of(task, data, original, mask, **options):
  method = ju.chain(
    graph.d2dgn(task, **options), record("seen", lambda c: c[TEACHERS])
  )
  out, info = method.compiled(original, data, mask, KEY)
  return out, info["seen"]


def test_the_teachers_are_frozen_and_differ():
  task, data, original = problem()
  mask = request([0, 5])
  _, seen = teachers_of(task, data, original, mask, num_steps=2)
  # The original on the whole graph, whatever the student's graph is.
  close(seen.preserver, jax.jit(task.embed)(original), atol=1e-6)
  kept = jax.jit(task.model.predict)(original, data["x"])
  close(seen.kept, kept, atol=1e-5)
  assert np.abs(seen.kept - seen.gone).max() > 0.1
  real = graph.edge_weight(task.graph) > 0
  np.testing.assert_array_equal(seen.retain, real & ~mask)
  ends = np.zeros(N + 1, bool)
  ends[np.asarray(data["x"])[np.asarray(mask)]] = True
  np.testing.assert_array_equal(seen.forget_nodes, ends)
  np.testing.assert_array_equal(
    seen.retain_nodes, ~ends & (np.arange(N + 1) < N)
  )
  slope = jax.grad(lambda t: graph.bernoulli_kl(jnp.ones(3), t).sum())(
    jnp.zeros(3)
  )
  assert (slope == 0).all()


def test_only_nodes_whose_edges_go_now_are_forgotten():
  task, data, original = problem()
  method = graph.d2dgn(task, num_steps=1, knowledge="feature")
  once, _ = graph.unlink(task).compiled(original, data, request([0, 5]), KEY)
  padding = np.flatnonzero(np.asarray(graph.edge_weight(task.graph)) == 0)
  run = lambda which: method.compiled(once, data, request(which), KEY)[0]
  same(run([7]), run([7, 0, 5, *padding]))


def test_the_bernoulli_divergence_is_that_of_two_classes():
  rng = np.random.default_rng(0)
  s, t = rng.normal(size=(2, 50)).astype(np.float32) * 4
  two = lambda x: jnp.stack([jnp.asarray(x), jnp.zeros(50)], axis=1)
  np.testing.assert_allclose(
    graph.bernoulli_kl(jnp.asarray(s), jnp.asarray(t)),
    kl_to_teacher(two(s), two(t)),
    atol=2e-6,
  )
  far = jnp.array([80.0, -80.0, 80.0])
  near = jnp.array([-80.0, 80.0, 80.0])
  value, slope = jax.value_and_grad(
    lambda x: graph.bernoulli_kl(x, near).sum()
  )(far)
  assert abs(value - 160) < 1e-3
  np.testing.assert_allclose(slope, [1, -1, 0], atol=1e-6)
  at_teacher = jax.grad(lambda x: graph.bernoulli_kl(x, jnp.asarray(t)).sum())
  assert (at_teacher(jnp.asarray(t)) == 0).all()


def test_means_do_not_change_when_rows_come_twice_and_skip_weight_zero():
  values = jnp.array([1.0, 4.0, jnp.nan])
  weight = jnp.array([1.0, 0.5, 0.0])
  assert objectives.weighted_mean(values, weight) == 2.0
  assert (
    objectives.weighted_mean(jnp.tile(values, 2), jnp.tile(weight, 2)) == 2.0
  )
  assert objectives.weighted_mean(values, jnp.zeros(3)) == 0.0


@pytest.mark.parametrize(
  "distance", [graph.embedding_mse, graph.embedding_kl, graph.embedding_cosine]
)
def test_distances_do_not_read_rows_of_weight_zero(distance):
  z = jax.random.normal(KEY, (4, 3))
  weight = jnp.array([1.0, 1.0, 0.0, 1.0])
  bad = z.at[2].set(jnp.nan)
  target = jnp.roll(z, 1, axis=1)
  run = jax.jit(jax.value_and_grad(distance))
  value, slope = run(bad, target, weight)
  keep = jnp.array([0, 1, 3])
  wanted, wanted_slope = run(z[keep], target[keep], jnp.ones(3))
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  np.testing.assert_allclose(slope[keep], wanted_slope, rtol=1e-5, atol=1e-7)
  assert (slope[2] == 0).all() and value > 0
  value, slope = jax.jit(jax.value_and_grad(distance))(bad, bad, jnp.zeros(4))
  assert value == 0 and (slope == 0).all()


# GNNDelete.


def operators(out):
  """Those of the first layer, by request."""
  return out.model_state["deletions"]["operators"][0]


@pytest.mark.slow
def test_identity_operators_are_the_best_for_the_neighbourhood_alone():
  task, data, original = problem()

  def first_loss(**options):
    method = graph.gnndelete(
      task, num_steps=1, operator_init="identity", **options
    )
    return method.compiled(original, data, request([0, 5]), KEY)[1][
      "delete"
    ].loss[0]

  assert first_loss(dec_weight=0.0, reference_graph="retain") < 1e-10
  # Not so against the graph with the forgotten edges, or with the other loss.
  assert first_loss(dec_weight=0.0) > 1e-5
  assert first_loss(dec_weight=0.5, reference_graph="retain") > 1e-3


@pytest.mark.slow
def test_gnndelete_leaves_params_and_far_nodes_alone():
  # A path of twelve nodes: an edge at its end reaches three nodes in two hops.
  edges = np.stack([np.arange(11), np.arange(1, 12)], axis=1)
  x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
  g = graph.from_edges(x, edges)
  task, data = (
    graph.link_prediction(Encoder(GCN, (6, 4)), g),
    graph.link_data(g),
  )
  original = jax.jit(lambda key: task.model.init(key, None))(KEY)
  mask = jnp.arange(11) == 0
  out, _ = graph.gnndelete(task, num_steps=10, optimizer=GENTLE)(
    original, data, mask, KEY
  )
  same(out.params, original.params)
  unlinked, _ = graph.unlink(task).compiled(original, data, mask, KEY)
  layers = (jax.jit(task.embed)(v) for v in (out, unlinked))
  for z, wanted, near in zip(*layers, (3, 4)):
    # Zones of 3 and 4 nodes; the second layer sees a hop beyond the first zone.
    far = 4
    np.testing.assert_allclose(z[far:], wanted[far:], atol=1e-6)
    assert (jnp.abs(z - wanted).max(axis=1)[:near] > 1e-4).all()


def test_a_layers_loss_trains_that_layers_operator_alone():
  task, data, original = problem()
  twisted = original._replace(
    params={
      **original.params,
      "layers_1": jax.tree.map(lambda p: -2 * p, original.params["layers_1"]),
    }
  )

  def first(layerwise, variables):
    method = graph.gnndelete(
      task, num_steps=4, layerwise=layerwise, optimizer=GENTLE
    )
    out, _ = method.compiled(variables, data, request([0, 5]), KEY)
    return operators(out)

  same(first(True, original), first(True, twisted))
  assert np.abs(first(False, original) - first(False, twisted)).max() > 1e-4


def test_gnndelete_moves_forgotten_edges_towards_unjoined_pairs():
  task, data, original = problem()
  mask = request([0, 5, 8])
  out, info = graph.gnndelete(task, num_steps=80, optimizer=GENTLE).compiled(
    original, data, mask, KEY
  )
  loss = info["delete"].loss
  assert loss[-10:].mean() < loss[:10].mean()
  unlinked, _ = graph.unlink(task).compiled(original, data, mask, KEY)
  logits = [
    jax.jit(task.model.predict)(v, data["x"])[mask].mean()
    for v in (out, unlinked)
  ]
  assert logits[0] < logits[1]


@pytest.mark.slow
def test_a_destroyer_is_no_model_that_began_as_the_original_did():
  task, data, original = problem()
  mask = request([0, 5])
  begun = graph.train(
    task, data, jnp.ones(48, bool), KEY, optimizer=ADAM, num_steps=1
  )[0]
  seen = [
    teachers_of(task, data, original, mask, num_steps=1, **options)[1]
    for options in (
      {},
      {"destroyer": "non_edges", "destroyer_steps": 3, "feature_loss": "kl"},
    )
  ]
  first = task.model.predict(begun, data["x"])
  assert all(np.abs(s.gone - first).max() > 0.1 for s in seen)
  assert np.abs(seen[0].gone - seen[1].gone).max() > 1e-3


# What is refused.

TASK = lambda on_edges=True: problem(on_edges)[0]
BAD_OPTIONS = [
  (lambda: graph.d2dgn(TASK(), retain_weight=1.2), "retain_weight"),
  (lambda: graph.d2dgn(TASK(), num_steps=-1), "num_steps"),
  (lambda: graph.d2dgn(TASK(), destroyer_steps=-1), "destroyer_steps"),
  (lambda: graph.d2dgn(TASK(), knowledge="all"), "knowledge"),
  (lambda: graph.d2dgn(TASK(), feature_loss="l1"), "feature_loss"),
  (lambda: graph.d2dgn(TASK(), destroyer="none"), "destroyer"),
  (lambda: graph.d2dgn(TASK(), student_init="ones"), "student_init"),
  (lambda: graph.d2dgn(TASK(), student_graph="half"), "student_graph"),
  (lambda: graph.d2dgn(TASK(False), destroyer="non_edges"), "for nodes"),
  (lambda: graph.gnndelete(TASK(), dec_weight=-0.1), "dec_weight"),
  (lambda: graph.gnndelete(TASK(), reference_graph="no"), "reference_graph"),
  (lambda: graph.gnndelete(TASK(), operator_init="no"), "operator_init"),
  (lambda: graph.descent_to_delete(TASK(), max_norm=0.0), "max_norm > 0"),
  (lambda: graph.descent_to_delete(TASK(), noise_scale=-1), "noise_scale"),
  (lambda: graph.node_data(np.ones(3)), r"labels int \[n\]"),
  (lambda: graph.node_data(np.ones(3, int), [7]), "nodes in 0 .. 2"),
]


def test_bad_options_are_refused():
  for make, message in BAD_OPTIONS:
    refused(message, make)


def test_bad_requests_are_refused():
  task, data, original = problem()
  short = jax.tree.map(lambda leaf: leaf[:10], data)
  turned = {**data, "x": jnp.roll(data["x"], 1, axis=0)}
  one = request([0])
  for variables, rows, mask, message in (
    (original, short, jnp.ones(10, bool), r"data\['x'\] \[48, 2\]"),
    (original.params, data, one, "got bare params"),
    (original, turned, one, "the graph's edges in their order"),
  ):
    for make in (graph.gnndelete, graph.d2dgn):
      refused(message, make(task), variables, rows, mask, KEY)
  refused("dtype bool", graph.gnndelete(task), original, data, one * 0.5, KEY)
  # What is forgotten need not be there any more.
  without = {**data, "x": data["x"].at[0].set(-1)}
  graph.unlink(task)(original, without, one, KEY)
  task, data, original = problem(on_edges=False)
  far = {**data, "x": data["x"].at[0].set(N + 1)}
  with pytest.raises(ValueError, match=r"data\['x'\] in 0 .. 20"):
    graph.unlink(task)(original, far, request([1], False), KEY)


def test_training_weights_of_another_length_are_refused():
  task, data, _ = problem()
  with pytest.raises(ValueError, match="weights of shape"):
    graph.train(task, data, jnp.ones(3), KEY, optimizer=ADAM, num_steps=2)


def test_the_rate_of_old_calls_is_that_of_adam():
  task, data, original = problem()
  with pytest.warns(DeprecationWarning, match="in the place of learning_rate"):
    old = graph.gradient_ascent(task, num_steps=2, learning_rate=0.01)
  new = graph.gradient_ascent(task, num_steps=2, optimizer=optax.adam(0.01))
  same(*(m.compiled(original, data, request([1]), KEY)[0] for m in (old, new)))
