"""The challenge's estimator against a plain double loop, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import blobs, mlp
from refusals import refused

from jaxunlearn import metrics
from jaxunlearn.attacks import challenge as quality
from jaxunlearn.core.training import train

RECIPE = {"optimizer": optax.adam(0.02), "num_steps": 12, "batch_size": 8}
MODEL, DATA = mlp(), blobs(20)
FORGET = jnp.arange(20) < 5


def of_rule(false_positives, false_negatives, count, delta=1e-5):
  """Epsilon of a rule from its errors over models; 0 if dropped."""
  fpr, fnr = false_positives / count, false_negatives / count
  if fpr == 0 and fnr == 0:
    return 50.0
  if fpr == 0 or fnr == 0:
    return 0.0
  both = [
    np.log(1 - delta - a) - np.log(b)
    for a, b in ((fpr, fnr), (fnr, fpr))
    if 1 - delta - a > 0
  ]
  return min(max([0.0, *both]), 50.0)


def numpy_epsilon(unlearned, retrained):
  """One row, one threshold after the other over the whole grids."""
  u, r = np.float64(unlearned), np.float64(retrained)
  widths = sorted([np.ptp(u), np.ptp(r)])
  if widths[0] < 0.01 * widths[1]:
    return 50.0
  positive, negative = (r, u) if np.median(r) > np.median(u) else (u, r)
  pooled = np.concatenate([u, r])
  count = int(np.ceil(np.ptp(pooled) * 100))
  errors = {
    (int((negative >= t).sum()), int((positive < t).sum()))
    for t in np.linspace(pooled.min(), pooled.max(), count)
  }
  wide, narrow = negative, positive
  if np.ptp(positive) >= np.ptp(negative):
    wide, narrow = positive, negative
  for right in np.linspace(narrow.max() - 2, narrow.max() + 2, 400):
    start = right - np.ptp(narrow)
    left = np.linspace(start - 2, start + 2, 400)[:, None]
    caught = ((wide >= left) & (wide <= right)).sum(axis=1)
    missed = (~((narrow >= left) & (narrow <= right))).sum(axis=1)
    errors |= set(zip(caught.tolist(), missed.tolist()))
  return max(of_rule(*pair, len(u)) for pair in errors)


def samples(num_models=12, seed=1):
  """Five rows: alike, shifted, narrower, a mixture, far apart."""
  rng = np.random.default_rng(seed)
  u, r = rng.normal(size=(2, num_models, 5))
  u[:, 1] += 1
  u[:, 2] *= 0.2
  u[:, 3] += 3 * rng.choice([-1, 1], num_models)
  u[:, 4] += 30
  return np.float32(u), np.float32(r)


def test_epsilons_equal_a_loop_over_all_thresholds():
  u, r = samples()
  found = jax.jit(quality.forgetting_quality)(u, r)
  wanted = np.array([numpy_epsilon(u[:, j], r[:, j]) for j in range(5)])
  np.testing.assert_allclose(found.epsilon, wanted, rtol=1e-4, atol=1e-5)
  assert wanted[4] == 50 and len(set(wanted)) >= 4
  # log(12 - 1) is between 2 and 3: six bins, worth 1, 1/2, ..., 1/32.
  points = [0.5 ** (e // 0.5) if e < 3 else 0 for e in wanted]
  assert abs(found.score - np.mean(points)) < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_single_thresholds_equal_the_whole_grid(seed):
  rng = np.random.default_rng(seed)
  for scale in (1.0, 0.05, 0.004):
    sides = np.float32(np.sort(rng.normal(size=(2, 40)) * scale))
    got = np.stack(quality._threshold_errors(*map(jnp.array, sides), 100))
    pooled = np.float64(sides)
    grid = np.linspace(
      pooled.min(), pooled.max(), int(np.ceil(np.ptp(pooled) * 100))
    )
    wanted = {
      (int((pooled[1] >= t).sum()), int((pooled[0] < t).sum())) for t in grid
    }
    # The first point of the grid, where nobody is missed, is always dropped.
    first = {(40, 0)}
    assert {tuple(map(int, e)) for e in got.T} | first == wanted | first


@pytest.mark.slow
def test_chunks_weights_and_vmap_change_nothing_else():
  u, r = samples()
  plain = quality.forgetting_quality(u, r)
  parts = quality.forgetting_quality(u, r, chunk_size=2)
  np.testing.assert_array_equal(plain.epsilon, parts.epsilon)
  swapped = quality.forgetting_quality(r, u)
  np.testing.assert_allclose(plain.epsilon, swapped.epsilon, atol=1e-5)
  two = jax.vmap(quality.forgetting_quality)(np.stack([u, r]), np.stack([r, r]))
  np.testing.assert_allclose(two.epsilon[0], plain.epsilon, atol=1e-6)
  only = jnp.array([False, False, False, False, True])
  assert quality.forgetting_quality(u, r, only).score == 0
  assert jnp.isnan(quality.forgetting_quality(u, r, only & False).score)


def test_samples_of_one_law_score_far_above_those_of_two():
  rng = np.random.default_rng(0)
  u, r = rng.normal(size=(2, 128, 12))
  same = quality.forgetting_quality(u, r).score
  other = quality.forgetting_quality(u + 2, r).score
  # Of 128 models each the best of many rules has an epsilon near 1 by chance.
  assert same > 0.15 and other < same / 2


def test_disjoint_or_degenerate_samples_have_the_largest_epsilon():
  u, r = samples(16)
  apart = quality.forgetting_quality(u + 100, r)
  assert (apart.epsilon == 50).all() and apart.score == 0
  peaked = quality.forgetting_quality(u * 1e-4, r)
  assert (peaked.epsilon == 50).all()


def test_small_scales_are_too_fine_for_the_grid():
  u, r = samples(16)
  # All within one grid step: no threshold tells them apart.
  tiny = quality.forgetting_quality(u[:, 1:2] * 1e-4, r[:, 1:2] * 1e-4)
  assert tiny.epsilon[0] == 0
  fine = quality.forgetting_quality(
    u[:, 1:2] / 10, r[:, 1:2] / 10, thresholds_per_unit=1000, buffer=0.2
  )
  plain = quality.forgetting_quality(u[:, 1:2], r[:, 1:2])
  np.testing.assert_allclose(fine.epsilon, plain.epsilon, rtol=1e-4)


def test_a_row_that_is_not_finite_is_nan_under_jit():
  u, r = samples()
  u[0, 1] = np.nan
  found = jax.jit(quality.forgetting_quality)(u, r)
  assert list(np.isnan(np.asarray(found.epsilon))) == [0, 1, 0, 0, 0]
  assert np.isnan(found.score)


@pytest.mark.parametrize(
  "arguments, options, message",
  [
    (
      (np.zeros((4, 2)), np.zeros((5, 2))),
      {},
      r"retrained_statistics \[M, F\], got",
    ),
    ((np.zeros(4), np.zeros(4)), {}, r"\[M, F\], got \(4,\)"),
    ((np.zeros((2, 3)), np.zeros((2, 3))), {}, "at least 3 models .* got 2"),
    ((np.full((4, 2), np.nan), np.zeros((4, 2))), {}, "to be finite"),
    ((np.zeros((4, 2)),) * 2, {"delta": 2.0}, r"delta in \[0, 1\]"),
    ((np.zeros((4, 2)),) * 2, {"thresholds_per_unit": 0}, "per_unit > 0"),
    ((np.zeros((4, 2)),) * 2, {"buffer": 0.0}, "buffer > 0"),
    ((np.zeros((4, 2)),) * 2, {"chunk_size": 0}, "chunk_size > 0"),
    ((np.zeros((4, 2)),) * 2 + (np.ones(3, bool),), {}, r"weights \[2\]"),
  ],
)
def test_bad_samples_are_refused(arguments, options, message):
  refused(message, quality.forgetting_quality, *arguments, **options)


def identity(variables, data, forget_mask, key):
  del data, forget_mask, key
  return variables, None


def keys(seed, count=3):
  return jax.random.split(jax.random.key(seed), count)


def runs(unlearn=identity, **options):
  return jax.jit(
    lambda f, a, b: quality.forgetting_quality_runs(
      MODEL, DATA, f, a, b, unlearn, **options, **RECIPE
    )
  )(FORGET, keys(0), keys(1))


@pytest.mark.slow
def test_runs_are_the_models_trained_one_by_one():
  asked = {"questions": quality.Questions(test_data=blobs(16, seed=3))}
  found = runs(**asked)
  chunked = runs(**asked, strategy="map")
  for one, other in zip(found, chunked):
    np.testing.assert_allclose(one, other, atol=1e-4)
  fit = jax.jit(lambda m, k: train(MODEL, DATA, m, k, **RECIPE)[0])
  for model in range(3):
    for weights, key, values, retain, test in (
      (FORGET | True, keys(0)[model], *found[::2]),
      (~FORGET, keys(1)[model], *found[1::2]),
    ):
      logits = MODEL.predict(fit(weights, key), DATA["x"])
      wanted = metrics.logit_confidence(logits, DATA["label"])
      np.testing.assert_allclose(values[model], wanted, atol=1e-4)
      right = np.asarray(logits).argmax(axis=1) == DATA["label"]
      assert abs(retain[model] - right[~np.asarray(FORGET)].mean()) < 1e-6
      assert 0 <= test[model] <= 1


@pytest.mark.slow
def test_one_original_may_serve_all_runs():
  original, _ = train(MODEL, DATA, FORGET | True, jax.random.key(5), **RECIPE)
  few = quality.Questions({k: v[:5] for k, v in DATA.items()})
  found = runs(original=original, questions=few)
  assert found.unlearned.shape == found.retrained.shape == (3, 5)
  assert (found.unlearned == found.unlearned[:1]).all()
  assert jnp.isnan(found.unlearned_test_accuracy).all()
  assert found.retrained.std(axis=0).min() > 0


def test_the_challenge_score_weighs_quality_by_two_utilities():
  ones = jnp.ones(3)
  found = quality.QualityRuns(
    jnp.zeros((3, 2)), jnp.zeros((3, 2)), ones * 0.8, ones, ones * 0.3, ones / 2
  )
  assert abs(quality.challenge_score(0.5, found) - 0.5 * 0.8 * 0.6) < 1e-6
  untested = found._replace(retrained_test_accuracy=ones * jnp.nan)
  assert abs(quality.challenge_score(0.5, untested) - 0.5 * 0.8) < 1e-6
  blind = found._replace(retrained_retain_accuracy=0 * ones)
  assert jnp.isnan(quality.challenge_score(0.5, blind))


def test_soft_requests_are_refused():
  with pytest.raises(ValueError, match="dtype bool"):
    quality.forgetting_quality_runs(
      MODEL, DATA, FORGET * 0.5, keys(0), keys(1), identity, **RECIPE
    )
