"""The study of text: its rows, requests, bad input, and a small run."""

import dataclasses
import json
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from refusals import refused

from experiments import bench, forget_text
from experiments.beds import text_measures as measures
from experiments.beds import text_methods as methods
from experiments.beds import texts
from experiments.bench import lanes, render, shell
from experiments.bench import run as running
from experiments.datasets import tofu
from experiments.requests import Ask
from experiments.studies import forget_text as study
from experiments.studies import forget_text_curve as curve
from jaxunlearn.language.rows import train_bpe

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")
pytest.importorskip("rouge_score")


def a_file(folder, count=24, **more):
  rows = [
    {
      "question": f"What did customer {i} order?",
      "answer": f"Customer {i} ordered {['tea', 'milk', 'rice', 'salt'][i % 4]}.",
      "owner": 100 + i // 2,
      **more,
    }
    for i in range(count)
  ]
  path = folder / "rows.jsonl"
  path.write_text("\n".join(map(json.dumps, rows)))
  return path


def test_a_file_of_ones_own_borrows_wrong_answers(tmp_path):
  pairs = tofu.read(a_file(tmp_path))
  assert pairs.borrowed and pairs.paraphrases == pairs.answers
  assert pairs.owners[:3].tolist() == ["100", "100", "101"]
  others = [w for each in pairs.wrong for w in each]
  assert set(others) <= set(pairs.answers)
  assert all(a not in each for a, each in zip(pairs.answers, pairs.wrong))
  given = tofu.read(a_file(tmp_path, perturbed_answers=["No.", "Never."]))
  assert not given.borrowed and given.wrong[0] == ["No.", "Never."]


def changed(folder, change):
  """The file with its rows changed by a function."""
  path = a_file(folder, perturbed_answers=["No.", "Never."])
  rows = list(map(json.loads, path.read_text().split("\n")))
  change(rows)
  path.write_text("\n".join(map(json.dumps, rows)))
  return path


def test_wrong_answers_are_borrowed_only_where_there_are_none(tmp_path):
  def change(rows):
    del rows[3]["perturbed_answers"]
    for row in rows:
      row["answer"] = "Yes." if row is rows[3] else rows[0]["answer"]

  pairs = tofu.read(changed(tmp_path, change))
  assert pairs.borrowed == 1 and pairs.wrong[0] == ["No.", "Never."]
  # Many rows have one answer, which is wrong here; "Yes." is not.
  assert pairs.wrong[3] == [pairs.answers[0]] * 2

  def alike(rows):
    for row in rows:
      row["answer"] = "Yes."
      del row["perturbed_answers"]

  with pytest.raises(ValueError, match=r"answers that differ.*'Yes.' alone"):
    tofu.read(changed(tmp_path, alike))


def test_owners_are_texts_or_numbers_and_null_is_nobody(tmp_path):
  def change(rows):
    rows[0]["owner"], rows[1]["owner"], rows[2]["owner"] = None, " Ann ", 7

  pairs = tofu.read(changed(tmp_path, change))
  assert pairs.owners[:4].tolist() == ["", "Ann", "7", "101"]
  for value in ("7,", ",", "Ann,,7"):
    refused("names between the commas", tofu.pinned, pairs, "owner", value)
  assert tofu.pinned(pairs, "owner", "Ann, 7").sum() == 2


