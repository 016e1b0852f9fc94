"""From what was forgotten of a regression to files, figures and the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

from experiments import common
from jaxunlearn import report
from jaxunlearn.report.canvas import (
  BLUE,
  GREY,
  INK,
  clean,
  new_figure,
  style_axes,
)
from jaxunlearn.report.files import plain
from jaxunlearn.report.tables import make_grid

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from experiments.forget_regression import Outcome, Plan

BARS = ("forget_test_mae", "retain_test_mae", "wasserstein", "membership_share")
# Label, explanation and direction of what is measured against other models.
_AGAINST = {
  "forget_test_change": (
    "Error, forgotten kind",
    "Error on test rows of the forgotten kind against the retrained model's.",
    report.NEAREST,
  ),
  "retain_test_change": (
    "Error, kept kind",
    "Error on test rows of the kept kind against the retrained model's.",
    report.NEAREST,
  ),
  "wasserstein_share": (
    "W1 of the original's",
    "Distance W1 to the retrained model over that of the original model.",
    report.LOWER,
  ),
  "membership_change": (
    "Called members, difference",
    "Share called members minus the retrained model's.",
    report.NEAREST,
  ),
}
_SHORT = {
  "forget_test_mae": "Test error, forgotten",
  "retain_test_mae": "Test error, kept",
}
_GRID = 240
_PARTS = {
  "forget": "training rows to be forgotten",
  "retain": "training rows to be kept",
  "forget_test": "test rows of the kind that is forgotten",
  "retain_test": "test rows of the kind that is kept",
  "test": "all test rows",
}
_LABELS = {
  "forget": "forget",
  "retain": "retain",
  "forget_test": "test, forgotten kind",
  "retain_test": "test, kept kind",
  "test": "test",
}
_HEADLINES = ("forget_mae", "forget_test_mae", "retain_test_mae")


def definitions(unit: str) -> tuple[report.Metric, ...]:
  """How to show each number, errors in the targets' unit."""
  errors = []
  for kind, words in (("mae", "absolute"), ("mse", "squared")):
    for part, rows in _PARTS.items():
      name = f"{part}_{kind}"
      is_forget = part.startswith("forget")
      errors.append(
        report.Metric(
          name,
          f"{kind.upper()}, {_LABELS[part]}",
          f"Mean {words} error on {rows}."
          + (" The aim is the retrained model's." if is_forget else ""),
          unit if kind == "mae" else f"{unit}²",
          2,
          report.NEAREST,
          headline=name in _HEADLINES,
        )
      )
  gap = next(m for m in report.METRICS if m.name == "retrained_gap")
  steps = next(m for m in report.METRICS if m.name == "relearn_steps")
  return (
    *report.METRICS,
    *errors,
    report.Metric(
      "wasserstein",
      "W1 to retrained",
      "How far the predictions on the rows to be forgotten would have to be "
      "moved to be distributed like those of the retrained model of the same "
      "seed (Wasserstein-1).",
      unit,
      2,
      report.LOWER,
      headline=True,
    ),
    report.Metric(
      "relative_difference",
      "Relative difference",
      "Median over the rows to be forgotten of the difference between the "
      "prediction and the retrained model's, over the target's size.",
      "%",
      1,
      report.LOWER,
    ),
    gap._replace(
      explanation="Mean over four errors (training and test rows, forgotten and "
      "kept) of how far they are from the retrained model's, in shares of those.",
      unit="%",
    ),
    *(
      report.Metric(name, label, text, "%", 1, direction, is_shared=False)
      for name, (label, text, direction) in _AGAINST.items()
    ),
    steps._replace(
      explanation="Training steps on all rows until the loss on held-out rows of "
      "the forgotten kind is within 5 % of the original model's, at least 1. The "
      "limit where it did not get there.",
    ),
  )


