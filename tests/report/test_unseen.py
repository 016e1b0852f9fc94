"""What is said of a model where none can be trained without the rows."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxunlearn.report import (
  Answers,
  checks_by_unseen,
  doubts_by_unseen,
  judge,
)
from jaxunlearn.report.unseen import _auc, _paired, _shares

RNG = np.random.default_rng(0)
FORGET = np.arange(400) < 150
ALL = np.ones(300, bool)


def answers(*, known=0.0, good=0.9):
  """A model whose loss is lower by `known` on the rows to be forgotten."""
  noise = RNG.normal(size=700)
  loss = np.exp(noise - known * np.r_[FORGET, np.zeros(300, bool)])
  right = (RNG.random(700) < good).astype(float)
  return Answers(right[:400], loss[:400], right[400:], loss[400:])


def test_the_checks_are_the_numbers_that_they_name():
  now, before = answers(known=0.5), answers()
  kind = np.arange(300) < 100
  checks = checks_by_unseen(now, before, FORGET, kind)
  auc = roc_auc_score(
    np.r_[np.ones(150), np.zeros(100)],
    -np.r_[now.loss[FORGET], now.unseen_loss[kind]],
  )
  assert checks[0].value == pytest.approx(auc) and checks[0].reference == 0.5
  expected = [
    (now.right[FORGET], now.unseen_right[kind]),
    (now.right[~FORGET], before.right[~FORGET]),
    (now.unseen_right[~kind], before.unseen_right[~kind]),
  ]
  for check, (ours, theirs) in zip(checks[1:], expected, strict=True):
    assert check.value == pytest.approx(ours.mean())
    assert check.reference == pytest.approx(theirs.mean())
    assert check.low < ours.mean() - theirs.mean() < check.high
  # The spread of a mean of independent rows, by the formula.
  wide = checks[1].high - checks[1].low
  error = np.sqrt(sum(v.var() / len(v) for v in expected[0]))
  assert wide == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_memory_is_a_trace_and_ruin_is_damage():
  before = answers(known=2.0)
  control = checks_by_unseen(before, before, FORGET, ALL)
  assert control[0].finding == "trace"
  # Against itself nothing was lost, and rows enough say so.
  assert all(-0.02 < c.low < 0 < c.high < 0.02 for c in control[2:])
  gone = before._replace(
    loss=np.where(FORGET, before.loss * np.e**2, before.loss)
  )
  checks = checks_by_unseen(gone, before, FORGET, ALL)
  assert checks[0].value == pytest.approx(0.5, abs=0.06)
  assert judge(checks, control=control).outcome in ("passed", "unclear")
  ruined = gone._replace(right=gone.right * (RNG.random(400) < 0.7))
  checks = checks_by_unseen(ruined, before, ~FORGET, ALL)
  assert checks[2].finding == "damage"


@pytest.mark.parametrize("count", [1, 9])
def test_a_few_rows_show_nothing(count):
  """All are right and alike, so that resampled rows have no spread at all."""
  now = Answers(np.ones(400), np.ones(400), np.ones(300), np.ones(300))
  few = np.arange(400) < count
  checks = checks_by_unseen(now, now, few, ALL)
  assert [c.outcome for c in checks] == ["undecided"] * 2 + ["absent"] * 2
  verdict = judge(checks, doubts=doubts_by_unseen(few, ALL))
  assert verdict.outcome == "unclear"
  assert f"Rows of the request: {count}; fewer than 10" in verdict.sentence
  assert doubts_by_unseen(FORGET, ALL[:9]) and not doubts_by_unseen(FORGET, ALL)


def test_masks_of_numbers_or_of_other_rows_are_refused():
  now = Answers(np.ones(400), np.ones(400), np.ones(300), np.ones(300))
  for forget, kind, message in (
    (FORGET + 0, ALL, r"forget bool \(400,\), got int64"),
    (FORGET[:, None], ALL, r"forget bool \(400,\), got bool \(400, 1\)"),
    (FORGET, ALL[:9], r"kind bool \(300,\)"),
  ):
    with pytest.raises(ValueError, match=message):
      checks_by_unseen(now, now, forget, kind)


def test_rows_that_are_all_right_leave_room_for_chance():
  alike = np.ones(10)
  low, high = _shares(alike, alike)[2:]
  # By hand: Wilson's interval of 10 of 10 reaches down to 10 / (10 + z^2).
  assert (low, high) == pytest.approx((-0.2775, 0.2775), abs=1e-4)
  assert _auc(RNG, alike, alike)[2] < -0.2 and _auc(RNG, alike, alike)[3] > 0.2


def test_intervals_are_those_of_the_papers():
  """Newcombe 1998: 56/70 against 48/80, method 10, is 0.0524 to 0.3339."""
  rows = lambda right, count: (np.arange(count) < right).astype(float)
  found = _shares(rows(56, 70), rows(48, 80))[2:]
  assert found == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_pairs_lost_and_gained_give_the_spread_of_their_difference():
  change = RNG.choice([-1, 0, 1], 4000, p=[0.1, 0.7, 0.2])
  ours, theirs = np.maximum(change, 0), np.maximum(-change, 0)
  value, standard, low, high = _paired(ours, theirs)
  assert value - standard == pytest.approx(change.mean())
  error = change.std() / np.sqrt(4000)
  assert high - low == pytest.approx(2 * 1.96 * error, rel=0.01)
