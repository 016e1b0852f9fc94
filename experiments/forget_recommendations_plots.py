"""Figures of a study of recommenders."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.forget_recommendations_methods import MMRECUN, POPULARITY
from experiments.forget_recommendations_study import Outcome, Study
from jaxunlearn import report
from jaxunlearn.report.canvas import (
  BLUE,
  GREY,
  INK,
  ORANGE,
  PALETTE,
  clean,
  new_figure,
  style_axes,
)

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_BARS = "#b0b0b0"


def figures(
  study: Study,
  outcome: Outcome,
  summary: report.Summary,
  known: Sequence[report.Metric],
) -> Mapping[str, tuple[Figure, str]]:
  """All figures of the report, by name, with captions.

  Args:
    study: what was run.
    outcome: what was found.
    summary: of its rows.
    known: how to show each number.
  """
  found = {}
  aside = ""
  if POPULARITY in study.methods:
    aside = " Popularity, far to the left, is in the tables."
  for request in study.requests:
    slug = re.sub(r"[^A-Za-z0-9]+", "_", request.name).strip("_")
    found[f"recall_{slug}"[:100]] = (
      _trade_off(study, summary, request.name),
      f"Request: {request.words}. To the right are better recommendations, "
      "upwards more of what should be forgotten is still recommended. The dashed "
      "lines cross at the retrained model, the aim. Bars are standard deviations "
      f"over seeds.{aside}",
    )
  names = ("test_recall", "forget_recall", "membership_auc")
  found["numbers"] = (
    report.accuracy_bars(summary, names, definitions=known),
    "Means over requests. The dashed line is the retrained model.",
  )
  found["distance"] = (
    report.distance_plot(summary, definitions=known),
    "How far each method ends from the retrained model, and how long it takes, "
    "means over requests. Down is nearer, left is faster.",
  )
  if study.sweep:
    found["alpha"] = (
      _sweep(study, outcome, summary),
      "MMRecUN with other weights of the kept interactions, on the seeds "
      "reported. At 1 it is fine-tuning. The dashed line is the retrained model; "
      "bands go from the lowest to the highest seed.",
    )
  return found


def _trade_off(study: Study, summary: report.Summary, request: str) -> Figure:
  """Forget recall against test recall, one request."""
  names = ("test_recall", "forget_recall")
  points = {
    method: [summary.cells[method, request][name] for name in names]
    for method in summary.methods
  }
  # Popularity lies so far to the left that the others would be one spot.
  shown = [
    m for m, p in points.items() if m != POPULARITY and all(s.n for s in p)
  ]
  figure = new_figure(8, 5)
  axes = figure.subplots()
  x, y = (np.array([points[m][i].mean for m in shown]) for i in range(2))
  spreads = np.array(
    [[np.nan_to_num(s.std) for s in points[m]] for m in shown]
  ).T
  for i, method in enumerate(shown):
    marker, colour = _style(method, study.methods)
    axes.errorbar(
      x[i],
      y[i],
      xerr=spreads[0, i],
      yerr=spreads[1, i],
      fmt=marker,
      markersize=14 if method == "retrained" else 7,
      color=colour,
      ecolor=_BARS,
      elinewidth=1.2,
      label=clean(method),
      zorder=2 if method == "retrained" else 3,
    )
  for values, spread, limits in (
    (x, spreads[0], axes.set_xlim),
    (y, spreads[1], axes.set_ylim),
  ):
    low, high = (values - spread).min(), (values + spread).max()
    margin = 0.12 * max(high - low, 0.02)
    limits(low - margin, high + margin)
  aim = shown.index("retrained")
  style = {"color": GREY, "linestyle": "--", "linewidth": 1, "zorder": 1}
  axes.axvline(x[aim], **style)
  axes.axhline(y[aim], **style)
  style_axes(axes, grid="both")
  axes.set_title(clean(request, 60), fontsize=11, color=INK, loc="left")
  axes.set_xlabel(f"Recall@{study.k} on held-out interactions", fontsize=10)
  axes.set_ylabel(f"Recall@{study.k} on forgotten interactions", fontsize=10)
  figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
  return figure


def _style(method: str, methods: Sequence[str]) -> tuple[str, str]:
  """Marker and colour; several methods often lie on one spot."""
  fixed = {"original": ("o", INK), "retrained": ("*", INK)}
  if method in fixed:
    return fixed[method]
  if method == MMRECUN:
    return "D", ORANGE
  turn = methods.index(method)
  return "ov^sPX"[turn % 6], [c for c in PALETTE if c != ORANGE][turn % 5]


def _sweep(study: Study, outcome: Outcome, summary: report.Summary) -> Figure:
  """Test and forget recall over alpha, a column for each request."""
  count, at = len(study.requests), np.arange(len(study.sweep))
  figure = new_figure(max(3.1 * count, 5), 5)
  grid = figure.subplots(2, count, squeeze=False, sharex=True)
  labels = [f"{alpha:g}" for alpha in study.sweep]
  for column, request in enumerate(study.requests):
    for line, part in enumerate(("test", "forget")):
      axes = grid[line, column]
      values = outcome.sweep[f"{part}_recall"][column]
      colour = BLUE if part == "test" else ORANGE
      axes.plot(at, values.mean(axis=0), "o-", color=colour, markersize=4)
      axes.fill_between(
        at,
        values.min(axis=0),
        values.max(axis=0),
        color=colour,
        alpha=0.2,
        linewidth=0,
      )
      aim = summary.cells["retrained", request.name][f"{part}_recall"].mean
      if math.isfinite(aim):
        axes.axhline(aim, color=INK, linestyle="--", linewidth=1.2)
      top = max(float(np.nanmax(values)), aim if math.isfinite(aim) else 0)
      axes.set_ylim(0, 1.08 * max(top, 0.02))
      axes.set_xticks(at, labels, rotation=90 if len(at) > 6 else 0)
      style_axes(axes, grid="both")
      if line == 0:
        axes.set_title(clean(request.name, 30), fontsize=10, color=INK)
      else:
        axes.set_xlabel("alpha", fontsize=10)
      if column == 0:
        axes.set_ylabel(f"{part} Recall@{study.k}", fontsize=10)
  return figure
