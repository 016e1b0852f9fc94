"""Link prediction: logits of pairs of nodes, and losses from them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree, Variables


def inner_product(variables: Variables, z: jax.Array, pairs: jax.Array):
  """Logits [B] of pairs, <z[u], z[v]>; a `GraphModel.decode`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.graph import losses
    >>> z = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> losses.inner_product(None, z, jnp.array([[0, 1], [0, 0]])).tolist()
    [11.0, 5.0]
  """
  del variables
  z = z.astype(jnp.promote_types(jnp.float32, z.dtype))
  ends = z[pairs]
  return (ends[..., 0, :] * ends[..., 1, :]).sum(axis=-1)


def link_loss(logits: jax.Array, rows: PyTree) -> jax.Array:
  """Binary cross entropy of each pair, rows["label"] in {0, 1}; nats [B].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> rows = {"label": jnp.array([1, 0])}
    >>> loss = graph.link_loss(jnp.array([2.0, 2.0]), rows)
    >>> [round(nats, 3) for nats in loss.tolist()]
    [0.127, 2.127]
  """
  logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
  label = rows["label"].astype(logits.dtype)
  return jax.nn.softplus(logits) - label * logits


def bernoulli_kl(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
  """KL(Bern(sigmoid(teacher)) || Bern(sigmoid(logits))), nats [...].

  The gradient is sigmoid(logits) - sigmoid(teacher), exactly 0 for equal
  logits, and none flows into the teacher; there is no second derivative. Finite
  for any finite logits.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> teacher, student = jnp.array([0.0, 0.0]), jnp.array([0.0, 2.0])
    >>> divergence = graph.bernoulli_kl(student, teacher)
    >>> [round(nats, 3) for nats in divergence.tolist()]
    [0.0, 0.434]
  """
  dtype = jnp.promote_types(jnp.float32, logits.dtype)
  s = logits.astype(dtype)
  t = jax.lax.stop_gradient(teacher_logits).astype(dtype)
  p = jax.nn.sigmoid(t)
  log_p = jax.nn.log_sigmoid
  fixed = jax.lax.stop_gradient(s)
  value = p * (log_p(t) - log_p(fixed))
  value += jax.nn.sigmoid(-t) * (log_p(-t) - log_p(-fixed))
  # The value that keeps its digits, with the gradient that is exact.
  slope = jax.nn.sigmoid(fixed) - p
  return value + slope * (s - fixed)
