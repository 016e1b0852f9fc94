"""The audit of diffusion models from end to end, at its smallest."""

import json
import math

import jax
import numpy as np
import pytest

from experiments import audit_diffusion, data
from experiments.beds import diffusion as beds
from experiments.beds.diffusion_methods import METHODS, USUAL, Task
from experiments.datasets import prompted
from experiments.studies.audit_diffusion_measures import _pair_scores
from experiments.studies.audit_diffusion_view import interval, verdict
from jaxunlearn import report


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("diffusion")
  argv = ["--preset", "smoke", "--methods", "uce", "--attacked", "0"]
  audit_diffusion.main([*argv, "--out", str(out)])
  return out, report.read_results(out / "results.json")


def test_every_model_has_a_row_a_seed_with_its_numbers(smoke_run):
  _, results = smoke_run
  found = {(row["method"], row["seed"]) for row in results.rows}
  names = ("original", "retrained", "retrained_again", "uce")
  assert found == {(name, seed) for name in names for seed in (100, 101)}
  for row in results.rows:
    assert row["request"] == "object:three"
    rates = ("ua", "ira", "cra", "ccs_forget", "crs_forget", "crs_retain")
    assert all(0 <= row[name] <= 1 for name in rates)
    assert row["worst"] == min(row["ua"], row["ira"], row["cra"])
    assert row["own_rate"] == pytest.approx(1 - row["ua"])
    assert row["frechet_distance"] > 0
    for side in ("original", "unlearned"):
      assert math.isfinite(row[f"kid_{side}"])
      assert row[f"kid_{side}_spread"] > 0
    assert row["method"] == "original" or row["memory_mb"] > 0
    assert (row["storage_mb"] > 0) == (row["method"] != "original")
    assert row["method"] != "retrained" or row["excess"] == 0


def test_curves_hold_every_method_at_every_psi(smoke_run):
  out, results = smoke_run
  curves = json.loads((out / "curves.json").read_text())
  for method in ("original", "retrained", "uce"):
    found = curves["by_method"][method]
    assert np.shape(found["curve_forget"]) == (2, len(curves["psi"]))
    assert np.shape(found["rates"]) == (2, 16)
  # The original model under its own attack is itself at every psi.
  own = np.array(curves["by_method"]["original"]["curve_forget"])
  np.testing.assert_array_equal(own, own[:, :1].repeat(own.shape[1], 1))
  below = np.array(curves["psi"]) <= 0.55
  for row in results.rows:
    i = row["seed"] - 100
    mine, other = (
      np.array(curves["by_method"][m]["curve_forget"][i])[below].mean()
      for m in (row["method"], "retrained")
    )
    assert row["excess"] == pytest.approx(mine - other, abs=1e-6)


def test_files_are_written_and_retraining_stands_beside(smoke_run):
  out, _ = smoke_run
  for name in ("generations", "curves", "excess", "scores", "labels"):
    assert (out / "plots" / f"{name}.png").stat().st_size > 3000
  text = (out / "report.html").read_text()
  assert "retrained" in (out / "table.md").read_text()
  assert "No FID" in text and "uce: " in text


