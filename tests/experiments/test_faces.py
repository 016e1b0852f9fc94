"""Faces with identities: the public layouts, a folder of one's own, stand-ins."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from experiments import data, forget
from experiments.datasets import classes, faces
from experiments.studies import forget_view


def picture(path, shade):
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(shade)
  noise = rng.integers(0, 40, (12, 12, 3)) + shade % 200
  Image.fromarray(noise.astype(np.uint8)).save(path)


def own(folder, people=12, images=6, split=False):
  """Two labels, told by brightness; every person has both."""
  lines = ["image,person,label" + ",split" * split]
  parts = (["train"] * 8 + ["test"] * 2 + ["unseen"] * 2) * 2
  for person in range(people):
    for i in range(images):
      name = f"images/p{person}_{i}.jpg"
      picture(folder / name, 120 * (i % 2) + person)
      word = ("dark", "light")[i % 2]
      lines.append(f"{name},p{person},{word}" + f",{parts[person]}" * split)
  (folder / "identities.csv").write_text("\n".join(lines))
  return folder


def mufac(folder):
  for name, families in (
    ("train", (1, 2, 3)),
    ("val", (801,)),
    ("test", (851,)),
  ):
    lines = ["family_id,person_id,age_class,image_path"]
    for family in families:
      for i in range(6):
        image = f"F{family:04d}_AGE_D_{i}_{'abc'[i % 3]}{i}.jpg"
        picture(folder / f"{name}_images" / image, family + 40 * i)
        lines.append(f"F{family:04d},{'DM'[i % 2]},{'abc'[i % 3]},{image}")
    (folder / f"custom_{name}_dataset.csv").write_text("\n".join(lines))
  return folder


def mucac(folder, count=4860):
  """As many identities as there are bounds; the preset reads few of them."""
  identity, attributes = [], [str(count), "Male Smiling Young"]
  for i in range(count):
    identity.append(f"{i}.jpg {i + 7}")
    attributes.append(f"{i}.jpg {1 - 2 * (i % 2)} -1 1")
  folder.mkdir(parents=True)
  (folder / "CelebA-HQ-identity.txt").write_text("\n".join(identity))
  (folder / "CelebA-HQ-attribute.txt").write_text("\n".join(attributes))
  return folder


def people(column):
  return set(np.asarray(column).tolist())


def test_a_folder_of_ones_own(tmp_path):
  found = data.load(f"faces:{own(tmp_path)}", preset="smoke")
  assert found.class_names == ("dark", "light")
  assert found.train["x"].shape[1:] == (16, 16, 3)
  assert found.train["x"].dtype == np.float32
  total = len(found.train["x"]) + len(found.test["x"]) + len(found.unseen["x"])
  assert total == 72 and found.pool is None
  column = found.columns["person"]
  split = classes.split(found, 0, "report")
  name = column[0]
  mask, gone = classes.mask("group", f"person={name}", split)
  np.testing.assert_array_equal(mask, column == name)
  assert mask.sum() == 6 and not gone.any()
  np.testing.assert_array_equal(split.aside["x"], found.unseen["x"])
  # Dark and light are told by the images that belong to the rows.
  bright = found.train["x"].mean((1, 2, 3))
  assert (
    bright[found.train["label"] == 0].max()
    < bright[found.train["label"] == 1].min()
  )


def test_nobody_is_in_two_parts(tmp_path):
  folder = own(tmp_path, split=True)
  found = data.load(f"faces:{folder}", preset="smoke")
  assert people(found.columns["person"]) == {f"p{i}" for i in range(8)}
  table = (folder / "identities.csv").read_text()
  (folder / "identities.csv").write_text(table.replace(",p9,", ",p0,"))
  with pytest.raises(
    ValueError, match="nobody in both train and test rows, got p0"
  ):
    data.load(f"faces:{folder}", preset="smoke")


def test_the_layout_of_mufac(tmp_path):
  mufac(tmp_path / faces.MUFAC_FOLDER)
  found = data.load("mufac", preset="smoke", data_dir=str(tmp_path))
  assert found.class_names == ("a", "b", "c") and not found.notes
  assert people(found.columns["person"]) == {
    f"F000{f}_{s}" for f in (1, 2, 3) for s in "DM"
  }
  assert people(found.columns["part"]) == {"forget"}  # Of the first 1,500.
  assert len(found.unseen["x"]) == len(found.test["x"]) == 6


def test_the_layout_of_mucac(tmp_path):
  folder = mucac(tmp_path / faces.MUCAC_FOLDER)
  rows = faces._mucac(folder, "Male")
  of = {
    (part, asked): [
      int(r.person) - 7 for r in rows if (r.part, r.asked) == (part, asked)
    ]
    for part, asked in (
      ("test", ""),
      ("train", "forget"),
      ("train", "retain"),
      ("unseen", ""),
    )
  }
  assert [(min(v), max(v)) for v in of.values()] == [
    (0, 189),
    (190, 1249),
    (1250, 4854),
    (4855, 4859),
  ]
  assert {r.label for r in rows} == {"1", "-1"}
  assert {r.label for r in faces._mucac(folder, "Young")} == {"1"}
  with pytest.raises(ValueError, match=r"the image .*jpg, got none"):
    data.load("mucac", preset="smoke", data_dir=str(tmp_path))


def test_without_a_folder_cifar_stands_in_and_says_so(data_dir):
  found = data.load("mufac", preset="smoke", data_dir=str(data_dir))
  assert "STAND-IN" in found.notes[0]
  column, count = np.unique(found.columns["person"], return_counts=True)
  assert count.max() == 10 and len(column) == len(found.train["x"]) // 10
  assert len(found.unseen["x"]) == 60
  plan = types.SimpleNamespace(
    options=types.SimpleNamespace(request="part", data="mufac"),
    requests=types.SimpleNamespace(in_sequence=False),
    dataset=found,
  )
  title = forget_view.title(plan)
  assert title == "Forgetting part from mufac (a stand-in)"
  gone = found.columns["part"] == "forget"
  assert 0.1 < gone.mean() < 0.2
  assert not people(found.columns["person"][gone]) & people(
    found.columns["person"][~gone]
  )


@pytest.mark.parametrize(
  ("source", "line"),
  [
    ("faces:", "mufac, mucac:ATTRIBUTE or faces:DIR"),
    ("mufac:x", "mufac, mucac:ATTRIBUTE or faces:DIR"),
    ("mucac:Hair", "mucac:ATTRIBUTE of Male, Smiling, Young, got 'Hair'"),
    ("faces:nowhere", r"identities.csv in \S*nowhere, got none"),
  ],
)
def test_bad_sources(source, line):
  refused(line, data.load, source, preset="smoke")


@pytest.mark.parametrize(
  ("old", "new", "line"),
  [
    ("person", "who", "the column 'person'"),
    (",train", ",trial", "split in .* of train, test, unseen, got 'trial'"),
    ("images/p0_0.jpg", "../secret.jpg", "images below"),
    ("images/p0_0.jpg", "images/none.jpg", "the image .*none.jpg, got none"),
    (",unseen", ",test", "unseen rows of faces, got none"),
  ],
)
def test_bad_tables(tmp_path, old, new, line):
  folder = own(tmp_path, split=True)
  table = folder / "identities.csv"
  table.write_text(table.read_text().replace(old, new))
  with pytest.raises(ValueError, match=line) as found:
    data.load(f"faces:{folder}", preset="smoke")
  assert "\n" not in str(found.value)


@pytest.mark.slow
def test_a_person_is_forgotten_from_end_to_end(tmp_path):
  folder = own(tmp_path / "faces", people=20)
  out = tmp_path / "out"
  person = data.load(f"faces:{folder}", preset="smoke").columns["person"][0]
  forget.main([
    "--preset", "smoke", "--data", f"faces:{folder}", "--methods", "finetune",
    "--request", f"group:person={person}", "--train-steps", "20",
    "--out", str(out),
  ])  # fmt: skip
  rows = json.loads((out / "results.json").read_text())["rows"]
  for row in rows:
    assert row["forget_rows"] == 6
    off = abs(row["instance_attack"] - 0.5)
    assert row["forgetting_score"] == pytest.approx(off, abs=1e-5)
    assert row["nomus"] == pytest.approx(
      (row["test_accuracy"] + 1 - 2 * off) / 2, abs=1e-5
    )