def test_only_ends_of_lines_end_lines(tmp_path):
  path = a_file(tmp_path)
  lines = path.read_text().split("\n")
  lines[0] = lines[0].replace("customer", "cus\u2028to\u0085mer")
  path.write_text("\r\n".join(lines) + "\r\n\r\n", newline="")
  pairs = tofu.read(path)
  assert len(pairs.questions) == 24
  assert pairs.questions[0] == "What did cus\u2028to\u0085mer 0 order?"


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("[1]", "a JSON object on line 2"),
    ("{", "a JSON object on line 2"),
    ('{"question": "Who?"}', "a text 'answer' on line 2"),
    ('{"question": "Who?", "answer": " "}', "a text 'answer' on line 2"),
    (
      '{"question": "a", "answer": "b", "perturbed_answers": [1]}',
      "texts for other answers on line 2",
    ),
    (
      '{"question": "a", "answer": "b", "perturbed_answers": 5}',
      "texts for other answers on line 2",
    ),
    (
      '{"question": "a", "answer": "b", "owner": ["c"]}',
      "a text or a number for 'owner' on line 2",
    ),
    (
      '{"question": "a", "answer": "b", "owner": true}',
      "for 'owner' on line 2",
    ),
    ('{"question": "\\ud83d", "answer": "b"}', "whole characters on line 2"),
    ("", "a JSON object on line 2"),
    ('{"question": ' + "9" * 5000 + "}", "a JSON object on line 2"),
  ],
)
def test_lines_that_are_no_pairs(line, words, tmp_path):
  path = a_file(tmp_path)
  lines = path.read_text().splitlines()
  path.write_text("\n".join([lines[0], line, *lines[1:]]))
  with pytest.raises(ValueError, match=words) as error:
    tofu.read(path)
  assert "\n" not in str(error.value)


def test_a_model_of_fewer_rows_is_trained_for_as_many_epochs():
  rows = np.arange(40) < 30
  rate = lambda step, weights: float(
    texts.by_rows(2.0, 80, weights, warm=1 / 8)(step)
  )
  every = np.ones(40, bool)
  for steps, weights in ((80, every), (60, rows)):
    assert rate(0, weights) == 0
    assert rate(steps // 8, weights) == pytest.approx(2.0, rel=0.1)
    assert rate(steps - 1, weights) > 0 == rate(steps, weights)
    assert rate(79, weights) >= 0
  assert rate(30, rows) == pytest.approx(rate(40, every))
  assert float(texts.by_rows(2.0, 80, rows)(0)) == 2.0


def test_rows_are_divided_by_owner_and_never_shared():
  pairs = tofu.people(20)
  named = tofu.pinned(pairs, "owner", f"{pairs.owners[0]},{pairs.owners[5]}")
  assert named.sum() == 10
  away = np.isin(pairs.owners, pairs.owners[[10, 15]])
  divided = [
    tofu.divide(pairs, own, seed, part, kept=20, held=10, reserved=other)
    for part, own, other in (("report", named, away), ("select", away, named))
    for seed in (0, 1)
  ]
  for own, (train, held) in zip((named, named, away, away), divided):
    assert len(train) == 30 and len(held) == 10 and own[train].sum() == 10
    assert not set(pairs.owners[train]) & set(pairs.owners[held])
  # What settings are chosen on is in no report, and the other way around.
  chosen = set(divided[2][1])
  assert chosen == set(divided[3][1])
  assert not any(chosen & {*train, *held} for train, held in divided[:2])
  assert set(divided[0][0]) != set(divided[1][0])
  for other, rows in zip((away, away, named, named), divided):
    assert not other[np.concatenate(rows)].any()


def test_no_row_of_ones_own_file_is_left_out():
  """Not other rows of an owner, and none for settings that nobody chooses."""
  pairs = tofu.people(12)
  one = np.arange(60) == 7
  train, held = tofu.divide(pairs, one, 0, "report", kept=None, held=10)
  assert sorted([*train, *held]) == list(range(60)) and len(held) == 10
  assert not set(pairs.owners[held]) & {pairs.owners[7]}


def test_marks_are_places_of_rows():
  pairs = tofu.people(12)
  named = tofu.pinned(pairs, "owner", pairs.owners[0])
  train, held = tofu.divide(pairs, named, 0, "report", kept=20, held=10)
  source = tofu.Source(pairs, train, held, 8)
  forget, marks = texts.mask("owner", pairs.owners[0], source)
  rows, there = marks["forget"]
  assert forget.sum() == 5 and there.sum() == 5 and forget[rows].all()
  rows, there = marks["retain"]
  assert there.all() and not forget[rows].any() and len(set(rows)) == 8


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--benchmark", "tofu", "--data-dir", "/nowhere"], "tofu.jsonl"),
    (["--request", "owner:Nobody"], "an owner of these data"),
    (["--request", "split:forget01"], "of the whole of TOFU"),
    (["--weights", "/nowhere"], "config.json"),
    (["--data", "/nowhere.jsonl"], "--data"),
    (["--methods", "magic"], "--methods"),
    (["--curve", "1"], "--curve > 1"),
    (["--data", "FILE", "--tune", "3"], "--tune with a --benchmark"),
    (["--tune", "3", "--request", "owner:Invin"], "than --tune chooses"),
    (["--original", "model"], "--original with --data, and --held"),
    (["--data", "FILE", "--held", "rows.txt"], "--original with --data"),
  ],
)
def test_bad_input_is_one_line(flags, words, tmp_path, capsys, monkeypatch):
  monkeypatch.delenv("JAXUNLEARN_DATA", raising=False)
  flags = [str(a_file(tmp_path)) if f == "FILE" else f for f in flags]
  if "--benchmark" not in flags:
    flags = ["--benchmark", "people", *flags]
  with pytest.raises(SystemExit) as end:
    forget_text.main([*flags, "--out", str(tmp_path / "out")])
  assert end.value.code == 2
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert line.startswith("error: ") and words in line
  assert not (tmp_path / "out").exists()