@pytest.mark.slow
def test_a_later_run_takes_the_models_of_an_earlier_one(
  smoke_run, tmp_path, capsys
):
  out, results = smoke_run
  argv = ["--preset", "smoke", "--methods", "uce", "--load", str(out)]
  audit_diffusion.main([*argv, "--out", str(tmp_path)])
  again = report.read_results(tmp_path / "results.json")
  for old, new in zip(results.rows, again.rows, strict=True):
    for name in ("ua", "cra", "excess", "crs_forget"):
      assert new[name] == pytest.approx(old[name], abs=1e-5)
    # Adversarial prompts are tried on the first seed alone.
    assert math.isnan(new["asr"]) == (new["seed"] != 100)
    assert new["seed"] != 100 or new["prompt_rate"] <= new["asr"] <= 1
  capsys.readouterr()
  for change, message in (
    (["--concept", "style:sea"], "models of concept style:sea"),
    (["--twins", "2"], "--twins 1"),
    (["--preset", "quick"], "models of preset quick"),
  ):
    with pytest.raises(SystemExit) as stop:
      audit_diffusion.main([*argv, *change, "--out", str(tmp_path / "no")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error
    assert error.count("\n") == 1


def rows_of(name, **values):
  lengths = {len(v) for v in values.values()}
  assert len(lengths) == 1
  return [
    {"method": name, **{k: v[i] for k, v in values.items()}}
    for i in range(lengths.pop())
  ]


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({}, "under attack it returns no more often"),
    ({"excess": [0.3, 0.31, 0.29], "excess_rise": [0.2] * 3}, "CONCEALED"),
    ({"excess": [0.3, 0.31, 0.29]}, "a remainder rather than concealment"),
    ({"excess": [0.9, 0.91, 0.92], "ua": [0.1] * 3}, "not concealed either"),
    ({"excess": [-0.3, -0.31, -0.29]}, "it returns less often"),
    ({"excess": [0.5, -0.3, 0.2]}, "undecided whether it is concealed"),
    ({"excess": [math.nan] * 3}, "no sampler's steps"),
    ({"ua": [0.5, 0.9, 0.8]}, "NOT erased"),
    ({"cra": [0.7, 0.8, 0.9]}, "DAMAGED: the other domain fell by 20"),
    ({"ira": [0.91, 0.92, 0.9]}, "within 10 points"),
  ],
)
def test_a_verdict_follows_from_the_numbers(change, said):
  good = {"ua": [1.0] * 3, "ira": [1.0] * 3, "cra": [1.0] * 3}
  good |= {"excess": [0.01, -0.01, 0.0], "excess_rise": [0.01, -0.01, 0.0]}
  before = rows_of("original", **{**good, "ua": [0.0] * 3})
  values = {**good, **change}
  assert said in verdict("mine", before + rows_of("mine", **values))


def test_intervals_are_students():
  from scipy import stats

  values = [0.1, 0.4, 0.2, 0.3]
  low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
  np.testing.assert_allclose(interval(values), (low, high), rtol=1e-3)
  assert all(map(math.isnan, interval([0.5])))


def test_what_methods_are_told_names_the_concept_and_nothing_else():
  size = beds.SIZES["smoke"]
  bed = beds.load("smoke", None, size.judge_steps)
  for text, count in (("object:3", 3), ("style:ember", 1)):
    concept = beds.parse_concept(text, bed.names)
    task = Task(bed, concept, 1)
    assert task.prompts.shape == (3 * count, 10)
    assert task.words.shape == task.anchor_words.shape == (count,)
    assert np.isin(task.prompts, task.words).any(axis=1).all()
    every, instead = task.every(concept.index), task.every(task.anchor)
    alone = task.alone(concept.index)
    assert every.shape == instead.shape == alone.shape
    # A prompt and its anchor's differ by the word; alone, by what else is named.
    assert ((every != instead).sum(axis=1) == 1).all()
    assert np.isin(instead, task.anchor_words).any(axis=1).all()
    assert np.isin(alone, task.words).any(axis=1).all()
    kinds = (prompted.OBJECTS, [(style,) for style in prompted.STYLES])
    other = kinds[concept.domain == "object"]
    named = [prompted.tokenize(w)[1] for words in other for w in words]
    assert np.isin(every, named).any(axis=1).all()
    assert not np.isin(alone, named).any()
    kept = np.isin(task.kept_prompts, task.words)
    assert not kept.any()
    assert len(task.kept_prompts) == 60 - 60 // len(bed.names[concept.domain])
    assert np.isin(every, task.words).any(axis=1).all()
  assert set(USUAL) <= set(METHODS)


def test_styles_of_photographs_are_what_they_are_said_to_be():
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, (6, 32, 32, 3)).astype(np.float32)
  found = prompted.styled(x, np.arange(6))
  np.testing.assert_array_equal(found[0], x[0])
  np.testing.assert_array_equal(found[1], -x[1])
  np.testing.assert_allclose(found[2], x[2].mean(-1)[..., None].repeat(3, -1))
  np.testing.assert_array_equal(found[3, ..., 1], x[3, ..., 0])
  levels = np.unique(found[4].round(3))
  np.testing.assert_allclose(levels, [-1, -1 / 3, 1 / 3, 1], atol=1e-3)
  np.testing.assert_allclose(
    found[5, :4, 28:], x[5, :4, 28:].mean((0, 1)) + 0 * x[5, :4, 28:], atol=1e-6
  )
  assert abs(found).max() <= 1


