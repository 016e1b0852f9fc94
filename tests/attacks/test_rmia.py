"""RMIA against published code, NumPy, and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.attacks import rmia as attack
from jaxunlearn.attacks.rmia import rmia_leave_one_out, rmia_scores
from jaxunlearn.metrics import separation_auc


def run(fn, *arguments, **options):
  return jax.jit(functools.partial(fn, **options))(*arguments)


def draws(models=6, rows=9, others=7, queries=2, seed=0):
  rng = np.random.default_rng(seed)
  half = np.repeat(np.arange(models)[:, None] < models // 2, rows, axis=1)
  return (
    np.float32(rng.uniform(0.01, 1, (models, rows, queries))),
    rng.permuted(half, axis=0),
    np.float32(rng.uniform(0.01, 1, (models, others, queries))),
  )


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("references", ["all", "largest"])
def test_leave_one_out_is_rmia_without_that_model(mode, references):
  signals, masks, population = draws()
  options = {"mode": mode, "population_references": references}
  found = run(rmia_leave_one_out, signals, masks, population, **options)
  score = jax.jit(functools.partial(rmia_scores, **options))
  for s in range(6):
    rest = np.arange(6) != s
    wanted = score(
      signals[s], population[s], signals[rest], masks[rest], population[rest]
    )
    np.testing.assert_allclose(found[s], wanted, atol=1e-6)
  other = run(
    rmia_leave_one_out, signals, masks, population, strategy=4, **options
  )
  np.testing.assert_allclose(found, other, atol=1e-6)


def test_targets_that_equal_the_references_have_ratio_one_everywhere():
  row = np.float32(np.random.default_rng(0).uniform(0.1, 1, (1, 5, 1)))
  signals, masks = np.repeat(row, 4, axis=0), np.arange(4)[:, None] < 2
  masks = np.repeat(masks, 5, axis=1)
  arguments = signals[0], signals[0], signals, masks, signals
  assert (rmia_scores(*arguments) == 1).all()
  assert (rmia_scores(*arguments, gamma=1.001) == 0).all()
  assert (rmia_scores(*arguments, strict=True) == 0).all()


def test_an_offline_constant_of_one_reads_out_models_only():
  signals, masks, population = draws()
  options = {"mode": "offline", "offline_a": 1.0}
  rest = signals[1:], masks[1:], population[1:]
  scores = jax.jit(lambda *a: rmia_scores(*a, **options))
  wanted = scores(signals[0], population[0], *rest)
  changed = np.where(masks[..., None], 0.5, signals)
  found = scores(
    signals[0], population[0], changed[1:], masks[1:], population[1:]
  )
  assert (found == wanted).all()
  online = rmia_scores(signals[0], population[0], changed[1:], *rest[1:])
  assert (online != rmia_scores(signals[0], population[0], *rest)).any()


def test_signals_of_zero_stay_finite():
  signals, masks, population = draws()
  signals[:, 0], population[:, 0] = 0, 0
  found = rmia_scores(
    signals[0], population[0], signals[1:], masks[1:], population[1:]
  )
  assert np.isfinite(np.asarray(found)).all()


def test_taylor_confidence_equals_its_formula():
  rng = np.random.default_rng(0)
  logits = np.float32(rng.uniform(-2, 3, (20, 5)))
  labels = rng.integers(0, 5, 20)
  v = np.float64(logits) / 2
  v[np.arange(20), labels] -= 0.6
  weight = np.maximum(1 + v + v**2 / 2 + v**3 / 6, 0)
  wanted = weight[np.arange(20), labels] / weight.sum(axis=1)
  for fn in (attack.taylor_confidence, jax.jit(attack.taylor_confidence)):
    np.testing.assert_allclose(fn(logits, labels), wanted, rtol=1e-5, atol=1e-7)
  low = attack.taylor_confidence(np.full((1, 3), -50.0), np.zeros(1, int))
  assert low == 0
  with pytest.raises(ValueError, match="temperature > 0"):
    attack.taylor_confidence(logits, labels, temperature=0.0)


def test_rows_without_out_models_are_nan_under_jit_and_refused_outside():
  signals, masks, population = draws(4)
  masks[:, 1] = True
  arguments = signals[0], population[0], signals, masks, population
  found = np.asarray(jax.jit(rmia_scores)(*arguments))
  assert list(np.isnan(found)) == [False, True] + [False] * 7
  refused(r"at least 1 OUT models .* row 1", rmia_scores, *arguments)
  with pytest.raises(ValueError, match="at least 2 OUT models"):
    rmia_leave_one_out(signals, masks, population)
  masks[:, 1] = False
  refused(r"at least 1 IN models .* row 1", rmia_scores, *arguments)
  with pytest.raises(ValueError, match="at least 2 IN models"):
    rmia_leave_one_out(signals, masks, population)


def test_the_offline_constant_is_tuned_on_arrays_of_jax_too():
  rng = np.random.default_rng(3)
  masks = np.arange(12)[None] % 2 == np.arange(4)[:, None] % 2
  signals = rng.uniform(0.2, 0.6, (4, 12, 1)) + 0.3 * masks[..., None]
  population = rng.uniform(0.2, 0.9, (4, 7, 1))
  parts = signals[0], masks[0], population[0], signals[1:], masks[1:]
  arrays = [jnp.asarray(x) for x in (*parts, population[1:])]
  scores = lambda a: rmia_scores(
    arrays[0], arrays[2], *arrays[3:], mode="offline", offline_a=a
  )
  best = attack.tune_offline_a(*arrays)
  of = lambda a: separation_auc(scores(a), scores(a), masks[0], ~masks[0])
  assert of(best) == max(of(a) for a in np.linspace(0, 1, 11))


def test_bad_input_is_refused():
  signals, masks, population = draws(4)
  good = [signals[0], population[0], signals, masks, population]
  spoilt = signals.copy()
  spoilt[0, 0] = np.nan
  for place, value, message in (
    (0, signals[0][:3], "target_signals of shape \\(9, 2\\)"),
    (1, population[0][:, :1], "target_population of shape \\(7, 2\\)"),
    (1, population[:2], "of as many targets"),
    (2, signals[0], "shadow_signals \\[S, N, A\\]"),
    (2, spoilt, "shadow_signals to be finite"),
    (2, -signals, "shadow_signals >= 0"),
    (3, masks[:2], "shadow_masks bool \\[4, 9\\]"),
    (4, population[:2], "shadow_population \\[S, Z > 0, A\\]"),
    (4, population[:, :0], "Z > 0"),
  ):
    with pytest.raises(ValueError, match=message):
      rmia_scores(*[value if i == place else x for i, x in enumerate(good)])
  for options, message in (
    ({"mode": "both"}, "mode to be one of"),
    ({"gamma": 0.0}, "gamma > 0"),
    ({"offline_a": 1.1}, r"offline_a in \[0, 1\]"),
    ({"population_references": "few"}, "population_references to be one of"),
  ):
    refused(message, rmia_scores, *good, **options)