def a_model(folder, pairs, width=32):
  """A folder of a small decoder, with a tokenizer of its own."""
  from jaxunlearn import language
  from jaxunlearn.adapters import huggingface

  tokenizer = tofu.tokenizer_of(pairs, 300)
  config = language.DecoderConfig(
    vocab_size=tokenizer.get_vocab_size(),
    width=width,
    num_layers=1,
    num_heads=2,
    mlp_width=48,
    max_length=128,
  )
  x = tofu.encode(tokenizer, ["a"], ["b"], 8)
  made = language.language_model(config).model.init(jax.random.key(0), x)
  huggingface.save(folder, config, made.params, tokenizer)
  return made.params


def test_the_model_that_is_to_forget_may_come_from_elsewhere(tmp_path):
  path = a_file(tmp_path)
  pairs = tofu.read(path)
  a_model(tmp_path / "before", pairs, 16)
  params = a_model(tmp_path / "after", pairs, 16)
  a_model(tmp_path / "other", pairs)
  (tmp_path / "held.txt").write_text("4\n5\n9\n")
  options = forget_text.Options(
    data=str(path),
    request="owner:100",
    preset="smoke",
    weights=str(tmp_path / "before"),
    original=str(tmp_path / "after"),
    held=str(tmp_path / "held.txt"),
  )
  plan = forget_text.prepare(options)
  chex.assert_trees_all_equal(plan.beds.given.params, params)
  chex.assert_trees_all_equal(
    lanes.train(plan).value.params["blocks"],
    jax.tree.map(lambda w: np.stack([w] * 2), params["blocks"]),
  )
  for source in plan.beds.sources:
    assert source.held.tolist() == [4, 5, 9] and len(source.train) == 21
  # Models of this size are on the host and the device one at a time.
  assert study.STUDY.fit(plan._replace(strategy="vmap")).strategy == "map"
  kept = jax.tree.leaves(study.STUDY.saved(plan.beds.given))
  assert all(isinstance(leaf, np.ndarray) for leaf in kept)

  change = lambda **more: dataclasses.replace(options, **more)
  for other, words in (
    (change(original=str(tmp_path / "other")), "of the sizes of --weights"),
    (change(weights="scratch"), "of the sizes of --weights"),
    (change(request="owner:102"), "got row 4, which is one of --held"),
  ):
    refused(words, forget_text.prepare, other)


