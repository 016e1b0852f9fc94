"""The valuation benchmark compares like with like, and runs."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.benchmarks import valuation, valuation_pydvl
from jaxunlearn.valuation.types import Valuation

SMALL = valuation.Options(
  rows=(20,), samples=40, permutations=2, bags=9, repeats=1
)


def test_the_numpy_model_is_scikit_learns_and_counts_its_fits():
  problem = valuation.load(60, 0)
  x, y = problem["x"][:, :4], problem["y"]
  before = valuation_pydvl.NewtonRegression.fits
  model = valuation_pydvl.NewtonRegression().fit(x, y)
  assert valuation_pydvl.NewtonRegression.fits == before + 1
  expected = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10)
  expected.fit(x, y)
  np.testing.assert_allclose(model.weights, expected.coef_[0], atol=1e-4)
  log_p = expected.predict_log_proba(x)[np.arange(60), y].mean()
  np.testing.assert_allclose(model.score(x, y), log_p, atol=1e-5)
  np.testing.assert_array_equal(model.predict(x), expected.predict(x))


def test_the_bare_loop_knows_the_empty_set():
  problem = valuation.load(20, 0)
  masks = np.stack([np.zeros(20, bool), np.ones(20, bool)])
  utilities, seconds = valuation_pydvl.bare_loop(problem, masks)
  np.testing.assert_allclose(utilities[0], -np.log(2))
  assert utilities[1] > utilities[0] and seconds > 0


@pytest.mark.optimized(reason="It times loops.")
@pytest.mark.slow
def test_a_row_of_each_method_with_equal_counts(tmp_path):
  out = tmp_path / "figures.json"
  rows = valuation.main(
    valuation.Options(
      rows=(20,), samples=40, permutations=2, bags=9, repeats=1, out=str(out)
    )
  )
  found = {row["method"]: row for row in rows}
  counts = {name: row["evaluations"] for name, row in found.items()}
  assert counts == {
    "loo": 21,
    "shapley": 40,
    "banzhaf": 40,
    "data_oob": 9,
    "knn_shapley": 0,
  }
  assert found["loo"]["gap_to_loop"] < 1e-5
  assert found["knn_shapley"]["gap_to_loop"] < 1e-5
  assert len(json.loads(out.read_text())["rows"]) == 5
  # The loop fits as many models.
  problem = valuation.load(20, 0)
  for name, case in valuation.make_cases(20, SMALL).items():
    before = valuation_pydvl.NewtonRegression.fits
    case.loop(problem)
    fits = valuation_pydvl.NewtonRegression.fits - before
    # No model is fitted to the empty set, which Banzhaf may draw.
    assert fits == counts[name], name


def test_the_loop_of_out_of_bag_rows_agrees_within_standard_errors():
  problem = valuation.load(40, 1)
  ours = {
    name: jnp.asarray(leaf, jnp.int32 if name.endswith("y") else jnp.float32)
    for name, leaf in problem.items()
  }
  options = dataclasses.replace(SMALL, bags=300)
  case = valuation.make_cases(40, options)["data_oob"]
  found = jax.jit(case.estimate)(ours, jax.random.key(0))
  constant = np.concatenate([problem["x"], np.ones((40, 1))], axis=1)
  expected, _ = valuation_pydvl.bagging_loop({**problem, "x": constant}, 300, 0)
  # About 110 models leave a row out; a share of them is known to 1 / sqrt(440).
  np.testing.assert_allclose(found.values, expected, atol=5 * 2**0.5 / 440**0.5)
  assert np.corrcoef(found.values, expected)[0, 1] > 0.9


def test_another_model_on_one_side_is_refused():
  problem = valuation.load(20, 0)
  ours = {
    name: jnp.asarray(leaf, jnp.int32 if name.endswith("y") else jnp.float32)
    for name, leaf in problem.items()
  }
  # Without the constant the NumPy side has no intercept.
  with pytest.raises(ValueError, match="utilities of both sides alike"):
    valuation.require_same_utility(ours, problem, 0)


def test_agreement_is_measured_in_standard_errors():
  rng = np.random.default_rng(0)
  error = np.full(4000, 0.3, np.float32)
  ours, theirs = rng.normal(0, 0.3, (2, 4000)) + np.linspace(0, 9, 4000)
  value = Valuation(ours, error, 0, 0.0, jax.numpy.array(True))
  peer = [
    {"jobs": 1, "seconds": 2.0, "fits": 7, "values": theirs.tolist()},
    {"jobs": 2, "seconds": 1.0, "fits": None, "values": None},
  ]
  row = valuation.compared(value, peer)
  # A mean of 4,000 squares is known to 1 / sqrt(8000) of its root.
  assert abs(row["gap_in_errors"] - 1) < 5 / 8000**0.5
  assert row["seconds_pydvl_2"] == 1.0 and row["fits_pydvl"] == 7
  assert row["spearman_pydvl"] > 0.95


def test_a_python_without_pydvl_and_too_many_rows_end_in_one_line(capsys):
  pytest.importorskip("joblib")
  for options, message in [
    ({"rows": (370,)}, "Expected rows in 10 .. 369, got 370."),
    ({"rows": (5,)}, "Expected rows in 10 .. 369, got 5."),
  ]:
    with pytest.raises(SystemExit) as stop:
      valuation.main(valuation.Options(**options))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_failing_pydvl_is_reported(tmp_path):
  script = tmp_path / "python"
  script.write_text(f"#!{sys.executable}\nraise SystemExit('no pydvl here')\n")
  script.chmod(0o755)
  options = valuation.Options(pydvl_python=str(script))
  with pytest.raises(ValueError, match="pyDVL to run, got: no pydvl here"):
    valuation.run_pydvl(valuation.load(20, 0), options)
  assert valuation.run_pydvl({}, SMALL) == []
