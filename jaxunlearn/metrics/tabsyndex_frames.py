"""Data frames as arrays of numbers and codes, without any one frame library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Whole numbers from 0 on and below stay the codes they are.
_MAX_KEPT = 256


class EncodedFrames(NamedTuple):
  """Two frames as arrays.

  Attributes:
    real: float64 [N, D].
    fake: float64 [M, D], columns in the order of the real frame.
    categories: D numbers, 0 for a column of numbers, else its levels.
    names: D names.
  """

  real: np.ndarray
  fake: np.ndarray
  categories: tuple[int, ...]
  names: tuple[str, ...]


def is_frame(table: Any) -> bool:
  """Whether a table names its columns."""
  return hasattr(table, "columns") and hasattr(table, "to_numpy")


def encode_frames(
  real: Any, fake: Any, categorical: Sequence[Any]
) -> EncodedFrames:
  """Turns two data frames into arrays with the same codes.

  A column of categories that holds whole numbers 0 .. 255 keeps them as codes.
  The values of any other are sorted and numbered, those of both frames
  together, as numbers (1 and 1.0 are one category) if they all are, else as
  text; what is missing there (None, nan, pandas' NA) is a category like others,
  and the last. Values that only the fake frame has get codes too: no real row has them.

  Args:
    real: a frame: `columns`, `frame[name]` and its `to_numpy()`.
    fake: a frame of the same columns in any order.
    categorical: names of the columns that hold categories.

  Returns:
    See `EncodedFrames`.

  Raises:
    ValueError: one is no frame, a column is missing or there twice, a name in
      `categorical` is none of a column, a column of numbers holds others or
      misses some.

  Example:
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> from jaxunlearn import metrics
    >>> class Frame(dict):  # What is read of a frame of pandas or polars.
    ...   columns, to_numpy = property(list), None
    ...   def __getitem__(self, name):
    ...     return SimpleNamespace(to_numpy=lambda: np.array(self.get(name)))
    >>> real = Frame(age=[30, 41], sex=["f", "m"])
    >>> fake = Frame(sex=["m", "x"], age=[35, 36])
    >>> found = metrics.encode_frames(real, fake, ["sex"])
    >>> found.fake.tolist(), found.categories
    ([[35.0, 1.0], [36.0, 2.0]], (0, 3))
  """
  if not (is_frame(real) and is_frame(fake)):
    raise ValueError(
      "Expected two data frames, got one beside another kind of table."
    )
  names = [str(name) for name in real.columns]
  others = [str(name) for name in fake.columns]
  for label, found in (("real", names), ("fake", others)):
    if len(set(found)) < len(found):
      raise ValueError(f"Expected {label} with columns of different names.")
  if set(names) != set(others):
    off = sorted(set(names) ^ set(others))
    raise ValueError(
      f"Expected real and fake with the same columns, got {', '.join(off)} in "
      "one only."
    )
  wanted = {str(name) for name in categorical}
  for name in sorted(wanted - set(names)):
    raise ValueError(
      f"Expected categories to name columns, got {name!r}, which is none."
    )
  columns, categories = [], []
  for original, name in zip(real.columns, names):
    place = list(fake.columns)[others.index(name)]
    pair = [
      np.asarray(f[c].to_numpy()) for f, c in ((real, original), (fake, place))
    ]
    if name in wanted:
      pair, size = _codes(pair)
    else:
      pair, size = [_numbers(values, name) for values in pair], 0
    columns.append(pair)
    categories.append(size)
  tables = [np.column_stack(part) for part in zip(*columns)]
  return EncodedFrames(tables[0], tables[1], tuple(categories), tuple(names))


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
  try:
    numbers = values.astype(np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"Expected numbers in column {name!r}, got others; name it among the "
      "categories if it holds such."
    ) from error
  if not np.isfinite(numbers).all():
    raise ValueError(
      f"Expected column {name!r} without missing or infinite values, got some; "
      "drop or fill these rows first."
    )
  return numbers


_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


def _is_missing(value: Any) -> bool:
  if value is None:
    return True
  try:
    return bool(value != value)
  except TypeError:  # pandas' NA is neither equal nor unequal to itself.
    return True


def _are_codes(values: np.ndarray) -> bool:
  in_range = (values >= 0) & (values < _MAX_KEPT)
  return bool((in_range & (values == np.floor(values))).all())


def _codes(pair: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
  both = np.concatenate([values.astype(object) for values in pair])
  is_missing = np.array([_is_missing(v) for v in both], bool)
  kept = both[~is_missing]
  if all(isinstance(v, _NUMBERS) for v in kept):
    values = kept.astype(np.float64)
  else:
    values = np.array([str(v) for v in kept])
  codes = np.zeros(len(both))
  if values.dtype == np.float64 and _are_codes(values):
    codes[~is_missing] = values
    size = int(codes.max(initial=0)) + 1
  else:
    levels, codes[~is_missing] = np.unique(values, return_inverse=True)
    size = len(levels)
  codes[is_missing] = size
  size += int(is_missing.any())
  return [codes[: len(pair[0])], codes[len(pair[0]) :]], size
