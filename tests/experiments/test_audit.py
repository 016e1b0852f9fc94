"""The audit as a whole: its files, its verdicts, its errors."""

import json
import math

import jax
import numpy as np
import pytest

from experiments import audit, audit_output, audit_suite, common
from jaxunlearn import attacks

SCRAMBLING_RATE = 30.0
NAMES = ("original", "retrained", "gradient_ascent", "retrain")


def run(folder, *flags):
  audit.main(["--preset", "smoke", "--out", str(folder), *flags])
  return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
  folder = tmp_path_factory.mktemp("audit")
  return folder, run(folder, "--methods", "gradient_ascent,retrain")


def test_the_audit_writes_its_files(results):
  folder, found = results
  assert {row["method"] for row in found["rows"]} == set(NAMES)
  plots = {path.stem for path in (folder / "plots").iterdir()}
  assert plots == {"roc_lira", "roc_u_lira", "scores", "relearning"}
  html = (folder / "report.html").read_text()
  assert "<h3>Verdicts</h3>" in html
  assert "What the verdict does not prove" in html
  assert "U-LiRA" in (folder / "table.md").read_text()


def test_what_forgot_nothing_and_what_merely_scrambles_are_found_out(results):
  verdicts = results[1]["config"]["verdicts"]
  assert verdicts["original"]["outcome"] == "traces"
  assert verdicts["gradient_ascent"]["outcome"] in ("traces", "telltale")
  assert verdicts["retrain"]["outcome"] in ("passed", "unclear")
  assert "retrained" not in verdicts


@pytest.mark.slow
def test_a_given_model_is_one_row_and_is_judged(results, tmp_path):
  from jaxunlearn.adapters import orbax

  plan = audit.prepare(audit.Options(preset="smoke", methods="retrain"))
  this = audit.study.make(
    plan.model,
    plan.dataset,
    plan.requests,
    plan.recipe,
    num_seeds=1,
    strategy="map",
  )
  original = audit.study.train_original(this, with_ledger=False)
  orbax.save(
    tmp_path / "model",
    jax.tree.map(lambda leaf: leaf[0], original.variables),
  )
  flags = ["--methods", "retrain", "--checkpoint", str(tmp_path / "model")]
  found = run(tmp_path / "out", *flags)
  given = [row for row in found["rows"] if row["method"] == "given"]
  assert len(given) == 1
  assert given[0]["forget_accuracy"] > 0.9
  assert found["config"]["verdicts"]["given"]["outcome"] == "traces"
  same = next(r for r in found["rows"] if r["method"] == "original")
  assert given[0]["lira_auc"] == pytest.approx(same["lira_auc"], abs=1e-4)


def test_a_paired_interval_is_that_of_scipy():
  import scipy.stats

  rng = np.random.default_rng(0)
  ours, theirs = rng.normal(size=(2, 9))
  low, high = audit_output.difference_interval(ours, theirs)
  wanted = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.95)
  np.testing.assert_allclose((low, high), (wanted.low, wanted.high))


def test_one_model_is_held_against_the_spread_of_single_models():
  theirs = np.array([1.0, 2.0, 3.0, 4.0])
  ours = np.full(4, 2.5)
  low, high = audit_output.difference_interval(ours, theirs, one_model=True)
  half = 3.182446 * theirs.std(ddof=1) * math.sqrt(1 + 1 / 4)
  np.testing.assert_allclose((low, high), (-half, half), rtol=1e-6)


def test_an_interval_without_two_values_decides_nothing():
  ours, theirs = np.array([1.0, np.nan]), np.array([0.5, 0.2])
  low, high = audit_output.difference_interval(ours, theirs)
  assert (low, high) == (-math.inf, math.inf)


def fake_setup(num_rows=6):
  class Setup:
    forget = np.ones(num_rows, bool)

  return Setup


def attacked(statistics):
  return audit_suite.Attacked({}, statistics, statistics)


def test_seeds_that_diverged_are_left_out_of_u_lira():
  rng = np.random.default_rng(0)
  unlearned, retrained = rng.normal(size=(2, 6, 6))
  unlearned[1, 3], retrained[4, 0] = np.nan, np.inf
  told = audit_suite.tell_apart(
    fake_setup(), attacked(unlearned), attacked(retrained)
  )
  is_out = np.array([False, True, False, False, True, False])
  np.testing.assert_array_equal(np.isnan(told.auc), is_out)
  np.testing.assert_array_equal(np.isnan(told.member_scores).all(1), is_out)
  kept = audit_suite.tell_apart(
    fake_setup(), attacked(unlearned[~is_out]), attacked(retrained[~is_out])
  )
  np.testing.assert_array_equal(kept.auc, told.auc[~is_out])
  fewer = attacked(unlearned[:4])
  assert audit_suite.tell_apart(fake_setup(), fewer, fewer) is None


