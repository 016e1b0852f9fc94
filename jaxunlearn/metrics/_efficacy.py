"""Do models trained on the fake table do what those trained on the real one do?

Here in JAX, so that scores of many masks and resamples are one program; see
`_efficacy_sklearn` for the estimators of the paper.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core.columns import Columns, columns_of
from jaxunlearn.metrics._table_columns import (
  Table,
  limits,
  one_hot,
  relative_error,
  safe,
  unit_scaled,
)

REGRESSION, CLASSIFICATION = "regression", "classification"
TASKS = (REGRESSION, CLASSIFICATION)
TRAIN_SHARE = 0.7
# Of lasso and elastic net. Published is 1, at which they predict the mean
# whatever the table: of a target in [0, 1] no covariance exceeds 1 / 4.
ALPHA = 1e-3
_WIDTH = 32
_STEPS = 150
_RATE = 0.02

Fit = Callable[[jax.Array, jax.Array, jax.Array], Callable[..., jax.Array]]


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
) -> jax.Array:
  """S3: 1 minus the mean relative error of what models achieve.

  Every estimator is fitted to the real and to the fake table and measured on
  both: in mode "published" on the rows it was fitted to, else on the 30 % of
  each table that are set aside. nan where a part has no rows.
  """
  kinds = layout.categories
  return _score(real, fake, key, kinds, target, task, is_published, f1)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _score(real, fake, key, categories, target, task, is_published, f1):
  layout = columns_of(categories, at_least=2)
  measured = jnp.stack(
    _measured(real, fake, layout, target, task, key, is_published, f1)
  )
  return 1 - relative_error(measured[:, 0], measured[:, 1]).mean()


def _measured(real, fake, layout, target, task, key, is_published, f1):
  """Of each estimator [trained on real, on fake; measured on real, on fake]."""
  split_key, fit_key = jax.random.split(key)
  low, high = limits(real)
  parts = []
  for number, table in enumerate((real, fake)):
    x, y = _features(table, layout, target, low, high)
    weights = table.weights
    fit_weights, test_weights = weights, weights
    if not is_published:
      chosen = hold_in(jax.random.fold_in(split_key, number), len(weights))
      fit_weights = jnp.where(chosen, weights, 0)
      test_weights = jnp.where(chosen, 0, weights)
    parts.append((x, y, fit_weights, test_weights))

  num_classes = layout.categories[target]
  estimators: list[Fit]
  if task == REGRESSION:
    alpha = 1.0 if is_published else ALPHA
    estimators = [
      _ridge,
      functools.partial(_elastic_net, alpha=alpha, l1_share=1.0),
      functools.partial(_elastic_net, alpha=alpha, l1_share=0.5),
      functools.partial(_trained, key=fit_key, num_classes=0, width=_WIDTH),
    ]
    judge = _rmse
  else:
    network = functools.partial(_trained, key=fit_key, num_classes=num_classes)
    estimators = [
      lambda x, y, w: _ridge(x, jax.nn.one_hot(y, num_classes), w),
      functools.partial(network, width=0),
      functools.partial(network, width=_WIDTH),
    ]
    judge = lambda *args: _f1(*args, num_classes, f1)
  found = []
  for fit in estimators:
    models = [fit(x, y, w) for x, y, w, _ in parts]
    of_model = lambda model: jnp.stack(
      [judge(model(x), y, w) for x, y, _, w in parts]
    )
    found.append(jnp.stack([of_model(model) for model in models]))
  return found


def hold_in(key: jax.Array, num_rows: int) -> jax.Array:
  """Which rows models are fitted to: bool [N], 70 % of them."""
  order = jax.random.permutation(key, num_rows)
  return order < round(TRAIN_SHARE * num_rows)


def _features(table, layout, target, low, high):
  """Inputs [N, F] and target [N]; the target is never among the inputs."""
  scaled = unit_scaled(table, low, high)
  numeric = [c for c in layout.numeric if c != target]
  kept = layout.level_column != target
  hot = one_hot(table.values, layout)[:, kept]
  counted = (table.weights > 0)[:, None]
  x = jnp.concatenate(
    [scaled[:, jnp.asarray(numeric, int)], jnp.where(counted, hot, 0)], axis=1
  )
  if layout.categories[target]:
    return x, table.values[:, target].astype(jnp.int32)
  return x, scaled[:, target]


def _ridge(x, y, weights):
  """Least squares with penalty |w|^2 (alpha = 1), the intercept free."""
  gram, cross, x_mean, y_mean = _moments(x, y, weights)
  penalty = jnp.eye(x.shape[1], dtype=x.dtype) / safe(weights.sum())
  slope = jnp.linalg.solve(gram + penalty, cross)
  return lambda rows: y_mean[None] + (rows - x_mean[None]) @ slope


def _elastic_net(x, y, weights, *, alpha: float, l1_share: float):
  """Mean squared error / 2 + alpha (l1 |w|_1 + (1 - l1) |w|^2 / 2), by FISTA."""
  gram, cross, x_mean, y_mean = _moments(x, y, weights)
  ridge = alpha * (1 - l1_share)
  # The trace bounds the largest eigenvalue; rows of one-hot keep it near 1.
  rate = 1 / (jnp.trace(gram) + ridge + 1e-12)

  def step(state, _):
    slope, ahead, momentum = state
    moved = ahead - rate * (gram @ ahead + ridge * ahead - cross)
    threshold = rate * alpha * l1_share
    new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0)
    next_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
    ahead = new + (momentum - 1) / next_momentum * (new - slope)
    return (new, ahead, next_momentum), None

  zeros = jnp.zeros_like(cross)
  start = (zeros, zeros, jnp.ones((), x.dtype))
  (slope, _, _), _ = jax.lax.scan(step, start, length=500)
  return lambda rows: y_mean[None] + (rows - x_mean[None]) @ slope


def _moments(x, y, weights):
  """Weighted second moments around the means; `y` [N] or [N, C]."""
  y = y[:, None] if y.ndim == 1 else y
  share = weights / safe(weights.sum())
  x_mean, y_mean = share @ x, share @ y
  centred = x - x_mean[None]
  scaled = share[:, None] * centred
  return centred.T @ scaled, scaled.T @ (y - y_mean[None]), x_mean, y_mean


def _trained(x, y, weights, *, key, num_classes: int, width: int):
  """A linear model, or one hidden layer, by full-batch Adam."""
  share = weights / safe(weights.sum())
  outputs = num_classes or 1
  sizes = (x.shape[1], width, outputs) if width else (x.shape[1], outputs)
  params = [
    {
      "kernel": jax.random.normal(jax.random.fold_in(key, i), (a, b), x.dtype)
      * (1 / max(a, 1)) ** 0.5,
      "bias": jnp.zeros(b, x.dtype),
    }
    for i, (a, b) in enumerate(itertools.pairwise(sizes))
  ]

  def predict(params: Any, rows: jax.Array) -> jax.Array:
    *hidden, last = params
    for layer in hidden:
      rows = jax.nn.relu(rows @ layer["kernel"] + layer["bias"][None])
    return rows @ last["kernel"] + last["bias"][None]

  def loss(params):
    outputs = predict(params, x)
    if num_classes:
      losses = optax.softmax_cross_entropy_with_integer_labels(outputs, y)
    else:
      losses = (outputs[:, 0] - y) ** 2
    return jnp.where(share > 0, share * losses, 0).sum()

  optimizer = optax.adam(_RATE)

  def step(state, _):
    params, moments = state
    updates, moments = optimizer.update(jax.grad(loss)(params), moments)
    return (optax.apply_updates(params, updates), moments), None

  start = (params, optimizer.init(params))
  (params, _), _ = jax.lax.scan(step, start, length=_STEPS)
  return lambda rows: predict(params, rows)


def _rmse(outputs, y, weights):
  total = weights.sum()
  squared = (weights * (outputs[:, 0] - y) ** 2).sum() / safe(total)
  return jnp.where(total > 0, jnp.sqrt(squared), jnp.nan)


def _f1(logits, y, weights, num_classes: int, f1: str):
  """Micro F1, which is the accuracy, or the mean over classes with rows."""
  predicted = jnp.argmax(logits, axis=1)
  total = weights.sum()
  if f1 == "micro":
    right = jnp.where(predicted == y, weights, 0).sum()
    return jnp.where(total > 0, right / safe(total), jnp.nan)
  of = lambda labels: jax.nn.one_hot(labels, num_classes, dtype=weights.dtype)
  hits = weights @ (of(predicted) * of(y))
  actual = weights @ of(y)
  scores = 2 * hits / safe(actual + weights @ of(predicted))
  present = actual > 0
  mean = jnp.where(present, scores, 0).sum() / safe(present.sum())
  return jnp.where(total > 0, mean, jnp.nan)
