"""KNN-Shapley against enumeration, and the numbers of its sheet."""

import itertools
import math

import numpy as np
import pytest
from refusals import refused

from jaxunlearn.valuation.knn import knn_shapley

MATCH = np.array([1, 0, 1, 1, 0])


def points(num_rows, num_validation, seed=0, num_classes=3):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(num_rows + num_validation, 2)).astype(np.float32)
  y = rng.integers(0, num_classes, num_rows + num_validation)
  return x[:num_rows], y[:num_rows], x[num_rows:], y[num_rows:]


def utility(rows, x, y, point, label, k):
  """The share 1/K of the nearest of `rows` with the label; float64."""
  distance = [(float(((x[i] - point) ** 2).sum()), i) for i in rows]
  nearest = [i for _, i in sorted(distance)[:k]]
  return sum(y[i] == label for i in nearest) / k


def brute_force(x, y, xv, yv, k):
  """Shapley values by their definition, over all subsets."""
  n = len(x)
  values = np.zeros(n)
  for point, label in zip(xv, yv):
    for i in range(n):
      others = [j for j in range(n) if j != i]
      for size in range(n):
        weight = 1 / (n * math.comb(n - 1, size))
        for rows in itertools.combinations(others, size):
          gain = utility((*rows, i), x, y, point, label, k) - utility(
            rows, x, y, point, label, k
          )
          values[i] += weight * gain
  return values / len(xv)


@pytest.mark.parametrize(
  ("k", "expected"),
  [
    (1, (0.75, -0.25, 0.25, 0.25, 0)),
    (3, (0.25, -1 / 12, 0.25, 0.25, 0)),
    (5, (0.2, 0, 0.2, 0.2, 0)),
    (8, (0.125, 0, 0.125, 0.125, 0)),
  ],
)
def test_the_numbers_of_the_sheet(k, expected):
  x = np.arange(5.0)[:, None]
  found = knn_shapley(x, MATCH, x[:1], [1], num_neighbours=k)
  np.testing.assert_allclose(found.values, expected, atol=1e-7)
  in_reach = MATCH[:k].sum() / k
  np.testing.assert_allclose(found.utility_full, in_reach, atol=1e-7)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_values_equal_enumeration_of_all_subsets(k):
  x, y, xv, yv = points(5, 3, seed=k)
  found = knn_shapley(x, y, xv, yv, num_neighbours=k, chunk_size=2)
  np.testing.assert_allclose(
    found.values, brute_force(x, y, xv, yv, k), atol=1e-6
  )
  assert int(found.num_evaluations) == 0
  np.testing.assert_array_equal(found.standard_error, np.zeros(5))


def test_ties_go_by_the_number_of_the_row():
  # Rows 1, 2 and 3 are one point; the sheet's order must come out.
  x = np.array([[0.0], [1.0], [1.0], [1.0], [2.0]])
  found = knn_shapley(x, MATCH, x[:1], [1], num_neighbours=1)
  np.testing.assert_allclose(
    found.values, (0.75, -0.25, 0.25, 0.25, 0), atol=1e-7
  )


def test_values_under_a_mask_are_those_of_the_rows_alone():
  x, y, xv, yv = points(12, 5)
  mask = np.arange(12) % 3 != 0
  for k in (1, 4, 10):
    found = knn_shapley(x, y, xv, yv, num_neighbours=k, row_mask=mask)
    alone = knn_shapley(x[mask], y[mask], xv, yv, num_neighbours=k)
    np.testing.assert_allclose(found.values[mask], alone.values, atol=1e-6)
    assert np.isnan(np.asarray(found.values)[~mask]).all()
    np.testing.assert_allclose(
      found.utility_full, alone.utility_full, atol=1e-6
    )


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"num_neighbours": 0}, "num_neighbours > 0, got num_neighbours=0"),
    ({"chunk_size": 0}, "chunk_size > 0"),
    ({"features": np.zeros((0, 2))}, r"features \[N > 0, ..., D\]"),
    ({"features": np.zeros(4)}, r"features \[N > 0, ..., D\]"),
    ({"labels": np.zeros(3, int)}, r"labels int \[N\], got .* \(3,\)"),
    ({"labels": np.zeros(4)}, r"labels int \[N\], got .* and float"),
    ({"validation_features": np.zeros((0, 2))}, "validation_features"),
    (
      {"validation_features": np.zeros((2, 3))},
      r"validation_features \[M, D\], got",
    ),
    ({"features": np.full((4, 2), np.nan)}, "features to be finite, got 8"),
    ({"row_mask": np.ones(4, int)}, r"row_mask bool \[4\], got int"),
    ({"row_mask": np.ones(3, bool)}, r"row_mask bool \[4\]"),
  ],
)
def test_bad_input_is_named(change, match):
  given = {
    "features": np.zeros((4, 2)),
    "labels": np.zeros(4, int),
    "validation_features": np.zeros((2, 2)),
    "validation_labels": np.zeros(2, int),
  }
  refused(match, knn_shapley, **{**given, **change})
