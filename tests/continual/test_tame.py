"""TAME: against a plain Python learner, by arithmetic, and on digits."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import RECIPE, blobs, mlp
from refusals import refused

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.continual.tame import Surprise, tame
from jaxunlearn.continual.tame_forget import (
  tame_forget_examples,
  tame_forget_task,
)
from jaxunlearn.continual.tame_selector import (
  magnitude_mask,
  tame_predict,
  tame_prune_experts,
  tame_selector,
)
from jaxunlearn.continual.tame_types import squashed

KEY = jax.random.key(0)
OPTIMIZER = optax.sgd(0.1, 0.9)
# Two tasks of two classes with opposite labels: no expert can serve both.
BLOBS = blobs(120)
TASK = np.asarray(BLOBS["label"]) // 2
DATA = {
  "x": BLOBS["x"],
  "label": jnp.asarray(np.asarray(BLOBS["label"]) % 2, jnp.int32),
}
FORGET = {"optimizer": optax.adam(0.01), "num_steps": 30, "batch_size": 16}


def stream(tasks, batches, seed=0, size=16):
  rng = np.random.default_rng(seed)
  rows = [
    rng.choice(np.flatnonzero(t == TASK), size, replace=False)
    for t in tasks
    for _ in range(batches)
  ]
  return jnp.asarray(np.stack(rows), jnp.int32)


def two_class_mlp():
  """The blobs' MLP with two of its four outputs."""
  model = mlp()

  def apply(variables, inputs, *, train=False, key=None):
    outputs, state = model.apply(variables, inputs, train=train, key=key)
    return outputs[:, :2], state

  return model._replace(apply=apply)


def learner_of(**changes):
  options = {
    "num_experts": 4,
    "num_classes": 2,
    "buffer_size": 40,
    "squash": False,
  }
  told = {n: changes.pop(n) for n in Surprise._fields if n in changes}
  options["surprise"] = Surprise(**{"window": 10, "warmup": 5, **told})
  model = changes.pop("model", two_class_mlp())
  optimizer = changes.pop("optimizer", OPTIMIZER)
  return tame(model, optimizer, **(options | changes))


@functools.cache
def fitted():
  learner = learner_of()
  start = learner.init(DATA, KEY)
  rows = stream([0, 1, 0], 50)
  state, info = jax.jit(learner.fit)(start, DATA, rows)
  return learner, start, rows, state, info


def given_losses():
  """A model whose loss of a row is its x: thresholds become arithmetic."""
  return from_functions(
    lambda key, x: {"w": jnp.zeros(())},
    lambda params, x: x + 0 * params["w"],
    loss=lambda outputs, rows: outputs[:, 0],
  )


def run_losses(values, **changes):
  learner = learner_of(model=given_losses(), **changes)
  data = {
    "x": jnp.asarray(values, jnp.float32)[:, None],
    "label": jnp.zeros(len(values), jnp.int32),
  }
  rows = jnp.arange(len(values))[:, None]
  return jax.jit(learner.fit)(learner.init(data, KEY), data, rows)


def slot(tree, expert):
  return jax.tree.map(lambda leaf: leaf[expert], tree)


def reference(learner, start, rows, *, window, warmup, smoothing=0.2):
  """The paper's loop with lists and floats; returns experts and params."""
  loss_of = jax.jit(
    lambda p, r: optax.softmax_cross_entropy_with_integer_labels(
      learner.model.predict(p, DATA["x"][r]), DATA["label"][r]
    ).mean()
  )
  grad = jax.jit(jax.grad(loss_of))
  guess = [math.log(2)]
  made = []

  def create():
    variables = slot(start.variables, len(made))
    made.append(
      {
        "v": variables,
        "o": OPTIMIZER.init(variables.params),
        "win": list(guess),
        "all": None,
        "act": None,
        "age": 0,
        "thr": guess[0] + 0.015,
      }
    )
    return made[-1]

  blend = lambda old, new: (
    new if old is None else smoothing * new + (1 - smoothing) * old
  )
  active, history = create(), []
  for r in rows:
    for e in made:
      e["loss"] = float(loss_of(e["v"], r))
      e["all"] = blend(e["all"], e["loss"])
    recent = active["win"][-window:]
    active["thr"] = np.mean(recent) + 3 * max(np.std(recent), 0.005)
    if active["all"] > active["thr"] and active["age"] >= warmup:
      fits = [e for e in made if blend(e["act"], e["loss"]) < e["thr"]]
      if fits:
        active = fits[0]
      else:
        active = create()
        active["loss"] = float(loss_of(active["v"], r))
        active["all"] = active["loss"]
    updates, active["o"] = OPTIMIZER.update(
      grad(active["v"], r).params, active["o"], active["v"].params
    )
    params = optax.apply_updates(active["v"].params, updates)
    active["v"] = active["v"]._replace(params=params)
    active["win"].append(active["loss"])
    active["act"] = blend(active["act"], active["loss"])
    active["age"] += 1
    history.append(next(i for i, e in enumerate(made) if e is active))
  return history, [e["v"].params for e in made]


