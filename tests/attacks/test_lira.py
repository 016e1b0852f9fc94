"""LiRA against published code, NumPy, and its own definition."""

import functools

import jax
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.attacks.lira import (
  global_threshold,
  lira_leave_one_out,
  lira_scores,
)

OPTIONS = [
  {"mode": mode, "variance": variance, "center": center}
  for mode in ("online", "offline")
  for variance in ("per_example", "fixed")
  for center in ("median", "mean")
]


def run(fn, *arguments, **options):
  return jax.jit(functools.partial(fn, **options))(*arguments)


def draws(models=9, rows=12, queries=2, seed=0):
  rng = np.random.default_rng(seed)
  statistics = rng.normal(size=(models, rows, queries)).astype(np.float32)
  half = np.repeat(np.arange(models)[:, None] < models // 2, rows, axis=1)
  return statistics, rng.permuted(half, axis=0)


def assert_close(found, wanted, tolerance=1e-5):
  found, wanted = np.asarray(found), np.asarray(wanted)
  assert found.shape == wanted.shape
  assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def numpy_offline(target, shadow, masks):
  """Per-example medians and spreads of the OUT models, row by row."""
  scores = np.zeros(target.shape[0])
  for row in range(target.shape[0]):
    seen = np.float64(shadow[~masks[:, row], row])
    spread = np.maximum(seen.std(axis=0), 1e-3)
    z = (target[row] - np.median(seen, axis=0)) / spread
    scores[row] = z.mean()
  return scores


@pytest.mark.parametrize("models", [5, 6, 9])
def test_medians_are_exact_with_ties_negative_zeros_and_odd_counts(models):
  statistics, masks = draws(models, 40, 1)
  statistics = np.round(statistics * 2) / 2  # Many equal numbers, some -0.
  statistics[:2] += np.float32([[[0.25]], [[1e-3]]])
  target = statistics[0] + 1
  found = run(
    lira_scores, target, statistics, masks, mode="offline", floor=1e-3
  )
  wanted = numpy_offline(target, statistics, masks)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_numbers_of_any_size_are_ordered():
  values = np.float32([-3e15, -1.0, -1e-30, 0, 1e-37, 2.0, 3e15])
  statistics = values[:, None, None] * np.ones((7, 3, 1), np.float32)
  for count in range(1, 8):
    masks = np.ones((7, 3), bool)
    masks[:count] = False
    z = run(
      lira_scores,
      np.full((3, 1), np.median(values[:count]), np.float32),
      statistics,
      masks,
      mode="offline",
      variance="fixed",
    )
    assert (z == 0).all()


def one_by_one(statistics, masks, **options):
  score = jax.jit(functools.partial(lira_scores, **options))
  return np.stack(
    [
      score(
        statistics[s],
        np.delete(statistics, s, axis=0),
        np.delete(masks, s, axis=0),
      )
      for s in range(len(masks))
    ]
  )


@pytest.mark.parametrize("options", OPTIONS)
def test_leave_one_out_is_lira_without_that_model(options):
  statistics, masks = draws()
  found = run(lira_leave_one_out, statistics, masks, chunk_size=5, **options)
  wanted = one_by_one(statistics, masks, **options)
  assert_close(found, wanted, 1e-4)


def test_leave_one_out_with_ties_is_lira_without_that_model():
  statistics, masks = draws(8, 30, 1)
  statistics = np.round(statistics)
  found = run(lira_leave_one_out, statistics, masks, variance="fixed")
  wanted = one_by_one(statistics, masks, variance="fixed")
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_with_equal_spreads_the_ranking_is_that_of_the_statistic():
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(10, 1, 1))
  shadow = np.concatenate([noise + 3, noise - 1]) * np.ones((20, 50, 1))
  masks = np.repeat(np.arange(20) < 10, 50).reshape(20, 50)
  target = rng.normal(size=(50, 1)) * 3
  scores = np.asarray(run(lira_scores, target, shadow, masks))
  assert (np.argsort(scores) == np.argsort(target[:, 0])).all()
  swapped = np.asarray(run(lira_scores, target, shadow, ~masks))
  assert_close(swapped, -scores)


