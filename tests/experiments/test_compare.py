"""The study that sets models side by side."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import pytest

from experiments import compare
from experiments.beds import models
from jaxunlearn import report
from jaxunlearn.adapters import orbax


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  out = tmp_path_factory.mktemp("compare") / "first"
  compare.main([
    "--preset=smoke", "--methods=random_label,ssd", "--rows=300", f"--out={out}",
  ])  # fmt: skip
  return out


def read(out):
  text = (out / "compare.html").read_text()
  found = re.search(
    r'<script type="application/json" id="shared">(.*?)</script>', text
  )
  return text, json.loads(found.group(1))


@pytest.mark.slow
def test_every_model_of_every_seed_is_there(run):
  text, shared = read(run)
  names = shared["params"]["names"]
  first = ["original", "retrained", "retrained_again", "random_label", "ssd"]
  assert names == first + [f"{name}, seed 1" for name in first]
  assert len(shared["datasets"]["rows"]) == 300
  forget = sum(row["forget"] for row in shared["datasets"]["rows"])
  rows = report.read_results(run / "results.json").rows
  assert forget > 100 and len(rows) == 10
  score = {(r["method"], r["seed"]): r["privacy_score"] for r in rows}
  assert score["retrained", 0] == score["retrained", 1] == 1
  assert "experiments.compare" in text and "LiRA" in text


@pytest.mark.slow
def test_models_of_an_earlier_run_join_and_others_are_refused(
  run, tmp_path, capsys
):
  out = tmp_path / "second"
  same = ["--preset=smoke", "--methods=ssd", "--rows=50", f"--out={out}"]
  compare.main([*same, f"--runs={run}"])
  names = read(out)[1]["params"]["names"]
  assert {"first/random_label", "first/original"} <= set(names)
  with pytest.raises(SystemExit) as end:
    compare.main([*same, f"--runs={run}", "--request=class:4"])
  assert end.value.code == 2
  assert (
    "Expected --runs of the same rows and request" in capsys.readouterr().err
  )


def test_models_of_an_earlier_run_are_read(tmp_path):
  options = compare.Options(preset="smoke", methods="ssd")
  plan = compare.prepare(options)
  like = models.abstract_variables(plan.model, plan.dataset.train["x"])
  made = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
  folder = tmp_path / "run"
  orbax.save(folder / "params" / "mine", made, forget_mask=plan.forget[0])
  again = compare.prepare(dataclasses.replace(options, runs=str(folder)))
  assert again.methods == ("ssd", "run/mine")


@pytest.mark.parametrize(
  "flag, message",
  [
    ("--rows=2001", "--rows in 2 .. 2000, got 2001"),
    ("--request=class:1;class:2", "--request to be one request, got 2"),
    ("--runs=/nowhere", "--runs to have params/, got /nowhere"),
    ("--runs=,", "--runs to be a path, got ''"),
    ("--classes=99999999", "--classes of at most 100000, got 99999999"),
  ],
)
def test_bad_flags_end_in_one_line(flag, message, tmp_path, capsys):
  with pytest.raises(SystemExit) as end:
    compare.main(["--preset=smoke", f"--out={tmp_path}", flag])
  assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.optimized(reason="a claim about what users run")
def test_random_labels_are_perfect_by_accuracy_and_the_worst_to_an_attacker(
  tmp_path,
):
  compare.main([
    "--preset=quick", "--seeds=2", f"--out={tmp_path}",
    "--methods=finetune,random_label,ssd",
  ])  # fmt: skip
  rows = report.read_results(tmp_path / "results.json").rows
  mean = lambda method, name: (
    sum(r[name] for r in rows if r["method"] == method) / 2
  )
  assert mean("random_label", "forget_accuracy") < 0.02
  worst = mean("random_label", "privacy_score")
  assert worst < 0.1
  assert worst == min(mean(r["method"], "privacy_score") for r in rows)
  assert mean("retrained_again", "privacy_score") > 0.7
