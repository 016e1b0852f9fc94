"""The shortest study on the frame: rows of scikit-learn's tables."""

import numpy as np
import pytest

from experiments import forget_table, launch
from jaxunlearn import report


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("table")
  forget_table.main(["--preset=smoke", "--data=wine", f"--out={out}"])
  return out, report.read_results(out / "results.json").rows


def test_every_method_is_held_against_retraining(smoke_run):
  out, rows = smoke_run
  names = {row["method"] for row in rows}
  assert names > {"original", "retrained", "retrained_again", "newton_step"}
  assert len(rows) == len(names) * 2 * 2
  for row in rows:
    assert 0 <= row["forget_accuracy"] <= 1 and row["is_finite"]
    assert row["method"] != "retrained" or row["js_to_retrained"] == 0
    # The frame says of every method whether somebody set it by hand.
    assert row.get("is_tuned", 0) == 0
  assert "default, by hand" in (out / "report.html").read_text()


def test_a_newton_step_brings_a_linear_model_to_the_retrained_one(smoke_run):
  mean = lambda method: np.mean([
    row["js_to_retrained"]
    for row in smoke_run[1]
    if (row["method"], row["request"]) == (method, "random:0.1")
  ])  # fmt: skip
  assert mean("newton_step") < 0.5 * mean("original")


def test_the_study_fits_on_a_few_pages():
  path = launch.ROOT / "studies" / "forget_table.py"
  assert len(path.read_text().splitlines()) <= 200
