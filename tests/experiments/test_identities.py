"""People and moving digits as data, and the studies of both."""

import numpy as np
import pytest
from refusals import refused

from experiments import forget_identity, search_architecture
from experiments.datasets import expressions, identities
from experiments.studies.search_architecture_view import is_left
from jaxunlearn import report


def rows_of(people):
  parts = (people.train, people.gallery, people.queries)
  return [{tuple(x.tolist()) for x in part["x"]} for part in parts]


@pytest.mark.parametrize("source", ["synthetic", "digits"])
def test_nobody_unknown_is_trained_on_and_no_image_is_in_two_parts(source):
  people = identities.load(source, 0, 40, False)
  chosen = identities.load(source, 0, 40, True)
  total = len(people.names)
  assert set(people.train["label"]) == set(range(people.known))
  assert people.known < total
  for part in people[1:3]:
    assert set(part["label"]) == set(range(total))
  train, gallery, queries = rows_of(people)
  assert not (train & gallery or train & queries or gallery & queries)
  # What chooses settings is not what is reported.
  assert not (rows_of(chosen)[2] & (gallery | queries))
  assert (identities.load(source, 0, 40, False).names) == people.names
  assert (identities.load(source, 1, 40, False).names) != people.names


def test_a_folder_per_person_is_read(tmp_path):
  from PIL import Image

  rng = np.random.default_rng(0)
  for i, name in enumerate("fabcde"):
    (tmp_path / name).mkdir()
    for j in range(10 + i):
      pixels = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(tmp_path / name / f"{j}.png")
  people = identities.load(f"folder:{tmp_path}", 0, 40, False)
  assert sorted(people.names) == list("abcdef") and people.known == 4
  assert people.train["x"].shape == (16, 64)
  (tmp_path / "a" / "0.png").write_bytes(b"none")
  load = lambda: identities.load(f"folder:{tmp_path}", 0, 40, False)
  refused("an image", load)
  for image in list((tmp_path / "a").iterdir())[:4]:
    image.unlink()
  refused("8 images", load)
  refused(
    "6 folders", identities.load, f"folder:{tmp_path / 'a'}", 0, 40, False
  )
  refused("synthetic, digits", identities.load, "faces", 0, 40, False)


def test_clips_move_and_digits_do_not_change():
  digits, clips = (expressions.load(name, 40) for name in ("digits", "clips"))
  np.testing.assert_array_equal(digits.label, clips.subject)
  assert clips.num_classes == 4 and set(clips.label) == set(range(4))
  assert clips.x.shape == digits.x.shape == (40, 8, 8, 1)
  image = np.zeros((1, 8, 8))
  image[0, 3, 4] = 1
  way = np.array([[[0.0, 0.0]], [[0.25, 0.0]], [[0.0, -1.5]]])
  moved = expressions._drifted(image, way)
  np.testing.assert_array_equal(moved[0], image)
  assert moved[1, 0, 3, 4] == 0.75 and moved[1, 0, 4, 4] == 0.25
  assert moved[2, 0, 3, 3] == moved[2, 0, 3, 2] == 0.5


@pytest.mark.slow  # A study compiles.
@pytest.mark.parametrize("objective", ["dlif", "disenbooth"])
def test_every_method_is_audited(tmp_path, objective):
  forget_identity.main(
    ["--preset=smoke", f"--objective={objective}", f"--out={tmp_path}"]
  )
  rows = report.read_results(tmp_path / "results.json").rows
  names = {row["method"] for row in rows}
  assert names > {"retrained_again", "anchor_to_class", "orthogonal_only"}
  for row in rows:
    assert row["is_finite"] and row["is_gone"] in (0, 1)
    assert all(0 <= row[k] <= 1 for k in ("linear", "mlp", "rank_1", "mean_ap"))
    assert ("is_concealed" in row) == (objective == "dlif")
  assert "the person is gone in" in (tmp_path / "report.html").read_text()


def test_test_rows_of_a_class_without_rows_are_not_asked_about():
  label, forget = np.array([0, 0, 1, 2]), np.array([True, False, True, False])
  found = is_left(label, forget, np.array([2, 1, 0, 1]), 3)
  np.testing.assert_array_equal(found, [1, 0, 1, 0])


@pytest.mark.slow
def test_an_architecture_is_searched_without_the_rows(tmp_path):
  search_architecture.main(["--preset=smoke", f"--out={tmp_path}"])
  rows = report.read_results(tmp_path / "results.json").rows
  for row in rows:
    assert row["is_finite"] and 0 <= row["agreement"] <= 1
    assert 0 <= row["left_accuracy"] <= 1
    if row["method"] == "retrained":
      assert row["architecture_distance"] == 0 and row["agreement"] == 1
  original = {
    row["seed"]: row["architecture_distance"]
    for row in rows
    if row["method"] == "original"
  }
  for row in rows:
    if row["method"] == "network_only":
      assert row["architecture_distance"] == original[row["seed"]]
