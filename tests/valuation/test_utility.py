"""Utilities against training, NumPy in float64 and scikit-learn."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import NUM_CLASSES, RECIPE, blobs, mlp
from refusals import refused
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge

from jaxunlearn.core.devices import make_mesh
from jaxunlearn.core.training import train
from jaxunlearn.valuation import closed_form, exact, utility
from jaxunlearn.valuation.types import Utility

KEY = jax.random.key(0)
SHORT = {**RECIPE, "num_steps": 5}
LEARNERS = {
  "ridge": closed_form.ridge_utility,
  "kernel": closed_form.kernel_ridge_utility,
  "logistic": closed_form.logistic_utility,
}


@functools.cache
def problem(num_classes=2, scale=1.0):
  """Overlapping classes: 50 rows to train on and 30 to validate."""
  rng = np.random.default_rng(num_classes)
  label = rng.integers(0, num_classes, 80)
  x = rng.normal(size=(80, 5)) + 1.2 * np.eye(5)[label]
  rows = {"x": np.float32(scale * x), "label": label.astype(np.int32)}
  split = lambda part: jax.tree.map(lambda leaf: leaf[part], rows)
  return split(slice(50)), split(slice(50, 80))


@functools.cache
def some_masks(count=6):
  rng = np.random.default_rng(5)
  masks = rng.random((count, 50)) < 0.5
  masks[0] = True
  return masks


def with_constant(x):
  return np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)


def mean_log_likelihood(probabilities, label):
  return np.log(probabilities[np.arange(len(label)), label]).mean()


@pytest.mark.parametrize("is_damped", [True, False])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_logistic_utility_equals_scikit_learn(num_classes, is_damped):
  data, validation = problem(num_classes)
  found = closed_form.logistic_utility(
    data, validation, num_classes=num_classes, l2=0.5, is_damped=is_damped
  )
  masks = some_masks()
  scores = jax.jit(found.many)(masks)
  x, xv = with_constant(data["x"]), with_constant(validation["x"])
  for mask, score in zip(masks, scores):
    fitted = LogisticRegression(
      C=2.0, fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(x[mask], data["label"][mask])
    expected = mean_log_likelihood(
      fitted.predict_proba(xv), validation["label"]
    )
    assert abs(score - expected) < 5e-6


def test_ridge_utilities_equal_scikit_learn():
  data, validation = problem(3)
  x, xv = with_constant(data["x"]), with_constant(validation["x"])
  target = np.eye(3)[data["label"]]
  wanted = np.eye(3)[validation["label"]]
  plain = closed_form.ridge_utility(data, validation, num_classes=3, l2=0.7)
  kernel = closed_form.kernel_ridge_utility(
    data, validation, num_classes=3, l2=0.7
  )
  masks = some_masks(3)
  for mask, a, b in zip(
    masks, *(jax.jit(u.many)(masks) for u in (plain, kernel))
  ):
    linear = Ridge(0.7, fit_intercept=False).fit(x[mask], target[mask])
    error = ((linear.predict(xv) - wanted) ** 2).sum(1).mean()
    assert abs(a + error) < 1e-5
    gaussian = KernelRidge(alpha=0.7, kernel="rbf", gamma=1 / 5).fit(
      data["x"][mask], target[mask]
    )
    error = ((gaussian.predict(validation["x"]) - wanted) ** 2).sum(1).mean()
    assert abs(b + error) < 1e-5


def test_large_tables_are_not_made_and_change_nothing(monkeypatch):
  data, validation = problem(2)
  make = lambda: closed_form.logistic_utility(data, validation, num_classes=2)
  with_table = jax.jit(make().many)(some_masks())
  monkeypatch.setattr(closed_form, "_TABLE_ENTRIES", 0)
  without = jax.jit(make().many)(some_masks())
  np.testing.assert_allclose(with_table, without, atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_damping_holds_where_whole_newton_steps_diverge(num_classes):
  data, validation = problem(num_classes, scale=300.0)
  make = lambda **options: closed_form.logistic_utility(
    data, validation, num_classes=num_classes, l2=1e-2, **options
  )
  full = np.ones((1, 50), bool)
  steps = jax.jit(make(num_steps=40, num_cg_steps=40).many)(full)
  more = jax.jit(make(num_steps=60, num_cg_steps=40).many)(full)
  assert np.isfinite(steps).all()
  np.testing.assert_allclose(steps, more, rtol=1e-3)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("score", ["default", "accuracy"])
def test_tiny_subsets_and_single_classes_train(name, num_classes, score):
  data, validation = problem(num_classes)
  options = {} if score == "default" else {"score": score}
  found = LEARNERS[name](data, validation, num_classes=num_classes, **options)
  one_row = np.eye(50, dtype=bool)[0]
  one_class = data["label"] == 1
  none = np.zeros(50, bool)
  scores = jax.jit(found.many)(np.stack([one_row, one_class, none]))
  assert np.isfinite(scores).all()
  share = np.bincount(validation["label"]).max() / 30
  empty = {"logistic": -math.log(num_classes)}.get(name, -1.0)
  expected = share if score == "accuracy" else empty
  np.testing.assert_allclose(scores[2], expected, rtol=1e-6)
  if score == "accuracy":
    # Of one class alone a learner knows nothing else.
    only = (validation["label"] == 1).mean()
    np.testing.assert_allclose(scores[1], only, atol=0.35)


def test_rows_outside_the_mask_are_not_read_by_closed_forms():
  data, validation = problem(2)
  mask = some_masks()[1]
  other = {
    "x": np.where(mask[:, None], data["x"], 7.0).astype(np.float32),
    "label": np.where(mask, data["label"], 1 - data["label"]),
  }
  for make in LEARNERS.values():
    one = jax.jit(make(data, validation, num_classes=2).many)(mask[None])
    two = jax.jit(make(other, validation, num_classes=2).many)(mask[None])
    np.testing.assert_allclose(one, two, rtol=1e-6)


@functools.cache
def mlp_problem():
  return blobs(40), blobs(24, seed=1)


def mlp_utility(**options):
  data, validation = mlp_problem()
  return utility.trained_utility(
    mlp(), data, validation, KEY, **{**SHORT, **options}
  )


@pytest.mark.slow
def test_the_utility_of_all_rows_is_that_of_plain_training():
  data, validation = mlp_problem()
  everything = jnp.ones(40, bool)
  variables, _ = train(mlp(), data, everything, KEY, **SHORT)
  logits = np.asarray(mlp().predict(variables, validation["x"]), np.float64)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  label = np.asarray(validation["label"])
  expected = log_p[np.arange(24), label].mean()
  found = mlp_utility().many(everything[None])
  np.testing.assert_allclose(found[0], expected, atol=1e-6)
  accuracy = mlp_utility(score="accuracy").many(everything[None])
  np.testing.assert_allclose(accuracy[0], (logits.argmax(1) == label).mean())


@pytest.mark.slow
def test_chunks_of_validation_rows_and_of_masks_change_nothing():
  masks = jnp.asarray(np.random.default_rng(0).random((5, 40)) < 0.6)
  plain = jax.jit(mlp_utility().many)(masks)
  chunked = mlp_utility(chunk_size=7)
  np.testing.assert_allclose(
    plain, jax.jit(lambda m: chunked.many(m, strategy=2))(masks), atol=1e-6
  )
  mesh = make_mesh(models=8)
  spread = jax.jit(lambda m: chunked.many(m, mesh=mesh))(masks)
  np.testing.assert_allclose(plain, spread, atol=1e-6)


@pytest.mark.slow
def test_the_empty_value_is_a_uniform_guess_or_the_largest_class():
  none = jnp.zeros((1, 40), bool)
  found = mlp_utility().many(none)
  np.testing.assert_allclose(found[0], -math.log(NUM_CLASSES), rtol=1e-6)
  found = mlp_utility(score="accuracy").many(none)
  np.testing.assert_allclose(found[0], 6 / 24, rtol=1e-6)
  assert mlp_utility(empty_value=-3.0).many(none).tolist() == [-3.0]
  own = lambda outputs, labels: outputs.max() * 0 + labels.shape[0]
  given = mlp_utility(score=own, empty_value=0.5)
  masks = jnp.concatenate([none, ~none])
  assert given.many(masks).tolist() == [0.5, 24.0]


def counted(n=5):
  w = jnp.asarray([1.0, 2.0, 4.0, 8.0, 16.0])[:n]
  return Utility(lambda m: jnp.where(m, w, 0).sum() ** 2, n)


def test_a_restricted_game_has_the_values_of_the_rows_that_play():
  rows = jnp.array([3, 1])
  fixed = jnp.array([True, True, False, False, False])
  found = exact.exact_semivalue(utility.restricted(counted(), rows, fixed))
  # Row 0 is always in: worths 1, 81 (3), 9 (1), 121 (both), in squares.
  np.testing.assert_allclose(
    found.values, [(80 + 112) / 2, (8 + 40) / 2], rtol=1e-6
  )
  alone = exact.loo(utility.restricted(counted(), rows))
  np.testing.assert_allclose(alone.values, [100 - 4, 100 - 64], rtol=1e-6)


def test_a_grouped_game_moves_rows_together():
  group = jnp.array([0, 0, 1, 1, 0])
  found = exact.loo(utility.grouped(counted(), group, 3))
  np.testing.assert_allclose(
    found.values, [31**2 - 12**2, 31**2 - 19**2, 0], rtol=1e-6
  )
  lonely = Utility(lambda m: jnp.where(m.any(), 1.0, jnp.nan), 5, -2.0)
  empty = jnp.array([[False, False, True]])
  assert utility.grouped(lonely, group, 3).many(empty).tolist() == [-2.0]


def test_integer_masks_and_wrong_lengths_are_refused():
  for masks in (jnp.ones((2, 5), int), jnp.ones((2, 4), bool), jnp.ones(5)):
    with pytest.raises(ValueError, match=r"masks bool \[M, 5\]"):
      counted().many(masks)


def no_rows(data):
  return jax.tree.map(lambda leaf: leaf[:0], data)


@pytest.mark.parametrize("name", LEARNERS)
def test_closed_forms_refuse_bad_input(name):
  make = LEARNERS[name]
  data, validation = problem(2)
  narrow = {**validation, "x": validation["x"][:, :3]}
  third = {**validation, "label": validation["label"] + 1}
  for args, options, message in [
    ((data, no_rows(validation)), {}, "validation to hold rows"),
    ((data, narrow), {}, r"validation\['x'\] \[M, D\], got"),
    ((data, third), {}, r"validation\['label'\] in 0 .. 1"),
    ((data, validation), {"l2": 0.0}, "l2 > 0"),
    ((data, validation), {"score": "f1"}, "score to be one of"),
  ]:
    refused(message, make, *args, num_classes=2, **options)


def test_logistic_utility_refuses_one_class_and_no_steps():
  data, validation = problem(2)
  flat = lambda rows: {**rows, "label": np.zeros_like(rows["label"])}
  with pytest.raises(ValueError, match="num_classes >= 2, got 1"):
    closed_form.logistic_utility(flat(data), flat(validation), num_classes=1)
  for name in ("num_steps", "num_cg_steps"):
    with pytest.raises(ValueError, match=f"{name} > 0"):
      closed_form.logistic_utility(data, validation, num_classes=2, **{name: 0})


def test_trained_utility_and_games_refuse_bad_input():
  data, validation = mlp_problem()
  make = lambda **options: utility.trained_utility(
    **{"model": mlp(), "data": data, "validation": validation, "key": KEY},
    **SHORT,
    **options,
  )
  with pytest.raises(ValueError, match="validation to hold rows, got 0"):
    utility.trained_utility(mlp(), data, no_rows(validation), KEY, **SHORT)
  refused("score to be one of", make, score="squared_error")
  with pytest.raises(ValueError, match="empty_value for a score of one's own"):
    make(score=lambda outputs, labels: outputs.sum())
  scalar = mlp()._replace(apply=lambda v, x, **_: (x[:, 0], {}))
  with pytest.raises(ValueError, match=r"model outputs \[B, C\]"):
    utility.trained_utility(scalar, data, validation, KEY, **SHORT)
  for label in (jnp.zeros((3, 1), int), jnp.zeros(3), jnp.full(3, 2)):
    refused("labels", utility.squared_error, jnp.ones((3, 2)), label)
  refused(r"rows int \[K\]", utility.restricted, counted(), jnp.array([0.5]))
  with pytest.raises(ValueError, match=r"distinct rows in 0 .. 4"):
    utility.restricted(counted(), jnp.array([1, 1]))
  with pytest.raises(ValueError, match=r"fixed bool \[5\]"):
    utility.restricted(counted(), jnp.array([1]), jnp.ones(5))
  with pytest.raises(ValueError, match=r"group \[5\]"):
    utility.grouped(counted(), jnp.array([0]), 1)
  refused(r"group in 0 .. 1", utility.grouped, counted(), jnp.arange(5), 2)
