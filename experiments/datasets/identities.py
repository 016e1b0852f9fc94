"""People, and what else their images differ in: context, liveness, style.

Synthetic faces have known factors; digits by writers are a small real stand-in, a
digit for a person; a folder of your own has a folder of images per person.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import files

SIDE = 8  # Pixels of a side; all rows have 64 numbers.
CONTEXTS = 4
_SYNTHETIC = 12  # People.
_FACTORS = 8
_LEAST = 8  # Images of a person.

Rows = Mapping[str, np.ndarray]


class People(NamedTuple):
  """Images in equal numbers of each person, some of whom are never trained on.

  Attributes:
    train: of the known people: x [N, 64], label, context int [N], live bool [N].
    gallery: of all people, images that an audit knows by name.
    queries: of all people, images that it asks for.
    known: how many people are trained on; the others have the labels above.
    names: of all.
  """

  train: Rows
  gallery: Rows
  queries: Rows
  known: int
  names: tuple[str, ...]


def load(source: str, seed: int, each: int, is_select: bool) -> People:
  """Draws people and images, and deals them out.

  Args:
    source: "synthetic", "digits" or "folder:DIR", DIR with a folder per person.
    seed: of all that is drawn.
    each: images a person, at most.
    is_select: whether the audit's images are those that choose settings.

  Raises:
    ValueError: no such source, fewer than 6 people, or 8 images of one.
  """
  rng = np.random.default_rng((seed, 11))
  kind, _, folder = source.partition(":")
  if source == "synthetic":
    made, names = _synthetic(rng, each), map(str, range(_SYNTHETIC))
  elif source == "digits":
    from sklearn.datasets import load_digits

    found = load_digits()
    names = map(str, range(10))
    made = _images(rng, found.images / 16, found.target, each, CONTEXTS)
  elif kind == "folder" and folder:
    pictures, label, names = _folder(files.checked_path(folder, "--data"))
    made = _images(rng, pictures, label, each, 1)
  else:
    raise ValueError(
      f"Expected --data synthetic, digits or folder:DIR, got {source!r}."
    )
  return _dealt(rng, made, tuple(names), is_select)


def _synthetic(rng: np.random.Generator, each: int) -> dict[str, np.ndarray]:
  """tanh of a mixture of person, context and liveness; gain, offset, noise."""
  label = np.repeat(np.arange(_SYNTHETIC), each)
  context = rng.integers(0, CONTEXTS, len(label))
  live = rng.random(len(label)) < 0.5
  draw = lambda *shape: rng.normal(size=shape)
  factors = (
    draw(_SYNTHETIC, _FACTORS)[label] + draw(CONTEXTS, _FACTORS)[context]
  )
  factors += live[:, None] * draw(1, _FACTORS)
  x = np.tanh(factors @ draw(_FACTORS, SIDE**2) / _FACTORS**0.5)
  gain, offset = 1 + 0.2 * draw(len(x), 1, SIDE), 0.2 * draw(len(x), 1, SIDE)
  styled = x.reshape(len(x), SIDE, SIDE) * gain + offset
  styled += 0.2 * draw(*styled.shape)
  return _rows(styled, label, context, live)


def _images(rng, pictures, label, each, contexts) -> dict[str, np.ndarray]:
  """As many of each person; in a writer's slant, and blurred unless live."""
  from scipy import ndimage

  count = min(each, np.bincount(label).min())
  chosen = np.concatenate(
    [rng.permutation(np.flatnonzero(label == i))[:count] for i in np.unique(label)]
  )  # fmt: skip
  context = rng.integers(0, contexts, len(chosen))
  live = rng.random(len(chosen)) < 0.5
  slant = np.linspace(-0.25, 0.25, contexts) if contexts > 1 else np.zeros(1)
  made = []
  for i, writer, is_live in zip(chosen, context, live):
    matrix = np.array([[1.0, 0.0], [slant[writer], 1.0]])
    middle = np.full(2, (SIDE - 1) / 2)
    shift = middle - matrix @ middle + 0.3 * rng.normal(size=2)
    image = ndimage.affine_transform(pictures[i], matrix, shift, order=1)
    made.append(image if is_live else ndimage.gaussian_filter(image, 0.7))
  x = (np.stack(made) - np.mean(made)) / np.std(made)
  return _rows(x, label[chosen], context, live)


def _rows(x, label, context, live) -> dict[str, np.ndarray]:
  return {
    "x": x.reshape(len(x), -1).astype(np.float32),
    "label": label.astype(np.int32),
    "context": context.astype(np.int32),
    "live": live,
  }


def _dealt(rng, rows, names, is_select) -> People:
  """A quarter of the people is unknown; of images two fifths are trained on."""
  people = len(names)
  order = rng.permutation(people)  # The last are unknown.
  place = np.argsort(order)[rows["label"]].astype(np.int32)
  count = len(place) // people
  known = people - max(2, people // 5)
  within = np.empty(len(place), int)
  for i in range(people):
    own = np.flatnonzero(place == i)
    within[own] = rng.permutation(len(own))
  first, second = round(0.4 * count), round(0.6 * count)
  inside = (first <= within) & (within < second)
  audited = inside if is_select else within >= second
  take = lambda mask: {
    name: leaf[mask] for name, leaf in {**rows, "label": place}.items()
  }
  return People(
    take((within < first) & (place < known)),
    take(audited & (within % 2 == 0)),
    take(audited & (within % 2 == 1)),
    known,
    tuple(names[i] for i in order),
  )


def _folder(folder: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """DIR/PERSON/IMAGE in grey; hidden files and folders are passed over."""
  from PIL import Image

  if not folder.is_dir():
    raise ValueError(f"Expected --data folder:DIR, got no folder {folder}.")
  people = sorted(
    p for p in folder.iterdir() if p.is_dir() and p.name[:1] != "."
  )
  if len(people) < 6:
    raise ValueError(
      f"Expected --data folder:DIR with 6 folders at least, one per person, got "
      f"{len(people)} in {files.short(str(folder))}."
    )
  pictures, label = [], []
  for i, person in enumerate(people):
    own = sorted(p for p in person.iterdir() if p.name[:1] != ".")
    if len(own) < _LEAST:
      raise ValueError(
        f"Expected {_LEAST} images at least of {files.short(person.name)}, got "
        f"{len(own)}."
      )
    for path in own:
      try:
        with Image.open(path) as image:
          small = image.convert("L").resize((SIDE, SIDE))
          pictures.append(np.asarray(small, np.float64) / 255)
      except Exception as error:  # Damaged images raise many kinds.
        raise ValueError(
          f"Expected an image in {path}, got {error}."
        ) from error
      label.append(i)
  return np.stack(pictures), np.array(label), tuple(p.name for p in people)
