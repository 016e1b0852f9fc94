"""Figures of synthetic tables: radar, bands, training curves, distances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxunlearn import report
from jaxunlearn.report.audit_plots import line_styles
from jaxunlearn.report.canvas import BLUE, ORANGE, clean, new_figure, style_axes

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from experiments.synthetic_tables import Outcome, Plan

COMPONENTS = (
  "basic",
  "correlation",
  "efficacy",
  "support",
  "distinguishability",
)

_LABELS = {"distinguishability": "distinguish-\nability"}


def shown_generators(plan: Plan) -> tuple[str, ...]:
  from experiments.synthetic_tables import GENUINE

  return (GENUINE, *plan.generators)


def _curve(outcome: Outcome, table: str, name: str, seeds: int) -> np.ndarray:
  """Fixed totals at the checkpoints: [seeds, T]."""
  found = [outcome.scored[table, name, seed].curve for seed in range(seeds)]
  return np.stack([c.total for c in found if c is not None])


def training_curves(
  plan: Plan, outcome: Outcome
) -> dict[tuple[str, str], np.ndarray]:
  from experiments.synthetic_tables import CURVES

  return {
    (table.name, name): _curve(outcome, table.name, name, plan.num_seeds)
    for table in plan.tables
    for name in plan.generators
    if name in CURVES
  }


def seed_mean(
  plan: Plan, outcome: Outcome, table: str, name: str, pick
) -> float:
  values = [
    float(pick(outcome.scored[table, name, seed]))
    for seed in range(plan.num_seeds)
  ]
  return float(np.mean(values))


def all_figures(
  plan: Plan, outcome: Outcome
) -> Mapping[str, tuple[Figure, str]]:
  figures = {
    "components": (
      _radar(plan, outcome),
      "The five scores of every generator, mean over seeds, defects mended "
      "(above) and as published (below). The rim is 1.",
    ),
    "bands": (
      _bands(plan, outcome),
      "TabSynDex with bands of 1.645 standard deviations over resamples of the "
      "rows, mean over seeds; full marks with defects mended, open ones as "
      "published.",
    ),
  }
  curves = training_curves(plan, outcome)
  if curves:
    stops = next(iter(curves.values())).shape[1]
    panels: dict[str, dict[str, np.ndarray]] = {}
    for (table, name), values in curves.items():
      panels.setdefault(f"TabSynDex, {table}", {})[name] = values
    figures["curves"] = (
      report.curve_panels(
        np.arange(1, stops + 1) * 100 / stops,
        panels,
        x_label="training done (%)",
      ),
      "TabSynDex, defects mended, of rows drawn on the way through the training "
      "of the VAE and of the GAN. Bands go from the lowest to the highest seed.",
    )
  figures["distances"] = (
    _distances(plan, outcome),
    "Mean distance of the forgotten rows to the nearest synthetic row, the "
    "generator fitted to all rows (open) and without them (full); the dotted "
    "line is the distance to as many genuine rows.",
  )
  return figures


def _radar(plan: Plan, outcome: Outcome) -> Figure:
  names = shown_generators(plan)
  count = len(plan.tables)
  figure = new_figure(4.2 * count, 8.6)
  grid = figure.subplots(
    2, count, squeeze=False, subplot_kw={"projection": "polar"}
  )
  angles = np.linspace(0, 2 * math.pi, len(COMPONENTS), endpoint=False)
  closed = [*angles, angles[0]]
  styles = line_styles(names, markers=False)
  for line, mode in zip(grid, ("fixed", "published")):
    for axes, table in zip(line, plan.tables):
      for name in names:
        values = [
          seed_mean(
            plan,
            outcome,
            table.name,
            name,
            lambda s, c=c, mode=mode: getattr(s.bands[mode].score, c),
          )
          for c in COMPONENTS
        ]
        axes.plot(closed, [*values, values[0]], label=name, **styles[name])
      axes.set_theta_offset(math.pi / 2)
      axes.set_xticks(angles, [_LABELS.get(c, c) for c in COMPONENTS])
      # Beside the rim, not across it.
      sides = ["center", "right", "right", "left", "left"]
      for tick, side in zip(axes.get_xticklabels(), sides):
        tick.set(horizontalalignment=side, fontsize=8)
      axes.tick_params(axis="x", pad=2)
      axes.set_ylim(0, 1)
      axes.set_yticks([0.25, 0.5, 0.75, 1], ["", "0.5", "", "1"], fontsize=7)
      axes.set_title(f"{clean(table.name)}, {mode}", fontsize=10, pad=16)
  handles, labels = grid[0, 0].get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc="outside lower center",
    ncols=min(6, len(names)) if count > 1 else 3,
    frameon=False,
    fontsize=9,
  )
  return figure


def _bands(plan: Plan, outcome: Outcome) -> Figure:
  names = shown_generators(plan)
  return _dots(
    plan,
    names,
    {
      mode: lambda table, name, mode=mode: tuple(
        seed_mean(
          plan,
          outcome,
          table,
          name,
          lambda s, part=part: getattr(s.bands[mode], part).total,
        )
        for part in ("score", "low", "high")
      )
      for mode in ("fixed", "published")
    },
    "TabSynDex",
  )


def _distances(plan: Plan, outcome: Outcome) -> Figure:
  from experiments.synthetic_tables import GENUINE

  def of(which: int):
    def value(table: str, name: str) -> tuple[float, float, float]:
      all_seeds = [
        float(outcome.scored[table, name, seed].distances[0, which])
        for seed in range(plan.num_seeds)
      ]
      return float(np.mean(all_seeds)), min(all_seeds), max(all_seeds)

    return value

  figure = _dots(
    plan,
    plan.generators,
    {"without the request": of(1), "all rows": of(0)},
    "distance to the nearest synthetic row",
  )
  for axes, table in zip(figure.axes, plan.tables):
    axes.axvline(
      of(0)(table.name, GENUINE)[0], color="#222222", linestyle=":", linewidth=1
    )
  return figure


def _dots(plan: Plan, names, series, label: str) -> Figure:
  """A panel a table: a line a name, a mark with its band a series."""
  figure = new_figure(4.2 * len(plan.tables) + 0.8, 0.42 * len(names) + 1.5)
  grid = figure.subplots(1, len(plan.tables), squeeze=False, sharey=True)[0]
  for axes, table in zip(grid, plan.tables):
    for i, (title, value) in enumerate(series.items()):
      places = np.arange(len(names)) + (0.15 if i else -0.15)
      middle, low, high = np.array([value(table.name, n) for n in names]).T
      colour = ORANGE if i else BLUE
      axes.errorbar(
        middle,
        places,
        xerr=np.maximum([middle - low, high - middle], 0),
        fmt="o",
        color=colour,
        markerfacecolor="white" if i else colour,
        markersize=5,
        linewidth=1.4,
        label=title,
      )
    axes.set_yticks(np.arange(len(names)), [clean(n) for n in names])
    axes.set_title(clean(table.name), fontsize=10, loc="left")
    style_axes(axes, grid="x")
    axes.set_xlabel(label, fontsize=9)
  grid[0].invert_yaxis()
  handles, labels = grid[0].get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc="outside lower center",
    ncols=2,
    frameon=False,
    fontsize=9,
  )
  return figure
