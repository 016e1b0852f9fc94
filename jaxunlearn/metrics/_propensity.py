"""Can logistic regression tell real rows from synthetic ones? (pMSE)"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.columns import Columns
from jaxunlearn.metrics._table_columns import (
  Table,
  limits,
  mean_and_std,
  one_hot,
  safe,
  unit_scaled,
)

_BASE = 1.2
_NUM_STEPS = 25
_SHORTENINGS = 2.0 ** -np.arange(8)
_FIXED_PENALTY = 1e-6


class Propensity(NamedTuple):
  """The fit, and what is made of it.

  Attributes:
    score: 1.2^-|1 - ratio|, in (0, 1].
    ratio: pMSE over what it is expected to be.
  """

  score: jax.Array
  ratio: jax.Array


def published_propensity(real: Table, fake: Table) -> Propensity:
  """S4 by columns scaled with the real limits and a penalty of C = 1.

  The expected pMSE is (k - 1) (1 - c)^2 c / N, that of rows drawn from a model
  that was fitted to the real ones.
  """
  low, high = limits(real)
  x = jnp.concatenate([unit_scaled(t, low, high) for t in (real, fake)])
  weights, is_fake = _stacked(real, fake)
  p = _fitted(x, is_fake, weights, 1 / safe(weights.sum()))
  c = fake.weights.sum() / safe(weights.sum())
  expected = x.shape[1] * (c * (1 - c)) ** 2 / _effective(fake.weights)
  return _scored(p, c, weights, expected)


def fixed_propensity(real: Table, fake: Table, layout: Columns) -> Propensity:
  """S4 without penalty, categories one by one, for two independent samples.

  The expected pMSE is c^2 (1 - c)^2 k (1 / n_real + 1 / n_fake), k the number
  of columns of numbers that vary and of levels beyond the first that occur.
  Rows under weights count as their effective number (sum w)^2 / sum w^2.
  """
  weights, is_fake = _stacked(real, fake)
  values = jnp.concatenate([real.values, fake.values])
  both = Table(values, weights, real.is_usable & fake.is_usable)
  mean, std = mean_and_std(both)
  numbers = jnp.where(
    (std > 0)[None], (values - mean[None]) / safe(std)[None], 0
  )
  hot = one_hot(values, layout)
  share = weights @ hot / safe(weights.sum())
  # The first level of each column that occurs goes without saying.
  occurs = (share > 0).astype(values.dtype)
  before = jnp.cumsum(occurs) - occurs
  starts = np.searchsorted(layout.level_group, layout.level_group)
  is_first = before == before[starts] if len(starts) else occurs > 0
  kept = (occurs > 0) & ~is_first
  x = jnp.concatenate(
    [
      numbers[:, layout.numeric],
      jnp.where(kept[None], hot - share[None], 0),
    ],
    axis=1,
  )
  x = jnp.where((weights > 0)[:, None], x, 0)
  degrees = (std > 0)[layout.numeric].sum() + kept.sum()
  p = _fitted(x, is_fake, weights, jnp.asarray(_FIXED_PENALTY, x.dtype))
  c = fake.weights.sum() / safe(weights.sum())
  of_rows = 1 / _effective(real.weights) + 1 / _effective(fake.weights)
  expected = degrees * (c * (1 - c)) ** 2 * of_rows
  return _scored(p, c, weights, expected)


def _stacked(real: Table, fake: Table) -> tuple[jax.Array, jax.Array]:
  weights = jnp.concatenate([real.weights, fake.weights])
  is_fake = np.arange(len(weights)) >= len(real.weights)
  return weights, jnp.asarray(is_fake, weights.dtype)


def _effective(weights: jax.Array) -> jax.Array:
  """As many rows of equal weight as spread a mean as much."""
  return weights.sum() ** 2 / safe((weights**2).sum())


def _scored(
  p: jax.Array, c: jax.Array, weights: jax.Array, expected: jax.Array
) -> Propensity:
  found = (weights * (p - c) ** 2).sum() / safe(weights.sum())
  # Of columns that are all constant nothing is expected and nothing found.
  ratio = jnp.where(expected > 0, found / safe(expected), 0)
  return Propensity(_BASE ** -jnp.abs(1 - ratio), ratio)


def _fitted(
  x: jax.Array, is_fake: jax.Array, weights: jax.Array, penalty: jax.Array
) -> jax.Array:
  """Probabilities [N] of a logistic regression, by Newton's method.

  It minimises the weighted mean of the losses + penalty |w|^2 / 2; the
  intercept is free. Steps that go too far are shortened.
  """
  share = weights / safe(weights.sum())
  x = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
  size = x.shape[1]
  # A trace of it on the intercept keeps the system solvable.
  ridge = penalty * jnp.ones(size, x.dtype).at[-1].set(1e-6)

  def loss(coefficients):
    logits = x @ coefficients
    losses = jnp.logaddexp(0, logits) - is_fake * logits
    return (share * losses).sum() + (ridge * coefficients**2).sum() / 2

  def step(coefficients, _):
    p = jax.nn.sigmoid(x @ coefficients)
    slope = x.T @ (share * (p - is_fake)) + ridge * coefficients
    curvature = x.T @ ((share * p * (1 - p))[:, None] * x)
    # Where the classes part, curvature vanishes.
    damped = ridge + 4 * jnp.finfo(x.dtype).eps
    direction = jnp.linalg.solve(curvature + jnp.diag(damped), slope)
    sizes = jnp.asarray(np.concatenate([_SHORTENINGS, [0]]), x.dtype)
    tried = coefficients[None] - sizes[:, None] * direction[None]
    losses = jax.vmap(loss)(tried)
    best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    return tried[best], None

  start = jnp.zeros(size, x.dtype)
  coefficients, _ = jax.lax.scan(step, start, length=_NUM_STEPS)
  return jax.nn.sigmoid(x @ coefficients)
