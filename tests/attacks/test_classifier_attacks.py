"""Classifier attacks against scikit-learn and published code."""

import functools

import jax
import numpy as np
import pytest
from golden.table import load
from refusals import refused

from jaxunlearn.attacks import classifiers

GROUPS = ["shadow_train", "shadow_test", "target_train", "target_test"]


def scores(seed, shift, num_members=40, num_others=40):
  rng = np.random.default_rng(seed)
  members = rng.normal(shift, 1, num_members)
  return np.float32(members), np.float32(rng.normal(size=num_others))


@functools.cache
def scikit_fit(seed, shift, scale, strength):
  from sklearn.linear_model import LogisticRegression

  members, others = scores(seed, shift, 30, 50)
  x = np.concatenate([members, others]) * np.float32(scale)
  y = np.repeat([True, False], [30, 50])
  model = LogisticRegression(
    C=strength, tol=1e-10, solver="newton-cholesky", max_iter=1000
  ).fit(np.float64(x)[:, None], y)
  return x, y, (model.coef_[0, 0], model.intercept_[0])


@pytest.mark.parametrize(
  "case", [(0, 0.5, 1, 1), (1, 0.0, 100, 1), (2, 1.0, 1, 0.01), (3, 9, 1, 9)]
)
def test_newton_finds_the_optimum_of_scikit_learn(case):
  x, y, wanted = scikit_fit(*case)
  found = jax.jit(classifiers.fit_logistic)(x, y, strength=case[-1])
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
  # Rows that do not count change nothing.
  padded = np.append(x, [np.nan] * 3), np.append(y, [True, False, True])
  kept = np.arange(len(x) + 3) < len(x)
  found = classifiers.fit_logistic(*padded, kept, strength=case[-1])
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)


@pytest.mark.slow
def test_newton_under_vmap_equals_the_loop_and_weights_equal_copies():
  cases = [scikit_fit(seed, 0.5, 1, 1) for seed in (0, 1)]
  x = np.stack([case[0] for case in cases])
  strengths = np.float32([1, 1])
  fit = lambda x, c: classifiers.fit_logistic(x, cases[0][1], strength=c)
  many = jax.vmap(fit)(x, strengths)
  for i, case in enumerate(cases):
    np.testing.assert_allclose(
      [many[0][i], many[1][i]], case[2], rtol=2e-4, atol=1e-6
    )
  counts = np.random.default_rng(0).integers(0, 3, 80)
  found = classifiers.fit_logistic(x[0], cases[0][1], np.float32(counts))
  copies = np.repeat(x[0], counts), np.repeat(cases[0][1], counts)
  wanted = classifiers.fit_logistic(*copies)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_fit_without_an_answer_is_nan_and_one_without_scale_is_flat():
  x, y = np.ones(4, np.float32), np.array([True, True, True, False])
  slope, intercept = classifiers.fit_logistic(x, y)
  np.testing.assert_allclose((slope, intercept), (0, np.log(3)), rtol=1e-5)
  assert np.isnan(classifiers.fit_logistic(x, y | True)).all()
  assert np.isnan(classifiers.fit_logistic(x, y, np.zeros(4))).all()
  assert np.isnan(classifiers.fit_logistic(np.full(4, np.nan), y)).all()
  refused(r"is_member \[N\]", classifiers.fit_logistic, x, y[:2])
  refused("is_member of dtype bool", classifiers.fit_logistic, x, y.astype(int))
  refused("strength > 0", classifiers.fit_logistic, x, y, strength=0)
  refused("num_steps > 0", classifiers.fit_logistic, x, y, num_steps=0)


def test_the_challenge_attack_scores_tight_fits_on_its_splits():
  from sklearn.model_selection import StratifiedShuffleSplit

  forget, others = scores(0, 0.8)
  x, y = np.concatenate([forget, others]), np.repeat([True, False], 40)
  wanted = []
  splitter = StratifiedShuffleSplit(10, test_size=0.1, random_state=3)
  for train, test in splitter.split(x, y):
    slope, intercept = classifiers.fit_logistic(x[train], y[train])
    called = slope * x[test] + intercept > 0
    wanted.append((called == y[test]).mean())
  found = classifiers.logistic_attack(forget, others, seed=3)
  np.testing.assert_allclose(found.splits, wanted, rtol=1e-6)
  np.testing.assert_allclose(found[:2], (np.mean(wanted), np.std(wanted)))
  # The sign of the feature is the fit's to find.
  flipped = classifiers.logistic_attack(-forget, -others, seed=3)
  np.testing.assert_array_equal(flipped.splits, found.splits)