def test_u_lira_tells_a_shift_and_not_two_samples_of_one_law():
  rng = np.random.default_rng(0)
  retrained, alike, shifted = rng.normal(size=(3, 16, 30))
  for statistics, low, high in ((alike, 0.4, 0.6), (shifted + 3, 0.9, 1)):
    told = audit_suite.tell_apart(
      fake_setup(30), attacked(statistics), attacked(retrained)
    )
    assert told.auc.shape == (16,)
    assert low <= told.auc.mean() <= high


@pytest.mark.slow
def test_a_method_that_diverges_is_damage_and_the_report_is_written(tmp_path):
  options = audit.Options(preset="smoke", methods="finetune,retrain")
  plan = audit.prepare(options)
  plan.settings["finetune"] = {**plan.settings["finetune"], "rate": 1e30}
  with common.progress() as progress:
    outcome = audit.run(plan, progress)
  audit_output.write(tmp_path, plan, outcome)
  found = json.loads((tmp_path / "results.json").read_text())
  verdict = found["config"]["verdicts"]["finetune"]
  assert verdict["outcome"] == "damaged"
  assert "too weak" in verdict["sentence"]
  assert any("without nan: 0" in reason for reason in verdict["reasons"])
  assert outcome.told["finetune"] is None
  assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_nothing_to_compare_with_is_one_line(tmp_path, capsys):
  flags = ["--methods", "retrain", "--learning-rate", "1e12"]
  with pytest.raises(SystemExit) as stop:
    run(tmp_path / "out", *flags)
  assert stop.value.code == 2
  err = capsys.readouterr().err
  assert "two original models at least that did not diverge, got 0 of 4" in err
  assert not (tmp_path / "out").exists()


def lira_interval(outcome, name):
  """Over models and over rows."""
  forget, unseen = (
    np.flatnonzero(np.asarray(rows))
    for rows in (outcome.setup.forget, outcome.setup.unseen)
  )
  scores = outcome.attacked[name].lira.astype(np.float32)
  return attacks.bootstrap(
    jax.random.key(0),
    scores[:, forget],
    scores[:, unseen],
    statistic=attacks.auc,
    resample_rows=True,
  )


@pytest.mark.optimized(reason="A claim about what users run.")
@pytest.mark.slow
def test_lira_finds_members_of_an_overfitted_model_and_none_after_retraining():
  """And neither is the model that forgets by scrambling taken for clean."""
  common.use_compilation_cache()
  options = audit.Options(
    preset="quick",
    request="random:0.1",
    methods="gradient_ascent,retrain",
    train_steps=1200,
    learning_rate=3e-3,
    seeds=16,
  )
  plan = audit.prepare(options)
  # The gradients of an overfitted model are small: the usual rate does nothing.
  plan.settings["gradient_ascent"] = {
    "rate": SCRAMBLING_RATE,
    "steps": 20,
    "loss_ceiling": 3.0,
  }
  with common.progress() as progress:
    outcome = audit.run(plan, progress)
  original = lira_interval(outcome, "original")
  assert original.estimate > 0.6
  assert original.low > 0.5
  assert outcome.attacked["original"].values["lira_auc"].mean() > 0.6
  retrained = lira_interval(outcome, "retrained")
  assert retrained.low <= 0.5 <= retrained.high
  assert retrained.estimate == pytest.approx(0.5, abs=0.05)
  checks = audit_output.all_checks(outcome)
  judged = {
    name: audit_output.report.judge(found, control=checks["original"])
    for name, found in checks.items()
  }
  assert judged["original"].outcome == "traces"
  assert judged["retrain"].outcome == "passed"
  # It scrambles: rows are lost, and not because they look unseen.
  accuracy = outcome.audits["gradient_ascent"].metrics["forget_accuracy"]
  assert accuracy.mean() < 0.9
  assert judged["gradient_ascent"].outcome in ("traces", "telltale")
  u_lira = next(c for c in checks["gradient_ascent"] if "U-LiRA" in c.measure)
  assert u_lira.finding
