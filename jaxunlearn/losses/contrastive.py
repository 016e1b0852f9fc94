"""Losses that compare embeddings or logits within a batch, for distillation.

Source: supervised contrastive learning, Khosla et al. (2020), arXiv:2004.11362;
its form with a teacher's anchors and the confidence-weighted squared error of
online contrastive distillation (OCD-Net, IJCAI 2022), as continual learning
and unlearning by controlled distillation uses them (arXiv:2408.11374).

Embeddings are brought to length 1 here. Rows of weight 0 are neither anchors
nor compared with: nothing in them is read. Memory: [B, B] for a batch of B.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.sampling import blank_rows
from jaxunlearn.core.shaped import arrays, shaped

_FLOOR = 1e-12  # Of an embedding's length, so that 0 stays 0.


def supervised_contrastive(
  embeddings: jax.Array,
  labels: jax.Array,
  temperature: float | jax.Array = 0.07,
  weight: jax.Array | None = None,
) -> jax.Array:
  """Pulls each row's embedding towards those of its class.

  -mean over the other rows k of the anchor's class of
  log softmax_k(<e_j, e_k> / T), the softmax over all rows but the anchor.

  Args:
    embeddings: float [B, D].
    labels: int [B].
    temperature: T > 0; may be traced.
    weight: bool or float [B]; rows of weight 0 are left out. None: all count.

  Returns:
    [B], nats, in at least float32; 0 for rows left out, and for a row that has
    no other of its class.

  Raises:
    ValueError: shapes do not match, temperature <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> apart = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> together = jnp.ones((4, 2))  # One of three others is of the class.
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> found = ju.losses.supervised_contrastive(apart, labels)
    >>> [round(v, 3) for v in found.tolist()]
    [0.0, 0.0, 0.0, 0.0]
    >>> found = ju.losses.supervised_contrastive(together, labels)
    >>> [round(v, 3) for v in found.tolist()]
    [1.099, 1.099, 1.099, 1.099]
  """
  embeddings, labels, present = _prepare(embeddings, labels, weight)
  checks.positive(temperature=temperature)
  others = present[None, :] & ~jnp.eye(labels.shape[0], dtype=bool)
  return _pull(embeddings, embeddings, labels, present, others, temperature)


def teacher_contrastive(
  teacher_embeddings: jax.Array,
  embeddings: jax.Array,
  labels: jax.Array,
  temperature: float | jax.Array = 0.07,
  weight: jax.Array | None = None,
) -> jax.Array:
  """Pulls the student's embeddings towards the teacher's of the same class.

  As `supervised_contrastive` with the teacher's rows as anchors (no gradient)
  and the student's to compare with; here the anchor's own row is among them.

  Args:
    teacher_embeddings: float [B, D].
    embeddings: float [B, D], the student's.
    labels: int [B].
    temperature: T > 0; may be traced.
    weight: bool or float [B]; rows of weight 0 are left out. None: all count.

  Returns:
    [B], nats, >= 0, in at least float32; 0 for rows left out.

  Raises:
    ValueError: shapes do not match, temperature <= 0.

  Example:
    >>> e = jnp.eye(3)
    >>> print(f"{teacher_contrastive(e, e, jnp.arange(3), 1.0)[0]:.4f}")
    0.5514
  """
  wanted = "embeddings [...] and teacher_embeddings [...]"
  shaped(wanted, embeddings, teacher_embeddings)
  anchors, _, _ = _prepare(teacher_embeddings, labels, weight)
  embeddings, labels, present = _prepare(embeddings, labels, weight)
  checks.positive(temperature=temperature)
  return _pull(
    jax.lax.stop_gradient(anchors),
    embeddings,
    labels,
    present,
    jnp.broadcast_to(present[None, :], (labels.size, labels.size)),
    temperature,
  )


def confidence_weighted_mse(
  logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  temperature: float | jax.Array = 1.0,
) -> jax.Array:
  """Squared error to a teacher's logits, by how sure it is of the label.

  softmax(teacher / T)[label] * mean_c (logits_c - teacher_c)^2, no gradient
  through the teacher.

  Args:
    logits: float [B, C], the student's.
    teacher_logits: float [B, C].
    labels: int [B], in 0 .. C - 1.
    temperature: T > 0 of the confidence; may be traced.

  Returns:
    [B], >= 0, in at least float32.

  Raises:
    ValueError: shapes do not match, labels out of range, temperature <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> teacher = jnp.array([[30.0, 0.0], [0.0, 0.0]])  # Sure, and unsure.
    >>> student, labels = teacher + 2.0, jnp.array([0, 0])
    >>> ju.losses.confidence_weighted_mse(student, teacher, labels).tolist()
    [4.0, 2.0]
  """
  logits = arrays("logits [...]", logits)
  teacher_logits = arrays("teacher_logits [...]", teacher_logits)
  labels = arrays("labels [...]", labels)
  wanted = "logits [B, C], teacher_logits [B, C] and labels [B]"
  shaped(wanted, logits, teacher_logits, labels)
  checks.labels(labels, logits.shape[1], "labels")
  checks.positive(temperature=temperature)
  teacher = jax.lax.stop_gradient(_widened(teacher_logits))
  confidence = jnp.take_along_axis(
    jax.nn.softmax(teacher / temperature), labels[:, None], axis=1
  )[:, 0]
  return confidence * jnp.square(_widened(logits) - teacher).mean(axis=1)


def _widened(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _prepare(embeddings, labels, weight):
  """Embeddings of length 1, labels, and which rows count."""
  embeddings, labels = arrays(
    "embeddings [B, D] and labels [B]", embeddings, labels
  )
  present = jnp.ones(labels.shape, bool)
  if weight is not None:
    present = jnp.asarray(weight) > 0
    shaped(f"weight [{len(labels)}]", present)
  rows = _widened(blank_rows(embeddings, present))
  length = optax.safe_norm(rows, _FLOOR, axis=1, keepdims=True)
  return rows / length, labels, present


def _pull(anchors, embeddings, labels, present, compared, temperature):
  """-mean over compared rows of the anchor's class of the log softmax."""
  similarity = anchors @ embeddings.T / temperature
  # Of an anchor that is compared with nothing, the softmax must stay finite.
  masked = jnp.where(compared, similarity, -1e9)
  log_share = jax.nn.log_softmax(masked, axis=1)
  positive = compared & (labels[:, None] == labels[None, :])
  count = positive.sum(axis=1)
  total = jnp.where(positive, log_share, 0).sum(axis=1)
  return jnp.where(present & (count > 0), -total / jnp.maximum(count, 1), 0)
