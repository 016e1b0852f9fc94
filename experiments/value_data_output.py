"""From values of rows to files, figures and the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

from experiments import common
from jaxunlearn import report
from jaxunlearn.report.canvas import clean, new_figure
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from experiments.value_data import Outcome, Plan

SHOWN = 10  # Examples at each end.
TABLE_COLUMNS = 7
BEST = "ecoval_additive"  # Whose examples are shown.


def _metric(name, label, explanation, unit, decimals, direction, **more):
  return report.Metric(
    name, label, explanation, unit, decimals, direction, **more
  )


DEFINITIONS = (
  *(m for m in report.METRICS if m.name != "retrained_gap"),
  _metric(
    "retrained_gap",
    "Gap to retrained",
    "Difference of the test accuracy to that of the model trained without the "
    "flipped rows.",
    "points",
    1,
    report.LOWER,
    headline=True,
  ),
  _metric(
    "noise_f1",
    "F1, flipped labels",
    "How well the lower of two groups of values (two means) is the rows with "
    "flipped labels; the share of flips is not told.",
    "%",
    1,
    report.HIGHER,
    headline=True,
  ),
  _metric(
    "noise_precision",
    "Flipped among the lowest",
    "Share of flipped labels among as many lowest values as there are flips.",
    "%",
    1,
    report.HIGHER,
  ),
  _metric(
    "noise_auc",
    "AUC, flipped labels",
    "Chance that a row with a flipped label has a lower value than one without.",
    "",
    3,
    report.HIGHER,
    headline=True,
  ),
  _metric(
    "high_removal_accuracy",
    "Best removed",
    "Test accuracy without the most valuable 5 to 50 %, mean; lower is better, "
    "against random.",
    "%",
    1,
    report.LOWER,
    headline=True,
  ),
  _metric(
    "low_removal_accuracy",
    "Worst removed",
    "Test accuracy without the least valuable 5 to 50 %, mean; higher is better.",
    "%",
    1,
    report.HIGHER,
    headline=True,
  ),
  _metric(
    "high_addition_accuracy",
    "On the best alone",
    "Test accuracy on the most valuable 2 to 50 % alone, mean.",
    "%",
    1,
    report.HIGHER,
  ),
  _metric(
    "low_addition_accuracy",
    "On the worst alone",
    "Test accuracy on the least valuable 2 to 50 % alone, mean.",
    "%",
    1,
    report.LOWER,
  ),
  _metric(
    "num_trainings",
    "Models trained",
    "How many models an estimate cost.",
    "",
    0,
    report.LOWER,
    headline=True,
  ),
)
_NOTES = (
  "original: the model of all rows, flipped labels and all. retrained: the model "
  "of the rows whose labels were not flipped, what perfect detection would give. "
  "A method's test accuracy is that of the model trained without its lowest "
  "values, as many as labels were flipped.",
  "The utility is the log-likelihood of logistic regression on validation rows; "
  "test rows serve to measure what the values are good for, no estimator sees "
  "them.",
  "EcoVal is a reconstruction: the paper's production function and its rules were "
  "not at hand. Its quality is the confidence of one model, its values are means "
  "over three clusterings. The number of clusters was chosen on digits and Adult "
  "themselves.",
  "ecoval_share_by_class ranks the values of ecoval_share within each class, so "
  "that pruning takes the same share of every class.",
  "Compile time is short where the compilation cache had the program. Run time is "
  "that of one seed.",
)


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, values, plots and report into a folder."""
  results = _results(plan, outcome)
  summary = report.summarise(results.rows)
  noise = f"{100 * plan.options.noise:g} %"
  report.write_report(
    folder,
    results,
    figures=_figures(plan, outcome),
    title=f"What the rows of {plan.options.data} are worth",
    lead=(
      f"{noise} of the labels of {plan.setting.size.rows} training rows of "
      f"{plan.options.data} were flipped. {len(plan.methods)} estimators say "
      f"what every row is worth, with {plan.num_seeds} seeds, each with other "
      "rows and other flips. A good one puts the flipped rows last; without its "
      "best rows the model is worse, without its worst ones better."
    ),
    notes=_NOTES,
    more_findings=_findings(summary),
    definitions=DEFINITIONS,
  )
  report.write_text(folder / "values.csv", _values_csv(plan, outcome))
  return summary


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """The methods by how well they find flipped labels, and where the rest is."""
  columns = [
    "noise_f1",
    "noise_auc",
    "high_removal_accuracy",
    "low_removal_accuracy",
    "test_accuracy",
    "num_trainings",
    "seconds_run",
  ]
  console.print(
    report.rich_table(_ranked(summary), columns, definitions=DEFINITIONS)
  )
  for sentence in _findings(summary):
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def _ranked(summary: report.Summary) -> report.Summary:
  """The same with the methods in the order of their F1."""
  first = [m for m in summary.methods if m not in summary.candidates]
  mean = lambda m: summary.overall[m]["noise_f1"].mean
  rest = sorted(summary.candidates, key=mean, reverse=True)
  methods = (*first, *rest)
  return summary._replace(
    methods=methods, overall={m: summary.overall[m] for m in methods}
  )


