"""What to bear in mind of a request before its numbers are read.

Rows that are kept, or tested on, and are copies of rows to be forgotten; and
requests of so few rows that shares of them decide nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .study import Requests

FEW = 10  # Rows; of fewer, one more or less moves a share by over ten points.
Rows = Mapping[str, np.ndarray]


def of_few(asked: Requests) -> list[str]:
  """What is to be said of requests of few rows."""
  return [
    f"{name} has {count} {'row' if count == 1 else 'rows'}: each moves a share "
    f"of them by {100 / count:.0f} points, so that such shares decide nothing "
    "between methods."
    for name, count in few(asked).items()
  ]


def few(asked: Requests) -> dict[str, int]:
  """The requests that take away fewer than `FEW` rows, and how many."""
  rows = asked.added[:, 0].sum(axis=1).tolist()
  return {name: n for name, n in zip(asked.names, rows) if n < FEW}


def count_copies(rows: Any, masks: np.ndarray) -> np.ndarray:
  """Copies of forgotten rows, the same in all columns.

  Args:
    rows: those of a seed, see `_contents`.
    masks: bool [R, N], requests.

  Returns:
    int [R, 2], how many kept training rows and how many test rows are copies.
  """
  return np.array(
    [[part.sum() for part in each] for each in find_copies(rows, masks)], int
  ).reshape(len(masks), 2)


def find_copies(
  rows: Any, masks: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Which kept training rows [N] and which test rows are copies, by request."""
  contents = _contents(rows)
  if contents is None:
    return [(np.zeros(0, bool), np.zeros(0, bool))] * len(masks)
  names = sorted(set(contents[0]) & set(contents[1]))
  train, test = (_digests(part, names) for part in contents)
  return [
    (~mask & np.isin(train, train[mask]), np.isin(test, train[mask]))
    for mask in masks
  ]


def of_copies(asked: Requests, rows: Any) -> list[str]:
  """What is to be said of copies in the first seed's rows, see `_contents`.

  Of requests in sequence what all of them leave: a row that a later one takes is
  no copy that stays.
  """
  found, masks, names = [], asked.forget[:, 0], asked.names
  if asked.in_sequence:
    masks, names = masks[-1:], ("all requests together",)
  for name, (kept, tested) in zip(names, count_copies(rows, masks)):
    if kept or tested:
      found.append(
        f"{kept} kept training rows and {tested} test rows are copies, the same "
        f"in all columns, of rows to be forgotten by {name}. What they teach is "
        "not forgotten; add them to the request, or read its numbers with that "
        "in mind."
      )
  return found


def _contents(rows: Any) -> tuple[Rows, Rows] | None:
  """`rows.contents`, or `train` and `test`: arrays [N, ...] by name, if any."""
  parts = [getattr(rows, part, None) for part in ("train", "test")]
  train, test = getattr(rows, "contents", None) or parts
  is_shown = isinstance(train, Mapping) and isinstance(test, Mapping)
  return (train, test) if is_shown else None


def _digests(rows: Rows, names: list[str]) -> np.ndarray:
  """A digest of each row, 16 bytes [N]."""
  columns = []
  for name in names:
    leaf = np.asarray(rows[name])
    leaf = leaf + 0 if leaf.dtype.kind == "f" else leaf  # -0.0 is 0.0.
    columns.append(np.ascontiguousarray(leaf))
  digests = [
    hashlib.blake2b(b"".join(c.tobytes() for c in row), digest_size=16).digest()
    for row in zip(*columns)
  ]
  return np.frombuffer(b"".join(digests), "V16")
