"""The form of results, their checks, and their summary."""

import json
import math
import statistics

import numpy as np
import pytest

from jaxunlearn import report
from jaxunlearn.report import results


def make_row(method="unsir", request="class 3", seed=0, **metrics):
  return {
    "method": method,
    "request": request,
    "seed": seed,
    "seconds_compile": 1.0,
    "seconds_run": 0.5,
    **metrics,
  }


def make_results(rows):
  return report.Results("classes", "smoke", "0.10", "cpu", {"steps": 3}, rows)


def test_results_survive_writing_and_reading_with_nan_as_null(tmp_path):
  rows = [
    make_row(forget_accuracy=np.float32(0.5), zrf=math.nan),
    make_row("retrained", seed=np.int64(2), forget_accuracy=math.inf),
  ]
  value = report.results_to_json(make_results(rows))
  path = report.write_json(tmp_path / "results.json", value)
  raw = json.loads(path.read_text())
  assert set(raw) == {"experiment", "preset", "jax", "device", "config", "rows"}
  assert raw["rows"][0] == make_row(forget_accuracy=0.5, zrf=None)
  assert raw["rows"][1]["forget_accuracy"] is None
  back = report.read_results(path)
  assert back.config == {"steps": 3}
  assert back.rows[0]["forget_accuracy"] == 0.5
  assert math.isnan(back.rows[0]["zrf"])
  assert back.rows[1]["seed"] == 2


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda v: v.pop("device"), "the field device, got none"),
    (lambda v: v.update(preset=3), "preset to be some text, got 3"),
    (lambda v: v.update(experiment=" "), "experiment to be some text"),
    (lambda v: v.update(config=[1]), "config to be a mapping, got list"),
    (lambda v: v.update(rows={"a": 1}), "rows to be a list, got dict"),
    (lambda v: v.update(rows=[3]), r"rows\[0\] to be a mapping, got int 3"),
    (lambda v: v["rows"][0].pop("seed"), r"rows\[0\] to have the field seed"),
    (
      lambda v: v["rows"][0].pop("seconds_run"),
      r"rows\[0\] to have the field seconds_run",
    ),
    (
      lambda v: v["rows"][0].update(seed=True),
      r"rows\[0\]\.seed to be an integer, got True",
    ),
    (
      lambda v: v["rows"][0].update(method=None),
      r"rows\[0\]\.method to be some text, got None",
    ),
    (
      lambda v: v["rows"][0].update(zrf="high"),
      r"rows\[0\]\.zrf to be a number or null, got str 'high'",
    ),
    (
      lambda v: v["rows"][0].update(zrf=[0.5]),
      r"rows\[0\]\.zrf to be a number or null, got list",
    ),
    (
      lambda v: v["rows"][0].update(zrf=10**400),
      r"rows\[0\]\.zrf to be a number or null, got int",
    ),
    (
      lambda v: v["rows"].append(dict(v["rows"][0])),
      r"rows\[0\] and rows\[1\] both for \('unsir', 'class 3', 0\)",
    ),
  ],
)
def test_a_broken_field_is_named_in_one_line(tmp_path, change, message):
  value = report.results_to_json(make_results([make_row(zrf=0.5)]))
  change(value)
  path = tmp_path / "results.json"
  path.write_text(json.dumps(value))
  with pytest.raises(ValueError, match=message) as caught:
    report.read_results(path)
  assert "\n" not in str(caught.value)
  assert "results.json" in str(caught.value)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"{",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b"\xff\xfe",
    b"[" * 100_000,
    b"[1]",
    b"1" * 10_000,
  ],
)
def test_a_file_that_is_no_strict_json_mapping_is_rejected(tmp_path, content):
  path = tmp_path / "results.json"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"results\.json") as caught:
    report.read_results(path)
  assert "\n" not in str(caught.value)


def test_a_missing_file_is_rejected_by_name(tmp_path):
  with pytest.raises(ValueError, match=r"none\.json to be a readable file"):
    report.read_results(tmp_path / "none.json")


def test_summary_agrees_with_numpy_over_seeds_and_requests():
  rng = np.random.default_rng(0)
  values = rng.random((2, 3, 4))  # Methods, requests, seeds.
  rows = [
    make_row(method, f"r{j}", k, zrf=values[i, j, k])
    for k in range(4)
    for i, method in enumerate(["unsir", "retrained"])
    for j in range(3)
  ]
  summary = report.summarise(rows, ["zrf"])
  assert summary.methods == ("retrained", "unsir")
  assert summary.requests == ("r0", "r1", "r2")
  assert summary.candidates == ("unsir",)
  for j in range(3):
    cell = summary.cells["unsir", f"r{j}"]["zrf"]
    np.testing.assert_allclose(cell.mean, values[0, j].mean(), rtol=1e-12)
    np.testing.assert_allclose(cell.std, values[0, j].std(ddof=1), rtol=1e-12)
    assert cell.n == 4
  overall = summary.overall["retrained"]["zrf"]
  by_seed = values[1].mean(axis=0)
  np.testing.assert_allclose(overall.mean, by_seed.mean(), rtol=1e-12)
  np.testing.assert_allclose(overall.std, by_seed.std(ddof=1), rtol=1e-12)
  assert (overall.n, overall.rows, overall.total) == (4, 12, 12)


def test_summary_leaves_out_missing_values_and_counts_them():
  rows = [
    make_row(seed=0, zrf=1.0),
    make_row(seed=1, zrf=math.nan),
    make_row(seed=2, zrf=None),
    make_row(seed=3),
    make_row(seed=4, zrf=3.0),
  ]
  cell = report.summarise(rows).overall["unsir"]["zrf"]
  assert (cell.mean, cell.n, cell.rows, cell.total) == (2.0, 2, 2, 5)
  np.testing.assert_allclose(cell.std, math.sqrt(2))


def test_summary_of_one_seed_has_no_spread_and_of_no_row_is_empty():
  cell = report.summarise([make_row(zrf=1.0)]).overall["unsir"]["zrf"]
  assert cell.mean == 1.0
  assert math.isnan(cell.std)
  empty = report.summarise([])
  assert empty.methods == empty.requests == empty.metrics == ()


@pytest.mark.parametrize(
  "values",
  [[0.1, 0.2, 0.7], [1e8 + 0.1, 1e8, 1e8 - 0.3], [0.1] * 3, [1e200, -1e200]],
)
def test_a_deviation_is_that_of_exact_numbers(values):
  found = results._deviation(values)
  assert found == pytest.approx(statistics.stdev(values), rel=1e-12, abs=0)
