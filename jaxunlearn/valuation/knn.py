"""KNN-Shapley: exact Shapley values of a nearest-neighbour classifier.

Class: exact for its own utility, a stand-in for that of another model. Data
access: features and labels of training and validation rows. Cost: no training;
a sort of the N rows for each of the V validation rows, V N D for the distances.

The utility of a set S for a validation row is the share 1/K of its nearest
min(K, |S|) rows in S that have its label; that of all validation rows is the
mean. With the rows sorted, alpha_1 the nearest, and match_i whether alpha_i has
the label,

    s_N = match_N min(K, N) / (K N)
    s_i = s_{i+1} + (match_i - match_{i+1}) / K * min(K, i) / i.

Source: Jia et al. (2019), arXiv:1908.08619. Differences: s_N as above, which is
right for K > N too (the paper, and libraries, start with match_N / N).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.per_example import sum_chunks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.valuation.types import Valuation


def knn_shapley(
  features: jax.Array,
  labels: jax.Array,
  validation_features: jax.Array,
  validation_labels: jax.Array,
  *,
  num_neighbours: int | jax.Array = 5,
  row_mask: jax.Array | None = None,
  chunk_size: int = 32,
) -> Valuation:
  """Shapley values of rows for a K-nearest-neighbour classifier.

  Distances are Euclidean: standardise the features, or take those of a model's
  last layer. Rows at the same distance are taken in the order of their numbers.

  Args:
    features: float [N, ...], flattened.
    labels: int [N].
    validation_features: float [V, ...], V >= 1.
    validation_labels: int [V].
    num_neighbours: K >= 1, also above N; may be traced.
    row_mask: None, or bool [N], the rows that take part; may be traced.
    chunk_size: static; validation rows at a time. Memory holds a few matrices
      [chunk_size, N].

  Returns:
    The values, with standard errors of 0, and of rows that do not take part
    nan; no evaluations. They add up to `utility_full`.

  Raises:
    ValueError: no rows, no validation rows, K < 1, chunk_size < 1, shapes that
      do not fit, labels that are no integers, a mask that is not bool, or
      (outside jit) features that are not finite.

  Example:
    >>> x = jnp.arange(5.0)[:, None]
    >>> label = jnp.array([1, 0, 1, 1, 0])
    >>> found = knn_shapley(x, label, x[:1], label[:1], num_neighbours=1)
    >>> found.values.tolist()
    [0.75, -0.25, 0.25, 0.25, 0.0]
  """
  checks.counts(chunk_size=chunk_size)
  if checks.is_concrete(num_neighbours):  # It may be traced.
    checks.counts(num_neighbours=num_neighbours)
  x, labels = _points(features, labels, "features", "labels")
  validation = _points(
    validation_features,
    validation_labels,
    "validation_features",
    "validation_labels",
  )
  wanted = "features [N, D] and validation_features [M, D]"
  shaped(wanted, x, validation[0])
  n, num_validation = x.shape[0], validation[0].shape[0]
  mask = jnp.ones(n, bool) if row_mask is None else row_mask
  mask = arrays(f"row_mask bool [{n}]", mask)
  k = jnp.asarray(num_neighbours, jnp.float32)
  place = jnp.arange(1, n + 1, dtype=jnp.float32)
  share = jnp.minimum(k, place) / (k * place)

  def of_row(point: jax.Array, label: jax.Array) -> jax.Array:
    # As differences, which the compiler fuses: equal rows are at exactly equal
    # distances, and nothing [N, D] is kept.
    distance = ((x - point[None, :]) ** 2).sum(axis=1)
    order = jnp.argsort(jnp.where(mask, distance, jnp.inf), stable=True)
    # Rows that do not take part come last and match nothing, so that the
    # recursion begins with the last one that does.
    match = (mask & (labels == label))[order].astype(jnp.float32)
    steps = share * (match - jnp.append(match[1:], 0.0))
    values = jax.lax.cumsum(steps, reverse=True)
    return jnp.zeros(n, jnp.float32).at[order].set(values, unique_indices=True)

  def of_chunk(rows: PyTree, weight: jax.Array) -> jax.Array:
    values = jax.vmap(of_row)(*rows)
    return jnp.where(weight[:, None] > 0, values, 0).sum(axis=0)

  ones = jnp.ones(num_validation, bool)
  total = sum_chunks(of_chunk, validation, ones, chunk_size=chunk_size)
  values = total / num_validation
  return Valuation(
    jnp.where(mask, values, jnp.nan),
    jnp.where(mask, jnp.zeros(n), jnp.nan),
    jnp.zeros((), jnp.int32),
    jnp.where(mask, values, 0).sum(),
    jnp.array(True),
  )


def _points(
  features: jax.Array, labels: jax.Array, name: str, label_name: str
) -> tuple[jax.Array, jax.Array]:
  """Features [N, D] in float32 and labels [N], N >= 1."""
  features, labels = arrays(
    f"{name} [N > 0, ..., D] and {label_name} int [N]", features, labels
  )
  checks.finite(features, name)
  flat = features.reshape(features.shape[0], -1)
  return flat.astype(jnp.float32), labels
