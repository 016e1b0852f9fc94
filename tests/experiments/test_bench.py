"""The frame of the studies, with a study whose model is a mean."""

import dataclasses
import functools
import importlib
import json
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from experiments import bench, common
from experiments.bench import lanes, render, shell, table, tune
from experiments.bench import run as running
from experiments.studies import (
  forget_graph,
  forget_recommendations,
  forget_regression,
)
from jaxunlearn import Variables, report
from jaxunlearn.core import keys

SEEDS, ROWS = 6, 40


def beds(options, seeds, part, asks):
  draw = lambda seed: np.random.default_rng((seed, part == "select"))
  x = np.stack([draw(seed).normal(size=ROWS) for seed in seeds])
  make = lambda shared, own: bench.Bed(None, {"x": own})
  return bench.Beds((), x.astype(np.float32), make, list(x), {})


def lowest(value, x):
  mask = x <= np.quantile(x, float(value))
  return mask, None


def train(bed, weights, key):
  x = bed.data["x"]
  mean = (weights * x).sum() / weights.sum()
  return Variables({"mean": mean + 0.01 * jax.random.normal(key)}), None


def near(bed, setting):
  def method(variables, data, forget_mask, key):
    made, _ = train(bed, ~forget_mask, key)
    return Variables({"mean": made.params["mean"] + setting["off"]}), None

  return method


def broken(bed, setting):
  return lambda variables, data, forget_mask, key: (
    jax.tree.map(
      lambda v: v * jnp.where(forget_mask[0], 1, jnp.nan), variables
    ),
    None,
  )


def same(bed, setting):
  return lambda variables, data, forget_mask, key: (variables, None)


OFF = report.Metric("off", "Off", "How far the means are apart.")
MEAN = report.Metric("mean", "Mean", "The mean.")


def distance(case):
  ours, theirs = (v.params["mean"] for v in (case.variables, case.retrained))
  return {"off": jnp.abs(ours - theirs), "mean": ours}


STUDY = bench.Study(
  name="mean",
  options=bench.CommonOptions,
  beds=beds,
  kinds={"lowest": bench.Kind("lowest:SHARE", lowest)},
  request=lambda options: "lowest:0.3;lowest:0.6",
  train=train,
  methods={
    "near": bench.Method(near, {"off": tune.Between(-1, 1, log=False)}),
    "same": bench.Method(same),
    "broken": bench.Method(broken),
  },
  settings=lambda options: {"near": {"off": 0.0}},
  measures=lambda plan: [
    bench.Measure(
      (OFF, MEAN),
      distance,
      rules=(
        bench.distance("off", 0.05),
        bench.Rule("mean", 0.05, below="trace"),
      ),
    ),
    table.gap(("mean",), "The difference."),
  ],
  title=lambda plan: "Means",
  lead=lambda plan: "Means are forgotten.",
  seeds=lambda options: SEEDS,
  tune_request=lambda options: "lowest:0.5",
)


@functools.cache
def evidence(study=STUDY, **flags):
  plan = shell.prepare(study, bench.CommonOptions(**flags))
  with common.progress() as progress:
    return running.run(plan, progress)


def rows(found, method):
  return [row for row in found.rows if row["method"] == method]


def test_every_method_has_a_row_per_request_and_seed_and_a_floor():
  found = evidence()
  names = {row["method"] for row in found.rows}
  assert names == {*bench.REFERENCES, "near", "same", "broken"}
  for name in names:
    assert len(rows(found, name)) == 2 * SEEDS
  floor = [row["off"] for row in rows(found, "retrained_again")]
  assert 0 < np.mean(floor) < 0.05
  assert all(row["off"] == 0 for row in rows(found, "retrained"))


def test_smoke_has_the_methods_that_a_study_names_and_says_so():
  study = dataclasses.replace(STUDY, smoke=("same",))
  of = lambda **flags: shell.prepare(study, bench.CommonOptions(**flags))
  smoke = of(preset="smoke")
  assert smoke.methods == ("same",) and "1 of 3 methods" in smoke.notes[-1]
  for flags in ({}, {"preset": "quick"}):
    assert of(**flags).methods == tuple(STUDY.methods) and not of(**flags).notes
  named = of(preset="smoke", methods="near,same")
  assert named.methods == ("near", "same") and not named.notes


def test_a_stage_leaves_a_line_where_there_is_no_terminal(capsys):
  with common.stages("first") as say:
    time.sleep(0.06)
    say("second")
    time.sleep(0.06)
  said = [*filter(str.strip, capsys.readouterr().err.splitlines())]
  assert [line.split("s  ")[1][:6] for line in said] == ["first:", "second"]
  with pytest.raises(KeyError), common.stages("third"):
    time.sleep(0.06)
    raise KeyError
  assert "third" not in capsys.readouterr().err