def test_two_sided_scores_suspect_low_statistics_too():
  shadow = np.random.default_rng(0).normal(size=(40, 3, 1))
  masks = np.zeros((40, 3), bool)
  target = np.array([[-9.0], [0.0], [9.0]])
  one_sided = run(lira_scores, target, shadow, masks, mode="offline")
  two_sided = run(
    lira_scores, target, shadow, masks, mode="offline", two_sided=True
  )
  assert one_sided[0] < one_sided[1] < one_sided[2]
  assert two_sided[0] > two_sided[1] < two_sided[2]


def test_rows_with_too_few_models_are_nan_under_jit_and_refused_outside():
  statistics, masks = draws(6, 4, 1)
  masks[:, 1], masks[:, 2] = True, np.arange(6) < 1
  target = statistics[0]
  found = np.asarray(jax.jit(lira_scores)(target, statistics, masks))
  assert list(np.isnan(found)) == [False, True, True, False]
  fixed = jax.jit(lambda *a: lira_scores(*a, variance="fixed"))
  found = np.asarray(fixed(target, statistics, masks))
  assert list(np.isnan(found)) == [False, True, False, False]
  with pytest.raises(ValueError, match=r"at least 2 IN models .* 1 for row 2"):
    lira_scores(target, statistics, masks)
  with pytest.raises(ValueError, match=r"at least 1 OUT models .* 0 for row 1"):
    lira_scores(target, statistics, masks, variance="fixed")
  with pytest.raises(ValueError, match=r"at least 2 OUT models .* 0 for row 1"):
    lira_scores(target, statistics, masks, mode="offline")
  with pytest.raises(ValueError, match="at least 2 IN models"):
    lira_leave_one_out(statistics, masks, variance="fixed")
  with pytest.raises(ValueError, match="at least 1 IN models"):
    lira_scores(target, statistics[:1], ~masks[:1] & False, variance="fixed")


def test_bad_input_is_refused():
  statistics, masks = draws(6, 4, 1)
  target = statistics[0]
  spoilt = statistics.copy()
  spoilt[0, 0] = np.nan
  for arguments, options, message in (
    ((target, statistics[0], masks), {}, "shadow_statistics \\[S, N, A\\]"),
    ((target[:3], statistics, masks), {}, "target_statistics \\[N, A\\]"),
    ((target[:, 0], statistics, masks), {}, "and \\(4,\\)"),
    ((target, statistics, masks[:5]), {}, "shadow_masks bool \\[6, 4\\]"),
    ((target, statistics, masks.astype(int)), {}, "got int"),
    ((target, spoilt, masks), {}, "shadow_statistics to be finite, got 1"),
    ((spoilt[0], statistics, masks), {}, "target_statistics to be finite"),
    ((target, statistics, masks), {"mode": "both"}, "mode to be one of"),
    ((target, statistics, masks), {"variance": "x"}, "variance to be one of"),
    ((target, statistics, masks), {"center": "x"}, "center to be one of"),
    ((target, statistics, masks), {"floor": 0.0}, "floor > 0"),
    ((target, statistics, masks), {"chunk_size": 0}, "chunk_size > 0"),
    ((target, statistics, masks), {"two_sided": True}, "mode='offline' with"),
  ):
    refused(message, lira_scores, *arguments, **options)
  for arguments, options, message in (
    ((statistics[0], masks), {}, "statistics \\[S, N, A\\]"),
    ((statistics, masks[:, :2]), {}, "masks bool"),
    ((statistics, masks), {"mode": "x"}, "mode to be one of"),
  ):
    refused(message, lira_leave_one_out, *arguments, **options)
  refused("target_statistics \\[N, A\\]", global_threshold, np.zeros(3))