_NOTES = (
  "finetune_long is given all steps that blindspot has, those of the blindspot "
  "model included, at the rate of training; finetune those of its student.",
  "Each seed has its own original, retrained and blindspot model; the original "
  "and the retrained one start from the same weights.",
  "Called members: an SVC on absolute errors that learned from training and test "
  "rows (arXiv:2210.08196). Rows of a forgotten range are unlike the test rows "
  "that it learned from; compare with the retrained model, not with a half. The "
  "membership AUC compares them with test rows of their own kind.",
  "Run time is that of one request and one seed: the time of the program that "
  "serves all of them divided by their number.",
)


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, plots and the report into a folder."""
  study, options = plan.study, plan.options
  config = {
    **dataclasses.asdict(options),
    "requests": study.requests.names,
    "seeds": study.seeds,
    "forget_rows": study.requests.masks.sum(axis=1),
    "forget_test_rows": study.requests.test_masks.sum(axis=1),
    "train_rows": len(study.table.train["label"]),
    "test_rows": len(study.table.test["label"]),
    "unit": study.table.unit,
    "recipe": study.recipe._asdict(),
    "seed_noise_wasserstein": outcome.noise,
    "environment": common.environment(),
  }
  results = report.Results(
    "forget_regression",
    options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    _rows(plan, outcome),
  )
  known = definitions(study.table.symbol)
  summary = report.summarise(results.rows)
  report.write_report(
    folder,
    results,
    figures=_figures(plan, outcome, results.rows),
    title=f"Forgetting a part of {options.data} in regression",
    lead=(
      f"Predicted is the {study.table.target}, in {study.table.unit}. Each "
      "method is asked to forget the rows of a request; a good one predicts them "
      "as a model does that was trained without them, which is worse than "
      "before but not as badly as possible, and the other rows as well as ever."
    ),
    notes=_NOTES,
    comparisons=_comparisons(summary, known),
    more_findings=_findings(plan, outcome, results.rows),
    definitions=known,
  )
  return summary


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """A table a request, and where the rest is."""
  known = definitions(plan.study.table.symbol)
  columns = [*BARS[:3], "membership_share", "retrained_gap", "seconds_run"]
  for request in summary.requests:
    console.print(
      report.rich_table(
        summary, columns, request=request, definitions=known, title=request
      )
    )
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def _rows(plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
  study, measured = plan.study, outcome.measured
  of_request, of_seed = study.lanes
  theirs = measured["retrained"].metrics
  before = measured["original"].metrics["wasserstein"]
  against = {
    method: {
      "forget_test_change": own["forget_test_mae"] / theirs["forget_test_mae"]
      - 1,
      "retain_test_change": own["retain_test_mae"] / theirs["retain_test_mae"]
      - 1,
      "wasserstein_share": own["wasserstein"] / before,
      "membership_change": own["membership_share"] - theirs["membership_share"],
    }
    for method, (own, _) in measured.items()
  }
  return [
    {
      "method": method,
      "request": study.requests.names[int(request)],
      "seed": int(study.seeds[seed]),
      "seconds_compile": outcome.seconds[method][0],
      "seconds_run": outcome.seconds[method][1],
      **{
        name: float(v[lane])
        for name, v in {**found.metrics, **against[method]}.items()
      },
    }
    for method, found in measured.items()
    for lane, (request, seed) in enumerate(zip(of_request, of_seed))
  ]


def _findings(plan: Plan, outcome: Outcome, rows) -> list[str]:
  """What of a distance is chance, request by request."""
  sentences = []
  for request, noise in zip(plan.study.requests.names, outcome.noise):
    before = np.mean(
      [
        row["wasserstein"]
        for row in rows
        if row["method"] == "original" and row["request"] == request
      ]
    )
    if math.isfinite(noise):
      sentences.append(
        f"{request}: the distance W1 between retrained models of two seeds is "
        f"{noise:.3g} {plan.study.table.symbol}, from the original to the "
        f"retrained model {before:.3g}."
      )
  return sentences


def _comparisons(summary: report.Summary, known) -> list[report.Comparison]:
  """How far from the retrained model, a table a request."""
  return [
    report.Comparison(
      f"Against the retrained model: {request}",
      "Of each seed against its own retrained model, then mean and standard "
      "deviation. A method should have 0 everywhere; a W1 of 100 % is no nearer "
      "than the original model.",
      make_grid(summary, tuple(_AGAINST), request=request, definitions=known),
    )
    for request in summary.requests
  ]


def _figures(
  plan: Plan, outcome: Outcome, rows
) -> Mapping[str, tuple[Figure, str]]:
  study = plan.study
  known = definitions(study.table.symbol)
  # Four panels side by side have no room for long titles.
  known = tuple(m._replace(label=_SHORT.get(m.name, m.label)) for m in known)
  figures = {}
  for i, request in enumerate(study.requests.names):
    own = [row for row in rows if row["request"] == request]
    figures[f"densities_{i}"] = (
      _densities(plan, outcome, i),
      f"{request}: predictions on the rows to be forgotten, all seeds together. "
      "A method should carry its line from the dashed one (the original, before) "
      "onto the grey area (the retrained model). Dotted, the true targets.",
    )
    figures[f"bars_{i}"] = (
      report.accuracy_bars(report.summarise(own), BARS, definitions=known),
      f"{request}: means and standard deviations over seeds. On the forgotten "
      "kind the retrained model's error is the aim, no larger one.",
    )
  return figures


def _densities(plan: Plan, outcome: Outcome, request: int) -> Figure:
  """A panel a method: how its predictions on the forget set are spread."""
  study, table = plan.study, plan.study.table
  own = study.lanes[0] == request
  mask = study.requests.masks[request]
  spread = {
    name: found.outputs[own][:, mask].ravel()
    for name, found in outcome.measured.items()
  }
  targets = np.asarray(table.columns["target"], np.float64)[mask]
  sides = [targets, spread["original"], spread["retrained"]]
  every = np.concatenate([v[np.isfinite(v)] for v in sides])
  low, high = np.quantile(every, [0.002, 0.998])
  margin = 0.12 * (high - low)
  grid = np.linspace(low - margin, high + margin, _GRID)
  lines = {name: _density(values, grid) for name, values in spread.items()}
  true = _density(targets, grid)
  columns = min(len(plan.methods), 3)
  lines_of_panels = -(-len(plan.methods) // columns)
  figure = new_figure(3.7 * columns, 0.6 + 2.4 * lines_of_panels)
  panels = figure.subplots(
    lines_of_panels, columns, sharex=True, sharey=True, squeeze=False
  )
  fixed = max(lines["original"].max(), lines["retrained"].max(), true.max())
  # A method that says the same of every row has a peak beyond all others.
  top = min(max(line.max() for line in lines.values()), 1.6 * fixed)
  top = 1.06 * max(top, fixed)
  for axes in panels.ravel()[len(plan.methods) :]:
    axes.set_axis_off()
  for axes, method in zip(panels.ravel(), plan.methods):
    axes.fill_between(
      grid, lines["retrained"], color=GREY, alpha=0.35, lw=0, label="retrained"
    )
    axes.plot(
      grid, lines["original"], color=INK, ls=(0, (5, 2)), label="original"
    )
    axes.plot(grid, true, color=INK, ls=":", lw=1, label="targets")
    axes.plot(grid, lines[method], color=BLUE, lw=2, label="after unlearning")
    axes.set_title(clean(method), fontsize=11, color=INK)
    axes.set_ylim(0, top)
    axes.set_yticks([])
    style_axes(axes, grid="x")
  for axes in panels.ravel()[: len(plan.methods)][-columns:]:
    axes.tick_params(labelbottom=True)
    axes.set_xlabel(clean(f"prediction ({table.symbol})", 60), fontsize=9)
  handles, labels = panels[0, 0].get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc="outside lower center",
    ncols=min(4, 2 * columns),
    frameon=False,
    fontsize=9,
  )
  return figure


def _density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
  """A Gaussian kernel estimate; of what is not finite, nothing."""
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
