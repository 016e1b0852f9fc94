"""Charts of lines over steps, rates or values; see `pictures`.

A line is the mean over seeds, the band around it goes from the lowest to the
highest seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from jaxunlearn.report import charts, draw
from jaxunlearn.report.charts import BLUE, GREY, Chart
from jaxunlearn.report.pictures import margins
from jaxunlearn.report.results import REFERENCES

LOWEST_RATE = 1e-3
# With more methods than these each has a panel of its own.
TOGETHER = 7


def loss_traces(traces: Mapping[str, Mapping[str, Any]]) -> Chart:
  """A small panel for each phase of each method: its loss, step by step.

  Args:
    traces: method -> phase -> array [T] or [seeds, T]. Phases without a step
      are left out.

  Returns:
    The chart. Every panel has a scale of its own: losses of different phases
    measure different things.

  Raises:
    ValueError: an array has neither one nor two axes.

  Example:
    >>> from jaxunlearn import report
    >>> traces = {"finetune": {"fit": [2.0, 1.0, 0.5]}, "prune": {"cut": []}}
    >>> len(report.loss_traces(traces).panels)
    1
  """
  panels = []
  for method, phases in traces.items():
    for phase, trace in phases.items():
      values = np.asarray(trace, np.float64)
      if values.ndim not in (1, 2):
        raise ValueError(
          f"Expected traces[{method!r}][{phase!r}] to have shape [T] or "
          f"[seeds, T], got {list(values.shape)}."
        )
      values = np.atleast_2d(values)
      if not values.size:
        continue
      bad = int((~np.isfinite(values)).any(axis=0).sum())
      note = f", {bad} of {values.shape[1]} steps not finite" if bad else ""
      panels.append(
        draw.lines(
          line_rows(method, np.arange(1, values.shape[1] + 1), values),
          f"{method}: {phase}{note}",
          {method: (BLUE, [1, 0])},
          x_title="step",
          size=(165, 75),
        )
      )
  if not panels:
    return charts.message("No loss was recorded.")
  return Chart(tuple(panels), 4)


def curves(
  x: Any,
  lines: Mapping[str, Any],
  *,
  x_label: str = "step",
  y_label: str = "",
) -> Chart:
  """A line per method over steps, requests or cycles.

  Args:
    x: positions [T].
    lines: name -> [seeds, T] or [T]; "original" and "retrained" are drawn as
      references. What is not finite is left out.
    x_label: below.
    y_label: above.

  Returns:
    The chart; with many methods a panel for each, the references in all.

  Raises:
    ValueError: x is no vector, or a line has another length.

  Example:
    >>> from jaxunlearn import report
    >>> chart = report.curves([0, 1, 2], {"finetune": [[0.1, 0.2, 0.3]] * 2})
    >>> chart.png()[1:4]
    b'PNG'
  """
  return curve_panels(x, {y_label: lines}, x_label=x_label)


def curve_panels(
  x: Any, panels: Mapping[str, Mapping[str, Any]], *, x_label: str = "step"
) -> Chart:
  """Panels of `curves` side by side, a colour a name in all of them.

  Args:
    x: positions [T].
    panels: what is measured -> name -> [seeds, T] or [T]. Panels without a
      finite value are left out.
    x_label: below.

  Returns:
    The chart.

  Raises:
    ValueError: x is no vector, or a line has another length.

  Example:
    >>> from jaxunlearn import report
    >>> panels = {
    ...   "accuracy": {"ours": [0.1, 0.2]}, "loss": {"ours": [2.0, 1.0]}}
    >>> report.curve_panels([0, 1], panels).png()[1:4]
    b'PNG'
  """
  at = np.asarray(x, np.float64)
  if at.ndim != 1:
    raise ValueError(f"Expected x to have shape [T], got {list(at.shape)}.")
  shown: dict[str, dict[str, np.ndarray]] = {}
  for label, lines in panels.items():
    runs = {name: _runs(v, at, name) for name, v in lines.items()}
    kept = {name: v for name, v in runs.items() if np.isfinite(v).any()}
    if kept:
      shown[label] = kept
  if not shown:
    return charts.message("Nothing was measured over steps.")
  names = list(dict.fromkeys(n for lines in shown.values() for n in lines))
  styles = charts.styles(names)
  return _together_or_apart(
    {
      label: {name: line_rows(name, at, v) for name, v in lines.items()}
      for label, lines in shown.items()
    },
    styles,
    x_title=x_label,
  )


def _together_or_apart(
  panels: Mapping[str, Mapping[str, list[dict[str, Any]]]],
  styles: Mapping[str, Any],
  **more: Any,
) -> Chart:
  """A panel each with all lines; of too many a panel per line and measure."""
  own = [name for name in styles if name not in REFERENCES]
  if len(own) <= TOGETHER:
    drawn = [
      draw.lines([*chain(*lines.values())], label, styles, **more)
      for label, lines in panels.items()
    ]
    return Chart((*drawn, charts.legend(styles)))
  marks = {name: styles[name] for name in styles if name in REFERENCES}
  drawn = []
  for name in own:
    for label, lines in panels.items():
      domain = margins([
        row["value"] for rows in lines.values() for row in rows
        if math.isfinite(row["value"])
      ])  # fmt: skip
      rows = [*chain(*(lines.get(key, []) for key in (*marks, name)))]
      title = f"{name}, {label}" if len(panels) > 1 else name
      small: dict[str, Any] = {"size": (165, 90)}
      small["domains"] = {"y": domain}
      only = {**marks, name: (BLUE, [1, 0])}
      drawn.append(draw.lines(rows, title, only, **{**small, **more}))
  return Chart(
    (*drawn, charts.legend({**marks, "the method": (BLUE, [1, 0])})),
    4 if len(panels) == 1 else len(panels),
  )


def roc_curves(
  curves: Mapping[str, Sequence[tuple[Any, Any]]],
  *,
  lowest: float | None = None,
  x_label: str = "false positive rate",
  y_label: str = "true positive rate",
) -> Chart:
  """Receiver operating characteristics on two logarithmic axes.

  Args:
    curves: name -> one (false positive rates [K], true positive rates [K]) per
      seed, both not falling; "retrained" is drawn as the dashed reference.
    lowest: where the axes start, in (0, 1); by default 0.001, or the smallest
      false positive rate above 0 (1 / n of n unseen rows) where that is larger.
    x_label: below.
    y_label: beside.

  Returns:
    The chart, with the diagonal of an attack that guesses. A true positive rate
    below `lowest` is drawn at `lowest`.

  Raises:
    ValueError: rates that are not two equal vectors, fall or leave [0, 1];
      `lowest` outside (0, 1).

  Example:
    >>> from jaxunlearn import report
    >>> fpr, tpr = [0.0, 0.1, 1.0], [0.0, 0.5, 1.0]
    >>> report.roc_curves({"finetune": [(fpr, tpr)]}).png()[1:4]
    b'PNG'
  """
  checked = {
    name: [
      _rates(pair, f"curves[{name!r}][{i}]") for i, pair in enumerate(runs)
    ]
    for name, runs in curves.items()
  }
  shown = {name: runs for name, runs in checked.items() if runs}
  if not shown:
    return charts.message("No attack was run.")
  if lowest is None:
    rates = np.concatenate([fpr for runs in shown.values() for fpr, _ in runs])
    positive = rates[rates > 0]
    lowest = max(LOWEST_RATE, float(positive.min(initial=1.0)))
    lowest = min(lowest, 0.5)  # Of one unseen row 1 / n is 1.
  if not 0 < lowest < 1:
    raise ValueError(f"Expected lowest in (0, 1), got {lowest}.")
  grid = np.geomspace(lowest, 1, 120)
  rows = {
    name: line_rows(
      name,
      grid,
      np.maximum([_at_rates(*run, grid) for run in runs], lowest),
    )
    for name, runs in shown.items()
  }
  guess = {"guessing": line_rows("guessing", grid, grid[None])}
  styles = {"guessing": (GREY, [1, 3]), **charts.styles(list(shown))}
  ends = {"x": (lowest, 1), "y": (lowest, 1)}
  size = (165, 150) if len(shown) > TOGETHER + 2 else (300, 300)
  return _together_or_apart(
    {"": {**guess, **rows}},
    styles,
    x_title=x_label,
    y_title=y_label,
    log=True,
    domains=ends,
    size=size,
  )


def line_rows(
  name: str, x: np.ndarray, values: np.ndarray
) -> list[dict[str, Any]]:
  """The mean over the runs [S, T] that are finite there, and their band."""
  every = math.ceil(len(x) / charts.MAX_POINTS)
  chosen = np.unique(np.append(np.arange(0, len(x), every), len(x) - 1))
  values, x = np.asarray(values)[:, chosen], x[chosen]
  finite = np.isfinite(values)
  usable = finite.any(axis=0)
  mean = np.full(len(x), np.nan)
  total = np.where(finite, values, 0.0).sum(axis=0)
  np.divide(total, finite.sum(axis=0), out=mean, where=usable)
  low = np.where(finite, values, np.inf).min(axis=0)
  high = np.where(finite, values, -np.inf).max(axis=0)
  band = len(values) > 1
  return [
    {"method": name, "x": at, "value": m} | ({"low": a, "high": b} if band else {})
    for at, m, a, b in zip(x, mean, low, high)
  ]  # fmt: skip


def _rates(pair: tuple[Any, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
  fpr, tpr = (np.asarray(values, np.float64) for values in pair)
  if fpr.ndim != 1 or fpr.shape != tpr.shape or not fpr.size:
    raise ValueError(
      f"Expected {name} to be two vectors [K], got {list(fpr.shape)} and "
      f"{list(tpr.shape)}."
    )
  for values in (fpr, tpr):
    inside = (values >= 0) & (values <= 1)
    if not inside.all() or (np.diff(values) < 0).any():
      raise ValueError(
        f"Expected {name} to be rates that do not fall in [0, 1]."
      )
  return fpr, tpr


def _at_rates(fpr: np.ndarray, tpr: np.ndarray, grid: np.ndarray) -> np.ndarray:
  """The best true positive rate whose false positive rate is within bounds."""
  index = np.searchsorted(fpr, grid, side="right") - 1
  return np.where(index >= 0, tpr[np.maximum(index, 0)], 0.0)


def _runs(values: Any, x: np.ndarray, name: str) -> np.ndarray:
  runs = np.atleast_2d(np.asarray(values, np.float64))
  if runs.ndim != 2 or runs.shape[1] != len(x):
    raise ValueError(
      f"Expected {name!r} to have shape [seeds, {len(x)}], got "
      f"{list(np.shape(values))}."
    )
  return runs


def finite(values: Any) -> np.ndarray:
  """What is finite, in one row."""
  flat = np.asarray(values, np.float64).ravel()
  return flat[np.isfinite(flat)]
