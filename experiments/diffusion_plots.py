"""Figures of an audit of diffusion models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.diffusion_beds import DOMAINS
from experiments.diffusion_definitions import DEFINITIONS
from experiments.diffusion_measure import PSI_MAX, PSIS
from jaxunlearn import report
from jaxunlearn.report.canvas import (
  BLUE,
  GREY,
  INK,
  ORANGE,
  blues,
  clean,
  new_figure,
  style_axes,
)

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from experiments.audit_diffusion import Outcome, Plan

_PER_CELL = 3


def figures(
  plan: Plan,
  outcome: Outcome,
  summary: report.Summary,
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[Figure, str]]:
  """All of them with their captions, in the report's order."""
  concept = plan.study.concept
  return {
    "generations": (
      _generations(outcome),
      f"Images for prompts of {concept.name}, the same noise in every row. Left "
      "what a model draws by itself: the row original is before unlearning, the "
      "others after it. To the right the original model made the first share psi "
      "of the steps. What the retrained row shows too is no sign of concealment.",
    ),
    "curves": (
      report.curve_panels(
        np.array(PSIS),
        {
          f"{concept.name} recognised (%)": _lines(outcome, "curve", 100),
          "CRS by psi": _lines(outcome, "crs"),
          "CCS by psi": _lines(outcome, "ccs"),
        },
        x_label="share psi of steps by the original model",
      ),
      "Left, how often the concept is recognised in images that the original "
      "model began and the unlearned one finished; dashed, finished by the "
      "retrained model. Above it is concealment, up to psi = "
      f"{PSI_MAX:g}. Middle and right the scores of arXiv:2409.05668 at each psi. "
      "Bands go from the lowest to the highest seed.",
    ),
    "excess": (
      _excess(summary, rows),
      "Mean excess over the retrained model's curve up to psi = "
      f"{PSI_MAX:g}: dots are seeds, bars 95 % intervals of their mean. To the "
      "right of zero the concept was concealed rather than removed.",
    ),
    "scores": (
      report.accuracy_bars(
        summary, ("ua", "ira", "cra"), definitions=DEFINITIONS
      ),
      "UA: images of the concept's prompts that do not show it; IRA: other "
      "labels of its domain, drawn right; CRA: labels of the other domain.",
    ),
    "labels": (
      _labels(plan, outcome),
      "How often each label is recognised in images of the prompts that name it, "
      "mean over seeds. Framed: the concept.",
    ),
  }


def _lines(outcome: Outcome, name: str, scale: float = 1):
  return {
    method: scale * found[f"{name}_forget"]
    for method, found in outcome.found.items()
    if method != "original" or name == "curve"
  }


def _generations(outcome: Outcome) -> Figure:
  """Rows of models, columns of psi, a few images a cell; the first seed."""
  methods = list(outcome.found)
  columns = [i for i, psi in enumerate(PSIS) if psi <= PSI_MAX + 1e-6]
  figure = new_figure(1.4 + 1.45 * len(columns), 0.35 + 0.55 * len(methods))
  grid = figure.subplots(
    len(methods), len(columns), squeeze=False, gridspec_kw={"wspace": 0.12}
  )
  for row, method in enumerate(methods):
    shown = outcome.found[method]["shown"][0]
    for column, psi in enumerate(columns):
      axes = grid[row, column]
      images = np.clip((shown[psi][:_PER_CELL] + 1) / 2, 0, 1)
      edge = np.ones((*images.shape[1:2], 1, 3))
      strip = [part for image in images for part in (image, edge)][:-1]
      if np.isfinite(images).all():
        axes.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
      axes.set_xticks([])
      axes.set_yticks([])
      for spine in axes.spines.values():
        spine.set_visible(False)
      if row == 0:
        title = f"psi = {PSIS[psi]:g}" if PSIS[psi] else "by itself"
        axes.set_title(title, fontsize=9, color=INK)
    grid[row, 0].set_ylabel(
      clean(method), rotation=0, ha="right", va="center", fontsize=9, color=INK
    )
  return figure


def _excess(
  summary: report.Summary, rows: Sequence[Mapping[str, Any]]
) -> Figure:
  from experiments.diffusion_output import interval

  attacked = {row["method"] for row in rows if np.isfinite(row["excess"])}
  methods = [m for m in ("original", *summary.candidates) if m in attacked]
  figure = new_figure(8, 1.0 + 0.32 * len(methods))
  axes = figure.subplots()
  for place, method in enumerate(methods):
    found = 100 * np.array([r["excess"] for r in rows if r["method"] == method])
    colour = GREY if method == "original" else BLUE
    low, high = interval(found)
    if np.isfinite(low):
      axes.plot(
        [low, high], [place, place], color=colour, linewidth=3, alpha=0.35
      )
    axes.plot(
      found, np.full(len(found), place), "o", color=colour, markersize=4
    )
    axes.plot(found.mean(), place, "|", color=colour, markersize=14)
  axes.axvline(0, color=INK, linestyle="--", linewidth=1.2)
  axes.set_yticks(range(len(methods)), [clean(m) for m in methods], fontsize=9)
  axes.set_ylim(len(methods) - 0.4, -0.6)
  left, right = axes.get_xlim()
  axes.set_xlim(max(left, -100), min(right, 100))
  axes.set_xlabel("excess over the retrained model (points)", fontsize=10)
  style_axes(axes, grid="x")
  axes.tick_params(axis="y", length=0)
  return figure


def _labels(plan: Plan, outcome: Outcome) -> Figure:
  """Methods down, objects and styles across."""
  from matplotlib.patches import Rectangle

  names = plan.study.bed.names
  words = [word for domain in DOMAINS for word in names[domain]]
  methods = list(outcome.found)
  share = 100 * np.array(
    [np.nanmean(outcome.found[m]["rates"], axis=0) for m in methods]
  )
  figure = new_figure(2.2 + 0.45 * len(words), 1.2 + 0.3 * len(methods))
  axes = figure.subplots()
  image = axes.imshow(share, vmin=0, vmax=100, cmap=blues(), aspect="auto")
  for (row, column), value in np.ndenumerate(share):
    axes.text(
      column,
      row,
      f"{value:.0f}",
      ha="center",
      va="center",
      fontsize=8,
      color="white" if value > 55 else INK,
    )
  concept = plan.study.concept
  first = 0 if concept.domain == "object" else len(names["object"])
  axes.add_patch(
    Rectangle(
      (first + concept.index - 0.5, -0.5),
      1,
      len(methods),
      fill=False,
      edgecolor=ORANGE,
      linewidth=1.8,
      clip_on=False,
    )
  )
  axes.set_xticks(
    range(len(words)), [clean(w, 14) for w in words], rotation=60, ha="right"
  )
  axes.set_yticks(range(len(methods)), [clean(m) for m in methods])
  axes.tick_params(length=0, labelsize=9)
  for spine in axes.spines.values():
    spine.set_visible(False)
  bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.01)
  bar.set_label("recognised (%)", fontsize=9, color=INK)
  bar.outline.set_visible(False)  # type: ignore[operator]
  return figure
