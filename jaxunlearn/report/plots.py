"""Figures of results. No global state: no pyplot, no change of rcParams.

Each function returns a `matplotlib.figure.Figure`; `figure_png` renders it.
Matplotlib is imported on the first call.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.report.definitions import METRICS, Metric, describe
from jaxunlearn.report.findings import retrained_gaps
from jaxunlearn.report.label_layout import place_labels
from jaxunlearn.report.results import ORIGINAL, RETRAINED, Summary

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

DPI = 120
# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, AMBER = "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, FAINT = "#222222", "#6b6b6b", "#dddddd"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)
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
    return _empty("No accuracy was measured.")
  methods = summary.methods
  figure = _figure(10, 1.25 + 0.29 * len(methods))
  panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
  for i, (axes, name) in enumerate(zip(panels, shown)):
    metric = describe(name, definitions)
    colour = ACCURACY_COLOURS[i % len(ACCURACY_COLOURS)]
    means, stds = _columns(summary, methods, metric)
    axes.barh(
      range(len(methods)),
      means,
      height=0.66,
      color=[GREY if m in (ORIGINAL, RETRAINED) else colour for m in methods],
      xerr=np.nan_to_num(stds),
      error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )
    for j, mean in enumerate(means):
      if not math.isfinite(mean):
        axes.text(0, j, " no value", va="center", fontsize=9, color=GREY)
    _reference_line(axes, summary, metric)
    if metric.unit == "%":
      axes.set_xlim(-2, 104)
    axes.set_title(_clean(metric.heading, 40), fontsize=11, color=INK)
    _style(axes, grid="x")
    axes.tick_params(axis="y", length=0)
  panels[0].set_yticks(
    range(len(methods)), [_clean(method) for method in methods], fontsize=10
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
  side = min(max(3.2, 0.42 * min(count, MAX_NAMES)), 6.5)
  figure = _figure(2 * side + 1.8, side + 1.0)
  panels = figure.subplots(1, 2, sharey=True)
  every = math.ceil(count / MAX_NAMES)
  # Thinned names still show what was forgotten, if that is a few classes.
  ticks = [
    i
    for i in range(count)
    if (i % every == 0 and not _beside(i, forgotten, every)) or i in forgotten
  ]
  labels = [
    ("\N{BLACK RIGHT-POINTING SMALL TRIANGLE} " if i in forgotten else "")
    + _clean(str(names[i]), 14)
    for i in ticks
  ]
  for axes, share, title in zip(panels, shares, titles):
    image = axes.imshow(share, vmin=0, vmax=100, cmap=_blues(), aspect="equal")
    axes.set_title(_clean(title, 40), fontsize=11, color=INK)
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
    return _empty("No loss was recorded.")
  columns = min(4, len(panels))
  rows = math.ceil(len(panels) / columns)
  figure = _figure(max(2.7 * columns, 4.5), 1.75 * rows + 0.4)
  grid = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes, (method, phase, values, colour) in zip(grid, panels):
    _trace(axes, values, colour)
    axes.set_title(
      f"{_clean(method, 28)}\n{_clean(phase, 24)}{_not_finite(values)}",
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
    return _empty("No method has both a gap to the retrained model and a time.")
  figure = _figure(9, 5.6)
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
  _style(axes, grid="both")
  axes.set_xlabel("run time without compilation (s, log scale)", fontsize=10)
  axes.set_ylabel(_clean(metric.heading, 60), fontsize=10)
  _plain_log_ticks(axes, max(ends) / min(ends))
  if axes.get_legend_handles_labels()[0]:
    figure.legend(
      loc="outside lower center", ncols=2, frameon=False, fontsize=9
    )
  place_labels(
    axes,
    x,
    y,
    [_clean(method) for method in shown],
    avoid_x=[times[RETRAINED]] if RETRAINED in times else [],
    avoid_y=[gaps[ORIGINAL].mean * metric.scale] if ORIGINAL in gaps else [],
  )
  return figure


def figure_png(figure: Figure) -> bytes:
  """A figure as PNG, without metadata, so that equal figures give equal files.

  Args:
    figure: drawn at its own resolution.

  Returns:
    The bytes of the file.
  """
  buffer = io.BytesIO()
  figure.savefig(
    buffer, format="png", dpi=figure.dpi, metadata={"Software": None}
  )
  return buffer.getvalue()


def _figure(width: float, height: float) -> Figure:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(
    figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white"
  )
  FigureCanvasAgg(figure)
  return figure


def _empty(message: str) -> Figure:
  figure = _figure(6, 1.4)
  figure.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
  return figure


def _style(axes: Axes, grid: Any) -> None:
  axes.grid(True, axis=grid, color=FAINT, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(GREY)
  axes.tick_params(labelsize=9, color=GREY, labelcolor=INK)


def _plain_log_ticks(axes: Axes, ratio: float) -> None:
  """0.1, 1, 10 instead of powers; more of them where the range is short."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  subs = (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
  axes.xaxis.set_major_locator(LogLocator(subs=subs))
  axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
  axes.xaxis.set_minor_formatter(NullFormatter())


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


def _beside(index: int, forgotten: Collection[int], every: int) -> bool:
  """Whether a forgotten class's own name would collide with this one's."""
  return every > 1 and any(0 < abs(index - c) < every for c in forgotten)


def _trace(axes: Axes, values: np.ndarray, colour: str) -> None:
  """Mean over seeds and the band between them; counts what is not finite."""
  _style(axes, grid="both")
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


def _clean(text: str, limit: int = 30) -> str:
  """Text on one line that Matplotlib shows as it stands."""
  line = " ".join(text.split())
  known = _glyphs()
  line = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in line)
  if len(line) > limit:
    line = line[: limit - 1] + "…"
  return line.replace("$", r"\$")  # A pair of dollars would start a formula.


@functools.cache
def _glyphs() -> frozenset[int]:
  """Characters that the font has; others would warn and draw boxes."""
  from matplotlib import font_manager

  path = font_manager.findfont(font_manager.FontProperties())
  return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def _blues() -> Any:
  """White to dark blue; blank rows in grey."""
  from matplotlib.colors import LinearSegmentedColormap

  colours = ["#ffffff", "#9ecae1", BLUE, "#08306b"]
  blues = LinearSegmentedColormap.from_list("share", colours)
  return blues.with_extremes(bad="#eeeeee")
