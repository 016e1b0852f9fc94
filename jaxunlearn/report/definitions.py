"""What every number means: label, unit, decimals, direction, explanation.

Tables, plots, findings and the glossary of the HTML report all read from here.
An experiment with numbers of its own passes `METRICS + (Metric(...), ...)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

NEAREST = "nearest"
LOWER = "lower"
HIGHER = "higher"
NEITHER = ""  # Of words.

# How a direction is said in a column's head and in words.
SYMBOLS = {NEAREST: "≈", LOWER: "↓", HIGHER: "↑", NEITHER: ""}
DIRECTIONS = {
  NEAREST: "nearest to the retrained model is best",
  LOWER: "lower is better",
  HIGHER: "higher is better",
  NEITHER: "",
}


class Metric(NamedTuple):
  """How to show one number and how to read it.

  Attributes:
    name: the key in a row of the results.
    label: words for a column's head.
    explanation: one sentence in plain words.
    unit: "%" or "points" for fractions, which are shown times 100; else any
      text ("nats", "s"), or "" for none.
    decimals: digits after the point, after scaling.
    direction: `NEAREST`, `LOWER`, `HIGHER`, or of words `NEITHER`.
    headline: whether it belongs in the main table where space is short.
    is_shared: whether it belongs in the tables of all numbers; False of one that
      has its place in a `Comparison` alone.
  """

  name: str
  label: str
  explanation: str
  unit: str = ""
  decimals: int = 3
  direction: str = NEAREST
  headline: bool = False
  is_shared: bool = True

  @property
  def scale(self) -> float:
    """What a value is multiplied by before it is shown."""
    return 100.0 if self.unit in ("%", "points") else 1.0

  @property
  def heading(self) -> str:
    """The label with its unit, "Forget accuracy (%)"."""
    return f"{self.label} ({self.unit})" if self.unit else self.label


METRICS: tuple[Metric, ...] = (
  Metric(
    "forget_accuracy",
    "Forget accuracy",
    "Share of the rows to be forgotten that the model still predicts "
    "correctly; a model that never saw them is often right about some.",
    "%",
    1,
    headline=True,
  ),
  Metric(
    "retain_accuracy",
    "Retain accuracy",
    "Share of the training rows to be kept that the model predicts correctly.",
    "%",
    1,
    headline=True,
  ),
  Metric(
    "test_accuracy",
    "Test accuracy",
    "Share of rows never used in training that the model predicts correctly.",
    "%",
    1,
    headline=True,
  ),
  Metric(
    "membership_share",
    "Called members",
    "Share of the rows to be forgotten that a membership attack, which guesses "
    "from the model's outputs, takes for training rows.",
    "%",
    1,
    headline=True,
  ),
  Metric(
    "membership_auc",
    "Membership AUC",
    "How well an attack tells the rows to be forgotten from rows never used in "
    "training: 0.5 is guessing, 1 is certainty.",
  ),
  Metric(
    "anamnesis_index",
    "Anamnesis index",
    "Relearn steps divided by those of the retrained model (arXiv:2201.05629): 1 "
    "is to have as little left as it has; near 0 the knowledge is still there, "
    "and far above 1 the model is damaged. It is a lower bound where the model "
    "did not relearn within the limit, and has no value where the retrained one "
    "did not.",
    "",
    2,
    headline=True,
  ),
  Metric(
    "relearn_steps",
    "Relearn steps",
    "Training steps on all rows until the model is nearly as good again on what "
    "was forgotten as the original one, at least 1: within 5 % of its accuracy "
    "on test rows of the forgotten classes, or on the forgotten rows where no "
    "whole classes were forgotten. The limit where it did not get there.",
    "",
    1,
  ),
  Metric(
    "relearn_reached",
    "Relearned",
    "Share of runs in which the model relearned within the limit of steps.",
    "%",
    0,
  ),
  Metric(
    "retrained_gap",
    "Gap to retrained",
    "Mean absolute difference to the retrained model over the accuracies and "
    "the membership attack; 0 means that these numbers agree.",
    "points",
    1,
    LOWER,
    headline=True,
  ),
  Metric(
    "forget_rows",
    "Rows to forget",
    "How many rows are to be forgotten; shares of few rows are coarse.",
    "",
    0,
    is_shared=False,
  ),
  Metric(
    "chance_accuracy",
    "Accuracy of guessing",
    "Share of the rows to be kept that are of their most frequent class: what a "
    "model reaches that always gives the same answer.",
    "%",
    1,
    is_shared=False,
  ),
  Metric(
    "forget_test_accuracy",
    "Test accuracy, forgotten classes",
    "Share of test rows of the forgotten classes that are predicted correctly.",
    "%",
    1,
  ),
  Metric(
    "retain_test_accuracy",
    "Test accuracy, kept classes",
    "Share of test rows of the kept classes that are predicted correctly.",
    "%",
    1,
  ),
  Metric(
    "zrf",
    "ZRF",
    "Zero retrain forgetting score (arXiv:2205.08096): how much the outputs on "
    "the rows to be forgotten resemble those of an untrained model, from 0 "
    "(not at all) to 1 (the same).",
  ),
  Metric(
    "activation_distance",
    "Activation distance",
    "Mean distance between the output probabilities of this model and those of "
    "the retrained model on the rows to be forgotten.",
    direction=LOWER,
  ),
  Metric(
    "js_to_retrained",
    "JS divergence",
    "Jensen-Shannon divergence between the output probabilities of this model "
    "and those of the retrained model; 0 means that they are the same.",
    "nats",
    4,
    LOWER,
  ),
  Metric(
    "weight_distance",
    "Weight distance",
    "How far the weights moved from the original model's; a model can be far "
    "off and have forgotten nothing.",
  ),
  Metric(
    "unlearning_accuracy",
    "Unlearning accuracy",
    "Share of the rows to be forgotten that the model predicts wrongly: one "
    "minus the forget accuracy (SalUn, arXiv:2310.12508).",
    "%",
    1,
    is_shared=False,
  ),
  Metric(
    "kept_test_accuracy",
    "Test accuracy on what is kept",
    "Share of rows never used in training that the model predicts correctly, of "
    "the kept classes where whole classes were forgotten.",
    "%",
    1,
    is_shared=False,
  ),
  Metric(
    "mia_efficacy",
    "MIA efficacy",
    "Share of the rows to be forgotten that a membership attack, which guesses "
    "from the probability of the true class, takes for rows never trained on "
    "(SalUn, arXiv:2310.12508).",
    "%",
    1,
    is_shared=False,
  ),
  Metric(
    "salun_gap",
    "Average gap",
    "Mean absolute difference to the retrained model of the same request and "
    "seed over unlearning accuracy, retain accuracy, test accuracy on what is "
    "kept and MIA efficacy.",
    "points",
    1,
    LOWER,
    is_shared=False,
  ),
  Metric(
    "seconds_run",
    "Run time",
    "Time that the method took, compilation apart.",
    "s",
    2,
    LOWER,
    headline=True,
  ),
  Metric(
    "seconds_compile",
    "Compile time",
    "Time that the compiler took, once, whatever the number of requests.",
    "s",
    1,
    LOWER,
  ),
)


def describe(name: str, definitions: Sequence[Metric] = METRICS) -> Metric:
  """The definition of a metric; of an unknown name, the best guess from it.

  Args:
    name: a key of a row.
    definitions: known metrics; of two with one name the last one holds.

  Returns:
    The definition. Unknown names are shown in words, and judged by their
    nearness to the retrained model.

  Example:
    >>> from jaxunlearn import report
    >>> metric = report.describe("forget_accuracy")
    >>> metric.heading, report.describe("my_own_mse").label
    ('Forget accuracy (%)', 'My own MSE')
  """
  for metric in reversed(definitions):
    if metric.name == name:
      return metric
  label = " ".join(name.replace("_", " ").split()) or name
  label = label[:1].upper() + label[1:]
  if name.startswith("seconds"):
    return Metric(name, label, "A time.", "s", 2, LOWER)
  if name.endswith("_accuracy"):
    text = "Share of rows that the model predicts correctly."
    return Metric(name, label, text, "%", 1)
  if name.endswith("_mse"):
    return Metric(name, label[:-3] + "MSE", "Mean squared error.")
  if name.endswith("_mae"):
    return Metric(name, label[:-3] + "MAE", "Mean absolute error.")
  return Metric(name, label, "A number of this experiment, without a gloss.")


def format_value(
  metric: Metric, value: float, decimals: int | None = None
) -> str:
  """A value with its scale and decimals and without its unit.

  Args:
    metric: how to show it.
    value: the number as it stands in the results.
    decimals: digits after the point, see `column_decimals`; by default as many
      as leave two significant ones, unless it is a percentage.

  Returns:
    The text; an en dash where there is no finite value, and "<0.001" for what the
    decimals of its column cannot show.
  """
  own = column_decimals(metric, [value])
  if decimals is None or decimals >= own:
    return _fixed(value * metric.scale, own if decimals is None else decimals)
  if 0 < value * metric.scale < 0.5 * 10**-decimals:
    return f"<{10**-decimals:.{decimals}f}"
  return _fixed(value * metric.scale, decimals)


def format_mean(
  metric: Metric, mean: float, std: float, decimals: int | None = None
) -> str:
  """`mean ± std`, both with the decimals of the mean; see `format_value`."""
  if decimals is None:
    decimals = column_decimals(metric, [mean])
  text = format_value(metric, mean, decimals)
  # One program serves all seeds, so its time is shared and has no spread.
  shared = metric.name.startswith("seconds_") and std == 0
  if shared or not (math.isfinite(mean) and math.isfinite(std)):
    return text
  return f"{text} ± {_fixed(std * metric.scale, decimals)}"


def column_decimals(metric: Metric, values: Iterable[float]) -> int:
  """Digits after the point that leave the largest two significant ones."""
  shown = max(
    (abs(v * metric.scale) for v in values if math.isfinite(v)), default=0
  )
  if metric.scale != 1 or shown == 0:
    return metric.decimals  # Percentages are read as such, 0.0 included.
  if shown >= 10**-metric.decimals:
    return metric.decimals
  return 1 - math.floor(math.log10(shown))


def _fixed(value: float, decimals: int) -> str:
  if not math.isfinite(value):
    return "–"
  if abs(value) >= 1e6 or decimals > 6:
    return f"{value:.2e}"
  text = f"{value:.{decimals}f}"
  # A rounded "-0.0" would look like a loss.
  return text.removeprefix("-") if float(text) == 0 else text
