"""The main job from end to end, on small data."""

import dataclasses
import json
import math

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import own_models
import pytest
from flax import nnx

from experiments import data, forget
from experiments.beds import classifier_methods, models
from experiments.beds.classifier_methods import METHODS, USUAL
from experiments.bench import REFERENCES, render
from experiments.datasets import classes
from jaxunlearn.adapters import orbax
from jaxunlearn.adapters.flax import from_module
from jaxunlearn.metrics import membership

FAST = ["--preset", "smoke", "--train-steps", "60"]
SHARED = (
  "seconds_compile",
  "seconds_run",
  "forget_accuracy",
  "retain_accuracy",
  "test_accuracy",
  "forget_test_accuracy",
  "retain_test_accuracy",
  "zrf",
  "activation_distance",
  "js_to_retrained",
  "weight_distance",
  "membership_share",
  "membership_auc",
  "relearn_steps",
  "relearn_reached",
  "unlearning_accuracy",
  "kept_test_accuracy",
  "mia_efficacy",
  "salun_gap",
  "retrained_gap",
  "is_finite",
)


def rows_of_seed(seed=0):
  return classes.split(data.digits(), seed, "report")


def run(out, *argv):
  forget.main([*FAST, *argv, "--out", str(out)])
  return json.loads((out / "results.json").read_text())


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith("seconds")}
    for row in rows
  ]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("digits")
  return out, run(out, "--methods", "finetune,random_label", "--seeds", "2")


def test_results_have_a_row_for_every_method_and_seed(digits_run):
  _, results = digits_run
  assert {k: results[k] for k in ("experiment", "preset", "jax")} == {
    "experiment": "forget",
    "preset": "smoke",
    "jax": jax.__version__,
  }
  methods = ["original", "retrained", "retrained_again"]
  methods += ["finetune", "random_label"]
  assert [(r["method"], r["request"], r["seed"]) for r in results["rows"]] == [
    (method, "class:3", seed) for method in methods for seed in (0, 1)
  ]
  for row in results["rows"]:
    assert all(math.isfinite(row[name]) for name in SHARED)
    assert row["is_finite"] == 1


def test_all_files_are_written_and_nothing_else(digits_run):
  out, _ = digits_run
  assert sorted(p.name for p in out.iterdir()) == [
    ".jaxunlearn-run.json",
    "params",
    "plots",
    "report.html",
    "results.json",
    "table.md",
  ]
  assert {p.name for p in (out / "plots").iterdir()} == {
    "accuracy.png",
    "confusion.png",
    "distance.png",
    "losses.png",
    "relearning.png",
  }
  assert "random_label" in (out / "report.html").read_text()


def test_the_retrained_model_has_not_seen_the_class(digits_run):
  _, results = digits_run
  by_method = {r["method"]: r for r in results["rows"] if r["seed"] == 0}
  assert by_method["retrained"]["forget_accuracy"] == 0
  assert by_method["retrained"]["forget_test_accuracy"] == 0
  assert by_method["original"]["forget_accuracy"] > 0.8
  assert by_method["retrained"]["retain_test_accuracy"] > 0.8


def test_test_accuracy_is_that_of_its_two_parts(digits_run):
  _, results = digits_run
  for row in results["rows"]:
    share = np.mean(rows_of_seed(row["seed"]).test["label"] == 3)
    parts = share * row["forget_test_accuracy"]
    parts += (1 - share) * row["retain_test_accuracy"]
    assert row["test_accuracy"] == pytest.approx(parts, abs=1e-6)


