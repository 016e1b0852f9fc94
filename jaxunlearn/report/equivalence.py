"""Every model against retraining: floors, tests and sentences.

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
  format_mean,
  format_value,
)
from jaxunlearn.report.doubts import doubts
from jaxunlearn.report.results import (
  ORIGINAL,
  REFERENCES,
  RETRAINED,
  RETRAINED_AGAIN,
  Summary,
  summarise,
)
from jaxunlearn.report.tables import Cell, Comparison, Grid, make_grid
from jaxunlearn.report.taxonomy import OUTPUT
from jaxunlearn.report.verdict import (
  ABSENT,
  NOTHING,
  TELLTALE,
  TRACE,
  UNDECIDED,
  Check,
  Verdict,
  difference_interval,
  judge,
)

_OUTCOMES = {
  "passed": "As near to retraining as the margins ask for, in every test",
  "unclear": "No difference shown, none excluded",
  "damaged": "Worse on what was to be kept",
  "telltale": "Told from retraining, without a trace of the rows",
  "traces": "Traces of the rows found",
}


_AGAINST = {
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
      _by_seed(trial, name, request, rule.metric)
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
        + _AGAINST.get(rule.reference, ""),
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


def verdict_sentences(trial: Trial) -> list[str]:
  """Per request which methods passed the tests, and which did not.

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
    >>> equivalence.verdict_sentences(trial)
    ['class 1: Traces of the rows found: finetune.']
  """
  sentences = []
  for request, judged in verdicts(trial).items():
    for outcome, words in _OUTCOMES.items():
      names = [
        name
        for name, verdict in judged.items()
        if name not in REFERENCES and verdict.outcome == outcome
      ]
      if names:
        sentences.append(f"{request}: {words}: {', '.join(names)}.")
  return sentences


def comparisons(trial: Trial) -> list[Comparison]:
  """The distances beside their floor, and per request the tests.

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
    >>> [table.title for table in equivalence.comparisons(trial)]
    ['Tests: class 1']
  """
  summary = trial.summary
  found = [_floors(trial, summary)]
  found += [_tests(trial, summary, request) for request in summary.requests]
  return [comparison for comparison in found if comparison.grid.metrics]


def nearest_findings(trial: Trial) -> list[str]:
  """What the numbers carry, in sentences; of what diverged only that.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import equivalence
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a,
    ...    "retrained_gap": a - 0.1, "seconds_run": 2.0}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> print(equivalence.nearest_findings(trial)[0])
    Gap to retrained: finetune is lowest with 30.0 ± 0.0 points; the original
    model 80.0 ± 0.0 points.
  """
  summary = trial.summary
  names = (*REFERENCES, *summary.candidates)
  broken = {n: count for n in names if (count := diverged(trial, n))}
  runs = len(trial.rows) // len(summary.methods)
  sentences = [
    f"Diverged, {count} of {runs} runs, and not ranked: {name}."
    for name, count in broken.items()
  ]
  ranked = [m for m in summary.candidates if m not in broken]
  # Where the retrained model is no standard, nothing is near it.
  sentences += doubts(summary) or _nearest(trial, summary, ranked)
  if len({row["seed"] for row in trial.rows}) < 2:
    sentences.append(
      "Only one seed was run: there are no intervals, and differences between "
      "methods may be chance."
    )
  return sentences


def _nearest(
  trial: Trial, summary: Summary, methods: Sequence[str]
) -> list[str]:
  metric = describe(trial.gap, trial.definitions)
  gaps = {
    m: stats[trial.gap]
    for m, stats in summary.overall.items()
    if trial.gap in stats and stats[trial.gap].n
  }
  shown = lambda m: " ".join(
    f"{format_mean(metric, gaps[m].mean, gaps[m].std)} {metric.unit}".split()
  )
  ranked = sorted((m for m in methods if m in gaps), key=lambda m: gaps[m].mean)
  if not ranked:
    return ["No method has numbers to compare with the retrained model's."]
  best = ranked[0]
  others = [
    f"{words} {shown(m)}"
    for m, words in (
      (RETRAINED_AGAIN, "a second retraining has"),
      (ORIGINAL, "the original model"),
    )
    if m in gaps
  ]
  sentences = [
    f"{metric.label}: {best} is lowest with {shown(best)}"
    + (f"; {', '.join(others)}." if others else ".")
  ]
  mean = lambda m: np.mean(
    [_by_seed(trial, m, request, trial.gap) for request in summary.requests],
    axis=0,
  )
  idle = [
    m for m in ranked if not difference_interval(mean(m), mean(ORIGINAL))[1] < 0
  ]
  if idle:
    better = "nearer to retraining" if trial.is_gap else "lower"
    sentences.append(
      f"Not shown to be {better} than the original model, by the same number: "
      f"{', '.join(idle)}."
    )
  seconds = {
    m: summary.overall[m]["seconds_run"].mean
    for m in (best, RETRAINED)
    if "seconds_run" in summary.overall[m]
  }
  if len(seconds) == 2 and seconds[best] > 0:
    sentences.append(
      f"{best} took {seconds[best]:.3g} s, retraining {seconds[RETRAINED]:.3g} s; "
      "compilation is not counted."
    )
  return sentences


def _floors(trial: Trial, summary: Summary) -> Comparison:
  """Distances in units of their floor, means over requests."""
  names = [r.metric for r in trial.rules if r.reference == RETRAINED_AGAIN]
  grid = make_grid(summary, names, definitions=trial.definitions)
  rows = [
    (
      method,
      tuple(
        cell._replace(text=f"{cell.text}{_times(summary, method, m.name)}")
        for cell, m in zip(cells, grid.metrics)
      ),
    )
    for method, cells in grid.rows
  ]
  return Comparison(
    "Distances to the retrained model, beside their floor",
    f"In brackets the distance over that of {RETRAINED_AGAIN}, a model retrained "
    "with other random numbers: two retrained models differ that much by chance, "
    "so 1 is as near as a method can be expected to come. Means over requests.",
    grid._replace(rows=tuple(rows)),
  )


def _times(summary: Summary, method: str, name: str) -> str:
  value, floor = (
    summary.overall[m][name].mean for m in (method, RETRAINED_AGAIN)
  )
  if method == RETRAINED or not (math.isfinite(value) and floor > 0):
    return ""
  return f" ({value / floor:.2g} x)"


def _tests(trial: Trial, summary: Summary, request: str) -> Comparison:
  known, heads = trial.definitions, []
  signs = {ABSENT: "=", UNDECIDED: "?"}
  applied = [
    rule
    for rule in trial.rules
    if np.isfinite(_by_seed(trial, rule.reference, request, rule.metric)).any()
  ]
  for rule in applied:
    metric = describe(rule.metric, known)
    against = _AGAINST.get(rule.reference, "")
    margin = format_value(metric, rule.margin)
    heads.append(
      metric._replace(label=f"{metric.label}{against}, margin {margin}")
    )
  rows = []
  for method in (ORIGINAL, RETRAINED_AGAIN, *summary.candidates):
    if method not in summary.methods:
      continue
    texts = []
    for metric, check in zip(heads, checks(trial, request, method)):
      sign = check.finding or signs[check.outcome]
      low, high = (format_value(metric, v) for v in (check.low, check.high))
      texts.append(
        f"{low} to {high} {sign}" if math.isfinite(check.low) else "?"
      )
    if diverged(trial, method):
      texts = ["diverged"] * len(heads)
    rows.append((method, tuple(map(Cell, texts))))
  return Comparison(
    f"Tests: {request}",
    "95 % intervals over seeds for the difference to the retrained model or, of a "
    f"distance to it, to that of {RETRAINED_AGAIN}. '=': within the margin, so as "
    "near. '?': undecided, too few seeds or too much spread. Else the difference "
    "is beyond the margin: 'trace', something of the rows is left; 'telltale', "
    "the model shows that rows were removed; 'damage', worse on what was to be "
    "kept.",
    Grid(tuple(heads), tuple(rows), False),
  )


def _by_seed(
  trial: Trial, method: str, request: str, metric: str
) -> np.ndarray:
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
