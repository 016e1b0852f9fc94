"""Directions of embeddings, and whom they take for whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def unit(x: jax.Array) -> jax.Array:
  """Vectors of length 1 along the last axis; zeros stay, with gradient 0."""
  size = (x * x).sum(axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.where(size == 0, 1.0, size))


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """The cosine in [-1, 1] along the last axis; 0 where one is all zeros."""
  return (unit(a) * unit(b)).sum(axis=-1)


def retrieval(
  gallery: jax.Array,
  gallery_ids: jax.Array,
  queries: jax.Array,
  query_ids: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """By cosine, of each query: rank-1, average precision, verification gap.

  Images that are equally near count together, so that embeddings that are all
  the same have the share of the identity in the gallery. Cost: G^2 a query.

  Returns:
    [Q] each; nan for a query of nobody in the gallery.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> gallery = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> queries = jnp.array([[1.0, 0.1], [1.0, 0.2]])  # Both nearest to 0's.
    >>> rank_1, precision, gap = ju.identity.retrieval(
    ...   gallery, jnp.array([0, 1]), queries, jnp.array([0, 1]))
    >>> rank_1.tolist(), precision.tolist()
    ([1.0, 0.0], [1.0, 0.5])
    >>> [round(v, 1) for v in gap.tolist()]
    [0.9, -0.8]
  """
  near = unit(queries) @ unit(gallery).T
  same = query_ids[:, None] == gallery_ids[None]
  count = same.sum(axis=1)
  best = near == near.max(axis=1, keepdims=True)
  rank_1 = (best & same).sum(axis=1) / best.sum(axis=1)

  at_least = near[:, None] >= near[..., None]  # [query, hit, image]
  hits = (at_least & same[:, None]).sum(axis=2) / at_least.sum(axis=2)
  ap = jnp.where(same, hits, 0).sum(axis=1) / count
  mean = lambda mask: jnp.where(mask, near, 0).sum(axis=1) / mask.sum(axis=1)
  return jnp.where(count > 0, rank_1, jnp.nan), ap, mean(same) - mean(~same)
