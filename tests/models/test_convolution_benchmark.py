"""The benchmark of the convolution runs and writes what it shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.benchmarks.convolution", *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )


@pytest.mark.optimized(reason="It times loops.")
@pytest.mark.slow
def test_the_smoke_preset_times_every_task_and_implementation(tmp_path):
  out = tmp_path / "new" / "times.json"
  done = call("--preset", "smoke", "--out", str(out))
  assert done.returncode == 0, done.stderr
  assert "inside scan" in done.stdout
  rows = json.loads(out.read_text())["rows"]
  assert len({(row["task"], row["implementation"]) for row in rows}) == 15
  assert all(row["inside_ms"] > 0 for row in rows)


def test_a_bad_argument_ends_in_one_line_and_status_two():
  done = call("--implementations", "fast")
  assert done.returncode == 2
  assert "'fast'" in done.stderr
  assert "Traceback" not in done.stderr