@pytest.mark.slow
def test_the_scan_follows_a_plain_python_learner():
  learner, start, rows, state, info = fitted()
  experts, params = reference(learner, start, rows, window=10, warmup=5)
  assert info.expert.tolist() == experts
  assert len(params) >= 2 and int(state.used.sum()) == len(params)
  for number, wanted in enumerate(params):
    chex.assert_trees_all_close(
      slot(state.experts[0], number), wanted, rtol=1e-3, atol=1e-4
    )


def test_a_recurring_task_returns_to_its_expert_and_steps_are_the_scan():
  learner, start, rows, _state, info = fitted()
  expert = np.asarray(info.expert)
  assert (expert[10:50] == 0).all() and (expert[60:100] == 1).all()
  assert (expert[-10:] == 0).all()
  assert info.is_new.sum() == 1
  step, now = jax.jit(learner.step), start
  for t in range(60):
    now, what = step(now, DATA, rows[t])
    assert int(what.expert) == expert[t]
  part, _ = jax.jit(learner.fit)(start, DATA, rows[:60])
  chex.assert_trees_all_close(now.experts, part.experts, rtol=1e-4, atol=1e-5)


def test_experts_that_do_not_learn_keep_every_bit():
  learner, start, rows, _, _info = fitted()
  part, _ = jax.jit(learner.fit)(start, DATA, rows[:50])
  more, what = jax.jit(learner.fit)(part, DATA, rows[60:90])
  assert what.expert[0] != 0 or (what.expert == 1).sum() > 20
  later, then = jax.jit(learner.fit)(more, DATA, rows[60:90])
  assert (then.expert == 1).all()
  chex.assert_trees_all_equal(slot(later.experts, 0), slot(more.experts, 0))
  chex.assert_trees_all_equal(slot(later.experts, 2), slot(start.experts, 2))
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()),
    slot(later.experts, 1),
    slot(more.experts, 1),
  )
  assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize("smoothing, height", [(0.2, 0.05), (0.5, 0.025)])
def test_a_jump_is_found_when_the_running_loss_passes_the_threshold(
  smoothing, height
):
  level, before, width = 0.5, 120, 100
  _, info = run_losses(
    [level] * before + [level + height] * 10, smoothing=smoothing, window=width
  )
  # The window fills with the jump too, until it is found.
  window, running, wanted = [level] * width, level, None
  for n in range(10):
    running = smoothing * (level + height) + (1 - smoothing) * running
    # 1 - (1 - s)^(n + 1) of the way up.
    share = 1 - (1 - smoothing) ** (n + 1)
    assert running == pytest.approx(level + share * height)
    if running > np.mean(window) + 3 * max(np.std(window), 0.005):
      wanted = n
      break
    window = [*window[1:], level + height]
  assert wanted in (1, 2)
  found = np.flatnonzero(np.asarray(info.has_switched))
  assert found[0] - before == wanted


def test_with_smoothing_one_the_batch_alone_decides():
  values = [0.5] * 30 + [0.52] + [0.5] * 5
  _, info = run_losses(values, smoothing=1.0)
  assert np.flatnonzero(np.asarray(info.has_switched)).tolist()[0] == 30
  _, calm = run_losses(values, smoothing=0.5)
  assert not calm.has_switched.any()