def test_a_table_without_a_terminal_is_as_wide_as_columns_says(monkeypatch):
  for known, wanted in (("80", 80), ("", 120)):
    monkeypatch.setenv("COLUMNS", known)
    assert common.wide_console().width == wanted


def test_a_model_that_diverged_has_no_number_and_no_rank(tmp_path):
  found = evidence()
  lost = [row for row in rows(found, "broken") if not row["is_finite"]]
  assert lost and all(np.isnan(row["off"]) for row in lost)
  render.write(tmp_path, found.plan, found)
  sentences = report.nearest_findings(render.trial_of(found))
  assert any(s.startswith("Diverged, ") and "broken" in s for s in sentences)
  assert not any(
    "broken" in s for s in report.verdict_sentences(render.trial_of(found))
  )
  assert not any("broken is lowest" in s for s in sentences)
  (still,) = render.unmoved(found)
  assert still.startswith("Moved no weight (first request and seed): same.")
  # Edits that are kept beside the params are no less edits.
  first = found.found["same"].first._replace(frozen={"deltas": np.ones(2)})
  edited = {**found.found, "same": found.found["same"]._replace(first=first)}
  assert not render.unmoved(found._replace(found=edited))
  text = (tmp_path / "table.md").read_text()
  assert "diverged" in text and "retrained_again" in text
  for line in text.splitlines():
    assert not (line.startswith("| broken") and "**" in line)


def test_near_is_what_a_test_of_equivalence_shows():
  found = evidence()
  told = {
    s.split(": ")[-1]: s
    for s in report.verdict_sentences(render.trial_of(found))
  }
  assert "As near to retraining" in told["near."]
  assert "Traces of the rows found" in told["same."]
  # Two seeds show nothing, however near.
  few = evidence(seeds=2)
  assert any(
    "none excluded: near" in s
    for s in report.verdict_sentences(render.trial_of(few))
  )


def test_a_column_without_a_declaration_is_refused():
  extra = lambda case: {
    **distance(case),
    "other": case.variables.params["mean"],
  }
  measures = lambda plan: [bench.Measure((OFF, MEAN), extra)]
  study = dataclasses.replace(STUDY, measures=measures)
  refused("columns that they declare, got other", evidence, study)
  added = bench.Measure((), after=lambda evidence, name: {"late": np.zeros(12)})
  measures = lambda plan: [bench.Measure((OFF, MEAN), distance), added]
  study = dataclasses.replace(STUDY, measures=measures)
  refused("columns that are declared, got late", evidence, study)


def test_no_key_is_used_twice():
  plan = evidence().plan
  names = (*bench.REFERENCES, *plan.methods, "measure")
  every = [jax.random.key_data(lanes.keys(plan, name)) for name in names]
  every = np.concatenate(every)
  assert len(every) == SEEDS + 6 * 2 * SEEDS
  assert len(np.unique(every, axis=0)) == len(every)


def test_requests_whose_names_end_alike_have_keys_of_their_own():
  plan = evidence().plan
  names = ("owner:J. Smith", "owner:A. Smith")
  of = lambda **more: jax.random.key_data(
    lanes.keys(plan._replace(requests=plan.requests._replace(**more)), "near")
  )
  alone = of(names=names)
  assert len(np.unique(alone, axis=0)) == 2 * SEEDS
  placed = tuple(f"{i}. {name}" for i, name in enumerate(names, start=1))
  np.testing.assert_array_equal(of(names=placed, in_sequence=True), alone)


def test_a_derived_key_depends_on_the_key_and_the_name():
  made = [
    keys.derive(jax.random.key(seed), name) for seed in (0, 1) for name in "ab"
  ]
  data = np.stack([jax.random.key_data(key) for key in made])
  assert len(np.unique(data, axis=0)) == 4
  again = keys.derive(jax.random.key(0), "a")
  np.testing.assert_array_equal(jax.random.key_data(again), data[0])


def test_settings_are_chosen_on_other_rows_requests_and_seeds(tmp_path):
  study = dataclasses.replace(
    STUDY, settings=lambda options: {"near": {"off": 0.8}}
  )
  found = evidence(study, tune=8)
  plan, chosen = found.plan, found.tuned["near"]
  assert plan.selection.requests.names == ("lowest:0.5",)
  assert not set(plan.selection.seeds) & set(plan.seeds)
  assert len(chosen.scores) == 8 and chosen.scores[0] > 0.7
  assert abs(chosen.setting["off"]) < 0.3
  assert min(chosen.scores) < 0.3
  assert plan.settings["near"] == chosen.setting
  assert set(found.tuned) == {"near"}
  render.write(tmp_path, plan, found)
  assert "How settings were chosen" in (tmp_path / "table.md").read_text()