def _findings(summary: report.Summary) -> list[str]:
  found = []
  overall = summary.overall
  value = lambda method, name: overall[method][name].mean
  for name in ("ecoval_additive", "ecoval_share", "ecoval_share_by_class"):
    if name in overall and "tmc_shapley" in overall:
      times = value("tmc_shapley", "seconds_run") / value(name, "seconds_run")
      found.append(
        f"{name} finds flipped labels with F1 "
        f"{100 * value(name, 'noise_f1'):.1f} %, truncated Monte-Carlo Shapley "
        f"with {100 * value('tmc_shapley', 'noise_f1'):.1f} %; that takes "
        f"{times:.1f} times as long."
      )
  if "random" in overall:
    for name in summary.candidates:
      if name == "random":
        continue
      high, low = (
        100
        * (
          value(name, f"{side}_removal_accuracy")
          - value("random", f"{side}_removal_accuracy")
        )
        for side in ("high", "low")
      )
      found.append(
        f"{name}, against removing rows at random: {high:+.1f} points of test "
        f"accuracy without its best rows, {low:+.1f} without its worst."
      )
  return found


def _results(plan: Plan, outcome: Outcome) -> report.Results:
  request = f"lowest {100 * plan.options.noise:g} %"
  nowhere = float("nan")
  rows: list[dict[str, Any]] = []
  for seed, judged in enumerate(outcome.judged):
    retrained = float(judged.retrained)

    def row(method, accuracy, seed=seed, retrained=retrained, **values):
      return {
        "method": method,
        "request": request,
        "seed": seed,
        "seconds_compile": nowhere,
        "seconds_run": nowhere,
        "test_accuracy": float(accuracy),
        "retrained_gap": abs(float(accuracy) - retrained),
        **values,
      }

    rows += [
      row("original", judged.original),
      row("retrained", judged.retrained),
    ]
    for i, name in enumerate(plan.methods):
      seconds = outcome.seconds[name]
      # The first point removes nothing.
      removal = judged.removal[i, :, 1:].mean(axis=1)
      addition = judged.addition[i].mean(axis=1)
      values = {
        "seconds_compile": seconds[0],
        "seconds_run": seconds[1][seed],
        **{key: float(v[i]) for key, v in judged.noise.items()},
        "high_removal_accuracy": float(removal[0]),
        "low_removal_accuracy": float(removal[1]),
        "high_addition_accuracy": float(addition[0]),
        "low_addition_accuracy": float(addition[1]),
        "num_trainings": int(outcome.trainings[seed, i]),
      }
      rows.append(row(name, judged.pruned[i], **values))
  config = {
    **dataclasses.asdict(plan.options),
    "seeds": plan.num_seeds,
    "size": plan.setting.size._asdict(),
    "clusters_per_class": plan.setting.clusters_per_class,
    "environment": common.environment(),
  }
  return report.Results(
    "value_data",
    plan.options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    rows,
  )


def _figures(plan: Plan, outcome: Outcome) -> Mapping[str, tuple[Figure, str]]:
  from experiments.value_data import ADDED, REMOVED

  def panels(field: str, titles: tuple[str, str]):
    stacked = np.stack([getattr(j, field) for j in outcome.judged])
    return {
      title: {
        name: 100 * stacked[:, i, side] for i, name in enumerate(plan.methods)
      }
      for side, title in enumerate(titles)
    }

  removal = report.curve_panels(
    100 * np.array(REMOVED),
    panels(
      "removal",
      ("test accuracy (%), best removed", "test accuracy (%), worst removed"),
    ),
    x_label="rows removed (%)",
  )
  addition = report.curve_panels(
    100 * np.array(ADDED),
    panels(
      "addition",
      ("test accuracy (%), on the best", "test accuracy (%), on the worst"),
    ),
    x_label="rows trained on (%)",
  )
  shown = plan.methods.index(BEST) if BEST in plan.methods else 0
  name = plan.methods[shown]
  return {
    "removal": (
      removal,
      "Rows are removed, the most valuable first (left, lower is better) or the "
      "least valuable first (right, higher is better), and a model is trained on "
      "the rest. Bands go from the lowest to the highest seed.",
    ),
    "addition": (
      addition,
      "A model trained on the most valuable rows alone (left, higher is better) "
      "or on the least valuable ones (right, lower is better).",
    ),
    "examples": (
      _examples(plan, outcome, shown),
      f"The least and the most valuable rows by {name}, first seed, with the "
      "labels that were given; of a flipped one the true label behind it.",
    ),
  }


