"""How well a model does its task: on rows to keep, to forget, or never seen.

All take logits and labels of all rows, and `weights` that say which count:
`forget_mask` for the forget set, `~forget_mask` for the retain set.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows


def accuracy(
  logits: jax.Array, labels: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Share of rows whose largest logit is at their label.

  Better: on retain and test rows, higher. On the forget set the aim is the
  retrained model's value (in expectation its accuracy on unseen rows of the
  same kind: 0 for a whole class, the test accuracy for random rows), not 0.

  Args:
    logits: float [N, C]; of equal largest ones the first counts.
    labels: int [N], in 0 .. C - 1.
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    [], in [0, 1]; nan for an empty set, and where a counted row has a logit that
    is nan or +inf: a model that diverged has not forgotten.

  Raises:
    ValueError: shapes or dtypes do not match, labels out of range.

  Example:
    >>> logits = jnp.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    >>> forget_mask = jnp.array([True, True, False])
    >>> accuracy(logits, jnp.array([0, 0, 0]), forget_mask)
    Array(0.5, dtype=float32)
  """
  logits = _rows.rows_of(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  return _rows.weighted_mean(_rows.is_right(logits, labels), weights)


def mean_cross_entropy(
  logits: jax.Array, labels: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Mean softmax cross-entropy of the rows.

  Better: on retain and test rows, lower. On the forget set the aim is the
  retrained model's value (in expectation its loss on unseen rows of the same
  kind); far above it is over-forgetting.

  Args:
    logits: float [N, C].
    labels: int [N], in 0 .. C - 1.
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    [], nats, >= 0; nan for an empty set.

  Raises:
    ValueError: shapes or dtypes do not match, labels out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]]))
    >>> round(float(metrics.mean_cross_entropy(logits, jnp.array([0, 0]))), 3)
    1.498
  """
  logits = _rows.rows_of(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  losses = -_rows.at_label(jax.nn.log_softmax(logits), labels)
  return _rows.weighted_mean(losses, weights)


def confusion_matrix(
  logits: jax.Array,
  labels: jax.Array,
  num_classes: int,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Counts of rows by true class (rows) and predicted class (columns).

  Neither direction is better by itself. For a forgotten class the retrained
  model spreads its row over the classes that look alike; all of it in one
  column is a sign that a method left a trace.

  Args:
    logits: float [N, num_classes].
    labels: int [N], in 0 .. num_classes - 1.
    num_classes: C; static.
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    float [C, C], sums of weights; all 0 for an empty set. Rows with a logit
    that is nan or +inf predict nothing and are left out.

  Raises:
    ValueError: shapes or dtypes do not match, labels out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]])
    >>> metrics.confusion_matrix(logits, jnp.array([0, 0, 1]), 2).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
  """
  logits = _rows.rows_of(logits, "logits")
  shaped(f"logits [N, {num_classes}]", logits)
  labels = _rows.labels_of(labels, logits).astype(jnp.int32)
  weights = _rows.weights_of(weights, logits)
  predicted = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  known = (labels >= 0) & (labels < num_classes)
  known &= (logits < jnp.inf).all(axis=-1) & (weights > 0)
  # Rows that do not count go to a cell that does not exist.
  cell = jnp.where(known, labels * num_classes + predicted, num_classes**2)
  counts = jnp.zeros(num_classes**2, logits.dtype)
  counts = counts.at[cell].add(weights, mode="drop")
  return counts.reshape(num_classes, num_classes)


def unweighted_f1(counts: jax.Array) -> jax.Array:
  """UF1: the mean over classes of 2 TP / (2 TP + FP + FN), []; 1 is best.

  Args:
    counts: [C, C] of `confusion_matrix`; of several folds, their sum, as facial
      expressions are scored when each subject is left out once (MEGC 2019).

  Returns:
    In [0, 1], over the classes that have rows; nan without any.

  Raises:
    ValueError: counts that are not [C, C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> counts = jnp.array([[1.0, 1.0], [0.0, 2.0]])
    >>> round(float(metrics.unweighted_f1(counts)), 4)
    0.7333
  """
  counts = _counts_of(counts)
  hits = jnp.diagonal(counts)
  both = counts.sum(axis=0) + counts.sum(axis=1)
  share = 2 * hits / jnp.where(both > 0, both, 1)
  return _rows.weighted_mean(share, counts.sum(axis=1) > 0)


def unweighted_recall(counts: jax.Array) -> jax.Array:
  """UAR: the mean over classes of the share that is right, as `unweighted_f1`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> counts = jnp.array([[1.0, 1.0], [0.0, 2.0]])
    >>> float(metrics.unweighted_recall(counts))
    0.75
  """
  counts = _counts_of(counts)
  total = counts.sum(axis=1)
  share = jnp.diagonal(counts) / jnp.where(total > 0, total, 1)
  return _rows.weighted_mean(share, total > 0)


def _counts_of(counts: jax.Array) -> jax.Array:
  counts = _rows.rows_of(counts, "counts")
  if counts.shape[0] != counts.shape[1]:
    raise ValueError(f"Expected counts [C, C], got shape {counts.shape}.")
  return counts


class ClassOutcomes(NamedTuple):
  """What a model says of each class, on average; nan for one without rows.

  Attributes:
    shares: float [C, C], of the rows of a class those predicted to be each.
    confidences: float [C, C], the mean probability of each class on them.
  """

  shares: jax.Array
  confidences: jax.Array


def class_outcomes(
  logits: jax.Array,
  labels: jax.Array,
  num_classes: int,
  weights: jax.Array | None = None,
) -> ClassOutcomes:
  """Predictions and confidences by true class (rows); rows sum to 1.

  The diagonal of the shares is the accuracy of each class. The aim is the
  retrained model's matrices, in every row.

  Args:
    logits: float [N, num_classes].
    labels: int [N], in 0 .. num_classes - 1.
    num_classes: C; static.
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    See `ClassOutcomes`; nan where a counted row has a logit that is nan or +inf.

  Raises:
    ValueError: see `confusion_matrix`.

  Example:
    >>> logits = jnp.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    >>> class_outcomes(logits, jnp.array([0, 0, 1]), 2).shares.tolist()
    [[0.5, 0.5], [1.0, 0.0]]
  """
  counts = confusion_matrix(logits, labels, num_classes, weights)
  logits = _rows.rows_of(logits, "logits")
  weight = _rows.weights_of(weights, logits)
  broken = ~(logits < jnp.inf).all(axis=-1, keepdims=True)
  told = jnp.where(broken, jnp.nan, jax.nn.softmax(logits))
  told = jnp.where(weight[:, None] > 0, told * weight[:, None], 0)
  member = jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
  total = (member * weight[:, None]).sum(0)[:, None]
  # Not a product with the members: 0 times nan would reach every class.
  sums = jnp.zeros_like(counts).at[labels].add(told)
  has_nan = jnp.isnan(sums)
  return ClassOutcomes(
    jnp.where(has_nan, jnp.nan, counts) / total, sums / total
  )
