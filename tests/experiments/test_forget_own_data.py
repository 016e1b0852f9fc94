"""What users bring: labels, inputs, copies, and models of more classes."""

import json

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import own_models
import pytest
from refusals import refused

import jaxunlearn as ju
from experiments import data, forget
from experiments.beds import classifier_methods
from experiments.beds.classifier_methods import METHODS
from experiments.bench import cautions
from experiments.datasets import interactions, tofu
from jaxunlearn.adapters.flax import from_module


def save(folder, **arrays):
  rng = np.random.default_rng(0)
  y = np.arange(60) % 3
  x = rng.normal(size=(60, 4)).astype(np.float32)
  tests = {"x_test": x[:21] + 1, "y_test": y[:21]}
  np.savez(folder / "own.npz", **{"x": x, "y": y, **tests, **arrays})
  return f"npz:{folder / 'own.npz'}"


def prepare(source, **options):
  usual = {"methods": "finetune", "request": "class:1", "preset": "smoke"}
  return forget.prepare(forget.Options(data=source, **{**usual, **options}))


@pytest.mark.parametrize(
  "change",
  [
    lambda y: y[:, None],
    lambda y: y.astype(float),
    lambda y: y.astype(np.uint64),
    lambda y: y.astype(np.int8)[:, None],
  ],
)
def test_labels_are_whole_numbers_however_they_are_written(tmp_path, change):
  y = np.arange(60) % 3
  loaded = data.load(save(tmp_path, y=change(y)), preset="smoke")
  assert loaded.train["label"].dtype == np.int32
  np.testing.assert_array_equal(loaded.train["label"], y)
  assert len(loaded.notes) == (change(y).ndim == 2)


@pytest.mark.parametrize(
  ("arrays", "words"),
  [
    ({"y": np.arange(60) % 3 + 1}, "1 .. 3 without 0; subtract 1 from labels"),
    (
      {"y": np.where(np.arange(60), np.arange(60) % 3, 2**31 - 1)},
      "2147483647",
    ),
    ({"y": np.where(np.arange(60), np.arange(60) % 3, 2**40)}, str(2**40)),
    ({"y": np.arange(60) % 3 + 0.5}, "integers of shape [N]"),
    ({"y": np.full(60, np.nan)}, "integers of shape [N]"),
    ({"y": np.eye(60, 3)}, "integers of shape [N]"),
    ({"x": np.full((60, 4), 2**40)}, "32 bits hold, got 1099511627776"),
    ({"x": np.full((60, 4), 1e300)}, "240 values that are nan or infinite"),
  ],
)
def test_what_does_not_fit_is_refused(tmp_path, arrays, words):
  with pytest.raises(ValueError) as found:
    data.load(save(tmp_path, **arrays), preset="smoke")
  assert words in str(found.value) and len(str(found.value)) < 300


def test_integers_reach_a_model_that_wants_them(tmp_path):
  x = np.random.default_rng(0).integers(0, 50, (60, 7))
  source = save(tmp_path, x=x, x_test=x[:21])
  plan = prepare(source, model="own_models:tokens", methods="all")
  assert plan.dataset.train["x"].dtype == np.int32
  np.testing.assert_array_equal(plan.dataset.train["x"], x)
  moving = set(classifier_methods._MOVES_INPUTS)
  assert {"unsir", "gkt", "boundary_shrink"} <= moving
  # Nor has this network an output by the name that others read.
  reading = set(classifier_methods._READS_EMBEDDINGS)
  assert set(plan.methods) == set(METHODS) - moving - reading
  with pytest.raises(ValueError, match="without unsir for inputs that are int"):
    prepare(source, model="own_models:tokens", methods="unsir")
  assert prepare(source).dataset.train["x"].dtype == np.float32


def test_images_of_bytes_become_floats(tmp_path):
  x = np.zeros((60, 8, 8, 3), np.uint8)
  loaded = data.load(save(tmp_path, x=x, x_test=x[:21]), preset="smoke")
  assert loaded.train["x"].dtype == np.float32


def test_images_whose_channels_come_first_are_refused(tmp_path):
  x = np.zeros((60, 3, 32, 32), np.float32)
  source = save(tmp_path, x=x, x_test=x[:21])
  for model in ("cnn", "resnet", "vit"):
    refused("channels come first", prepare, source, model=model)


@pytest.mark.parametrize("gone", [3, 9])
def test_a_class_that_is_gone_is_no_gap(tmp_path, gone):
  y = np.arange(200) % 10
  left = y != gone
  x = np.random.default_rng(0).normal(size=(200, 4))[left]
  source = save(tmp_path, x=x, y=y[left], x_test=x[:50], y_test=y[:50])
  plan = prepare(source, model="own_models:ten_outputs", request="each-class")
  assert plan.dataset.num_classes == len(plan.dataset.class_names) == 10
  assert len(plan.requests.names) == 9
  assert any(f"of class {gone}" in note for note in plan.notes)
  refused(r"y|gaps", prepare, source)
  assert prepare(source, classes=10).dataset.num_classes == 10


