"""Tables with real targets, and requests over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import files
from experiments import requests as grammar
from experiments.data import _standardised, data_folder
from experiments.files import read_csv
from jaxunlearn import requests
from jaxunlearn.core import checks

SOURCES = ("diabetes", "california", "etth1")
FORMS = (
  "lowest:SHARE, highest:SHARE, range:LOW..HIGH, time:FROM..TO, "
  "group:COLUMN=VALUE or index:FILE"
)
_KINDS = ("lowest", "highest", "range", "time", "group", "index")
DEFAULT_REQUESTS: Mapping[str, str] = {
  "diabetes": "range:..90",
  "california": "lowest:0.2;group:ocean_proximity=INLAND",
  "etth1": "lowest:0.2;time:0.4..0.55",
}
_TEST_SHARE = {"diabetes": 0.25, "california": 0.3}
# Windows of a day that predict the oil temperature of the same hour next day.
WINDOW, HORIZON = 24, 24
_WEEK = 168
_LOADS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL")


class Table(NamedTuple):
  """Rows to train on and rows to test on; targets in standard deviations.

  Attributes:
    train: {"x": float32 [N, D] or [N, T, D], "label": float32 [N]}, targets
      standardised by the training rows.
    test: the same of rows that are never trained on.
    columns: by name, an array [N] of what a request looks at: "target" in its
      own unit, "time" where there is one, "row", its number in the whole
      table, and the table's own columns.
    test_columns: the same of the test rows.
    scale: the targets' standard deviation, in `unit`.
    shift: their mean, in `unit`.
    target: what is predicted, in words.
    unit: of the targets, in words.
    symbol: the same in short.
  """

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]
  columns: Mapping[str, np.ndarray]
  test_columns: Mapping[str, np.ndarray]
  scale: float
  shift: float
  target: str
  unit: str
  symbol: str


class Requests(NamedTuple):
  """One or several requests on the same rows.

  Attributes:
    names: one a request.
    masks: bool [R, N], True = forget.
    test_masks: bool [R, M], the test rows of the same kind.
  """

  names: tuple[str, ...]
  masks: np.ndarray
  test_masks: np.ndarray


def load(
  source: str, *, data_dir: str | None = None, rows: int | None = None
) -> Table:
  """Loads a table.

  Args:
    source: one of `SOURCES`.
    data_dir: the folder with california_housing.csv or etth1.csv; the
      environment variable JAXUNLEARN_DATA by default.
    rows: at most so many rows in all, for a quick look; None takes all.

  Raises:
    ValueError: an unknown source, no folder, or a file that is missing or of
      another form, in one line.
  """
  if source not in SOURCES:
    raise ValueError(
      f"Expected --data to be {', '.join(SOURCES)}, got {source!r}."
    )
  if source == "diabetes":
    return _diabetes(rows)
  folder = data_folder(data_dir)
  if folder is None:
    raise ValueError(
      "Expected --data-dir (or JAXUNLEARN_DATA) with the files "
      "california_housing.csv and etth1.csv, got neither."
    )
  if source == "california":
    return _california(Path(folder) / "california_housing.csv", rows)
  return _etth1(Path(folder) / "etth1.csv", rows)


def parse(text: str, table: Table) -> Requests:
  """Builds the requests that a flag's text asks for.

  Args:
    text: one of `FORMS`, or several with semicolons between.
    table: its training rows are what can be forgotten.

  Raises:
    ValueError: in one line, a text of another form, a column, value or range
      that does not exist, a request that is empty or covers everything, in the
      training or in the test rows; the same request twice.
  """
  asks = grammar.read(text, _KINDS, FORMS)
  pairs = []
  for ask in asks:
    try:
      pair = _one(ask, table)
      for mask, part in zip(pair, ("training rows", "test rows")):
        checks.request_values(mask, f"--request on {part}")
    except ValueError as error:
      text = files.short(ask.text, 120)
      raise ValueError(f"--request {text}: {error}") from error
    pairs.append(pair)
  masks, test_masks = (np.stack(part) for part in zip(*pairs))
  return Requests(tuple(ask.text for ask in asks), masks, test_masks)


def _one(ask: grammar.Ask, table: Table) -> tuple[np.ndarray, np.ndarray]:
  text, kind, value = ask
  columns = table.columns, table.test_columns
  if kind == "index":
    return _rows(value, table)
  if kind in ("lowest", "highest"):
    share = grammar.share(value)
    at = share if kind == "lowest" else 1 - share
    end = float(np.quantile(table.columns["target"], at))
    ends = (None, end) if kind == "lowest" else (end, None)
    return _between(columns, "target", ends)
  if kind in ("range", "time"):
    column = "target" if kind == "range" else "time"
    if column not in table.columns:
      raise ValueError("Expected data with a time for time:FROM..TO, got none.")
    low, dots, high = value.partition("..")
    if not dots:
      raise ValueError(f"Expected {kind}:FROM..TO, got {text!r}.")
    ends = tuple(
      _number(end, "a number") if end.strip() else None for end in (low, high)
    )
    return _between(columns, column, ends)
  column, equals, wanted = value.partition("=")
  if not equals or column not in table.columns:
    known = ", ".join(sorted(table.columns))
    raise ValueError(
      f"Expected group:COLUMN=VALUE with a column of {known}, got {text!r}."
    )
  first, second = (
    grammar.rows_named(np.asarray(c[column]), (wanted,), "a group")
    for c in columns
  )
  return first, second


def _rows(path: str, table: Table) -> tuple[np.ndarray, np.ndarray]:
  """Rows of the whole table by number; beside them, the test rows most alike.

  These are, for each of the rows, the one whose target is nearest.
  """
  rows, test_rows = table.columns["row"], table.test_columns["row"]
  named = files.read_rows(path, int(max(rows.max(), test_rows.max())) + 1)
  mask = named[rows]
  if named.sum() != mask.sum():
    raise ValueError(
      f"Expected rows that are trained on, got {named.sum() - mask.sum()} of "
      f"{named.sum()} that are test rows or left out."
    )
  target, others = table.columns["target"], table.test_columns["target"]
  order = np.argsort(others)
  place = np.searchsorted(others[order], target[mask]).clip(1, len(order) - 1)
  below, above = order[place - 1], order[place]
  nearer = np.abs(others[below] - target[mask]) < np.abs(
    others[above] - target[mask]
  )
  alike = np.zeros(len(others), bool)
  alike[np.where(nearer, below, above)] = True
  return mask, alike


def _between(columns, name: str, ends) -> tuple[np.ndarray, np.ndarray]:
  first, second = (
    np.asarray(requests.value_range(np.asarray(c[name], np.float32), *ends))
    for c in columns
  )
  return first, second


def _number(text: str, wanted: str) -> float:
  try:
    return float(text)
  except ValueError as error:
    raise ValueError(f"Expected {wanted}, got {text!r}.") from error


def _split(source: str, count: int, rows: int | None):
  """Row numbers for training and testing; a seed does not move them."""
  order = np.random.default_rng(0).permutation(count)[:rows]
  cut = round(_TEST_SHARE[source] * len(order))
  return np.sort(order[cut:]), np.sort(order[:cut])


def _diabetes(rows: int | None) -> Table:
  from sklearn.datasets import load_diabetes

  loaded: Any = load_diabetes(scaled=False)
  train, test = _split("diabetes", len(loaded.target), rows)
  x = _standardised(loaded.data, train)
  columns = dict(zip(loaded.feature_names, loaded.data.T))
  columns["sex"] = columns["sex"].astype(int)
  return _table(
    x,
    loaded.target,
    columns,
    (train, test),
    "progression of the disease after a year",
    "units",
    "units",
  )


def _california(path: Path, rows: int | None) -> Table:
  """Districts of the census of 1990; missing numbers of bedrooms are filled."""
  numbers = (
    *("longitude", "latitude", "housing_median_age", "total_rooms"),
    *("total_bedrooms", "population", "households", "median_income"),
  )
  target, words = "median_house_value", "ocean_proximity"
  table = read_csv(path, (*numbers, target, words))
  values = _numbers(table, (*numbers, target), path)
  train, test = _split("california", len(values), rows)
  # By training rows only: nothing of a test row may reach the model.
  middle = np.nanmedian(values[train], axis=0)
  values = np.where(np.isnan(values), middle[None], values)
  x, y = values[:, :-1], values[:, -1] / 1000
  # Counts are skewed over three orders of magnitude.
  skewed = [numbers.index(n) for n in numbers[3:7]]
  x[:, skewed] = np.log1p(x[:, skewed])
  # The words are for requests only: of a group that was never seen a column of
  # its own would have the weights that it started with.
  x = _standardised(x, train)
  columns = {name: table[name] for name in (*numbers, words)}
  return _table(
    x,
    y,
    columns,
    (train, test),
    "median value of the houses of a district",
    "thousand dollars",
    "k$",
  )


def _etth1(path: Path, rows: int | None) -> Table:
  """A transformer's loads and oil temperature, hour by hour for a year.

  Of four weeks three are for training and one for testing; a window that
  reaches from one kind into the other is left out.
  """
  table = read_csv(path, ("date", *_LOADS, "OT"))
  values = _numbers(table, (*_LOADS, "OT"), path)
  if not np.isfinite(values).all():
    raise ValueError(f"Expected numbers in all columns of {path}, got blanks.")
  is_test = (np.arange(len(values)) // _WEEK) % 4 == 3
  ends = np.arange(WINDOW - 1, len(values) - HORIZON)
  span = np.arange(-(WINDOW - 1), HORIZON + 1)
  kinds = is_test[ends[:, None] + span[None]]
  ends = ends[kinds.all(axis=1) | ~kinds.any(axis=1)]
  if rows is not None and rows < len(ends):
    ends = ends[np.linspace(0, len(ends) - 1, rows).astype(int)]
  hours = np.flatnonzero(~is_test)
  inputs = _standardised(values, hours)
  x = inputs[ends[:, None] + span[None, :WINDOW]]
  y = values[ends + HORIZON, -1]
  in_test = is_test[ends]
  columns = {"time": ends / (len(values) - 1)}
  return _table(
    x,
    y,
    columns,
    (np.flatnonzero(~in_test), np.flatnonzero(in_test)),
    "oil temperature in 24 hours",
    "degrees Celsius",
    "°C",
  )


def _numbers(table, names, path: Path) -> np.ndarray:
  """Columns as float64 [N, D]; blanks are nan."""
  try:
    return np.array(
      [[float(v) if v else np.nan for v in table[name]] for name in names]
    ).T
  except ValueError as error:
    raise ValueError(
      f"Expected numbers in {', '.join(names)} of {path.name}, got {error}."
    ) from error


def _table(x, y, columns, parts, *words: str) -> Table:
  train, test = parts
  if len(train) < 8 or len(test) < 4:
    raise ValueError(
      f"Expected --data with 12 rows or more, got {len(train) + len(test)}."
    )
  shift, scale = float(y[train].mean()), float(y[train].std())
  if not np.isfinite([shift, scale]).all() or np.ptp(y[train]) == 0:
    raise ValueError(f"Expected targets that differ, got deviation {scale}.")
  label = ((y - shift) / scale).astype(np.float32)
  x = np.asarray(x, np.float32)
  columns = {**columns, "target": y, "row": np.arange(len(y))}
  of = lambda rows: {name: np.asarray(c)[rows] for name, c in columns.items()}
  return Table(
    {"x": x[train], "label": label[train]},
    {"x": x[test], "label": label[test]},
    of(train),
    of(test),
    scale,
    shift,
    *words,
  )
