"""Figures of audits: attack curves, score histograms, curves over steps.

Like those of `plots`: no global state, Matplotlib imported on the first call,
and a sentence in the place of empty axes. A line is the mean over seeds, the
band around it goes from the lowest to the highest seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.report.canvas import (
  BLUE,
  GREEN,
  GREY,
  INK,
  ORANGE,
  PALETTE,
  clean,
  empty_figure,
  new_figure,
  style_axes,
)
from jaxunlearn.report.results import ORIGINAL, RETRAINED

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

LOWEST_RATE = 1e-3
GROUPS = ("forget", "retain", "unseen")
GROUP_COLOURS = {"forget": ORANGE, "retain": BLUE, "unseen": GREEN}
DASHES: tuple[Any, ...] = (
  "-",
  (0, (6, 2)),
  (0, (1.5, 1.5)),
  (0, (7, 2, 1.5, 2)),
)
MARKERS = ("o", "s", "^", "D")
MAX_POINTS_MARKED = 20
_GRID_POINTS = 200


def roc_curves(
  curves: Mapping[str, Sequence[tuple[Any, Any]]],
  *,
  lowest: float | None = None,
  x_label: str = "false positive rate",
  y_label: str = "true positive rate",
) -> Figure:
  """Receiver operating characteristics on two logarithmic axes.

  Args:
    curves: name -> one (false positive rates [K], true positive rates [K]) a
      seed, both not falling; "retrained" is drawn as the dashed reference.
    lowest: where the axes start, in (0, 1); by default 0.001, or the smallest
      false positive rate above 0 (1 / n of n unseen rows) where that is larger.
    x_label: below.
    y_label: beside.

  Returns:
    The figure, with the diagonal of an attack that guesses. A true positive rate
    below `lowest` is drawn at `lowest`.

  Raises:
    ValueError: rates that are not two equal vectors, fall or leave [0, 1];
      `lowest` outside (0, 1).
  """
  checked = {
    name: [
      _rates(pair, f"curves[{name!r}][{i}]") for i, pair in enumerate(runs)
    ]
    for name, runs in curves.items()
  }
  shown = {name: runs for name, runs in checked.items() if runs}
  if not shown:
    return empty_figure("No attack was run.")
  if lowest is None:
    rates = np.concatenate([fpr for runs in shown.values() for fpr, _ in runs])
    positive = rates[rates > 0]
    lowest = max(LOWEST_RATE, float(positive.min(initial=1.0)))
    lowest = min(lowest, 0.5)  # Of one unseen row 1 / n is 1.
  if not 0 < lowest < 1:
    raise ValueError(f"Expected lowest in (0, 1), got {lowest}.")
  grid = np.geomspace(lowest, 1, _GRID_POINTS)
  figure = new_figure(6.4, 5.4 + 0.2 * math.ceil(len(shown) / 3))
  axes = figure.subplots()
  axes.plot(
    grid, grid, color=GREY, linewidth=1, linestyle=":", label="guessing"
  )
  for name, style in line_styles(shown, markers=False).items():
    heights = np.array([_at_rates(*run, grid) for run in shown[name]])
    _line(axes, grid, np.maximum(heights, lowest), clean(name), style)
  axes.set_xscale("log")
  axes.set_yscale("log")
  axes.set_xlim(lowest, 1)
  axes.set_ylim(lowest, 1.12)
  axes.set_aspect("equal")
  style_axes(axes, grid="both")
  axes.set_xlabel(clean(x_label, 60), fontsize=10)
  axes.set_ylabel(clean(y_label, 60), fontsize=10)
  _percent_ticks(axes)
  _legend(figure, [axes], columns=3)
  return figure


def score_histograms(
  scores: Mapping[str, Mapping[str, Any]],
  *,
  bins: int = 40,
  x_label: str = "score",
) -> Figure:
  """How a score is spread over groups of rows, a panel a model.

  Args:
    scores: model -> group ("forget", "retain", "unseen", or names of your own)
      -> scores, an array of any shape; what is not finite is left out.
    bins: of all panels alike.
    x_label: what the score is.

  Returns:
    The figure. Heights are shares of the group, so that groups of different
    sizes compare; the axes hold 99 % of all scores, the ends gather the rest.

  Raises:
    ValueError: bins < 1.
  """
  if bins < 1:
    raise ValueError(f"Expected bins >= 1, got {bins}.")
  models = {
    model: {group: _finite(values) for group, values in groups.items()}
    for model, groups in scores.items()
  }
  models = {
    model: {group: v for group, v in groups.items() if v.size}
    for model, groups in models.items()
  }
  models = {model: groups for model, groups in models.items() if groups}
  if not models:
    return empty_figure("No score was recorded.")
  every = np.concatenate([v for g in models.values() for v in g.values()])
  low, high = np.quantile(every, [0.005, 0.995])
  if not high > low:
    low, high = low - 0.5, high + 0.5
  edges = np.linspace(low, high, bins + 1)
  columns = min(3, len(models))
  rows = math.ceil(len(models) / columns)
  figure = new_figure(max(3.2 * columns, 4.5), 2.1 * rows + 0.7)
  grid = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
  names = list(dict.fromkeys(g for groups in models.values() for g in groups))
  names.sort(key=lambda n: GROUPS.index(n) if n in GROUPS else len(GROUPS))
  free = [c for c in PALETTE if c not in GROUP_COLOURS.values()]
  own = [name for name in names if name not in GROUP_COLOURS]
  colours = {
    **GROUP_COLOURS,
    **{name: free[i % len(free)] for i, name in enumerate(own)},
  }
  for axes, (model, groups) in zip(grid, models.items()):
    for name in names:
      if name in groups:
        _histogram(axes, groups[name], edges, clean(name), colours[name])
    axes.set_title(clean(model), fontsize=10, color=INK, loc="left")
    axes.set_ylim(bottom=0)
    style_axes(axes, grid="y")
    axes.tick_params(labelsize=8)
  for i, axes in enumerate(grid):
    if i >= len(models):
      axes.set_axis_off()
    elif i + columns >= len(models):  # The lowest one of its column.
      axes.tick_params(labelbottom=True)
  figure.supxlabel(clean(x_label, 60), fontsize=10, color=INK)
  figure.supylabel("share of the group (%)", fontsize=10, color=INK)
  _legend(figure, grid[: len(models)], columns=4, above=True)
  return figure


def curves(
  x: Any,
  lines: Mapping[str, Any],
  *,
  x_label: str = "step",
  y_label: str = "",
) -> Figure:
  """A line a method over steps, requests or cycles.

  Args:
    x: positions [T].
    lines: name -> [seeds, T] or [T]; "original" and "retrained" are drawn as
      references. What is not finite is left out.
    x_label: below.
    y_label: beside.

  Returns:
    The figure.

  Raises:
    ValueError: x is no vector, or a line has another length.
  """
  return curve_panels(x, {y_label: lines}, x_label=x_label)


def curve_panels(
  x: Any, panels: Mapping[str, Mapping[str, Any]], *, x_label: str = "step"
) -> Figure:
  """Panels of `curves` side by side, a colour a name in all of them.

  Args:
    x: positions [T].
    panels: label of the y axis -> name -> [seeds, T] or [T]. Panels without a
      finite value are left out.
    x_label: below.

  Returns:
    The figure.

  Raises:
    ValueError: x is no vector, or a line has another length.
  """
  positions = np.asarray(x, np.float64)
  if positions.ndim != 1:
    raise ValueError(
      f"Expected x to have shape [T], got {list(positions.shape)}."
    )
  shown = {}
  for label, lines in panels.items():
    checked = {name: _runs(v, positions, name) for name, v in lines.items()}
    kept = {name: v for name, v in checked.items() if np.isfinite(v).any()}
    if kept:
      shown[label] = kept
  if not shown:
    return empty_figure("Nothing was measured over steps.")
  names = list(dict.fromkeys(n for lines in shown.values() for n in lines))
  few = len(positions) <= MAX_POINTS_MARKED
  styles = line_styles(names, markers=few)
  count = len(shown)
  per_row = 4 if count > 1 else 3
  legend_rows = math.ceil(len(names) / per_row)
  width = 7.0 if count == 1 else 3.9 * count
  figure = new_figure(width, 3.6 + 0.22 * legend_rows)
  grid = figure.subplots(1, count, squeeze=False).ravel()
  for axes, (label, lines) in zip(grid, shown.items()):
    for name in names:
      if name in lines:
        _line(axes, positions, lines[name], clean(name), styles[name])
    style_axes(axes, grid="both")
    axes.set_xlabel(clean(x_label, 60), fontsize=10, color=INK)
    if few and np.array_equal(positions, np.round(positions)):
      every = math.ceil(len(positions) / 10)
      axes.set_xticks(positions[::every])
    if count > 1:  # A label beside each of several panels takes their room.
      axes.set_title(clean(label, 44), fontsize=10, color=INK, loc="left")
    else:
      axes.set_ylabel(clean(label, 60), fontsize=10, color=INK)
  _legend(figure, grid, columns=per_row)
  return figure


def line_styles(
  names: Any, *, markers: bool = True
) -> dict[str, dict[str, Any]]:
  """How each of several lines is drawn; none like another up to 24.

  Args:
    names: in order; "original" and "retrained" have styles of their own.
    markers: whether points are marked.
  """
  styles: dict[str, dict[str, Any]] = {}
  turn = 0
  for name in names:
    if name == RETRAINED:
      style = {"color": INK, "linestyle": "--", "linewidth": 1.6, "zorder": 4}
    elif name == ORIGINAL:
      style = {"color": GREY, "linestyle": ":", "linewidth": 1.6}
    else:
      way = turn // len(PALETTE) % len(DASHES)
      style = {
        "color": PALETTE[turn % len(PALETTE)],
        "linestyle": DASHES[way],
        "linewidth": 1.4,
      }
      if markers:
        style |= {"marker": MARKERS[way], "markersize": 3.5}
      turn += 1
    styles[name] = style
  return styles


def _line(
  axes: Axes,
  x: np.ndarray,
  values: np.ndarray,
  label: str,
  style: Mapping[str, Any],
) -> None:
  """The mean over the runs [S, T] that are finite there, and their band."""
  finite = np.isfinite(values)
  usable = finite.any(axis=0)
  kept = np.where(finite, values, 0.0).sum(axis=0)
  mean = np.full(len(x), np.nan)
  np.divide(kept, finite.sum(axis=0), out=mean, where=usable)
  single = usable.sum() == 1
  marker = {"marker": "o"} if single and "marker" not in style else {}
  axes.plot(x, mean, label=label, **{**style, **marker})
  if len(values) > 1:
    low = np.where(finite, values, np.inf).min(axis=0)
    high = np.where(finite, values, -np.inf).max(axis=0)
    axes.fill_between(
      x[usable],
      low[usable],
      high[usable],
      color=style["color"],
      alpha=0.13,
      linewidth=0,
    )


def _histogram(
  axes: Axes, values: np.ndarray, edges: np.ndarray, label: str, colour: str
) -> None:
  inside = np.clip(values, edges[0], edges[-1])
  counts, _ = np.histogram(inside, edges)
  shares = 100 * counts / len(values)
  axes.stairs(shares, edges, fill=True, color=colour, alpha=0.22)
  axes.stairs(shares, edges, color=colour, linewidth=1.3, label=label)


def _percent_ticks(axes: Axes) -> None:
  """0.1 %, 1 %, 10 % instead of powers of ten."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_locator(LogLocator(subs=(1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    axis.set_minor_formatter(NullFormatter())


def _legend(
  figure: Figure, panels: Any, *, columns: int, above: bool = False
) -> None:
  """One legend for all panels, each name once."""
  entries: dict[str, Any] = {}
  for axes in panels:
    handles, labels = axes.get_legend_handles_labels()
    entries |= dict(zip(labels, handles))
  figure.legend(
    list(entries.values()),
    list(entries),
    loc="outside upper center" if above else "outside lower center",
    ncols=min(columns, len(entries)),
    frameon=False,
    fontsize=9,
  )


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


def _finite(values: Any) -> np.ndarray:
  flat = np.asarray(values, np.float64).ravel()
  return flat[np.isfinite(flat)]
