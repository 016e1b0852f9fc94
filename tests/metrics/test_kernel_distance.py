"""The kernel distance against float64, in closed form, and over its subsets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.metrics import kernel_distance, polynomial_mmd

KEY = jax.random.key(3)


def features(count, seed, shift=0.0, width=6):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(count, width)) + shift).astype(np.float32)


def by_pairs(x, y):
  """Equation 4 of arXiv:1801.01401, pair by pair in float64."""
  x, y = np.float64(x), np.float64(y)
  k = lambda a, b: (a @ b / len(a) + 1) ** 3
  own = lambda z: np.mean([
    k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j
  ])  # fmt: skip
  return own(x) + own(y) - 2 * np.mean([[k(a, b) for b in y] for a in x])


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_it_is_the_unbiased_estimate(shift):
  x, y = features(20, 0), features(13, 1, shift)
  found = jax.jit(polynomial_mmd)(x, y)
  np.testing.assert_allclose(found, by_pairs(x, y), rtol=1e-4, atol=1e-6)


def test_of_two_points_it_has_a_closed_form():
  """All x at a, all y at b: k(a, a) + k(b, b) - 2 k(a, b)."""
  a, b = np.float32([1, 2, 0, 1]), np.float32([0, 1, 3, 0])
  k = lambda u, v: (u @ v / 4 + 1) ** 3
  found = polynomial_mmd(np.tile(a, (3, 1)), np.tile(b, (5, 1)))
  assert float(found) == pytest.approx(k(a, a) + k(b, b) - 2 * k(a, b))


def test_of_one_law_its_mean_is_zero_whatever_the_number_of_images():
  """200 pairs of 8 images; the biased estimate would be above 0.4."""
  found = np.array([
    polynomial_mmd(features(8, 2 * i, width=3), features(8, 2 * i + 1, width=3))
    for i in range(200)
  ])  # fmt: skip
  assert abs(found.mean()) < 4 * found.std() / np.sqrt(200)
  assert found.std() > 0.1


def test_subsets_of_all_rows_are_the_whole():
  x, y = features(12, 0), features(12, 1, 0.5)
  found = kernel_distance(x, y, KEY, num_subsets=4, subset_size=12)
  np.testing.assert_allclose(found.mean, polynomial_mmd(x, y), rtol=1e-4)
  assert float(found.spread) < 1e-5


def test_the_mean_over_subsets_is_the_whole_s_and_the_spread_falls():
  x, y = features(60, 0), features(60, 1, 0.5)
  small, large = (
    kernel_distance(x, y, KEY, num_subsets=400, subset_size=n) for n in (5, 40)
  )
  error = 4 * float(small.spread) / 20
  assert abs(float(small.mean - polynomial_mmd(x, y))) < error
  assert float(small.spread) > 3 * float(large.spread) > 0


def test_nan_stays_nan():
  x = features(6, 0)
  x[2, 1] = np.nan
  assert np.isnan(polynomial_mmd(x, features(6, 1)))
  assert np.isnan(polynomial_mmd(features(6, 1), x))


def test_bad_input_is_refused():
  x = jnp.ones((4, 2))
  refused(r"references \[M, D\]", polynomial_mmd, x, jnp.ones((4, 3)))
  refused(r"features \[N, C\]", polynomial_mmd, x[0], x)
  refused("rows of references", polynomial_mmd, x, x[:1])
  size = "subset_size"
  refused(f"{size} at most 4", kernel_distance, x, x, KEY, subset_size=5)
  refused(size, kernel_distance, x, x, KEY, subset_size=1)
  refused("num_subsets", kernel_distance, x, x, KEY, num_subsets=0)
