"""Membership signals and the SVC attack against NumPy and published code."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, normal
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn import metrics


def signals64(logits, labels):
  """The four signals of moderate logits by their definitions, in float64."""
  z = np.asarray(logits, np.float64)
  p = np.exp(z - z.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  rows = np.arange(len(z))
  p_y = p[rows, labels]
  others = p * np.log(1 - p)
  others[rows, labels] = 0
  return {
    "entropy": -(p * np.log(p)).sum(-1),
    "confidence": p_y,
    "modified_entropy": -(1 - p_y) * np.log(p_y) - others.sum(-1),
    "logit_confidence": np.log(p_y) - np.log(1 - p_y),
  }


def signals(logits, labels):
  return {
    "entropy": metrics.entropy(logits),
    "confidence": metrics.confidence(logits, labels),
    "modified_entropy": metrics.modified_entropy(logits, labels),
    "logit_confidence": metrics.logit_confidence(logits, labels),
  }


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.floats(0.1, 3))
def test_signals_equal_their_definitions_with_and_without_jit(seed, scale):
  logits = normal(seed, 12, 5, scale=scale)
  labels = np.random.default_rng(seed).integers(0, 5, 12)
  wanted = signals64(logits, labels)
  for found in (signals(logits, labels), jax.jit(signals)(logits, labels)):
    for name in wanted:
      assert_close(found[name], wanted[name], 2e-5)
  shifted = signals(logits + np.float32(8), labels)
  for name in wanted:
    assert_close(shifted[name], wanted[name], 2e-5)


def test_signals_are_right_for_logits_far_apart():
  logits = np.array([[1e4, 0, 0], [1e4, 0, 0], [30, 0, 0]], np.float32)
  found = signals(logits, np.array([0, 1, 0]))
  # 1 - p_y = 2 exp(-30) in the last row, below the float32 spacing at 1.
  wanted = [1e4 - np.log(2), -1e4, 30 - np.log(2)]
  np.testing.assert_allclose(found["logit_confidence"], wanted, rtol=1e-6)
  # Sure and wrong: -log p_y of the label, -log(1 - p) of the other.
  rest = 2 * np.exp(-30.0)
  wanted = [0, 2e4 - np.log(2), rest * rest + rest * np.exp(-30.0)]
  np.testing.assert_allclose(found["modified_entropy"], wanted, rtol=1e-5)
  np.testing.assert_allclose(found["confidence"], [1, 0, 1], atol=0)
  wanted = [0, 0, rest * 30 + rest]
  np.testing.assert_allclose(found["entropy"], wanted, rtol=1e-5)


@pytest.mark.slow
def test_probabilities_of_zero_have_no_entropy():
  logits = np.array([[0, -np.inf, -np.inf], [0, 0, -np.inf]], np.float32)
  found = signals(logits, np.array([0, 1]))
  assert_close(found["entropy"], [0, np.log(2)])
  assert_close(found["modified_entropy"], [0, np.log(2)])
  assert metrics.modified_entropy(logits[:1], np.array([1])) == np.inf
  grad = jax.grad(lambda z: metrics.entropy(z).sum())(logits)
  assert np.isfinite(grad).all()


def test_signals_of_nan_and_of_unknown_labels_are_nan():
  broken = signals(jnp.full((1, 3), jnp.nan), jnp.array([0]))
  assert all(np.isnan(value).all() for value in broken.values())
  unknown = jax.jit(signals)(jnp.zeros((2, 3)), jnp.array([-1, 3]))
  del unknown["entropy"]
  assert all(np.isnan(value).all() for value in unknown.values())
  for signal in (metrics.confidence, metrics.logit_confidence):
    with pytest.raises(ValueError, match=r"labels in 0 \.\. 2"):
      signal(jnp.zeros((2, 3)), jnp.array([-1, 3]))


# The SVC attack.


def test_balance_keeps_the_attack_from_calling_everything_a_member():
  # No difference between the classes: half are taken for members, unless most
  # of what the attack has seen are members.
  members, others, forget = normal(0, 900), normal(1, 100), normal(2, 400)
  assert metrics.svc_membership(members, others, forget, balance=False) == 1
  share = metrics.svc_membership(members, others, forget)
  assert 0.2 < share < 0.8


def test_the_attack_is_deterministic_and_its_subset_follows_the_seed():
  features = normal(3, 300), normal(4, 300) + 0.3, normal(5, 200)
  shares = [
    metrics.svc_membership(*features, max_rows=40, seed=seed)
    for seed in (0, 0, 1, 2, 3)
  ]
  assert shares[0] == shares[1]
  assert len(set(shares)) > 1


def test_max_rows_keeps_the_proportion_of_an_unbalanced_attack(monkeypatch):
  import sklearn.svm

  seen = []
  fit = sklearn.svm.SVC.fit

  def spy(self, features, labels):
    seen.append((int((labels == 1).sum()), int((labels == 0).sum())))
    return fit(self, features, labels)

  monkeypatch.setattr(sklearn.svm.SVC, "fit", spy)
  features = normal(6, 90), normal(7, 30), normal(8, 5)
  for kwargs in (
    {"balance": False},
    {"balance": False, "max_rows": 30},
    {},
    {"max_rows": 20},
    {"max_rows": None},
  ):
    metrics.svc_membership(*features, **kwargs)
  assert seen == [(90, 30), (30, 10), (30, 30), (20, 20), (30, 30)]


def test_the_attack_has_no_answer_about_no_rows_and_rejects_bad_features():
  features = normal(9, 20), normal(10, 20)
  assert np.isnan(metrics.svc_membership(*features, np.zeros(0)))
  with pytest.raises(ValueError, match="non_member_features of some rows"):
    metrics.svc_membership(features[0], np.zeros(0), features[1])
  with pytest.raises(ValueError, match=r"forget_features.*\(4, 3\)"):
    metrics.svc_membership(*features, np.zeros((4, 3)))
  with pytest.raises(ValueError, match="forget_features to be finite"):
    metrics.svc_membership(*features, np.array([np.nan]))
  with pytest.raises(ValueError, match="max_rows > 0"):
    metrics.svc_membership(*features, features[0], max_rows=0)
  with pytest.raises(ValueError, match=r"member_features \[N\] or"):
    metrics.svc_membership(np.zeros((2, 2, 2)), features[1], features[0])


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(st.integers(0, 2**31 - 1), st.booleans())
def test_separation_auc_is_that_of_scikit_learn(seed, ties):
  from sklearn.metrics import roc_auc_score

  rng = np.random.default_rng(seed)
  positive, negative = rng.normal(0.5, 1, 23), rng.normal(0, 1, 31)
  if ties:
    positive, negative = positive.round(), negative.round()
  weights = [rng.random(23) < 0.6, rng.random(31) < 0.6]
  weights[0][0] = weights[1][0] = True
  found = jax.jit(metrics.separation_auc)(
    jnp.asarray(positive, jnp.float32),
    jnp.asarray(negative, jnp.float32),
    *map(jnp.asarray, weights),
  )
  kept = [positive[weights[0]], negative[weights[1]]]
  truth = np.repeat([1, 0], [len(k) for k in kept])
  wanted = roc_auc_score(truth, np.float32(np.concatenate(kept)))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_separation_auc_of_nothing_or_of_nan_is_nan():
  scores, none = jnp.array([1.0, 2.0, jnp.nan]), jnp.zeros(3, bool)
  two = jnp.array([True, True, False])
  assert jnp.isnan(metrics.separation_auc(scores, scores))
  assert jnp.isnan(metrics.separation_auc(scores, scores, two, none))
  np.testing.assert_allclose(
    metrics.separation_auc(scores, scores, two, two), 0.5
  )
  lanes = jax.vmap(metrics.separation_auc, (None, None, 0, None))(
    scores, scores, jnp.eye(3, dtype=bool)[:2], two
  )
  np.testing.assert_allclose(lanes, [0.25, 0.75])
  refused("positive_weights", metrics.separation_auc, scores, scores, two[:2])
  for weight in (-1.0, jnp.nan):
    with pytest.raises(ValueError, match="negative_weights >= 0"):
      metrics.separation_auc(scores, scores, two, jnp.array([weight, 2.0, 0.0]))