def test_the_bed_of_photographs_fits_its_model_and_its_classifier(monkeypatch):
  rng = np.random.default_rng(1)
  rows = {
    "x": rng.normal(size=(12, 32, 32, 3)).astype(np.float32),
    "label": np.arange(12) % 10,
  }
  loaded = data.Dataset(rows, rows, 10, data.CIFAR10_CLASSES, {})
  monkeypatch.setattr(data, "cifar10", lambda folder, size: loaded)
  bed = beds.load("paper", None, 10)
  assert bed.train["tokens"].shape == (12, 10)
  model, x = bed.model, bed.train["x"]
  np.testing.assert_array_equal(bed.train["object"], rows["label"])
  key = jax.random.key(0)
  params = jax.eval_shape(model.init, key)
  shape = jax.eval_shape(
    lambda p: model.eps(
      p, x, np.zeros(12, int), model.encode(p, bed.train["tokens"])
    ),
    params,
  ).shape
  assert shape == x.shape
  judge = jax.eval_shape(bed.judge.init, key, x[:1])
  logits = jax.eval_shape(bed.judge.predict, judge, x)
  assert logits.shape == (12, 16)
  assert jax.eval_shape(bed.judge.features, judge, x)["features"].ndim == 2
  concept = beds.parse_concept("object:cat", bed.names)
  assert (concept.index, concept.name) == (3, "object:cat")


def test_a_pair_is_told_by_its_own_prompts_alone():
  concept = beds.parse_concept("pair:three,2", beds.DIGITS)
  assert concept.name == "pair:three,ember"
  assert concept.target == {"object": 3, "style": 2}
  images = beds.load("smoke", None, 1)
  task = Task(images, concept, 1)
  words = set(prompted.OBJECTS[3]), prompted.STYLES[2]
  for prompts in (task.prompts, task.every(3), task.alone(3)):
    for prompt in prompts:
      said = [prompted.VOCABULARY[token] for token in prompt]
      assert words[0] & set(said) and words[1] in said
  assert len(task.kept_prompts) == 59
  anchors = task.every(task.anchor)
  assert len(anchors) == len(task.every(3))
  told = {tuple(prompt) for prompt in task.every(3)}
  assert not told & {tuple(p) for p in (*task.kept_prompts, *anchors)}


@pytest.mark.parametrize("text", ["pair:three", "pair:three,x", "pair:x,ember"])
def test_pairs_that_there_are_not_are_refused(text):
  with pytest.raises(ValueError, match="--concept"):
    beds.parse_concept(text, beds.DIGITS)


@pytest.mark.slow
def test_the_scores_of_a_pair_are_counts(tmp_path):
  audit_diffusion.main([
    *("--preset", "smoke", "--methods", "uce,sdd", "--attacked", "0"),
    *("--concept", "pair:three,ember", "--out", str(tmp_path)),
  ])  # fmt: skip
  for row in report.read_results(tmp_path / "results.json").rows:
    assert row["request"] == "pair:three,ember"
    assert row["ua"] == pytest.approx(1 - row["pair_accuracy"])
    for name in ("pair_same_object", "pair_same_style", "pair_rest"):
      assert 0 <= row[name] <= 1
  table = (tmp_path / "table.md").read_text()
  assert "Same style" in table and "Storage" in table


def test_the_scores_of_a_pair_on_known_answers():
  """Of 60 prompts the pair is drawn, its style with others fails, all else holds."""
  concept = beds.parse_concept("pair:three,ember", beds.DIGITS)
  objects, styles = (a.ravel() for a in np.indices((10, 6)))
  shown = np.where((objects != 3) & (styles == 2), 0, styles)
  asked = {"object": objects, "style": styles}
  logits = {"object": np.eye(10)[objects], "style": np.eye(6)[shown]}
  as_arrays = lambda tree: jax.tree.map(
    lambda a: jax.numpy.asarray(a, "float32" if a.ndim > 1 else "int32"), tree
  )
  kept = ~((objects == 3) & (styles == 2))
  found = _pair_scores(
    as_arrays(logits), as_arrays(asked), concept, jax.numpy.asarray(kept)
  )
  wanted = {
    **{"ua": 0, "ira": 1, "cra": 50 / 59, "worst": 0, "harmonic": 0},
    **{"pair_accuracy": 1, "pair_same_object": 1, "pair_same_style": 0},
    "pair_rest": 1,
  }
  assert {k: float(v) for k, v in found.items()} == pytest.approx(wanted)
