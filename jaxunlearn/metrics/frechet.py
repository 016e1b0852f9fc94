"""Frechet distance between two sets of features, as of generated and real images.

Source: Dowson and Landau (1982); as a score of images Heusel et al. (2017),
arXiv:1706.08500. The features are those of whatever network the caller trained:
this is NOT the FID, whose network is a certain one, and must not be compared with
it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows


class FeatureStatistics(NamedTuple):
  """Mean [D] and covariance [D, D] of features, in at least float32."""

  mean: jax.Array
  covariance: jax.Array


def feature_statistics(
  features: jax.Array, weights: jax.Array | None = None
) -> FeatureStatistics:
  """Mean and covariance of features, for `frechet_distance`.

  Args:
    features: float [N, D].
    weights: bool or float [N] >= 0; None is 1. Rows of weight 0 are not read.

  Returns:
    `FeatureStatistics`; the covariance is divided by the sum of weights less
    one; nan where that is not positive.

  Raises:
    ValueError: features or weights of another shape or dtype.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> found = metrics.feature_statistics(jnp.array([[0.0, 1.0], [2.0, 1.0]]))
    >>> found.mean.tolist(), found.covariance.tolist()
    ([1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
  """
  features = _rows.rows_of(features, "features")
  weights = _rows.weights_of(weights, features)
  kept = weights > 0
  features = jnp.where(kept[:, None], features, 0)
  weights = jnp.where(kept, weights, 0)
  total = weights.sum()
  summed = jnp.matmul(weights, features, precision="highest")
  mean = summed / jnp.where(total > 0, total, jnp.nan)
  centred = jnp.where(kept[:, None], features - mean[None], 0)
  summed = jnp.matmul(
    (weights[:, None] * centred).T, centred, precision="highest"
  )
  return FeatureStatistics(
    mean, summed / jnp.where(total > 1, total - 1, jnp.nan)
  )


def frechet_distance(
  first: FeatureStatistics,
  second: FeatureStatistics,
  *,
  ridge: float | jax.Array = 0.0,
) -> jax.Array:
  """||m1 - m2||^2 + tr(C1 + C2 - 2 (C1^{1/2} C2 C1^{1/2})^{1/2}).

  The squared Wasserstein-2 distance of two normal laws. Roots are taken by
  symmetric eigendecompositions: no complex number comes up.

  Args:
    first: mean [D] and covariance [D, D].
    second: the same.
    ridge: added to both diagonals, >= 0; may be traced.

  Returns:
    float32 [] >= 0, lower is better; symmetric up to rounding, about 1e-6 of
    the traces (float32).

  Raises:
    ValueError: shapes that do not match, a negative ridge.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> first = metrics.FeatureStatistics(jnp.zeros(2), jnp.eye(2))
    >>> second = metrics.FeatureStatistics(jnp.full(2, 3.0), 4 * jnp.eye(2))
    >>> round(float(metrics.frechet_distance(first, second)), 3)
    20.0
  """
  checks.non_negative(ridge=ridge)
  mean, other = _rows.widened(first.mean), _rows.widened(second.mean)
  _rows.same_shape(mean, other, "first.mean", "second.mean")
  shaped("means [D]", mean)
  wanted = mean.shape * 2
  for s in (first, second):
    shaped(f"covariances {list(wanted)}", s.covariance)
  diagonal = ridge * jnp.eye(wanted[0], dtype=mean.dtype)
  a, b = (_rows.widened(s.covariance) + diagonal for s in (first, second))
  # The trace of the root is the sum of the singular values of C1^{1/2} C2^{1/2};
  # to take those of the square would lose half of the digits.
  roots = jnp.matmul(_root(a), _root(b), precision="highest")
  shared = jnp.linalg.svd(roots, compute_uv=False).sum()
  spread = jnp.trace(a) + jnp.trace(b) - 2 * shared
  apart = jnp.square(mean - other).sum()
  # Rounding may leave it below 0, but a nan has to stay one.
  return apart + jnp.where(spread < 0, 0, spread)


def feature_frechet_distance(
  features: jax.Array,
  references: jax.Array,
  *,
  weights: jax.Array | None = None,
  reference_weights: jax.Array | None = None,
  ridge: float | jax.Array = 0.0,
) -> jax.Array:
  """`frechet_distance` between the features of two sets of images.

  Call it a Frechet distance on the features of the network that they are of;
  it is no FID. It falls with the number of images, so compare equal numbers
  only.

  Args:
    features: float [N, D], of generated images.
    references: float [M, D], of real ones.
    weights: see `feature_statistics`; of `features`.
    reference_weights: of `references`.
    ridge: see `frechet_distance`.

  Returns:
    float32 [] >= 0.

  Raises:
    ValueError: shapes that do not match; at most as many images as features and
      no ridge, since covariances are then not of full rank.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> real = jnp.array([[0.0], [2.0], [4.0]])
    >>> round(float(metrics.feature_frechet_distance(real + 3, real)), 3)
    9.0
  """
  sides = []
  for name, rows, w in (
    ("features", features, weights),
    ("references", references, reference_weights),
  ):
    rows = _rows.rows_of(rows, name)
    _check_count(rows, w, ridge, name)
    sides.append(feature_statistics(rows, w))
  shaped("features [N, D] and references [M, D]", features, references)
  return frechet_distance(*sides, ridge=ridge)


def _check_count(rows, weights, ridge, name: str) -> None:
  weights = None if weights is None else _rows.weights_of(weights, rows)
  known = checks.is_concrete(ridge) and checks.is_concrete(weights)
  if not known or ridge > 0:
    return
  count = len(rows) if weights is None else int((weights > 0).sum())
  if count <= rows.shape[1]:
    raise ValueError(
      f"Expected ridge > 0 where {name} has no more images than features, got "
      f"{count} images, {rows.shape[1]} features and ridge={ridge}."
    )


def _root(matrix: jax.Array) -> jax.Array:
  """The symmetric root of a positive semidefinite matrix."""
  values, vectors = jnp.linalg.eigh(matrix)
  scaled = vectors * jnp.sqrt(jnp.maximum(values, 0))[None]
  return jnp.matmul(scaled, vectors.T, precision="highest")
