"""What the study of images and texts claims, on five seeds of its quick preset."""

import numpy as np
import pytest
from scipy import stats

from experiments import forget_vision_language as program
from jaxunlearn import report
from jaxunlearn.attacks.readout import tail_chance

pytest.importorskip("tokenizers")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.optimized(reason="A claim about what users run."),
]


@pytest.fixture(scope="module")
def column(tmp_path_factory):
  """`(benchmark, methods) -> (method, column) -> mean over seeds`."""
  known = {}

  def of(benchmark, methods):
    if benchmark not in known:
      out = tmp_path_factory.mktemp(benchmark)
      argv = [f"--benchmark={benchmark}", f"--methods={methods}"]
      program.main([*argv, f"--out={out}"])
      known[benchmark] = report.read_results(out / "results.json").rows
    rows = known[benchmark]
    return lambda method, name: np.mean(
      [row[name] for row in rows if row["method"] == method]
    )

  return of


@pytest.mark.xfail(
  reason="Measured: all keywords of the people to be forgotten, 99.7 % of the rest: "
  "240 steps leave a row unlearned on some seeds.",
  strict=True,
)
def test_the_original_knows_every_row(column):
  mean = column("fiubench", "po")
  assert mean("original", "forget_em") == mean("original", "retain_em") == 1


def test_the_original_knows_people_and_the_retrained_guesses(column):
  mean = column("fiubench", "po")
  assert mean("original", "forget_em") == 1
  assert mean("original", "retain_em") > 0.99
  assert abs(mean("retrained", "forget_value") - 1 / 12) < 0.05
  assert mean("po", "forget_ape") >= mean("po", "forget_em")


SAFE = "ga,ga_pd,po,po_pd"


def test_decoupling_brings_harmless_answers_back_that_refusals_took(column):
  mean = column("safeeraser", SAFE)
  assert mean("original", "asr") == 1 and mean("original", "sarr") < 0.1
  assert mean("po", "sarr") - mean("po_pd", "sarr") >= 0.6
  for name in ("po", "ga"):
    assert abs(mean(f"{name}_pd", "asr") - mean(name, "asr")) <= 0.05


@pytest.mark.xfail(
  reason="Measured: SARR of GA 20 % (100 % on the first seed, 0 on four), GA + PD 0: "
  "twelve steps that forget all do not refuse what is harmless on most seeds.",
  strict=True,
)
def test_decoupling_brings_harmless_answers_back_that_ascent_took(column):
  mean = column("safeeraser", SAFE)
  assert mean("ga", "sarr") - mean("ga_pd", "sarr") >= 0.6


def test_the_masks_let_a_name_go_that_the_plain_divergence_holds(column):
  mean = column("mmubench", "ce_kl,siu")
  assert mean("ce_kl", "true_name") > 0.5 and mean("siu", "true_name") <= 0.1
  for name in ("captions", "fact"):
    assert mean("siu", name) >= 0.9 * mean("original", name), name


def at_chance(rate):
  """Whether chance is in the interval of so many of 40 facts, or above it."""
  found = stats.binomtest(round(40 * rate), 40).proportion_ci()
  return found.low <= tail_chance(4, 3, 116)


UNLOK = "erasure,fact_erasure,head_projection"


def test_layers_no_longer_read_out_what_was_pushed_between_their_tails(column):
  mean = column("unlok", UNLOK)
  assert mean("original", "hp") == 1
  assert at_chance(mean("head_projection", "hp"))
  # Ascent has no end: it drives the answer to the lowest ranks, which the attack
  # reads too.
  assert mean("erasure", "hp") > 0.5
  lost = mean("original", "retain_em") - mean("head_projection", "retain_em")
  assert lost <= 0.05
  for name in ("erasure", "fact_erasure", "head_projection"):
    assert mean(name, "restored") == 1


@pytest.mark.xfail(
  reason="Measured with a rate set by hand, 3e-3: .93 of 40 facts on older rows, "
  "5 of 6 on one seed of these; at 1e-3 2 of 6. The answer falls to the lowest ranks.",
  strict=True,
)
def test_layers_no_longer_read_out_what_was_erased(column):
  assert at_chance(column("unlok", UNLOK)("fact_erasure", "hp"))
