"""Heat maps events x tasks, and curves over events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import continual_data
from experiments.continual_definitions import DEFINITIONS
from jaxunlearn import report
from jaxunlearn.continual import metrics as stream_metrics
from jaxunlearn.report.canvas import INK, ORANGE, blues, clean, new_figure

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

  from experiments.continual import Outcome, Plan


def _first_lane(plan: Plan, stream: int) -> int:
  return stream * plan.num_seeds


def texts(plan: Plan, stream: int) -> list[str]:
  """The events of a stream's first seed."""
  lane = _first_lane(plan, stream)
  events = plan.lanes.events[lane][: plan.lanes.num_events[lane]]
  return [continual_data.words(event) for event in events]


def _lanes_of(plan: Plan, stream: int) -> slice:
  return slice(stream * plan.num_seeds, (stream + 1) * plan.num_seeds)


def figures(
  plan: Plan, outcome: Outcome, summary: report.Summary
) -> dict[str, tuple[Figure, str]]:
  figures = {
    "accuracy": (
      report.accuracy_bars(
        summary,
        ("forget_test_accuracy", "request_accuracy", "retain_test_accuracy"),
        definitions=DEFINITIONS,
      ),
      "Test accuracy on forgotten tasks after the last event and right after "
      "the request, and on the tasks kept; mean over streams. The aim is to "
      "meet the dashed line, not to be lowest.",
    )
  }
  for number, name in enumerate(plan.stream_names):
    figures[f"map_{name}"] = (
      _heat_maps(plan, outcome, number),
      f"Stream {name}: test accuracy on every task (down) after every event "
      "(across), mean over seeds. Framed: what should be forgotten. Grey: what "
      "has not come yet. A perfect learner looks like retrained.",
    )
    figures[f"curves_{name}"] = (
      _curves(plan, outcome, number),
      f"Stream {name}: accuracy on tasks to be known, on tasks forgotten and gap "
      "to the retrained model after every event. Dashed: retraining. Bands go "
      "from the lowest to the highest seed.",
    )
  return figures


def _shown_lanes(plan: Plan, stream: int) -> slice:
  """All seeds, or the first where each has a stream of its own."""
  lanes = _lanes_of(plan, stream)
  if plan.stream_names[stream] == "random":
    return slice(lanes.start, lanes.start + 1)
  return lanes


def _curves(plan: Plan, outcome: Outcome, stream: int) -> Figure:
  lanes = _shown_lanes(plan, stream)
  count = plan.lanes.num_events[lanes.start]
  panels = {
    "test accuracy, kept tasks (%)": "retained",
    "test accuracy, forgotten tasks (%)": "forgotten",
    "gap to retrained (points)": "gap",
  }
  return report.curve_panels(
    np.arange(1, count + 1),
    {
      label: {
        name: 100 * found.curves[key][lanes, :count]
        for name, found in outcome.compared.items()
      }
      for label, key in panels.items()
    },
    x_label="event",
  )


def _heat_maps(plan: Plan, outcome: Outcome, stream: int) -> Figure:
  """A panel a row of the results, the retrained model first."""
  lanes = _shown_lanes(plan, stream)
  count = plan.lanes.num_events[lanes.start]
  status = plan.lanes.status[lanes.start, :count].T
  names = ["retrained", *(n for n in outcome.measured if n != "retrained")]
  columns = min(4 if count <= 10 else 3, len(names))
  lines = math.ceil(len(names) / columns)
  width, height = 0.36 * count + 0.5, 0.3 * plan.tasks.num_tasks + 0.75
  figure = new_figure(columns * width + 1.2, lines * height + 0.3)
  grid = figure.subplots(lines, columns, squeeze=False).ravel()
  for axes, name in zip(grid, names):
    found = outcome.measured[name].accuracy[lanes, :count]
    share = 100 * found.mean(axis=0).T
    image = _heat_map(axes, share, status, texts(plan, stream))
    axes.set_title(clean(name), fontsize=10, color=INK, loc="left")
  for axes in grid[len(names) :]:
    axes.set_axis_off()
  figure.supylabel("task", fontsize=10, color=INK)
  bar = figure.colorbar(image, ax=list(grid), shrink=0.6, pad=0.01, aspect=30)
  bar.set_label("test accuracy (%)", fontsize=9, color=INK)
  bar.ax.tick_params(labelsize=8)
  bar.outline.set_visible(False)  # type: ignore[operator]
  return figure


def _heat_map(
  axes: Axes, share: np.ndarray, status: np.ndarray, events: list[str]
) -> Any:
  from matplotlib.patches import Rectangle

  shown = np.where(status == stream_metrics.UNSEEN, np.nan, share)
  image = axes.imshow(shown, vmin=0, vmax=100, cmap=blues(), aspect="auto")
  for (task, event), value in np.ndenumerate(shown):
    if math.isfinite(value):
      axes.text(
        event,
        task,
        f"{value:.0f}",
        ha="center",
        va="center",
        fontsize=7,
        color="white" if value > 55 else INK,
      )
    if status[task, event] == stream_metrics.FORGOTTEN:
      axes.add_patch(
        Rectangle(
          (event - 0.46, task - 0.46),
          0.92,
          0.92,
          fill=False,
          edgecolor=ORANGE,
          linewidth=1.4,
        )
      )
  is_long = max(map(len, events)) > 3
  axes.set_xticks(
    range(len(events)), events, fontsize=8, rotation=90 if is_long else 0
  )
  axes.set_yticks(
    range(len(share)), [str(t) for t in range(len(share))], fontsize=8
  )
  axes.tick_params(length=0)
  for spine in axes.spines.values():
    spine.set_visible(False)
  return image
