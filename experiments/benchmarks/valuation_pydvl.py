"""pyDVL's side of the valuation benchmark, and the NumPy model of both sides.

    PYTHON experiments/benchmarks/valuation_pydvl.py PROBLEM.npz RESULT.json

PYTHON is one that has pyDVL. Its latest release wants NumPy below 2 and
jaxunlearn wants 2, so the two cannot share an environment; this file needs NumPy
only, and pyDVL when run. `experiments.benchmarks.valuation` writes the problem,
starts it and reads the result.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_STEPS = 8
L2 = 1.0
NUM_NEIGHBOURS = 5


class NewtonRegression:
  """Logistic regression of two classes by eight Newton steps from zero.

  The sum of cross-entropies + |w|^2 / 2, intercept included, as
  `jaxunlearn.valuation.closed_form.logistic_utility` without damping. One class
  alone trains too. It counts its fits over all instances.
  """

  fits = 0

  def get_params(self, deep: bool = True) -> dict[str, Any]:
    del deep
    return {}

  def set_params(self, **params: Any) -> NewtonRegression:
    del params
    return self

  def fit(self, x: np.ndarray, y: Any) -> NewtonRegression:
    type(self).fits += 1
    weights = np.zeros(x.shape[1])
    for _ in range(NUM_STEPS):
      p = 1 / (1 + np.exp(-(x @ weights)))
      gradient = x.T @ (p - y) + L2 * weights
      hessian = (x * (p * (1 - p))[:, None]).T @ x
      hessian.flat[:: len(weights) + 1] += L2
      weights -= np.linalg.solve(hessian, gradient)
    self.weights = weights
    return self

  def predict(self, x: np.ndarray) -> np.ndarray:
    return (x @ self.weights > 0).astype(int)

  def score(self, x: np.ndarray, y: Any) -> float:
    """Mean log-likelihood, nats."""
    return -float(np.logaddexp(0, (1 - 2 * y) * (x @ self.weights)).mean())


def bare_loop(
  problem: dict[str, np.ndarray], masks: np.ndarray
) -> tuple[np.ndarray, float]:
  """Utilities of masks bool [M, N] in a tight loop, and the seconds it took."""
  x, y = problem["x"], problem["y"]
  xv, yv = problem["validation_x"], problem["validation_y"]
  model = NewtonRegression()
  utilities = np.empty(len(masks))
  began = time.perf_counter()
  for i, mask in enumerate(masks):
    if mask.any():
      utilities[i] = model.fit(x[mask], y[mask]).score(xv, yv)
    else:
      utilities[i] = -np.log(2)
  return utilities, time.perf_counter() - began


class Bagging:
  """Models of bootstrap samples, under the names of scikit-learn's bagging."""

  def __init__(self, num_bags: int, seed: int) -> None:
    self.num_bags, self.seed = num_bags, seed

  def fit(self, x: np.ndarray, y: np.ndarray) -> Bagging:
    rng = np.random.default_rng(self.seed)
    self.estimators_samples_ = rng.integers(0, len(y), (self.num_bags, len(y)))
    self.estimators_ = [
      NewtonRegression().fit(x[rows], y[rows])
      for rows in self.estimators_samples_
    ]
    return self


def bagging_loop(
  problem: dict[str, np.ndarray], num_bags: int, seed: int
) -> tuple[np.ndarray, float]:
  """Out-of-bag accuracy of every row (nan without), and seconds."""
  x, y = problem["x"], problem["y"]
  began = time.perf_counter()
  bags = Bagging(num_bags, seed).fit(x, y)
  count, right = np.zeros((2, len(y)))
  for model, rows in zip(bags.estimators_, bags.estimators_samples_):
    is_out = np.ones(len(y), bool)
    is_out[rows] = False
    count += is_out
    right += is_out & (model.predict(x) == y)
  values = np.where(count > 0, right / np.maximum(count, 1), np.nan)
  return values, time.perf_counter() - began