@pytest.mark.slow
def test_without_a_limit_it_is_one_expert_trained_bit_for_bit():
  rows = stream([0, 1], 20)
  endless = learner_of(num_stds=math.inf)
  state, info = jax.jit(endless.fit)(endless.init(DATA, KEY), DATA, rows)
  assert (info.expert == 0).all()
  alone = learner_of(num_experts=1, warmup=10**6)
  start = alone.init(DATA, KEY)
  first = slot(endless.init(DATA, KEY).experts, 0)
  start = start._replace(
    experts=jax.tree.map(lambda leaf: leaf[None], first),
    init_keys=endless.init(DATA, KEY).init_keys[:1],
  )
  single, _ = jax.jit(alone.fit)(start, DATA, rows)
  chex.assert_trees_all_equal(slot(state.experts, 0), slot(single.experts, 0))


def test_warmup_keeps_an_expert_that_knows_nothing_yet():
  values = [5.0] * 10
  _, info = run_losses(values, warmup=0)
  assert info.has_switched[0]  # The flaw: left at the first batch.
  _, calm = run_losses(values, warmup=20)
  assert not calm.has_switched.any()


@pytest.mark.slow
def test_no_free_slot_is_flagged_and_the_best_expert_learns():
  values = [0.5] * 20 + [3.0] * 20 + [50.0] * 20
  state, info = run_losses(values, num_experts=2, smoothing=1.0)
  assert bool(state.overflow) and info.expert.max() <= 1
  state, _ = run_losses(values, num_experts=4, smoothing=1.0)
  assert not bool(state.overflow)


@pytest.mark.slow
def test_reset_on_return_ends_the_repeated_alarms():
  quiet = learner_of(reset_on_return=True)
  rows = stream([0, 1, 0], 40)
  _state, info = jax.jit(quiet.fit)(quiet.init(DATA, KEY), DATA, rows)
  assert info.expert[-1] == 0 and info.is_new.sum() == 1
  back = int(np.flatnonzero(np.asarray(info.expert) == 1).max()) + 1
  middle, _ = jax.jit(quiet.fit)(quiet.init(DATA, KEY), DATA, rows[: back + 1])
  expert = int(info.expert[back])
  assert float(middle.average_all[expert]) == pytest.approx(
    float(middle.average_active[expert]), abs=1e-6
  )


def test_the_loss_after_a_sigmoid_lies_in_its_known_range():
  model = from_functions(
    lambda key, x: {"w": jnp.ones(())},
    lambda params, x: 1e4 * params["w"] * jnp.concatenate([x, -x], axis=1),
  )
  outputs = squashed(model).predict(
    jax.jit(model.init)(KEY, jnp.ones((1, 1))), jnp.ones((1, 1))
  )
  losses = [
    float(model.loss(outputs, {"label": jnp.array([c])})[0]) for c in (0, 1)
  ]
  floor, ceiling = math.log(1 + math.exp(-1)), math.log(1 + math.e)
  assert losses == pytest.approx([floor, ceiling], abs=1e-4)


def test_padding_rows_and_empty_batches_change_nothing():
  learner, start, rows, _, _ = fitted()
  step = jax.jit(learner.step)
  plain, _ = step(start, DATA, rows[0])
  padded = jnp.concatenate([rows[0], jnp.full(4, -1, jnp.int32)])
  bad = DATA | {"x": DATA["x"].at[rows[1, 0]].set(jnp.nan)}
  assert int(rows[1, 0]) not in np.asarray(rows[0])
  same, _ = step(start, bad, padded)
  chex.assert_trees_all_close(same.experts, plain.experts, rtol=1e-5, atol=1e-6)
  after, info = step(plain, DATA, jnp.full(16, -1, jnp.int32))
  assert int(info.expert) == -1
  chex.assert_trees_all_equal(
    after._replace(init_keys=0, key=0), plain._replace(init_keys=0, key=0)
  )


