"""Infinite-ID: identity by cross-attention of its own, text by the model's.

Source: Wu et al. (2024), arXiv:2403.11781; no code is released, and the formulas
are those of a public note on the paper, not of the paper itself.
Class: objectives and attention; with weight 0 of the identity they are a guard.
Model state: none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.identity.disenbooth import PredictNoise
from jaxunlearn.losses import squared_error

KeyValue = tuple[jax.Array, jax.Array]


def same_identity(
  ids: jax.Array, key: jax.Array, weight: jax.Array | None = None
) -> jax.Array:
  """For each row another one of the same identity at random, int32 [B].

  Rows of weight 0 are nobody's partner; a row that has no other gets itself.
  """
  ids = jnp.asarray(ids)
  others = (ids[:, None] == ids[None]) & ~jnp.eye(len(ids), dtype=bool)
  if weight is not None:
    others &= (jnp.asarray(weight) > 0)[None]
  drawn = jax.random.categorical(key, jnp.where(others, 0.0, -jnp.inf))
  own = jnp.arange(len(ids))
  return jnp.where(others.any(axis=1), drawn, own).astype(jnp.int32)


def identity_only_denoising(
  predict: PredictNoise,
  noisy: jax.Array,
  noise: jax.Array,
  time: jax.Array,
  identity: jax.Array,
) -> jax.Array:
  """Denoises photos by the identity in others, without a prompt: [B].

  `predict` has its attention to text switched off; `identity` [B, L, D] are tokens
  of the rows that `same_identity` names. See `disenbooth_loss` for the rest.
  """
  return squared_error(predict(noisy, time, identity), noise)


def mixed_attention(
  query: jax.Array,
  identity: KeyValue,
  text: KeyValue,
  identity_weight: float | jax.Array = 1.0,
) -> jax.Array:
  """Self-attention over the keys of both streams, Attn(Q, [K_id; K_t], ...).

  Args:
    query: float [B, Q, H, D].
    identity: keys and values [B, L, H, D] of the identity's stream.
    text: keys and values [B, M, H, D] of the text's.
    identity_weight: >= 0, [] or [B]: by what the attention to identity keys is
      multiplied before it is made to sum to 1. 1 is the paper's; at 0 a row is
      that of the text's stream alone, whatever the identity's holds.

  Returns:
    [B, Q, H, D].
  """
  weight = jnp.broadcast_to(jnp.asarray(identity_weight), query.shape[:1])
  matched = (weight > 0)[:, None, None, None]
  # A stream that is not attended to must not reach the result as 0 * nan.
  safe = tuple(jnp.where(matched, part, 0.0) for part in identity)
  keys, values = (jnp.concatenate([a, b], axis=1) for a, b in zip(safe, text))
  log_weight = jnp.log(weight)[:, None]
  lengths = identity[0].shape[1], text[0].shape[1]
  bias = jnp.concatenate(
    [
      jnp.broadcast_to(log_weight, (len(weight), lengths[0])),
      jnp.zeros((len(weight), lengths[1])),
    ],
    axis=1,
  )
  return jax.nn.dot_product_attention(
    query, keys, values, bias=bias[:, None, None].astype(query.dtype)
  )


def merged_attention(
  query: jax.Array,
  identity: KeyValue,
  text: KeyValue,
  identity_weight: float | jax.Array = 1.0,
) -> jax.Array:
  """Cross-attention of both streams added up; arguments as `mixed_attention`."""
  weight = jnp.broadcast_to(jnp.asarray(identity_weight), query.shape[:1])
  weight = weight[:, None, None, None]
  said = jax.nn.dot_product_attention(query, *identity)
  plain = jax.nn.dot_product_attention(query, *text)
  return plain + jnp.where(weight > 0, weight * said, 0.0)


def adain_mean(x: jax.Array, y: jax.Array) -> jax.Array:
  """x with the mean of y, by channel over positions; its variance stays.

  Args:
    x: float [B, L, ...], keys or values of the identity.
    y: float [B, M, ...], those of the text.
  """
  return x - x.mean(axis=1, keepdims=True) + y.mean(axis=1, keepdims=True)