def knn_loop(problem: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
  """KNN-Shapley of all validation rows at once, and seconds."""
  x, y = problem["x"], problem["y"]
  xv, yv = problem["validation_x"], problem["validation_y"]
  n = len(y)
  began = time.perf_counter()
  distance = (xv**2).sum(1)[:, None] - 2 * xv @ x.T + (x**2).sum(1)[None, :]
  order = np.argsort(distance, axis=1, kind="stable")
  match = (y[order] == yv[:, None]).astype(float)
  place = np.arange(1, n + 1)
  share = np.minimum(NUM_NEIGHBOURS, place) / (NUM_NEIGHBOURS * place)
  steps = share * (match - np.pad(match[:, 1:], ((0, 0), (0, 1))))
  sums = np.cumsum(steps[:, ::-1], axis=1)[:, ::-1]
  values = np.zeros_like(sums)
  np.put_along_axis(values, order, sums, axis=1)
  return values.mean(0), time.perf_counter() - began


def methods(
  problem: dict[str, np.ndarray],
) -> dict[str, Callable[[Any, Any, int], Any]]:
  """By name, `(utility, validation rows, seed) -> valuation` of pyDVL."""
  from pydvl import valuation as dvl
  from sklearn.base import BaseEstimator
  from sklearn.neighbors import KNeighborsClassifier

  class Bags(Bagging, BaseEstimator):  # What pyDVL asks whether it is fitted.
    pass

  permutations = int(problem["num_permutations"])
  samples = int(problem["num_samples"])

  def data_oob(utility, test, seed):
    # pyDVL wants the bags fitted; they are part of the work.
    bags = Bags(int(problem["num_bags"]), seed)
    bags.fit(problem["x"], problem["y"])
    return dvl.DataOOBValuation(
      bags, score=lambda y_true, y_pred: (y_true == y_pred).astype(float)
    )

  return {
    "loo": lambda utility, test, seed: dvl.LOOValuation(utility),
    "shapley": lambda utility, test, seed: dvl.ShapleyValuation(
      utility,
      dvl.PermutationSampler(seed=seed),
      is_done=dvl.MaxUpdates(permutations),
    ),
    # Stopping by samples counts those that were only handed to a process. Half
    # of them hold a row, so a balanced row has its half after all of them.
    "banzhaf": lambda utility, test, seed: dvl.BanzhafValuation(
      utility,
      dvl.MSRSampler(batch_size=1, seed=seed),
      is_done=dvl.MaxUpdates(samples // 2),
    ),
    "data_oob": data_oob,
    "knn_shapley": lambda utility, test, seed: dvl.KNNShapleyValuation(
      KNeighborsClassifier(n_neighbors=NUM_NEIGHBOURS), test, progress=False
    ),
  }


def run(problem: dict[str, np.ndarray]) -> list[dict[str, Any]]:
  """A row for each method and number of processes."""
  from joblib import Parallel, delayed, parallel_config
  from pydvl import valuation as dvl

  n = len(problem["y"])
  train, test = dvl.Dataset.from_arrays(
    np.concatenate([problem["x"], problem["validation_x"]]),
    np.concatenate([problem["y"], problem["validation_y"]]),
    train_size=n,
  )
  # The rows as they are: `from_arrays` shuffles.
  train = dvl.Dataset(problem["x"], problem["y"], train.feature_names, ["y"])
  test = dvl.Dataset(
    problem["validation_x"], problem["validation_y"], test.feature_names, ["y"]
  )
  rows = []
  for name, make in methods(problem).items():
    for jobs in problem["jobs"].tolist():
      if name == "data_oob" and jobs > 1:
        continue  # It is one loop, whatever the number of processes.
      utility = dvl.ModelUtility(
        NewtonRegression(),
        dvl.SupervisedScorer(
          lambda model, x, y: model.score(x, y), test, default=-np.log(2)
        ),
        catch_errors=False,
      )
      NewtonRegression.fits = 0
      with parallel_config(n_jobs=jobs):
        Parallel()(delayed(abs)(job) for job in range(jobs))  # Starts them.
        began = time.perf_counter()
        valuation = make(utility, test, int(problem["seed"]))
        valuation.fit(train)
        seconds = time.perf_counter() - began
      rows.append(
        {
          "method": name,
          "jobs": jobs,
          "seconds": seconds,
          # Other processes keep their counts to themselves.
          "fits": NewtonRegression.fits if jobs == 1 else None,
          "values": valuation.result.values.tolist() if jobs == 1 else None,
        }
      )
  return rows


if __name__ == "__main__":
  with np.load(sys.argv[1]) as stored:
    given = dict(stored)
  with open(sys.argv[2], "w") as file:
    json.dump(run(given), file)
