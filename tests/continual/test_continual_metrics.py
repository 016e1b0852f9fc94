"""Metrics of a stream, on numbers small enough to do by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

import jaxunlearn.continual as co
from jaxunlearn.continual import metrics

TASK = jnp.array([0, 0, 1, 1, 2, 2])
EVENTS = [
  co.learn(0),
  co.learn(1),
  co.forget(0),
  co.forget(2),
  co.learn(0),
  co.learn(2),
]
ACCURACY = jnp.array([
  [0.9, 0.0, 0.1],
  [0.8, 1.0, 0.1],
  [0.2, 0.9, 0.1],
  [0.1, 0.7, 0.1],
  [0.6, 0.8, 0.1],
  [0.7, 0.6, 0.5],
])  # fmt: skip
nan = np.nan


def status():
  return metrics.task_status(co.task_stream(TASK, EVENTS), 3)


def test_status_says_what_should_be_known():
  wanted = [[1, 0, 0], [1, 1, 0], [2, 1, 0], [2, 1, 0], [1, 1, 0], [1, 1, 1]]
  np.testing.assert_array_equal(status(), wanted)


def test_a_task_of_which_a_part_is_forgotten_is_retained():
  learned = jnp.array([[1, 1, 0, 0, 0, 0], [0] * 6, [0] * 6], bool)
  gone = jnp.array([[0] * 6, [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], bool)
  found = metrics.task_status(co.mask_stream(learned, gone, TASK), 3)
  assert np.asarray(found)[:, 0].tolist() == [1, 1, 2]


def test_accuracies_are_means_over_retained_and_over_forgotten_tasks():
  kept = metrics.retained_accuracy(ACCURACY, status())
  np.testing.assert_allclose(kept, [0.9, 0.9, 0.9, 0.7, 0.7, 0.6], rtol=1e-6)
  gone = metrics.forgotten_accuracy(ACCURACY, status())
  np.testing.assert_allclose(gone, [nan, nan, 0.2, 0.1, nan, nan], rtol=1e-6)


def test_forgetting_is_what_was_lost_since_the_task_was_last_learned():
  found = metrics.catastrophic_forgetting(ACCURACY, status())
  # Task 0: best .9 before event 1; learned anew at event 4, so that 0.6 is what
  # counts at event 5. Task 1: best 1 from event 1 on.
  wanted = [nan, 0.1, 0.1, 0.3, 0.2, (-0.1 + 0.4) / 2]
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_backward_transfer_counts_from_when_the_task_was_last_learned():
  accuracy = ACCURACY.at[2, 1].set(1.1)  # The best is not the first.
  found = metrics.backward_transfer(accuracy, status())
  wanted = [nan, -0.1, 0.1, -0.3, -0.2, (0.1 - 0.4) / 2]
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_accuracy_by_task_in_both_modes():
  labels = jnp.array([0, 1, 2, 3, 2, 3])
  logits = jax.nn.one_hot(jnp.array([0, 2, 2, 1, 0, 0]), 4) * 2
  logits = logits + jnp.array([0.0, 0.5, 0.0, 1.0])[None]
  open_mode = metrics.task_accuracy(logits, labels, TASK, 4)
  np.testing.assert_allclose(open_mode, [0.5, 0.5, 0, nan])
  own = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
  closed = metrics.task_accuracy(
    logits, labels, TASK, 4, class_masks=own.astype(bool)
  )
  np.testing.assert_allclose(closed, [1, 1, 0.5, nan])
  stacked = jnp.stack([logits, logits.at[5].set(jnp.nan)])
  both = metrics.task_accuracy(stacked, labels, TASK, 3)
  np.testing.assert_allclose(both, [[0.5, 0.5, 0], [0.5, 0.5, nan]])


@pytest.mark.parametrize("class_masks", [None, jnp.eye(3, 4) > 0])
def test_a_row_without_any_score_is_not_right(class_masks):
  # argmax of all -inf is 0, which is the first row's label.
  labels = jnp.array([0, 0, 1, 1, 2, 2])
  logits = jnp.zeros((6, 4)).at[0].set(-jnp.inf)
  found = metrics.task_accuracy(
    logits, labels, TASK, 3, class_masks=class_masks
  )
  rest = [0, 0] if class_masks is None else [1, 1]
  np.testing.assert_allclose(found, [0.5, *rest])


def test_distances_to_the_retrained_model():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 3, 6, 4)) * 3
  p, q = (np.exp(v) / np.exp(v).sum(-1, keepdims=True) for v in (a, b))
  m = (p + q) / 2
  js = ((p * np.log(p / m)).sum(-1) + (q * np.log(q / m)).sum(-1)) / 2
  wanted = js.reshape(3, 3, 2).mean(axis=-1)
  found = metrics.retrained_divergence(jnp.asarray(a), jnp.asarray(b), TASK, 3)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  far = jnp.array([[200.0, 0.0]] * 6)
  apart = metrics.retrained_divergence(far, -far, TASK, 4)
  np.testing.assert_allclose(apart, [np.log(2)] * 3 + [nan], rtol=1e-6)
  same = metrics.retrained_divergence(far, far, TASK, 3)
  np.testing.assert_allclose(same, 0, atol=1e-7)
  gap = metrics.retrained_gap(ACCURACY, ACCURACY[::-1])
  np.testing.assert_allclose(gap[0], [0.2, 0.6, 0.4], rtol=1e-6)


def test_the_bytes_of_a_state_are_those_of_its_arrays():
  state = {"a": jnp.ones((3, 2)), "b": jnp.ones(4, bool), "c": None}
  assert co.state_bytes(state) == 28


def test_what_does_not_fit_is_refused():
  s = status()
  for metric in (
    metrics.retained_accuracy,
    metrics.forgotten_accuracy,
    metrics.catastrophic_forgetting,
    metrics.backward_transfer,
  ):
    refused("and status ", metric, ACCURACY, s[:2])
    refused(r"Expected accuracy \[T, K\]", metric, ACCURACY[0], s[0])
  with pytest.raises(ValueError, match="and retrained_accuracy "):
    metrics.retrained_gap(ACCURACY, ACCURACY[:2])
  logits, labels = jnp.zeros((6, 4)), jnp.zeros(6, int)
  with pytest.raises(ValueError, match="and retrained_logits "):
    metrics.retrained_divergence(logits, logits[:2], TASK, 3)
  with pytest.raises(ValueError, match=r"Expected task in 0 .. 1, got 0 .. 2"):
    metrics.task_accuracy(logits, labels, TASK, 2)
  with pytest.raises(ValueError, match=r"Expected logits \[..., N, C\]"):
    metrics.task_accuracy(logits[:3], labels, TASK, 3)
  with pytest.raises(ValueError, match="Expected labels "):
    metrics.task_accuracy(logits, labels[:3], TASK, 3)
  with pytest.raises(ValueError, match=r"Expected labels in 0 .. 3"):
    metrics.task_accuracy(logits, labels + 4, TASK, 3)
  with pytest.raises(ValueError, match="Expected class_masks"):
    metrics.task_accuracy(logits, labels, TASK, 3, class_masks=jnp.ones(4))
  with pytest.raises(ValueError, match="Expected num_tasks > 0"):
    metrics.task_accuracy(logits, labels, TASK, 0)
  with pytest.raises(ValueError, match=r"Expected stream.task in 0 .. 1"):
    metrics.task_status(co.task_stream(TASK, EVENTS), 2)
