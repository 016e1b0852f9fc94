"""Charts of how numbers are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from jaxunlearn.report import charts, draw
from jaxunlearn.report.charts import BLUE, GREEN, GREY, ORANGE, Chart
from jaxunlearn.report.line_charts import finite, line_rows
from jaxunlearn.report.results import ORIGINAL, REFERENCES, RETRAINED

_GROUPS = {"forget": ORANGE, "retain": BLUE, "unseen": GREEN}
_GRID = 240


def score_histograms(
  scores: Mapping[str, Mapping[str, Any]],
  *,
  bins: int = 40,
  x_label: str = "score",
) -> Chart:
  """A panel per model with the scores of its groups of rows.

  Args:
    scores: model -> group ("forget", "retain", "unseen" or names of your own)
      -> scores, an array of any shape; what is not finite is left out.
    bins: of all panels alike.
    x_label: what the score is.

  Returns:
    The chart. Heights are shares of the group, so that groups of different
    sizes compare; the axes hold 99 % of all scores, the ends gather the rest.

  Raises:
    ValueError: bins < 1.

  Example:
    >>> from jaxunlearn import report
    >>> scores = {"finetune": {"forget": [0.1, 0.2], "unseen": [0.1, 0.9]}}
    >>> chart = report.score_histograms(scores, bins=4)
    >>> len(chart.panels)
    2
  """
  if bins < 1:
    raise ValueError(f"Expected bins >= 1, got {bins}.")
  found: dict[str, dict[str, np.ndarray]] = {}
  for model, groups in scores.items():
    kept = {group: finite(values) for group, values in groups.items()}
    kept = {group: v for group, v in kept.items() if v.size}
    if kept:
      found[model] = kept
  if not found:
    return charts.message("No score was recorded.")
  every = np.concatenate([v for g in found.values() for v in g.values()])
  low, high = np.quantile(every, [0.005, 0.995])
  if not high > low:
    low, high = low - 0.5, high + 0.5
  edges = np.linspace(low, high, bins + 1)
  names = list(dict.fromkeys(g for groups in found.values() for g in groups))
  names.sort(key=lambda n: (n not in _GROUPS, list(_GROUPS).index(n) if n in _GROUPS else 0))  # fmt: skip
  free = [c for c in charts.PALETTE if c not in _GROUPS.values()]
  own = [name for name in names if name not in _GROUPS]
  styles = {
    n: (_GROUPS[n] if n in _GROUPS else free[own.index(n) % len(free)], [1, 0])
    for n in names
  }
  panels = []
  for model, groups in found.items():
    rows = []
    for group, values in groups.items():
      counts, _ = np.histogram(np.clip(values, low, high), edges)
      shares = 100 * counts / len(values)
      rows += [
        {"method": group, "label": f"{model}: {group}", "x": x, "value": v}
        for x, v in zip(edges, [*shares, shares[-1]])
      ]
    panels.append(
      draw.lines(
        rows,
        model,
        styles,
        filled=names,
        interpolate="step-after",
        x_title=x_label,
        y_title="% of the group",
        size=(210, 110),
      )
    )
  return Chart((*panels, charts.legend(styles)))


def density_panels(
  samples: Mapping[str, Any], targets: Any, label: str
) -> Chart:
  """A panel per method: the density of its numbers, the aim and the start.

  Args:
    samples: float [N] by method, "original" and "retrained" among them; what is
      not finite is left out.
    targets: float [M], true values, dotted.
    label: of the axis.

  Returns:
    The chart: the retrained model as a grey area, the original dotted.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import report
    >>> names = ("original", "retrained", "finetune")
    >>> samples = {name: np.arange(9.0) for name in names}
    >>> chart = report.density_panels(samples, np.arange(9.0), "age")
    >>> len(chart.panels)
    2
  """
  targets = np.asarray(targets, np.float64)
  sides = [finite(v) for v in (targets, samples[ORIGINAL], samples[RETRAINED])]
  low, high = np.quantile(np.concatenate(sides), [0.002, 0.998])
  margin = 0.12 * (high - low)
  grid = np.linspace(low - margin, high + margin, _GRID)
  lines = {n: density(np.asarray(v), grid) for n, v in samples.items()}
  true = density(targets, grid)
  fixed = max(lines[ORIGINAL].max(), lines[RETRAINED].max(), true.max())
  # A method that says the same of every row has a peak beyond all others.
  top = min(max(line.max() for line in lines.values()), 1.6 * fixed)
  top = 1.06 * max(top, fixed)
  marks = {
    **{RETRAINED: (GREY, [1, 0]), ORIGINAL: (charts.INK, [1, 2])},
    "targets": (charts.AMBER, [6, 2]),
  }
  shown = {
    RETRAINED: lines[RETRAINED],
    ORIGINAL: lines[ORIGINAL],
    "targets": true,
  }
  fixed_rows = [
    *chain(*(line_rows(n, grid, v[None]) for n, v in shown.items()))
  ]
  panels = [
    draw.lines(
      [*fixed_rows, *line_rows(name, grid, line[None])],
      name,
      {**marks, name: (BLUE, [1, 0])},
      filled=[RETRAINED],
      domains={"y": (0, top)},
      x_title=label,
      size=(210, 110),
    )
    for name, line in lines.items()
    if name not in REFERENCES
  ]
  return Chart(
    (*panels, charts.legend({**marks, "the method": (BLUE, [1, 0])}))
  )


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
