"""Corrective unlearning from end to end, on small data."""

import json

import numpy as np
import pytest

from experiments import data, forget_corrupted
from experiments.bench import REFERENCES
from experiments.datasets import classes, corrupted

METHODS = "clean,ssd,ssd_default,finetune"


def rows_of(out, *more):
  forget_corrupted.main([
    "--preset", "smoke", "--methods", METHODS, "--request",
    "identified:1;identified:0.2", "--out", str(out), *more,
  ])  # fmt: skip
  return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
  out = tmp_path_factory.mktemp("corrupted")
  return out, rows_of(out)


@pytest.mark.slow
def test_rows_of_every_method_share_and_seed(poisoned):
  out, results = poisoned
  found = {(r["method"], r["request"], r["seed"]) for r in results["rows"]}
  names = [*REFERENCES, *METHODS.split(",")]
  shares = ("identified:1", "identified:0.2")
  assert found == {(m, s, k) for m in names for s in shares for k in (0, 1)}
  mean = lambda method, share, column: np.mean([
    r[column]
    for r in results["rows"]
    if (r["method"], r["request"]) == (method, share)
  ])  # fmt: skip
  corrected = lambda *lane: mean(*lane, "corrected_accuracy")
  # The patch works, and without any bad row it does not.
  assert corrected("original", shares[0]) < 0.4
  assert corrected("clean", shares[0]) > 0.6
  # All known is as good as clean; a fifth is not.
  assert corrected("retrained", shares[0]) > 0.6
  assert corrected("retrained", shares[1]) < 0.4
  assert mean("original", shares[0], "clean_accuracy") > 0.8
  assert mean("original", shares[0], "believed") > 0.8
  assert (out / "plots" / "shares.png").exists()
  text = (out / "report.html").read_text()
  # What SSD is given beyond the others is said, with its size.
  assert "the best of 72 settings" in text
  assert "clean rows set aside" in text
  assert "nearer to retraining" not in text
  assert (
    "Corrected accuracy of clean training" in (out / "report.html").read_text()
  )


def split():
  return classes.split(data.load("digits", preset="smoke"), 0, "report")


def test_a_patch_changes_its_square_alone():
  before = split()
  made = corrupted.poison(before, 0, 0.1)
  assert made.damaged.sum() == round(0.1 * len(made.truth))
  changed = made.train["x"] != before.train["x"]
  assert not changed[~made.damaged].any()
  assert not changed[:, :-2].any() and not changed[:, :, :-2].any()
  top = before.train["x"].max()
  assert (made.train["x"][made.damaged][:, -2:, -2:] == top).all()
  again = corrupted.patch(made.train["x"][made.damaged], 2, top)
  np.testing.assert_array_equal(again, made.train["x"][made.damaged])
  assert (made.train["label"][made.damaged] == corrupted.TARGET).all()
  np.testing.assert_array_equal(
    made.train["label"][~made.damaged], made.truth[~made.damaged]
  )
  assert not made.test["affected"][made.test["label"] == 0].any()


def test_swapping_twice_is_nothing():
  before = split()
  made = corrupted.swap(before, 0, 0.45, (3, 8))
  assert set(made.truth[made.damaged]) == {3, 8}
  assert (made.train["label"] != made.truth).sum() == made.damaged.sum()
  back = corrupted.exchanged(made.train["label"], made.damaged, (3, 8))
  np.testing.assert_array_equal(back, before.train["label"])
  assert set(made.test["label"][made.test["affected"]]) == {3, 8}


def test_what_is_identified_is_nested_and_differs_by_seed():
  made = corrupted.poison(split(), 0, 0.1)
  masks = [corrupted.mask(s, made)[0] for s in ("0.1", "0.2", "1")]
  assert [m.sum() for m in masks] == [
    round(s * made.damaged.sum()) for s in (0.1, 0.2, 1)
  ]
  assert not (masks[0] & ~masks[1]).any()
  np.testing.assert_array_equal(masks[2], made.damaged)
  other, _ = corrupted.mask("0.2", made._replace(seed=1))
  assert (other != masks[1]).any()


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (["--damage", "swap", "--swap", "3,3"], "Expected --swap"),
    (["--damage", "swap", "--swap", "3"], "Expected --swap A,B"),
    (["--data", "breast-cancer"], "for a patch"),
    (["--request", "identified:1.5"], "Expected"),
    (["--request", "class:3"], "Expected"),
  ],
)
def test_bad_input_ends_with_one_line(more, message, tmp_path, capsys):
  with pytest.raises(SystemExit) as stopped:
    forget_corrupted.main(["--preset", "smoke", "--out", str(tmp_path), *more])
  assert stopped.value.code == 2
  error = capsys.readouterr().err.strip().splitlines()
  assert len(error) == 1 and message in error[0]


def test_ssd_without_the_choice_has_one_setting_like_the_others():
  study = forget_corrupted.STUDY
  settings = study.settings(forget_corrupted.Options())
  assert set(settings["ssd_default"]) == {"alpha", "dampening"}
  assert settings["ssd"] == {} and not study.methods["ssd"].space
  assert set(study.methods["ssd_default"].space) == {"alpha", "dampening"}
  assert not study.is_gap