def test_labels_beyond_the_models_outputs_are_refused(tmp_path):
  y = np.arange(60) % 3 + 1
  source = save(tmp_path, y=y, y_test=y[:21])
  with pytest.raises(ValueError, match=r"labels are 1 .. 3 and count from 0"):
    prepare(source, model="own_models:linen_factory")


def test_a_model_that_fails_in_training_alone_is_refused(tmp_path):
  with pytest.raises(ValueError, match="to take a training step") as found:
    prepare(save(tmp_path), model="own_models:fails_in_training")
  assert "\n" not in str(found.value)


def test_copies_of_deleted_rows_are_counted(tmp_path):
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(60, 4)), np.arange(60) % 3
  x[30:33], x[33], x[0, 0], x[30, 0] = x[:3], x[1], 0.0, -0.0
  x_test = rng.normal(size=(21, 4))
  x_test[:2] = x[:2]
  (tmp_path / "rows.txt").write_text("0\n1\n2\n")
  source = save(tmp_path, x=x, y=y, x_test=x_test)
  plan = prepare(source, request=f"index:{tmp_path / 'rows.txt'}")
  # Row 33 has the inputs of row 1 and another label.
  rows = plan.beds.sources[0]
  found = cautions.count_copies(rows, plan.requests.masks)
  tested = sum(
    (rows.test["x"] == row).all(1).any() for row in x[:2].astype("f4")
  )
  assert found.tolist() == [[3, tested]]
  assert f"3 kept training rows and {tested} test rows are" in plan.notes[0]
  assert "has 3 rows: each moves a share of them by 33 points" in plan.notes[1]


def test_copies_are_found_in_texts_and_interactions_too():
  pairs = tofu.people(4)
  pairs.questions[5], pairs.answers[5] = pairs.questions[0], pairs.answers[0]
  rows = tofu.Source(pairs, np.array([0, 1, 5]), np.array([2, 3]), 4)
  assert cautions.count_copies(rows, np.eye(1, 3) > 0).tolist() == [[1, 0]]
  likes = np.array([[0, 1], [2, 3], [0, 1], [0, 1]], np.int32)
  source = interactions.Source(
    likes, 3, 4, {}, {}, "", np.arange(3), np.arange(4)
  )
  rows = interactions.Split(source, 0, np.array([0, 1, 2]), np.array([3]))
  assert cautions.count_copies(rows, np.eye(1, 3) > 0).tolist() == [[1, 1]]
  assert not cautions.count_copies(object(), np.eye(1, 3) > 0).any()


def test_where_nothing_can_be_retrained_a_certificate_says_what_is_known(
  blobs, tmp_path, capsys
):
  """A network that knows its rows by heart, and one that learned no label."""
  rng = np.random.default_rng(1)
  x, y = blobs["x"], rng.integers(0, 3, 120)
  path = tmp_path / "own.npz"
  np.savez(path, x=x[:60], y=y[:60], x_test=x[60:], y_test=y[60:])
  np.save(tmp_path / "rows.npy", np.arange(40))
  model = from_module(own_models.linen_factory)
  every, fit = np.ones(60, bool), ju.Fit(optax.adam(0.05), 600, ju.ALL)
  rows = {"x": x[:60], "label": y[:60]}
  trained = ju.train(model, rows, every, jax.random.key(0), fit)[0]
  flags = [
    *(f"--data=npz:{path}", "--model=own_models:linen_factory"),
    *(f"--request=index:{tmp_path / 'rows.npy'}", "--preset=smoke"),
    *("--no-retrain", "--methods=ssd", "--certificate=ssd", "--seeds=1"),
  ]
  found = []
  for name, variables in (
    ("by_heart", trained),
    ("untrained", jax.jit(model.init)(jax.random.key(3), x[:1])),
  ):
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(tmp_path / name, {"params": variables.params})
    out = tmp_path / f"out_{name}"
    forget.main([*flags, f"--checkpoint={tmp_path / name}", f"--out={out}"])
    found.append(json.loads((out / "certificate.json").read_text()))
    assert found[-1]["can_be_claimed"] in capsys.readouterr().out
    page = (out / "certificate.html").read_text()
    assert "no such model was trained" in page
  heart, fresh = found
  before = heart["checks"][0]
  assert heart["rows"] == 40 and not heart["is_retrained"]
  assert before["reference"] == 0.5 and before["value"] >= 0.5
  assert "prove little" in fresh["can_be_claimed"]
  assert "retrained" not in json.dumps(heart["verdict"])
  broken = jax.tree.map(lambda leaf: leaf * 1e30, trained.params)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "broken", {"params": broken})
  flags += [f"--checkpoint={tmp_path / 'broken'}", f"--out={tmp_path / 'none'}"]
  for more, words in (
    ([], "Expected finite parameters and losses of original"),
    (["--tune=2"], "--no-retrain without --tune"),
    (
      [f"--write-settings={tmp_path / 's.json'}"],
      "--no-retrain without --tune",
    ),
  ):
    with pytest.raises(SystemExit) as ended:
      forget.main([*flags, *more])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
  assert not (tmp_path / "none").exists()
  with pytest.raises(SystemExit):
    forget.main(["--no-retrain", "--certificate=ssd", "--methods=ssd"])
  assert "--no-retrain with --certificate" in capsys.readouterr().err
