"""Rows with classes of which some labels are wrong, and which ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.data import Dataset, Rows
from experiments.datasets import classes


class Flipped(NamedTuple):
  """The rows of one seed.

  Attributes:
    train: {"x": float32 [N, D], "label": int32 [N]}, some labels flipped.
    validation: rows that utilities are measured on, labels as they were.
    test: the same; no estimator sees it.
    noisy: bool [N], whose labels were flipped.
    row_id: int [N], the training rows' numbers in the file.
    label: int [N], the labels as they were.
    columns: by name an entry a training row, where the data have such.
    x: [N, ...], the training rows as they were loaded.
  """

  train: Rows
  validation: Rows
  test: Rows
  noisy: np.ndarray
  row_id: np.ndarray
  label: np.ndarray
  columns: Mapping[str, np.ndarray]
  x: np.ndarray


def flip(
  dataset: Dataset,
  seed: int,
  part: str,
  rows: int,
  validation: int,
  noise: float,
) -> Flipped:
  """Draws rows to value and to validate on, and flips labels of the former.

  Where the data are too few, two thirds of those that train are valued.

  Args:
    dataset: see `Dataset`.
    seed: of the split, of the draw and of the flips.
    part: see `classes.split`.
    rows: that are valued, N.
    validation: how many others.
    noise: the share of flipped labels.

  Raises:
    ValueError: too few rows for the classes, or for a flip.
  """
  split = classes.split(dataset, seed, part)
  flat = lambda x: x.reshape(len(x), -1)
  available, count = len(split.row_id), dataset.num_classes
  if available < rows + validation:
    rows = 2 * available // 3
    validation = available - rows
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
  order = rng.permutation(available)[: rows + validation]
  valued, others = order[:rows], order[rows:]
  noisy = np.zeros(rows, bool)
  noisy[rng.permutation(rows)[:flips]] = True
  label = split.train["label"][valued]
  wrong = (label + rng.integers(1, count, rows)) % count
  x = flat(split.train["x"])
  centre = x[valued].mean(axis=0)
  return Flipped(
    {"x": x[valued] - centre, "label": np.where(noisy, wrong, label)},
    {"x": x[others] - centre, "label": split.train["label"][others]},
    {"x": flat(split.test["x"]) - centre, "label": split.test["label"]},
    noisy,
    split.row_id[valued],
    label,
    {n: c[valued] for n, c in split.columns.items() if n != "label"},
    split.train["x"][valued],
  )
