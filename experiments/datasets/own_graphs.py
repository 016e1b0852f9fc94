"""A graph of the user's own, from an npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..data import MAX_CLASSES

_TESTS = {"edges_test": 5, "nodes_test": 2}  # How many there are at least.


def read(path: Path) -> dict[str, Any]:
  """The fields of a `graphs.GraphData`; the graph itself is not checked.

  Args:
    path: a file with features [n, d] and edges [E, 2], perhaps label, ids [n],
      edges_test [K, 2] and nodes_test [T]. Where there are ids, edges are
      between these and nodes are these, else row numbers.

  Raises:
    ValueError: in one line, what is missing or of another form.
  """
  arrays = arrays_of(path, ("features", "edges"))
  label = arrays.get("label")
  names: tuple[str, ...] = ()
  if label is not None:
    is_whole = label.ndim == 1 and label.dtype.kind in "iu" and len(label)
    # As Python's integers: nothing is narrowed before it is known to fit.
    if (
      not is_whole
      or not 0 <= int(label.min()) <= int(label.max()) < MAX_CLASSES
    ):
      ends = f", {label.min()} .. {label.max()}" if is_whole else ""
      raise ValueError(
        f"Expected label of {path} to be classes from 0 on, at most "
        f"{MAX_CLASSES}, one a node, got {label.dtype} {label.shape}{ends}."
      )
    label = label.astype(np.int32)
    names = tuple(str(i) for i in range(int(label.max()) + 1))
  features = arrays["features"]
  if features.dtype.kind not in "fiub":
    raise ValueError(
      f"Expected features of {path} to be numbers, got {features.dtype}."
    )
  ids, count = arrays.get("ids"), len(features)
  if ids is not None:
    _check_ids(ids, count, path)
  numbers = {
    name: _by_number(arrays[name], name, ids, count, path)
    for name in ("edges", *_TESTS)
    if name in arrays
  }
  for name, least in _TESTS.items():
    found = numbers.get(name)
    if found is not None and len(found) < least:
      raise ValueError(
        f"Expected {name} of {path} to be {least} or more, got {len(found)}."
      )
  return {
    "features": features.astype(np.float32),
    "label": label,
    "class_names": names,
    "ids": ids,
    **numbers,
  }


def _check_ids(ids: np.ndarray, count: int, path: Path) -> None:
  if ids.shape != (count,) or ids.dtype.kind not in "iuUSM":
    raise ValueError(
      f"Expected ids of {path}, integers or strings [{count}], got {ids.dtype} "
      f"{list(ids.shape)}."
    )
  if len(np.unique(ids)) < count:
    raise ValueError(f"Expected ids of {path} to differ, got some twice.")


def _by_number(
  found: np.ndarray, name: str, ids: np.ndarray | None, count: int, path: Path
) -> np.ndarray:
  """Edges [E, 2] between ids, or ids [T], as row numbers."""
  is_list = name == "nodes_test"
  if ids is None:
    if not is_list:
      return found  # `graph.from_edges` looks at these.
    ids = np.arange(count)
  if found.ndim != 2 - is_list or found.dtype.kind != ids.dtype.kind:
    raise ValueError(
      f"Expected {name} of {path} {'of' if is_list else 'between'} ids "
      f"({ids.dtype}), got {found.dtype} {list(found.shape)}."
    )
  known, row = np.unique(ids, return_index=True)
  unknown = found[~np.isin(found, known)]
  if unknown.size:
    raise ValueError(
      f"Expected {name} of {path} {'of' if is_list else 'between'} ids, got the "
      f"unknown {unknown[0]}."
    )
  rows = row[np.searchsorted(known, found)]
  return np.unique(rows) if is_list else rows


def arrays_of(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  arrays = files.read_npz(str(path))
  missing = [name for name in names if name not in arrays]
  if missing:
    raise ValueError(f"Expected {path} to have {missing[0]}, got none.")
  return arrays
