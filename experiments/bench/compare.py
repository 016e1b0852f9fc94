"""Every model against retraining: floors, tests and sentences.

The floor of a distance to the retrained model is that of a second retrained
model, "retrained_again". Near is what an equivalence test shows to be near: a
difference that is merely not shown is "undecided".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.bench import table
from experiments.bench.study import (
  AGAIN,
  ORIGINAL,
  RETRAINED,
  Evidence,
  Plan,
  Rule,
)
from jaxunlearn import report
from jaxunlearn.report import verdict as verdicts
from jaxunlearn.report.definitions import format_mean, format_value
from jaxunlearn.report.tables import Cell, Grid, make_grid
from jaxunlearn.report.verdict import Check

_OUTCOMES = {
  "passed": "As near to retraining as the margins ask for, in every test",
  "unclear": "No difference shown, none excluded",
  "damaged": "Worse on what was to be kept",
  "telltale": "Told from retraining, without a trace of the rows",
  "traces": "Traces of the rows found",
}


def rules(plan: Plan) -> list[Rule]:
  """Those of all measures."""
  return [rule for measure in plan.measures for rule in measure.rules]


def checks(evidence: Evidence, request: int, method: str) -> list[Check]:
  """A check per rule: paired by seed, with the interval of the difference."""
  known, found = table.definitions(evidence.plan), []
  for rule in rules(evidence.plan):
    ours, theirs = (
      _by_seed(evidence, name, request, rule.metric)
      for name in (method, rule.reference)
    )
    found.append(
      Check(
        report.describe(rule.metric, known).label,
        _mean(ours),
        _mean(theirs),
        *verdicts.difference_interval(ours, theirs),
        rule.margin,
        rule.above,
        rule.below,
      )
    )
  return found


def diverged(evidence: Evidence, method: str) -> int:
  """How many of its lanes are not finite."""
  return int((~evidence.found[method].is_finite).sum())


def verdict_sentences(
  evidence: Evidence, doubts: Sequence[str] = ()
) -> list[str]:
  """Per request which methods passed the tests, and which did not."""
  plan, sentences = evidence.plan, []
  sound = [name for name in plan.methods if not diverged(evidence, name)]
  for i, request in enumerate(plan.requests.names if rules(plan) else ()):
    control = checks(evidence, i, ORIGINAL)
    outcomes = {
      name: report.judge(
        checks(evidence, i, name), control=control, doubts=doubts
      ).outcome
      for name in sound
    }
    for outcome, words in _OUTCOMES.items():
      names = [name for name in sound if outcomes[name] == outcome]
      if names:
        sentences.append(f"{request}: {words}: {', '.join(names)}.")
  return sentences


def comparisons(
  evidence: Evidence, summary: report.Summary
) -> list[report.Comparison]:
  """The distances beside their floor, and per request the tests."""
  found = [_floors(evidence, summary)]
  found += [_tests(evidence, i) for i in range(len(summary.requests))]
  return [comparison for comparison in found if comparison.grid.metrics]


def findings(evidence: Evidence, summary: report.Summary) -> list[str]:
  """What the numbers carry, in sentences; of what diverged only that."""
  plan = evidence.plan
  broken = {
    name: count
    for name in evidence.found
    if (count := diverged(evidence, name))
  }
  sentences = [
    f"Diverged, {count} of {len(plan.lanes[0])} runs, and not ranked: {name}."
    for name, count in broken.items()
  ]
  ranked = [m for m in plan.methods if m not in broken]
  # Where the retrained model is no standard, nothing is near it.
  sentences += report.doubts(summary) or _nearest(evidence, summary, ranked)
  if len(plan.seeds) < 2:
    sentences.append(
      "Only one seed was run: there are no intervals, and differences between "
      "methods may be chance."
    )
  return sentences


def _nearest(
  evidence: Evidence, summary: report.Summary, methods: Sequence[str]
) -> list[str]:
  name = evidence.plan.study.gap
  metric = report.describe(name, table.definitions(evidence.plan))
  gaps = {
    m: stats[name]
    for m, stats in summary.overall.items()
    if name in stats and stats[name].n
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
      (AGAIN, "a second retraining has"),
      (ORIGINAL, "the original model"),
    )
    if m in gaps
  ]
  sentences = [
    f"{metric.label}: {best} is lowest with {shown(best)}"
    + (f"; {', '.join(others)}." if others else ".")
  ]
  every = range(len(evidence.plan.requests.names))
  mean = lambda m: np.mean(
    [_by_seed(evidence, m, i, name) for i in every], axis=0
  )
  idle = [
    m
    for m in ranked
    if not verdicts.difference_interval(mean(m), mean(ORIGINAL))[1] < 0
  ]
  if idle:
    sentences.append(
      "Not shown to be nearer to retraining than the original model, by the "
      f"same number: {', '.join(idle)}."
    )
  seconds = {
    m: summary.overall[m]["seconds_run"].mean for m in (best, RETRAINED)
  }
  if seconds[best] > 0:
    sentences.append(
      f"{best} took {seconds[best]:.3g} s, retraining {seconds[RETRAINED]:.3g} s; "
      "compilation is not counted."
    )
  return sentences


def _floors(evidence: Evidence, summary: report.Summary) -> report.Comparison:
  """Distances in units of their floor, means over requests."""
  known = table.definitions(evidence.plan)
  names = [r.metric for r in rules(evidence.plan) if r.reference == AGAIN]
  grid = make_grid(summary, names, definitions=known)
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
  return report.Comparison(
    "Distances to the retrained model, beside their floor",
    f"In brackets the distance over that of {AGAIN}, a model retrained with "
    "other random numbers: two retrained models differ that much by chance, so 1 "
    "is as near as a method can be expected to come. Means over requests.",
    grid._replace(rows=tuple(rows)),
  )


def _times(summary: report.Summary, method: str, name: str) -> str:
  value, floor = (summary.overall[m][name].mean for m in (method, AGAIN))
  if method == RETRAINED or not (math.isfinite(value) and floor > 0):
    return ""
  return f" ({value / floor:.2g} x)"


def _tests(evidence: Evidence, request: int) -> report.Comparison:
  plan, heads = evidence.plan, []
  known = table.definitions(plan)
  signs = {verdicts.ABSENT: "=", verdicts.UNDECIDED: "?"}
  for rule in rules(plan):
    metric = report.describe(rule.metric, known)
    margin = f"{metric.label}, margin {format_value(metric, rule.margin)}"
    heads.append(metric._replace(label=margin))
  rows = []
  for method in (ORIGINAL, AGAIN, *plan.methods):
    texts = []
    for metric, check in zip(heads, checks(evidence, request, method)):
      sign = check.finding or signs[check.outcome]
      low, high = (format_value(metric, v) for v in (check.low, check.high))
      texts.append(
        f"{low} to {high} {sign}" if math.isfinite(check.low) else "?"
      )
    if diverged(evidence, method):
      texts = ["diverged"] * len(heads)
    rows.append((method, tuple(map(Cell, texts))))
  return report.Comparison(
    f"Tests: {plan.requests.names[request]}",
    "95 % intervals over seeds for the difference to the retrained model or, of a "
    f"distance to it, to that of {AGAIN}. '=': within the margin, so as near. '?': "
    "undecided, too few seeds or too much spread. Else the difference is beyond "
    "the margin: 'trace', something of the rows is left; 'telltale', the model "
    "shows that rows were removed; 'damage', worse on what was to be kept.",
    Grid(tuple(heads), tuple(rows), False),
  )


def _by_seed(
  evidence: Evidence, method: str, request: int, metric: str
) -> np.ndarray:
  """A column over the seeds, float [S]; nan where a model diverged."""
  found = evidence.found[method]
  values = np.where(found.is_finite, found.values[metric], np.nan)
  return values[evidence.plan.lanes[0] == request]


def _mean(values: np.ndarray) -> float:
  usable = values[np.isfinite(values)]
  return float(usable.mean()) if usable.size else math.nan
