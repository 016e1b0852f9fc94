"""A user's own rows with numbers to predict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..data import checked_inputs
from ..files import read_npz, short
from . import own_tables

KINDS = ("npz", "csv", "parquet")
Columns = dict[str, np.ndarray]


def load(data: str) -> tuple[np.ndarray, np.ndarray, Columns, int | None]:
  """The rows of a file.

  Args:
    data: "npz:PATH", a file with x [N, ...] and numbers y [N], perhaps x_test and
      y_test; any further array [N] is a column for requests. Or "csv:PATH" or
      "parquet:PATH", a table as `own_tables.features` reads it.

  Returns:
    x [N, ...] and y float64 [N], the columns that requests look at, and how many
    rows stand first that train, the others being the file's own test rows; None
    where it has none.

  Raises:
    ValueError: in one line, what cannot be read or used.
  """
  kind, _, path = data.partition(":")
  if kind == "npz":
    return _from_npz(path)
  table, name = own_tables.read_table(kind, path)
  y = own_tables.numbers_of(name, table[name])
  if y is None:
    raise ValueError(
      f"Expected numbers in the column {name} of {path}, got words such as "
      f"{short(str(table[name][0]), 30)!r}."
    )
  x, _, _ = own_tables.features(table, name, path)
  return x, y, dict(table), None


def _from_npz(path: str) -> tuple[np.ndarray, np.ndarray, Columns, int | None]:
  arrays = read_npz(path)
  tests = [name for name in ("x_test", "y_test") if name in arrays]
  if not {"x", "y"} <= arrays.keys() or len(tests) == 1:
    raise ValueError(
      f"Expected {path} to have x and y, and both x_test and y_test or neither, "
      f"got {', '.join(sorted(arrays)) or 'nothing'}."
    )
  x, y = _pair(path, arrays, "x", "y")
  columns = {
    name: array
    for name, array in arrays.items()
    if array.shape == y.shape and name not in ("x", "y", "y_test")
  }
  if not tests:
    return x, y, columns, None
  x_test, y_test = _pair(path, arrays, "x_test", "y_test")
  if x_test.shape[1:] != x.shape[1:]:
    raise ValueError(
      f"Expected x_test in {path} of rows {list(x.shape[1:])}, as those of x, "
      f"got {list(x_test.shape[1:])}."
    )
  return np.concatenate([x, x_test]), np.append(y, y_test), columns, len(y)


def _pair(
  path: str, arrays: Mapping[str, np.ndarray], x_name: str, y_name: str
) -> tuple[np.ndarray, np.ndarray]:
  x, y = arrays[x_name], arrays[y_name]
  y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
  if x.ndim < 2 or x.dtype.kind not in "fiub":
    raise ValueError(
      f"Expected {x_name} in {path} to be numbers of shape [N, ...], got "
      f"{x.dtype} of shape {list(x.shape)}."
    )
  if y.ndim != 1 or y.dtype.kind not in "fiu" or len(y) != len(x):
    raise ValueError(
      f"Expected {y_name} in {path} to be numbers of shape [{len(x)}], one a "
      f"row of {x_name}, got {y.dtype} of shape {list(y.shape)}."
    )
  y = y.astype(np.float64)
  if not (np.abs(y) < np.finfo(np.float32).max).all():
    raise ValueError(
      f"Expected {y_name} in {path} to be finite, got values that are nan, "
      "infinite or too large."
    )
  return checked_inputs(path, x, x_name), y
