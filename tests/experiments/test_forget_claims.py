"""What the project claims of its methods, on real data and five seeds."""

import json

import numpy as np
import pytest

from experiments import forget
from experiments.benchmarks import phase, requests


def rows_of(out):
  rows = json.loads((out / "results.json").read_text())["rows"]

  def column(method, metric):
    """[requests, seeds]."""
    mine = [r for r in rows if r["method"] == method]
    names = list(dict.fromkeys(r["request"] for r in mine))
    return np.array(
      [[r[metric] for r in mine if r["request"] == name] for name in names]
    )

  return column


@pytest.mark.slow
def test_one_class_of_digits_is_forgotten_and_the_rest_kept(tmp_path):
  out = tmp_path / "out"
  forget.main(
    [
      "--request=each-class",
      "--methods=unsir,bad_teacher",
      "--seeds=5",
      f"--out={out}",
    ]
  )
  column = rows_of(out)
  assert column("original", "forget_accuracy").mean() > 0.95
  kept = column("retrained", "retain_test_accuracy").mean(axis=1)
  for method, most_left, most_lost in [
    ("unsir", 0.02, 0.04),
    ("bad_teacher", 0.05, 0.03),
  ]:
    left = column(method, "forget_test_accuracy").mean(axis=1)
    lost = kept - column(method, "retain_test_accuracy").mean(axis=1)
    assert left.shape == (10,)
    assert left.max() <= most_left and lost.max() <= most_lost, method
  gap = {m: column(m, "retrained_gap").mean() for m in ("original", "unsir")}
  assert gap["unsir"] < gap["original"] / 5


@pytest.mark.slow
def test_cifar10_from_the_data_folder_runs_end_to_end(tmp_path, data_dir):
  if not (data_dir / "cifar10_train.npz").is_file():
    pytest.skip("the data folder has no cifar10_train.npz")
  out = tmp_path / "out"
  forget.main(
    [
      "--data=cifar10",
      f"--data-dir={data_dir}",
      "--model=cnn",
      "--preset=smoke",
      "--methods=finetune",
      "--seeds=1",
      f"--out={out}",
    ]
  )
  column = rows_of(out)
  assert np.isfinite(column("finetune", "test_accuracy")).all()
  assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_benchmarks_run(tmp_path):
  rows = phase.main(phase.Options(1, 3, str(tmp_path / "phase.json")))
  assert len(rows) == 4 and all(row["ratio"] > 0 for row in rows)
  rows = requests.main(requests.Options(1, 3, str(tmp_path / "requests.json")))
  assert {row["work"] for row in rows} == {"unsir", "retrain"}
  assert json.loads((tmp_path / "requests.json").read_text())["rows"] == rows