def test_the_buffer_is_a_uniform_sample_of_rows_seen_none_twice():
  learner = learner_of(model=given_losses(), buffer_size=10)
  n, streams = 40, 400
  data = {"x": jnp.full((n, 1), 0.5), "label": jnp.zeros(n, jnp.int32)}
  rows = jnp.tile(jnp.arange(n).reshape(8, 5), (2, 1))  # Two epochs.
  held = lambda key: (
    learner.fit(learner.init(data, key), data, rows)[0].buffer.row_id
  )
  found = np.asarray(jax.jit(jax.vmap(held))(jax.random.split(KEY, streams)))
  assert all(len(set(row)) == 10 for row in found)
  count = np.bincount(found.ravel(), minlength=n)
  mean = streams * 10 / n
  # Drawn without replacement: variance streams p (1 - p), so this is about
  # chi-square with n - 1 = 39 degrees of freedom; 5 deviations above its mean.
  statistic = ((count - mean) ** 2 / (mean * (1 - 10 / n))).sum()
  assert statistic < 39 + 5 * math.sqrt(2 * 39)


def test_owners_are_frozen_at_first_sight():
  _, _, rows, state, info = fitted()
  first = np.full(len(TASK), -1)
  learned = np.zeros(state.trained_on.shape, bool)
  for batch, expert in zip(np.asarray(rows), np.asarray(info.expert)):
    learned[expert, batch] = True
    first[batch] = np.where(first[batch] < 0, expert, first[batch])
  np.testing.assert_array_equal(state.owner, first)
  np.testing.assert_array_equal(state.trained_on, learned)


def test_forgetting_a_task_drops_its_expert_and_no_bit_of_others():
  learner, _, _, state, _ = fitted()
  forget = jax.jit(lambda s, e: tame_forget_task(learner, s, DATA, e))
  after, info = forget(state, 1)
  assert (
    not after.used[1] and info.dropped.tolist() == [False, True] + [False] * 2
  )
  for number in (0, 2, 3):
    chex.assert_trees_all_equal(
      slot(after.experts, number), slot(state.experts, number)
    )
  rows = np.asarray(state.owner) == 1
  assert rows.any()
  assert not (np.asarray(after.owner) == 1).any()
  valid = np.asarray(after.buffer.valid)
  assert not rows[np.asarray(after.buffer.row_id)[valid]].any()
  assert (np.asarray(after.buffer.rows["x"])[~valid] == 0).all()
  np.testing.assert_array_equal(
    info.also_learned, rows & np.asarray(state.trained_on)[0]
  )
  # The old params are gone, not hidden.
  gone = jax.tree.map(
    lambda a, b: bool((a == b).all()),
    slot(after.experts[0], 1),
    slot(state.experts[0], 1),
  )
  assert not gone["hidden"]["kernel"]
  again, nothing = forget(after, 1)  # Under jit, once more changes nothing.
  assert not nothing.dropped.any()
  chex.assert_trees_all_equal(again.experts, after.experts)


@pytest.mark.slow
def test_forgetting_examples_retrains_the_experts_that_saw_them():
  learner, _, _, state, _ = fitted()
  traces = []

  def run(s, data, mask):
    traces.append(1)
    return tame_forget_examples(learner, s, data, mask, **FORGET)

  forget = jax.jit(run)
  only = np.asarray(state.trained_on[0] & ~state.trained_on[1])
  mask = jnp.asarray(only & (np.arange(120) % 3 == 0))
  bad = DATA | {"x": jnp.where(mask[:, None], jnp.nan, DATA["x"])}
  after, info = forget(state, bad, mask)
  assert info.retrained.tolist() == [True, False, False, False]
  chex.assert_trees_all_equal(slot(after.experts, 1), slot(state.experts, 1))
  assert not (after.trained_on & mask[None, :]).any()
  valid = np.asarray(after.buffer.valid)
  assert not mask[np.asarray(after.buffer.row_id)[valid]].any()
  for leaf in jax.tree.leaves((after.experts[0], after.threshold)):
    assert bool(jnp.isfinite(leaf).all())
  outputs = learner.model.predict(
    slot(after.variables, 0), DATA["x"][np.flatnonzero(TASK == 0)]
  )
  label = np.asarray(DATA["label"])[TASK == 0]
  assert (np.asarray(outputs).argmax(1) == label).mean() > 0.8
  # Another history of the same rows gives the same expert.
  other = state._replace(
    experts=jax.tree.map(lambda leaf: leaf + 1, state.experts)
  )
  chex.assert_trees_all_equal(
    slot(forget(other, DATA, mask)[0].experts[0], 0), slot(after.experts[0], 0)
  )
  empty, nothing = forget(state, DATA, jnp.zeros(120, bool))
  assert not nothing.retrained.any() and not nothing.dropped.any()
  chex.assert_trees_all_equal(empty.experts, state.experts)
  chex.assert_trees_all_equal(empty.threshold, state.threshold)
  assert len(traces) == 1


