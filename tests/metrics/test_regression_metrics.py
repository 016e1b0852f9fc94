import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.table import load
from refusals import refused
from scipy import stats

from jaxunlearn.metrics import regression

W1 = jax.jit(regression.wasserstein1)


def sample(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_errors_are_means_over_examples_not_over_batches():
  golden = load("deep_regression__evaluate_mae")
  outputs, labels = golden["outputs"], golden["labels"]
  found = regression.mean_absolute_error(outputs, labels[:, 0])
  np.testing.assert_allclose(found, golden["out_paper"], rtol=1e-6)
  # The published number differs, and by more than rounding.
  assert abs(found - golden["out_code"]) > 0.1
  wide = (outputs.astype(np.float64) - labels) ** 2
  found = regression.mean_squared_error(outputs, labels)
  np.testing.assert_allclose(found, wide.mean(), rtol=1e-6)


def test_errors_do_not_read_rows_of_weight_zero():
  outputs, targets = sample(0, 6), sample(1, 6)
  weights = np.array([1, 0, 0.5, 0, 2, 1], np.float32)
  for fn, power in (
    (regression.mean_absolute_error, 1),
    (regression.mean_squared_error, 2),
  ):
    want = np.average(np.abs(outputs - targets) ** power, weights=weights)
    spoilt = np.where(weights > 0, outputs, np.nan)
    np.testing.assert_allclose(fn(spoilt, targets, weights), want, rtol=1e-5)
    assert np.isnan(fn(outputs, targets, np.zeros(6, bool)))
    assert np.isnan(fn(np.zeros((0, 1)), np.zeros(0)))


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_scipys_under_random_weights_and_ties(seed):
  rng = np.random.default_rng(seed)
  a, b = np.round(rng.normal(size=30), 1), np.round(rng.normal(size=17), 1)
  u, v = rng.random(30), rng.random(17)
  u[:4] = v[:2] = 0
  want = stats.wasserstein_distance(a[4:], b[2:], u[4:], v[2:])
  a[:4] = b[:2] = np.nan  # Where the weight is zero.
  found = W1(*(x.astype(np.float32) for x in (a, b, u, v)))
  np.testing.assert_allclose(found, want, rtol=2e-5)


def test_the_distance_is_a_distance():
  a, b, c = sample(0, 50), 3 * sample(1, 50), sample(2, 50) + 1
  assert W1(a, a[::-1].copy()) == 0
  np.testing.assert_allclose(W1(a, a - 2.5), 2.5, rtol=1e-6)
  np.testing.assert_allclose(W1(a, b), W1(b, a), rtol=1e-6)
  assert W1(a, b) <= W1(a, c) + W1(c, b) + 1e-6
  want = np.abs(np.sort(a) - np.sort(b)).mean()
  np.testing.assert_allclose(W1(a, b), want, rtol=1e-5)


def test_the_distance_has_the_slope_of_its_definition():
  a, b = jnp.array([0.0, 5.0]), jnp.array([1.0, 3.0])
  slope = jax.jit(jax.grad(regression.wasserstein1))(a, b)
  # mean(|0 - 1|, |5 - 3|).
  np.testing.assert_allclose(slope, [-0.5, 0.5], atol=1e-6)


def test_the_distance_of_nothing_or_of_nan_is_nan():
  a, no = jnp.ones(3), jnp.zeros(3, bool)
  assert jnp.isnan(W1(a, a, no, None)) and jnp.isnan(W1(a, a, None, no))
  assert jnp.isnan(W1(a.at[0].set(jnp.nan), a))
  assert jnp.isnan(W1(a, a.at[0].set(jnp.inf)))
  assert jnp.isnan(W1(jnp.zeros(0), jnp.zeros(0)))


def test_the_relative_difference_at_a_target_of_zero():
  found = regression.relative_difference(
    jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 2.0, 1.0]), jnp.zeros(3)
  )
  assert found.tolist() == [np.inf, 0.0, np.inf]


def test_the_relative_difference_does_not_pass_through_the_errors():
  # In float32 the errors of both, near a million, are the same number.
  found = regression.relative_difference(
    jnp.array([1.0]), jnp.array([1.5]), jnp.array([1e6])
  )
  np.testing.assert_allclose(found, [5e-7], rtol=1e-6)


def test_a_sample_is_at_no_distance_from_itself():
  a, weights = sample(3, 200), np.abs(sample(4, 200))
  assert W1(a, a, weights > 0.5, weights > 0.5) == 0
  # Sums of rounded weights, in another order for each side.
  assert W1(a, a, weights, weights) < 1e-6


def test_bad_arguments_are_refused():
  x = jnp.ones(3)
  with pytest.raises(ValueError, match=r"targets float .*, got int32"):
    regression.mean_absolute_error(x, jnp.arange(3))
  with pytest.raises(ValueError, match=r"targets \[...\] and outputs"):
    regression.mean_squared_error(jnp.ones(4), x)
  with pytest.raises(ValueError, match="got a scalar"):
    regression.mean_squared_error(jnp.ones(()), jnp.ones(()))
  refused(r"Expected b \[N\]", regression.wasserstein1, x, jnp.ones((3, 1)))
  refused("weights ", regression.wasserstein1, x, x, jnp.ones(2))
