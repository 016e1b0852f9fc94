"""Charts of results: each takes numbers and returns a `Chart`.

A sentence stands in the place of empty axes. Charts of lines: `line_charts`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxunlearn.report import charts, draw
from jaxunlearn.report.charts import BLUE, GREEN, GREY, ORANGE, Chart
from jaxunlearn.report.definitions import (
  METRICS,
  Metric,
  describe,
  format_mean,
  format_value,
)
from jaxunlearn.report.findings import retrained_gaps
from jaxunlearn.report.results import (
  ORIGINAL,
  REFERENCES,
  RETRAINED,
  Statistic,
  Summary,
)

ACCURACIES = ("forget_accuracy", "retain_accuracy", "test_accuracy")
_COLOURS = (ORANGE, BLUE, GREEN)


def accuracy_bars(
  summary: Summary,
  metrics: Sequence[str] = ACCURACIES,
  *,
  definitions: Sequence[Metric] = METRICS,
) -> Chart:
  """A panel per metric, a bar per method, the retrained model as dashed line.

  Args:
    summary: see `summarise`.
    metrics: the panels, left to right; those without a value are left out.
    definitions: how to show each metric.

  Returns:
    The chart. Intervals are standard deviations over seeds.

  Example:
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> summary = report.summarise(rows)
    >>> len(report.accuracy_bars(summary).panels)
    1
  """
  panels = []
  for i, name in enumerate(metrics):
    metric, of = describe(name, definitions), _statistics(summary, name)
    if not any(math.isfinite(s.mean) for s in of.values()):
      continue
    rows = []
    for method, s in of.items():
      spread = np.nan_to_num(s.std)
      text = f"{format_mean(metric, s.mean, s.std)} {metric.unit}"
      rows.append({
        **{"method": method, "value": metric.scale * s.mean},
        "low": metric.scale * (s.mean - spread),
        "high": metric.scale * (s.mean + spread),
        "label": f"{method}: {metric.label} {text.strip()}",
        "color": GREY if method in REFERENCES else _COLOURS[i % 3],
      })  # fmt: skip
    aim = of[RETRAINED].mean if RETRAINED in of else math.nan
    words = f"retrained model: {format_value(metric, aim)}"
    ends = (0, 100) if metric.unit == "%" else None
    aim = metric.scale * aim, words
    panels.append(draw.bars(rows, metric.heading, aim=aim, domain=ends))
  if not panels:
    return charts.message("No accuracy was measured.")
  return Chart(tuple(panels))


def confusion_pair(
  before: Any,
  after: Any,
  names: Sequence[str],
  *,
  forgotten: Collection[int] = (),
  titles: tuple[str, str] = ("Before unlearning", "After unlearning"),
) -> Chart:
  """Two confusion matrices side by side, on one scale.

  Args:
    before: counts [C, C], row = true class, column = predicted class.
    after: counts [C, C].
    names: C names of classes.
    forgotten: indices of the forgotten classes; their rows are framed and
      their names marked by a dot.
    titles: above the two matrices.

  Returns:
    The chart; each row is divided by its sum, rows without an example are
    left blank.

  Raises:
    ValueError: a matrix is not [C, C] with C the number of names, has a
      negative or non-finite entry, or a forgotten class does not exist.

  Example:
    >>> from jaxunlearn import report
    >>> before, after = [[9, 1], [0, 10]], [[2, 8], [0, 10]]
    >>> chart = report.confusion_pair(
    ...   before, after, ["cat", "dog"], forgotten=[0])
    >>> len(chart.panels)
    2
  """
  count = len(names)
  shares = [
    _row_shares(matrix, count, name)
    for matrix, name in ((before, "before"), (after, "after"))
  ]
  wrong = [c for c in forgotten if not 0 <= c < count]
  if wrong:
    raise ValueError(
      f"Expected forgotten to be classes below {count}, got {wrong[0]}."
    )
  marks = [f"{'• ' * (i in forgotten)}{n}" for i, n in enumerate(names)]
  framed = np.isin(np.arange(count), list(forgotten))[:, None]
  side = max(6, min(24, 600 // max(count, 1)))
  return Chart(
    tuple(
      draw.heat(
        share,
        marks,
        marks,
        title,
        framed=np.broadcast_to(framed, share.shape),
        axes=("true class", "predicted class (% of the true class)"),
        cell=(side, min(side, 20)),
      )
      for share, title in zip(shares, titles)
    )
  )


def distance_plot(
  summary: Summary,
  *,
  definitions: Sequence[Metric] = METRICS,
  gap: str = "retrained_gap",
) -> Chart:
  """Gap to the retrained model against run time: lower left is best.

  Args:
    summary: see `summarise`; methods without a gap or a time above 0 are
      left out.
    definitions: how to show the gap.
    gap: the metric upwards.

  Returns:
    The chart. Bars are standard deviations over seeds; lines across are the gap
    of the original model and the time of retraining.

  Example:
    >>> from jaxunlearn import report
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": 0, "retrained_gap": gap,
    ...    "seconds_run": seconds}
    ...   for m, gap, seconds in (
    ...     ("retrained", 0.0, 9.0), ("finetune", 0.1, 1.0))
    ... ]
    >>> len(report.distance_plot(report.summarise(rows)).panels)
    1
  """
  metric = describe(gap, definitions)
  gaps, times = retrained_gaps(summary), _statistics(summary, "seconds_run")
  shown = [m for m in summary.candidates if m in gaps and times[m].mean > 0]
  if not shown:
    return charts.message(
      "No method has both a gap to the retrained model and a time."
    )
  points = [
    _point(m, (times[m].mean, gaps[m]), metric, f"{times[m].mean:.3g} s")
    for m in shown
  ]
  levels, xs = [], [p["x"] for p in points]
  if ORIGINAL in gaps:
    at = metric.scale * gaps[ORIGINAL].mean
    levels.append(("y", at, f"original model: gap {at:.3g}"))
  if RETRAINED in times and times[RETRAINED].mean > 0:
    at = times[RETRAINED].mean
    levels.append(("x", at, f"retraining: {at:.3g} s"))
    xs.append(at)
  top = max(*(p["high"] for p in points), *(v for c, v, _ in levels if c == "y"), 1e-9)  # fmt: skip
  return Chart((
    draw.scatter(
      points,
      "run time without compilation (s, log scale)",
      metric.heading,
      domains=((min(xs) / 1.8, max(xs) * 1.8), (0, 1.15 * top)),
      log_x=True,
      levels=levels,
    ),
  ))  # fmt: skip


def trade_off(
  summary: Summary,
  across: str,
  up: str,
  *,
  definitions: Sequence[Metric] = METRICS,
) -> Chart:
  """A point per method between two metrics; the retrained model's lines.

  Args:
    summary: see `summarise`; of "original" and "retrained" as well.
    across: the metric to the right, such as what is forgotten.
    up: the metric upwards, such as what is kept.
    definitions: how to show each metric.

  Returns:
    The chart; methods without a value in both are left out.

  Example:
    >>> from jaxunlearn import report
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": 0, "forget_accuracy": a,
    ...    "retain_accuracy": b}
    ...   for m, a, b in (("retrained", 0.1, 0.9), ("finetune", 0.4, 0.8))
    ... ]
    >>> chart = report.trade_off(
    ...   report.summarise(rows), "forget_accuracy", "retain_accuracy")
    >>> len(chart.panels)
    1
  """
  x, y = (describe(name, definitions) for name in (across, up))
  xs, ys = (_statistics(summary, name) for name in (across, up))
  points = [
    _point(m, (x.scale * xs[m].mean, ys[m]), y, f"{format_value(x, xs[m].mean)}")
    for m in (ORIGINAL, *summary.candidates)
    if m in xs and np.isfinite([xs[m].mean, ys[m].mean]).all()
  ]  # fmt: skip
  aim = (math.nan, math.nan)
  if RETRAINED in xs:
    aim = x.scale * xs[RETRAINED].mean, y.scale * ys[RETRAINED].mean
  levels = [
    (axis, v, f"retrained model: {v:.3g}")
    for axis, v in zip("xy", aim)
    if math.isfinite(v)
  ]
  if not points:
    return charts.message("No method has a value in both metrics.")
  around = lambda axis, place: margins(
    [p[axis] for p in points] + [v for v in aim[place : place + 1] if math.isfinite(v)]
  )  # fmt: skip
  return Chart((
    draw.scatter(
      points, x.heading, y.heading,
      domains=(around("x", 0), around("y", 1)), levels=levels,
    ),
  ))  # fmt: skip


def _statistics(summary: Summary, name: str) -> dict[str, Any]:
  empty = Statistic(math.nan, math.nan, 0, 0, 0)
  return {
    method: stats.get(name, empty) for method, stats in summary.overall.items()
  }


def _point(method: str, at: Any, metric: Metric, words: str) -> dict[str, Any]:
  x, s = at
  spread = np.nan_to_num(s.std)
  text = f"{format_mean(metric, s.mean, s.std)} {metric.unit}".strip()
  return {
    **{"method": method, "x": x, "y": metric.scale * s.mean},
    "low": metric.scale * (s.mean - spread),
    "high": metric.scale * (s.mean + spread),
    "color": GREY if method in REFERENCES else BLUE,
    "label": f"{method}: {metric.label} {text}, {words}",
  }


def margins(values: Sequence[float]) -> tuple[float, float]:
  """Ends of an axis that leave some room around the values."""
  low, high = min(values), max(values)
  room = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
  return low - room, high + room


def _row_shares(matrix: Any, count: int, name: str) -> np.ndarray:
  """Percentages of each row; NaN in rows without an example."""
  values = np.asarray(matrix, np.float64)
  if values.shape != (count, count):
    raise ValueError(
      f"Expected {name} to have shape [{count}, {count}], one row a name, "
      f"got {list(values.shape)}."
    )
  if not np.all(np.isfinite(values)) or np.any(values < 0):
    raise ValueError(
      f"Expected {name} to be counts >= 0, got a negative or non-finite one."
    )
  totals = values.sum(axis=1, keepdims=True)
  blank = np.full_like(values, np.nan)
  return 100 * np.divide(values, totals, out=blank, where=totals > 0)