def test_the_gap_is_the_mean_difference_to_the_same_seed(digits_run):
  _, results = digits_run
  names = ("forget_accuracy", "retain_accuracy", "test_accuracy")
  names += ("membership_share",)
  rows = {(r["method"], r["seed"]): r for r in results["rows"]}
  for (_, seed), row in rows.items():
    standard = rows["retrained", seed]
    gap = np.mean([abs(row[n] - standard[n]) for n in names])
    assert row["retrained_gap"] == pytest.approx(gap, abs=1e-9)
    names_of_salun = ("unlearning_accuracy", "retain_accuracy")
    names_of_salun += ("kept_test_accuracy", "mia_efficacy")
    gap = np.mean([abs(row[n] - standard[n]) for n in names_of_salun])
    assert row["salun_gap"] == pytest.approx(gap, abs=1e-9)


def test_salun_measures_are_those_of_its_paper(digits_run):
  out, results = digits_run
  for row in results["rows"]:
    wrong = 1 - row["forget_accuracy"]
    assert row["unlearning_accuracy"] == pytest.approx(wrong, abs=1e-6)
    # Whole classes are forgotten: the test rows of the others count.
    assert row["kept_test_accuracy"] == row["retain_test_accuracy"]
  # A model that never saw the class gives it no confidence.
  unseen = [r for r in results["rows"] if r["method"] == "retrained"]
  assert all(r["mia_efficacy"] == 1 for r in unseen)
  table = (out / "table.md").read_text().partition("## SalUn")[2]
  names = [line.split()[1] for line in table.splitlines() if line[:2] == "| "]
  gaps = {
    method: np.mean(
      [r["salun_gap"] for r in results["rows"] if r["method"] == method]
    )
    for method in ("finetune", "random_label")
  }
  ranked = sorted(gaps, key=lambda method: gaps[method])
  assert names[2:4] == ["retrained", "original"]
  assert [name for name in names[4:7] if name in gaps] == ranked
  assert "100.0 ± 0.0 (0.0)" in table


def test_the_attack_of_salun_sees_no_test_row_of_a_forgotten_class(digits_run):
  out, results = digits_run
  dataset = data.digits()
  model = models.load("mlp", dataset, "smoke")
  like = models.abstract_variables(model, dataset.train["x"])
  rows = rows_of_seed()
  forget_rows = rows.train["label"] == 3
  kept = rows.test["label"] != 3

  def confidences(variables, rows):
    z = np.asarray(model.predict(variables, rows["x"]), np.float64)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True))[range(len(z)), rows["label"]]

  for name in ("original", "finetune", "random_label"):
    found = next(r for r in results["rows"] if r["method"] == name)
    variables = orbax.load(out / "params" / name, like).variables
    train = confidences(variables, rows.train)
    share = membership.svc_membership(
      train[~forget_rows],
      confidences(variables, rows.test)[kept],
      train[forget_rows],
      max_rows=500,
    )
    assert found["mia_efficacy"] == pytest.approx(1 - share, abs=0.02), name


def test_the_anamnesis_index_is_the_ratio_of_relearn_times(digits_run):
  _, results = digits_run
  rows = {(r["method"], r["seed"]): r for r in results["rows"]}
  for (method, seed), row in rows.items():
    standard = rows["retrained", seed]
    if standard["relearn_reached"]:
      ratio = row["relearn_steps"] / standard["relearn_steps"]
      assert row["anamnesis_index"] == pytest.approx(ratio, rel=1e-6)
    else:
      assert row["anamnesis_index"] is None
    assert row["relearn_reached"] in (0, 1)
    assert 1 <= row["relearn_steps"] <= 10  # A sixth of 60 training steps.
    if method == "original":
      assert row["relearn_reached"] == 1


def test_saved_params_give_the_accuracy_of_their_row(digits_run):
  out, results = digits_run
  dataset = data.digits()
  model = models.load("mlp", dataset, "smoke")
  like = models.abstract_variables(model, dataset.train["x"])
  row = next(r for r in results["rows"] if r["method"] == "random_label")
  saved = orbax.load(out / "params" / "random_label", like)
  rows = rows_of_seed()
  np.testing.assert_array_equal(saved.forget_mask, rows.train["label"] == 3)
  assert saved.config["request"] == "class:3"
  logits = model.predict(saved.variables, rows.test["x"])
  right = np.mean(np.argmax(logits, axis=1) == rows.test["label"])
  assert right == pytest.approx(row["test_accuracy"], abs=1e-6)


