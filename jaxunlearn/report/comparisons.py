"""Tables in the form that publications print, beside the tables of all numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaxunlearn.report.definitions import (
  METRICS,
  Metric,
  describe,
  format_value,
)
from jaxunlearn.report.results import ORIGINAL, RETRAINED, Statistic, Summary
from jaxunlearn.report.tables import Cell, Comparison, make_grid

# Metric and label of each column of SalUn's tables, arXiv:2310.12508.
SALUN = {
  "unlearning_accuracy": "UA",
  "retain_accuracy": "RA",
  "kept_test_accuracy": "TA",
  "mia_efficacy": "MIA",
}
SALUN_GAP = "salun_gap"
SECONDS = "seconds_run"


def salun_table(
  summary: Summary, *, definitions: Sequence[Metric] = METRICS
) -> Comparison | None:
  """The table of SalUn (arXiv:2310.12508), sorted by the average gap.

  UA, RA, TA and MIA with their difference to the retrained model in brackets,
  the average gap, and RTE, the run time (in seconds; the paper has minutes).

  Args:
    summary: see `summarise`; its rows have the metrics of `SALUN`, `salun_gap`
      and `seconds_run`.
    definitions: how to show each metric.

  Returns:
    The table of the means over requests; None where a method has no gap at all
    or there is no retrained model to compare with.

  Example:
    >>> from jaxunlearn import report
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": 0, "seconds_run": 1.0,
    ...    "unlearning_accuracy": a, "retain_accuracy": 1.0,
    ...    "kept_test_accuracy": 0.9, "mia_efficacy": 0.8, "salun_gap": gap}
    ...   for m, a, gap in (("retrained", 0.9, 0.0), ("finetune", 0.5, 0.1))
    ... ]
    >>> table = report.salun_table(report.summarise(rows))
    >>> table.grid.metrics[0].label, table.grid.rows[1][1][0].text
    ('UA', '50.0 (40.0)')
  """
  names = [*SALUN, SALUN_GAP, SECONDS]
  has_gap = any(
    SALUN_GAP in stats and stats[SALUN_GAP].n
    for method, stats in summary.overall.items()
    if method not in (ORIGINAL, RETRAINED)
  )
  if RETRAINED not in summary.methods or not has_gap:
    return None
  grid = make_grid(summary, names, definitions=definitions)
  rows = [
    (
      method,
      tuple(
        _with_difference(cell, metric, method, summary)
        if metric.name in SALUN
        else cell
        for cell, metric in zip(cells, grid.metrics)
      ),
    )
    for method, cells in grid.rows
  ]
  rows.sort(key=lambda row: _rank(row[0], summary.overall[row[0]]))
  labels = {**SALUN, SALUN_GAP: "Average gap", SECONDS: "RTE"}
  metrics = tuple(
    describe(name, definitions)._replace(label=labels[name]) for name in names
  )
  several = len(summary.requests) > 1
  title = "SalUn's measures" + (", mean over requests" if several else "")
  return Comparison(
    title,
    "UA: unlearning accuracy, 100 minus the accuracy on the forgotten rows; RA: "
    "accuracy on the retained ones; TA: test accuracy, of the kept classes where "
    "whole classes were forgotten; MIA: share of the forgotten rows that the "
    "attack takes for rows never trained on, of which it knows those that TA "
    "counts; RTE: run time of the unlearning. In brackets the distance of the mean to the retrained model's. The average gap "
    "is that of single runs, each compared with the retrained model of its own "
    "request and seed, so it is no less than the mean of the four brackets. "
    "Mean ± standard deviation over seeds; sorted by the average gap.",
    grid._replace(metrics=metrics, rows=tuple(rows)),
  )


def _with_difference(
  cell: Cell, metric: Metric, method: str, summary: Summary
) -> Cell:
  """The cell with its distance to the retrained model's mean in brackets."""
  ours = summary.overall[method][metric.name].mean
  theirs = summary.overall[RETRAINED][metric.name].mean
  if not (math.isfinite(ours) and math.isfinite(theirs)):
    return cell
  distance = format_value(metric, abs(ours - theirs))
  return cell._replace(text=f"{cell.text} ({distance})")


def _rank(
  method: str, stats: Mapping[str, Statistic]
) -> tuple[bool, bool, float]:
  """The retrained model, the original one, the methods by their gap."""
  gap = stats[SALUN_GAP].mean if SALUN_GAP in stats else math.nan
  return (
    method != RETRAINED,
    method != ORIGINAL,
    gap if math.isfinite(gap) else math.inf,
  )