def test_training_goes_by_the_rows_of_a_file(tmp_path):
  options = forget_text.Options(
    data=str(a_file(tmp_path, count=500)), request="owner:100", seeds=1
  )
  beds = study.beds(options, (0,), "report", [Ask("", "owner", "100")])
  assert beds.facts["recipe"]["steps"] == 15 * 460 // 10
  assert len(beds.of_seed["train"][0]) + len(beds.of_seed["held"][0]) == 500


@pytest.mark.parametrize(("before", "said"), [(0.95, False), (0.55, True)])
def test_it_is_said_where_there_was_nothing_to_forget(before, said):
  found = {
    name: SimpleNamespace(values={"forget_em": np.array([em, np.nan])})
    for name, em in (("original", before), ("retrained", 0.5))
  }
  sentences = study.STUDY.findings(SimpleNamespace(found=found, swept={}))
  assert bool(sentences) == said


def test_rates_go_by_what_is_trained_and_by_the_weights():
  scratch, given = map(methods.settings_of, ("scratch", "smollm2"))
  ratio = {
    n: given[n]["rate"] / scratch[n]["rate"] for n in given if n != "dp2"
  }
  thirds = {n for n, r in ratio.items() if r > 0.1}
  assert thirds == {"npo_lora", "loku", "eco", "guard", "o3"}
  assert all(ratio[n] == pytest.approx(1 / 3) for n in thirds)
  for name, method in methods.METHODS.items():
    assert set(method.space) <= set(given[name]) and "times" in method.space
  of = texts.recipe_for
  for preset in ("quick", "paper"):
    assert of(preset=preset, weights="scratch").relearn_rate == 3e-4
    assert of(preset=preset, weights="smollm2").relearn_rate == 3e-5


def test_an_attack_is_as_good_as_the_better_of_its_rates():
  worse = lambda after: float(measures.worse(after, 3e-4))
  assert worse(lambda rate: rate) == pytest.approx(9e-4)
  assert worse(lambda rate: -rate) == pytest.approx(-3e-4)
  diverged = lambda rate: np.nan * rate
  assert worse(lambda r: jax.numpy.where(r > 5e-4, diverged(r), r)) == (
    pytest.approx(3e-4)
  )
  assert np.isnan(worse(diverged))


def test_rmu_is_at_a_quarter_of_the_depth(monkeypatch):
  seen = []
  monkeypatch.setattr(methods, "rmu", lambda lm, fit, **more: seen.append(more))
  for layers in (2, 32):
    config = SimpleNamespace(config=SimpleNamespace(num_layers=layers))
    bed = SimpleNamespace(model=config, recipe=texts.Recipe())
    methods.METHODS["rmu"].build(bed, methods.settings_of("scratch")["rmu"])
  assert [more["layer"] for more in seen] == [0, 8]