def test_the_challenge_attack_balances_and_follows_its_seed():
  forget, others = scores(1, 0.0, 20, 400)
  first, again, other = (
    classifiers.logistic_attack(forget, others, seed=seed) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first.splits, again.splits)
  assert (first.splits != other.splits).any()
  # Unbalanced, calling everything a non-member would be right at 95 %.
  assert first.accuracy < 0.8


@pytest.mark.slow
def test_the_compiled_attack_agrees_with_the_one_of_scikit_learn():
  forget, others = scores(2, 1.0, 150, 200)
  host = classifiers.logistic_attack(forget, others, num_splits=100)
  attack = functools.partial(classifiers.logistic_accuracy, num_splits=100)
  found = jax.jit(attack)(jax.random.key(0), forget, others)
  # Of 100 splits of 30 test rows each mean has a standard error of 0.009.
  assert abs(found.accuracy - host.accuracy) < 0.04
  assert abs(found.std - host.std) < 0.03
  np.testing.assert_allclose(
    found.splits * 30, np.round(found.splits * 30), 1e-4
  )


@pytest.mark.slow
def test_the_compiled_attack_never_uses_rows_that_do_not_count():
  members, others = np.full(9, 5, np.float32), np.zeros(40, np.float32)
  padded = np.append(members, [np.nan, -99]), np.append(others, [np.nan] * 4)
  masks = np.arange(11) < 9, np.arange(44) < 40
  attack = functools.partial(classifiers.logistic_accuracy, num_splits=3)
  found = attack(jax.random.key(0), *padded, *masks)
  np.testing.assert_array_equal(found.splits, 1)
  assert (found.accuracy, found.std) == (1, 0)
  traced = jax.jit(attack)
  assert np.isnan(traced(jax.random.key(0), *padded).accuracy)
  one = np.arange(11) < 1
  assert np.isnan(traced(jax.random.key(0), *padded, one, masks[1]).accuracy)


def test_bad_arguments_of_the_logistic_attacks_are_named():
  few, many = np.zeros(3), np.arange(20.0)
  host = classifiers.logistic_attack
  refused("leave rows in both parts, got 3 rows", host, few, many)
  refused(r"forget_features \[N\] or \[N, F\]", host, np.zeros((2, 2, 2)), many)
  refused(r"other_features \[M, F\], got", host, many, np.zeros((20, 2)))
  refused("other_features to be finite", host, many, np.append(many, np.inf))
  compiled = functools.partial(classifiers.logistic_accuracy, jax.random.key(0))
  refused("in both parts, got 1 rows", compiled, few[:1], many)
  refused("member_scores of some rows", compiled, few[:0], many)
  refused("strength > 0", compiled, many, many, strength=-1)
  for attack in (host, compiled):
    refused("num_splits > 0", attack, many, many, num_splits=0)
    refused(r"test_share in \(0, 1\)", attack, many, many, test_share=1.0)


# The SVC attack.


def svc_groups(d):
  return [(d[f"logits_{group}"], d[f"labels_{group}"]) for group in GROUPS]


@pytest.mark.slow
def test_the_svc_attack_balances_and_knows_no_empty_forget_set():
  d = load("salun__svc_mia")
  retain, test, forget, _ = svc_groups(d)
  rows = [np.arange(len(x)) for x in retain]
  small = tuple(x[r[:30]] for x, r in zip(retain, rows))
  found = classifiers.svc_attack(small, test, forget, max_rows=20)
  assert all(0 <= share <= 1 for share in found)
  none = tuple(x[:0] for x in forget)
  assert np.isnan(classifiers.svc_attack(small, test, none)).all()
  with pytest.raises(ValueError, match="variant to be one of"):
    classifiers.svc_attack(retain, test, forget, variant="code")
  with pytest.raises(ValueError, match="labels of shape"):
    classifiers.svc_attack(retain, test, (forget[0], forget[1][:2]))
