"""What to bear in mind of a request before its numbers are read.

Rows that are kept, or tested on, and are copies of rows to be forgotten; and
requests of so few rows that shares of them decide nothing.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np

from ..bench import Requests
from ..data import Rows

FEW = 10  # Rows; of fewer, one more or less moves a share by over ten points.


class Divided(Protocol):
  """Rows of one seed; each part has "x" [N, ...] and "label" [N]."""

  @property
  def train(self) -> Rows: ...

  @property
  def test(self) -> Rows: ...


def cautions(asked: Requests, rows: Divided | None) -> list[str]:
  """All that is to be said of these requests to the first seed's rows.

  Args:
    asked: the requests.
    rows: None where no two rows can be alike.
  """
  copies = [] if rows is None else _of_copies(asked, rows)
  return copies + [
    f"{name} has {count} {'row' if count == 1 else 'rows'}: each moves a share "
    f"of them by {100 / count:.0f} points, so that such shares decide nothing "
    "between methods."
    for name, count in few(asked).items()
  ]


def few(asked: Requests) -> dict[str, int]:
  """The requests that take away fewer than `FEW` rows, and how many."""
  rows = asked.added[:, 0].sum(axis=1).tolist()
  return {name: n for name, n in zip(asked.names, rows) if n < FEW}


def count_copies(rows: Divided, masks: np.ndarray) -> np.ndarray:
  """Copies of forgotten rows, with the same inputs and the same label.

  Args:
    rows: those of a seed.
    masks: bool [R, N], requests.

  Returns:
    int [R, 2], how many kept training rows and how many test rows are copies.
  """
  train, test = _digests(rows.train), _digests(rows.test)
  found = [
    (np.isin(train[~mask], train[mask]).sum(), np.isin(test, train[mask]).sum())
    for mask in masks
  ]
  return np.array(found, int)


def _of_copies(asked: Requests, rows: Divided) -> list[str]:
  found = []
  counts = count_copies(rows, asked.forget[:, 0])
  for name, (kept, tested) in zip(asked.names, counts):
    if kept or tested:
      found.append(
        f"{kept} kept training rows and {tested} test rows are copies, inputs "
        f"and label, of rows to be forgotten by {name}. What they teach is not "
        "forgotten; add them to the request, or read its numbers with that in "
        "mind."
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
