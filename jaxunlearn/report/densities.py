"""How numbers are spread, before, after and as they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from jaxunlearn.report.results import ORIGINAL, REFERENCES, RETRAINED

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_GRID = 240


def density_panels(
  samples: Mapping[str, Any], targets: Any, label: str
) -> Figure:
  """A panel per method: the density of its numbers, the aim and the start.

  Args:
    samples: float [N] by method, "original" and "retrained" among them; what is
      not finite is left out.
    targets: float [M], true values, dotted.
    label: of the axis.

  Returns:
    The figure: the retrained model as a grey area, the original dashed.
  """
  methods = [name for name in samples if name not in REFERENCES]
  targets = np.asarray(targets, np.float64)
  sides = [targets, samples[ORIGINAL], samples[RETRAINED]]
  every = np.concatenate([v[np.isfinite(v)] for v in sides])
  low, high = np.quantile(every, [0.002, 0.998])
  margin = 0.12 * (high - low)
  grid = np.linspace(low - margin, high + margin, _GRID)
  lines = {name: density(values, grid) for name, values in samples.items()}
  true = density(targets, grid)
  columns = min(len(methods), 3)
  lines_of_panels = -(-len(methods) // columns)
  figure = new_figure(3.7 * columns, 0.6 + 2.4 * lines_of_panels)
  panels = figure.subplots(
    lines_of_panels, columns, sharex=True, sharey=True, squeeze=False
  ).ravel()
  fixed = max(lines[ORIGINAL].max(), lines[RETRAINED].max(), true.max())
  # A method that says the same of every row has a peak beyond all others.
  top = min(max(line.max() for line in lines.values()), 1.6 * fixed)
  top = 1.06 * max(top, fixed)
  for axes in panels[len(methods) :]:
    axes.set_axis_off()
  for axes, method in zip(panels, methods):
    axes.fill_between(
      grid, lines[RETRAINED], color=GREY, alpha=0.35, lw=0, label=RETRAINED
    )
    axes.plot(grid, lines[ORIGINAL], color=INK, ls=(0, (5, 2)), label=ORIGINAL)
    axes.plot(grid, true, color=INK, ls=":", lw=1, label="targets")
    axes.plot(grid, lines[method], color=BLUE, lw=2, label="after unlearning")
    axes.set_title(clean(method), fontsize=11, color=INK)
    axes.set_ylim(0, top)
    axes.set_yticks([])
    style_axes(axes, grid="x")
  for axes in panels[: len(methods)][-columns:]:
    axes.tick_params(labelbottom=True)
    axes.set_xlabel(clean(label, 60), fontsize=9)
  figure.legend(
    *panels[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=min(4, 2 * columns),
    frameon=False,
    fontsize=9,
  )
  return figure


def density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
  """A Gaussian kernel estimate of [N] on a grid [G]; 0 if nothing is finite."""
  values = values[np.isfinite(values)]
  step = grid[1] - grid[0]
  if values.size == 0:
    return np.zeros_like(grid)
  # Silverman's rule on the narrower of two measures of spread.
  quarter = np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.349
  width = 0.9 * min(values.std(), quarter) * values.size**-0.2
  width = max(width, 1.5 * step)
  edges = np.append(grid - step / 2, grid[-1] + step / 2)
  counts = np.histogram(values, edges)[0] / values.size
  kernel = np.exp(-0.5 * ((grid[:, None] - grid[None]) / width) ** 2)
  return kernel @ counts / (width * math.sqrt(2 * math.pi))
