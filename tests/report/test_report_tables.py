"""Tables and the definitions of metrics."""

import io
import math
import re

import pytest
from rich.console import Console
from rich.measure import Measurement

from jaxunlearn import report
from jaxunlearn.report import definitions, tables

ACCURACY = report.describe("forget_accuracy")


def make_rows(values, seeds=1, **more):
  """Rows of {method: {metric: value}}."""
  return [
    {
      "method": method,
      "request": "r",
      "seed": seed,
      "seconds_compile": 1.0,
      "seconds_run": 1.0,
      **metrics,
    }
    for method, metrics in values.items()
    for seed in range(seeds)
  ]


def bold_of(text):
  """Markdown rows -> the method's name if its row has something in bold."""
  return [
    line.split("|")[1].strip() for line in text.splitlines() if "**" in line
  ]


def test_bold_is_the_value_nearest_to_the_retrained_model():
  summary = report.summarise(
    make_rows(
      {
        "too_low": {"forget_accuracy": 0.0},
        "near": {"forget_accuracy": 0.45},
        "original": {"forget_accuracy": 0.52},
        "high": {"forget_accuracy": 0.61},
        "retrained": {"forget_accuracy": 0.5},
      }
    )
  )
  text = report.markdown_table(summary, ["forget_accuracy"])
  assert bold_of(text) == ["near"]
  assert "**45.0**" in text
  order = [line.split("|")[1].strip() for line in text.splitlines()[2:]]
  assert order == ["original", "retrained", "too_low", "near", "high"]


def test_bold_of_a_distance_is_the_lowest_and_of_a_gain_the_highest():
  values = {
    "a": {"retrained_gap": 0.1, "gain": 1.0},
    "b": {"retrained_gap": 0.2, "gain": 2.0},
  }
  summary = report.summarise(make_rows(values))
  gain = report.Metric("gain", "Gain", "Text.", direction=report.HIGHER)
  known = (*report.METRICS, gain)
  lowest = report.markdown_table(summary, ["retrained_gap"], definitions=known)
  highest = report.markdown_table(summary, ["gain"], definitions=known)
  assert bold_of(lowest) == ["a"]
  assert bold_of(highest) == ["b"]


def test_values_that_look_the_same_are_bold_together():
  values = {
    "retrained": {"forget_accuracy": 0.5},
    "a": {"forget_accuracy": 0.50001},
    "b": {"forget_accuracy": 0.50002},
    "c": {"forget_accuracy": 0.7},
  }
  text = report.markdown_table(
    report.summarise(make_rows(values)), ["forget_accuracy"]
  )
  assert bold_of(text) == ["a", "b"]


@pytest.mark.parametrize(
  "values",
  [
    {"retrained": {"zrf": 0.5}, "a": {"zrf": 0.5}},  # No choice.
    {"original": {"zrf": 0.5}, "a": {"zrf": 0.5}, "b": {"zrf": 0.1}},
    {"retrained": {"zrf": math.nan}, "a": {"zrf": 0.5}, "b": {"zrf": 0.1}},
    {"retrained": {"zrf": 0.5}, "a": {"zrf": None}, "b": {"zrf": 0.1}},
  ],
)
def test_nothing_is_bold_without_a_choice_or_a_retrained_model(values):
  summary = report.summarise(make_rows(values))
  assert "**" not in report.markdown_table(summary, ["zrf"])


def test_a_cell_shows_mean_and_spread_and_how_many_runs_have_a_value():
  rows = make_rows({"a": {}}, seeds=4)
  for row, value in zip(rows, [0.1, 0.2, 0.3, math.nan]):
    row["forget_accuracy"] = value
  text = report.markdown_table(report.summarise(rows), ["forget_accuracy"])
  assert "20.0 ± 10.0 [3 of 4]" in text


def test_one_request_can_be_shown_and_an_unknown_one_is_rejected():
  rows = make_rows({"a": {"zrf": 0.25}}) + [
    {**row, "request": "s"} for row in make_rows({"a": {"zrf": 0.75}})
  ]
  summary = report.summarise(rows)
  assert "0.500" in report.markdown_table(summary, ["zrf"])
  assert "0.750" in report.markdown_table(summary, ["zrf"], request="s")
  with pytest.raises(ValueError, match="request to be one of"):
    report.markdown_table(summary, ["zrf"], request="t")


