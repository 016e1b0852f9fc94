"""Tables in the form of publications, and the drift over a sequence."""

import math

import pytest

from jaxunlearn import report
from jaxunlearn.report.tables import grid_markdown, markdown_report

BASE = {
  "unlearning_accuracy": 0.05,
  "retain_accuracy": 1.0,
  "kept_test_accuracy": 0.94,
  "mia_efficacy": 0.13,
  "salun_gap": 0.0,
  "seconds_run": 3.0,
  "retrained_gap": 0.0,
}


def make_rows(values, requests=("r",), seeds=2):
  return [
    {
      "method": method,
      "request": request,
      "seed": seed,
      "seconds_compile": 1.0,
      **{
        name: value[i] if isinstance(value, tuple) else value
        for name, value in {**BASE, **metrics}.items()
      },
    }
    for method, metrics in values.items()
    for i, request in enumerate(requests)
    for seed in range(seeds)
  ]


def make_summary(values, **more):
  return report.summarise(make_rows(values, **more))


VALUES = {
  "original": {"unlearning_accuracy": 0.0, "salun_gap": 0.03},
  "retrained": {},
  "far": {"unlearning_accuracy": 0.4, "salun_gap": 0.1},
  "near": {"unlearning_accuracy": 0.03, "salun_gap": 0.01},
  "broken": {"salun_gap": math.nan, "mia_efficacy": math.nan},
}


def test_methods_are_sorted_by_gap_with_differences_in_brackets():
  table = report.salun_table(make_summary(VALUES))
  assert [method for method, _ in table.grid.rows] == [
    "retrained",
    "original",
    "near",
    "far",
    "broken",
  ]
  headings = [metric.heading for metric in table.grid.metrics]
  assert headings == [
    "UA (%)",
    "RA (%)",
    "TA (%)",
    "MIA (%)",
    "Average gap (points)",
    "RTE (s)",
  ]
  cells = {
    method: [cell.text for cell in row] for method, row in table.grid.rows
  }
  # The gap and the time are not compared with the retrained model's again.
  assert cells["near"] == [
    "3.0 ± 0.0 (2.0)",
    "100.0 ± 0.0 (0.0)",
    "94.0 ± 0.0 (0.0)",
    "13.0 ± 0.0 (0.0)",
    "1.0 ± 0.0",
    "3.00",
  ]
  assert cells["far"][0] == "40.0 ± 0.0 (35.0)"
  assert cells["broken"][3] == "–"
  marked = {
    method: [i for i, cell in enumerate(row) if cell.best]
    for method, row in table.grid.rows
  }
  assert marked["broken"] == [0, 1, 2, 5]
  assert marked["near"] == [1, 2, 3, 4, 5]
  assert marked["original"] == marked["retrained"] == []


def test_the_table_is_the_mean_over_requests():
  values = {
    "retrained": {"unlearning_accuracy": (0.2, 0.4)},
    "a": {"unlearning_accuracy": (0.1, 0.1), "salun_gap": 0.1},
  }
  table = report.salun_table(make_summary(values, requests=("one", "two")))
  assert table.title == "SalUn's measures, mean over requests"
  assert dict(table.grid.rows)["a"][0].text == "10.0 ± 0.0 (20.0)"


def test_without_a_comparison_there_is_no_table():
  assert report.salun_table(make_summary({"a": {}})) is None
  gapless = {"retrained": {}, "a": {"salun_gap": math.nan}}
  assert report.salun_table(make_summary(gapless)) is None
  assert report.salun_table(make_summary({"retrained": {}})) is None


def test_numbers_of_a_comparison_are_in_no_other_table_but_explained():
  rows = make_rows(VALUES)
  results = report.Results("forget", "smoke", "0.10", "cpu", {}, rows)
  summary = report.summarise(rows)
  table = report.salun_table(summary)
  text = markdown_report(results, summary, comparisons=[table])
  shared = text.partition("## SalUn")[0]
  assert "Unlearning accuracy" not in shared and "MIA" not in shared
  assert grid_markdown(table.grid) in text
  assert "- **MIA efficacy (%)**: Share" in text
  assert text.count("- **Retain accuracy (%)**") == 1


def test_every_file_of_the_report_has_the_table_and_the_sentences(tmp_path):
  rows = make_rows({**VALUES, "<b>": {"salun_gap": 0.5}})
  table = report.salun_table(report.summarise(rows))
  path = report.write_report(
    tmp_path,
    report.Results("forget", "smoke", "0.10", "cpu", {}, rows),
    report.Contents(
      "T",
      "L",
      comparisons=[table._replace(title="The <i> table")],
      more_findings=["It <u>drifts</u>."],
    ),
  )
  text = path.read_text()
  assert "<caption>The &lt;i&gt; table</caption>" in text
  assert "3.0 ± 0.0 (2.0)" in text
  assert "<li>It &lt;u&gt;drifts&lt;/u&gt;.</li>" in text
  assert "UA: unlearning accuracy" in text and "<dt>MIA efficacy (%)" in text
  assert "3.0 ± 0.0 (2.0)" in (tmp_path / "table.md").read_text()


STEPS = ("1. a", "2. b", "3. c")


def test_drift_is_told_by_the_gap_after_the_last_request():
  values = {
    "retrained": {},
    "good": {"retrained_gap": (0.01, 0.03, 0.02)},
    "idle": {"retrained_gap": (0.5, 0.5, 0.45)},
    "worse": {"retrained_gap": (0.02, 0.2, 0.4)},
  }
  summary = make_summary(values, requests=STEPS)
  assert report.drift_findings(summary) == [
    "After 3 requests, each served by what the one before left, good (from 1.0 "
    "to 2.0 points) has drifted least from retraining and idle (from 50.0 to "
    "45.0 points) most; in brackets the gap after the first and after the last "
    "request.",
    "The gap that grew most is that of worse (from 2.0 to 40.0 points).",
  ]


@pytest.mark.parametrize(
  ("values", "requests", "count"),
  [
    ({"retrained": {}, "a": {"retrained_gap": 0.1}}, ("one",), 0),
    ({"retrained": {}}, STEPS, 0),
    ({"retrained": {}, "a": {"retrained_gap": (0.1, 0.1, math.nan)}}, STEPS, 0),
    ({"retrained": {}, "a": {"retrained_gap": 0.1}}, STEPS, 1),
  ],
)
def test_nothing_is_said_of_a_drift_that_was_not_measured(
  values, requests, count
):
  summary = make_summary(values, requests=requests)
  found = report.drift_findings(summary)
  assert len(found) == count
  assert all("moved for a (from 10.0 to 10.0 points)" in s for s in found)
