"""The efficacy component with the estimators of the paper, from scikit-learn."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.columns import Columns
from jaxunlearn.metrics._efficacy import ALPHA, REGRESSION, hold_in
from jaxunlearn.metrics._table_columns import Table

_SEED = 42


def efficacy(
  real: Table,
  fake: Table,
  layout: Columns,
  target: int,
  task: str,
  key: jax.Array,
  *,
  is_published: bool,
  f1: str,
) -> np.ndarray:
  """S3 on the host; see `_efficacy.efficacy` for the measure.

  Raises:
    ValueError: under `jit`; weights other than 0 and 1; in mode "published" a
      numeric target of more than two values to classify by.
  """
  if not all(map(checks.is_concrete, jax.tree.leaves((real, fake, key)))):
    raise ValueError(
      "Expected efficacy='sklearn' outside jit and vmap, got a tracer."
    )
  inputs = _published if is_published else _fixed
  low, high = _limits(real)
  parts = []
  for number, table in enumerate((real, fake)):
    weights = np.asarray(table.weights)
    if not np.isin(weights, (0, 1)).all():
      raise ValueError(
        "Expected weights of 0 and 1 for efficacy='sklearn', got others."
      )
    counted = weights > 0
    fit = test = counted
    if not is_published:
      split_key = jax.random.fold_in(jax.random.split(key)[0], number)
      chosen = np.asarray(hold_in(split_key, len(counted)))
      fit, test = counted & chosen, counted & ~chosen
    values = np.asarray(table.values, np.float64)
    parts.append((values, fit, test))
  tables = [v for v, _, _ in parts]
  encoded = inputs(tables, [t.weights > 0 for t in (real, fake)], layout)
  rows = []
  for own, (_, fit, test) in zip(encoded(target, task, low, high), parts):
    x, y = own
    rows.append((x[fit], y[fit], x[test], y[test]))
  if any(len(part) == 0 for row in rows for part in row):
    return np.array(np.nan)
  judge = _rmse if task == REGRESSION else lambda y, p: _f1(y, p, f1)
  errors = []
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of optimisers that stop early.
    for estimator in _estimators(task, is_published):
      models = [_fitted(estimator, x, y) for x, y, _, _ in rows]
      for _, _, x, y in rows:
        real_value, fake_value = (judge(y, m.predict(x)) for m in models)
        off = abs(real_value - fake_value)
        errors.append(min(off / (abs(real_value) + 1e-6), 1.0))
  return np.array(1 - np.mean(errors))


def _estimators(task: str, is_published: bool) -> list[Any]:
  from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
  from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LogisticRegression,
    Ridge,
  )
  from sklearn.neural_network import MLPClassifier
  from sklearn.tree import DecisionTreeClassifier

  seed = {"random_state": _SEED}
  if task == REGRESSION:
    alpha = 1.0 if is_published else ALPHA
    return [
      RandomForestRegressor(n_estimators=20, max_depth=5, **seed),
      Lasso(alpha=alpha, **seed),
      Ridge(alpha=1.0, **seed),
      ElasticNet(alpha=alpha, **seed),
    ]
  return [
    LogisticRegression(max_iter=500, **seed),
    RandomForestClassifier(n_estimators=10, **seed),
    DecisionTreeClassifier(**seed),
    MLPClassifier((50, 50), max_iter=200, **seed),
  ]


def _fitted(estimator: Any, x: np.ndarray, y: np.ndarray) -> Any:
  from sklearn.base import clone
  from sklearn.dummy import DummyClassifier

  if y.dtype.kind == "i" and len(np.unique(y)) == 1:
    # Of one class some refuse to be fitted.
    return DummyClassifier(strategy="most_frequent").fit(x, y)
  return clone(estimator).fit(x, y)


def _limits(real: Table) -> tuple[np.ndarray, np.ndarray]:
  values = np.asarray(real.values, np.float64)[np.asarray(real.weights) > 0]
  return values.min(axis=0), values.max(axis=0)


def _unit(values, low, high):
  return (values - low) / np.where(high > low, high - low, 1)


def _published(tables, counted, layout: Columns):
  """Levels that occur become indicators, those of the target too.

  The authors' code then takes the last indicator for the target and leaves the
  others among the inputs.
  """

  def encode(target, task, low, high):
    numeric = [c for c in layout.numeric if c != target]
    groups = [c for c in layout.categorical if c != target]
    is_coded = layout.categories[target] > 0
    columns = [*groups, target] if is_coded else groups
    levels = []
    for c in columns:
      codes = [t[np.asarray(m), c] for t, m in zip(tables, counted)]
      levels += [(c, code) for code in np.unique(np.concatenate(codes))]
    for table in tables:
      unit = _unit(table, low, high)
      hot = [table[:, c] == code for c, code in levels]
      x = np.column_stack([unit[:, numeric], *hot]).astype(np.float64)
      if is_coded:
        yield x[:, :-1], x[:, -1].astype(int)
      elif task == REGRESSION:
        yield x, unit[:, target]
      else:
        y = unit[:, target]
        if not np.isin(y, (0, 1)).all():
          raise ValueError(
            "Expected a numeric target of two values to classify by, got "
            f"more; give column {target} a number of categories."
          )
        yield x, y.astype(int)

  return encode


def _fixed(tables, counted, layout: Columns):
  """The target as it is; indicators of the other columns' levels."""
  del counted

  def encode(target, task, low, high):
    del task
    numeric = [c for c in layout.numeric if c != target]
    kept = layout.level_column != target
    column, code = layout.level_column[kept], layout.level_code[kept]
    for table in tables:
      unit = _unit(table, low, high)
      hot = table[:, column] == code
      x = np.concatenate([unit[:, numeric], hot], axis=1, dtype=np.float64)
      if layout.categories[target]:
        yield x, table[:, target].astype(int)
      else:
        yield x, unit[:, target]

  return encode


def _rmse(y: np.ndarray, predicted: np.ndarray) -> float:
  return float(np.sqrt(np.mean((y - predicted) ** 2)))


def _f1(y: np.ndarray, predicted: np.ndarray, f1: str) -> float:
  from sklearn.metrics import f1_score

  labels = np.unique(y) if f1 == "macro" else None
  return float(f1_score(y, predicted, average=f1, labels=labels))
