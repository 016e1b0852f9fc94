"""The study of GANs, in its smallest size."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments import forget_gan
from experiments.studies import forget_gan_view
from jaxunlearn import report

METHODS = "adapt_exponential,text_to_unlearn,prompt_ascent"


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
  out = tmp_path_factory.mktemp("gan")
  flags = ["--preset=smoke", f"--methods={METHODS}", "--seeds=1"]
  forget_gan.main([*flags, f"--out={out}"])
  return out, report.read_results(out / "results.json").rows


@pytest.mark.slow
def test_methods_are_held_against_retraining_and_shown(smoke_run):
  out, rows = smoke_run
  names = {row["method"] for row in rows}
  assert names >= {"original", "retrained", "retrained_again"}
  assert names >= set(METHODS.split(","))
  by_name = {row["method"]: row for row in rows}
  assert by_name["retrained"]["to_retrained"] < 1e-3
  assert by_name["retrained_again"]["to_retrained"] > 1e-3
  assert by_name["original"]["pul"] == 0
  assert abs(by_name["original"]["degree"]) < 1e-5
  for row in rows:
    assert row["is_finite"] and row["mass_ratio"] >= 1
  text = (out / "report.html").read_text()
  # Nothing is forgotten in so few steps, and the report has to say so.
  assert "NOT met" in text and "STAND-IN" in text


def test_settings_are_chosen_by_how_much_of_the_bounds_is_used():
  two = lambda **values: SimpleNamespace(
    values={k: np.full(2, v) for k, v in values.items()}
  )
  far = {"to_retrained": 0.3, "mass_gap": 0.02}
  told = {"edited_share": 0.1, "others_change": 0.015, "degree": 0.7}
  met = two(pul=0.95, quality=2.2, mass_ratio=1.5, **far, **told)
  missed = two(pul=0.85, quality=4.4, mass_ratio=1.5, **far, **told)
  missed.values["degree"] = np.full(2, 0.4)
  found = {"original": two(quality=2.0), "retrained_again": two(**far)}
  evidence = SimpleNamespace(found={**found, "met": met, "missed": missed})
  used = lambda name: forget_gan_view.aims(evidence, name)
  np.testing.assert_allclose(used("met")["asks_used"], [1, 1])
  np.testing.assert_allclose(used("met")["text_asks_used"], [1, 1])
  np.testing.assert_allclose(used("missed")["asks_used"], (3 + 2 + 3) / 5)
  np.testing.assert_allclose(used("missed")["text_asks_used"], [2, 2])


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--request=class:12"], "Expected a class 0 .. 9"),
    (["--data=cifar10"], "Expected --preset paper with --data cifar10"),
  ],
)
def test_bad_input_ends_with_one_line(flags, message, capsys):
  with pytest.raises(SystemExit) as ended:
    forget_gan.main(["--preset=smoke", *flags])
  said = capsys.readouterr().err
  assert ended.value.code == 2 and message in said and said.count("\n") == 1
