"""All benchmarks as one command, and those that have no test of their own."""

import importlib
import json

import pytest

from experiments.benchmarks import end_to_end, first_result, memory

everything = importlib.import_module("experiments.benchmarks.__main__")


@pytest.mark.parametrize("name", everything.PARTS)
def test_every_part_takes_its_flags_and_a_place_for_its_figures(name):
  part = importlib.import_module(f"experiments.benchmarks.{name}")
  fields = part.Options.__dataclass_fields__
  assert "out" in fields
  for flags in everything.PARTS[name].values():
    named = [flag[2:] for flag in flags if flag.startswith("--")]
    assert set(named) <= set(fields)


def test_a_table_has_the_figures_of_every_row_and_no_empty_column():
  rows = [
    {"work": "a", "library": {"seconds": 1.23456}, "peer": None},
    {"work": "b", "library": {"seconds": 2.0, "programs": 3}},
  ]
  head, _, first, second = everything.markdown(rows).splitlines()
  assert head == "| work | library seconds | library programs |"
  assert first == "| a | 1.23 |  |" and second == "| b | 2 | 3 |"


def test_what_fails_is_named_and_the_rest_is_kept(monkeypatch, tmp_path):
  def run(name, flags):
    found = {"command": f"run {name}", "seconds": 1.0, "load": 0.5}
    if name == "cold":
      return found | {"rows": [], "failed": "no room"}
    return found | {"rows": [{"method": "ssd", "beside": 2.5}]}

  monkeypatch.setattr(everything, "run", run)
  out = tmp_path / "figures"
  with pytest.raises(SystemExit) as stop:
    everything.main(everything.Options(str(out), only=("cold", "memory")))
  assert stop.value.code == 1
  page = (out / "table.md").read_text()
  assert "Failed: no room" in page and "| ssd | 2.5 |" in page
  parts = json.loads((out / "results.json").read_text())["parts"]
  assert list(parts) == ["cold", "memory"]


def test_an_unknown_part_ends_in_one_line(capsys, tmp_path):
  with pytest.raises(SystemExit) as stop:
    everything.main(everything.Options(str(tmp_path / "o"), only=("colt",)))
  assert stop.value.code == 2
  assert "--only" in capsys.readouterr().err


def test_a_trained_step_needs_its_moments_and_ssd_does_not():
  # Beside the original: what is trained, Adam's two moments and the result.
  assert 3.5 < memory.measure("finetune")["beside"] < 6.5
  assert memory.measure("ssd")["beside"] < memory.measure("finetune")["beside"]


def test_gradients_of_rows_fit_a_budget_however_large_the_model_is():
  params, needed = memory.program("fisher_forgetting", 1300)
  # Three rows at a time, of ten classes each; all 64 would be 640 P.
  assert needed < 40 * params


@pytest.mark.slow
def test_the_first_result_comes_sooner_with_what_was_kept(tmp_path):
  out = tmp_path / "first.json"
  options = first_result.Options(methods=("SSD",), repeats=1, out=str(out))
  (row,) = first_result.main(options)
  assert row["cached_request"] < row["cold_request"]
  assert json.loads(out.read_text())["rows"] == [row]


@pytest.mark.slow
def test_ten_requests_end_to_end_reach_the_same_on_both_sides(tmp_path):
  pytest.importorskip("torch")
  out = tmp_path / "ten.json"
  options = end_to_end.Options(
    "smoke", ("MLP",), ("UNSIR",), threads=(1,), repeats=1, out=str(out)
  )
  (row,) = end_to_end.main(options)
  assert set(row["scores"]) == {"retrained", "UNSIR"} == set(row["peer_scores"])
  # Both do what was asked for: a class is unknown to whom never saw it.
  for scores in (row["scores"], row["peer_scores"]):
    assert scores["retrained"]["forget"] < 0.05 < scores["retrained"]["kept"]
  assert row["seconds"]["cached"]["median"] < row["seconds"]["cold"]["median"]
  assert json.loads(out.read_text())["rows"] == [row]


def test_without_pytorch_ten_requests_end_in_one_line(monkeypatch, capsys):
  monkeypatch.setattr(end_to_end.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SystemExit) as stop:
    end_to_end.main(end_to_end.Options())
  assert stop.value.code == 2
  assert "Expected PyTorch, got none" in capsys.readouterr().err
