"""DLIF: liveness without identity, for anti-spoofing in unseen domains.

Source: Yang et al. (2024), arXiv:2407.08243, and its released code.
Class: objectives. Model state: none.
Departures from the released code: heads have unit weights in truth (there the
normalisation changes nothing); losses are one per row; only the losses of what
the two branches are given are here, no cascade of style-crossed layers.

Two branches end in unit vectors: u for liveness, v for identity. That u is
orthogonal to v over a batch, or that the identity's head says nothing about u,
does NOT take identities out of u: a fresh probe still reads them. Ask
`identity.audit`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.identity.vectors import unit
from jaxunlearn.losses import cross_entropy, supervised_contrastive

SCALE = 30.0
MARGINS = (0.1, 0.4)  # Of spoof (0) and of live (1).
TEMPERATURE = 0.02
_EPSILON = 1e-5  # Beside a variance.


def cosine_scores(features: jax.Array, kernel: jax.Array) -> jax.Array:
  """Cosines [B, C] of features [B, D] and the columns of a kernel [D, C]."""
  return unit(features) @ unit(kernel.T).T


def batch_orthogonality(
  u: jax.Array, v: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
  """mean_b <u_a, v_b>^2 for each row a of u [B, D], [B]; no gradient into v [M, D].

  Rows have length 1; those of v of weight 0 (weight [M]) are left out.
  """
  weight = jnp.ones(len(v)) if weight is None else jnp.asarray(weight)
  present = weight > 0
  other = jnp.where(present[:, None], jax.lax.stop_gradient(v), 0.0)
  return jnp.square(u @ other.T).sum(axis=1) / jnp.maximum(present.sum(), 1)


def am_softmax(
  scores: jax.Array,
  labels: jax.Array,
  margins: tuple[float, ...] = MARGINS,
  scale: float | jax.Array = SCALE,
) -> jax.Array:
  """Cross entropy [B] of cosines [B, C] with a margin off the true one.

  Margins are one per class, >= 0; of zeros it is a plain softmax. The scale > 0 of
  both may be traced.
  """
  if len(margins) != scores.shape[-1]:
    raise ValueError(
      f"Expected {scores.shape[-1]} margins, one per class, got {len(margins)}."
    )
  checks.positive(scale=scale)
  own = jax.nn.one_hot(labels, len(margins)) * jnp.array(margins)[None]
  return cross_entropy(scale * (scores - own), labels)


def ambiguity(scores: jax.Array) -> jax.Array:
  """mean_c (score_c - 1 / C)^2 of scores [B, C], [B]: 0 iff all are 1 / C."""
  return jnp.square(scores - 1 / scores.shape[-1]).mean(axis=-1)


def style_cross(x: jax.Array, partner: jax.Array) -> jax.Array:
  """Images with the style of others: mean and deviation of each channel.

  Args:
    x: float [B, ..., C], feature maps.
    partner: int [B], whose style each row gets: for u a row of the same
      liveness, for v one of the same identity and of another liveness.
  """
  axes = tuple(range(1, x.ndim - 1))
  mean = x.mean(axis=axes, keepdims=True)
  spread = jnp.sqrt(x.var(axis=axes, keepdims=True) + _EPSILON)
  return (x - mean) / spread * spread[partner] + mean[partner]


def asymmetric_contrast(
  features: jax.Array,
  crossed: jax.Array,
  live: jax.Array,
  weight: jax.Array | None = None,
  temperature: float | jax.Array = TEMPERATURE,
) -> jax.Array:
  """Live rows are drawn together, a spoof row to its own crossed form alone.

  Args:
    features: float [B, D].
    crossed: float [B, D], of the style-crossed rows.
    live: bool [B].
    weight: [B]; rows of weight 0 are left out.
    temperature: > 0; may be traced.

  Returns:
    [B], means over a row and its crossed form; 0 without any positive.
  """
  label = jnp.where(live, 0, 1 + jnp.arange(len(live)))
  return _contrast(features, crossed, label, weight, temperature)


class Branches(NamedTuple):
  """What the two networks make of a batch; rows of length 1.

  Attributes:
    u: [B, D], of liveness.
    v: [B, D], of identity.
    u_crossed: [B, D], u of rows with another's style.
    v_crossed: [B, D].
    live_kernel: [D, 2], the head of liveness.
    identity_kernel: [D, K], the head of identities.
  """

  u: jax.Array
  v: jax.Array
  u_crossed: jax.Array
  v_crossed: jax.Array
  live_kernel: jax.Array
  identity_kernel: jax.Array


def dlif_losses(
  branches: Branches,
  live: jax.Array,
  ids: jax.Array,
  weight: jax.Array | None = None,
  *,
  orthogonality: float | jax.Array = 1.0,
  ambiguous: float | jax.Array = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """The losses of the two steps, [B] each: of u with its head, and of v.

  Args:
    branches: see `Branches`.
    live: bool [B].
    ids: int [B], in 0 .. K - 1.
    weight: [B], 0 marks padding.
    orthogonality: of `batch_orthogonality`; the paper's is 1. May be traced.
    ambiguous: of `ambiguity` by the other branch's head, which stays.
  """
  b, still = branches, jax.lax.stop_gradient
  live = jnp.asarray(live, bool)
  liveness = am_softmax(
    cosine_scores(b.u, b.live_kernel), live.astype(jnp.int32)
  )
  known = cross_entropy(SCALE * cosine_scores(b.v, b.identity_kernel), ids)
  unknown = ambiguity(cosine_scores(b.u, still(b.identity_kernel)))
  lifeless = ambiguity(cosine_scores(b.v, still(b.live_kernel)))
  first = liveness + asymmetric_contrast(b.u, b.u_crossed, live, weight)
  second = known + _contrast(b.v, b.v_crossed, ids, weight, TEMPERATURE)
  return (
    first
    + orthogonality * batch_orthogonality(b.u, b.v, weight)
    + ambiguous * unknown,
    second
    + orthogonality * batch_orthogonality(b.v, b.u, weight)
    + ambiguous * lifeless,
  )


def _contrast(features, crossed, label, weight, temperature):
  weight = jnp.ones(len(label)) if weight is None else weight
  twice = lambda a, b: jnp.concatenate([a, b])
  found = supervised_contrastive(
    twice(features, crossed),
    twice(label, label),
    temperature,
    twice(weight, weight),
  )
  return found.reshape(2, -1).mean(axis=0)
