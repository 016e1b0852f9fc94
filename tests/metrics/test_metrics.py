"""Metrics of utility, distance and forgetting against float64 NumPy."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, normal
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn import metrics
from jaxunlearn.core.types import Variables

N, C = 8, 4
LN2 = np.log(2)
CHECKED = hypothesis.settings(max_examples=15, deadline=None)


def softmax64(x):
  e = np.exp(np.asarray(x, np.float64) - np.max(x, axis=-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def kl64(p, q):
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.where(p > 0, p * np.log(p / q), 0).sum(-1)


def js64(p, q):
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
  return (kl64(p, (p + q) / 2) + kl64(q, (p + q) / 2)) / 2


def labels_and_mask(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, C, N), rng.random(N) < 0.5


def row_metrics(seed, scale):
  """Every metric over rows as a function of (rows, weights), and its rows."""
  labels, mask = labels_and_mask(seed)
  logits = normal(seed + 1, N, C, scale=scale)
  other = normal(seed + 2, N, C, scale=scale)
  probs = jax.nn.softmax(logits), jax.nn.softmax(other)
  # Some probabilities are exactly 0.
  probs = [np.array(p) for p in probs]
  probs[0][0] = [1, 0, 0, 0]
  teachers = np.stack([probs[1], probs[0][:, ::-1]])

  def confusion(logits, labels, weights=None):
    return metrics.confusion_matrix(logits, labels, C, weights)

  def over_teachers(probs, teachers, weights=None):
    teachers = jnp.swapaxes(jnp.asarray(teachers), 0, 1)
    return metrics.zrf_over_teachers(probs, teachers, weights)

  return mask, {
    "accuracy": (metrics.accuracy, (logits, labels)),
    "mean_cross_entropy": (metrics.mean_cross_entropy, (logits, labels)),
    "confusion_matrix": (confusion, (logits, labels)),
    "mean_js": (metrics.mean_js, (logits, other)),
    "activation_distance": (metrics.activation_distance, (logits, other)),
    "zrf": (metrics.zrf, tuple(probs)),
    "zrf_over_teachers": (over_teachers, (probs[0], teachers.swapaxes(0, 1))),
  }


ROW_METRICS = sorted(row_metrics(0, 1.0)[1])
SEEDS = st.integers(0, 2**31)
SCALES = st.floats(0.1, 30)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROW_METRICS)
@CHECKED
@hypothesis.given(SEEDS, SCALES)
def test_weights_equal_a_subset_of_the_rows(name, seed, scale):
  mask, cases = row_metrics(seed, scale)
  metric, args = cases[name]
  found = metric(*args, mask)
  if mask.any():
    wanted = metric(*(a[mask] for a in args))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(found, metric(*args, mask.astype(np.float32)))


@pytest.mark.parametrize("name", ROW_METRICS)
@CHECKED
@hypothesis.given(SEEDS, SCALES)
def test_the_order_of_rows_changes_nothing(name, seed, scale):
  mask, cases = row_metrics(seed, scale)
  metric, args = cases[name]
  wanted = metric(*args, mask)
  order = np.random.default_rng(seed).permutation(N)
  permuted = metric(*(a[order] for a in args), mask[order])
  np.testing.assert_allclose(permuted, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ROW_METRICS)
def test_a_stack_of_masks_maps_like_a_loop_and_an_empty_one_is_nan(name):
  _, cases = row_metrics(3, 1.0)
  metric, args = cases[name]
  masks = np.random.default_rng(0).random((4, N)) < 0.5
  masks[2] = False
  mapped = jax.jit(jax.vmap(lambda mask: metric(*args, mask)))(masks)
  one = jax.jit(lambda mask: metric(*args, mask))
  loop = np.stack([one(mask) for mask in masks])
  np.testing.assert_allclose(mapped, loop, rtol=1e-5, atol=1e-6)
  empty = np.zeros((C, C)) if name == "confusion_matrix" else np.nan
  np.testing.assert_array_equal(loop[2], empty)
  assert np.isfinite(np.delete(loop, 2, axis=0)).all()


@pytest.mark.parametrize("name", ROW_METRICS)
def test_rows_without_weight_may_hold_nan(name):
  mask, cases = row_metrics(4, 1.0)
  metric, args = cases[name]
  poisoned = [np.array(a) for a in args]
  for a in poisoned:
    if np.issubdtype(a.dtype, np.floating):
      a[~mask] = np.nan
  np.testing.assert_array_equal(metric(*poisoned, mask), metric(*args, mask))


@pytest.mark.parametrize(
  "name", [name for name in ROW_METRICS if name != "confusion_matrix"]
)
def test_a_diverged_model_has_no_score(name):
  _, cases = row_metrics(5, 1.0)
  metric, args = cases[name]
  first = np.array(args[0])
  first[0] = np.nan
  assert np.isnan(metric(first, *args[1:]))


@pytest.mark.parametrize("name", ROW_METRICS)
def test_weights_of_a_wrong_kind_raise(name):
  _, cases = row_metrics(6, 1.0)
  metric, args = cases[name]
  refused(r"weights \[8\]", metric, *args, np.ones(N + 1, bool))
  refused("weights of dtype bool or float", metric, *args, np.ones(N, np.int32))
  refused("Expected", metric, args[0][:, None], *args[1:])


# Utility.


def test_utility_equals_float64_under_float_weights():
  labels, _ = labels_and_mask(7)
  logits = normal(8, N, C, scale=3)
  weights = np.random.default_rng(9).random(N).astype(np.float32)
  correct = logits.argmax(-1) == labels
  assert_close(
    metrics.accuracy(logits, labels, weights),
    np.average(correct, weights=weights),
  )
  losses = -np.log(softmax64(logits)[np.arange(N), labels])
  assert_close(
    metrics.mean_cross_entropy(logits, labels, weights),
    np.average(losses, weights=weights),
  )
  wanted = np.zeros((C, C))
  np.add.at(wanted, (labels, logits.argmax(-1)), weights)
  found = metrics.confusion_matrix(logits, labels, C, weights)
  assert_close(found, wanted)


def test_confusion_matrix_leaves_out_rows_that_it_cannot_place():
  logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 1]]
  labels = np.array([0, 0, 2, 1])
  wanted = [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
  matrix = metrics.confusion_matrix(logits, labels, 3)
  assert np.array_equal(matrix, wanted)
  logits[1] = np.nan
  matrix = metrics.confusion_matrix(logits, labels, 3)
  assert np.array_equal(matrix, np.diag([1, 1, 1]))
  under_jit = jax.jit(metrics.confusion_matrix, static_argnums=2)
  matrix = under_jit(logits, jnp.array([0, 0, -1, 3]), 3)
  assert np.array_equal(matrix, np.diag([1, 0, 0]))


def test_utility_rejects_labels_and_classes_that_do_not_fit():
  logits = jnp.zeros((2, 3))
  for metric in (metrics.accuracy, metrics.mean_cross_entropy):
    refused(r"labels in 0 \.\. 2", metric, logits, jnp.array([0, 3]))
    refused(r"and labels \[...\], got", metric, logits, jnp.array([[0], [1]]))
  with pytest.raises(ValueError, match=r"logits \[N, 5\]"):
    metrics.confusion_matrix(logits, jnp.array([0, 1]), 5)


# Distances.


def test_divergences_equal_float64():
  p, q = softmax64(normal(10, 9, 6)), softmax64(normal(11, 9, 6))
  p, q = p.astype(np.float32), q.astype(np.float32)
  assert_close(metrics.kl_divergence(p, q), kl64(p, q))
  assert_close(metrics.js_divergence(p, q), js64(p, q))
  assert_close(metrics.kl_divergence(p, q, base="2"), kl64(p, q) / LN2)
  assert_close(metrics.js_divergence(p, q, base="2"), js64(p, q) / LN2)


def test_js_on_the_worked_example():
  # p = (.9, .05, .05) against uniform: 0.18487 nats, released 0.07487.
  p, q = np.array([[0.9, 0.05, 0.05]]), np.full((1, 3), 1 / 3)
  assert abs(js64(p, q)[0] - 0.18487) < 5e-6
  assert abs(metrics.zrf(p, q) - 0.81513) < 1e-5
  assert abs(metrics.zrf(p, q, variant="released") - 0.92513) < 1e-5


def test_js_is_exact_at_its_ends_and_finite_at_probabilities_of_zero():
  eye = np.eye(3, dtype=np.float32)
  other = np.roll(eye, 1, axis=0)
  assert np.all(metrics.js_divergence(eye, eye) == 0)
  assert np.all(metrics.js_divergence(eye, other) == np.float32(LN2))
  assert np.all(metrics.js_divergence(eye, other, base="2") == 1)
  assert metrics.zrf(eye, eye) == 1
  assert metrics.zrf(eye, other) == 1 - np.float32(LN2)
  assert metrics.zrf(eye, other, base="2") == 0
  # At the least positive float32 number nothing may divide by zero.
  tiny = np.array([[1, np.finfo(np.float32).tiny, 1e-45]], np.float32)
  assert np.isfinite(metrics.js_divergence(tiny, eye[:1])).all()
  grad = jax.grad(lambda p: metrics.js_divergence(p, eye[::-1]).sum())(eye)
  assert not np.isnan(grad).any()


def test_kl_is_infinite_where_q_lacks_what_p_has():
  eye = np.eye(2, dtype=np.float32)
  half = np.full((2, 2), 0.5, np.float32)
  assert np.all(metrics.kl_divergence(eye, eye) == 0)
  assert_close(metrics.kl_divergence(eye, half), [LN2, LN2])
  assert np.all(metrics.kl_divergence(half, eye) == np.inf)
  assert metrics.zrf(eye, half, variant="released") == -np.inf


@CHECKED
@hypothesis.given(SEEDS, SCALES)
def test_js_is_symmetric_and_bounded_and_zrf_too(seed, scale):
  p = np.array(jax.nn.softmax(normal(seed, N, C, scale=scale)))
  q = np.array(jax.nn.softmax(normal(seed + 1, N, C, scale=scale)))
  p[0], q[0] = [1, 0, 0, 0], [0, 0.5, 0.5, 0]
  js = np.asarray(metrics.js_divergence(p, q))
  assert np.array_equal(js, metrics.js_divergence(q, p))
  assert (js >= 0).all() and (js <= np.float32(LN2)).all()
  np.testing.assert_allclose(js, js64(p, q), atol=1e-6)
  assert 1 - np.float32(LN2) - 1e-6 <= metrics.zrf(p, q) <= 1
  assert -1e-6 <= metrics.zrf(p, q, base="2") <= 1
  assert metrics.zrf(p, p) == 1
  assert metrics.zrf(p, q) == metrics.zrf(q, p)


def test_zrf_over_teachers_is_the_mean_of_their_scores():
  probs = softmax64(normal(12, N, C))
  teachers = softmax64(normal(13, 5, N, C))
  _, mask = labels_and_mask(14)
  wanted = 1 - np.mean([js64(probs, t)[mask].mean() for t in teachers])
  assert_close(metrics.zrf_over_teachers(probs, teachers, mask), wanted)
  released = [
    metrics.zrf(probs, t, mask, base="2", variant="released") for t in teachers
  ]
  found = metrics.zrf_over_teachers(
    probs, teachers, mask, base="2", variant="released"
  )
  assert_close(found, np.mean(released))
  with pytest.raises(ValueError, match=r"teacher_probs \[T, N, C\]"):
    metrics.zrf_over_teachers(probs, teachers[0])


def test_counts_that_are_not_square_are_refused():
  for metric in (metrics.unweighted_f1, metrics.unweighted_recall):
    refused(r"counts \[C, C\]", metric, jnp.ones((2, 3)))


def test_distances_reject_what_cannot_be_meant():
  p, q = jnp.ones((2, 3)) / 3, jnp.ones((2, 4)) / 4
  for metric in (
    metrics.kl_divergence,
    metrics.js_divergence,
    metrics.mean_js,
    metrics.activation_distance,
    metrics.zrf,
  ):
    refused(r"got \(2, 3\) and \(2, 4\)", metric, p, q)
  refused("base to be one of 'e', '2'", metrics.js_divergence, p, p, base="10")
  refused("variant to be one of", metrics.zrf, p, p, variant="code")
  logits = jnp.array([[3.0, -1.0, 0.5]])
  for metric in (metrics.kl_divergence, metrics.js_divergence, metrics.zrf):
    refused("p to be probabilities", metric, logits, p[:1])
    refused(
      "q to be probabilities", jax.jit(lambda p: metric(p, logits)), p[:1]
    )


# Weights.


def test_weight_distance_equals_numpy_per_layer_and_in_all():
  params = {"Dense_0": {"kernel": normal(15, 3, 4), "bias": normal(16, 4)}}
  other = {"Dense_0": {"kernel": normal(17, 3, 4), "bias": normal(18, 4)}}
  found = metrics.weight_distance(params, Variables(other, {"mean": 1.0}))
  assert sorted(found.per_layer) == ["Dense_0/bias", "Dense_0/kernel"]
  flat = []
  for name in ("kernel", "bias"):
    a, b = (t["Dense_0"][name].astype(np.float64) for t in (params, other))
    layer = found.per_layer[f"Dense_0/{name}"]
    assert_close(layer.total, np.linalg.norm(a - b))
    assert_close(layer.relative, np.linalg.norm(a - b) / np.linalg.norm(b))
    flat.append((a.ravel(), b.ravel()))
  a, b = (np.concatenate(parts) for parts in zip(*flat))
  assert_close(found.total, np.linalg.norm(a - b))
  assert_close(found.relative, np.linalg.norm(a - b) / np.linalg.norm(b))
  under_jit = jax.jit(metrics.weight_distance)(params, other)
  assert_close(under_jit.total, found.total)


def test_weight_distance_of_zero_parameters_is_defined():
  zero, one = {"b": jnp.zeros(3, jnp.bfloat16)}, {"b": jnp.ones(3)}
  same = metrics.weight_distance(zero, zero)
  assert same.total == 0 and same.relative == 0
  assert same.total.dtype == jnp.float32
  assert metrics.weight_distance(one, zero).relative == np.inf
  refused(r"params\['b'\]", metrics.weight_distance, zero, {"b": jnp.ones(4)})


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_model_that_diverged_is_right_about_nothing(lost):
  logits = np.zeros((3, 2), np.float32)
  logits[1, 1] = lost
  labels = np.zeros(3, int)
  assert np.isnan(metrics.accuracy(logits, labels))
  assert metrics.accuracy(logits, labels, np.array([True, False, True])) == 1
  assert metrics.confusion_matrix(logits, labels, 2).sum() == 2
  # A probability of exactly 0 is an answer.
  assert metrics.accuracy(np.array([[0.0, -np.inf]]), np.array([0])) == 1