def test_markdown_shows_hostile_names_as_they_stand():
  name = "<b>x</b> | [a](b) `c` _d_ bad_teacher\nnew"
  summary = report.summarise(make_rows({name: {"zrf": 0.5}}))
  line = report.markdown_table(summary, ["zrf"]).splitlines()[-1]
  assert line.startswith(
    r"| &lt;b&gt;x&lt;/b&gt; \| \[a\](b) \`c\` \_d\_ bad_teacher new |"
  )
  assert len(re.findall(r"(?<!\\)\|", line)) == 3


def test_rich_table_shows_the_same_texts_and_reads_no_markup():
  values = {
    "retrained": {"forget_accuracy": 0.5},
    "[red]a[/red]": {"forget_accuracy": 0.5},
    "b": {"forget_accuracy": 0.625},
  }
  summary = report.summarise(make_rows(values, seeds=2))
  console = Console(file=io.StringIO(), width=100)
  console.print(report.rich_table(summary, title="[bold]t"))
  text = console.file.getvalue()
  assert "[red]a[/red]" in text
  assert "[bold]t" in text
  assert "62.5 ± 0.0" in text


def test_no_heading_and_no_number_is_cut_where_columns_are_narrow():
  values = {"a": {n: 0.5 for n in ("privleak", "recall", "test_accuracy")}}
  names = {"privleak": "Unlearnability", "recall": "R", "test_accuracy": "T"}
  known = [report.describe(n)._replace(label=w) for n, w in names.items()]
  summary = report.summarise(make_rows(values, seeds=2))
  made = report.rich_table(summary, [*names], definitions=known)
  console = Console(file=io.StringIO(), width=10_000)
  least = Measurement.get(console, console.options, made).minimum
  console = Console(file=io.StringIO(), width=least)
  console.print(made)
  text = console.file.getvalue()
  assert "…" not in text and "Unlearnability" in text
  assert text.count("50.0 ± 0.0") + text.count("0.500 ± 0.000") > 1


def test_columns_split_into_headlines_and_the_rest_without_empty_ones():
  values = {
    "a": {"zrf": 0.5, "recall": 0.1, "test_accuracy": 0.2, "empty": math.nan}
  }
  main, rest = tables.split_columns(report.summarise(make_rows(values)))
  assert main == ("test_accuracy", "seconds_run", "recall")
  assert rest == ("zrf", "seconds_compile")


def test_every_metric_is_explained_in_one_sentence():
  names = [metric.name for metric in report.METRICS]
  assert len(set(names)) == len(names)
  for metric in report.METRICS:
    assert metric.direction in definitions.DIRECTIONS
    assert metric.explanation.endswith(".")
    assert metric.label


@pytest.mark.parametrize(
  ("name", "heading", "direction"),
  [
    ("node_accuracy", "Node accuracy (%)", report.NEAREST),
    ("rating_mse", "Rating MSE", report.NEAREST),
    ("seconds_total", "Seconds total (s)", report.LOWER),
    ("x", "X", report.NEAREST),
  ],
)
def test_unknown_metrics_are_described_by_their_names(name, heading, direction):
  metric = report.describe(name)
  assert metric.heading == heading
  assert metric.direction == direction


def test_a_given_definition_replaces_the_known_one():
  mine = report.Metric("zrf", "Mine", "Text.")
  assert report.describe("zrf", (*report.METRICS, mine)).label == "Mine"


@pytest.mark.parametrize(
  ("name", "value", "text"),
  [
    ("forget_accuracy", 0.1234, "12.3"),
    ("forget_accuracy", -0.00001, "0.0"),
    ("js_to_retrained", 0.0000123, "0.000012"),
    ("js_to_retrained", 1e-12, "1.00e-12"),
    ("js_to_retrained", 0.0, "0.0000"),
    ("weight_distance", 12345678.0, "1.23e+07"),
    ("zrf", math.nan, "–"),
  ],
)
def test_numbers_are_shown_with_their_scale_and_decimals(name, value, text):
  assert definitions.format_value(report.describe(name), value) == text


def test_a_spread_has_the_decimals_of_its_mean():
  assert definitions.format_mean(ACCURACY, 0.5, 0.01234) == "50.0 ± 1.2"
  assert definitions.format_mean(ACCURACY, 0.5, math.nan) == "50.0"
  assert definitions.format_mean(ACCURACY, math.nan, math.nan) == "–"