@pytest.mark.slow
def test_each_class_has_the_rows_of_the_single_requests(digits_run, tmp_path):
  _, single = digits_run
  options = ("--request", "each-class", "--methods", "finetune,random_label")
  many = run(tmp_path, *options, "--seeds", "2")
  assert len(many["rows"]) == 10 * len(single["rows"])
  chosen = [r for r in many["rows"] if r["request"] == "class:3"]
  for ours, theirs in zip(without_times(chosen), without_times(single["rows"])):
    for name, value in theirs.items():
      is_number = isinstance(value, float)  # Not a name, nor without a value.
      wanted = pytest.approx(value, 1e-4) if is_number else value
      assert ours[name] == wanted, name


@pytest.mark.slow
def test_every_method_runs_and_is_finite(tmp_path):
  results = run(tmp_path, "--methods", "all", "--seeds", "1")
  methods = {r["method"] for r in results["rows"]}
  assert methods == {*REFERENCES, *METHODS}
  for row in results["rows"]:
    assert math.isfinite(row["retrained_gap"]), row["method"]


@pytest.mark.slow
def test_strategies_give_the_same_numbers(digits_run, tmp_path):
  _, mapped = digits_run
  options = ("--methods", "finetune", "--seeds", "2", "--strategy", "vmap")
  rows = {(r["method"], r["seed"]): r for r in mapped["rows"]}
  for row in run(tmp_path, *options)["rows"]:
    other = rows[row["method"], row["seed"]]
    for name in ("forget_accuracy", "retain_accuracy", "zrf"):
      assert row[name] == pytest.approx(other[name], abs=5e-3)


@pytest.mark.slow
def test_a_group_of_a_users_own_rows_can_be_forgotten(blobs, tmp_path):
  path = tmp_path / "own.npz"
  np.savez(path, **blobs)
  rows = classes.split(data.from_npz(str(path)), 0, "report")
  results = run(
    tmp_path / "out",
    *("--data", f"npz:{path}", "--request", "group:country=fr"),
    *("--methods", "finetune", "--seeds", "1"),
  )
  wanted = int((rows.columns["country"] == "fr").sum())
  assert results["config"]["forget_rows"] == [[wanted]]
  # No union of classes: there are no test rows of forgotten classes.
  for row in results["rows"]:
    assert row["kept_test_accuracy"] == row["test_accuracy"]
  assert all(r["forget_test_accuracy"] is None for r in results["rows"])
  assert all(r["forget_accuracy"] > 0.5 for r in results["rows"])


def save_linen(directory, x, y):
  """Trains outside the library, saves as a Flax user would."""
  model = from_module(own_models.linen_factory)
  params = jax.jit(model.init)(jax.random.key(5), x).params
  optimizer = optax.adam(0.05)
  state = optimizer.init(params)

  @jax.jit
  def step(params, state):
    def loss(params):
      logits = own_models.TwoLayers().apply({"params": params}, x)
      return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  for _ in range(60):
    params, state = step(params, state)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(directory, {"params": params})
  logits = own_models.TwoLayers().apply({"params": params}, x)
  return np.asarray(logits).argmax(axis=1)


def own_data(blobs, path):
  x, y = blobs["x"], blobs["y"]
  np.savez(path, x=x[:90], y=y[:90], x_test=x[90:], y_test=y[90:])
  return x[:90], y[:90]


