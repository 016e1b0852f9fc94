"""Distances between node embeddings under a mask, as means over its rows.

Each is `(z, target, weight) -> []`: embeddings [n, d] and a weight >= 0 a row.
Rows of weight 0 are not read; no row of positive weight gives 0. The means are
GNNDelete's distances (arXiv:2302.13406); `embedding_kl` and `embedding_cosine` as
its code has them, the former bounded by 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.losses.distillation import kl_to_teacher


def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
  """Mean of values [N] under weights [N], 0 where none is positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.graph import objectives
    >>> values = jnp.array([1.0, 3.0, jnp.nan])
    >>> float(objectives.weighted_mean(values, jnp.array([3.0, 1.0, 0.0])))
    1.5
  """
  values = values.astype(jnp.promote_types(jnp.float32, values.dtype))
  counted = weight > 0
  total = jnp.where(counted, weight, 0).sum()
  summed = jnp.where(counted, weight * values, 0).sum()
  return summed / jnp.where(total > 0, total, 1)


def embedding_mse(z: jax.Array, target: jax.Array, weight: jax.Array):
  """Mean squared difference over the rows and all their entries; [], >= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> z, target = jnp.array([[1.0, 2.0], [9.0, 9.0]]), jnp.zeros((2, 2))
    >>> float(graph.embedding_mse(z, target, jnp.array([1.0, 0.0])))
    2.5
  """
  z, target = _blank(z, target, weight)
  return weighted_mean(((z - target) ** 2).mean(axis=1), weight)


def embedding_kl(z: jax.Array, target: jax.Array, weight: jax.Array):
  """1 - exp(-mean KL(softmax(target) || softmax(z))) over the rows; in [0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> z, target = jnp.array([[0.0, 2.0]]), jnp.zeros((1, 2))
    >>> round(float(graph.embedding_kl(z, target, jnp.ones(1))), 3)
    0.352
  """
  z, target = _blank(z, target, weight)
  return -jnp.expm1(-weighted_mean(kl_to_teacher(z, target), weight))


def embedding_cosine(z: jax.Array, target: jax.Array, weight: jax.Array):
  """1 - mean cosine similarity over the rows; in [0, 2], 0 for no rows.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> z = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    >>> target = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> float(graph.embedding_cosine(z, target, jnp.ones(2)))
    0.5
  """
  z, target = _blank(z, target, weight)
  inner = (z * target).sum(axis=1)
  squared = (z**2).sum(axis=1) * (target**2).sum(axis=1)
  # A row of zeros has no direction: similarity 0, and a gradient that is no nan.
  length = jnp.sqrt(jnp.where(squared > 0, squared, 1))
  return weighted_mean(1 - inner / length, weight)


def _blank(z, target, weight):
  """Both in at least float32, rows of weight 0 replaced before any arithmetic."""
  counted = (weight > 0)[:, None]
  dtype = jnp.promote_types(jnp.float32, z.dtype)
  return (
    jnp.where(counted, z.astype(dtype), 0),
    jnp.where(counted, target.astype(dtype), 0),
  )
