"""Population attacks against counting, hand tables and published code."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn import metrics
from jaxunlearn.attacks import population


def rows(seed, size=20, classes=5, scale=1.5):
  rng = np.random.default_rng(seed)
  logits = np.float32(scale * rng.normal(size=(size, classes)))
  return logits, rng.integers(0, classes, size)


def test_signals_are_finite_for_logits_far_apart_and_ignore_a_shift():
  logits = np.float32([[1e4, 0, 0], [0, 1e4, 0], [-1e4, 0, 1]])
  signals = jax.jit(population.membership_signals)
  found = signals(logits, np.array([0, 0, 0]))
  assert all(np.isfinite(score).all() for score in found)
  np.testing.assert_allclose(
    found.logit_confidence, [1e4 - np.log(2), -1e4, -1e4 - np.log(1 + np.e)]
  )
  logits, labels = rows(1)
  logits = np.round(logits * 256) / 256  # So that the sum below is exact.
  shifted = signals(logits + np.float32(64), labels)
  for a, b in zip(signals(logits, labels), shifted):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
  low = population.membership_signals(jnp.asarray(logits, jnp.bfloat16), labels)
  assert all(score.dtype == jnp.float32 for score in low)


def test_signals_of_unknown_labels_are_nan_and_raise_where_they_can():
  unknown = jax.jit(population.membership_signals)(
    jnp.zeros((2, 3)), jnp.array([-1, 3])
  )
  for name, score in unknown._asdict().items():
    assert name == "negative_entropy" or np.isnan(score).all(), name
  broken = population.correctness(jnp.full((1, 3), jnp.nan), jnp.array([0]))
  assert np.isnan(broken).all()
  for signal in (population.margin, population.correctness):
    with pytest.raises(ValueError, match=r"labels in 0 \.\. 2"):
      signal(jnp.zeros((2, 3)), jnp.array([-1, 3]))


# Thresholds.


def best_threshold(members, others):
  """The first best observed value, members before others; by counting."""
  best, gain = np.nan, -np.inf
  for value in np.concatenate([members, others]):
    new = (members >= value).sum() * len(others)
    new -= (others >= value).sum() * len(members)
    if new > gain:
      best, gain = value, new
  return best


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.booleans())
def test_thresholds_equal_trying_every_value(seed, ties):
  rng = np.random.default_rng(seed)
  scores = [
    np.float32(rng.normal(i, 1, size)) for i, size in ((1, 24), (0, 30))
  ]
  if ties:
    scores = [x.round() for x in scores]
  labels = [rng.integers(0, 4, len(x)) for x in scores]
  masks = [rng.random(len(x)) < 0.7 for x in scores]
  masks[0][0] = masks[1][0] = True
  # What does not count may be anything.
  scores = [np.where(m, x, np.nan) for x, m in zip(scores, masks)]
  kwargs = dict(zip(("member_mask", "other_mask"), masks))
  found = population.fit_thresholds(*scores, *labels, num_classes=4, **kwargs)
  of_all = population.fit_thresholds(*scores, **kwargs)
  wanted = best_threshold(*(x[m] for x, m in zip(scores, masks)))
  assert of_all.shape == (1,) and of_all[0] == np.float32(wanted)
  for c in range(4):
    kept = [x[m & (y == c)] for x, m, y in zip(scores, masks, labels)]
    if len(kept[0]) and len(kept[1]):
      wanted = np.float32(best_threshold(*kept))
    else:
      wanted = of_all[0]  # A class with rows of one kind only.
    assert found[c] == wanted


def test_traced_nan_scores_make_thresholds_and_shares_nan():
  scores = jnp.array([1.0, jnp.nan, 2.0])
  assert np.isnan(jax.jit(population.fit_thresholds)(scores, scores[:1])).all()
  found = jax.jit(population.threshold_attack)(
    jnp.array([1.5]), scores, scores[:1]
  )
  assert np.isnan(found.member_accuracy)
  assert found.other_accuracy == 1


def test_bad_arguments_of_thresholds_are_named():
  scores, labels = np.ones(3), np.zeros(3, int)
  fit = population.fit_thresholds
  refused("num_classes > 0", fit, scores, scores, num_classes=0)
  refused("both groups or of none", fit, scores, scores, labels)
  refused("member_labels for 2 classes", fit, scores, scores, num_classes=2)
  with pytest.raises(ValueError, match="other_labels "):
    fit(scores, scores, labels, labels[:2], num_classes=2)
  with pytest.raises(ValueError, match=r"member_labels in 0 \.\. 1"):
    fit(scores, scores, labels + 2, labels, num_classes=2)
  refused("1 that are nan", fit, np.array([np.nan]), scores)
  with pytest.raises(ValueError, match="for 2 classes, got None"):
    population.threshold_attack(np.zeros(2), scores, scores)
  with pytest.raises(ValueError, match="other_scores of some rows"):
    population.threshold_attack(np.zeros(1), scores, scores[:0])


# The population attack and the ratio.


def test_population_attack_counts_the_population():
  scores = np.float32([0.5, 2, 3, 9])
  population_scores = np.float32([1, 2, 2, 3, np.nan])
  mask = np.array([1, 1, 1, 1, 0], bool)
  found = population.population_attack(scores, population_scores, mask, fpr=0.4)
  np.testing.assert_allclose(found.score, [0, 0.25, 0.75, 1])
  np.testing.assert_allclose(found.p_value, [1, 0.8, 0.4, 0.2])
  np.testing.assert_array_equal(found.is_member, [0, 0, 1, 1])
  compiled = jax.jit(population.population_attack)
  for a, b in zip(compiled(scores, population_scores, mask, fpr=0.4), found):
    np.testing.assert_array_equal(a, b)
  broken = compiled(scores, population_scores)
  assert np.isnan(broken.score).all() and not broken.is_member.any()
  none = compiled(scores, population_scores, np.zeros(5, bool))
  assert np.isnan(none.p_value).all()
  with pytest.raises(ValueError, match=r"fpr in \[0, 1\]"):
    population.population_attack(scores, scores, fpr=2)


@pytest.mark.slow
def test_population_attack_keeps_its_rate_on_a_small_population():
  # 19 rows and a limit of 5 %: a member must be above them all. The chance is
  # 1 / 20 exactly; its standard error over 20,000 rows is 0.0015.
  draws = np.float32(np.random.default_rng(0).normal(size=(2000, 29)))
  attack = jax.vmap(lambda x: population.population_attack(x[:10], x[10:]))
  rate = attack(draws).is_member.mean()
  assert abs(rate - 0.05) < 0.01


def test_membership_ratio_has_both_readings_and_survives_zero():
  before, after = np.float32([0.9, 0.8, 0.5]), np.float32([0.3, 0.8, 0])
  found = population.membership_ratio(before, after, floor=0.1)
  np.testing.assert_allclose(found, [9 / 3, (1 / 3 + 1) / 3, 2 / 3], rtol=1e-6)
  mask = np.array([True, True, False])
  after = np.float32([0.3, 0.8, np.nan])
  found = jax.jit(population.membership_ratio)(before, after, mask)
  np.testing.assert_allclose(found, [2, 2 / 3, 1 / 2], rtol=1e-6)
  closed = [jnp.asarray(x) for x in (before, after, mask)]
  found = jax.jit(lambda: population.membership_ratio(*closed))()
  np.testing.assert_allclose(found, [2, 2 / 3, 1 / 2], rtol=1e-6)
  none = population.membership_ratio(before, before, ~(mask | True))
  assert np.isnan(none).all()
  same = population.membership_ratio(before, before)
  np.testing.assert_allclose(same[:2], 1)
  refused("floor > 0", population.membership_ratio, before, before, floor=0)
  with pytest.raises(ValueError, match=r"before \[...\] and after"):
    population.membership_ratio(before, before[:2])
  refused(r"after in \[0, 1\]", population.membership_ratio, before, after)


def test_the_score_of_the_population_attack_averages_to_the_auc():
  members, others = np.random.default_rng(1).normal(size=(2, 40))
  found = population.population_attack(members, others).score.mean()
  wanted = metrics.separation_auc(jnp.asarray(members), jnp.asarray(others))
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_rows_of_a_model_that_diverged_are_not_called_absent():
  before = jnp.array([0.9, 0.8])
  found = jax.jit(population.membership_ratio)(before, before * jnp.nan)
  assert np.isnan(found).all()
  right = population.correctness(jnp.array([[jnp.inf, 0.0]]), jnp.array([0]))
  assert np.isnan(right).all()