@pytest.mark.slow
def test_a_users_linen_model_and_checkpoint_are_unlearned(blobs, tmp_path):
  x, y = own_data(blobs, tmp_path / "own.npz")
  guess = save_linen(tmp_path / "checkpoint", x, y)
  forgotten = [3, 5, 8, 13, 21]
  (tmp_path / "rows.txt").write_text("\n".join(map(str, forgotten)))
  results = run(
    tmp_path / "out",
    *("--data", f"npz:{tmp_path / 'own.npz'}"),
    *("--model", "own_models:linen_factory"),
    *("--checkpoint", str(tmp_path / "checkpoint")),
    *("--request", f"index:{tmp_path / 'rows.txt'}"),
    *("--methods", "finetune", "--seeds", "2"),
  )
  kept = np.setdiff1d(np.arange(90), forgotten)
  original = [r for r in results["rows"] if r["method"] == "original"]
  assert len(original) == 2
  for row in original:
    assert row["seconds_run"] is None
    expected = np.mean(guess[forgotten] == y[forgotten])
    assert row["forget_accuracy"] == pytest.approx(expected)
    expected = np.mean(guess[kept] == y[kept])
    assert row["retain_accuracy"] == pytest.approx(expected)
  assert (tmp_path / "out" / "params" / "finetune").is_dir()


@pytest.mark.slow
def test_a_users_nnx_model_and_checkpoint_are_unlearned(blobs, tmp_path):
  x, y = own_data(blobs, tmp_path / "own.npz")
  module = own_models.TwoLayersNnx(nnx.Rngs(3))
  guess = np.asarray(module(x)).argmax(axis=1)
  with ocp.StandardCheckpointer() as checkpointer:
    state = nnx.to_pure_dict(nnx.state(module))
    checkpointer.save(tmp_path / "checkpoint", state)
  results = run(
    tmp_path / "out",
    *("--data", f"npz:{tmp_path / 'own.npz'}"),
    *("--model", "own_models:nnx_factory"),
    *("--checkpoint", str(tmp_path / "checkpoint")),
    *("--request", "class:1", "--methods", "finetune", "--seeds", "1"),
  )
  original = results["rows"][0]
  expected = np.mean(guess[y == 1] == 1)
  assert original["forget_accuracy"] == pytest.approx(expected)


def prepare(**options):
  return forget.prepare(forget.Options(preset="smoke", **options))


def test_all_methods_leave_out_the_ledger_of_a_given_checkpoint():
  plan = prepare(methods="all")
  assert set(plan.methods) == set(METHODS) and plan.keeps
  given = plan._replace(beds=plan.beds._replace(given=plan.model))
  assert "amnesiac" not in classifier_methods.fit(given).methods
  named = dataclasses.replace(plan.options, methods="amnesiac")
  with pytest.raises(ValueError, match="without amnesiac beside --checkpoint"):
    classifier_methods.fit(given._replace(options=named))


def test_the_usual_methods_are_a_handful_of_all_and_need_no_ledger():
  plan = prepare()
  assert plan.methods == USUAL and not plan.keeps
  assert set(USUAL) < set(METHODS)


def test_zero_shot_methods_are_left_out_where_every_class_is_touched():
  plan = prepare(request="class:1;random:0.1", methods="all")
  zero_shot = {n for n, m in METHODS.items() if m.blind}
  assert zero_shot == {"zero_shot_noise", "gkt"}
  assert not zero_shot & set(plan.methods) and "unsir" in plan.methods
  assert any(note.startswith("gkt is left out") for note in plan.notes)
  whole = prepare(request="class:1", methods="all")
  assert zero_shot <= set(whole.methods)
  assert not any("left out" in note for note in whole.notes)


def test_a_request_for_part_of_a_class_says_what_zero_shot_methods_make_of_it():
  notes = render._notes(prepare(request="class:1", methods="gkt"), ())
  assert any("is to it one for the class" in note for note in notes)


def test_a_failure_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
  out = tmp_path / "deep" / "out"

  def interrupted(plan, progress):
    assert out.parent.is_dir() and not out.exists()
    raise KeyboardInterrupt

  monkeypatch.setattr(forget, "run", interrupted)
  with pytest.raises(KeyboardInterrupt):
    forget.main([*FAST, "--methods", "finetune", "--out", str(out)])
  assert list(tmp_path.iterdir()) == []
