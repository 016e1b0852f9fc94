"""Forgetting in regression from end to end, on small data."""

import csv
import json

import numpy as np
import pytest
from refusals import refused

from experiments import forget_regression
from experiments.datasets import regression as tables
from experiments.datasets.splits import split_rows
from experiments.forget_regression import Options, prepare
from experiments.studies.forget_regression import METHODS

SEEDS = 2


def run(out, *argv, preset="smoke"):
  forget_regression.main(["--preset", preset, *argv, "--out", str(out)])
  return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("regression")
  return out, run(out, "--methods", "blindspot")


@pytest.fixture
def houses(tmp_path):
  """A small file of the form of the census; one number of bedrooms is blank."""
  rng = np.random.default_rng(0)
  names = [
    *("longitude", "latitude", "housing_median_age", "total_rooms"),
    *("total_bedrooms", "population", "households", "median_income"),
    *("median_house_value", "ocean_proximity"),
  ]
  with (tmp_path / "california_housing.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(names)
    for i in range(80):
      numbers = np.round(rng.uniform(1, 9, 8), 3).tolist()
      numbers[4] = "" if i % 20 == 0 else numbers[4]
      kind = "INLAND" if i % 4 else "NEAR BAY"
      writer.writerow([*numbers, 1000 * (50 + i), kind])
  return tmp_path


def test_every_method_request_and_seed_has_a_row_with_its_numbers(smoke_run):
  _, results = smoke_run
  assert results["experiment"] == "forget_regression"
  methods = ("original", "retrained", "retrained_again", "blindspot")
  found = {(r["method"], r["request"], r["seed"]) for r in results["rows"]}
  assert found == {(m, "range:..90", s) for m in methods for s in range(SEEDS)}
  for row in results["rows"]:
    for part in ("forget", "retain", "forget_test", "retain_test", "test"):
      # A mean of squares is no less than the square of a mean.
      assert row[f"{part}_mse"] >= row[f"{part}_mae"] ** 2 > 0
    assert 0 <= row["membership_auc"] <= 1
    assert 0 <= row["membership_share"] <= 1
    assert row["is_finite"] == 1
    at_home = row["method"] == "retrained"
    assert (row["wasserstein"] == 0) == at_home
    assert (row["retrained_gap"] == 0) == at_home
    assert (row["relative_difference"] == 0) == at_home
    if at_home and row["relearn_reached"]:
      assert row["anamnesis_index"] == 1


def test_errors_are_in_the_unit_of_the_targets(smoke_run):
  _, results = smoke_run
  table = tables.split(tables.load("diabetes"), 0)
  for row in results["rows"]:
    # The mean of the targets is off by about their mean deviation.
    assert 0.1 * table.scale < row["test_mae"] < 3 * table.scale


def test_all_files_are_written(smoke_run):
  out, _ = smoke_run
  names = (
    "table.md",
    "report.html",
    "plots/densities_0.png",
    "plots/bars_0.png",
  )
  for name in names:
    assert (out / name).stat().st_size > 500
  assert "W1" in (out / "report.html").read_text()


def test_requests_are_masks_over_both_parts():
  table = tables.split(tables.load("diabetes"), 0)
  y, test_y = table.columns["target"], table.test_columns["target"]
  mask, test_mask = tables.masks("range", "100..200", table)
  np.testing.assert_array_equal(mask, (y >= 100) & (y <= 200))
  np.testing.assert_array_equal(test_mask, (test_y >= 100) & (test_y <= 200))
  # The end comes from the training rows and holds for both.
  mask, test_mask = tables.masks("lowest", "0.25", table)
  end = np.quantile(y, 0.25)
  np.testing.assert_array_equal(mask, y <= end)
  np.testing.assert_array_equal(test_mask, test_y <= end)
  mask, _ = tables.masks("group", "sex=1", table)
  np.testing.assert_array_equal(mask, table.columns["sex"] == 1)
  mask, _ = tables.masks("highest", "0.1", table)
  assert abs(mask.mean() - 0.1) < 0.02


def test_missing_numbers_are_filled_from_training_rows_alone(houses):
  table = tables.split(tables.load("california", data_dir=str(houses)), 0)
  for part in (table.train, table.test):
    assert np.isfinite(part["x"]).all() and part["x"].shape[1] == 8
  np.testing.assert_allclose(table.train["x"].mean(axis=0), 0, atol=1e-5)
  np.testing.assert_allclose(table.train["label"].std(), 1, rtol=1e-5)
  filled = table.columns["total_bedrooms"] == ""
  assert filled.any()
  known = np.array([float(v) for v in table.columns["total_bedrooms"] if v])
  x = table.train["x"][:, 4]
  # The same number in all of them, the median, between its neighbours.
  assert np.ptp(x[filled]) == 0
  below = (x[~filled] < x[filled][0]).mean()
  assert abs(below - (known < np.median(known)).mean()) < 0.02
  # In thousands of dollars.
  assert table.columns["target"].max() < 130
  mask, _ = tables.masks("group", "ocean_proximity=INLAND", table)
  assert 0.6 < mask.mean() < 0.9


def test_windows_of_a_series_do_not_reach_from_one_part_into_another(tmp_path):
  names = ["date", "HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
  count = 24 * 7 * 20
  with (tmp_path / "etth1.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows([["d", *[i % 7] * 6, i] for i in range(count)])
  source = tables.load("etth1", data_dir=str(tmp_path))
  # OT is the hour: a target is 24 hours after the last input of 24.
  week = lambda hours: np.unique(hours.astype(int) // 168)
  span = lambda target: np.concatenate([target, target - 47])
  seen = set()
  for seed in range(4):
    table = tables.split(source, seed)
    chosen = tables.split(source, seed, "select")
    np.testing.assert_array_equal(table.train["x"], chosen.train["x"])
    trained = week(span(table.columns["target"]))
    tested = week(span(table.test_columns["target"]))
    np.testing.assert_array_equal(
      week(span(chosen.test_columns["target"])), [7, 15]
    )
    assert len(tested) == 4 and not {7, 15} & {*trained, *tested}
    assert not set(trained) & set(tested)
    seen.add(tuple(tested))
    assert table.train["x"].shape[1:] == (24, 7)
    # As many for every seed, so that all of them are one program.
    assert len(table.test["label"]) == 4 * (168 - 47)
    for part, columns in (
      (table.train, table.columns),
      (table.test, table.test_columns),
    ):
      np.testing.assert_allclose(
        columns["time"] * (count - 1), columns["target"] - 24
      )
      # Inputs rise by a standardised hour a step, up to the day before.
      steps = np.diff(part["x"][:, :, -1], axis=1)
      np.testing.assert_allclose(steps, steps[0, 0], rtol=1e-2)
  assert len(seen) > 1
  mask, _ = tables.masks("time", "0.0..0.5", table)
  np.testing.assert_array_equal(mask, table.columns["time"] <= np.float32(0.5))


def test_rows_that_choose_settings_are_in_no_report():
  chosen = split_rows(100, 0, "select", test_share=0.25)[1]
  for seed in range(5):
    train, test = split_rows(100, seed, "report", test_share=0.25)
    again, select = split_rows(100, seed, "select", test_share=0.25)
    np.testing.assert_array_equal(train, again)
    np.testing.assert_array_equal(select, chosen)
    every = np.concatenate([train, test, select])
    np.testing.assert_array_equal(np.sort(every), np.arange(100))
    assert len(test) == 25 and len(select) == 10
    other = split_rows(100, seed + 1, "report", test_share=0.25)[1]
    assert set(test) != set(other)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"seeds": 0}, "--seeds > 0, got 0"),
    ({"first_seed": -1}, "--first-seed in 0 .. 2147483647, got -1"),
    ({"methods": "scrub"}, "--methods all or of finetune"),
    ({"methods": ","}, "--methods all or of finetune"),
    ({"data": "boston"}, "--data to be diabetes, california, etth1, npz:PATH"),
    ({"request": ""}, "--request lowest:SHARE"),
    ({"request": ";"}, "--request lowest:SHARE"),
    ({"request": "class:3"}, "--request lowest:SHARE"),
    ({"request": "lowest:0.1;lowest:0.1"}, "--request to differ"),
    ({"request": "lowest:x"}, r"a share in \(0, 1\), got 'x'"),
    ({"request": "lowest:1"}, r"a share in \(0, 1\), got '1'"),
    ({"request": "range:5"}, "range:FROM..TO, got 'range:5'"),
    ({"request": "range:900.."}, "range that has rows"),
    ({"request": "range:0..999"}, "covers all"),
    ({"request": "time:0..0.5"}, "data with a time"),
    ({"request": "group:sex"}, "COLUMN=VALUE with a column among"),
    ({"request": "group:sex=3"}, "a group of these data, got 3"),
    ({"data": "california", "data_dir": "/nowhere"}, "california_housing.csv"),
  ],
)
def test_bad_options_are_one_line(options, message, monkeypatch):
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)
  refused(message, prepare, Options(**options))


