"""Every model against retraining: floors and tests.

The floor of a distance to the retrained model is that of a second retrained
model, "retrained_again". Near is what an equivalence test shows to be near: a
difference that is merely not shown is "undecided".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.report.definitions import (
  Metric,
  describe,
)
from jaxunlearn.report.doubts import doubts
from jaxunlearn.report.results import (
  ORIGINAL,
  RETRAINED,
  RETRAINED_AGAIN,
  Summary,
  summarise,
)
from jaxunlearn.report.taxonomy import OUTPUT
from jaxunlearn.report.verdict import (
  NOTHING,
  TELLTALE,
  TRACE,
  Check,
  Verdict,
  difference_interval,
  judge,
)

AGAINST = {
  ORIGINAL: ", against the original",
  RETRAINED_AGAIN: ", against a second retraining",
}


class Rule(NamedTuple):
  """When a column counts as different from, or as near as, retraining.

  The interval of the difference over seeds decides, see `verdict`; a difference
  within the margin is of no interest.

  Attributes:
    metric: the column.
    margin: in its unit as it stands in the rows; > 0.
    above: what a larger value means: `TRACE`, `TELLTALE`, `DAMAGE`, `NOTHING`.
    below: what a smaller one means.
    reference: whose value it is held against: "retrained"; "original" for what
      was to be kept; or "retrained_again" for a distance to the retrained model,
      whose floor is that of another one.
    above_original: what a larger value means in the original model, where that is
      something else: what tells it from retrained ones is that it knows the rows.
    threat: who can make the test, one of `taxonomy.THREATS`.
  """

  metric: str
  margin: float
  above: str = TRACE
  below: str = NOTHING
  reference: str = RETRAINED
  above_original: str | None = None
  threat: str = OUTPUT


def distance(metric: str, margin: float) -> Rule:
  """The rule of a column that is a distance to the retrained model.

  Example:
    >>> from jaxunlearn.report import equivalence
    >>> rule = equivalence.distance("activation_distance", 0.05)
    >>> rule.margin, rule.reference
    (0.05, 'retrained_again')
  """
  return Rule(metric, margin, above=TELLTALE, reference=RETRAINED_AGAIN)


class Trial(NamedTuple):
  """What is on trial, and by which rules.

  Attributes:
    rows: one per method, request and seed, see `Results`; a row whose
      `is_finite` is 0 is of a model that diverged.
    rules: see `Rule`.
    definitions: of the columns.
    gap: the column that methods are ranked by; lower is better.
    single: methods of which there is one model for all seeds, which is held
      against the spread of single retrained models.
    is_gap: whether `gap` is a distance to the retrained model.
  """

  rows: Sequence[Mapping[str, Any]]
  rules: Sequence[Rule]
  definitions: Sequence[Metric]
  gap: str = "retrained_gap"
  single: Sequence[str] = ()
  is_gap: bool = True

  @property
  def summary(self) -> Summary:
    return summarise(self.rows)


def checks(trial: Trial, request: str, method: str) -> list[Check]:
  """A check per rule: paired by seed, with the interval of the difference.

  A rule whose column has no value for the reference does not apply.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import equivalence
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> check, = equivalence.checks(trial, "class 1", "finetune")
    >>> round(check.value - check.reference, 3), check.finding
    (0.3, 'trace')
  """
  found = []
  for rule in trial.rules:
    ours, theirs = (
      by_seed(trial, name, request, rule.metric)
      for name in (method, rule.reference)
    )
    if not np.isfinite(theirs).any():
      continue
    is_one = method in trial.single
    above = rule.above
    if method == ORIGINAL and rule.above_original is not None:
      above = rule.above_original
    ours = np.full_like(theirs, ours[0]) if is_one else ours
    found.append(
      Check(
        describe(rule.metric, trial.definitions).label
        + AGAINST.get(rule.reference, ""),
        _mean(ours),
        _mean(theirs),
        *difference_interval(ours, theirs, one_model=is_one),
        rule.margin,
        above,
        rule.below,
      )
    )
  return found


def diverged(trial: Trial, method: str) -> int:
  """How many of its runs are not finite."""
  own = (row for row in trial.rows if row["method"] == method)
  return sum(not row.get("is_finite", 1) for row in own)


def verdicts(trial: Trial) -> dict[str, dict[str, Verdict]]:
  """By request and method, of all but the retrained models and what diverged.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import equivalence
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> judged = equivalence.verdicts(trial)
    >>> judged["class 1"]["finetune"].outcome
    'traces'
  """
  summary = trial.summary
  sound = [
    m
    for m in (ORIGINAL, RETRAINED_AGAIN, *summary.candidates)
    if m in summary.methods and not diverged(trial, m)
  ]
  doubted, found = doubts(summary), {}
  for request in summary.requests if trial.rules else ():
    control = checks(trial, request, ORIGINAL)
    if control:
      found[request] = {
        name: judge(
          checks(trial, request, name), control=control, doubts=doubted
        )
        for name in sound
      }
  return found


def by_seed(trial: Trial, method: str, request: str, metric: str) -> np.ndarray:
  """A column over the seeds, float [S]; nan where a model diverged."""
  own = [
    row
    for row in trial.rows
    if row["method"] == method and row["request"] == request
  ]
  own.sort(key=lambda row: row["seed"])
  return np.array(
    [
      row.get(metric, math.nan) if row.get("is_finite", 1) else math.nan
      for row in own
    ],
    np.float64,
  )


def _mean(values: np.ndarray) -> float:
  usable = values[np.isfinite(values)]
  return float(usable.mean()) if usable.size else math.nan
