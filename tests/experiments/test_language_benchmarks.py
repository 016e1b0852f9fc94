"""MUSE, RESTOR and ConceptVectors as studies: bad input, and their claims."""

import json

import numpy as np
import pytest

from experiments import forget_corpus, locate_concepts, restore_facts

pytest.importorskip("tokenizers")


@pytest.mark.parametrize(
  ("study", "flags", "words"),
  [
    (forget_corpus, ["--data", "/nowhere"], "--data to be a folder"),
    (forget_corpus, ["--request", "document:Nobody"], "a document of these"),
    (forget_corpus, ["--request", "owner:Ann"], "document:NAME,..."),
    (restore_facts, ["--woven", "-1"], "--woven >= 0"),
    (restore_facts, ["--request", "facts:Nobody"], "an owner of these data"),
    (
      restore_facts,
      ["--request", "facts:Alvin;documents:Invin"],
      "the same owners",
    ),
  ],
)
def test_bad_input_is_one_line(study, flags, words, tmp_path, capsys):
  with pytest.raises(SystemExit) as end:
    study.main(["--benchmark", "people", *flags, "--out", str(tmp_path / "o")])
  assert end.value.code == 2
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert line.startswith("error: ") and words in line


def test_concepts_want_a_model_that_knows_something():
  with pytest.raises(ValueError, match="got 'scratch'"):
    locate_concepts.run(locate_concepts.Options(weights="scratch"))
  with pytest.raises(ValueError, match="--rate > 0 and finite, got nan"):
    locate_concepts.run(locate_concepts.Options(rate=float("nan")))


def means(folder, names):
  rows = json.loads((folder / "results.json").read_text())["rows"]
  found = {}
  for row in rows:
    found.setdefault(row["method"], []).append([row[n] for n in names])
  return {m: np.nanmean(np.array(v, float), axis=0) for m, v in found.items()}


@pytest.mark.slow
def test_six_ways_tell_who_saw_the_documents(tmp_path):
  """On made-up people, for want of TOFU."""
  forget_corpus.main(
    ["--benchmark", "people", "--methods", "gradient_ascent,task_vector"]
    + ["--seeds", "2", "--out", str(tmp_path)]
  )
  found = means(tmp_path, ["forget_verbatim", "privleak", "utility"])
  assert found["original"][1] < -50 and found["retrained"][1] == 0
  assert found["original"][0] > found["retrained"][0] + 0.1
  config = json.loads((tmp_path / "results.json").read_text())["config"]
  assert len(config["growth"]["gradient_ascent"]["in_turn"]["utility"]) == 4
  assert config["taxonomy"]["cards"]["task_vector"]["goal"] == "edit"


@pytest.mark.slow
def test_the_retrained_model_restores_all(tmp_path):
  restore_facts.main(
    ["--benchmark", "people", "--methods", "gradient_ascent", "--seeds", "2"]
    + ["--out", str(tmp_path)]
  )
  found = means(tmp_path, ["recovery", "corrupted"])
  assert found["original"][0] == 0 and found["retrained"][0] > 0.8
  assert found["original"][1] > found["retrained"][1]