@pytest.mark.slow
def test_forgetting_all_examples_of_a_task_is_forgetting_the_task():
  learner, start, _, _, _ = fitted()
  rows = stream([0, 1], 30)
  state, info = jax.jit(learner.fit)(start, DATA, rows)
  assert info.expert.tolist() == [0] * 30 + [1] * 30
  by_task, _ = tame_forget_task(learner, state, DATA, 1)
  mask = jnp.asarray(TASK == 1)
  by_rows, info = tame_forget_examples(learner, state, DATA, mask, **FORGET)
  assert info.dropped.tolist() == [False, True, False, False]
  assert not info.retrained.any()
  strip = lambda s: s._replace(
    init_keys=jax.random.key_data(s.init_keys), key=0
  )
  chex.assert_trees_all_equal(strip(by_rows), strip(by_task))


def test_the_selector_routes_to_experts_in_use_and_abstains_without():
  learner, _, _, state, _ = fitted()
  selector = mlp()
  fit = jax.jit(lambda s: tame_selector(s, selector, KEY, **RECIPE))
  variables, _ = fit(state)
  predict = jax.jit(
    lambda s, v: tame_predict(learner, s, selector, v, DATA["x"])
  )
  found = predict(state, variables)
  assert (np.asarray(found.expert) == TASK).mean() > 0.9
  right = np.asarray(found.label) == np.asarray(DATA["label"])
  assert right.mean() > 0.8
  gone = jax.jit(lambda s: tame_forget_task(learner, s, DATA, 1)[0])
  after = gone(state)
  variables, _ = fit(after)
  assert set(np.asarray(predict(after, variables).expert)) == {0}
  none, _ = tame_forget_task(learner, after, DATA, 0)
  nothing = predict(none, variables)
  assert (nothing.expert == -1).all() and (nothing.label == -1).all()


