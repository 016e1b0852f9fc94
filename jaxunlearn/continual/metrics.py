"""Metrics of a stream: from accuracies after every event, [T, K] for K tasks.

All take `status` [T, K] from `task_status`, which says after every event which
tasks should be known, which forgotten, and which have not come yet. What should
be known is judged by how much of it is; what should be forgotten has the
retrained model for its measure (`retraining`), not 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn.continual.stream import learned_after
from jaxunlearn.continual.types import Stream
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped

UNSEEN, RETAINED, FORGOTTEN = 0, 1, 2


def task_accuracy(
  logits: jax.Array,
  labels: jax.Array,
  task: jax.Array,
  num_tasks: int,
  *,
  class_masks: jax.Array | None = None,
) -> jax.Array:
  """Accuracy on the rows of each task.

  Better: on retained tasks higher; on forgotten ones as the retrained model's.

  Args:
    logits: float [..., N, C]; leading axes for events.
    labels: int [N].
    task: int [N], in 0 .. num_tasks - 1.
    num_tasks: static, K.
    class_masks: None for the class-incremental mode, all classes compete; bool
      [K, C] for the task-incremental mode, only the task's own classes do.

  Returns:
    float32 [..., K], in [0, 1]; nan for a task without rows and where a row has
    a logit that is nan or +inf. A row whose competing logits are all -inf is not right.

  Raises:
    ValueError: shapes do not match, labels or tasks out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> logits = jnp.array([[2.0, 1.0], [2.0, 1.0], [0.0, 3.0]])
    >>> label, task = jnp.array([0, 1, 1]), jnp.array([0, 0, 1])
    >>> metrics.task_accuracy(logits, label, task, num_tasks=2).tolist()
    [0.5, 1.0]
  """
  logits, labels, task = map(jnp.asarray, (logits, labels, task))
  _check_rows(logits, task, num_tasks)
  shaped(f"labels {list(task.shape)}", labels)
  checks.labels(labels, logits.shape[-1], "labels")
  is_nan = ~(logits < jnp.inf).all(axis=-1)
  if class_masks is not None:
    class_masks = arrays(
      f"class_masks [{num_tasks}, {logits.shape[-1]}]", class_masks
    )
    own = jnp.broadcast_to(class_masks[task], logits.shape)
    logits = jnp.where(own, logits, -jnp.inf)
  is_right = logits.argmax(axis=-1) == jnp.broadcast_to(labels, is_nan.shape)
  is_right = is_right & (logits.max(axis=-1) > -jnp.inf)
  values = jnp.where(is_nan, jnp.nan, is_right.astype(jnp.float32))
  return _task_mean(values, task, num_tasks)


def task_status(stream: Stream, num_tasks: int) -> jax.Array:
  """What should be known of each task after every event.

  Args:
    stream: T events; its tasks are in 0 .. K - 1.
    num_tasks: static, K.

  Returns:
    int32 [T, K]: 0 (`UNSEEN`), no row learned so far; 1 (`RETAINED`), a row is
    learned and not forgotten, so a task of which a part is forgotten is
    retained; 2 (`FORGOTTEN`), all rows learned are forgotten.

  Raises:
    ValueError: tasks out of range.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.continual import metrics
    >>> stream = toy.stream().request  # Learn 0, learn 1, forget 0.
    >>> metrics.task_status(stream, num_tasks=2).tolist()
    [[1, 0], [1, 1], [2, 1]]
  """
  checks.counts(num_tasks=num_tasks)
  checks.labels(stream.task, num_tasks, "stream.task")
  present = learned_after(stream)
  ever = jax.lax.cummax(present.astype(jnp.int32), axis=0)
  count = lambda rows: jax.vmap(
    lambda r: jax.ops.segment_max(
      r.astype(jnp.int32), stream.task, num_segments=num_tasks
    )
  )(rows)
  now, before = count(present) > 0, count(ever) > 0
  return jnp.where(now, RETAINED, jnp.where(before, FORGOTTEN, UNSEEN)).astype(
    jnp.int32
  )


def retained_accuracy(accuracy: jax.Array, status: jax.Array) -> jax.Array:
  """Mean accuracy over the tasks to be known, after every event.

  Better: higher. In expectation of the retrained model: its test accuracy.

  Returns:
    [T], in [0, 1]; nan where no task is retained.

  Raises:
    ValueError: accuracy and status are not of one shape [T, K].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> accuracy = jnp.array([[1.0, 0.0], [0.5, 1.0], [0.25, 1.0]])
    >>> status = jnp.array([[1, 0], [1, 1], [2, 1]])  # Task 0 goes in the end.
    >>> metrics.retained_accuracy(accuracy, status).tolist()
    [1.0, 0.75, 1.0]
  """
  _check(accuracy, status)
  return _mean(accuracy, status == RETAINED)


def forgotten_accuracy(accuracy: jax.Array, status: jax.Array) -> jax.Array:
  """Mean accuracy over the forgotten tasks, after every event.

  Better: as the retrained model's, which in the class-incremental mode is 0 for
  whole tasks.

  Returns:
    [T], in [0, 1]; nan where no task is forgotten.

  Raises:
    ValueError: accuracy and status are not of one shape [T, K].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> accuracy = jnp.array([[1.0, 0.0], [0.5, 1.0], [0.25, 1.0]])
    >>> status = jnp.array([[1, 0], [1, 1], [2, 1]])  # Task 0 goes in the end.
    >>> metrics.forgotten_accuracy(accuracy, status).tolist()
    [nan, nan, 0.25]
  """
  _check(accuracy, status)
  return _mean(accuracy, status == FORGOTTEN)


def catastrophic_forgetting(
  accuracy: jax.Array, status: jax.Array
) -> jax.Array:
  """How much was lost of what should be known, after every event.

  Mean over retained tasks of the best accuracy after an earlier event since the
  task was (last) learned, less the accuracy now (Chaudhry et al. 2018,
  arXiv:1801.10112).

  Better: lower; below 0, later events helped. In expectation of the retrained
  model: about 0.

  Returns:
    [T], in [-1, 1]; nan where no retained task was retained before.

  Raises:
    ValueError: accuracy and status are not of one shape [T, K].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> accuracy = jnp.array([[0.75], [1.0], [0.5]])  # Best after event 1.
    >>> lost = metrics.catastrophic_forgetting(accuracy, jnp.ones((3, 1), int))
    >>> lost.tolist()
    [nan, -0.25, 0.5]
  """
  best, _, is_old = _history(accuracy, status)
  return _mean(best - accuracy, is_old)


def backward_transfer(accuracy: jax.Array, status: jax.Array) -> jax.Array:
  """What later events did to what should be known, after every event.

  Mean over retained tasks of the accuracy now, less that after the event that
  (last) made the task known (Lopez-Paz and Ranzato 2017, arXiv:1706.08840).

  Better: higher. In expectation of the retrained model: about 0.

  Returns:
    [T], in [-1, 1]; nan where no retained task was retained before.

  Raises:
    ValueError: accuracy and status are not of one shape [T, K].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> accuracy = jnp.array([[0.75], [1.0], [0.5]])  # Learned at event 0.
    >>> metrics.backward_transfer(accuracy, jnp.ones((3, 1), int)).tolist()
    [nan, 0.25, -0.25]
  """
  _, first, is_old = _history(accuracy, status)
  return _mean(accuracy - first, is_old)


def retrained_gap(
  accuracy: jax.Array, retrained_accuracy: jax.Array
) -> jax.Array:
  """|accuracy - retrained accuracy| of every task after every event.

  Better: lower; in expectation that of two retrained models of other seeds.

  Returns:
    [T, K], in [0, 1]; nan where either is.

  Raises:
    ValueError: shapes differ.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> accuracy, retrained = jnp.array([[0.5, 1.0]]), jnp.array([[0.75, 1.0]])
    >>> metrics.retrained_gap(accuracy, retrained).tolist()
    [[0.25, 0.0]]
  """
  accuracy, other = jnp.asarray(accuracy), jnp.asarray(retrained_accuracy)
  _same(accuracy, other, "retrained_accuracy", "accuracy")
  return jnp.abs(accuracy - other)


def retrained_divergence(
  logits: jax.Array,
  retrained_logits: jax.Array,
  task: jax.Array,
  num_tasks: int,
) -> jax.Array:
  """Jensen-Shannon divergence to the retrained model's predictions, by task.

  Better: lower; in expectation that of two retrained models of other seeds.

  Args:
    logits: float [..., N, C]; leading axes for events.
    retrained_logits: of the same shape.
    task: int [N], in 0 .. num_tasks - 1.
    num_tasks: static, K.

  Returns:
    [..., K], nats, in [0, ln 2]; nan for a task without rows.

  Raises:
    ValueError: shapes do not match, tasks out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import metrics
    >>> logits = jnp.array([[50.0, 0.0], [0.0, 0.0]])
    >>> retrained = jnp.array([[0.0, 50.0], [0.0, 0.0]])
    >>> task = jnp.array([0, 1])  # Disjoint predictions in task 0: ln 2.
    >>> js = metrics.retrained_divergence(logits, retrained, task, num_tasks=2)
    >>> [round(nats, 3) for nats in js.tolist()]
    [0.693, 0.0]
  """
  logits, other = jnp.asarray(logits), jnp.asarray(retrained_logits)
  task = jnp.asarray(task)
  _same(logits, other, "retrained_logits", "logits")
  _check_rows(logits, task, num_tasks)
  wide = jnp.promote_types(jnp.float32, logits.dtype)
  p, q = (jax.nn.log_softmax(v.astype(wide)) for v in (logits, other))
  middle = jnp.logaddexp(p, q) - jnp.log(jnp.asarray(2, wide))
  js = (losses.kl_to_teacher(middle, p) + losses.kl_to_teacher(middle, q)) / 2
  return _task_mean(jnp.clip(js, 0, jnp.log(2.0)), task, num_tasks)


def _task_mean(values: jax.Array, task: jax.Array, num_tasks: int) -> jax.Array:
  """Means of values [..., N] over the rows of each task, [..., K]."""
  add = lambda rows: jax.ops.segment_sum(rows, task, num_segments=num_tasks)
  total = jnp.moveaxis(add(jnp.moveaxis(values, -1, 0)), 0, -1)
  count = jnp.broadcast_to(add(jnp.ones(task.shape, jnp.int32)), total.shape)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean over the last axis where the mask is set; nan where nowhere."""
  count = mask.sum(axis=-1)
  total = jnp.where(mask, values, 0).sum(axis=-1)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def _history(accuracy, status):
  """Best and first accuracy of the present spell, and whether it had a past."""
  accuracy, status = jnp.asarray(accuracy), jnp.asarray(status)
  _check(accuracy, status)

  def step(carry, event):
    best, first, was_kept = carry
    now, kept = event
    out = (best, first, was_kept & kept)
    best = jnp.where(was_kept, jnp.maximum(best, now), now)
    first = jnp.where(was_kept, first, now)
    return (best, first, kept), out

  zero = jnp.zeros_like(accuracy[0])
  carry = (zero, zero, jnp.zeros(zero.shape, bool))
  return jax.lax.scan(step, carry, (accuracy, status == RETAINED))[1]


def _check(accuracy: jax.Array, status: jax.Array) -> None:
  shaped("accuracy [T, K]", accuracy)
  _same(accuracy, status, "status", "accuracy")


def _same(a: jax.Array, b: jax.Array, name: str, like: str) -> None:
  shaped(f"{like} [...] and {name} [...]", a, b)


def _check_rows(logits: jax.Array, task: jax.Array, num_tasks: int) -> None:
  checks.counts(num_tasks=num_tasks)
  shaped("logits [..., N, C] and task [N]", logits, task)
  checks.labels(task, num_tasks, "task")
