"""Synthetic tables from end to end, on small data."""

import json

import numpy as np
import pytest
from refusals import refused

from experiments import synthetic_tables
from experiments.datasets import mixed_tables as tables
from experiments.studies.synthetic_tables_view import claim_words


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("tables")
  argv = ["--preset", "smoke", "--data", "diabetes", "--generators", "copy,vae"]
  synthetic_tables.main([*argv, "--out", str(out)])
  return out, json.loads((out / "results.json").read_text())


@pytest.mark.slow
def test_every_generator_has_a_row_with_its_scores(smoke_run):
  _, results = smoke_run
  rows = {row["method"]: row for row in results["rows"]}
  assert set(rows) == {"genuine rows", "copy", "vae"}
  for row in rows.values():
    assert row["request"] == "diabetes"
    names = (
      "basic",
      "correlation",
      "efficacy",
      "support",
      "distinguishability",
    )
    for tail, total in (
      ("", "tabsyndex"),
      ("_published", "tabsyndex_published"),
    ):
      scores = [row[name + tail] for name in names]
      assert all(0 <= score <= 1 for score in scores)
      assert row[total] == pytest.approx(np.mean(scores), abs=1e-5)
  assert len(results["config"]["curves"]["diabetes, vae"][0]) == 2
  # A bootstrap of the rows holds most of them, but not those left out.
  copy = rows["copy"]
  assert copy["forgotten_distance_without"] > copy["forgotten_distance_with"]


@pytest.mark.slow
def test_all_files_are_written_and_nothing_is_said_of_unlearning(smoke_run):
  out, _ = smoke_run
  for name in ("table.md", "report.html"):
    assert (out / name).stat().st_size > 500
  for name in ("components", "bands", "curves", "distances"):
    assert (out / "plots" / f"{name}.png").stat().st_size > 5000
  text = (out / "report.html").read_text()
  assert "from the best to the worst" in text
  assert "no retrained model" not in text


def test_missing_files_are_replaced_and_said_so(tmp_path):
  for name, other in tables.SUBSTITUTES.items():
    found = tables.load(name, str(tmp_path))
    assert found.name == other
    assert f"stands in for {name}" in found.note
    assert len(found.categories) == len(found.columns) == found.values.shape[1]
    for column, kind in enumerate(found.categories):
      if kind:
        codes = np.unique(found.values[:, column])
        np.testing.assert_array_equal(codes, np.arange(kind))


def test_a_csv_becomes_numbers_and_codes(tmp_path):
  numbers = ",".join(tables._HOUSE_NUMBERS)
  lines = [f"{numbers},ocean_proximity"]
  lines += ["1,2,3,4,5,6,7,8,9,NEAR BAY", "1,2,3,4,,6,7,8,9,INLAND"]
  lines += ["9,8,7,6,5,4,3,2,1,INLAND"]
  (tmp_path / "california_housing.csv").write_text("\n".join(lines))
  found = tables.load("california", str(tmp_path))
  # The district without total_bedrooms is left out.
  np.testing.assert_array_equal(
    found.values,
    [[1, 2, 3, 4, 5, 6, 7, 8, 9, 1], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]],
  )
  assert found.columns[found.target] == "median_house_value"
  assert found.categories == (0,) * 9 + (2,)


def test_a_file_of_words_for_numbers_is_refused(tmp_path):
  header = ",".join((*tables._HOUSE_NUMBERS, "ocean_proximity"))
  (tmp_path / "california_housing.csv").write_text(
    f"{header}\n{'x,' * 9}INLAND\n"
  )
  refused("numbers in longitude", tables.load, "california", str(tmp_path))


@pytest.mark.parametrize(
  ("curve", "words"),
  [
    ([0.5, 0.5, 0.51, 0.5], "does not rise"),
    ([0.5, 0.7, 0.8, 0.81], "then flattens"),
    ([0.5, 0.6, 0.7, 0.8], "has not flattened: it rises by 0.100"),
    ([0.5, 0.7, 0.9, 0.8], "has not flattened: it falls by 0.100"),
  ],
)
def test_the_claim_of_the_curve_is_judged_by_its_numbers(curve, words):
  assert words in claim_words(np.array(curve))


def test_rows_that_are_named_are_learnt_from_and_forgotten(tmp_path):
  (tmp_path / "rows.txt").write_text("5\n170\n")
  asked = f"index:{tmp_path / 'rows.txt'}"
  plan = synthetic_tables.prepare(
    synthetic_tables.Options(
      data="wine", request=asked, preset="smoke", seeds=3
    )
  )
  values = plan.tables[0].values
  for seed in range(3):
    found = plan.problems[0].real[seed][plan.problems[0].forget[seed]]
    np.testing.assert_array_equal(
      found[np.argsort(found[:, -1])], values[[5, 170]]
    )
  (tmp_path / "rows.txt").write_text("4294967296\n")
  with pytest.raises(ValueError, match=r"in 0 \.\. 177, got 4294967296"):
    synthetic_tables.prepare(plan.options)
