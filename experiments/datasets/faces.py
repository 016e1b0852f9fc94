"""Faces with identities: whom a person asks to forget is not what is predicted.

Nobody is in two of training, test and unseen rows. The public layouts are read as
they are unpacked; a folder of your own needs a table. Without any, images of
CIFAR-10 stand in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import data, files
from ..data import Dataset, Rows

KINDS = ("mufac", "mucac", "faces")
MUFAC_FOLDER = "custom_korean_family_dataset_resolution_128"
MUCAC_FOLDER = "CelebAMask-HQ"
TABLE = "identities.csv"
_PARTS = ("train", "test", "unseen")
# Training rows that people ask to have forgotten in the publications: of MUFAC
# the first, of MUCAC those of some identities.
_MUFAC_FORGET = 1500
_MUCAC_BOUNDS = (190, 1250, 4855)
_ATTRIBUTES = ("Male", "Smiling", "Young")
# Rows of each part at most, and pixels a side, by preset.
LIMITS: Mapping[str, tuple[int, int, int] | None] = {
  "smoke": (160, 60, 60),
  "quick": (2000, 500, 500),
  "paper": None,
}
SIDES: Mapping[str, int] = {"smoke": 16, "quick": 32, "paper": 128}
_STAND_IN_OF = 10  # Images of a person.
_STAND_IN_FORGET = 0.15  # Of the people.


class Face(NamedTuple):
  """A row before its image is read."""

  image: Path
  person: str
  label: str
  part: str
  asked: str  # "forget" or "retain", as published; "" where it is not.


def load(source: str, preset: str, data_dir: str | None) -> Dataset:
  """Loads faces.

  Args:
    source: "mufac", "mucac" or "mucac:Smiling" (of Male, the default, Smiling,
      Young), from `data_dir`; or "faces:DIR", a folder with identities.csv, whose
      columns are image (a path below DIR), person, label and perhaps split
      (train, test, unseen).
    preset: decides how many rows and pixels.
    data_dir: the folder with the files.

  Returns:
    The data, with the columns "person" and, where it is published, "part"; its
    `unseen` rows are of people in neither training nor test. Where the files of
    MUFAC or MUCAC are missing, a stand-in that says so in its notes.

  Raises:
    ValueError: no such source, a table or an image that cannot be used, a person
      in two parts.
  """
  kind, colon, rest = source.partition(":")
  if kind == "faces" and rest:
    return _read(_own(files.checked_path(rest, "--data")), preset)
  if kind == "faces" or (kind == "mufac" and colon):
    raise ValueError(
      f"Expected --data mufac, mucac:ATTRIBUTE or faces:DIR, got {source!r}."
    )
  folder = data.data_folder(data_dir)
  if kind == "mufac":
    found = _folder(folder, MUFAC_FOLDER, "custom_train_dataset.csv")
    return (
      _stand_in(source, preset, folder)
      if found is None
      else (_read(_mufac(found), preset))
    )
  attribute = rest or _ATTRIBUTES[0]
  if attribute not in _ATTRIBUTES:
    raise ValueError(
      f"Expected --data mucac:ATTRIBUTE of {', '.join(_ATTRIBUTES)}, got "
      f"{files.short(rest)!r}."
    )
  found = _folder(folder, MUCAC_FOLDER, "CelebA-HQ-identity.txt")
  return (
    _stand_in(source, preset, folder)
    if found is None
    else (_read(_mucac(found, attribute), preset))
  )


def _folder(folder: str | None, name: str, file: str) -> Path | None:
  """Where the file is: in the folder, or in the one that it is unpacked to."""
  if folder is None:
    return None
  places = (Path(folder) / name, Path(folder))
  return next((place for place in places if (place / file).is_file()), None)


def _mufac(folder: Path) -> list[Face]:
  """Korean families: age classes a .. h; files of three lists of images."""
  found = []
  lists = {"train": "train", "test": "val", "unseen": "test"}
  for part, name in lists.items():
    table = files.read_csv(
      folder / f"custom_{name}_dataset.csv",
      ("family_id", "person_id", "age_class", "image_path"),
    )
    for i, (family, person, age, image) in enumerate(zip(*table.values())):
      asked = "forget" if i < _MUFAC_FORGET else "retain"
      found.append(
        Face(
          _below(folder / f"{name}_images", image),
          f"{family}_{person}",
          age,
          part,
          asked if part == "train" else "",
        )
      )
  return found


def _mucac(folder: Path, attribute: str) -> list[Face]:
  """Celebrities: an attribute; parts by the place of the identity in order."""
  persons = dict(
    line.split() for line in _lines(folder / "CelebA-HQ-identity.txt", 2)
  )
  names = ("CelebA-HQ-attribute.txt", "CelebAMask-HQ-attribute-anno.txt")
  found = next((n for n in names if (folder / n).is_file()), None)
  if found is None:
    raise ValueError(f"Expected {names[0]} in {folder}, got none.")
  lines = files.read_text(folder / found, found).splitlines()
  if len(lines) < 3 or attribute not in lines[1].split():
    raise ValueError(
      f"Expected names of attributes with {attribute} in the second line of "
      f"{folder / found}, got {files.short(' '.join(lines[1:2]))!r}."
    )
  place = lines[1].split().index(attribute) + 1
  label = {w[0]: w[place] for w in map(str.split, lines[2:]) if len(w) > place}
  order = sorted(set(persons.values()), key=lambda p: (len(p), p))
  rank = {person: i for i, person in enumerate(order)}
  made = []
  for image, person in persons.items():
    if image not in label:
      raise ValueError(
        f"Expected attributes of {image} in {folder / found}, got none."
      )
    where = int(np.searchsorted(_MUCAC_BOUNDS, rank[person], side="right"))
    part = ("test", "train", "train", "unseen")[where]
    asked = ("", "forget", "retain", "")[where]
    made.append(
      Face(
        _below(folder / "CelebA-HQ-img", image),
        person,
        label[image],
        part,
        asked,
      )
    )
  return made


def _lines(path: Path, words: int) -> list[str]:
  lines = files.read_text(path, path.name).splitlines()
  lines = [line for line in lines if line.strip()]
  bad = next((line for line in lines if len(line.split()) != words), None)
  if bad is not None or not lines:
    raise ValueError(
      f"Expected {words} words a line in {path}, got "
      f"{files.short(bad or 'nothing')!r}."
    )
  return lines


def _own(folder: Path) -> list[Face]:
  """A folder with a table; without its column split people are dealt out."""
  if not (folder / TABLE).is_file():
    raise ValueError(f"Expected {TABLE} in {folder}, got none.")
  table = files.read_csv(folder / TABLE)
  for name in ("image", "person", "label"):
    if name not in table:
      raise ValueError(
        f"Expected {folder / TABLE} to have the column {name!r}, got "
        f"{', '.join(table) or 'none'}."
      )
  person = table["person"]
  if "split" in table:
    part = table["split"]
    other = next((p for p in part if p not in _PARTS), None)
    if other is not None:
      raise ValueError(
        f"Expected split in {folder / TABLE} of {', '.join(_PARTS)}, got "
        f"{files.short(str(other))!r}."
      )
  else:
    people = np.random.default_rng(0).permutation(np.unique(person))
    ends = np.linspace(0, 1, len(people), endpoint=False)
    side = np.searchsorted((0.7, 0.85), ends, side="right")
    of = dict(zip(people, np.array(_PARTS)[side]))
    part = np.array([of[p] for p in person])
  return [
    Face(_below(folder, image), str(who), label, str(where), "")
    for image, who, label, where in zip(
      table["image"], person, table["label"], part
    )
  ]


def _below(folder: Path, image: str) -> Path:
  """A path of a table, which must not lead out of its folder."""
  path = folder / image
  if not path.resolve().is_relative_to(folder.resolve()):
    raise ValueError(
      f"Expected images below {folder}, got {files.short(image)!r}."
    )
  return path


def _read(faces: Sequence[Face], preset: str) -> Dataset:
  """Images as numbers, as many as the preset takes."""
  by_part = {
    part: [face for face in faces if face.part == part] for part in _PARTS
  }
  limits = LIMITS[preset] or (len(faces),) * 3
  rng = np.random.default_rng(0)
  chosen = []
  for (part, own), limit in zip(by_part.items(), limits):
    if not own:
      raise ValueError(f"Expected {part} rows of faces, got none.")
    # Whole people, forgotten ones and others alike.
    people = rng.permutation(sorted({face.person for face in own}))
    size = {person: 0 for person in people}
    for face in own:
      size[face.person] += 1
    ends = np.cumsum([size[person] for person in people])
    kept = set(people[: max(2, int(np.searchsorted(ends, limit, "right")))])
    chosen.append([face for face in own if face.person in kept])
  known = sorted({face.label for part in chosen for face in part})
  if len(known) < 2:
    raise ValueError(f"Expected several labels of faces, got {len(known)}.")
  parts = [_rows(part, known, SIDES[preset]) for part in chosen]
  columns = {"person": np.array([face.person for face in chosen[0]])}
  if any(face.asked for face in chosen[0]):
    columns["part"] = np.array([face.asked for face in chosen[0]])
  return _dataset(
    parts, [[f.person for f in part] for part in chosen], known, columns
  )


def _dataset(
  parts: Sequence[Rows],
  people: Sequence[Sequence[str]],
  names: Sequence[str],
  columns: Mapping[str, np.ndarray],
  notes: tuple[str, ...] = (),
) -> Dataset:
  for i, part in enumerate(_PARTS):
    for j in range(i):
      both = set(people[i]) & set(people[j])
      if both:
        raise ValueError(
          f"Expected nobody in both {_PARTS[j]} and {part} rows, got "
          f"{files.short(min(both))}."
        )
  train, test, unseen = parts
  columns = {**columns, "label": train["label"]}
  return Dataset(
    *(train, test, len(names), tuple(names), columns),
    notes=notes,
    unseen=unseen,
  )


def _rows(faces: Sequence[Face], known: Sequence[str], side: int) -> Rows:
  try:
    from PIL import Image
  except ImportError as error:
    raise ValueError(
      "Expected Pillow for faces, got no such package; install "
      "jaxunlearn[experiments]."
    ) from error
  images = []
  for face in faces:
    if not face.image.is_file():
      raise ValueError(f"Expected the image {face.image}, got none.")
    try:
      with Image.open(face.image) as image:
        small = image.convert("RGB").resize((side, side))
        images.append(np.asarray(small, np.float32))
    except Exception as error:  # Damaged images raise many kinds.
      raise ValueError(
        f"Expected {face.image} to be an image, got {error}."
      ) from error
  x = (np.stack(images) / 255 - 0.5) / 0.25
  label = np.array([known.index(face.label) for face in faces], np.int32)
  return {"x": x.astype(np.float32), "label": label}


def _stand_in(source: str, preset: str, folder: str | None) -> Dataset:
  """CIFAR-10 with people: images of nearly one brightness, of any class."""
  limits = LIMITS[preset] or (20_000, 5_000, 5_000)
  found = data.cifar10(folder, (limits[0], limits[1] + limits[2]))
  test, unseen = _halves(found.test, limits[1])
  parts = (found.train, test, unseen)
  people = [_people(p["x"], name) for p, name in zip(parts, _PARTS)]
  note = (
    f"STAND-IN: no faces were found for {source} (--data-dir); these are images "
    f"of CIFAR-10, {_STAND_IN_OF} of similar brightness to a made-up person. "
    "Numbers say nothing about faces."
  )
  # As large a part as the one that MUFAC asks to have forgotten.
  known = sorted(set(people[0]))
  chosen = np.random.default_rng(0).permutation(known)
  gone = chosen[: max(1, round(_STAND_IN_FORGET * len(known)))]
  columns = {
    "person": np.array(people[0]),
    "part": np.where(np.isin(people[0], gone), "forget", "retain"),
  }
  return _dataset(parts, people, found.class_names, columns, (note,))


def _halves(rows: Rows, count: int) -> tuple[Rows, Rows]:
  order = np.random.default_rng(0).permutation(len(rows["label"]))
  take = lambda own: {name: leaf[own] for name, leaf in rows.items()}
  return take(np.sort(order[:count])), take(np.sort(order[count:]))


def _people(x: np.ndarray, part: str) -> list[str]:
  bright = x.reshape(len(x), -1).mean(axis=1)
  rank = np.argsort(np.argsort(bright, kind="stable"))
  return [f"{part}{i // _STAND_IN_OF:04d}" for i in rank]
