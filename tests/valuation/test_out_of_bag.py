"""Data-OOB: bags, scores, errors, and training with counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import RECIPE, blobs, mlp
from refusals import refused
from sklearn.linear_model import LogisticRegression

from jaxunlearn.core.devices import make_mesh
from jaxunlearn.core.training import train
from jaxunlearn.valuation.out_of_bag import (
  data_oob,
  is_correct,
  logistic_scores,
  trained_scores,
)

N = 7


def noisy(counts, key):
  """Scores that differ from model to model and depend on the counts."""
  return jax.random.normal(key, counts.shape) + 0.1 * counts.sum() + 5.0


def recorded(num_models, num_draws=N, key=None):
  """The bags and the scores of `noisy`, by the contract of the keys."""
  key = jax.random.key(3) if key is None else key
  counts, scores = [], []
  for i in range(num_models):
    draw, fit = jax.random.split(jax.random.fold_in(key, i))
    drawn = np.asarray(jax.random.randint(draw, (num_draws,), 0, N))
    counts.append(np.bincount(drawn, minlength=N))
    scores.append(np.asarray(noisy(jnp.asarray(counts[-1]), fit)))
  return np.array(counts), np.array(scores, np.float64)


@pytest.mark.parametrize("strategy", ["vmap", "map", 4])
def test_values_and_errors_are_those_of_the_scores_out_of_bag(strategy):
  found = data_oob(
    noisy, N, jax.random.key(3), num_models=30, strategy=strategy
  )
  counts, scores = recorded(30)
  for i in range(N):
    own = scores[counts[:, i] == 0, i]
    np.testing.assert_allclose(found.values[i], own.mean(), rtol=1e-5)
    error = own.std(ddof=1) / np.sqrt(len(own))
    np.testing.assert_allclose(found.standard_error[i], error, rtol=1e-4)
  assert int(found.num_evaluations) == 30
  assert np.isnan(found.utility_full)


def test_a_row_that_is_in_every_bag_has_no_value():
  found = data_oob(noisy, N, jax.random.key(3), num_models=3)
  counts, _ = recorded(3)
  outs = (counts == 0).sum(axis=0)
  assert set(outs) >= {0, 1, 2}
  np.testing.assert_array_equal(np.isnan(found.values), outs == 0)
  np.testing.assert_array_equal(np.isnan(found.standard_error), outs < 2)


@pytest.mark.slow
def test_a_mesh_gives_the_values_of_one_device():
  mesh = make_mesh(models=8)
  call = lambda **how: data_oob(
    noisy, N, jax.random.key(3), num_models=10, **how
  )
  alone = call()
  for strategy in ("vmap", "map", 2):
    spread = call(strategy=strategy, mesh=mesh)
    np.testing.assert_allclose(spread.values, alone.values, rtol=1e-5)


def test_a_large_offset_of_the_scores_costs_the_errors_no_digits():
  far = lambda counts, key: noisy(counts, key) + 1000.0
  near = data_oob(noisy, N, jax.random.key(3), num_models=40, strategy=4)
  found = data_oob(far, N, jax.random.key(3), num_models=40, strategy=4)
  np.testing.assert_allclose(
    found.standard_error, near.standard_error, rtol=2e-3
  )


def test_counts_as_weights_in_full_batches_are_the_bootstrap_itself():
  """Rows with weights c / max c give the model of rows copied c times."""
  data = blobs(12)
  counts = jnp.array([0, 1, 2, 3, 0, 1, 1, 0, 2, 1, 1, 0])
  copied = jax.tree.map(lambda x: jnp.repeat(x, counts, axis=0), data)
  recipe = {"optimizer": optax.sgd(0.1), "num_steps": 20}
  key = jax.random.key(0)
  # Batches as large as the pool hold each of its rows once.
  weights = counts / counts.max()
  weighted, _ = train(mlp(), data, weights, key, batch_size=8, **recipe)
  ones = jnp.ones(12, bool)
  plain, _ = train(mlp(), copied, ones, key, batch_size=12, **recipe)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6),
    weighted.params,
    plain.params,
  )


def test_a_flipped_label_is_the_least_valuable_row():
  data = blobs(24)
  data["label"] = data["label"].at[5].add(1).at[14].set(0)
  scores = trained_scores(mlp(), data, chunk_size=10, **RECIPE)
  run = lambda key: data_oob(scores, 24, key, num_models=24, strategy=8)
  found = jax.jit(run)(jax.random.key(0))
  again = jax.jit(run)(jax.random.key(0))
  np.testing.assert_array_equal(found.values, again.values)
  values = np.asarray(found.values)
  assert ((values >= 0) & (values <= 1)).all()
  assert set(np.argsort(values)[:2]) == {5, 14}


@pytest.mark.parametrize("num_classes", [2, 4])
def test_logistic_scores_are_scikit_learns_of_the_copied_rows(num_classes):
  data = blobs(24)
  label = np.asarray(data["label"]) % num_classes
  counts = np.bincount(
    np.random.default_rng(1).integers(0, 24, 24), minlength=24
  )
  log_p = lambda logits, rows: jnp.take_along_axis(
    jax.nn.log_softmax(logits), rows["label"][:, None], axis=1
  )[:, 0]
  rows = {"x": data["x"] / 3, "label": jnp.asarray(label)}
  scores = logistic_scores(rows, num_classes=num_classes, l2=0.5, score=log_p)
  found = jax.jit(scores)(jnp.asarray(counts), jax.random.key(0))
  x = np.asarray(rows["x"], np.float64)
  x = np.concatenate([x, np.ones((24, 1))], axis=1)
  copies = np.repeat(np.arange(24), counts)
  model = LogisticRegression(
    C=2.0, fit_intercept=False, tol=1e-10, max_iter=10_000
  ).fit(x[copies], label[copies])
  expected = model.predict_log_proba(x)[np.arange(24), label]
  np.testing.assert_allclose(found, expected, atol=1e-4)
  refused("num_classes >= 2, got 1", logistic_scores, rows, num_classes=1)
  short = {**rows, "label": rows["label"][:9]}
  refused(r"label of shape \(24,\)", logistic_scores, short, num_classes=4)
  refused(r"weights \[24\], got shape", scores, jnp.ones((24, 1)), None)


def test_a_score_of_ones_own_replaces_correctness():
  data = blobs(8)
  recipe = {"optimizer": optax.sgd(0.1), "num_steps": 1, "batch_size": 4}
  own = lambda outputs, rows: rows["x"][:, 0] + 0 * outputs[:, 0]
  scores = trained_scores(mlp(), data, score=own, **recipe)
  found = data_oob(scores, 8, jax.random.key(0), num_models=30)
  np.testing.assert_allclose(found.values, data["x"][:, 0], rtol=1e-5)


def test_correctness_is_one_or_zero():
  outputs = jnp.array([[0.0, 2.0], [3.0, 1.0]])
  found = is_correct(outputs, {"label": jnp.array([1, 1])})
  assert found.tolist() == [1.0, 0.0]
  for label in (jnp.array([[1], [1]]), jnp.array([1.0, 1.0])):
    refused("Expected label of", is_correct, outputs, {"label": label})


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"num_models": 0}, "num_models > 0"),
    ({"num_draws": 0}, "num_draws > 0"),
    ({"num_rows": 0}, "num_rows > 0"),
    ({"strategy": 0}, "strategy > 0"),
    (
      {"score_rows": lambda c, k: jnp.zeros(3)},
      r"scores \[7\], got shape \(3,\)",
    ),
    ({"score_rows": lambda c, k: c / 0.0}, "finite utilities"),
  ],
)
def test_bad_input_is_named(change, match):
  given = {"score_rows": noisy, "num_rows": N, "num_models": 3}
  refused(match, data_oob, **{**given, **change}, key=jax.random.key(0))
