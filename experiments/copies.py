"""Rows that are kept, or tested on, and are copies of rows to be forgotten."""

from __future__ import annotations

import hashlib

import numpy as np

from experiments.data import Dataset, Rows
from experiments.requests import Requests


def count(dataset: Dataset, masks: np.ndarray) -> np.ndarray:
  """Copies of forgotten rows, with the same inputs and the same label.

  Args:
    dataset: the rows.
    masks: bool [R, N], requests.

  Returns:
    int [R, 2], how many kept training rows and how many test rows are copies.
  """
  train, test = _digests(dataset.train), _digests(dataset.test)
  found = [
    (np.isin(train[~mask], train[mask]).sum(), np.isin(test, train[mask]).sum())
    for mask in masks
  ]
  return np.array(found, int)


def sentences(dataset: Dataset, asked: Requests) -> list[str]:
  """What is to be said of copies: one sentence a request that has some."""
  found = []
  for name, (kept, tested) in zip(asked.names, count(dataset, asked.masks)):
    if kept or tested:
      found.append(
        f"Copies of rows to be forgotten by {name}, with the same label: {kept} "
        f"among the rows that are kept and trained on, {tested} among the test "
        "rows. What they teach is not forgotten; add them to the request, or "
        "read its numbers with that in mind."
      )
  return found


def _digests(rows: Rows) -> np.ndarray:
  """A digest of each row and its label, 16 bytes [N]."""
  x = np.ascontiguousarray(rows["x"] + 0)  # -0.0 is 0.0.
  x = x.reshape(len(x), -1)
  digests = [
    hashlib.blake2b(row.tobytes() + label.tobytes(), digest_size=16).digest()
    for row, label in zip(x, rows["label"])
  ]
  return np.frombuffer(b"".join(digests), "V16")
