"""Requests one after the other, from end to end and part by part."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import RECIPE, blobs, trained

import jaxunlearn as ju
from experiments import bench, data, forget
from experiments.beds import classifier_measures, classifiers, recipes
from experiments.bench import lanes
from experiments.datasets import classes
from experiments.studies.forget import STUDY
from jaxunlearn.core.links import edit
from jaxunlearn.methods._classes import requested_classes

METHODS = "finetune"


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
    for method in (*bench.REFERENCES, *METHODS.split(","))
    for request in ("1. class:3", "2. class:5", "3. class:8")
    for seed in (0, 1)
  ]
  # How many each takes away, by seed.
  label = classes.split(data.digits(), 0, "report").train["label"]
  wanted = [[int((label == c).sum())] * 2 for c in (3, 5, 8)]
  assert results["config"]["forget_rows"] == wanted


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
def test_a_step_is_taken_back_by_its_own_entry_of_the_ledger(tmp_path):
  options = ("--sequence", "--request=class:3;class:5", "--methods=amnesiac")
  results = run(tmp_path, *options)
  for request in ("1. class:3", "2. class:5"):
    for seed in (0, 1):
      row = rows_of(results, request)["amnesiac", seed]
      assert row["is_finite"] and row["newest_forget_accuracy"] < 0.5


@pytest.mark.slow
def test_the_retrained_model_of_a_step_is_that_of_all_rows_at_once(
  in_sequence, tmp_path
):
  _, results = in_sequence
  once = rows_of(run(tmp_path, "--request=class:3,5"), "class:3,5")
  step = rows_of(results, "2. class:5")
  steps, whole = (
    forget.prepare(forget.Options(preset="smoke", seeds=2, **options)).requests
    for options in (
      {"request": "class:3; class:5;class:8", "sequence": True},
      {"request": "class:3,5"},
    )
  )
  np.testing.assert_array_equal(steps.forget[1], whole.forget[0])
  for seed in (0, 1):
    for name in ("forget_accuracy", "retain_accuracy", "membership_auc"):
      ours, theirs = (rows["original", seed][name] for rows in (step, once))
      assert ours == pytest.approx(theirs, abs=2e-3)
    # Keys are derived by the request's name, so that models differ a little.
    ours, theirs = (rows["retrained", seed] for rows in (step, once))
    assert ours["forget_accuracy"] == theirs["forget_accuracy"] == 0
    for name in ("retain_accuracy", "test_accuracy"):
      assert ours[name] == pytest.approx(theirs[name], abs=0.03)


@pytest.mark.slow
def test_several_requests_out_of_sequence_are_each_as_alone(tmp_path):
  both = run(tmp_path / "both", "--request=class:3;class:5")
  alone = run(tmp_path / "alone", "--request=class:5")
  ours, theirs = (rows_of(r, "class:5") for r in (both, alone))
  assert_same_numbers(ours, theirs)
  assert "newest_forget_accuracy" not in both["rows"][0]


def prepare(request, **options):
  return forget.prepare(
    forget.Options(preset="smoke", request=request, sequence=True, **options)
  )


def test_a_method_without_rows_is_told_of_all_classes_so_far():
  def count(bed, setting):
    def add(variables, data, request, key):
      many = requested_classes(data["label"], request.forget, 10).sum()
      return jax.tree.map(lambda leaf: leaf + many, variables)

    return edit(add)

  plan = prepare("class:3;class:5;class:8", methods="finetune")
  beds = plan.beds._replace(given=ju.Variables({"w": jnp.zeros(2)}))
  for blind, wanted in ((True, [1, 3, 6]), (False, [1, 2, 3])):
    methods = {"finetune": bench.Method(count, blind=blind)}
    study = dataclasses.replace(STUDY, methods=methods)
    plan = plan._replace(study=study, beds=beds)
    made = lanes.serve(plan, "finetune", lanes.train(plan))
    # Lanes request by request, two seeds each; each goes on from the last.
    found = np.asarray(made.value.params["w"])[:, 0]
    assert found.tolist() == np.repeat(wanted, 2).tolist()


def test_each_class_in_sequence_leaves_the_last_one():
  made = prepare("each-class")
  names = made.requests.names
  assert names[0] == "1. class:0" and names[-1] == "9. class:8"
  label = made.beds.sources[0].train["label"]
  for k in range(9):
    np.testing.assert_array_equal(made.requests.masks[k], label <= k)
    np.testing.assert_array_equal(made.requests.added[k, 0], label == k)
    gone = made.beds.sources[0].test["label"] <= k
    np.testing.assert_array_equal(made.requests.marks[k, 0], gone)
  assert classifiers.touched(made, made.requests.added) == 1
  options = dataclasses.replace(made.options, sequence=False)
  apart = forget.prepare(options).requests
  assert len(apart.names) == 10 and not apart.in_sequence
  np.testing.assert_array_equal(apart.forget, apart.added)


def test_a_row_that_two_requests_name_is_taken_by_the_first():
  made = prepare("class:1,2;class:2,3")
  label = made.beds.sources[0].train["label"]
  asked = made.requests
  np.testing.assert_array_equal(asked.added[1, 0], label == 3)
  np.testing.assert_array_equal(asked.masks[1], np.isin(label, [1, 2, 3]))
  assert made.settings["unsir"]["max_classes"] == 2


def test_relearning_is_measured_on_rows_that_are_evenly_spread():
  spread = lambda mask, count: jax.tree.map(
    list, classifier_measures._spread(jnp.asarray(mask, bool), count)
  )
  assert spread([0, 1, 0, 1], 2) == ([1, 3], [1, 1])
  rows, weight = spread([1, 0, 0, 1], 3)
  assert rows[:2] == [0, 3] and weight == [1, 1, 0]
  rows, weight = spread(np.ones(5000), 1000)
  assert len(set(map(int, rows))) == 1000 and rows[-1] == 4999
  assert all(weight)


@pytest.mark.slow
def test_a_model_that_knows_relearns_before_one_that_does_not():
  model, train, known = trained()
  test = blobs(40, seed=1)
  without = jax.jit(
    lambda key: ju.train(model, train, train["label"] != 2, key, **RECIPE)
  )
  unknown, _ = without(jax.random.key(0))
  forget_rows, gone = train["label"] == 2, test["label"] == 2
  recipe = recipes.Recipe(3000, 0.01, 16)
  bed = bench.Bed(model, train, test, recipe)
  requests = bench.Requests(
    ("class:2",), *[np.asarray(forget_rows)[None, None]] * 2,
    np.asarray(gone)[None, None],
  )  # fmt: skip
  beds = bench.Beds(None, None, None, (), {"recipe": recipe._asdict()})
  plan = bench.Plan(STUDY, None, (0,), beds, requests, (), {}, (), "map")
  relearn = classifier_measures._relearn(plan)

  @jax.jit
  def steps(variables):
    case = bench.Case(
      bed, forget_rows, forget_rows, gone, variables, known, known,
      jax.random.key(1),
    )  # fmt: skip
    made = relearn(case)
    return tuple(
      made[f"relearn_{name}"] for name in ("steps", "reached", "curve")
    )

  (few, reached, curve), (many, reached_too, later) = map(
    steps, (known, unknown)
  )
  assert few == 1 and reached and reached_too and 10 < many < 500
  assert later[0] == 0 and curve.shape == (501,)
  # The accuracy of the untouched model on the test rows of the class.
  of_class = np.asarray(gone)
  guess = np.asarray(model.predict(known, test["x"])).argmax(axis=1)
  assert curve[0] == pytest.approx(np.mean(guess[of_class] == 2), abs=1e-6)


def test_relearning_stops_after_a_sixth_of_the_training():
  plan = prepare("class:1;class:2", train_steps=600)
  assert classifier_measures.relearn_limit(plan) == 100
  plan = prepare("class:1;class:2", train_steps=3)
  assert classifier_measures.relearn_limit(plan) == 1