def test_a_setting_that_is_best_by_luck_is_not_chosen():
  lucky = tune.Tuned({}, (3.0, 1.0, 0.9), (0.0, 0.1, 0.8), floor=0.5)
  assert lucky.best == 1 and lucky.num_near == 2


@pytest.mark.parametrize("name", ["forget", "forget_gan", "forget_identity"])
def test_settings_that_were_written_are_of_a_space_and_of_equal_budgets(name):
  study = importlib.import_module(f"experiments.studies.{name}").STUDY
  budgets = {}
  for entry in tune.read(study.chosen):
    space = study.methods[entry["method"]].space
    assert set(entry["setting"]) <= set(space)
    kind = tuple(entry["for"].items())
    budgets.setdefault(kind, set()).add(entry["chosen"]["budget"])
    seeds = entry["chosen"]["seeds"]
    assert min(seeds) >= tune.FIRST_SEED and len(seeds) == study.tune_seeds
  assert all(len(found) == 1 for found in budgets.values())


def test_a_method_is_chosen_by_its_own_aim_where_it_has_one():
  own = STUDY.methods["near"]._replace(aim="mean")
  study = dataclasses.replace(STUDY, methods={**STUDY.methods, "near": own})
  found = evidence(study, tune=8)
  chosen = found.tuned["near"]
  assert chosen.setting["off"] < -0.7  # The lowest mean, not the nearest one.
  assert 0 < chosen.floor < 0.1  # What retrainings differ by, not the mean.
  (shown,) = tune.tables(found)
  assert "Mean, lowest" in str(shown)


def test_what_was_chosen_stays_where_a_later_method_fails(tmp_path):
  def failing(bed, setting):
    raise ValueError("Expected another method.")

  late = bench.Method(failing, {"off": tune.Between(-1, 1, log=False)})
  study = dataclasses.replace(
    STUDY,
    methods={"near": STUDY.methods["near"], "late": late},
    settings=lambda options: {n: {"off": 0.0} for n in ("near", "late")},
  )
  path, prepare = tmp_path / "s.json", functools.partial(shell.prepare, study)
  argv = ["--tune=3", f"--write-settings={path}"]
  with pytest.raises(ValueError, match="another method"):
    shell.main(study, prepare, running.run, argv)
  assert [entry["method"] for entry in tune.read(path)] == ["near"]


def test_a_column_that_is_no_gap_is_not_called_one(tmp_path):
  """Its floor is what two retrainings differ by, not how high they are."""

  def shifted(case):
    found = distance(case)
    return {**found, "off": found["off"] + 10}

  study = dataclasses.replace(
    STUDY,
    methods={name: STUDY.methods[name] for name in ("near", "same")},
    measures=lambda plan: [bench.Measure((OFF, MEAN), shifted)],
    gap="off",
    is_gap=False,
  )
  found = evidence(study, tune=8)
  assert 10 < min(found.tuned["near"].scores) < 12
  assert 0 < found.tuned["near"].floor < 0.1
  assert found.tuned["near"].num_near < 8
  # As a distance, the level would be the floor and all settings as good.
  wrong = evidence(dataclasses.replace(study, is_gap=True), tune=8)
  assert wrong.tuned["near"].num_near == 8
  render.write(tmp_path, found.plan, found)
  for name in ("table.md", "report.html"):
    text = (tmp_path / name).read_text()
    assert "nearest to retraining" not in text
    assert "nearer to retraining" not in text
    assert "gap to the retrained" not in text


@pytest.mark.parametrize(
  "module", [forget_graph, forget_recommendations, forget_regression]
)
def test_the_settings_of_a_study_name_all_that_may_be_chosen(module):
  study = module.STUDY
  for preset in ("smoke", "quick", "paper"):
    settings = study.settings(module.Options(preset=preset))
    for name, method in study.methods.items():
      assert set(method.space or ()) <= set(settings.get(name, ()))


def test_further_settings_are_run_beside_the_one_of_the_report():
  sweeps = {"near": {"off": (0.0, 0.5)}}
  study = dataclasses.replace(STUDY, sweeps=lambda plan: sweeps)
  found = evidence(study)
  assert len(found.swept) == 1
  same, other = (f.values["mean"] for f in found.swept["near"])
  np.testing.assert_allclose(same, found.found["near"].values["mean"])
  np.testing.assert_allclose(other, same + 0.5, atol=1e-6)
  assert found.found.keys() == evidence().found.keys()


