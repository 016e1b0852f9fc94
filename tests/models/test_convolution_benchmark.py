"""The benchmark of the convolution runs and writes what it shows."""

import json

import pytest

from experiments.benchmarks import convolution


@pytest.mark.optimized(reason="It times loops.")
@pytest.mark.slow
def test_the_smoke_preset_times_every_task_and_implementation(tmp_path, capsys):
  out = tmp_path / "new" / "times.json"
  convolution.main(convolution.Options("smoke", out=str(out)))
  assert "inside scan" in capsys.readouterr().out
  rows = json.loads(out.read_text())["rows"]
  assert len({(row["task"], row["implementation"]) for row in rows}) == 15
  assert all(row["inside_ms"] > 0 for row in rows)


def test_a_bad_argument_ends_in_one_line_and_status_two(capsys):
  with pytest.raises(SystemExit) as stop:
    convolution.main(convolution.Options(implementations=("fast",)))
  assert stop.value.code == 2
  assert "'fast'" in capsys.readouterr().err