@pytest.mark.slow
def test_pruning_takes_the_smallest_weights_and_keeps_them_zero():
  params = {"a": jnp.array([[3.0, -1.0], [0.5, 2.0]]), "b": jnp.zeros(3)}
  params["c"] = jnp.array([[0.5, -4.0]])
  mask = magnitude_mask(params, 0.5)  # 3 of 6: 0.5, 0.5 and 1.
  assert mask["a"].tolist() == [[True, False], [False, True]]
  assert mask["b"].all() and mask["c"].tolist() == [[False, True]]
  bias = magnitude_mask({"b": jnp.zeros(3)}, 0.5)
  assert bias["b"].all()
  learner, _, _, state, _ = fitted()
  variables, _ = tame_selector(
    state, mlp(), KEY, prune_steps=10, prune_fraction=0.5, **RECIPE
  )
  kernels = [variables.params[n]["kernel"] for n in ("hidden", "output")]
  zeros = sum(int((k == 0).sum()) for k in kernels)
  assert zeros == sum(k.size for k in kernels) // 2
  pruned = tame_prune_experts(learner, state, KEY, fraction=0.25, **FORGET)
  for number, is_used in enumerate(np.asarray(state.used)):
    kernels = [
      pruned.experts[0][n]["kernel"][number] for n in ("hidden", "output")
    ]
    zeros = sum(int((k == 0).sum()) for k in kernels)
    assert zeros == (sum(k.size for k in kernels) // 4 if is_used else 0)


@pytest.mark.parametrize(
  "change, match",
  [
    ({"smoothing": 0.0}, "smoothing > 0"),
    ({"smoothing": 1.5}, r"smoothing in \[0, 1\]"),
    ({"window": 1}, "window >= 2"),
    ({"num_experts": 0}, "num_experts > 0"),
    ({"num_classes": 0}, "num_classes > 0"),
    ({"buffer_size": 0}, "buffer_size > 0"),
    ({"num_stds": -1.0}, "num_stds >= 0"),
    ({"min_std": -1.0}, "min_std >= 0"),
    ({"warmup": -1}, "warmup >= 0"),
    ({"buffer_rule": "fifo"}, "buffer_rule to be one of"),
  ],
)
def test_a_learner_that_cannot_be_is_rejected(change, match):
  refused(match, learner_of, **change)


@pytest.mark.slow
def test_inputs_may_be_a_pytree_and_data_of_numpy():
  model = from_functions(
    lambda key, x: {"w": jnp.ones((5, 2))},
    lambda params, x: x["a"] @ params["w"],
  )
  learner = learner_of(model=model, num_experts=2, buffer_size=4)
  x = np.ones((6, 5), np.float32)
  data = {"x": {"a": x}, "label": np.arange(6) % 2}
  state = learner.init(data, KEY)
  found = learner.losses(state, data, np.arange(4))
  np.testing.assert_allclose(found, np.log(2), rtol=1e-6)
  with pytest.raises(ValueError, match=r"data\['x'\]\['a'\] to be finite"):
    learner.losses(state, {**data, "x": {"a": x * np.nan}}, np.arange(4))


def test_streams_that_cannot_be_are_rejected():
  learner, start, rows, _, _ = fitted()
  two = {"x": DATA["x"], "label": DATA["label"] + 1}
  for call in (
    lambda d: learner.init(d, KEY),
    lambda d: learner.fit(start, d, rows),
    lambda d: learner.losses(start, d, rows[0]),
  ):
    refused(r"label'\] in 0 \.\. 1", call, two)
    refused('data with "x" and "label"', call, {"x": DATA["x"]})
  for bad in (rows[0], rows.astype(float)):
    refused(r"row numbers, int \[T, B\]", learner.fit, start, DATA, bad)
  refused(r"row numbers, int \[B\]", learner.step, start, DATA, rows)
  for bad in (rows[0] + 120, rows[0] - 121):
    refused(r"row numbers in -1 \.\. 119", learner.step, start, DATA, bad)
  nan = DATA | {"x": DATA["x"].at[rows[0, 0]].set(jnp.nan)}
  refused("to be finite", learner.step, start, nan, rows[0])


def test_requests_that_cannot_be_are_rejected():
  learner, _, _, state, _ = fitted()
  for expert in (3, 7, -1):
    refused("an expert in use", tame_forget_task, learner, state, DATA, expert)
  forget = functools.partial(tame_forget_examples, learner, state, DATA)
  refused("forget_mask of shape", forget, jnp.zeros(7, bool), **FORGET)
  refused("dtype bool", forget, jnp.zeros(120), **FORGET)
  short = jax.tree.map(lambda leaf: leaf[:7], DATA)
  with pytest.raises(ValueError, match="of one length"):
    tame_forget_examples(learner, state, short, jnp.zeros(7, bool), **FORGET)
  with pytest.raises(ValueError, match=r"outputs \[40, 4\], got"):
    tame_selector(state, two_class_mlp(), KEY, **RECIPE)
  with pytest.raises(ValueError, match="num_steps > 0"):
    forget(jnp.zeros(120, bool), **(FORGET | {"num_steps": 0}))
  with pytest.raises(ValueError, match="prune_fraction in"):
    tame_selector(state, mlp(), KEY, prune_fraction=2.0, **RECIPE)
  with pytest.raises(ValueError, match="prune_steps >= 0"):
    tame_selector(state, mlp(), KEY, prune_steps=-1, **RECIPE)
  with pytest.raises(ValueError, match="fraction in"):
    tame_prune_experts(learner, state, KEY, fraction=-0.1, **FORGET)
  with pytest.raises(ValueError, match="num_steps > 0"):
    tame_prune_experts(learner, state, KEY, **(FORGET | {"num_steps": 0}))
  refused("fraction in", magnitude_mask, state.experts[0], 1.1)
