"""Rows with classes of which some labels are wrong, and which ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..data import Dataset, Rows
from . import classes


class Flipped(NamedTuple):
  """The rows of one seed.

  Attributes:
    train: {"x": float32 [N, D], "label": int32 [N]}, some labels flipped.
    validation: rows that utilities are measured on, labels as they were.
    test: the same; no estimator sees it.
    unseen: further rows, as many of whose labels are flipped, for those who value
      what they do not have.
    noisy: bool [N], whose labels were flipped.
    valued: int [N], the places of `train` in what was split.
    split: the rows as they were loaded.
  """

  train: Rows
  validation: Rows
  test: Rows
  unseen: Rows
  noisy: np.ndarray
  valued: np.ndarray
  split: classes.Split


def flip(
  dataset: Dataset,
  split: classes.Split,
  seed: int,
  rows: int,
  others: int,
  unseen: int,
  noise: float,
) -> Flipped:
  """Draws rows to value and others to validate on, and flips labels of the former.

  Where the data are too few, two thirds of those that train are valued.

  Raises:
    ValueError: too few rows for the classes, or for a share `noise` of flips.
  """
  available, count = len(split.row_id), dataset.num_classes
  if available < rows + others:
    rows = 2 * available // 3
    others = available - rows
  if rows < 4 * count:
    raise ValueError(
      f"Expected --data with at least {6 * count} training rows for {count} "
      f"classes, got {available}."
    )
  flips = round(noise * rows)
  if flips < 1:
    raise ValueError(
      f"Expected --noise to flip labels of {rows} rows, got {noise}, which flips "
      "none."
    )
  rng = np.random.default_rng((seed, 2))
  valued, validated = np.split(
    rng.permutation(available)[: rows + others], [rows]
  )
  noisy = rng.permutation(rows) < flips
  flat = lambda part: part["x"].reshape(len(part["x"]), -1)
  x, label = flat(split.train), split.train["label"]
  wrong = (label[valued] + rng.integers(1, count, rows)) % count
  centre = x[valued].mean(axis=0)
  aside = np.random.default_rng((seed, 3))
  further, given = flat(split.aside)[:unseen], split.aside["label"][:unseen]
  is_wrong = aside.permutation(len(given)) < round(noise * len(given))
  moved = (given + aside.integers(1, count, len(given))) % count
  return Flipped(
    {
      "x": x[valued] - centre,
      "label": np.where(noisy, wrong, label[valued]).astype(np.int32),
    },
    {"x": x[validated] - centre, "label": label[validated]},
    {"x": flat(split.test) - centre, "label": split.test["label"]},
    {
      "x": further - centre,
      "label": np.where(is_wrong, moved, given).astype(np.int32),
    },
    noisy,
    valued,
    split,
  )
