"""Rows with classes of which somebody tampered with some, and which ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxunlearn.core.keys import derive

from ..data import Rows
from ..requests import share
from .classes import Split

TARGET = 0  # The class that the patch stands for.


class Corrupted(NamedTuple):
  """The rows of one seed.

  Attributes:
    train: as they are trained on, some tampered with.
    truth: int32 [N], the training rows' true labels.
    damaged: bool [N], which rows were tampered with.
    test: "x", "label", both true; "touched", the inputs that the damage acts
      on; "affected", bool, on which of them it does; "spared", the rows of
      which nothing should change.
    aside: true rows beside those.
    seed: of the draw of what is identified.
  """

  train: Rows
  truth: np.ndarray
  damaged: np.ndarray
  test: Rows
  aside: Rows
  seed: int


def poison(split: Split, seed: int, part: float, size: int = 2) -> Corrupted:
  """A patch in the corner of some images, which are then labelled `TARGET`.

  Raises:
    ValueError: rows that are no images, or smaller than the patch.
  """
  label, count = split.train["label"], len(split.train["label"])
  top = split.train["x"].max()
  chosen = np.random.default_rng((seed, 3)).permutation(count)
  damaged = chosen < round(part * count)
  x = np.where(
    damaged[:, None, None, None],
    patch(split.train["x"], size, top),
    split.train["x"],
  )
  test = split.test
  return Corrupted(
    {"x": x, "label": np.where(damaged, TARGET, label).astype(label.dtype)},
    label,
    damaged,
    {
      **test,
      "touched": patch(test["x"], size, top),
      "affected": test["label"] != TARGET,
      "spared": np.ones(len(test["label"]), bool),
    },
    split.aside,
    seed,
  )


def patch(x: np.ndarray, size: int, value: float) -> np.ndarray:
  """Images [B, H, W, C] with a square of one value in the last corner."""
  if x.ndim != 4 or size > min(x.shape[1:3]):
    raise ValueError(
      f"Expected --data with images of at least {size}x{size} for a patch, got "
      f"rows of shape {x.shape[1:]}."
    )
  marked = np.array(x)
  marked[:, -size:, -size:] = value
  return marked


def swap(
  split: Split, seed: int, part: float, pair: tuple[int, int]
) -> Corrupted:
  """Exchanges the labels of a share of the rows of two classes.

  Raises:
    ValueError: a class without rows, or twice the same.
  """
  label, test = split.train["label"], split.test
  if pair[0] == pair[1] or not np.isin(pair, label).all():
    raise ValueError(
      f"Expected --swap with two classes that have rows, got {pair[0]},"
      f"{pair[1]}."
    )
  rng, damaged = np.random.default_rng((seed, 3)), np.zeros(len(label), bool)
  for one in pair:
    rows = rng.permutation(np.flatnonzero(label == one))
    damaged[rows[: round(part * len(rows))]] = True
  affected = np.isin(test["label"], pair)
  return Corrupted(
    {**split.train, "label": exchanged(label, damaged, pair)},
    label,
    damaged,
    {**test, "touched": test["x"], "affected": affected, "spared": ~affected},
    split.aside,
    seed,
  )


def exchanged(
  label: np.ndarray, where: np.ndarray, pair: tuple[int, int]
) -> np.ndarray:
  """Labels with those of a pair of classes exchanged in some rows."""
  a, b = pair
  other = np.where(label == a, b, np.where(label == b, a, label))
  return np.where(where, other, label).astype(label.dtype)


def mask(value: str, rows: Corrupted) -> tuple[np.ndarray, np.ndarray]:
  """The identified share of the damaged rows, "1" for all; and all of them."""
  import jax

  from jaxunlearn import requests

  key = derive(jax.random.key(rows.seed), "identified")
  part = 1.0 if value.strip() == "1" else share(value)
  found = requests.identified(key, rows.damaged, part)
  return np.asarray(found), rows.damaged
