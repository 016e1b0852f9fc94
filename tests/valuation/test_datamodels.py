"""Datamodels and AME against scikit-learn, SciPy and known games."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from scipy import stats
from sklearn.linear_model import Lasso, Ridge

from jaxunlearn.valuation.datamodels import (
  Datamodels,
  ame,
  fit_lasso,
  fit_ridge,
  linear_datamodelling_score,
  subset_masks,
)
from jaxunlearn.valuation.types import Utility

WORTH = np.array([1.0, -2.0, 0.5, 3.0, 0.0], np.float32)


def problem(num_masks, num_rows, num_outputs=3, seed=0):
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, num_rows)) < 0.5
  worth = rng.normal(size=(num_rows, num_outputs))
  noise = 0.3 * rng.normal(size=(num_masks, num_outputs))
  outputs = 4 + masks @ worth + noise
  return masks, outputs.astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 6), (12, 30)])
@pytest.mark.parametrize("l2", [0.1, 5.0])
def test_ridge_equals_scikit_learn_in_either_space(shape, l2):
  masks, outputs = problem(*shape)
  found = jax.jit(fit_ridge)(masks, outputs, l2=l2)
  model = Ridge(alpha=l2).fit(masks.astype(float), outputs.astype(float))
  np.testing.assert_allclose(found.weights, model.coef_.T, atol=2e-4)
  np.testing.assert_allclose(found.bias, model.intercept_, atol=5e-4)
  np.testing.assert_allclose(
    found.predict(masks), model.predict(masks.astype(float)), atol=1e-3
  )


@pytest.mark.parametrize("shape", [(40, 6), (12, 30)])
def test_ridge_states_the_errors_of_a_linear_estimator(shape):
  masks, outputs = problem(*shape)
  found = jax.jit(fit_ridge)(masks, outputs, l2=5.0)
  x = masks - masks.mean(axis=0)
  y = outputs.astype(np.float64) - outputs.mean(axis=0)
  solve = np.linalg.inv(x.T @ x + 5 * np.eye(shape[1])) @ x.T
  freedom = shape[0] - 1 - np.trace(x @ solve)
  noise = ((y - x @ solve @ y) ** 2).sum(axis=0) / freedom
  expected = np.sqrt(np.diag(solve @ solve.T)[:, None] * noise)
  np.testing.assert_allclose(found.standard_error, expected, rtol=2e-3)
  assert fit_ridge(masks, outputs[:, 0]).standard_error.shape == (shape[1],)
  exact = fit_ridge(masks[:5], outputs[:5], l2=1e-3)
  assert np.isnan(exact.standard_error).all()


def test_lasso_equals_scikit_learn():
  masks, outputs = problem(60, 8)
  found = fit_lasso(masks, outputs, l1=0.1)
  assert np.isnan(found.standard_error).all()
  for t in range(3):
    model = Lasso(alpha=0.1, tol=1e-9).fit(masks.astype(float), outputs[:, t])
    np.testing.assert_allclose(found.weights[:, t], model.coef_, atol=1e-4)
    np.testing.assert_allclose(found.bias[t], model.intercept_, atol=1e-4)


@pytest.mark.parametrize(
  "fit",
  [
    lambda m, f: fit_ridge(m, f, l2=1e-4),
    lambda m, f: fit_lasso(m, f, l1=1e-5),
    lambda m, f: fit_lasso(m, f),
  ],
)
def test_an_additive_game_gives_back_what_the_rows_are_worth(fit):
  masks = subset_masks(
    jax.random.key(0), num_masks=60, num_rows=5, fixed_size=False
  )
  assert len(set(np.asarray(masks.sum(axis=1)).tolist())) > 1
  found = fit(masks, 2.5 + masks @ WORTH)
  assert found.weights.shape == (5,) and found.bias.shape == ()
  np.testing.assert_allclose(found.weights, WORTH, atol=2e-2)
  np.testing.assert_allclose(found.bias, 2.5, atol=3e-2)


def test_the_slope_on_all_masks_is_the_banzhaf_value():
  # The airport game of the sheet.
  masks = np.array(list(itertools.product([False, True], repeat=5)))
  cost = np.array([1.0, 2, 4, 7, 11])
  found = fit_ridge(masks, (masks * cost).max(axis=1), l2=1e-6)
  expected = (0.0625, 0.1875, 0.6875, 2.1875, 6.1875)
  np.testing.assert_allclose(found.weights, expected, atol=1e-5)


def test_the_score_is_spearmans_correlation_also_with_ties():
  masks, outputs = problem(50, 6)
  outputs = np.round(outputs)  # Ties.
  models = fit_ridge(masks[:25], outputs[:25])
  found = jax.jit(linear_datamodelling_score)(models, masks[25:], outputs[25:])
  predicted = np.asarray(models.predict(masks[25:]))
  expected = [
    stats.spearmanr(predicted[:, t], outputs[25:, t]).statistic
    for t in range(3)
  ]
  np.testing.assert_allclose(found, expected, atol=1e-5)
  constant = linear_datamodelling_score(
    models, masks[25:], np.ones((25, 3), np.float32)
  )
  assert np.isnan(constant).all()


def test_masks_have_one_size_and_every_row_its_share():
  key = jax.random.key(1)
  masks = subset_masks(key, num_masks=400, num_rows=10, rate=0.3)
  assert masks.dtype == jnp.bool_
  np.testing.assert_array_equal(masks.sum(axis=1), np.full(400, 3))
  # 120 expected, standard deviation 9.2; five of them.
  assert (np.abs(np.asarray(masks).sum(axis=0) - 120) < 46).all()
  first = subset_masks(key, num_masks=7, num_rows=10, rate=0.3)
  np.testing.assert_array_equal(first, masks[:7])


def test_ame_of_an_additive_game_is_what_the_rows_are_worth():
  game = Utility(lambda mask: 1.0 + mask @ jnp.asarray(WORTH), 5)
  values = []
  for key in range(3):
    found = ame(game, jax.random.key(key), num_samples=2000, l1=1e-4)
    values.append(found.values)
    assert int(found.num_evaluations) == 2000
    error = np.asarray(found.standard_error)
    assert (np.abs(found.values - WORTH) <= 5 * error).all()
    assert (error < 0.4).all()
  # The utility varies by the rates as well: sd of a value about 0.15.
  np.testing.assert_allclose(np.mean(values, axis=0), WORTH, atol=0.45)
  assert stats.spearmanr(np.mean(values, axis=0), WORTH).statistic > 0.85


def test_ame_equals_its_regression_written_out():
  game = Utility(lambda mask: (mask @ jnp.asarray(WORTH)) ** 2, 5)
  key, rates = jax.random.key(4), (0.3, 0.6)
  found = ame(game, key, num_samples=60, rates=rates, l1=0.02)
  rows, utilities = [], []
  for i in range(60):
    p = rates[i % 2]
    own = jax.random.fold_in(key, i)
    mask = np.asarray(jax.random.bernoulli(own, np.float32(p), (5,)))
    rows.append(np.where(mask, 1 / p, -1 / (1 - p)))
    utilities.append((mask @ WORTH) ** 2)
  variance = np.mean([1 / (p * (1 - p)) for p in rates])
  x = np.array(rows) / np.sqrt(variance)
  model = Lasso(alpha=0.02, tol=1e-9, max_iter=100_000).fit(x, utilities)
  np.testing.assert_allclose(
    found.values, model.coef_ * np.sqrt(variance), atol=2e-3
  )


@pytest.mark.slow
def test_errors_of_ame_are_as_stated_and_shrink_as_one_over_the_root():
  game = Utility(lambda mask: 1.0 + mask @ jnp.asarray(WORTH), 5)

  def runs(num_samples):
    found = [
      ame(game, jax.random.key(i), num_samples=num_samples, l1=1e-4)
      for i in range(60)
    ]
    values = np.array([f.values for f in found])
    stated = np.mean([np.asarray(f.standard_error) ** 2 for f in found])
    # Over 60 runs of five rows: known to 1 / sqrt(2 * 59 * 5) = 4 %.
    return np.sqrt(values.var(axis=0, ddof=1).mean()), np.sqrt(stated)

  few, _ = runs(100)
  many, stated = runs(400)
  assert 2 * (1 - 5 * 0.06) < few / many < 2 * (1 + 5 * 0.06)
  assert abs(stated / many - 1) < 5 * 0.045


MASKS = np.arange(12).reshape(4, 3) % 2 == 0


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda: fit_ridge(MASKS * 1, np.ones(4)), r"masks bool \[M > 1, N\]"),
    (lambda: fit_ridge(MASKS[:1], np.ones(1)), "got bool .1, 3."),
    (lambda: fit_ridge(MASKS, np.ones(3)), r"outputs \[M\] or \[M, T\]"),
    (lambda: fit_ridge(MASKS, np.full(4, np.nan)), "outputs to be finite"),
    (lambda: fit_ridge(MASKS, np.ones(4), l2=0), "l2 > 0"),
    (lambda: fit_lasso(MASKS, np.ones(4), l1=0), "l1 > 0"),
    (lambda: fit_lasso(MASKS, np.ones(4)), "num_folds in 2 .. 4"),
    (
      lambda: linear_datamodelling_score(
        Datamodels(jnp.ones(2), jnp.ones(()), jnp.ones(2)), MASKS, np.ones(4)
      ),
      r"weights \[3\]",
    ),
    (
      lambda: subset_masks(jax.random.key(0), num_masks=0, num_rows=2),
      "num_masks > 0",
    ),
    (
      lambda: subset_masks(jax.random.key(0), num_masks=1, num_rows=2, rate=2),
      r"rate in \[0, 1\]",
    ),
  ],
)
def test_bad_input_is_named(call, match):
  refused(match, call)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"num_samples": 1}, "num_samples >= 2"),
    ({"num_samples": 4, "l1": None}, "num_samples >= 5"),
    ({"rates": ()}, "rates strictly in"),
    ({"rates": (0.5, 1.0)}, "rates strictly in"),
    ({"l1": -1.0}, "l1 > 0"),
  ],
)
def test_bad_input_of_ame_is_named(change, match):
  game = Utility(lambda mask: mask.sum() * 1.0, 3)
  given = {"num_samples": 6, "l1": 0.1}
  refused(match, ame, game, jax.random.key(0), **{**given, **change})


def test_utilities_that_are_not_finite_are_refused_by_ame():
  game = Utility(lambda mask: mask.sum() * jnp.inf, 3)
  with pytest.raises(ValueError, match="finite utilities"):
    ame(game, jax.random.key(0), num_samples=6, l1=0.1)
