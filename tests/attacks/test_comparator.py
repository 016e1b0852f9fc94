"""The Comparator's attack, against the sheet and float64 NumPy."""

import compared
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import attacks


def quality(fpr, fnr, delta=1e-5):
  """2^-epsilon as the sheet says it, in float64."""
  if fpr == 0 and fnr == 0:
    return 0.0
  if max(fpr, fnr) >= 1 - delta:
    return 1.0
  a, b = np.clip([fpr, fnr], 1e-10, 1 - delta - 1e-10)
  bounds = (
    np.log(1 - delta - a) - np.log(b),
    np.log(1 - delta - b) - np.log(a),
  )
  return 2 ** -max(0.0, min(bounds))


@pytest.mark.parametrize(
  "rates, epsilon, fq",
  [
    ((0.25, 0.25), 1.0986, 0.467),
    ((0.5, 0.5), 0.0, 1.0),
    ((0.0, 0.0), np.inf, 0.0),
    ((1.0, 0.0), 0.0, 1.0),
  ],
)
def test_the_worked_points_of_the_paper(rates, epsilon, fq):
  found = attacks.privacy_epsilon(*map(jnp.float32, rates))
  assert float(found) == pytest.approx(epsilon, abs=1e-4)
  assert float(2.0**-found) == pytest.approx(fq, abs=1e-3)
  assert quality(*rates) == pytest.approx(fq, abs=1e-3)


def test_signals_equal_float64_and_do_not_underflow():
  logits = np.random.default_rng(0).normal(size=(20, 5)) * 4
  soft = np.exp(logits / 2) / np.exp(logits / 2).sum(-1, keepdims=True)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  top = p.max(-1)
  expected = -(soft * np.log(soft)).sum(-1), np.log(top) - np.log1p(-top)
  found = jax.jit(attacks.retraining_signals)(jnp.float32(logits))
  np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)
  sure = jax.jit(attacks.retraining_signals)(jnp.array([[200.0, 0.0, -1.0]]))
  assert float(sure[1, 0]) == pytest.approx(
    200 - np.log1p(np.exp(-1)), abs=1e-3
  )


def test_four_curves_of_51_rows_equal_a_loop():
  rng = np.random.default_rng(1)
  ours = np.stack([rng.uniform(0, 3, 30), rng.normal(3, 4, 30)])
  theirs = np.stack([rng.uniform(0.5, 3, 30), rng.normal(1, 4, 30)])
  mask = rng.random(30) < 0.7
  found = jax.jit(attacks.privacy_score)(
    jnp.float32(ours), jnp.float32(theirs), jnp.asarray(mask)
  )
  assert found.curves.score.shape == (2, 2, 51)
  best = 0.0
  for i, (low, high) in enumerate(((0, 2.5), (-2.5, 10))):
    a, b = (np.clip(v[i][mask], low, high) for v in (ours, theirs))
    for j, (up, other) in enumerate(((a, b), (b, a))):
      for k, t in enumerate(np.linspace(low, high, 51)):
        t = np.float32(t)
        fpr, fnr = (other >= t).mean(), (up < t).mean()
        np.testing.assert_allclose(found.curves.fpr[i, j, k], fpr, atol=1e-6)
        np.testing.assert_allclose(found.curves.fnr[i, j, k], fnr, atol=1e-6)
        score = 1 - quality(fpr, fnr)
        np.testing.assert_allclose(
          found.curves.score[i, j, k], score, atol=2e-4
        )
        best = max(best, score)
  assert float(found.value) == pytest.approx(1 - best, abs=2e-4)
  again = attacks.privacy_score(jnp.float32(theirs), jnp.float32(ours), mask)
  assert float(again.value) == pytest.approx(float(found.value), abs=1e-6)


def test_the_score_is_one_for_itself_and_zero_for_what_is_apart():
  signals = jnp.stack([jnp.linspace(0.0, 1, 20), jnp.linspace(0.0, 5, 20)])
  assert float(attacks.privacy_score(signals, signals).value) == 1
  assert float(attacks.privacy_score(signals, signals + 9).value) == 0
  broken = signals.at[0, 3].set(jnp.nan)
  assert np.isnan(attacks.privacy_score(broken, signals).value)
  rest = jnp.arange(20) != 3  # Of a row that does not count nothing is said.
  assert float(attacks.privacy_score(broken, signals, rest).value) == 1


def test_two_samples_of_one_law_stay_below_one():
  """The floor of the sheet: about 0.9 for 200 rows; a shift of 2 sigma 0.38."""
  draws = jax.random.normal(jax.random.key(0), (2, 2, 200))
  score = lambda shift: float(
    attacks.privacy_score(draws[0] + 3, draws[1] + 3 + shift).value
  )
  assert 0.8 < score(0) < 1
  assert 0.2 < score(2) < 0.5


def test_a_record_says_what_the_sheet_wants():
  found, forget, label = compared.records()
  for record in found.values():
    for part in (record.train, record.test):
      np.testing.assert_allclose(part.shares.sum(-1), 1, atol=1e-6)
      np.testing.assert_allclose(part.confidences.sum(-1), 1, atol=1e-6)
    diagonal = np.diagonal(record.train.shares)
    assert record.forget_accuracy == pytest.approx(diagonal[2])
    assert record.retain_accuracy == pytest.approx(diagonal[:2].mean())
    assert record.cka.shape == (2, 2, 2)
  assert found["retrained"].privacy.value == 1 == found["copy"].privacy.value
  assert found["lazy"].privacy.value < 0.7
  np.testing.assert_allclose(found["retrained"].cka[0], 1, atol=1e-6)
  assert found["lazy"].cka[0].max() < 1
  assert forget.sum() == (label == 2).sum()


def test_layers_are_those_that_a_model_names():
  from jaxunlearn.adapters.flax import from_linen
  from jaxunlearn.models import MLP

  model = from_linen(MLP(3, hidden=(4, 4)))
  found = attacks.layer_names(model, jnp.zeros((1, 4)))
  assert found == ("hidden0", "hidden1", "outputs")
  bare = model._replace(features=None)
  assert attacks.layer_names(bare, jnp.zeros((1, 4))) == ("outputs",)


@pytest.mark.parametrize(
  "call, message",
  [
    (
      lambda: attacks.privacy_score(jnp.zeros((2, 3)), jnp.zeros((2, 4))),
      r"unlearned \[2, N\] and retrained",
    ),
    (
      lambda: attacks.privacy_score(jnp.zeros((3, 3)), jnp.zeros((3, 3))),
      r"\[2, N\], got \(3, 3\)",
    ),
    (
      lambda: attacks.threshold_curve(jnp.zeros(3), jnp.zeros(4), jnp.zeros(2)),
      r"positive \[N\] and other",
    ),
    (
      lambda: attacks.threshold_curve(
        jnp.zeros(3), jnp.zeros(3), jnp.zeros(2), jnp.zeros(3, bool)
      ),
      "weights to select rows",
    ),
    (
      lambda: attacks.threshold_curve(
        jnp.zeros(3), jnp.zeros(3), jnp.zeros((3, 1))
      ),
      r"thresholds \[T\], got shape \(3, 1\)",
    ),
  ],
)
def test_what_does_not_fit_is_refused(call, message):
  refused(message, call)