def test_methods_see_what_is_known_of_a_request_beside_its_rows():
  def marked(bed, setting):
    made = Variables({"mean": bed.marks.astype(jnp.float32)})
    return lambda variables, data, forget_mask, key: (made, None)

  study = dataclasses.replace(
    STUDY,
    kinds={
      "lowest": bench.Kind(
        "lowest:SHARE", lambda text, x: (lowest(text, x)[0], np.float32(text))
      )
    },
    methods={"marked": bench.Method(marked)},
  )
  values = evidence(study).found["marked"].values["mean"]
  np.testing.assert_allclose(values, np.repeat([0.3, 0.6], SEEDS))


def test_draws_begin_with_the_default_and_stay_within_their_space():
  space = {
    "rate": tune.Between(1e-4, 1e-1),
    "steps": tune.Choice((10, 100)),
  }
  found = tune.draws({"rate": 1.0, "steps": 5, "other": 2}, space, 9)
  assert found[0] == {"rate": 1.0, "steps": 5, "other": 2}
  assert len(found) == 9 and {s["steps"] for s in found[1:]} == {10, 100}
  assert all(1e-4 <= s["rate"] <= 1e-1 and s["other"] == 2 for s in found[1:])
  assert found == tune.draws(found[0], space, 9)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"tune": 1}, "--tune > 1, got 1"),
    ({"tune": 3, "methods": "same"}, "--methods with settings to --tune"),
    ({"request": ""}, "--request lowest:SHARE"),
    ({"request": "highest:0.1"}, "--request lowest:SHARE, got 'highest:0.1'"),
    ({"request": "lowest:1"}, "--request lowest:1: "),
  ],
)
def test_bad_options_are_one_line(options, message):
  refused(message, shell.prepare, STUDY, bench.CommonOptions(**options))


def test_a_certificate_answers_one_request_for_one_method(tmp_path):
  found = evidence(request="lowest:0.3", certificate="near")
  render.write(tmp_path, found.plan, found)
  made = json.loads((tmp_path / "certificate.json").read_text())
  assert made["method"] == "near" and made["rows"] == 12
  assert made["verdict"]["outcome"] == "passed"
  assert "could not be told" in made["can_be_claimed"]
  assert made["digest"] in (tmp_path / "certificate.html").read_text()
  assert set(made["hashes"]) >= {"numbers of the rows", "model in params"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"certificate": "far"}, "--certificate to be one of --methods"),
    ({"certificate": "near"}, "one --request for --certificate, got 2"),
  ],
)
def test_what_cannot_be_certified_is_refused(options, message):
  refused(message, shell.prepare, STUDY, bench.CommonOptions(**options))


def test_settings_are_written_with_how_they_were_chosen_and_become_defaults(
  tmp_path, monkeypatch
):
  path = tmp_path / "settings.json"
  monkeypatch.setattr("sys.argv", ["mean.py", "--tune", "5"])
  options = dict(tune=5, methods="near,same", write_settings=str(path))
  plan = shell.prepare(STUDY, bench.CommonOptions(**options))
  with common.progress() as bar:
    say = lambda words: None
    del bar
    tuned = dict(tune.choose(plan.selection, 5, running.record, say))
  tune.write(path, [], plan.selection, tuned)
  (entry,) = tune.read(path)
  assert entry["method"] == "near" and entry["for"] == {"preset": "quick"}
  assert entry["setting"]["off"] == pytest.approx(tuned["near"].setting["off"])
  how = entry["chosen"]
  assert how["budget"] == 5 and how["programs"] == 1 and how["diverged"] == 0
  assert how["requests"] == ["lowest:0.5"] and min(how["seeds"]) > 10**5
  assert how["gap"] <= how["gap_default"] and how["as_good"] >= 1

  study = dataclasses.replace(STUDY, chosen=path)
  found = evidence(study, request="lowest:0.3")
  setting = found.plan.settings["near"]
  assert setting == {"off": entry["setting"]["off"]}
  assert all(row["is_tuned"] for row in rows(found, "near"))
  assert not any("is_tuned" in row for row in rows(found, "same"))
  (shown,) = tune.tables(found)
  assert f"tuned, {how['date']}" in str(shown.grid.rows)
  # Nor of others than it was chosen with, of which some say something.
  holds = tune._holds_for
  default = SimpleNamespace(data="digits", train_steps=None, swap="3,8")
  assert holds(default) == {"data": "digits", "swap": "3,8"}
  for name in ("damage", "swap", "checkpoint", "train_steps", "learning_rate"):
    assert holds(SimpleNamespace(**{name: 1})) != holds(SimpleNamespace())
  # Of other options it says nothing.
  other = evidence(study, request="lowest:0.3", preset="smoke")
  assert other.plan.settings["near"] == {"off": 0.0}
  assert "default, by hand" in str(tune.tables(other)[0].grid.rows)
