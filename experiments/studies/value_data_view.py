"""From values of rows to words, figures and a table of all of them."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.bench import Evidence, Plan, table
from jaxunlearn import report
from jaxunlearn.report.canvas import clean, new_figure

if TYPE_CHECKING:
  from matplotlib.figure import Figure

REMOVED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
ADDED = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SHOWN_COLUMNS = (
  "noise_f1",
  "noise_auc",
  "high_removal_accuracy",
  "low_removal_accuracy",
  "test_accuracy",
  "num_trainings",
  "seconds_run",
)
_EXAMPLES = 10  # At each end.
_TABLE_COLUMNS = 5
_BEST = "ecoval_additive"  # Whose examples are shown.
_HIGH, _LOW = report.HIGHER, report.LOWER
COLUMNS = (
  table.shared("test_accuracy"),
  report.Metric(
    "noise_f1",
    "F1, flipped labels",
    "How well the lower of two groups of values (two means) is the rows with "
    "flipped labels; the share of flips is not told.",
    *("%", 1, _HIGH, True),
  ),
  report.Metric(
    "noise_precision",
    "Flipped among the lowest",
    "Share of flipped labels among as many lowest values as there are flips.",
    *("%", 1, _HIGH),
  ),
  report.Metric(
    "noise_auc",
    "AUC, flipped labels",
    "Chance that a row with a flipped label has a lower value than one without.",
    *("", 3, _HIGH, True),
  ),
  report.Metric(
    "high_removal_accuracy",
    "Best removed",
    "Test accuracy without the most valuable 5 to 50 %, mean; lower is better, "
    "against random.",
    *("%", 1, _LOW, True),
  ),
  report.Metric(
    "low_removal_accuracy",
    "Worst removed",
    "Test accuracy without the least valuable 5 to 50 %, mean; higher is better.",
    *("%", 1, _HIGH, True),
  ),
  report.Metric(
    "high_addition_accuracy",
    "On the best alone",
    "Test accuracy on the most valuable 2 to 50 % alone, mean.",
    *("%", 1, _HIGH),
  ),
  report.Metric(
    "low_addition_accuracy",
    "On the worst alone",
    "Test accuracy on the least valuable 2 to 50 % alone, mean.",
    *("%", 1, _LOW),
  ),
  report.Metric(
    "num_trainings",
    "Models trained",
    "How many models an estimate cost.",
    *("", 0, _LOW, True),
  ),
)
NOTES = (
  "original: the model of all rows, flipped labels and all. retrained: the model "
  "of the rows whose labels were not flipped, what perfect detection would give. "
  "Training has nothing random, so that retrained_again is the same model. A "
  "method's test accuracy is that of the model trained without its lowest values, "
  "as many as labels were flipped.",
  "The utility is the log-likelihood of logistic regression on validation rows; "
  "test rows serve to measure what the values are good for, no estimator sees "
  "them. Each seed has a division of the rows of its own, and other flips.",
  "EcoVal is a reconstruction: the paper's production function and its rules were "
  "not at hand. Its quality is the confidence of one model, its values are means "
  "over three clusterings. The number of clusters was chosen on digits and Adult "
  "themselves.",
  "tmc_shapley_20: truncated Monte-Carlo Shapley with 20 permutations, and so on; "
  "in pairs that mirror each other, but for 5, which have none.",
)


def lead(plan: Plan) -> str:
  return (
    f"{100 * plan.options.noise:g} % of the labels of "
    f"{plan.requests.forget.shape[-1]} training rows of {plan.options.data} were "
    f"flipped. {len(plan.methods)} estimators say what every row is worth, with "
    f"{len(plan.seeds)} seeds, each with other rows and other flips. A good one "
    "puts the flipped rows last; without its best rows the model is worse, "
    "without its worst ones better."
  )


def _budgets(plan: Plan) -> dict[str, int]:
  """Permutations of truncated Shapley by name."""
  names = [m for m in plan.methods if m.startswith("tmc_shapley_")]
  return {name: plan.settings[name]["num_permutations"] for name in names}


def _ecovals(plan: Plan) -> list[str]:
  return [m for m in plan.methods if m.startswith("ecoval")]


def findings(evidence: Evidence) -> list[str]:
  """EcoVal beside Shapley, and everything beside random numbers."""
  plan, told = evidence.plan, []
  overall = report.summarise(evidence.rows).overall
  value = lambda method, name: overall[method][name].mean
  budgets = _budgets(plan)
  for name in _ecovals(plan) if budgets else ():
    words = [
      f"with {count} permutations {100 * value(other, 'noise_f1'):.1f} % in "
      f"{value(other, 'seconds_run') / value(name, 'seconds_run'):.1f} times the "
      "time"
      for other, count in budgets.items()
    ]
    told.append(
      f"{name} finds flipped labels with F1 "
      f"{100 * value(name, 'noise_f1'):.1f} %; truncated Monte-Carlo Shapley "
      f"{', '.join(words)}."
    )
  for name in plan.methods if "random" in plan.methods else ():
    high, low = (
      100 * (value(name, column) - value("random", column))
      for column in ("high_removal_accuracy", "low_removal_accuracy")
    )
    if name != "random":
      told.append(
        f"{name}, against removing rows at random: {high:+.1f} points of test "
        f"accuracy without its best rows, {low:+.1f} without its worst."
      )
  return told


def curves(evidence: Evidence) -> dict[str, tuple[Figure, str]]:
  """Test accuracy over the rows removed, and over those trained on."""

  def panels(name: str, *titles: str):
    return {
      f"test accuracy (%), {title}": {
        method: 100 * evidence.found[method].values[name][:, side]
        for method in evidence.plan.methods
      }
      for side, title in enumerate(titles)
    }

  return {
    "removal": (
      report.curve_panels(
        100 * np.array(REMOVED),
        panels("removal", "best removed", "worst removed"),
        x_label="rows removed (%)",
      ),
      "Rows are removed, the most valuable first (left, lower is better) or the "
      "least valuable first (right, higher is better), and a model is trained on "
      "the rest. Bands go from the lowest to the highest seed.",
    ),
    "addition": (
      report.curve_panels(
        100 * np.array(ADDED),
        panels("addition", "on the best", "on the worst"),
        x_label="rows trained on (%)",
      ),
      "A model trained on the most valuable rows alone (left, higher is better) "
      "or on the least valuable ones (right, lower is better).",
    ),
  }


def budget(evidence: Evidence) -> dict[str, tuple[Figure, str]]:
  """What more permutations buy truncated Shapley, beside EcoVal."""
  budgets = _budgets(evidence.plan)
  if len(budgets) < 2:
    return {}
  titles = {
    "noise_f1": "F1, flipped labels (%)",
    "high_removal_accuracy": "test accuracy (%), best removed",
    "low_removal_accuracy": "test accuracy (%), worst removed",
  }
  of = lambda method, column: 100 * evidence.found[method].values[column]
  panels = {
    title: {
      "tmc_shapley": np.stack([of(m, column) for m in budgets], axis=1),
      **{
        name: np.tile(of(name, column)[:, None], len(budgets))
        for name in _ecovals(evidence.plan)
      },
    }
    for column, title in titles.items()
  }
  return {
    "budget": (
      report.curve_panels(
        list(budgets.values()), panels, x_label="permutations"
      ),
      "Truncated Monte-Carlo Shapley over its permutations, each of which trains "
      "up to a model a row; EcoVal, which has none, is level.",
    )
  }


def _shown(evidence: Evidence) -> tuple[str, np.ndarray]:
  """The method whose values are drawn, and those of the first seed."""
  methods = evidence.plan.methods
  name = _BEST if _BEST in methods else methods[0]
  return name, evidence.found[name].values["values"][0]


def _label(evidence: Evidence, row: int) -> str:
  own, names = evidence.plan.beds.sources[0], evidence.plan.dataset.class_names
  given = names[own.train["label"][row]]
  return f"{given} (is {names[own.label[row]]})" if own.noisy[row] else given


def examples(evidence: Evidence) -> dict[str, tuple[Figure, str]]:
  """The rows at both ends."""
  name, values = _shown(evidence)
  order = np.argsort(values)
  order = order[np.isfinite(values[order])]
  ends = {
    "least valuable": order[:_EXAMPLES],
    "most valuable": order[::-1][:_EXAMPLES],
  }
  is_image = evidence.plan.beds.sources[0].x.ndim == 4
  draw = _image_examples if is_image else _table_examples
  return {
    "examples": (
      draw(evidence, ends, values),
      f"The least and the most valuable rows by {name}, first seed, with the "
      "labels that were given; of a flipped one the true label behind it.",
    )
  }


def _image_examples(evidence: Evidence, ends: Any, values: Any) -> Figure:
  own = evidence.plan.beds.sources[0]
  figure = new_figure(0.95 * _EXAMPLES, 3.4)
  grid = figure.subplots(2, _EXAMPLES, squeeze=False)
  for line, (title, rows) in zip(grid, ends.items()):
    for axes in line:
      axes.set_axis_off()
    line[0].text(
      0, 1.32, clean(title), fontsize=10, transform=line[0].transAxes
    )
    for axes, row in zip(line, rows):
      image = own.x[row]
      low, high = image.min(), image.max()
      image = (image - low) / (high - low if high > low else 1)
      is_grey = image.shape[-1] == 1
      axes.imshow(image[..., 0] if is_grey else image, cmap="gray_r")
      axes.set_title(
        clean(_label(evidence, row)),
        fontsize=8,
        color="#D55E00" if own.noisy[row] else "#222222",
      )
  return figure


def _table_examples(evidence: Evidence, ends: Any, values: Any) -> Figure:
  own = evidence.plan.beds.sources[0]
  numbers = np.round(own.x.reshape(len(own.x), -1)[:, :_TABLE_COLUMNS], 2)
  columns = own.columns or {f"x{i}": x for i, x in enumerate(numbers.T)}
  names = list(columns)[:_TABLE_COLUMNS]
  figure = new_figure(11, 0.27 * (2 * _EXAMPLES + 4))
  for axes, (title, rows) in zip(figure.subplots(2, 1), ends.items()):
    axes.set_axis_off()
    axes.set_title(clean(title), fontsize=10, loc="left")
    drawn = axes.table(
      [
        [
          f"{values[row]:.3g}",
          clean(_label(evidence, row), 40),
          *(clean(str(columns[name][row]), 20) for name in names),
        ]
        for row in rows
      ],
      colLabels=["value", "label", *map(clean, names)],
      loc="upper center",
      cellLoc="left",
      edges="horizontal",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    drawn.auto_set_column_width(list(range(len(names) + 2)))
  return figure


PANELS = (curves, budget, examples)


def values_csv(evidence: Evidence) -> str:
  """Every row's values by every method, first seed, least valuable first."""
  plan = evidence.plan
  own, names = plan.beds.sources[0], plan.dataset.class_names
  every = [evidence.found[m].values["values"][0] for m in plan.methods]
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(["row", "label", "is_flipped", *plan.methods])
  for row in np.argsort(_shown(evidence)[1]):
    given = names[own.train["label"][row]]
    numbers = (f"{values[row]:.6g}" for values in every)
    writer.writerow(
      [int(own.row_id[row]), given, int(own.noisy[row]), *numbers]
    )
  return file.getvalue()
