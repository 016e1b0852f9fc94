"""A user's own numbers to predict: their rows, names, model and checkpoint."""

import json

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import own_models
import pytest
from refusals import refused

import jaxunlearn as ju
from experiments import forget_regression
from experiments.datasets import regression as tables
from experiments.forget_regression import Options, prepare
from jaxunlearn.adapters.flax import from_module
from jaxunlearn.losses.regression import on_targets

SOMEBODY = 2**63 - 2  # An id that no float holds.


def rows(count, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(count, 4)).astype(np.float32)
  return x, 100 + 10 * x[:, 0] + rng.normal(size=count)


@pytest.fixture
def sales(tmp_path):
  x, y = rows(90)
  customer = np.arange(90) // 3 + SOMEBODY - 29
  lines = ["customer_id,region,a,b,y"] + [
    f"{c},{'north' if i % 2 else 'south'},{a},{b},{t}"
    for i, (c, (a, b, *_), t) in enumerate(zip(customer, x, y))
  ]
  (tmp_path / "sales.csv").write_text("\n".join(lines))
  return f"csv:{tmp_path / 'sales.csv'}"


@pytest.fixture
def own(tmp_path):
  (x, y), (x_test, y_test) = rows(60), rows(30, 1)
  arrays = {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
  np.savez(tmp_path / "own.npz", **arrays, user=np.arange(60) // 2)
  return f"npz:{tmp_path / 'own.npz'}", arrays


def test_all_rows_of_somebody_are_trained_on_and_forgotten(sales):
  asked = f"group:customer_id={SOMEBODY}"
  plan = prepare(Options(data=sales, request=asked, seeds=4))
  assert plan.requests.forget.sum(-1).tolist() == [[3] * 4]
  for split, mask in zip(plan.beds.sources, plan.forget):
    np.testing.assert_array_equal(split.columns["row"][mask], [87, 88, 89])
    # Two words of a region, two numbers, and no id.
    assert split.train["x"].shape[1] == 4
  plan = prepare(Options(data=sales, request="group:region=north", seeds=2))
  for split, mask in zip(plan.beds.sources, plan.forget):
    np.testing.assert_array_equal(mask, split.columns["region"] == "north")


def test_a_trained_model_is_taken_with_its_numbers_as_they_are(own, tmp_path):
  source, arrays = own
  model = from_module(own_models.one_number, loss=on_targets("l2"))
  data = {"x": arrays["x"], "label": arrays["y"].astype(np.float32)}
  fit = ju.Fit(optax.adam(0.1), 40, 60)
  trained, _ = ju.train(model, data, np.ones(60, bool), jax.random.key(0), fit)
  place = tmp_path / "checkpoint"
  with ocp.StandardCheckpointer() as saver:
    saver.save(place, trained.params)
  forget_regression.main(
    [
      *("--data", source, "--model", "own_models:one_number"),
      *("--checkpoint", str(place), "--request", "group:user=7"),
      *("--methods", "finetune,blindspot", "--preset", "smoke", "--seeds", "1"),
      *("--out", str(tmp_path / "out")),
    ]
  )
  told = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
  before = next(row for row in told if row["method"] == "original")
  errors = np.abs(model.predict(trained, arrays["x"])[:, 0] - arrays["y"])
  np.testing.assert_allclose(
    before["forget_mae"], errors[14:16].mean(), rtol=1e-4
  )
  np.testing.assert_allclose(
    before["retain_mae"], np.delete(errors, [14, 15]).mean(), rtol=1e-4
  )
  assert {row["method"] for row in told} >= {"finetune", "blindspot"}


def test_own_test_rows_test_and_others_choose_settings(own):
  source, arrays = own
  found = tables.load(source)
  parts = [tables.split(found, seed, "report") for seed in (0, 1)]
  chosen = tables.split(found, 0, "select")
  np.testing.assert_array_equal(parts[0].test["x"], parts[1].test["x"])
  told = np.concatenate([p.test_columns["target"] for p in (parts[0], chosen)])
  np.testing.assert_allclose(np.sort(told), np.sort(arrays["y_test"]))
  np.testing.assert_allclose(parts[0].columns["target"], arrays["y"])


@pytest.mark.parametrize(
  ("change", "options", "message"),
  [
    ({"y": np.arange(59.0)}, {}, r"numbers of shape \[60\]"),
    ({"y": np.full(60, np.nan)}, {}, "y in .* to be finite"),
    ({"y": np.ones(60)}, {}, "targets that differ"),
    ({"x": np.full((60, 4), np.inf)}, {}, "240 values that are nan"),
    ({"x_test": np.ones((30, 5))}, {}, r"of rows \[4\], as those of x"),
    ({"y_test": None}, {}, "both x_test and y_test or neither"),
    ({}, {"request": "group:user=77"}, "a group of these data, got 77"),
    ({}, {"request": "group:who=7"}, "a column among target, user"),
    (
      {},
      {"model": "own_models:linen_factory"},
      "one number a row, .B, 1., got",
    ),
    ({}, {"model": "own_models:nobody"}, "to have 'nobody'"),
    ({}, {"checkpoint": "here"}, "Expected with --checkpoint a --model"),
    ({}, {"train_steps": 0}, "--train-steps > 0, got 0"),
    (
      {"x": np.ones((60, 4, 2)), "x_test": np.ones((30, 4, 2))},
      {},
      "a --model",
    ),
  ],
)
def test_what_does_not_fit_is_one_line(own, tmp_path, change, options, message):
  arrays = {**own[1], "user": np.arange(60) // 2, **change}
  arrays = {name: a for name, a in arrays.items() if a is not None}
  np.savez(tmp_path / "bad.npz", **arrays)
  usual = {"data": f"npz:{tmp_path / 'bad.npz'}", "request": "lowest:0.2"}
  refused(message, prepare, Options(**{**usual, **options}))


def test_words_are_no_numbers_to_predict(sales, tmp_path):
  path = tmp_path / "sales.csv"
  path.write_text(path.read_text().replace(",y\n", ",z\n", 1))
  refused("called y or label or target", prepare, Options(data=sales))
  path.write_text("y,a\n" + "x,1\n" * 20)
  refused("numbers in the column y", prepare, Options(data=sales))