def test_without_a_folder_that_is_said(monkeypatch):
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)
  refused(r"--data-dir \(or JAXUNLEARN_DATA\)", prepare, Options(data="etth1"))


def test_files_that_are_not_as_they_should_be_are_named(houses, tmp_path):
  path = houses / "california_housing.csv"
  good = path.read_text()
  load = lambda name="california": tables.split(
    tables.load(name, data_dir=str(tmp_path)), 0
  )
  path.write_text("\n".join(good.splitlines()[:6]))
  refused("12 rows or more, got 5", load)
  lines = good.splitlines()
  path.write_text("\n".join([*lines, lines[1].replace(",", ",x", 1)]))
  refused("numbers in longitude", load)
  constant = [lines[0], *(",".join(["1"] * 9 + ["INLAND"]) for _ in range(20))]
  path.write_text("\n".join(constant))
  refused("targets that differ", load)
  header = "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT\n"
  (tmp_path / "etth1.csv").write_text(header + "d,1,2,3,4,5,6,\n" * 400)
  refused(r"all columns of .*etth1.csv, got blanks", load, "etth1")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["california", "etth1"])
def test_the_other_tables_run(source, tmp_path, data_dir):
  results = run(
    tmp_path, "--data", source, "--data-dir", str(data_dir), "--seeds", "1"
  )
  assert len({r["request"] for r in results["rows"]}) == 2
  assert {r["method"] for r in results["rows"]} == {
    "original",
    "retrained",
    "retrained_again",
    *METHODS,
  }


