"""Losses of a classifier against integer labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy of each example, -log softmax(logits)[label].

  Args:
    logits: float [..., C]; -inf is allowed and means probability 0.
    labels: int [...], in 0 .. C - 1.

  Returns:
    [...], nats, >= 0, in at least float32. Under jit, where labels cannot be
    looked at, a label outside 0 .. C - 1 gives nan for its row.

  Raises:
    ValueError: shapes do not match; labels are no integers or out of range.

  Example:
    >>> float(cross_entropy(jnp.zeros((1, 2)), jnp.array([1]))[0])
    0.693...
  """
  logits, labels = arrays("logits [..., C] and labels [...]", logits, labels)
  num_classes = logits.shape[-1]
  checks.labels(labels, num_classes, "labels")
  logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
  # A common shift changes nothing in exact arithmetic; in float32 it keeps the
  # digits of the loss when the logits themselves are large.
  top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  losses = optax.losses.softmax_cross_entropy_with_integer_labels(
    logits - top, labels
  )
  # Indexing would let -1 mean the last class.
  known = (labels >= 0) & (labels < num_classes)
  return jnp.where(known, losses, jnp.nan)
