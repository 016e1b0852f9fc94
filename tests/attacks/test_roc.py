"""ROC curves and their intervals against NumPy, SciPy and scikit-learn."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn import metrics
from jaxunlearn.attacks import intervals, roc

HULL_CASE = np.arange(100) + 9.5, np.arange(100.0)


def groups(seed, num_members=23, num_others=31, ties=False):
  rng = np.random.default_rng(seed)
  members = rng.normal(0.7, 1, num_members)
  others = rng.normal(0, 1, num_others)
  if ties:
    members, others = (2 * members).round(), (2 * others).round()
  return np.float32(members), np.float32(others)


def curve64(members, others):
  """Every threshold from inf down, by counting."""
  thresholds = np.unique(np.concatenate([members, others]))[::-1]
  thresholds = np.concatenate([[np.inf], thresholds])
  fpr = np.array([(others >= t).mean() for t in thresholds])
  tpr = np.array([(members >= t).mean() for t in thresholds])
  return fpr, tpr, thresholds


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.booleans())
def test_curve_and_its_numbers_equal_counting(seed, ties):
  members, others = groups(seed, ties=ties)
  rng = np.random.default_rng(seed)
  masks = rng.random(23) < 0.7, rng.random(31) < 0.7
  masks[0][0] = masks[1][0] = True
  fpr, tpr, thresholds = curve64(members[masks[0]], others[masks[1]])
  # What does not count may be anything.
  members = np.where(masks[0], members, np.nan)
  args = members, others, *masks
  found = roc.roc_curve(*args)
  assert found.fpr.shape == (23 + 31 + 1,)
  points = np.unique(np.stack(found, 1)[:, :2], axis=0)
  wanted = np.unique(np.stack([fpr, tpr], 1), axis=0)
  np.testing.assert_allclose(points, wanted, rtol=1e-6)
  at = dict(zip(thresholds.tolist(), zip(fpr, tpr)))
  for f, t, threshold in zip(*map(np.asarray, found)):
    if float(threshold) in at:
      np.testing.assert_allclose((f, t), at[float(threshold)], rtol=1e-6)
  best = ((tpr + 1 - fpr) / 2).max()
  np.testing.assert_allclose(roc.balanced_accuracy(*args), best, rtol=1e-6)
  area = np.trapezoid(tpr, fpr)
  np.testing.assert_allclose(roc.auc(*args), area, rtol=1e-5)
  np.testing.assert_allclose(np.trapezoid(found.tpr, found.fpr), area, 1e-5)
  for limit in (0.05, 0.1, 0.37, 1.0):
    wanted = tpr[fpr <= limit + 1e-9].max()
    wanted = wanted if masks[1].sum() * limit >= 1 - 1e-9 else np.nan
    found = roc.tpr_at_fpr(*args, fpr=limit)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.slow
def test_two_normal_distributions_have_their_known_area_and_low_tpr():
  keys = jax.random.split(jax.random.key(0))
  members, others = (jax.random.normal(k, (1_000_000,)) for k in keys)
  found = jax.jit(roc.attack_summary)(members + 1, others)
  # Phi(1 / sqrt 2), Phi(1 / 2), 1 - Phi(q - 1) of the normal quantiles q.
  np.testing.assert_allclose(found.auc, 0.7602, atol=0.002)
  np.testing.assert_allclose(found.balanced_accuracy, 0.6915, atol=0.002)
  np.testing.assert_allclose(found.tpr_at_1_percent_fpr, 0.0924, atol=0.003)
  np.testing.assert_allclose(found.tpr_at_01_percent_fpr, 0.0183, atol=0.0015)


@pytest.mark.slow
def test_hull_lies_on_or_above_the_steps_and_adds_the_known_area():
  members, others = HULL_CASE
  step, hull = (
    roc.roc_curve(members, others),
    roc.roc_curve(members, others, kind="hull"),
  )
  area = lambda r: np.trapezoid(r.tpr, r.fpr)
  # Pairs won: sum over i < 90 of i + 10, and 10 * 100. The hull is the line
  # from (0, .1) to (.9, 1), and from there on 1.
  np.testing.assert_allclose(area(step), 0.5905, atol=1e-6)
  np.testing.assert_allclose(area(hull), (0.1 + 1) / 2 * 0.9 + 0.1, atol=1e-6)
  for seed in range(5):
    args = groups(seed, ties=seed % 2 == 0)
    step, hull = roc.roc_curve(*args), roc.roc_curve(*args, kind="hull")
    assert (hull.tpr >= step.tpr).all()
    # Slopes between its points never rise.
    x, y = np.float64(hull.fpr), np.float64(hull.tpr)
    top = np.append(np.diff(x) > 0, True)
    slopes = np.diff(y[top]) / np.diff(x[top])
    assert (np.diff(slopes) <= 1e-5).all()
    corners = np.isclose(y, step.tpr, atol=1e-6)
    assert corners[0] and corners[-1]
  apart = roc.roc_curve(np.ones(3), np.zeros(4), kind="hull")
  np.testing.assert_array_equal(apart.tpr[1:], 1)
  same = roc.roc_curve(np.ones(3), np.ones(4), kind="hull")
  np.testing.assert_array_equal(same.tpr, same.fpr)


def test_order_of_rows_and_infinite_scores_change_nothing():
  members, others = groups(3, ties=True)
  wanted = roc.attack_summary(members, others)
  rng = np.random.default_rng(0)
  shuffled = rng.permutation(members), rng.permutation(others)
  assert wanted[:2] == roc.attack_summary(*shuffled)[:2]
  extreme = [np.where(x > 1, np.inf, x) for x in (members, others)]
  extreme = [np.where(x < -1, -np.inf, x) for x in extreme]
  clipped = [np.clip(x, -2, 2) for x in extreme]
  for a, b in zip(roc.roc_curve(*extreme)[:2], roc.roc_curve(*clipped)[:2]):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_tpr_is_unknown_below_one_over_the_rate():
  members, others = groups(0, 50, 99)
  assert np.isnan(roc.tpr_at_fpr(members, others, fpr=0.01))
  found = roc.tpr_at_fpr(
    members, np.append(others, 9), fpr=np.array([0.01, 0, 0.001])
  )
  # One of a hundred may be above: the highest of the others again.
  wanted = (members > others.max()).mean()
  np.testing.assert_allclose(found, [wanted, np.nan, np.nan], rtol=1e-6)


def test_traced_groups_that_are_empty_or_nan_give_nan_and_concrete_ones_raise():
  scores, none = jnp.array([1.0, jnp.nan, 2.0]), jnp.zeros(3, bool)
  fine = jnp.array([True, False, True])
  summary = jax.jit(roc.attack_summary)
  assert np.isfinite(summary(scores, scores, fine, fine)[:2]).all()
  for masks in ((fine, none), (none, fine), (fine, ~none)):
    assert np.isnan(summary(scores, scores, *masks)).all()
    assert np.isnan(
      jax.jit(roc.roc_curve)(scores, scores, *masks).fpr[1:]
    ).any() or (
      np.isnan(jax.jit(roc.roc_curve)(scores, scores, *masks).tpr[1:]).any()
    )
  refused("other_scores, got 1 that are nan", roc.auc, scores, scores, fine)
  with pytest.raises(ValueError, match="member_scores of some rows, got 0"):
    roc.attack_summary(scores, scores, none, fine)
  refused(
    "other_scores of some rows, got 0", roc.roc_curve, np.ones(2), np.ones(0)
  )


def test_what_jit_closes_over_is_looked_at():
  scores, level = jnp.array([1.0, 2.0, jnp.nan]), jnp.float32(0.9)
  mask = jnp.array([True, True, False])

  @jax.jit
  def closed(key):
    return intervals.bootstrap(
      key, scores, scores, mask, mask, num_samples=3, level=level
    )

  np.testing.assert_allclose(closed(jax.random.key(0)).estimate.auc, 0.5)
  with pytest.raises(ValueError, match="member_scores, got 1 that are nan"):
    jax.jit(lambda: roc.auc(scores, scores))()


def test_bad_arguments_of_the_curve_are_named():
  ones = np.ones(3)
  refused(
    r"member_scores \[N\], got shape", roc.roc_curve, np.ones((2, 2)), ones
  )
  with pytest.raises(ValueError, match="and other_mask "):
    roc.roc_curve(ones, ones, None, np.ones(2, bool))
  with pytest.raises(ValueError, match="member_mask bool or float, got int"):
    roc.roc_curve(ones, ones, np.ones(3, int))
  refused("member_mask >= 0", roc.roc_curve, ones, ones, -ones)
  refused("kind to be one of", roc.roc_curve, ones, ones, kind="smooth")
  with pytest.raises(ValueError, match="concrete scores"):
    jax.jit(functools.partial(roc.roc_curve, kind="hull"))(ones, ones)
  refused(r"fpr in \[0, 1\]", roc.tpr_at_fpr, ones, ones, fpr=1.5)


def test_masks_that_overlap_over_one_array_of_scores_are_refused():
  scores = jnp.arange(4.0)
  members = jnp.array([True, True, False, False])
  assert float(roc.auc(scores, scores, members, ~members)) == 0
  with pytest.raises(ValueError, match=r"both member_mask and .* got 1"):
    roc.auc(scores, scores, members, jnp.array([False, True, True, False]))


def test_rows_on_both_sides_are_refused():
  roc.check_groups([1, 2], [3])
  roc.check_groups(np.array([True, False]), np.array([False, True]))
  refused("both groups, got 1", roc.check_groups, [1, 2], [2, 3])
  with pytest.raises(ValueError, match="both groups, got 2"):
    roc.check_groups(np.ones(2, bool), np.ones(2, bool))
  refused("others to hold rows, got 0", roc.check_groups, [1, 2], [])
  refused("masks of one shape", roc.check_groups, np.ones(2, bool), [3, 4])


# Intervals.


@pytest.mark.slow
def test_bootstrap_interval_is_that_of_resampled_rows():
  members, others = groups(5, 60, 80)
  rng = np.random.default_rng(0)
  drawn = [
    metrics.separation_auc(
      jnp.asarray(rng.choice(members, 60)), jnp.asarray(rng.choice(others, 80))
    )
    for _ in range(300)
  ]
  wanted = np.quantile(np.array(drawn), [0.05, 0.95])
  # Rows that do not count are never drawn.
  padded = np.append(members, [np.nan] * 7), np.append(others, [1e9] * 5)
  masks = ~np.isnan(padded[0]), padded[1] < 1e9
  found = intervals.bootstrap(
    jax.random.key(0), *padded, *masks, num_samples=2000, level=0.9
  )
  # The ends of 300 replicates have a standard error near 0.004.
  np.testing.assert_allclose(
    [found.low.auc, found.high.auc], wanted, atol=0.016
  )
  np.testing.assert_allclose(
    found.estimate.auc, metrics.separation_auc(members, others), rtol=1e-6
  )
  assert np.isnan(found.low.tpr_at_1_percent_fpr)


def test_bootstrap_draws_as_many_rows_as_count():
  seen = intervals.bootstrap(
    jax.random.key(1),
    np.arange(5.0),
    np.arange(4.0),
    np.array([1, 0, 1, 1, 0], bool),
    statistic=lambda members, others, m, o: (m.sum(), m[1] + m[4], m[0]),
    num_samples=200,
    level=0.999,
  )
  assert (seen.low[0], seen.high[0]) == (3, 3)
  assert (seen.low[1], seen.high[1]) == (0, 0)
  assert seen.low[2] == 0
  assert seen.high[2] > 2


@pytest.mark.slow
def test_bootstrap_has_the_same_bits_for_a_key_and_any_chunk_size():
  members, others = groups(6)
  call = lambda key, size: intervals.bootstrap(
    key, members, others, statistic=roc.auc, num_samples=30, chunk_size=size
  )
  first, again, loop = (call(jax.random.key(2), b) for b in (30, 30, 7))
  other = call(jax.random.key(3), 30)
  assert first == again == loop
  assert first.low != other.low
  jitted = jax.jit(lambda k: call(k, 30))(jax.random.key(2))
  np.testing.assert_allclose(jitted, first, rtol=1e-6)
  keys = jax.random.split(jax.random.key(4), 2)
  many = jax.vmap(lambda k: call(k, 30))(keys)
  for i in range(2):
    np.testing.assert_allclose(many.low[i], call(keys[i], 30).low, rtol=1e-6)


def test_bootstrap_by_model_resamples_models_and_not_their_rows():
  # All rows of a model are equal: rows would pretend to 8 x 50 observations.
  level = np.random.default_rng(0).normal(size=(8, 1)).astype(np.float32)
  members = np.broadcast_to(level, (8, 50))
  others = np.zeros((8, 50), np.float32)
  mean = lambda members, others, m, o: (m * members).sum() / m.sum()
  found = intervals.bootstrap(
    jax.random.key(0), members, others, statistic=mean, num_samples=4000
  )
  rng = np.random.default_rng(1)
  drawn = rng.choice(level[:, 0], (20_000, 8)).mean(1)
  wanted = np.quantile(drawn, [0.025, 0.975])
  np.testing.assert_allclose([found.low, found.high], wanted, atol=0.06)
  rows = intervals.bootstrap(
    jax.random.key(0), members.ravel(), others.ravel(), statistic=mean
  )
  assert rows.high - rows.low < 0.3 * (found.high - found.low)
  # With masks: a model brings the rows of its own mask.
  masks = np.random.default_rng(2).random((8, 50)) < 0.5
  sizes = intervals.bootstrap(
    jax.random.key(0),
    members,
    members,
    masks,
    ~masks,
    statistic=lambda members, others, m, o: ((m + o).sum(), m @ ~masks.ravel()),
    num_samples=50,
  )
  assert (sizes.low[0], sizes.high[0]) == (400, 400)
  assert sizes.high[1] == 0


@pytest.mark.parametrize("both", [False, True])
def test_rows_are_resampled_beside_models_where_asked(both):
  """Of scores model + row the mean has a variance of either or of both."""
  rng = np.random.default_rng(0)
  models, rows = rng.normal(size=12), rng.normal(size=40)
  scores = models[:, None] + rows[None]
  interval = intervals.bootstrap(
    jax.random.key(0),
    scores,
    np.zeros((12, 3)),
    statistic=lambda m, o, w, _: (w * m).sum() / w.sum(),
    resample_rows=both,
    num_samples=4000,
  )
  variance = models.var() / 12 + both * rows.var() / 40
  width = float(interval.high - interval.low)
  assert width == pytest.approx(2 * 1.96 * variance**0.5, rel=0.08)


def test_bad_arguments_of_the_bootstrap_are_named():
  ones, key = np.ones(3), jax.random.key(0)
  refused("T >= 2", intervals.bootstrap, key, np.ones((1, 3)), np.ones((1, 3)))
  refused("T >= 2", intervals.bootstrap, key, np.ones((2, 3)), ones)
  refused("T >= 2", intervals.bootstrap, key, np.ones((2, 3)), np.ones((3, 3)))
  with pytest.raises(ValueError, match="T >= 2"):
    intervals.bootstrap(key, np.ones((2, 2, 3)), np.ones((2, 2, 3)))
  with pytest.raises(ValueError, match=r"other_mask bool \[3\]"):
    intervals.bootstrap(key, ones, ones, None, ones)
  with pytest.raises(ValueError, match="num_samples > 0"):
    intervals.bootstrap(key, ones, ones, num_samples=0)
  refused(r"level in \(0, 1\)", intervals.bootstrap, key, ones, ones, level=1)


def test_clopper_pearson_has_its_known_bounds_and_covers():
  low, high = intervals.clopper_pearson([3, 0, 1000], 1000)
  np.testing.assert_allclose(low, [0.00062, 0, 1 - 0.00368], atol=5e-6)
  np.testing.assert_allclose(high, [0.00874, 0.00368, 1], atol=5e-6)
  low, high = intervals.clopper_pearson(0, 2995, sides="upper")
  assert low == 0 and high <= 0.001
  assert intervals.clopper_pearson(0, 2994, sides="upper")[1] > 0.001
  low, high = intervals.clopper_pearson(5, 20, 0.9, sides="lower")
  assert high == 1
  from scipy.stats import binom

  # Of the lower bound exactly 10 % are at five or more.
  np.testing.assert_allclose(binom.sf(4, 20, low), 0.1, rtol=1e-9)
  refused("count in 0", intervals.clopper_pearson, 4, 3)
  refused(r"level in \(0, 1\)", intervals.clopper_pearson, 1, 3, 0)
  refused("sides to be one of", intervals.clopper_pearson, 1, 3, sides="left")


def test_certified_threshold_holds_with_its_confidence():
  scores = np.arange(2995.0)
  certified = functools.partial(intervals.certified_threshold, fpr=0.001)
  assert certified(scores) == 2994
  assert certified(scores[1:]) == np.inf
  mask = np.ones(2995, bool)
  mask[-1] = False
  assert certified(scores, mask) == np.inf
  # Uniform scores: the true FPR of a threshold is one minus it. How often it is
  # too large in 2,000 trials has a standard error of 0.005.
  draws = np.random.default_rng(0).random((2000, 300))
  rates = [
    1 - intervals.certified_threshold(draw, fpr=0.05, level=0.9)
    for draw in draws
  ]
  broken = (np.array(rates) > 0.05).mean()
  assert 0.03 < broken < 0.1 + 0.02
  refused(r"fpr in \(0, 1\)", intervals.certified_threshold, scores, fpr=0)
  refused("other_scores of some rows", certified, scores, np.zeros(2995, bool))
  refused("got 1 that are nan", certified, [np.nan, 1])
  refused("other_mask bool", certified, scores, np.ones(3, bool))


def test_tpr_interval_chooses_its_threshold_on_one_half():
  members, others = groups(8, 200, 400)
  found = intervals.tpr_interval(members, others, fpr=0.05)
  assert found.tpr == (members > found.threshold).mean()
  wanted = intervals.clopper_pearson(round(found.tpr * 200), 200)
  np.testing.assert_allclose((found.tpr_low, found.tpr_high), wanted)
  above = int((others > found.threshold).sum())
  # Ten of the half of 200 are above it, the rest belong to the other half.
  np.testing.assert_allclose(found.fpr, (above - 10) / 200)
  wanted = intervals.clopper_pearson(above - 10, 200)
  np.testing.assert_allclose((found.fpr_low, found.fpr_high), wanted)
  again = intervals.tpr_interval(members, others, fpr=0.05, seed=1)
  assert again != found
  masks = np.ones(200, bool), np.arange(400) < 18
  few = intervals.tpr_interval(members, others, *masks, fpr=0.1)
  assert np.isnan(few).all()
  with pytest.raises(ValueError, match="of >= 2 rows, got 1"):
    intervals.tpr_interval(members, others[:1], fpr=0.1)
