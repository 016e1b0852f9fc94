"""From measured differences to a sentence: did the model forget?

A check is an interval for how far a model lies from retraining, and a margin
below which a difference is of no interest. An interval that lies beyond the
margin shows a difference, one within it shows that there is none worth naming,
any other shows nothing: an equivalence test, so that too little data never
reads as success.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TRACE = "trace"  # Something of the forgotten rows is left.
TELLTALE = "telltale"  # Nothing left, but it shows that rows were removed.
DAMAGE = "damage"  # Worse at what should have been kept.
NOTHING = ""  # A difference to this side would be no fault.

FOUND = "found"
ABSENT = "absent"
UNDECIDED = "undecided"
BLIND = (
  " These tests find no trace in the original model either, which forgot nothing: "
  "on this request they prove little."
)
WEAK = " Some of the tests for traces were too weak to exclude one."
WORSE = " It is also worse at what it should have kept."
_LEVEL = 0.95


class Check(NamedTuple):
  """How far a model lies from the retrained one in one measure.

  Attributes:
    measure: in words, such as "accuracy on the forgotten rows".
    value: of the model, the mean over seeds.
    reference: of the retrained model.
    low: lower end of the interval for the difference (model minus retrained).
    high: upper end.
    margin: a difference of less is of no interest; > 0, unit of the measure.
    above: what a larger value means: `TRACE`, `TELLTALE`, `DAMAGE`, `NOTHING`.
    below: what a smaller one means.
  """

  measure: str
  value: float
  reference: float
  low: float
  high: float
  margin: float
  above: str = NOTHING
  below: str = NOTHING

  @property
  def outcome(self) -> str:
    """`FOUND`, `ABSENT` or `UNDECIDED`; a missing interval decides nothing."""
    if self.finding:
      return FOUND
    up = self.above == NOTHING or self.high <= self.margin
    down = self.below == NOTHING or self.low >= -self.margin
    return ABSENT if up and down else UNDECIDED

  @property
  def finding(self) -> str:
    """What was found: `TRACE`, `TELLTALE`, `DAMAGE` or `NOTHING`."""
    if self.low > self.margin:
      return self.above
    if self.high < -self.margin:
      return self.below
    return NOTHING


class Verdict(NamedTuple):
  """What the checks say together.

  Attributes:
    outcome: "traces", "telltale", "damaged", "unclear" or "passed", the worst
      that was found.
    sentence: it in plain words.
    reasons: a sentence a check that says more than "no difference".
  """

  outcome: str
  sentence: str
  reasons: tuple[str, ...]


_SENTENCES = {
  "traces": "Not forgotten: traces of the rows were found.",
  "telltale": "No trace was found, but a difference to {standard}, which shows "
  "that something was removed.",
  "damaged": "No trace was found, but the model is worse at what it should have "
  "kept.",
  "unclear": "No difference to {standard} was found, but some of the tests "
  "were too weak to exclude one.",
  "passed": "In every test it agrees with {standard}, up to the margins.",
}


def judge(
  checks: Sequence[Check],
  *,
  control: Sequence[Check] | None = None,
  doubts: Sequence[str] = (),
  standard: str = "retraining",
) -> Verdict:
  """Judges a model by its checks.

  Args:
    checks: of the model, at least one.
    control: the same checks of the original model, that forgot nothing. Where
      they find no trace in it either, passing them means little, and the
      verdict says so.
    doubts: why the standard is none, see `findings.doubts`. With one, neither
      agreement nor a difference shows anything of forgetting.
    standard: what the checks hold the model against, in words.

  Returns:
    See `Verdict`. "passed" is no proof of deletion; `LIMITS` of the HTML report
    says what it leaves open.

  Raises:
    ValueError: no checks, or a margin that is not positive.

  Example:
    >>> from jaxunlearn.report import verdict
    >>> check = verdict.Check(
    ...   "accuracy on the forgotten rows", 0.4, 0.1, low=0.25, high=0.35,
    ...   margin=0.05, above=verdict.TRACE)
    >>> verdict.judge([check]).outcome
    'traces'
  """
  if not checks:
    raise ValueError("Expected at least one check, got none.")
  for check in checks:
    if not check.margin > 0:
      raise ValueError(
        f"Expected a margin > 0 for {check.measure!r}, got {check.margin}."
      )
  findings = {check.finding for check in checks}
  if TRACE in findings:
    outcome = "traces"
  elif TELLTALE in findings:
    outcome = "telltale"
  elif DAMAGE in findings:
    outcome = "damaged"
  elif any(check.outcome == UNDECIDED for check in checks):
    outcome = "unclear"
  else:
    outcome = "passed"
  sentence = _SENTENCES[outcome].format(standard=standard)
  if outcome in ("telltale", "damaged") and any(
    check.outcome == UNDECIDED and TRACE in (check.above, check.below)
    for check in checks
  ):
    sentence += WEAK
  if doubts:
    outcome = "unclear"
    sentence = f"Cannot be judged. {' '.join(doubts)}"
  if outcome != "damaged" and DAMAGE in findings:
    sentence += WORSE
  blind = control is not None and TRACE not in {c.finding for c in control}
  if blind and outcome != "traces" and not doubts:
    sentence += BLIND
  reasons = [
    _reason(check, standard)
    for check in checks
    if check.outcome in (FOUND, UNDECIDED)
  ]
  return Verdict(outcome, sentence, tuple(reasons))


def difference_interval(
  ours: np.ndarray, theirs: np.ndarray, *, one_model: bool = False
) -> tuple[float, float]:
  """A 95 % interval for how far models lie from the retrained ones.

  Args:
    ours: float [L], a seed each.
    theirs: float [L], of the retrained models of the same seeds.
    one_model: whether all of `ours` are the same model, which is then compared
      with the spread of single retrained models (a prediction interval) instead
      of the mean with the mean (a paired t interval).

  Returns:
    (low, high); infinite where fewer than two seeds have a value.
  """
  import scipy.stats

  usable = np.isfinite(ours) & np.isfinite(theirs)
  count = int(usable.sum())
  if count < 2:
    return -math.inf, math.inf
  differences = (ours - theirs)[usable]
  spread = differences.std(ddof=1)
  scale = math.sqrt(1 + 1 / count) if one_model else math.sqrt(1 / count)
  half = scipy.stats.t.ppf(0.5 + _LEVEL / 2, count - 1) * spread * scale
  middle = differences.mean()
  return float(middle - half), float(middle + half)


_MEANINGS = {
  TRACE: "a trace",
  TELLTALE: "a sign that rows were removed",
  DAMAGE: "damage",
}


def _reason(check: Check, standard: str) -> str:
  numbers = (
    f"{check.measure}: {_number(check.value)}, by {standard} "
    f"{_number(check.reference)}"
  )
  if not (math.isfinite(check.low) and math.isfinite(check.high)):
    return f"Undecided: {numbers}; there is no interval for the difference."
  interval = (
    f"difference {_signed(check.low)} to {_signed(check.high)}, margin "
    f"{_number(check.margin)}"
  )
  if check.outcome == UNDECIDED:
    return f"Undecided: {numbers} ({interval})."
  return f"{_MEANINGS[check.finding].capitalize()}: {numbers} ({interval})."


def _number(value: float) -> str:
  return f"{value:.3g}" if math.isfinite(value) else "none"


def _signed(value: float) -> str:
  return f"{value:+.2g}"
