"""What each baseline minimises, and retraining as the gold standard."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn.continual as co
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.training import fitting

KEY = jax.random.key(0)
DATA = problems.blobs(24)
TASK = DATA["label"] // 2
NONE = jnp.zeros(24, bool)
RECIPE = {"optimizer": optax.sgd(0.3), "num_steps": 1, "batch_size": 12}
KEPT = {**RECIPE, "buffer_size": 12, "replay_batch_size": 12}


def start(learner):
  variables = problems.mlp().init(jax.random.key(1), DATA["x"][:1])
  return learner.init(variables, DATA, jax.random.key(2))


def after_first_task(learner):
  return event(learner, start(learner), DATA, TASK == 0, NONE, KEY)[0]


def logits(variables):
  params = jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float64), variables.params
  )
  x = np.asarray(DATA["x"], np.float64)
  h = np.maximum(x @ params["hidden"]["kernel"] + params["hidden"]["bias"], 0)
  return h @ params["output"]["kernel"] + params["output"]["bias"]


def event(learner, *args):
  return jax.jit(learner.event)(*args)


def log_softmax(z):
  z = z - z.max(axis=-1, keepdims=True)
  return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def cross_entropy(variables):
  share = log_softmax(logits(variables))
  return -share[np.arange(24), np.asarray(DATA["label"])]


OLD, NEW = np.asarray(TASK) == 0, np.asarray(TASK) == 1


def second_loss(learner, state):
  _, info = event(learner, state, DATA, TASK == 1, NONE, jax.random.key(3))
  return float(info.loss)


def test_replay_adds_the_loss_of_the_buffer():
  learner = co.experience_replay(problems.mlp(), replay_weight=0.7, **KEPT)
  state = after_first_task(learner)
  ce = cross_entropy(state.variables)
  wanted = ce[NEW].mean() + 0.7 * ce[OLD].mean()
  np.testing.assert_allclose(second_loss(learner, state), wanted, rtol=1e-5)


@pytest.mark.slow
def test_derpp_replays_the_logits_of_when_a_row_came_in():
  learner = co.derpp(problems.mlp(), logit_weight=0.3, label_weight=0.6, **KEPT)
  state = after_first_task(learner)
  then = logits(state.variables)
  kept = state.buffer.rows["logits"]
  row = np.asarray(state.buffer.row_id)
  np.testing.assert_allclose(kept, then[row], atol=1e-5)
  # The model moves on; the logits stay.
  wider = co.derpp(
    problems.mlp(), **{**KEPT, "buffer_size": 30, "replay_batch_size": 12}
  )
  later = after_first_task(wider)
  first = {
    int(r): np.asarray(z)
    for r, z, v in zip(
      later.buffer.row_id, later.buffer.rows["logits"], later.buffer.valid
    )
    if v
  }
  later, _ = event(wider, later, DATA, TASK == 1, NONE, jax.random.key(3))
  now = logits(later.variables)
  for r, z, v in zip(
    np.asarray(later.buffer.row_id),
    later.buffer.rows["logits"],
    later.buffer.valid,
  ):
    if v:
      np.testing.assert_allclose(z, first.get(int(r), now[r]), atol=1e-5)
  assert not np.allclose(first[0], now[0], atol=1e-3)
  moved = state._replace(
    variables=jax.tree.map(lambda p: p * 1.1, state.variables)
  )
  gap = ((logits(moved.variables) - then) ** 2).mean(axis=1)
  ce = cross_entropy(moved.variables)
  wanted = ce[NEW].mean() + 0.3 * gap[OLD].mean() + 0.6 * ce[OLD].mean()
  np.testing.assert_allclose(second_loss(learner, moved), wanted, rtol=1e-5)


def test_derpp_refuses_data_whose_logits_it_would_overwrite():
  learner = co.derpp(problems.mlp(), **KEPT)
  variables = problems.mlp().init(KEY, DATA["x"][:1])
  data = {**DATA, "logits": jnp.zeros((24, 4))}
  refused('Expected data without "logits"', learner.init, variables, data, KEY)


@pytest.mark.slow
def test_lwf_distils_the_classes_known_before_from_the_model_before():
  learner = co.lwf(problems.mlp(), distil_weight=0.5, temperature=2.0, **RECIPE)
  state = after_first_task(learner)
  assert np.asarray(state.memory.known).tolist() == [True, True, False, False]
  # Of one step the model before is the current one, and nothing is added.
  ce = cross_entropy(state.variables)[NEW].mean()
  np.testing.assert_allclose(second_loss(learner, state), ce, rtol=1e-5)
  two = co.lwf(
    problems.mlp(), distil_weight=0.5, temperature=2.0,
    **{**RECIPE, "num_steps": 2},
  )  # fmt: skip
  naive = co.naive(problems.mlp(), **RECIPE)
  # The first of two steps is a naive one, and so gives the second's model.
  halfway, _ = event(
    naive,
    start(naive)._replace(variables=state.variables),
    DATA,
    TASK == 1,
    NONE,
    KEY,
  )
  q = log_softmax(logits(state.variables)[NEW][:, :2] / 2)
  p = log_softmax(logits(halfway.variables)[NEW][:, :2] / 2)
  second = cross_entropy(halfway.variables)[NEW].mean()
  second += 0.5 * (np.exp(q) * (q - p)).sum(axis=1).mean()
  np.testing.assert_allclose(
    second_loss(two, state), (ce + second) / 2, rtol=1e-5
  )


def test_ewc_weighs_the_way_from_the_anchor_by_the_fisher_diagonal():
  options = {"penalty": 3.0, "decay": 0.5, "fisher_rows": 12, "chunk_size": 5}
  learner = co.ewc(problems.mlp(), **options, **RECIPE)
  state = after_first_task(learner)
  chex.assert_trees_all_equal(state.memory.anchor, state.variables.params)
  share = np.exp(log_softmax(logits(state.variables)))
  slope = share - np.eye(4)[np.asarray(DATA["label"])]
  fisher = (slope[OLD] ** 2).mean(axis=0)
  found = state.memory.fisher["output"]["bias"]
  np.testing.assert_allclose(found, fisher, rtol=1e-4)
  moved = state._replace(
    variables=jax.tree.map(lambda p: p + 0.1, state.variables)
  )
  total = sum(np.asarray(f).sum() for f in jax.tree.leaves(state.memory.fisher))
  wanted = cross_entropy(moved.variables)[NEW].mean() + 1.5 * 0.01 * total
  np.testing.assert_allclose(second_loss(learner, moved), wanted, rtol=1e-4)
  later, _ = event(learner, state, DATA, TASK == 1, NONE, KEY)
  share = np.exp(log_softmax(logits(later.variables)))
  slope = share - np.eye(4)[np.asarray(DATA["label"])]
  wanted = 0.5 * fisher + (slope[NEW] ** 2).mean(axis=0)
  found = later.memory.fisher["output"]["bias"]
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("make", [co.naive, co.lwf, co.ewc])
def test_without_a_buffer_a_forget_event_leaves_the_model(make):
  learner = make(problems.mlp(), **RECIPE)
  state = after_first_task(learner)
  out, info = event(learner, state, DATA, NONE, TASK == 0, KEY)
  chex.assert_trees_all_equal(out.variables, state.variables)
  assert int(info.forget_count) == 12
  assert not np.asarray(out.ledger.learned).any()


def test_replay_at_a_forget_event_reads_the_rest_of_the_buffer_alone():
  learner = co.experience_replay(
    problems.mlp(), **{**KEPT, "buffer_size": 24, "replay_batch_size": 24}
  )
  state = after_first_task(learner)
  state, _ = event(learner, state, DATA, TASK == 1, NONE, KEY)
  dirty = {**DATA, "x": DATA["x"] * jnp.nan}
  out, info = event(learner, state, dirty, NONE, TASK == 0, KEY)
  assert bool(info.is_finite) and int(info.buffer_count) == 12
  wanted = cross_entropy(state.variables)[NEW].mean()
  np.testing.assert_allclose(info.loss, wanted, rtol=1e-5)
  for rows in jax.tree.leaves(out.buffer.rows):
    assert not np.asarray(rows)[~np.asarray(out.buffer.valid)].any()


def test_retraining_is_training_on_what_should_remain():
  recipe = {**RECIPE, "num_steps": 20}
  learner = co.retraining(problems.mlp(), **recipe)
  state = start(learner)
  state, _ = event(learner, state, DATA, jnp.ones(24, bool), NONE, KEY)
  gone = (TASK == 0) & (jnp.arange(24) > 7)
  state, _ = event(learner, state, DATA, NONE, gone, jax.random.key(9))
  fit = fitting(problems.mlp(), Fit(**recipe), train_mode=False)
  wanted, _ = fit(start(learner).variables, DATA, gone, jax.random.key(9))
  chex.assert_trees_all_equal(state.variables, wanted)
  state, _ = event(learner, state, DATA, NONE, jnp.ones(24, bool), KEY)
  chex.assert_trees_all_equal(state.variables, state.start)


def test_a_learner_of_ones_own_is_a_loss():
  model = problems.mlp()
  loss = lambda variables, step, memory: (
    memory + 0 * (model.predict(variables, step.new.rows["x"]).sum())
  )
  rule = co.Rule(loss, init=lambda variables, data, key: jnp.float32(7.0))
  learner = co.replay_learner(model, rule, **RECIPE)
  assert second_loss(learner, start(learner)) == 7.0


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda m: co.experience_replay(m, **RECIPE), "buffer_size >= 1, got None"),
    (lambda m: co.derpp(m, **RECIPE), "buffer_size >= 1, got None"),
    (
      lambda m: co.experience_replay(m, replay_weight=-1, **KEPT),
      "Expected replay_weight >= 0",
    ),
    (lambda m: co.derpp(m, logit_weight=-1, **KEPT), "logit_weight >= 0"),
    (lambda m: co.lwf(m, distil_weight=-1, **RECIPE), "distil_weight >= 0"),
    (lambda m: co.lwf(m, temperature=0, **RECIPE), "temperature > 0"),
    (lambda m: co.ewc(m, penalty=-1, **RECIPE), "penalty >= 0"),
    (lambda m: co.ewc(m, decay=2, **RECIPE), r"decay in \[0, 1\]"),
    (lambda m: co.ewc(m, fisher_rows=0, **RECIPE), "fisher_rows > 0"),
    (
      lambda m: co.retraining(m, **{**RECIPE, "num_steps": -1}),
      "num_steps >= 0",
    ),
    (
      lambda m: co.retraining(m, **{**RECIPE, "batch_size": 0}),
      "batch_size > 0",
    ),
  ],
)
def test_options_out_of_range_are_refused(make, message):
  refused(message, make, problems.mlp())