def _examples(plan: Plan, outcome: Outcome, method: int) -> Figure:
  values = outcome.values[0, method]
  order = np.argsort(values)
  order = order[np.isfinite(values[order])]
  ends = (
    ("least valuable", order[:SHOWN]),
    ("most valuable", order[::-1][:SHOWN]),
  )
  if plan.dataset.train["x"].ndim == 4:
    return _image_examples(plan, outcome, ends)
  return _table_examples(plan, outcome, ends, values)


def _label(plan: Plan, outcome: Outcome, row: int) -> str:
  problem, names = outcome.problems[0], plan.dataset.class_names
  given = names[int(problem.train["label"][row])]
  if not bool(problem.noisy[row]):
    return given
  true = plan.dataset.train["label"][int(problem.rows[row])]
  return f"{given} (is {names[true]})"


def _image_examples(plan: Plan, outcome: Outcome, ends) -> Figure:
  figure = new_figure(0.95 * SHOWN, 3.4)
  grid = figure.subplots(2, SHOWN, squeeze=False)
  noisy = np.asarray(outcome.problems[0].noisy)
  for line, (title, rows) in zip(grid, ends):
    for axes in line:
      axes.set_axis_off()
    line[0].text(
      0, 1.32, clean(title), fontsize=10, transform=line[0].transAxes
    )
    for axes, row in zip(line, rows):
      image = plan.dataset.train["x"][int(outcome.problems[0].rows[row])]
      low, high = image.min(), image.max()
      image = (image - low) / (high - low if high > low else 1)
      is_grey = image.shape[-1] == 1
      axes.imshow(image[..., 0] if is_grey else image, cmap="gray_r")
      axes.set_title(
        clean(_label(plan, outcome, int(row))),
        fontsize=8,
        color="#D55E00" if noisy[row] else "#222222",
      )
  return figure


def _table_examples(plan: Plan, outcome: Outcome, ends, values) -> Figure:
  source = np.asarray(outcome.problems[0].rows)
  columns = {k: v for k, v in plan.dataset.columns.items() if k != "label"}
  if not columns:
    x = plan.dataset.train["x"].reshape(len(plan.dataset.train["x"]), -1)
    columns = {f"x{i}": np.round(x[:, i], 2) for i in range(x.shape[1])}
  names = list(columns)[: TABLE_COLUMNS - 2]
  figure = new_figure(11, 0.27 * (2 * SHOWN + 4))
  for axes, (title, rows) in zip(figure.subplots(2, 1), ends):
    axes.set_axis_off()
    axes.set_title(clean(title), fontsize=10, loc="left")
    cells = [
      [
        f"{values[row]:.3g}",
        clean(_label(plan, outcome, int(row)), 40),
        *(clean(str(columns[name][source[row]]), 20) for name in names),
      ]
      for row in rows
    ]
    table = axes.table(
      cells,
      colLabels=["value", "label", *(clean(name) for name in names)],
      loc="upper center",
      cellLoc="left",
      edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(names) + 2)))
  return figure


def _values_csv(plan: Plan, outcome: Outcome) -> str:
  """Every row's values by every method, first seed, least valuable first."""
  problem = jax.tree.map(np.asarray, outcome.problems[0])
  shown = plan.methods.index(BEST) if BEST in plan.methods else 0
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(["row", "label", "is_flipped", *plan.methods])
  for row in np.argsort(outcome.values[0, shown]):
    writer.writerow(
      [
        int(problem.rows[row]),
        plan.dataset.class_names[problem.train["label"][row]],
        int(problem.noisy[row]),
        *(f"{v:.6g}" for v in outcome.values[0, :, row]),
      ]
    )
  return file.getvalue()
