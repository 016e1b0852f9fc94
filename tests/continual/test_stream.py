"""Streams, and what holds for every learner."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn.continual as co
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.types import Variables

KEY = jax.random.key(0)
RECIPE = {"optimizer": optax.sgd(0.05), "num_steps": 6, "batch_size": 8}
KEPT = {**RECIPE, "buffer_size": 12, "replay_batch_size": 4}
LEARNERS = {
  "naive": lambda m: co.naive(m, **RECIPE),
  "experience_replay": lambda m: co.experience_replay(m, **KEPT),
  "derpp": lambda m: co.derpp(m, **KEPT),
  "lwf": lambda m: co.lwf(m, **RECIPE),
  "ewc": lambda m: co.ewc(m, penalty=1.0, fisher_rows=8, **RECIPE),
  "clu": lambda m: co.clu(m, **KEPT),
  "retraining": lambda m: co.retraining(m, **RECIPE),
}
# Those whose code is not that of another with a term less.
SLOWER = ["experience_replay", "derpp", "lwf", "ewc"]
slow = lambda name: pytest.param(name, marks=pytest.mark.slow)
EVERY = [slow(name) if name in SLOWER else name for name in LEARNERS]
DISTINCT = [*map(slow, SLOWER[1:]), "clu", "retraining"]
DATA = problems.blobs(32)
TASK = DATA["label"] // 2
EVENTS = [co.learn(0), co.learn(1), co.forget(0), co.learn(0)]


def start(name, model=None, data=DATA):
  model = model or problems.mlp()
  learner = LEARNERS[name](model)
  variables = jax.jit(model.init)(jax.random.key(1), data["x"][:1])
  return learner, learner.init(variables, data, jax.random.key(2))


def run(learner, state, stream, key=KEY, data=DATA, **kwargs):
  return jax.jit(
    lambda s, st, k: co.run_stream(learner, s, data, st, k, **kwargs)
  )(state, stream, key)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_a_new_stream_does_not_recompile_and_a_stack_of_them_is_the_loop(name):
  model, traces = problems.counting(problems.mlp())
  learner, state = start(name, model)
  record = lambda s: learner.predict(s, DATA["x"][:5])
  program = jax.jit(
    lambda st, k: co.run_stream(learner, state, DATA, st, k, record=record)[1:]
  )
  other = [co.learn(1), co.forget(1), co.learn(0), co.forget(0)]
  streams = [co.task_stream(TASK, events) for events in (EVENTS, other)]
  first = program(streams[0], KEY)
  count = len(traces)
  second = program(streams[1], KEY)
  assert len(traces) == count > 0
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *streams)
  many = jax.jit(
    jax.vmap(
      lambda st: co.run_stream(learner, state, DATA, st, KEY, record=record)[1:]
    )
  )(stacked)
  loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
  chex.assert_trees_all_close(many, loop, atol=2e-5)
  assert not np.allclose(loop[1][0], loop[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_a_stream_cut_in_two_equals_the_whole_bit_for_bit(name):
  learner, state = start(name)
  whole = co.task_stream(TASK, EVENTS)
  cut = lambda part: co.Stream(
    whole.learn_masks[part], whole.forget_masks[part], whole.task
  )
  expected, infos, _ = run(learner, state, whole)
  assert np.asarray(infos.is_finite).all()
  half, _, _ = run(learner, state, cut(slice(0, 2)))
  # As if saved and restored: nothing but the leaves goes on.
  leaves, structure = jax.tree.flatten(half)
  half = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
  found, rest, _ = run(learner, half, cut(slice(2, 4)), first_event=2)
  chex.assert_trees_all_equal(found, expected)
  chex.assert_trees_all_equal(rest, jax.tree.map(lambda x: x[2:], infos))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_requests_for_nothing_learned_and_second_requests_change_no_bit(name):
  learner, state = start(name)
  event = jax.jit(learner.event)
  none = jnp.zeros(32, bool)
  same, info = event(state, DATA, none, TASK == 1, KEY)
  chex.assert_trees_all_equal(same, state)
  assert int(info.forget_count) == 0
  for task in (0, 1):
    state, info = event(state, DATA, task == TASK, none, jax.random.key(task))
    assert int(info.learn_count) == 16
  once, info = event(state, DATA, none, TASK == 1, jax.random.key(5))
  assert int(info.forget_count) == 16
  twice, info = event(once, DATA, none, TASK == 1, jax.random.key(6))
  chex.assert_trees_all_equal(twice, once)
  assert int(info.forget_count) == 0
  assert not np.array_equal(once.ledger.learned, state.ledger.learned)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_rows_outside_the_events_are_not_read(name):
  events = [co.learn(0), co.forget(0), co.learn(0)]
  stream = co.task_stream(TASK, events)
  learner, state = start(name)
  dirty = {
    "x": jnp.where((TASK == 1)[:, None], jnp.nan, DATA["x"]),
    "label": jnp.where(TASK == 1, 99, DATA["label"]),
  }
  expected, _, _ = run(learner, state, stream)
  found, infos, _ = run(learner, state, stream, data=dirty)
  chex.assert_trees_all_equal(found, expected)
  assert np.asarray(infos.is_finite).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_dtypes_are_kept_and_jit_equals_no_jit(name):
  model = problems.mlp()
  learner = LEARNERS[name](model)
  half = jax.tree.map(
    lambda p: p.astype(jnp.bfloat16), model.init(KEY, DATA["x"])
  )
  state = learner.init(half, DATA, KEY)
  none = jnp.zeros(32, bool)
  out, info = jax.eval_shape(learner.event, state, DATA, TASK == 0, none, KEY)
  chex.assert_trees_all_equal_shapes_and_dtypes(out, state)
  assert info.loss.dtype == jnp.float32
  learner, state = start(name)
  plain, _ = learner.event(state, DATA, TASK == 0, none, KEY)
  jitted, _ = jax.jit(learner.event)(state, DATA, TASK == 0, none, KEY)
  chex.assert_trees_all_close(plain, jitted, atol=1e-5)


def test_a_stream_says_what_should_be_known():
  stream = co.task_stream(TASK, EVENTS)
  tasks = np.asarray(TASK)
  known = np.asarray(co.learned_after(stream))
  for event, wanted in enumerate([{0}, {0, 1}, {1}, {0, 1}]):
    np.testing.assert_array_equal(known[event], np.isin(tasks, list(wanted)))


def test_mixed_events_learn_and_forget_at_once():
  learner, state = start("clu")
  none = jnp.zeros(32, bool)
  event = jax.jit(learner.event)
  state, _ = event(state, DATA, TASK == 0, none, KEY)
  state, info = event(state, DATA, TASK == 1, TASK == 0, KEY)
  assert (int(info.learn_count), int(info.forget_count)) == (16, 16)
  held = np.asarray(state.buffer.row_id)[np.asarray(state.buffer.valid)]
  assert held.size == 12 and (np.asarray(TASK)[held] == 1).all()


@pytest.mark.slow
def test_classes_unseen_at_the_start_are_learned_when_they_come():
  learner, state = start("experience_replay")
  stream = co.task_stream(TASK, [co.learn(0)] * 6 + [co.learn(1)] * 6)
  record = lambda s: learner.predict(s, DATA["x"]).argmax(axis=1) // 2 == TASK
  _, _, right = run(learner, state, stream, record=record)
  late = np.asarray(right)[:, np.asarray(TASK) == 1].mean(axis=1)
  assert late[5] < 0.2 and late[-1] > 0.8


@pytest.mark.slow
def test_the_state_survives_a_checkpoint(tmp_path):
  orbax = pytest.importorskip("jaxunlearn.adapters.orbax")
  learner, state = start("derpp")
  state, _ = learner.event(state, DATA, TASK == 0, jnp.zeros(32, bool), KEY)
  orbax.save(tmp_path / "state", Variables(state))
  again = orbax.load(tmp_path / "state", like=Variables(state))
  chex.assert_trees_all_equal(again.variables.params, state)


@pytest.mark.parametrize(
  ("events", "message"),
  [
    ([], "Expected events, got none"),
    ([co.learn(7)], r"Expected tasks among \[0, 1\], got 7"),
    ([co.learn(0), co.Event((0,), (0,))], "got both in event 1"),
  ],
)
def test_streams_that_make_no_sense_are_refused(events, message):
  refused(message, co.task_stream, TASK, events)


def test_tasks_must_be_integers_of_one_axis():
  refused(r"Expected task int \[N\]", co.task_stream, TASK * 1.0, [co.learn(0)])


def test_masks_must_fit():
  mask = jnp.zeros((2, 32), bool)
  refused(r"forget_masks \[T, N\]", co.mask_stream, mask, mask[:1])
  with pytest.raises(ValueError, match="Expected forget_masks of dtype bool"):
    co.mask_stream(mask, mask * 1.0)
  with pytest.raises(ValueError, match=r"Expected task int \[N\], got float"):
    co.mask_stream(mask, mask, TASK * 0.6)
  with pytest.raises(ValueError, match=r"and task \[N\], got"):
    co.mask_stream(mask, mask, TASK[:3])


@pytest.mark.parametrize("name", ["clu", "retraining"])
def test_bad_rows_are_refused_before_any_work(name):
  learner, state = start(name)
  stream = co.task_stream(TASK, EVENTS)
  go = lambda data, st=stream, **kw: co.run_stream(
    learner, state, data, st, KEY, **kw
  )
  label, x = DATA["label"], DATA["x"]
  with pytest.raises(ValueError, match=r"label'\] in 0 .. 3, got 0 .. 4"):
    go({"x": x, "label": label.at[3].set(4)})
  with pytest.raises(ValueError, match="to be finite, got 1 values"):
    go({"x": x.at[2, 1].set(jnp.nan), "label": label})
  refused("of integer dtype, got float32", go, {"x": x, "label": label * 1.0})
  refused('Expected data with "x" and "label"', go, {"x": x})
  refused("a row of data each", go, jax.tree.map(lambda v: v[:5], DATA))
  short = co.task_stream(TASK[:5] * 0, [co.learn(0)])
  with pytest.raises(ValueError, match="of the 32 rows that `init` was given"):
    go(jax.tree.map(lambda v: v[:5], DATA), short)
  refused("Expected first_event >= 0", go, DATA, first_event=-1)
  for mask in (TASK, TASK * 1.0, TASK[:4] == 0):
    with pytest.raises(ValueError, match="Expected forget_mask of"):
      learner.event(state, DATA, jnp.zeros(32, bool), mask, KEY)


def test_a_model_of_other_outputs_is_refused():
  model = from_functions(
    lambda key, x: {"w": jnp.ones(6)}, lambda params, x: x @ params["w"]
  )
  learner = co.naive(model, **RECIPE)
  variables = jax.jit(model.init)(KEY, DATA["x"])
  with pytest.raises(
    ValueError, match=r"Expected a model with outputs \[B, C\]"
  ):
    learner.init(variables, DATA, KEY)
