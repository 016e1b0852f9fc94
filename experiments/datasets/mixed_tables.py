"""Mixed tables for generators: Adult, California housing, and bundled ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data import ADULT_NUMBERS, ADULT_WORDS, data_folder
from ..files import read_csv

# Of the country nine tenths are one value.
_WORDS = (*(w for w in ADULT_WORDS if w != "native-country"), "income")
_HOUSE_NUMBERS = (
  "longitude",
  "latitude",
  "housing_median_age",
  "total_rooms",
  "total_bedrooms",
  "population",
  "households",
  "median_income",
  "median_house_value",
)
FILES = {"adult": "adult_train.csv", "california": "california_housing.csv"}
SUBSTITUTES = {"adult": "wine", "california": "diabetes"}
NAMES = (*FILES, *SUBSTITUTES.values())


class MixedTable(NamedTuple):
  """A table of numbers and codes.

  Attributes:
    name: what it is called.
    values: float32 [N, D].
    columns: D names.
    categories: D numbers: 0 for a column of numbers, K for codes 0 .. K - 1.
    target: the place of the column that models predict.
    task: "regression" or "classification".
    rows: int [N], the number of each row in the file.
    note: "", or what it stands in for, and why.
  """

  name: str
  values: np.ndarray
  columns: tuple[str, ...]
  categories: tuple[int, ...]
  target: int
  task: str
  rows: np.ndarray
  note: str = ""


def load(name: str, data_dir: str | None) -> MixedTable:
  """Loads a table, or what stands in for one whose file is not at hand.

  Args:
    name: one of `NAMES`.
    data_dir: the folder with the files; the environment variable JAXUNLEARN_DATA
      by default. Without either, or without the file in it, wine stands in for
      Adult and diabetes for California housing; the note says so.

  Raises:
    ValueError: an unknown name; a folder that is none; a file of another form.
  """
  if name not in NAMES:
    raise ValueError(
      f"Expected --data all or of {', '.join(NAMES)}, got {name!r}."
    )
  if name not in FILES:
    return _bundled(name)
  folder = data_folder(data_dir)
  if data_dir is not None and not Path(data_dir).is_dir():
    raise ValueError(f"Expected --data-dir to be a folder, got {data_dir}.")
  if folder is None or not (Path(folder) / FILES[name]).is_file():
    other = SUBSTITUTES[name]
    return _bundled(other)._replace(
      note=f"{other} of scikit-learn stands in for {name}, whose file "
      f"{FILES[name]} is not at hand (--data-dir)."
    )
  path = Path(folder) / FILES[name]
  return _adult(path) if name == "adult" else _california(path)


def _adult(path: Path) -> MixedTable:
  """Five numbers and seven columns of words; fnlwgt, education (the same as
  education-num) and native-country (nine tenths one value) are left out."""
  words = read_csv(path, (*ADULT_NUMBERS, *_WORDS))
  return _mixed("adult", words, ADULT_NUMBERS, _WORDS, "classification")


def _california(path: Path) -> MixedTable:
  """Nine numbers and a place; districts without total_bedrooms are left out."""
  words = read_csv(path, (*_HOUSE_NUMBERS, "ocean_proximity"))
  full = words["total_bedrooms"] != ""
  words = {name: column[full] for name, column in words.items()}
  found = _mixed(
    "california", words, _HOUSE_NUMBERS, ("ocean_proximity",), "regression"
  )
  return found._replace(
    target=found.columns.index("median_house_value"), rows=np.flatnonzero(full)
  )


def _mixed(name, words, numbers, categorical, task) -> MixedTable:
  """Numbers first, then codes in the order of the sorted words."""
  try:
    columns = [words[n].astype(np.float32) for n in numbers]
  except ValueError as error:
    raise ValueError(
      f"Expected numbers in {', '.join(numbers)} of {FILES[name]}, got {error}."
    ) from error
  kinds = [0] * len(numbers)
  for n in categorical:
    levels, codes = np.unique(words[n], return_inverse=True)
    columns.append(codes.astype(np.float32))
    kinds.append(len(levels))
  values = np.column_stack(columns)
  names = (*numbers, *categorical)
  rows = np.arange(len(values))
  return MixedTable(
    name, values, names, tuple(kinds), len(names) - 1, task, rows
  )


def _bundled(name: str) -> MixedTable:
  from sklearn import datasets

  if name == "wine":
    loaded = datasets.load_wine()
    kinds = (*[0] * loaded.data.shape[1], 3)
    task = "classification"
  else:
    loaded = datasets.load_diabetes(scaled=False)
    kinds = tuple(2 if n == "sex" else 0 for n in loaded.feature_names) + (0,)
    task = "regression"
  values = np.column_stack([loaded.data, loaded.target]).astype(np.float32)
  if name == "diabetes":
    values[:, list(loaded.feature_names).index("sex")] -= 1  # From 1 and 2.
  names = (*map(str, loaded.feature_names), "target")
  rows = np.arange(len(values))
  return MixedTable(name, values, names, kinds, len(names) - 1, task, rows)
