"""What a trial found, in sentences and in tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxunlearn.report.definitions import (
  describe,
  format_mean,
  format_value,
)
from jaxunlearn.report.doubts import doubts
from jaxunlearn.report.equivalence import (
  AGAINST,
  Trial,
  by_seed,
  checks,
  diverged,
  verdicts,
)
from jaxunlearn.report.results import (
  ORIGINAL,
  REFERENCES,
  RETRAINED,
  RETRAINED_AGAIN,
  Summary,
)
from jaxunlearn.report.tables import Cell, Comparison, Grid, make_grid
from jaxunlearn.report.verdict import (
  ABSENT,
  UNDECIDED,
  difference_interval,
)

_OUTCOMES = {
  "passed": "As near to retraining as the margins ask for, in every test",
  "unclear": "No difference shown, none excluded",
  "damaged": "Worse on what was to be kept",
  "telltale": "Told from retraining, without a trace of the rows",
  "traces": "Traces of the rows found",
}


def verdict_sentences(trial: Trial) -> list[str]:
  """Per request which methods passed the tests, and which did not.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import equivalence, trial_words
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> trial_words.verdict_sentences(trial)
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
    >>> from jaxunlearn.report import equivalence, trial_words
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> [table.title for table in trial_words.comparisons(trial)]
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
    >>> from jaxunlearn.report import equivalence, trial_words
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a,
    ...    "retrained_gap": a - 0.1, "seconds_run": 2.0}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> print(trial_words.nearest_findings(trial)[0])
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
    [by_seed(trial, m, request, trial.gap) for request in summary.requests],
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
    if np.isfinite(by_seed(trial, rule.reference, request, rule.metric)).any()
  ]
  for rule in applied:
    metric = describe(rule.metric, known)
    against = AGAINST.get(rule.reference, "")
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
