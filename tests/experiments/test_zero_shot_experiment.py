"""The curve of zero-shot unlearning from end to end, on small data."""

import json

import jax
import numpy as np
import pytest

from experiments import zero_shot
from experiments.bench import REFERENCES
from experiments.studies.zero_shot import VARIANTS

ASKED = ("gkt_attention", "gkt_no_gate")
FAST = ["--preset", "smoke", "--methods", ",".join(ASKED)]
METHODS = [*REFERENCES, *ASKED]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("zero_shot")
  zero_shot.main([*FAST, "--request", "class:3", "--out", str(out)])
  return out, json.loads((out / "results.json").read_text())


def test_results_have_a_row_for_every_method_and_seed(digits_run):
  _, results = digits_run
  assert (results["experiment"], results["preset"]) == ("zero_shot", "smoke")
  assert results["jax"] == jax.__version__
  found = [(r["method"], r["request"], r["seed"]) for r in results["rows"]]
  assert found == [(m, "class:3", seed) for m in METHODS for seed in (0, 1)]
  for row in results["rows"]:
    for name in ("forget", "retain"):
      assert 0 <= row[f"{name}_accuracy"] <= 1
      assert 0 <= row[f"{name}_test_accuracy"] <= 1
    for name in ("inverted_likeness", "inverted_likeness_kept"):
      assert -1 <= row[name] <= 1
    assert 0 <= row["inverted_probability"] <= 1
    assert row["seconds_run"] > 0 and row["seconds_compile"] > 0


def test_all_files_are_written(digits_run):
  out, _ = digits_run
  assert sorted(p.name for p in out.iterdir()) == [
    ".jaxunlearn-run.json",
    "curves.json",
    "params",
    "plots",
    "report.html",
    "results.json",
    "table.md",
  ]
  plots = sorted(p.name for p in (out / "plots").iterdir())
  assert plots == ["curves.png", "inversion.png"]
  assert "gkt_attention" in (out / "report.html").read_text()


def test_curves_end_where_the_rows_do_and_the_gate_is_off_when_off(digits_run):
  out, results = digits_run
  content = json.loads((out / "curves.json").read_text())
  assert content["cycle"] == [2, 4, 6] and content["requests"] == ["class:3"]
  for name in ASKED:
    curve = {k: np.asarray(v) for k, v in content["curves"][name].items()}
    assert all(v.shape == (1, 2, 3) for v in curve.values())
    assert ((curve["kept"] == 1).all()) == (VARIANTS[name][1] == 1)
    rows = [r for r in results["rows"] if r["method"] == name]
    for kind in ("forget_test_accuracy", "retain_test_accuracy"):
      last = curve[kind][0, :, -1]
      np.testing.assert_allclose(last, [r[kind] for r in rows], atol=1e-6)
    highest = curve["forget_test_accuracy"].max(axis=-1)[0]
    found = [r["forget_test_accuracy_highest"] for r in rows]
    np.testing.assert_allclose(found, highest, atol=1e-6)


def test_original_and_retrained_models_are_what_they_say(digits_run):
  _, results = digits_run
  rows = {r["method"]: r for r in results["rows"] if r["seed"] == 0}
  assert rows["original"]["forget_test_accuracy"] > 0.8
  assert rows["retrained"]["forget_test_accuracy"] == 0
  assert rows["gkt_attention"]["forget_test_accuracy"] <= 0.05
