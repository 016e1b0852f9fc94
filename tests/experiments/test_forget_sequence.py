"""Requests one after the other, from end to end and part by part."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import RECIPE, blobs, trained

import jaxunlearn as ju
from experiments import (
  data,
  forget,
  methods,
  models,
  relearning,
  requests,
  sequence,
  study,
)
from jaxunlearn.core.links import edit
from jaxunlearn.methods._classes import requested_classes

METHODS = "finetune,amnesiac"


def run(out, *argv):
  fast = ("--preset=smoke", "--train-steps=60", "--seeds=2")
  forget.main([*fast, f"--methods={METHODS}", *argv, f"--out={out}"])
  return json.loads((out / "results.json").read_text())


def rows_of(results, request):
  return {
    (r["method"], r["seed"]): r
    for r in results["rows"]
    if r["request"] == request
  }


@pytest.fixture(scope="module")
def in_sequence(tmp_path_factory):
  out = tmp_path_factory.mktemp("sequence")
  return out, run(out, "--sequence", "--request=class:3; class:5;class:8")


def assert_same_numbers(ours, theirs):
  assert set(ours) == set(theirs)
  for place, row in ours.items():
    for name in ("forget_accuracy", "retain_accuracy", "retrained_gap", "zrf"):
      assert row[name] == pytest.approx(theirs[place][name], abs=2e-3), place


def test_there_is_a_row_for_every_step(in_sequence):
  _, results = in_sequence
  places = [(r["method"], r["request"], r["seed"]) for r in results["rows"]]
  assert places == [
    (method, request, seed)
    for method in ("original", "retrained", *METHODS.split(","))
    for request in ("1. class:3", "2. class:5", "3. class:8")
    for seed in (0, 1)
  ]
  sizes = results["config"]["sizes"]["forget_rows"]
  label = data.digits().train["label"]
  wanted = [int(np.isin(label, c).sum()) for c in ([3], [3, 5], [3, 5, 8])]
  assert list(sizes.values()) == wanted


def test_numbers_of_a_step_are_of_all_requests_so_far(in_sequence):
  _, results = in_sequence
  for seed in (0, 1):
    for request in ("1. class:3", "2. class:5", "3. class:8"):
      row = rows_of(results, request)["retrained", seed]
      assert row["forget_accuracy"] == row["newest_forget_accuracy"] == 0
      assert row["forget_test_accuracy"] == 0
      assert row["retain_test_accuracy"] > 0.8
    # The newest of three classes is a third of what is forgotten by then.
    last = rows_of(results, "3. class:8")["original", seed]
    assert last["newest_forget_accuracy"] != last["forget_accuracy"]


def test_the_report_shows_the_drift(in_sequence):
  out, _ = in_sequence
  plots = {p.name for p in (out / "plots").iterdir()}
  assert "drift.png" in plots
  text = (out / "report.html").read_text()
  assert "After 3 requests, each served by what the one before left" in text
  assert "Request: 2. class:5" in (out / "table.md").read_text()


@pytest.mark.slow
def test_the_first_step_is_the_request_alone(in_sequence, tmp_path):
  _, results = in_sequence
  alone = run(tmp_path, "--request=class:3")
  first = rows_of(results, "1. class:3")
  assert_same_numbers(first, rows_of(alone, "class:3"))


@pytest.mark.slow
def test_the_retrained_model_of_a_step_is_that_of_all_rows_at_once(
  in_sequence, tmp_path
):
  _, results = in_sequence
  once = rows_of(run(tmp_path, "--request=class:3,5"), "class:3,5")
  step = rows_of(results, "2. class:5")
  for seed in (0, 1):
    for method in ("original", "retrained"):
      ours, theirs = step[method, seed], once[method, seed]
      for name in ("forget_accuracy", "retain_accuracy", "membership_auc"):
        assert ours[name] == pytest.approx(theirs[name], abs=2e-3)


@pytest.mark.slow
def test_several_requests_out_of_sequence_are_each_as_alone(tmp_path):
  both = run(tmp_path / "both", "--request=class:3;class:5")
  alone = run(tmp_path / "alone", "--request=class:5")
  ours, theirs = (rows_of(r, "class:5") for r in (both, alone))
  assert_same_numbers(
    {k: v for k, v in ours.items() if k[0] != "amnesiac"},
    {k: v for k, v in theirs.items() if k[0] != "amnesiac"},
  )
  assert "newest_forget_accuracy" not in both["rows"][0]


def test_a_method_without_rows_is_told_of_all_classes_so_far(monkeypatch):
  dataset = data.digits()
  asked = requests.parse("class:3;class:5;class:8", dataset, sequence=True)
  model = models.load("mlp", dataset, "smoke")
  this = study.make(
    model,
    dataset,
    asked,
    methods.RECIPES["mlp"]["smoke"],
    num_seeds=2,
    strategy="map",
  )

  def count(access, settings):
    def add(variables, data, request, key):
      many = requested_classes(data["label"], request.forget, 10).sum()
      return jax.tree.map(lambda leaf: leaf + many, variables)

    return edit(add)

  original = study.given_original(this, ju.Variables({"w": jnp.zeros(2)}))
  for zero_shot, wanted in ((True, [1, 3, 6]), (False, [1, 2, 3])):
    method = methods.Method(count, "", zero_shot=zero_shot)
    monkeypatch.setitem(methods.METHODS, "count", method)
    made = sequence.unlearn(this, "count", {}, original)
    # Lanes request by request, two seeds each; each goes on from the last.
    found = np.asarray(made.variables.params["w"])[:, 0]
    assert found.tolist() == np.repeat(wanted, 2).tolist()


def test_each_class_in_sequence_leaves_the_last_one():
  dataset = data.digits()
  made = requests.parse("each-class", dataset, sequence=True)
  assert made.names[0] == "1. class:0" and made.names[-1] == "9. class:8"
  label = dataset.train["label"]
  for k in range(9):
    np.testing.assert_array_equal(made.masks[k], label <= k)
    np.testing.assert_array_equal(made.added[k], label == k)
    assert made.classes[k] == tuple(range(k + 1))
  assert made.max_classes == 1 and made.is_sequence
  apart = requests.parse("each-class", dataset)
  assert len(apart.names) == 10 and not apart.is_sequence
  np.testing.assert_array_equal(apart.masks, apart.added)


def test_a_row_that_two_requests_name_is_taken_by_the_first():
  dataset = data.digits()
  made = requests.parse("class:1,2;class:2,3", dataset, sequence=True)
  label = dataset.train["label"]
  np.testing.assert_array_equal(made.added[1], label == 3)
  np.testing.assert_array_equal(made.masks[1], np.isin(label, [1, 2, 3]))
  assert made.max_classes == 2


def test_relearning_is_measured_on_unseen_rows_of_whole_classes():
  masks = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 1]], bool)
  test_masks = np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
  rows = relearning.examined(masks, test_masks)
  assert rows.from_test.tolist() == [True, False]
  assert rows.row_id.tolist() == [[1, 3, 0], [0, 2, 4]]
  assert rows.weight.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_relearning_is_measured_on_a_thousand_rows_at_most():
  masks = np.ones((1, 5000), bool)
  rows = relearning.examined(masks, np.zeros((1, 3), bool))
  assert rows.row_id.shape == (1, relearning.MAX_ROWS)
  assert len(set(rows.row_id[0].tolist())) == relearning.MAX_ROWS
  assert rows.row_id[0, -1] == 4999
  assert jnp.all(rows.weight == 1)


@pytest.mark.slow
def test_a_model_that_knows_relearns_before_one_that_does_not():
  model, train, known = trained()
  test = blobs(40, seed=1)
  without = jax.jit(
    lambda key: ju.train(model, train, train["label"] != 2, key, **RECIPE)
  )
  unknown, _ = without(jax.random.key(0))
  mask = np.asarray(train["label"] == 2)[None]
  rows = relearning.examined(mask, np.asarray(test["label"] == 2)[None])
  recipe = methods.Recipe(num_steps=3000, learning_rate=0.01, batch_size=16)

  @jax.jit
  def steps(variables):
    one = jax.tree.map(lambda leaf: leaf[0], rows)
    made = relearning.relearned(
      model, recipe, train, test, one, variables, known
    )
    return made.steps, made.reached, made.curve

  (few, reached, curve), (many, reached_too, later) = map(
    steps, (known, unknown)
  )
  assert few == 1 and reached and reached_too and 10 < many < 500
  assert later[0] == 0 and curve.shape == (501,)
  # The accuracy of the untouched model on the test rows of the class.
  of_class = np.asarray(test["label"] == 2)
  guess = np.asarray(model.predict(known, test["x"])).argmax(axis=1)
  assert curve[0] == pytest.approx(np.mean(guess[of_class] == 2), abs=1e-6)


def test_relearning_stops_after_a_sixth_of_the_training():
  recipe = methods.Recipe(num_steps=600, learning_rate=1.0, batch_size=1)
  assert relearning.num_steps(recipe) == 100
  assert relearning.num_steps(recipe._replace(num_steps=3)) == 1
