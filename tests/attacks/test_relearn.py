"""Relearning, the anamnesis index and recovery against loops and arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

from jaxunlearn import metrics
from jaxunlearn.attacks import anamnesis as rel
from jaxunlearn.attacks import knowledge_recovery as rec
from jaxunlearn.core import sampling
from jaxunlearn.core.phase import sample_key
from jaxunlearn.core.training import train
from jaxunlearn.core.types import Draw, Variables, as_request
from jaxunlearn.methods.baselines import finetune

KEY = jax.random.key(3)
STEPS = 12


@pytest.fixture(scope="module")
def case():
  """A model trained without class 3, and its accuracy on held-out rows of it."""
  model, data = problems.mlp(), problems.blobs()
  forget = data["label"] == 3
  variables, _ = jax.jit(
    lambda k: train(model, data, ~forget, k, **problems.RECIPE)
  )(jax.random.key(0))
  held = problems.blobs(seed=1)
  weights = held["label"] == 3

  def evaluate(variables):
    logits = model.predict(variables, held["x"])
    return metrics.accuracy(logits, held["label"], weights)

  return model, data, forget, variables, evaluate


def settings(evaluate, **changes):
  fixed = {
    "evaluate": evaluate,
    "target": 0.8,
    "num_steps": STEPS,
    "batch_size": 8,
    "optimizer": optax.adam(0.03),
  }
  return {**fixed, **changes}


def relearned(steps, reached=True, target=0.9, is_finite=True):
  """What `anamnesis_index` reads of a run."""
  steps, reached = jnp.asarray(steps, jnp.int32), jnp.asarray(reached)
  none = jnp.zeros(0)
  return rel.Relearned(
    steps, reached, none, jnp.float32(target), none, jnp.array(is_finite)
  )


# Steps to a target.


def test_a_model_at_the_target_takes_no_step_or_counted_from_one_one_step():
  curve = jnp.array([0.9, 0.95, 0.2])
  assert int(rel.steps_to_target(curve, 0.9)[0]) == 0
  steps, reached = rel.steps_to_target(curve, 0.9, count_from_zero=False)
  assert (int(steps), bool(reached)) == (1, True)


def test_an_unreachable_target_gives_the_limit_and_says_so():
  curve = jnp.array([0.1, jnp.nan, 0.3, 0.2])
  steps, reached = rel.steps_to_target(curve, 0.5)
  assert (int(steps), bool(reached)) == (3, False)
  steps, reached = rel.steps_to_target(
    jnp.array([0.9, 0.1]), 0.5, count_from_zero=False
  )
  assert (int(steps), bool(reached)) == (1, False)


def test_steps_grow_with_the_target_and_broadcast_over_curves():
  curves = np.random.default_rng(0).uniform(size=(5, 20)).astype(np.float32)
  targets = np.linspace(0, 1, 30, dtype=np.float32)
  steps = np.stack([rel.steps_to_target(curves, t)[0] for t in targets])
  assert steps.shape == (30, 5)
  assert (np.diff(steps, axis=0) >= 0).all()
  for row, t in zip(steps, targets):
    for found, curve in zip(row, curves):
      hits = np.flatnonzero(curve >= t)
      assert found == (hits[0] if hits.size else 19)


# Relearning.


@pytest.mark.slow
def test_the_scan_equals_a_python_loop_of_adam_steps(case):
  model, data, forget, variables, evaluate = case
  found = jax.jit(
    lambda v, k: rel.relearn(
      model, v, data, forget, k, **settings(evaluate, optimizer=None)
    )
  )(variables, KEY)
  draw = Draw(forget=8)
  plan = sampling.make_plan(
    data, as_request(forget, data), draw, sample_key(KEY)
  )
  optimizer = optax.adam(1e-3)
  params, state = variables.params, optimizer.init(variables.params)
  numbers = jax.jit(lambda i: sampling.row_numbers(plan, draw, i).row_id)

  @jax.jit
  def update(params, state, rows):
    def loss(p):
      logits = problems.mlp_apply(p, rows["x"])
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, rows["label"]
      ).mean()

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, value, evaluate(Variables(params))

  curve, losses = [evaluate(variables)], []
  for step in range(STEPS):
    chosen = numbers(jnp.int32(step))
    assert forget[chosen].all()
    rows = jax.tree.map(lambda x: x[chosen], data)
    params, state, value, metric = update(params, state, rows)
    curve.append(metric)
    losses.append(value)
  np.testing.assert_allclose(found.curve, np.stack(curve), atol=1e-6)
  np.testing.assert_allclose(found.loss, np.stack(losses), rtol=1e-5)
  assert found.is_finite


def test_relearning_brings_the_class_back_and_counts_to_the_target(case):
  model, data, forget, variables, evaluate = case
  found = rel.relearn(model, variables, data, forget, KEY, **settings(evaluate))
  assert found.curve.shape == (STEPS + 1,) and found.curve[0] == 0
  assert found.reached
  above = np.flatnonzero(np.asarray(found.curve) >= 0.8)
  assert int(found.steps) == above[0] > 0
  same, info = rel.relearning(
    model, num_steps=STEPS, batch_size=8, optimizer=optax.adam(0.03)
  )(variables, data, forget, KEY)
  assert float(evaluate(same)) == float(found.curve[-1])
  np.testing.assert_array_equal(info.loss, found.loss)


def test_no_steps_give_the_metric_as_it_is(case):
  model, data, forget, variables, evaluate = case
  config = settings(evaluate, num_steps=0)
  found = rel.relearn(model, variables, data, forget, KEY, **config)
  assert found.curve.tolist() == [float(evaluate(variables))]
  assert (int(found.steps), bool(found.reached)) == (0, False)
  config = settings(evaluate, num_steps=0, target=0.0)
  found = rel.relearn(model, variables, data, forget, KEY, **config)
  assert (int(found.steps), bool(found.reached)) == (0, True)


def test_relearning_on_unrelated_rows_or_on_all_is_a_matter_of_the_mask(case):
  model, data, forget, variables, evaluate = case
  run = jax.jit(
    lambda mask: rel.relearn(
      model, variables, data, mask, KEY, **settings(evaluate)
    )
  )
  retain, everything, none = map(
    run, (~forget, jnp.ones(60, bool), jnp.zeros(60, bool))
  )
  assert float(retain.curve.max()) == 0  # It never saw the class.
  assert float(everything.curve[-1]) > 0.5
  assert len(set(none.curve.tolist())) == 1  # An empty set, under jit.


def test_lower_is_better_for_losses_and_bare_params_stay_bare(case):
  model, data, forget, variables, _ = case

  def loss(params):
    assert set(params) == {"hidden", "output"}
    logits = problems.mlp_apply(params, data["x"])
    return metrics.mean_cross_entropy(logits, data["label"], forget)

  found = rel.relearn(
    model,
    variables.params,
    data,
    forget,
    KEY,
    **settings(loss, target=0.5, direction="lower"),
  )
  below = np.flatnonzero(np.asarray(found.curve) <= 0.5)
  assert found.curve[0] > 0.5 and int(found.steps) == below[0]


def test_a_random_subset_has_that_many_rows_of_the_mask():
  mask = jnp.arange(40) % 4 == 1
  subset = jax.jit(rel.random_subset)
  for count, wanted in ((0, 0), (3, 3), (10, 10), (99, 10)):
    chosen = subset(mask, count, KEY)
    assert int(chosen.sum()) == wanted
    assert not (chosen & ~mask).any()
  keys = jax.random.split(KEY, 2000)
  often = jax.vmap(lambda k: subset(mask, 3, k))(keys).mean(axis=0)[mask]
  # Binomial share 0.3 with standard error 0.0102; five of them.
  assert np.abs(np.asarray(often) - 0.3).max() < 0.052


# The anamnesis index.


@pytest.mark.parametrize(
  ("ours", "theirs", "value", "bound", "defined"),
  [
    ((3, True), (6, True), 0.5, False, True),
    ((0, True), (6, True), 0.0, False, True),
    ((0, True), (0, True), 1.0, False, True),
    ((2, True), (0, True), np.inf, False, True),
    ((9, False), (6, True), 1.5, True, True),
    ((0, False), (0, True), np.inf, True, True),
    ((3, True), (9, False), np.nan, False, False),
    ((9, False), (9, False), np.nan, False, False),
  ],
)
def test_the_index_says_what_it_could_not_count(
  ours, theirs, value, bound, defined
):
  index = rel.anamnesis_index(relearned(*ours), relearned(*theirs))
  np.testing.assert_array_equal(index.value, np.float32(value))
  assert bool(index.is_lower_bound) == bound
  assert bool(index.is_defined) == defined


def test_many_unlearned_models_share_one_retrained():
  many = relearned([2, 4, 9], [True, True, False])
  index = rel.anamnesis_index(many, relearned(4))
  assert index.value.tolist() == [0.5, 1.0, 2.25]
  assert index.is_lower_bound.tolist() == [False, False, True]
  assert index.is_defined.shape == (3,)


# The area under the curve and recovery.


def test_the_area_is_the_weighted_mean_of_the_curve():
  curves = np.random.default_rng(1).uniform(size=(3, 9)).astype(np.float32)
  np.testing.assert_allclose(
    rel.relearn_area(curves), curves.astype(np.float64).mean(1), rtol=1e-6
  )
  weights = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1], np.float32)
  curves[:, 3] = np.nan  # Not read.
  np.testing.assert_allclose(
    rel.relearn_area(curves, weights),
    curves[:, [0, 1, 2, 4, 8]].mean(1),
    rtol=1e-6,
  )
  assert np.isnan(rel.relearn_area(curves)).all()
  assert np.isnan(rel.relearn_area(curves[0], jnp.zeros(9)))


def test_recovery_is_nought_at_the_start_and_one_at_the_original():
  assert float(rec.recovery(0.2, 0.2, 0.8)) == 0
  assert float(rec.recovery(0.2, 0.8, 0.8)) == 1
  np.testing.assert_allclose(rec.recovery(0.2, 0.5, 0.8), 0.5, rtol=1e-6)
  # For a loss the original has less.
  np.testing.assert_allclose(rec.recovery(3.0, 2.0, 1.0), 0.5, rtol=1e-6)
  assert np.isnan(rec.recovery(0.8, 0.9, 0.8))
  assert np.isnan(rec.recovery(0.79, 0.9, 0.8, min_gap=0.05))


@pytest.mark.slow
def test_recover_takes_the_best_of_a_grid_of_rates_and_ignores_nan(case):
  model, data, forget, variables, evaluate = case
  few = rel.random_subset(forget, 4, KEY)

  def attack(rate):
    return rel.relearning(
      model, num_steps=6, batch_size=4, optimizer=optax.adam(rate)
    )

  rates = jnp.array([1e-4, 0.05, jnp.nan])
  found = jax.jit(
    lambda v: rec.recover(
      attack, evaluate, v, data, few, KEY, original=1.0, rates=rates
    )
  )(variables)
  assert float(found.before) == 0 and int(found.best) == 1
  assert np.isnan(found.after[2])
  for i in range(2):
    alone = rec.recover(
      attack(rates[i]), evaluate, variables, data, few, KEY, original=1.0
    )
    np.testing.assert_allclose(alone.after, found.after[i], atol=1e-6)
    assert int(alone.best) == 0
  np.testing.assert_allclose(found.recovery, found.after[1], rtol=1e-6)
  assert float(found.recovery) > 0.5
  hopeless = rec.recover(
    attack, evaluate, variables, data, few, KEY, original=1.0, rates=rates[2:]
  )
  assert np.isnan(hopeless.recovery)


def test_any_transform_is_an_attacker_and_unrelated_rows_bring_nothing(case):
  model, data, forget, variables, evaluate = case
  attack = finetune(
    model, optimizer=optax.adam(0.01), num_steps=5, batch_size=8
  )
  found = rec.recover(
    attack, evaluate, variables, data, forget, KEY, original=1.0
  )
  assert float(found.recovery) == 0


# Errors.


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"direction": "up"}, "direction to be one of"),
    ({"num_steps": -1}, "num_steps to be a whole number >= 0"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"target": float("nan")}, r"\(variables, target\).* to be finite"),
    ({"mask": jnp.ones(5, bool)}, "relearn_mask of shape"),
    ({"mask": jnp.zeros(60, bool)}, "relearn_mask to select rows"),
    ({"evaluate": lambda v: jnp.ones(2)}, "return a scalar"),
    ({"scale": jnp.nan}, r"\(variables, target\).* to be finite"),
  ],
)
def test_relearn_names_what_is_wrong(case, changes, match):
  model, data, forget, variables, evaluate = case
  changes = dict(changes)
  mask = changes.pop("mask", forget)
  scale = changes.pop("scale", 1.0)
  variables = jax.tree.map(lambda x: x * scale, variables)
  config = {**settings(evaluate), **changes}
  refused(match, rel.relearn, model, variables, data, mask, KEY, **config)


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: rel.relearn_target(0.9, 1.0), r"margin in \[0, 1\)"),
    (lambda: rel.relearn_target(0.9, -0.1), r"margin in \[0, 1\)"),
    (lambda: rel.relearn_target(-1.0), "original_metric >= 0"),
    (lambda: rel.relearn_target(1.0, direction="x"), "direction"),
    (lambda: rel.steps_to_target(0.3, 0.5), "curve"),
    (lambda: rel.steps_to_target(jnp.zeros(0), 0.5), "curve"),
    (lambda: rel.steps_to_target(jnp.ones(2), 0.5, direction="x"), "direction"),
    (lambda: rel.relearn_area(jnp.ones(3), jnp.ones(2)), r"weights \[T\]"),
    (lambda: rel.relearn_area(jnp.ones(2), jnp.array([2, -1])), "weights >= 0"),
    (lambda: rec.recovery(0.0, 0.0, 1.0, min_gap=-1), "min_gap >= 0"),
    (
      lambda: rec.recovery(jnp.zeros((2, 1)), jnp.ones(2), 1.0),
      r"one shape, got before \(2, 1\), after \(2,\)",
    ),
    (lambda: rel.random_subset(jnp.ones(3, bool), -1, KEY), "count >= 0"),
    (lambda: rel.random_subset(jnp.ones(3), 1, KEY), "mask of dtype bool"),
    (lambda: rel.random_subset(jnp.ones((3, 1), bool), 1, KEY), r"bool \[N\]"),
    (
      lambda: rel.anamnesis_index(relearned(1), relearned(1, target=0.5)),
      "towards one target",
    ),
  ],
)
def test_bad_arguments_end_in_one_line(call, match):
  refused(match, call)


def test_a_target_that_is_nan_is_one_target_and_reached_by_nobody():
  diverged = relearned(1, reached=False, target=np.nan)
  index = rel.anamnesis_index(diverged, diverged)
  assert np.isnan(index.value)
  assert not index.is_defined


def test_recover_has_nothing_to_recover_within_the_smallest_gap(case):
  model, data, forget, variables, evaluate = case
  attack = rel.relearning(model, num_steps=2, batch_size=2)
  before = float(evaluate(variables))
  run = lambda gap: (
    rec.recover(
      attack,
      evaluate,
      variables,
      data,
      forget,
      KEY,
      original=before + 0.1,
      min_gap=gap,
    ).recovery
  )
  assert np.isfinite(run(0.05))
  assert np.isnan(run(0.2))


def test_recover_tells_a_transform_from_a_family_of_them(case):
  model, data, forget, variables, evaluate = case
  attack = rel.relearning(model, num_steps=1, batch_size=2)
  rest = (evaluate, variables, data, forget, KEY)
  with pytest.raises(ValueError, match="rate -> Transform"):
    rec.recover(attack, *rest, original=1.0, rates=jnp.ones(2))
  with pytest.raises(ValueError, match="Transform without rates"):
    rec.recover(lambda r: attack, *rest, original=1.0)
  with pytest.raises(ValueError, match="R > 0"):
    rec.recover(lambda r: attack, *rest, original=1.0, rates=jnp.ones(()))


def test_a_model_that_diverged_while_relearning_has_no_index():
  lost = relearned(9, reached=False, is_finite=False)
  index = rel.anamnesis_index(lost, relearned(3))
  assert np.isnan(index.value) and not index.is_lower_bound
  # What came after it had got there is of no matter.
  late = rel.anamnesis_index(relearned(6, is_finite=False), relearned(3))
  assert late.value == 2
