"""Loaders of data sets and builders of requests."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from experiments import data, forget, requests
from experiments.beds import classifier_methods, classifiers, recipes
from experiments.beds.classifier_methods import settings_of
from experiments.bench import tune
from experiments.datasets import classes
from experiments.studies import compare, forget_corrupted
from experiments.studies.forget import Options


def write_cifar10(folder, part, count):
  """Plain squares of a colour a class, as JPEG files end to end."""
  label = (np.arange(count) % 10).astype(np.uint8)
  files = []
  for c in label:
    buffer = io.BytesIO()
    colour = (25 * int(c), 100, 200)
    Image.new("RGB", (32, 32), colour).save(buffer, "JPEG", quality=95)
    files.append(np.frombuffer(buffer.getvalue(), np.uint8))
  np.savez(
    folder / f"cifar10_{part}.npz",
    jpeg=np.concatenate(files),
    offsets=np.cumsum([0, *map(len, files)]),
    label=label,
  )


@pytest.fixture
def cifar10(tmp_path):
  write_cifar10(tmp_path, "train", 60)
  write_cifar10(tmp_path, "test", 30)
  return tmp_path


def test_cifar10_images_come_with_their_labels(cifar10):
  loaded = data.cifar10(str(cifar10))
  assert loaded.train["x"].shape == (60, 32, 32, 3)
  assert loaded.train["x"].dtype == np.float32
  assert loaded.test["label"].dtype == np.int32
  assert loaded.class_names[8] == "ship"
  # The red channel of class c is 25 c of 255, before normalising.
  red = loaded.train["x"][..., 0].mean(axis=(1, 2)) * 0.2470 + 0.4914
  np.testing.assert_allclose(red, 25 * loaded.train["label"] / 255, atol=0.02)


def test_a_part_of_cifar10_has_as_many_rows_of_every_class(cifar10):
  loaded = data.cifar10(str(cifar10), (30, 10))
  assert np.bincount(loaded.train["label"]).tolist() == [3] * 10
  assert np.bincount(loaded.test["label"]).tolist() == [1] * 10


def test_the_data_folder_may_come_from_the_environment(cifar10, monkeypatch):
  monkeypatch.setenv("JAXUNLEARN_DATA", str(cifar10))
  assert len(data.load("cifar10", preset="smoke").train["x"]) == 60


def test_a_broken_image_is_named(cifar10):
  path = cifar10 / "cifar10_train.npz"
  arrays = dict(np.load(path))
  arrays["jpeg"] = np.zeros_like(arrays["jpeg"])
  np.savez(path, **arrays)
  refused(r"image 0 of .*cifar10_train", data.cifar10, str(cifar10))


def test_cifar10_without_a_folder_or_fetcher_says_so(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
  refused(r"--data-dir .* got neither", data.cifar10, None)


def test_what_the_fetcher_lacks_is_named(monkeypatch):
  def load(*args, **kwargs):
    raise ModuleNotFoundError("No module named 'm'", name="m")

  fetcher = types.SimpleNamespace(load=load, as_numpy=None)
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", fetcher)
  refused("pip install m, or give --data-dir", data.cifar10, None)


def test_digits_are_split_in_proportion_and_always_alike():
  first, second = data.digits(), data.digits()
  np.testing.assert_array_equal(first.train["x"], second.train["x"])
  whole = np.bincount(first.train["label"]) + np.bincount(first.test["label"])
  shares = np.bincount(first.test["label"]) / whole
  np.testing.assert_allclose(shares, 0.3, atol=0.005)
  assert whole.sum() == 1797
  assert first.train["x"].min() >= 0 and first.train["x"].max() == 1


def test_no_row_is_both_trained_and_tested_on():
  label = np.random.default_rng(1).integers(0, 5, 97)
  train, test = data.stratified_split(label, 0.2)
  np.testing.assert_array_equal(
    np.sort(np.concatenate([train, test])), np.arange(97)
  )


def test_columns_are_split_with_their_rows(blobs, tmp_path):
  np.savez(tmp_path / "own.npz", **blobs)
  loaded = data.from_npz(str(tmp_path / "own.npz"))
  assert loaded.is_split_here
  assert len(loaded.train["x"]) == 96 and len(loaded.test["x"]) == 24
  places = [
    np.flatnonzero((blobs["x"] == row).all(axis=1))[0]
    for row in loaded.train["x"]
  ]
  np.testing.assert_array_equal(
    loaded.columns["country"], blobs["country"][places]
  )


def test_requests_select_the_rows_that_they_name(tmp_path):
  loaded = data.digits()
  label = loaded.train["label"]
  both = requests.parse("class:3,5", loaded)
  np.testing.assert_array_equal(both.masks[0], np.isin(label, [3, 5]))
  test = loaded.test["label"]
  np.testing.assert_array_equal(both.marks[0, 0], np.isin(test, [3, 5]))
  group = requests.parse("group:label=3", loaded)
  np.testing.assert_array_equal(group.masks[0], label == 3)
  np.testing.assert_array_equal(group.marks[0, 0], test == 3)
  tenth = requests.parse("random:0.1", loaded)
  assert tenth.masks.sum() == round(0.1 * len(label))
  assert not tenth.marks.any()
  each = requests.parse("each-class", loaded)
  np.testing.assert_array_equal(
    each.masks, np.arange(10)[:, None] == label[None]
  )
  several = requests.parse("each-class;random:0.1", loaded)
  assert len(several.names) == 11 and several.names[-1] == "random:0.1"
  np.save(tmp_path / "mask.npy", label == 4)
  mask = requests.parse(f"index:{tmp_path / 'mask.npy'}", loaded)
  np.testing.assert_array_equal(mask.masks[0], label == 4)
  (tmp_path / "rows.txt").write_text("7\n0\n\n7\n")
  rows = requests.parse(f"index:{tmp_path / 'rows.txt'}", loaded)
  assert np.flatnonzero(rows.masks[0]).tolist() == [0, 7]


def test_groups_may_be_numbers_words_or_bools(blobs, tmp_path):
  adult = blobs["x"][:, 0] > 0
  year = np.arange(120) % 5 + 1990.5
  np.savez(tmp_path / "own.npz", **blobs, adult=adult, year=year)
  loaded = data.from_npz(str(tmp_path / "own.npz"))
  for text, expected in (
    ("country=it", loaded.columns["country"] == "it"),
    ("adult=true", loaded.columns["adult"]),
    ("adult=0", ~loaded.columns["adult"]),
    ("year=1991.5", loaded.columns["year"] == 1991.5),
  ):
    found = requests.parse(f"group:{text}", loaded)
    np.testing.assert_array_equal(found.masks[0], expected)


def test_counts_of_steps_shrink_with_the_preset_and_rates_do_not():
  quick, smoke = (
    settings_of(Options(preset=preset))["finetune"]
    for preset in ("quick", "smoke")
  )
  sizes = recipes.RECIPES["mlp"]
  share = sizes["smoke"].num_steps / sizes["quick"].num_steps
  assert smoke["steps"] == max(1, round(share * quick["steps"]))
  assert smoke["rate"] == quick["rate"]


def rows_in(part, pool):
  """The numbers of some rows in the pool, all of whose rows differ."""
  known = {row.tobytes(): i for i, row in enumerate(pool["x"])}
  return {known[row.tobytes()] for row in part["x"]}


def test_rows_are_divided_once_per_seed_and_those_set_aside_stay_aside():
  loaded = data.digits()
  pool = loaded.pool.rows
  splits = [classes.split(loaded, seed, "report") for seed in range(3)]
  select = classes.split(loaded, 5, "select")
  chosen, aside = (rows_in(part, pool) for part in (select.test, select.aside))
  counts = [np.bincount(s.train["label"]).tolist() for s in splits]
  assert counts[0] == counts[1] == counts[2]
  for split in splits:
    train, test, own = (
      rows_in(part, pool) for part in (split.train, split.test, split.aside)
    )
    assert own == aside and not train & test and not (train | test) & aside
    assert not (train | test) & chosen
    assert len(train) + len(test) + len(aside) + len(chosen) == 1797
    np.testing.assert_array_equal(
      split.train["label"], pool["label"][split.row_id]
    )
  assert rows_in(splits[0].test, pool) != rows_in(splits[1].test, pool)


def test_rows_that_are_named_are_trained_on_whatever_the_seed():
  loaded = data.digits()
  named = np.zeros(1797, bool)
  named[[3, 77, 1500]] = True
  for seed in range(4):
    split = classes.split(loaded, seed, "report", named)
    assert {3, 77, 1500} <= set(split.row_id.tolist())


def test_test_rows_of_ones_own_stay_test_rows(tmp_path):
  y = np.arange(60) % 3
  x = np.random.default_rng(0).normal(size=(120, 4))
  np.savez(tmp_path / "d.npz", x=x[:60], y=y, x_test=x[60:], y_test=y)
  loaded = data.from_npz(str(tmp_path / "d.npz"))
  report, select = (
    classes.split(loaded, 1, part) for part in ("report", "select")
  )
  np.testing.assert_array_equal(report.train["x"], loaded.train["x"])
  parts = [
    rows_in(part, loaded.test)
    for part in (report.test, report.aside, select.test)
  ]
  assert sum(map(len, parts)) == 60 and len(set.union(*parts)) == 60


def test_tuned_settings_are_the_defaults_of_what_they_were_tuned_on():
  entries = tune.read(classifier_methods.CHOSEN)
  assert len(entries) >= 19
  budgets, plans = {}, {}
  for entry in entries:
    name, setting, chosen = entry["method"], entry["setting"], entry["chosen"]
    space = classifier_methods.METHODS[name].space
    assert setting.keys() == space.keys() and chosen["seeds"][0] > 10**5
    model = entry["for"]["model"]
    assert entry["for"] == {
      "data": "digits",
      "model": model,
      "preset": "quick",
    }
    budgets.setdefault(model, set()).add(chosen["budget"])
    if model not in plans:
      plans[model] = forget.prepare(Options(methods="all", model=model))
    plan = plans[model]
    assert plan.settings[name].items() >= setting.items()
    assert plan.origins[name] == chosen
    # What is reported is none of what they were chosen on.
    assert not set(chosen["requests"]) & set(plan.requests.names)
  # The same for all methods of a model.
  assert budgets == {"mlp": {32}, "vit": {8}}
  assert not forget.prepare(Options(preset="smoke", methods="all")).origins


def test_the_preset_paper_has_the_papers_recipe_where_it_is_about_its_data():
  recipe = lambda **o: classifiers.recipe_of(Options(preset="paper", **o))
  found = recipe(data="cifar10", model="resnet")
  assert found == (182 * 196, 0.1, 256, recipes.SALUN)
  assert recipe(data="digits", model="resnet").paper is None
  assert recipe(data="cifar10", model="cnn").paper is None
  given = recipe(data="cifar10", model="resnet", train_steps=8, batch_size=4)
  assert given == (8, 0.1, 4, recipes.SALUN)


@pytest.mark.parametrize(
  ("paper", "rates"),
  [
    # At the beginning, at four tenths, at six, at eight, of 1,000 steps.
    (recipes.SALUN, (1, 1, 0.1, 0.01)),
    (recipes.COMPARATOR, (1, 0.2, 0.04, 0.04)),
    (recipes.MUFAC, (1, 0.1, 0.1, 0.01)),
    # Up in ten steps, and down to 0 at step 1,250.
    (recipes.CORRECTIVE, (0, 850 / 1240, 650 / 1240, 450 / 1240)),
  ],
)
def test_the_rates_of_papers_are_theirs(paper, rates):
  schedule = paper.schedule(1.0, 1000)
  found = [float(schedule(step)) for step in (0, 400, 600, 800)]
  np.testing.assert_allclose(found, rates, rtol=1e-5)


def test_a_study_has_the_recipe_of_its_own_paper():
  of = lambda kind: classifiers.recipe_of(
    kind(preset="paper", data="cifar10", model="resnet")
  )
  assert of(compare.Options) == (200 * 391, 0.1, 128, recipes.COMPARATOR)
  found = of(forget_corrupted.Options)
  assert found == (4000, 0.025, 512, recipes.CORRECTIVE)
  # A crop would cut the patch off.
  assert found.augment is None and of(Options).augment is not None
