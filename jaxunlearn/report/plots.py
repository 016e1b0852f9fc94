"""Figures of results. No global state: no pyplot, no change of rcParams.

Each returns a `matplotlib.figure.Figure`; `canvas.figure_png` renders it.
Matplotlib is imported on the first call.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.report.canvas import (
  BLUE,
  GREEN,
  GREY,
  INK,
  ORANGE,
  PALETTE,
  SKY,
  blues,
  clean,
  empty_figure,
  new_figure,
  plain_log_ticks,
  style_axes,
)
from jaxunlearn.report.definitions import METRICS, Metric, describe
from jaxunlearn.report.findings import retrained_gaps
from jaxunlearn.report.label_layout import place_labels
from jaxunlearn.report.results import ORIGINAL, REFERENCES, RETRAINED, Summary

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

ACCURACIES = ("forget_accuracy", "retain_accuracy", "test_accuracy")
ACCURACY_COLOURS = (ORANGE, BLUE, GREEN)
MAX_NAMES = 24


def accuracy_bars(
  summary: Summary,
  metrics: Sequence[str] = ACCURACIES,
  *,
  definitions: Sequence[Metric] = METRICS,
) -> Figure:
  """A panel a metric, a bar a method, the retrained model as a dashed line.

  Args:
    summary: see `summarise`.
    metrics: the panels, left to right; those without a value are left out.
    definitions: how to show each metric.

  Returns:
    The figure. Error bars are standard deviations over seeds.
  """
  shown = [
    name
    for name in metrics
    if any(s[name].n for s in summary.overall.values() if name in s)
  ]
  if not shown:
    return empty_figure("No accuracy was measured.")
  methods = summary.methods
  figure = new_figure(10, 1.25 + 0.29 * len(methods))
  panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
  for i, (axes, name) in enumerate(zip(panels, shown)):
    metric = describe(name, definitions)
    colour = ACCURACY_COLOURS[i % len(ACCURACY_COLOURS)]
    means, stds = _columns(summary, methods, metric)
    axes.barh(
      range(len(methods)),
      means,
      height=0.66,
      color=[GREY if m in REFERENCES else colour for m in methods],
      xerr=np.nan_to_num(stds),
      error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )
    for j, mean in enumerate(means):
      if not math.isfinite(mean):
        axes.text(0, j, " no value", va="center", fontsize=9, color=GREY)
    _reference_line(axes, summary, metric)
    if metric.unit == "%":
      axes.set_xlim(-2, 104)
    axes.set_title(clean(metric.heading, 40), fontsize=11, color=INK)
    style_axes(axes, grid="x")
    axes.tick_params(axis="y", length=0)
  panels[0].set_yticks(
    range(len(methods)), [clean(method) for method in methods], fontsize=10
  )
  panels[0].set_ylim(len(methods) - 0.4, -0.6)
  handles, labels = panels[0].get_legend_handles_labels()
  if handles:
    figure.legend(
      handles, labels, loc="outside lower center", frameon=False, fontsize=9
    )
  return figure


def confusion_pair(
  before: Any,
  after: Any,
  names: Sequence[str],
  *,
  forgotten: Collection[int] = (),
  titles: tuple[str, str] = ("Before unlearning", "After unlearning"),
) -> Figure:
  """Two confusion matrices side by side, on one scale.

  Args:
    before: counts [C, C], row = true class, column = predicted class.
    after: counts [C, C].
    names: C names of classes.
    forgotten: indices of the forgotten classes; their rows are framed and
      their names marked by a triangle.
    titles: above the two matrices.

  Returns:
    The figure; each row is divided by its sum, rows without an example are
    left blank.

  Raises:
    ValueError: a matrix is not [C, C] with C the number of names, has a
      negative or non-finite entry, or a forgotten class does not exist.
  """
  from matplotlib.patches import Rectangle

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
  ticks = _named_classes(count, forgotten)
  labels = [
    ("\N{BLACK RIGHT-POINTING SMALL TRIANGLE} " if i in forgotten else "")
    + clean(str(names[i]), 14)
    for i in ticks
  ]
  side = min(max(3.2, 0.42 * min(count, MAX_NAMES)), 6.5)
  longest = max((len(label) for label in labels), default=0)
  figure = new_figure(2 * side + 1.8, side + 0.8 + 0.09 * longest)
  panels = figure.subplots(1, 2, sharey=True)
  for axes, share, title in zip(panels, shares, titles):
    image = axes.imshow(share, vmin=0, vmax=100, cmap=blues(), aspect="equal")
    axes.set_title(clean(title, 40), fontsize=11, color=INK)
    axes.set_xlabel("predicted class", fontsize=10, color=INK)
    axes.set_xticks(ticks, labels, rotation=90, fontsize=9)
    axes.set_yticks(ticks, labels, fontsize=9)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
      spine.set_visible(False)
    for c in forgotten:
      frame = Rectangle(
        (-0.5, c - 0.5), count, 1, fill=False, edgecolor=ORANGE, linewidth=1.8
      )
      frame.set_clip_on(False)
      axes.add_patch(frame)
    if count <= 12:
      _write_shares(axes, share)
  panels[0].set_ylabel("true class", fontsize=10, color=INK)
  bar = figure.colorbar(image, ax=list(panels), shrink=0.8, pad=0.02)
  bar.set_label("% of the true class", fontsize=9, color=INK)
  bar.ax.tick_params(labelsize=9)
  bar.outline.set_visible(False)  # type: ignore[operator]
  return figure


def loss_traces(traces: Mapping[str, Mapping[str, Any]]) -> Figure:
  """A small panel for each phase of each method: its loss, step by step.

  Args:
    traces: method -> phase -> array [T] or [seeds, T]. Phases without a step
      are left out.

  Returns:
    The figure. The line is the mean over seeds, the band from the lowest to
    the highest seed. Every panel has a scale of its own: losses of different
    phases measure different things.

  Raises:
    ValueError: an array has neither one nor two axes.
  """
  panels: list[tuple[str, str, np.ndarray, str]] = []
  for i, (method, phases) in enumerate(traces.items()):
    for phase, trace in phases.items():
      values = np.asarray(trace, np.float64)
      if values.ndim not in (1, 2):
        raise ValueError(
          f"Expected traces[{method!r}][{phase!r}] to have shape [T] or "
          f"[seeds, T], got {list(values.shape)}."
        )
      if values.size:
        colour = PALETTE[i % len(PALETTE)]
        panels.append((method, phase, np.atleast_2d(values), colour))
  if not panels:
    return empty_figure("No loss was recorded.")
  columns = min(4, len(panels))
  rows = math.ceil(len(panels) / columns)
  figure = new_figure(max(2.7 * columns, 4.5), 1.75 * rows + 0.4)
  grid = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes, (method, phase, values, colour) in zip(grid, panels):
    _trace(axes, values, colour)
    axes.set_title(
      f"{clean(method, 28)}\n{clean(phase, 24)}{_not_finite(values)}",
      fontsize=9,
      color=INK,
      loc="left",
    )
  for axes in grid[len(panels) :]:
    axes.set_axis_off()
  figure.supxlabel("step", fontsize=10, color=INK)
  figure.supylabel("loss", fontsize=10, color=INK)
  return figure


def distance_plot(
  summary: Summary, *, definitions: Sequence[Metric] = METRICS
) -> Figure:
  """Gap to the retrained model against run time: lower left is best.

  Args:
    summary: see `summarise`; methods without a gap or a time above 0 are
      left out.
    definitions: how to show the gap.

  Returns:
    The figure. Bars are standard deviations over seeds; the dotted line is
    the gap of the original model, the dashed one the time of retraining.
  """
  metric = describe("retrained_gap", definitions)
  gaps = retrained_gaps(summary)
  times = {
    method: stats["seconds_run"].mean
    for method, stats in summary.overall.items()
    if "seconds_run" in stats and stats["seconds_run"].mean > 0
  }
  shown = [m for m in summary.candidates if m in gaps and m in times]
  if not shown:
    return empty_figure(
      "No method has both a gap to the retrained model and a time."
    )
  figure = new_figure(9, 5.6)
  axes = figure.subplots()
  axes.set_xscale("log")
  x = np.array([times[method] for method in shown])
  y = np.array([gaps[method].mean for method in shown]) * metric.scale
  spread = np.nan_to_num([gaps[m].std for m in shown]) * metric.scale
  axes.errorbar(
    x,
    y,
    yerr=spread,
    fmt="o",
    color=BLUE,
    ecolor=SKY,
    markersize=6,
    elinewidth=1,
    zorder=3,
  )
  ends = [*x, times[RETRAINED]] if RETRAINED in times else list(x)
  axes.set_xlim(min(ends) / 1.8, max(ends) * 1.8)
  heights = [
    *(y + spread),
    *([gaps[ORIGINAL].mean * metric.scale] if ORIGINAL in gaps else []),
  ]
  axes.set_ylim(0, max(*heights, 1e-9) * 1.15)
  if ORIGINAL in gaps:
    axes.axhline(
      gaps[ORIGINAL].mean * metric.scale,
      color=GREY,
      linestyle=":",
      linewidth=1.4,
      label="gap of the original model (nothing unlearned)",
    )
  if RETRAINED in times:
    axes.axvline(
      times[RETRAINED],
      color=GREY,
      linestyle="--",
      linewidth=1.4,
      label="time of retraining",
    )
  style_axes(axes, grid="both")
  axes.set_xlabel("run time without compilation (s, log scale)", fontsize=10)
  axes.set_ylabel(clean(metric.heading, 60), fontsize=10)
  plain_log_ticks(axes, max(ends) / min(ends))
  if axes.get_legend_handles_labels()[0]:
    figure.legend(
      loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
  place_labels(
    axes,
    x,
    y,
    [clean(method) for method in shown],
    avoid_x=[times[RETRAINED]] if RETRAINED in times else [],
    avoid_y=[gaps[ORIGINAL].mean * metric.scale] if ORIGINAL in gaps else [],
  )
  return figure


def _columns(
  summary: Summary, methods: Sequence[str], metric: Metric
) -> tuple[np.ndarray, np.ndarray]:
  """Means and standard deviations, scaled as shown, NaN where missing."""
  stats = [summary.overall[method].get(metric.name) for method in methods]
  means = [math.nan if s is None else s.mean for s in stats]
  stds = [math.nan if s is None else s.std for s in stats]
  return np.array(means) * metric.scale, np.array(stds) * metric.scale


def _reference_line(axes: Axes, summary: Summary, metric: Metric) -> None:
  stats = summary.overall.get(RETRAINED, {}).get(metric.name)
  if stats is not None and stats.n:
    axes.axvline(
      stats.mean * metric.scale,
      color=INK,
      linestyle="--",
      linewidth=1.2,
      label="retrained model",
    )


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


def _write_shares(axes: Axes, share: np.ndarray) -> None:
  for (row, column), value in np.ndenumerate(share):
    if math.isfinite(value) and value >= 0.5:
      axes.text(
        column,
        row,
        f"{value:.0f}",
        ha="center",
        va="center",
        fontsize=8,
        color="white" if value > 55 else INK,
      )


def _named_classes(count: int, forgotten: Collection[int]) -> list[int]:
  """The classes whose names fit: forgotten ones first, evenly thinned."""
  every = math.ceil(count / MAX_NAMES)
  named: list[int] = []
  for c in [*sorted(forgotten), *range(0, count, every)]:
    if all(abs(c - other) >= every for other in named):
      named.append(c)
  return sorted(named)


def _trace(axes: Axes, values: np.ndarray, colour: str) -> None:
  """Mean over seeds and the band between them; counts what is not finite."""
  style_axes(axes, grid="both")
  axes.tick_params(labelsize=8)
  axes.locator_params(axis="both", nbins=4)
  finite = np.isfinite(values)
  steps = np.arange(1, values.shape[1] + 1)
  usable = finite.any(axis=0)
  if usable.any():
    kept = np.where(finite, values, 0.0)[:, usable]
    mean = kept.sum(axis=0) / finite[:, usable].sum(axis=0)
    marker = "o" if usable.sum() == 1 else None
    axes.plot(steps[usable], mean, color=colour, linewidth=1.4, marker=marker)
    if len(values) > 1:
      low = np.where(finite, values, np.inf).min(axis=0)[usable]
      high = np.where(finite, values, -np.inf).max(axis=0)[usable]
      axes.fill_between(
        steps[usable], low, high, color=colour, alpha=0.2, linewidth=0
      )
  # The whole stretch, also where the loss has no finite value.
  axes.set_xlim(1 - 0.03 * len(steps), len(steps) + 0.03 * len(steps))


def _not_finite(values: np.ndarray) -> str:
  bad = int((~np.isfinite(values)).any(axis=0).sum())
  return f"\n{bad} of {values.shape[1]} steps not finite" if bad else ""
