"""Mixed tables as arrays: columns of numbers and of category codes.

A table is one float array [N, D]. What its columns are says `categories`, D
whole numbers: 0 for a column of numbers, K for one of the codes 0 .. K - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Columns(NamedTuple):
  """Where the columns of a mixed table are; NumPy, static.

  Attributes:
    categories: D numbers: 0 for a column of numbers, K for codes 0 .. K - 1.
    numeric: int [D_n], places of the columns of numbers.
    categorical: int [D_c], places of the others.
    level_column: int [L], the column of each level of each of the others.
    level_code: int [L], its code.
    level_group: int [L], its column's place among `categorical`.
  """

  categories: tuple[int, ...]
  numeric: np.ndarray
  categorical: np.ndarray
  level_column: np.ndarray
  level_code: np.ndarray
  level_group: np.ndarray

  @property
  def num_columns(self) -> int:
    return len(self.categories)

  @property
  def num_features(self) -> int:
    """Numbers and levels: the width of a row whose codes are indicators."""
    return len(self.numeric) + len(self.level_code)


def columns_of(categories: Sequence[int], *, at_least: int = 1) -> Columns:
  """Where the columns are.

  Args:
    categories: D numbers: 0 for a column of numbers, K for codes 0 .. K - 1.
    at_least: the fewest columns that will do.

  Raises:
    ValueError: fewer columns than `at_least`, or a number of categories below
      0.

  Example:
    >>> from jaxunlearn.tables import columns_of
    >>> columns = columns_of([0, 3, 0, 2])  # Two of numbers, two of codes.
    >>> columns.numeric.tolist(), columns.categorical.tolist()
    ([0, 2], [1, 3])
    >>> columns.num_features  # Two numbers, three and two levels.
    7
  """
  kinds = tuple(int(k) for k in categories)
  if len(kinds) < at_least:
    noun = "column" if at_least == 1 else "columns"
    raise ValueError(f"Expected at least {at_least} {noun}, got {len(kinds)}.")
  if min(kinds) < 0:
    raise ValueError(
      f"Expected categories >= 0, a number a column, got {min(kinds)}."
    )
  sizes = np.array(kinds)
  categorical = np.flatnonzero(sizes)
  codes = [np.arange(k) for k in sizes[categorical]]
  return Columns(
    kinds,
    np.flatnonzero(sizes == 0),
    categorical,
    np.repeat(categorical, sizes[categorical]),
    np.concatenate([np.zeros(0, int), *codes]),
    np.repeat(np.arange(len(categorical)), sizes[categorical]),
  )
