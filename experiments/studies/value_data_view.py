"""From values of rows to words, figures and a table of all of them."""

from __future__ import annotations

import csv
import io

import numpy as np

from jaxunlearn import report
from jaxunlearn.report import draw

from ..bench import Evidence, Plan, table

# Shares of the rows that are removed, and that are trained on alone.
CURVES = {
  "removal": (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
  "addition": (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
}
LINES = tuple(f"{end}_{name}" for name in CURVES for end in ("high", "low"))
SHOWN_COLUMNS = (
  "noise_f1",
  "noise_auc",
  "high_removal_accuracy",
  "low_removal_accuracy",
  "unseen_rank",
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
  *(
    report.Metric(
      f"{line}_accuracy",
      label,
      f"Test accuracy {words} alone, mean."
      if "addition" in line
      else f"Test accuracy without {words}, mean; compare with random.",
      *("%", 1, direction, "removal" in line),
    )
    for line, label, words, direction in (
      ("high_removal", "Best removed", "the most valuable 5 to 50 %", _LOW),
      ("low_removal", "Worst removed", "the least valuable 5 to 50 %", _HIGH),
      ("high_addition", "On the best", "on the most valuable 2 to 50 %", _HIGH),
      ("low_addition", "On the worst", "on the least valuable 2 to 50 %", _LOW),
    )
  ),
  report.Metric(
    "unseen_rank",
    "Rank, unseen rows",
    "Spearman's correlation between the values of rows that were not trained on, "
    "some with flipped labels too, and what each adds to the log-likelihood of "
    "test rows when it is. Of estimators that can value such rows.",
    *("", 2, _HIGH),
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


def _budgets(plan: Plan) -> tuple[dict[str, int], list[str]]:
  """Permutations of truncated Shapley by name, and the names of EcoVal."""
  names = [m for m in plan.methods if m.startswith("tmc_shapley_")]
  budgets = {name: plan.settings[name]["num_permutations"] for name in names}
  return budgets, [m for m in plan.methods if m.startswith("ecoval")]


def findings(evidence: Evidence) -> list[str]:
  """EcoVal beside Shapley, and everything beside random numbers."""
  told, methods = [], evidence.plan.methods
  overall = report.summarise(evidence.rows).overall
  value = lambda method, name: overall[method][name].mean
  budgets, ecovals = _budgets(evidence.plan)
  for name in ecovals if budgets else ():
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
  for name in methods if "random" in methods else ():
    high, low = (
      100
      * (value(name, f"{line}_accuracy") - value("random", f"{line}_accuracy"))
      for line in LINES[:2]
    )
    if name != "random":
      told.append(
        f"{name}, against removing rows at random: {high:+.1f} points of test "
        f"accuracy without its best rows, {low:+.1f} without its worst."
      )
  return told


def curves(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
  """Test accuracy over the rows removed, over those trained on, and F1."""
  found, (budgets, ecovals) = evidence.found, _budgets(evidence.plan)
  percent = lambda method, name: 100 * found[method].values[name]
  figures = {}
  for name, words, caption in (
    (
      "removal",
      "rows removed (%)",
      "Rows are removed, the most valuable first (left, lower is better) or the "
      "least valuable first (right, higher is better), and a model is trained on "
      "the rest. Bands go from the lowest to the highest seed.",
    ),
    (
      "addition",
      "rows trained on (%)",
      "A model trained on the most valuable rows alone (left, higher is better) "
      "or on the least valuable ones (right, lower is better).",
    ),
  ):
    panels = {
      f"test accuracy (%), {end} values": {
        method: percent(method, f"{end}_{name}")
        for method in evidence.plan.methods
      }
      for end in ("high", "low")
    }
    at = 100 * np.array(CURVES[name])
    figures[name] = report.curve_panels(at, panels, x_label=words), caption
  if len(budgets) < 2:
    return figures
  # EcoVal has no permutations: its lines are level.
  panels = {
    title: {
      "tmc_shapley": np.stack([percent(m, column) for m in budgets], axis=1),
      **{m: percent(m, column)[:, None] + 0 * at for m in ecovals},
    }
    for column, title in (
      ("noise_f1", "F1, flipped labels (%)"),
      ("high_removal_accuracy", "test accuracy (%), best removed"),
      ("low_removal_accuracy", "test accuracy (%), worst removed"),
    )
    for at in [np.array(list(budgets.values()))]
  }
  figures["budget"] = (
    report.curve_panels(list(budgets.values()), panels, x_label="permutations"),
    "Truncated Monte-Carlo Shapley over its permutations, each of which trains up "
    "to a model a row; EcoVal, which has none, is level.",
  )
  return figures


def _shown(evidence: Evidence) -> tuple[str, np.ndarray, list[str]]:
  """The method whose values are drawn, those of the first seed, and labels."""
  methods, names = evidence.plan.methods, evidence.plan.dataset.class_names
  name = _BEST if _BEST in methods else methods[0]
  own = evidence.plan.beds.sources[0]
  labels = [
    f"{names[given]} (is {names[true]})" if given != true else names[given]
    for given, true in zip(
      own.train["label"], own.split.train["label"][own.valued]
    )
  ]
  return name, evidence.found[name].values["values"][0], labels


def examples(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
  """The rows at both ends."""
  name, values, labels = _shown(evidence)
  order = np.argsort(values)
  order = order[np.isfinite(values[order])]
  ends = order[:_EXAMPLES], order[::-1][:_EXAMPLES]
  own = evidence.plan.beds.sources[0]
  x = own.split.train["x"][own.valued]
  titles = ("the least valuable", "the most valuable")
  numbers = [str(i) for i in range(_EXAMPLES)]
  if x.ndim == 4:
    flat = x[np.concatenate(ends)]
    axes = tuple(range(1, flat.ndim))
    low, high = flat.min(axes, keepdims=True), flat.max(axes, keepdims=True)
    images = (flat - low) / np.maximum(high - low, 1e-12)
    images = 1 - images if images.shape[-1] == 1 else images
    panels = [
      draw.pictures(
        [of[: len(rows)]],
        *([""], numbers[: len(rows)], title, [[labels[row] for row in rows]]),
      )
      for of, rows, title in zip(np.split(images, [len(ends[0])]), ends, titles)
    ]
  else:
    rounded = np.round(x.reshape(len(x), -1), 2)
    known = {
      k: v[own.valued] for k, v in own.split.columns.items() if k != "label"
    }
    columns = known or {f"x{i}": column for i, column in enumerate(rounded.T)}
    heads = list(columns)[:_TABLE_COLUMNS]
    panels = [
      draw.words(
        [
          [f"{values[r]:.3g}", *(columns[k][r] for k in heads), labels[r]]
          for r in rows
        ],
        ["value", *heads, "label"],
        title,
      )
      for rows, title in zip(ends, titles)
    ]
  return {
    "examples": (
      report.Chart(tuple(panels), 1),
      f"The least (first) and the most valuable rows by {name}, first seed, with "
      "the labels that were given; of a flipped one the true label behind it.",
    )
  }


PANELS = (curves, examples)


def values_csv(evidence: Evidence) -> str:
  """Every row's values by every method, first seed, least valuable first."""
  plan = evidence.plan
  own, names = plan.beds.sources[0], plan.dataset.class_names
  every = [evidence.found[m].values["values"][0] for m in plan.methods]
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(["row", "label", "is_flipped", *plan.methods])
  for row in np.argsort(_shown(evidence)[1]):
    number = int(own.split.row_id[own.valued[row]])
    given = names[own.train["label"][row]]
    numbers = (f"{values[row]:.6g}" for values in every)
    writer.writerow([number, given, int(own.noisy[row]), *numbers])
  return file.getvalue()
