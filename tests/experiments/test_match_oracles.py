"""Datamodel matching from end to end, on small data."""

import json

import numpy as np
import pytest

from experiments import data, match_oracles
from experiments.bench import REFERENCES
from experiments.datasets import classes
from experiments.studies.match_oracles import close


@pytest.mark.slow
def test_a_run_compares_distributions(tmp_path):
  match_oracles.main([
    "--preset", "smoke", "--methods", "dmm,oracle_matching", "--seeds", "6",
    "--request", "close:8,10", "--out", str(tmp_path),
  ])  # fmt: skip
  results = json.loads((tmp_path / "results.json").read_text())
  rows = {r["method"]: r for r in results["rows"] if r["seed"] == 0}
  assert list(rows) == [*REFERENCES, "dmm", "oracle_matching"]
  for part in ("forget", "retain", "test"):
    assert rows["retrained"][f"klom_{part}"] == pytest.approx(0, abs=1e-6)
    assert 0 < rows["retrained_again"][f"klom_{part}"] <= np.log(1e5) + 0.1
  # One number a request, of all its seeds.
  found = {(r["method"], r["klom_forget"]) for r in results["rows"]}
  assert len(found) == len(rows)
  assert "the floor is" in (tmp_path / "report.html").read_text()


def test_close_rows_are_of_the_class_and_nearer_than_others():
  split = classes.split(data.load("digits", preset="smoke"), 0, "report")
  mask = close("8,10", split)
  assert mask.sum() == 10 and set(split.train["label"][mask]) == {8}
  x = split.train["x"].reshape(len(mask), -1)
  eights = split.train["label"] == 8
  spread = lambda rows: np.linalg.norm(rows - rows.mean(0), axis=1).mean()
  assert spread(x[mask]) < 0.8 * spread(x[eights])


@pytest.mark.parametrize(
  "given", [["--model", "cnn"], ["--checkpoint", "somewhere"]]
)
def test_a_model_of_ones_own_is_refused(given, tmp_path, capsys):
  with pytest.raises(SystemExit) as end:
    match_oracles.main(["--preset", "smoke", "--out", str(tmp_path), *given])
  assert end.value.code == 2
  (line,) = capsys.readouterr().err.strip().splitlines()
  assert "Expected no --model and no --checkpoint" in line


def test_settings_are_chosen_on_another_class_by_many_models():
  study = match_oracles.STUDY
  for asked, wanted in [
    (None, "close:3,40"),
    ("close:3,12;close:2,9", "close:4,12"),
    ("random:0.1", "close:3,40"),
  ]:
    options = match_oracles.Options(preset="smoke", request=asked)
    assert study.tune_request(options) == wanted
  assert study.tune_seeds >= 20
  settings = study.settings(match_oracles.Options(preset="smoke"))
  for name, method in study.methods.items():
    assert method.space and set(method.space) <= set(settings[name])


@pytest.mark.parametrize(
  ("request_text", "message"),
  [("close:8,9999", "fewer than the"), ("close:8", "number of rows")],
)
def test_bad_requests(request_text, message):
  split = classes.split(data.load("digits", preset="smoke"), 0, "report")
  with pytest.raises(ValueError, match=message):
    close(request_text.partition(":")[2], split)
