"""Pairwise ranking losses of a recommender."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import arrays


def bpr(positive: jax.Array, negative: jax.Array) -> jax.Array:
  """Bayesian personalised ranking, -log sigmoid(positive - negative).

  Args:
    positive: float [...], scores of items that users interacted with.
    negative: float [...], of the same shape, scores of items they did not.

  Returns:
    [...], nats, >= 0, log 2 at equal scores, in at least float32; finite for
    every finite pair of scores.

  Raises:
    ValueError: the shapes differ.

  Example:
    >>> float(bpr(jnp.zeros(1), jnp.zeros(1))[0])
    0.693...

  Source: Rendle et al. (2009), arXiv:1205.2618.
  """
  positive, negative = arrays(
    "positive [...] and negative [...]", positive, negative
  )
  dtype = jnp.promote_types(
    jnp.float32, jnp.promote_types(positive.dtype, negative.dtype)
  )
  return -jax.nn.log_sigmoid(positive.astype(dtype) - negative.astype(dtype))


def reverse_bpr(positive: jax.Array, negative: jax.Array) -> jax.Array:
  """BPR with the roles exchanged: a forgotten item shall rank below another.

  No gradient ascent: it is bounded below by 0, and its gradient vanishes once
  the forgotten item ranks below the other.

  Args:
    positive: float [...], scores of forgotten interactions.
    negative: float [...], scores of items without interaction.

  Returns:
    As `bpr(negative, positive)`.

  Raises:
    ValueError: the shapes differ.

  Source: arXiv:2405.15328 (the direct reading of its abstract).

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> forgotten, others = jnp.array([0.0, -5.0]), jnp.array([0.0, 5.0])
    >>> [round(v, 3) for v in ju.losses.reverse_bpr(forgotten, others).tolist()]
    [0.693, 0.0]
  """
  return bpr(negative, positive)
