"""What the audit says, from intervals."""

import math

import numpy as np
import pytest
from refusals import refused

from jaxunlearn.report import verdict as v


def check(low, high, *, above=v.TRACE, below=v.TELLTALE, margin=0.05):
  return v.Check("accuracy", 0.5, 0.4, low, high, margin, above, below)


@pytest.mark.parametrize(
  ("low", "high", "outcome"),
  [
    (0.06, 0.1, v.FOUND),
    (-0.2, -0.06, v.FOUND),
    (-0.04, 0.04, v.ABSENT),
    (-0.04, 0.06, v.UNDECIDED),
    (-0.06, 0.04, v.UNDECIDED),
    (math.nan, math.nan, v.UNDECIDED),
    (-math.inf, math.inf, v.UNDECIDED),
  ],
)
def test_an_interval_finds_excludes_or_leaves_open(low, high, outcome):
  assert check(low, high).outcome == outcome


def test_a_side_that_is_no_fault_is_neither_found_nor_left_open():
  one_sided = check(-0.9, -0.5, below=v.NOTHING)
  assert one_sided.outcome == v.ABSENT
  assert check(-0.9, 0.06, below=v.NOTHING).outcome == v.UNDECIDED


@pytest.mark.parametrize(
  ("checks", "outcome"),
  [
    ([check(-0.01, 0.01)], "passed"),
    ([check(-0.01, 0.01), check(-0.1, 0.1)], "unclear"),
    ([check(-0.1, 0.1), check(-0.3, -0.1, below=v.DAMAGE)], "damaged"),
    ([check(-0.3, -0.1, below=v.DAMAGE), check(-0.3, -0.1)], "telltale"),
    ([check(-0.3, -0.1), check(0.1, 0.3)], "traces"),
  ],
)
def test_the_worst_finding_decides(checks, outcome):
  assert v.judge(checks).outcome == outcome


def test_damage_is_named_beside_a_worse_finding():
  found = v.judge([check(0.1, 0.2), check(-0.2, -0.1, below=v.DAMAGE)])
  assert "worse at what it should have kept" in found.sentence
  assert len(found.reasons) == 2


def test_what_could_not_be_excluded_is_said_beside_a_lesser_finding():
  damaged = check(-0.2, -0.1, above=v.NOTHING, below=v.DAMAGE)
  weak = v.judge([damaged, check(-0.1, 0.1)])
  strong = v.judge([damaged, check(-0.01, 0.01)])
  assert weak.outcome == strong.outcome == "damaged"
  assert "too weak to exclude one" in weak.sentence
  assert "too weak" not in strong.sentence


def test_passing_tests_that_the_original_passes_is_said_to_prove_little():
  passed = [check(-0.01, 0.01)]
  blind = v.judge(passed, control=[check(-0.01, 0.02)])
  seeing = v.judge(passed, control=[check(0.1, 0.2)])
  assert "prove little" in blind.sentence
  assert "prove little" not in seeing.sentence


def test_a_reason_gives_value_reference_interval_and_margin():
  (reason,) = v.judge([check(0.06, 0.1)]).reasons
  assert reason == (
    "A trace: accuracy: 0.5, by retraining 0.4 (difference +0.06 to +0.1, margin "
    "0.05)."
  )


def test_without_retraining_nothing_is_said_of_it():
  checks = [check(0.06, 0.1)], [check(-0.01, 0.01)], [check(-0.1, 0.1)]
  for found in (*checks, [check(-0.3, -0.1)]):
    said = v.judge(found, standard="what is known")
    assert "retrain" not in " ".join((said.sentence, *said.reasons))


def test_no_checks_and_no_margin_are_errors():
  refused("at least one check, got none", v.judge, [])
  with pytest.raises(ValueError, match="margin > 0 for 'accuracy', got 0"):
    v.judge([check(0, 0, margin=0)])


def test_a_paired_interval_is_that_of_scipy():
  import scipy.stats

  rng = np.random.default_rng(0)
  ours, theirs = rng.normal(size=(2, 9))
  low, high = v.difference_interval(ours, theirs)
  wanted = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
  np.testing.assert_allclose((low, high), (wanted.low, wanted.high))


def test_one_model_is_held_against_the_spread_of_single_models():
  theirs = np.array([1.0, 2.0, 3.0, 4.0])
  ours = np.full(4, 2.5)
  low, high = v.difference_interval(ours, theirs, one_model=True)
  half = 3.182446 * theirs.std(ddof=1) * math.sqrt(1 + 1 / 4)
  np.testing.assert_allclose((low, high), (-half, half), rtol=1e-6)


def test_an_interval_without_two_values_decides_nothing():
  ours, theirs = np.array([1.0, np.nan]), np.array([0.5, 0.2])
  low, high = v.difference_interval(ours, theirs)
  assert (low, high) == (-math.inf, math.inf)


@pytest.mark.parametrize("low_high", [(-0.01, 0.01), (0.1, 0.3)])
def test_without_a_standard_nothing_is_passed_or_found(low_high):
  judged = v.judge([check(*low_high)], doubts=["It learned nothing."])
  assert judged.outcome == "unclear"
  assert judged.sentence == "Cannot be judged. It learned nothing."