class Quiet:
  """A progress bar that shows nothing."""

  add_task = update = staticmethod(lambda *args, **kwargs: 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A run on a file of one's own: what it left, and its folder."""
  folder = tmp_path_factory.mktemp("text")
  (folder / "out").mkdir()
  options = forget_text.Options(
    data=str(a_file(folder)),
    request="owner:100,103",
    preset="smoke",
    methods="npo",
    seeds=2,
    out=str(folder / "out"),
  )
  plan = forget_text.prepare(options)

  evidence = forget_text.run(plan, Quiet())
  render.write(folder / "out", plan, evidence)
  return plan, evidence, folder / "out"


def test_people_go_through_the_frame_in_one_step():
  """Untrained, one step a method, without attacks: that all parts fit together."""
  small = texts.SMOKE._replace(unlearn_steps=1, sample=4, max_new=2)
  untrained = dataclasses.replace(
    study.STUDY,
    train=lambda bed, weights, key: (
      jax.jit(bed.model.model.init)(key, bed.data["x"]),
      None,
    ),
    measures=lambda plan: [
      m for m in study.measures(plan) if m.metrics[0].name != "relearned_em"
    ],
  )
  options = forget_text.Options(
    benchmark="people",
    preset="smoke",
    methods="finetune,gradient_ascent",
    seeds=1,
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(texts, "SMOKE", small)
    plan = shell.prepare(untrained, options)
  evidence = running.run(plan, Quiet())
  assert [r["method"] for r in evidence.rows] == [
    *bench.REFERENCES, "finetune", "gradient_ascent",
  ]  # fmt: skip
  declared = {m.name for m in plan.metrics}
  for row in evidence.rows:
    assert declared <= set(row) and 0 <= row["forget_em"] <= 1
    assert all(np.isfinite(row[name]) for name in declared)
  rows = {r["method"]: r for r in evidence.rows}
  assert rows["retrained"]["retrained_gap"] == 0
  changed = {rows[m]["forget_probability"] for m in rows}
  assert len(changed) == len(rows)  # No method left the model as it was.


@pytest.mark.slow
def test_a_run_has_all_columns_and_leaves_a_model_for_others(done):
  from jaxunlearn.adapters import huggingface

  plan, evidence, out = done
  declared = {m.name for m in plan.metrics}
  for row in evidence.rows:
    assert declared <= set(row)
    assert all(np.isfinite(row[name]) for name in declared)
  loaded = huggingface.load(out / "models/npo")
  assert loaded.config.width == 32
  first = evidence.found["npo"].first.params
  for ours, theirs in zip(
    jax.tree.leaves(loaded.params), jax.tree.leaves(first)
  ):
    np.testing.assert_array_equal(ours, theirs)
  text = "What did customer 3 order?"
  words = loaded.tokenizer.decode(loaded.tokenizer.encode(text).ids)
  assert words.replace(" ", "") == text.replace(" ", "")


@pytest.mark.slow
def test_forget_quality_of_the_retrained_model_is_one(done):
  _, evidence, _ = done
  found = evidence.found["retrained"].values
  np.testing.assert_array_equal(found["forget_quality"], 0)
  np.testing.assert_array_equal(found["privleak"], 0)
  assert (evidence.found["retrained_again"].values["forget_quality"] <= 0).all()


@pytest.mark.slow
def test_measures_of_one_model_alone_are_those_of_many(done):
  """By hand, outside the frame: exact match of the forget rows."""
  from jaxunlearn import language

  plan, evidence, _ = done
  first = evidence.found["npo"].first
  beds = plan.beds
  bed = beds.make(beds.shared, lanes.at(beds.of_seed, 0))
  rows, there = (m[0, 0] for m in plan.requests.marks["forget"])
  x = jax.tree.map(lambda leaf: leaf[rows[there]], bed.data["x"])
  own = language.token_scores(bed.model, first, x)
  em = np.mean([t[m].mean() for t, m in zip(own.is_top, np.asarray(own.mask))])
  assert evidence.found["npo"].values["forget_em"][0] == pytest.approx(em)


@pytest.mark.slow
def test_given_weights_are_asked_what_they_knew(done, tmp_path):
  """Of TOFU, in a folder of its own; utility is over nine numbers."""
  from scipy.stats import hmean

  wrong = ["Customer 1 ordered tea.", "Customer 2 ordered salt."]
  own = a_file(tmp_path, count=80, perturbed_answers=wrong)
  lines = own.read_text().splitlines()
  own.rename(tmp_path / "tofu.jsonl")
  for name in ("real_authors", "world_facts"):
    (tmp_path / f"tofu_{name}.jsonl").write_text("\n".join(lines[:9]))
  options = forget_text.Options(
    data_dir=str(tmp_path),
    request="owner:0",
    preset="smoke",
    methods="npo",
    seeds=1,
    weights=str(done[2] / "models/npo"),
  )
  plan = forget_text.prepare(options)
  assert plan.dataset.pretrained.settings["hidden_size"] == 32
  evidence = forget_text.run(plan, Quiet())
  found = evidence.found["retrained"].values
  nine = [
    found[f"{kind}_{name}"][0]
    for kind in ("retain", "authors", "world")
    for name in ("probability", "rouge", "truth")
  ]
  wanted = 0 if min(nine) <= 0 else hmean(nine)
  assert found["utility"][0] == pytest.approx(wanted, rel=1e-5)
  assert 0 < found["authors_probability"][0] < 1
  np.testing.assert_array_equal(found["authors_truth"], found["world_truth"])


def test_countries_have_roles():
  from experiments import forget_fact

  forget, keep, alone = forget_fact.roles(["France"])
  assert forget == ["France"] and not {*keep} & {*alone} and len(alone) > 5
  refused("Atlantis", forget_fact.roles, ["Atlantis"])
  with pytest.raises(ValueError, match="26 at most, got 28"):
    forget_fact.roles(list(forget_fact.CAPITALS)[:28])
  twenty = forget_fact.named("20")
  assert len(twenty) == 20 and twenty[0] == "France"
  assert forget_fact.named("France, Cuba") == ["France", "Cuba"]
  for text in ("0", "27"):
    refused("--forget of 1 to 26", forget_fact.named, text)


def test_a_full_folder_is_refused_before_the_work(tmp_path, monkeypatch):
  from experiments import forget_fact

  monkeypatch.setattr(texts, "load_weights", lambda name: pytest.fail("late"))
  (tmp_path / "full").mkdir()
  (tmp_path / "full/x").write_text("")
  for name, words in (("full", "new or empty"), ("full/x", "to be a folder")):
    options = forget_fact.Options(save=str(tmp_path / name))
    refused(words, forget_fact.run, options)


def test_a_text_of_llama_3_begins_once():
  """Whether its tokenizer puts the first token there itself or not."""
  from tokenizers.processors import TemplateProcessing

  marks = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>")
  made = train_bpe(["a"], 300, special=(*marks, "<|eot_id|>"))
  plain = tofu.encode(made, ["Who?"], ["Ada."], 60)
  made.post_processor = TemplateProcessing(
    single=f"{marks[0]} $A", special_tokens=[(marks[0], 0)]
  )
  begun = tofu.encode(made, ["Who?"], ["Ada."], 60)
  for ours, theirs in zip(plain, begun):
    np.testing.assert_array_equal(ours, theirs)
  tokens = np.asarray(begun.tokens)[0, : int(begun.length[0])].tolist()
  assert tokens[0] == 0 and tokens.count(0) == 1


def test_what_is_kept_at_equal_forgetting():
  """Between the points on the way, and nan for what never forgets so much."""
  forget, retain = np.array([1.0, 0.6, 0.2]), np.array([1.0, 0.9, 0.5])
  at = lambda level: curve.kept_at(forget, retain, level)
  np.testing.assert_allclose([at(0.8), at(0.4), at(1)], [0.95, 0.7, 1.0])
  assert np.isnan(at(0.1))
  values = lambda f, r: {"forget_em": np.array(f), "retain_em": np.array(r)}
  found = lambda *pair: SimpleNamespace(values=values(*pair))
  evidence = SimpleNamespace(
    plan=SimpleNamespace(
      options=SimpleNamespace(curve=2), methods=("finetune", "npo")
    ),
    found={bench.ORIGINAL: found([1.0, 1.0], [1.0, 1.0])},
    swept={
      "npo": [found([0.6, 0.8], [0.9, 1.0]), found([0.2, 0.4], [0.5, 0.8])]
    },
  )
  assert curve.sweeps(evidence.plan) == {"npo": {"share": (0.5, 1.0)}}
  kept = curve.at_equal_forgetting(evidence, (0.4, 0.3))
  np.testing.assert_allclose(kept[0.4]["npo"], (0.7 + 0.8) / 2)
  assert np.isnan(kept[0.3]["npo"])
  (told, *_), (picture, _) = (
    curve.findings(evidence),
    curve.panels(evidence)["curve"],
  )
  assert "75%" in told and "npo" in told and picture.png()[1:4] == b"PNG"
  assert curve.files(evidence)["curve.json"]["share"] == (0.0, 0.5, 1.0)
  evidence.swept = {}
  assert curve.findings(evidence) == [] and curve.panels(evidence) == {}