@pytest.mark.optimized(reason="A claim about what users run.")
@pytest.mark.slow
def test_blindspot_is_near_retraining_on_the_cheapest_houses(
  tmp_path, data_dir
):
  results = run(
    tmp_path,
    *("--data", "california", "--data-dir", str(data_dir)),
    *("--request", "lowest:0.2", "--methods", "finetune,blindspot"),
    preset="quick",
  )
  of = lambda method, name: np.array(
    [r[name] for r in results["rows"] if r["method"] == method]
  )
  mean = lambda method, name: of(method, name).mean()
  share = lambda method, name: mean(method, name) / mean("retrained", name)
  for part in ("forget_mae", "forget_test_mae"):
    assert abs(share("blindspot", part) - 1) < 0.15
    assert share("original", part) < 0.6
    assert share("finetune", part) < 0.85
  assert abs(share("blindspot", "retain_test_mae") - 1) < 0.05
  moved = mean("blindspot", "wasserstein") / mean("original", "wasserstein")
  assert moved < 0.5
  # Not as near as retraining: of the forget rows 25 % are called members, not
  # the 14 % of the retrained model, with 68 % before (BUILD_NOTES.md).
  called = lambda method: mean(method, "membership_share")
  left = called("blindspot") - called("retrained")
  assert left < 0.5 * (called("original") - called("retrained"))
