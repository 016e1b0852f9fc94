"""What is kept against what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxunlearn.report.canvas import (
  BLUE,
  GREY,
  INK,
  clean,
  new_figure,
  style_axes,
)
from jaxunlearn.report.definitions import METRICS, Metric, describe
from jaxunlearn.report.label_layout import place_labels
from jaxunlearn.report.results import ORIGINAL, RETRAINED, Summary

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def trade_off(
  summary: Summary,
  across: str,
  up: str,
  *,
  definitions: Sequence[Metric] = METRICS,
) -> Figure:
  """A point per method between two metrics; the retrained model's lines.

  Args:
    summary: see `summarise`; of "original" and "retrained" as well.
    across: the metric to the right, such as what is forgotten.
    up: the metric upwards, such as what is kept.
    definitions: how to show each metric.

  Returns:
    The figure; methods without a value in both are left out.
  """
  x, y = (describe(name, definitions) for name in (across, up))
  at = lambda method, metric: (
    metric.scale * summary.overall[method][metric.name].mean
  )
  shown = [
    m for m in summary.candidates if np.isfinite([at(m, x), at(m, y)]).all()
  ]
  figure = new_figure(8, 5)
  axes = figure.subplots()
  xs, ys = ([at(m, metric) for m in shown] for metric in (x, y))
  axes.plot(xs, ys, "o", color=BLUE, zorder=3)
  axes.plot(at(ORIGINAL, x), at(ORIGINAL, y), "s", color=GREY, zorder=3)
  lines: dict[str, Any] = {"color": INK, "ls": "--", "lw": 1.2, "zorder": 1}
  axes.axvline(at(RETRAINED, x), label="retrained model", **lines)
  axes.axhline(at(RETRAINED, y), **lines)
  axes.margins(0.15)
  style_axes(axes, grid="both")
  axes.set_xlabel(clean(x.heading, 60), fontsize=10)
  axes.set_ylabel(clean(y.heading, 60), fontsize=10)
  figure.legend(loc="outside lower center", frameon=False, fontsize=9)
  named = [ORIGINAL, *shown]
  place_labels(
    axes,
    np.array([at(m, x) for m in named]),
    np.array([at(m, y) for m in named]),
    [clean(m) for m in named],
    avoid_x=[at(RETRAINED, x)],
    avoid_y=[at(RETRAINED, y)],
  )
  return figure
