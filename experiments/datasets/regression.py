"""Tables with real targets, and requests over them.

Diabetes, houses of California, a transformer's oil temperature, or a user's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn import requests
from jaxunlearn.core import checks

from .. import files
from .. import requests as grammar
from ..data import _standardised, data_folder
from ..files import read_csv
from . import own_targets, splits

SOURCES = ("diabetes", "california", "etth1")
FORMS = {
  "lowest": "lowest:SHARE",
  "highest": "highest:SHARE",
  "range": "range:LOW..HIGH",
  "time": "time:FROM..TO",
  "group": "group:COLUMN=VALUE",
  "index": "index:FILE",
}
_TEST_SHARE = {"diabetes": 0.25, "california": 0.3}
# Windows of a day that predict the oil temperature of the same hour next day.
WINDOW, HORIZON = 24, 24
_WEEK = 168
_PAIRS = ((1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 5))
_LOADS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL")


class Source(NamedTuple):
  """A table before it is split.

  Attributes:
    name: one of `SOURCES`, or "own".
    x: float64 [N, D], nan where a number is missing; of etth1 [hours, D], of a
      user's [N, ...].
    y: float64 [N], targets.
    columns: by name, an array [N] of what a request looks at: "target", "time"
      where there is one, "row", its number, and the table's own columns.
    ends: of etth1 int [N], the last hour that a row's window has; else None.
    target: what is predicted, in words.
    unit: of the targets, in words.
    symbol: the same in short.
    trained: so many rows, the first ones, train, and the others, a user's own,
      test; None where all are divided here. Columns of a user's have an entry
      for each of the first.
    as_given: whether rows and targets are left as they are, for a model that
      was trained on them so.
  """

  name: str
  x: np.ndarray
  y: np.ndarray
  columns: Mapping[str, np.ndarray]
  ends: np.ndarray | None
  target: str
  unit: str
  symbol: str
  trained: int | None = None
  as_given: bool = False


class Table(NamedTuple):
  """One seed's rows to train on and rows to test on.

  Attributes:
    train: {"x": float32 [N, D] or [N, T, D], "label": float32 [N]}, inputs and
      targets standardised by the training rows, but for `Source.as_given`; a
      user's integers stay int32.
    test: the same of rows that are never trained on.
    columns: see `Source`; of the training rows.
    test_columns: the same of the test rows.
    scale: the targets' standard deviation, in their unit.
    shift: their mean.
    num_rows: that a request can name by number.
  """

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]
  columns: Mapping[str, np.ndarray]
  test_columns: Mapping[str, np.ndarray]
  scale: float
  shift: float
  num_rows: int


def load(
  source: str, *, data_dir: str | None = None, as_given: bool = False
) -> Source:
  """Loads a table.

  Args:
    source: one of `SOURCES`, or a file as `own_targets.load` has it.
    data_dir: the folder with california_housing.csv or etth1.csv; the
      environment variable JAXUNLEARN_DATA by default.
    as_given: see `Source`; of a file alone.

  Raises:
    ValueError: an unknown source, no folder, or a file that is missing or of
      another form, in one line.
  """
  if source.partition(":")[0] in own_targets.KINDS:
    x, y, columns, trained = own_targets.load(source)
    columns["target"] = y
    words = ("target y", "its own units", "units")
    return Source("own", x, y, columns, None, *words, trained, as_given)
  if source not in SOURCES:
    raise ValueError(
      f"Expected --data to be {', '.join(SOURCES)}, npz:PATH, csv:PATH or "
      f"parquet:PATH, got {files.short(source)!r}."
    )
  if source == "diabetes":
    return _diabetes()
  folder = data_folder(data_dir)
  if folder is None:
    raise ValueError(
      "Expected --data-dir (or JAXUNLEARN_DATA) with the files "
      "california_housing.csv and etth1.csv, got neither."
    )
  if source == "california":
    return _california(Path(folder) / "california_housing.csv")
  return _etth1(Path(folder) / "etth1.csv")


def split(
  source: Source,
  seed: int,
  part: str = splits.REPORT,
  limit: int | None = None,
  pinned: np.ndarray | None = None,
) -> Table:
  """Divides a table into rows to train on and rows to test on.

  Args:
    source: see `load`.
    seed: of the draw.
    part: see `splits.split_rows`.
    limit: at most so many rows in all, for a quick look; None takes all.
    pinned: see there; of etth1, whose weeks are split, not looked at.

  Raises:
    ValueError: too few rows; targets that do not differ.
  """
  if source.ends is not None:
    train, test, fitted = _weeks(source, seed, part, limit)
  elif source.trained is not None:
    train = fitted = np.arange(source.trained)
    own = np.random.default_rng(0).permutation(len(source.y) - source.trained)
    select, rest = np.split(own, [max(1, len(own) // 5)])
    test = source.trained + np.sort(select if part == splits.SELECT else rest)
  else:
    share = _TEST_SHARE.get(source.name, 0.2)
    train, test = splits.split_rows(
      len(source.y), seed, part, test_share=share, limit=limit, pinned=pinned
    )
    fitted = train
  if len(train) < 8 or len(test) < 4:
    raise ValueError(
      f"Expected --data with 12 rows or more, got {len(source.y)}."
    )
  # By training rows only: nothing of a test row may reach the model.
  x = source.x
  if np.isnan(x).any():
    x = np.where(np.isnan(x), np.nanmedian(x[fitted], axis=0)[None], x)
  if not source.as_given and x.dtype.kind == "f":
    x = _standardised(x, fitted)
  if source.ends is not None:
    x = x[source.ends[:, None] + np.arange(1 - WINDOW, 1)[None]]
  y = source.y
  shift, scale = float(y[train].mean()), float(y[train].std())
  if not np.isfinite([shift, scale]).all() or np.ptp(y[train]) == 0:
    raise ValueError(f"Expected targets that differ, got deviation {scale}.")
  if source.as_given:
    shift, scale = 0.0, 1.0
  label = ((y - shift) / scale).astype(np.float32)
  x = x if x.dtype.kind == "i" else np.asarray(x, np.float32)
  columns = {**source.columns, "row": np.arange(len(y))}
  of = lambda rows: {
    name: c[rows] for name, c in columns.items() if rows[-1] < len(c)
  }
  return Table(
    {"x": x[train], "label": label[train]},
    {"x": x[test], "label": label[test]},
    of(train),
    of(test),
    scale,
    shift,
    source.trained or len(y),
  )


def named(asks: Sequence[grammar.Ask], source: Source) -> np.ndarray:
  """The rows that requests name, bool [N]: by number, or a few of one's own.

  A group of at most a tenth of a user's rows is somebody, and no kind of row.
  """
  found = np.zeros(source.trained or len(source.y), bool)
  for ask in asks:
    if ask.kind == "index":
      with grammar.about(ask):
        found |= files.read_rows(ask.value, len(found))
    elif ask.kind == "group" and source.name == "own":
      with grammar.about(ask):
        column, wanted = grammar.column_and_value(ask.value, source.columns)
        entries = np.asarray(source.columns[column])
        rows = grammar.rows_named(entries, (wanted,), "a group")
        if rows.sum() <= len(rows) / 10:
          found |= rows
  return found


def masks(kind: str, value: str, table: Table) -> tuple[np.ndarray, np.ndarray]:
  """The rows of a request.

  Args:
    kind: of `FORMS`.
    value: what stands behind the colon.
    table: its training rows are what can be forgotten.

  Returns:
    The training rows to forget, bool [N], and the test rows of the same kind.

  Raises:
    ValueError: in one line, a text of another form, a column, value or range
      that does not exist, none or all of the training or of the test rows.
  """
  if kind == "index":
    return _by_number(value, table)
  if kind == "group":
    column, wanted = grammar.column_and_value(value, table.columns)
    of = lambda entries: grammar.rows_named(entries, (wanted,), "a group")
  else:
    column = "time" if kind == "time" else "target"
    if column not in table.columns:
      raise ValueError("Expected data with a time for time:FROM..TO, got none.")
    ends = _ends(kind, value, table.columns[column])
    of = lambda v: requests.value_range(np.asarray(v, np.float32), *ends)
  named = np.asarray(of(np.asarray(table.columns[column])))
  checks.request_values(named, name="--request on training rows")
  entries = np.asarray(table.test_columns.get(column, ()))
  # Of somebody there need be no test rows.
  if (
    kind == "group" and not np.isin(table.columns[column][named], entries).any()
  ):
    return named, _alike(named, table)
  tested = np.asarray(of(entries))
  checks.request_values(tested, name="--request on test rows")
  return named, tested


def _by_number(path: str, table: Table) -> tuple[np.ndarray, np.ndarray]:
  """Rows of the whole table by number, and the test rows most alike."""
  named = files.read_rows(path, table.num_rows)
  mask = named[table.columns["row"]]
  if named.sum() != mask.sum():
    raise ValueError(
      f"Expected rows that are trained on, got {named.sum() - mask.sum()} of "
      f"{named.sum()} that are test rows or left out."
    )
  return mask, _alike(mask, table)


def _alike(mask: np.ndarray, table: Table) -> np.ndarray:
  """For each of some training rows the test row whose target is nearest."""
  target, others = table.columns["target"], table.test_columns["target"]
  order = np.argsort(others)
  place = np.searchsorted(others[order], target[mask]).clip(1, len(order) - 1)
  below, above = order[place - 1], order[place]
  is_nearer = np.abs(others[below] - target[mask]) < np.abs(
    others[above] - target[mask]
  )
  alike = np.zeros(len(others), bool)
  alike[np.where(is_nearer, below, above)] = True
  return alike


def _ends(kind: str, value: str, column: np.ndarray) -> tuple[Any, Any]:
  """The ends of a range; an end that is missing is None."""
  if kind in ("range", "time"):
    low, dots, high = value.partition("..")
    if not dots:
      raise ValueError(f"Expected {kind}:FROM..TO, got '{kind}:{value}'.")
    ends = (_number(e, "a number") if e.strip() else None for e in (low, high))
    return tuple(ends)
  share = grammar.share(value)
  if kind == "lowest":
    return None, float(np.quantile(column, share))
  return float(np.quantile(column, 1 - share)), None


def _number(text: str, wanted: str) -> float:
  try:
    return float(text)
  except ValueError as error:
    raise ValueError(f"Expected {wanted}, got {text!r}.") from error


def _weeks(
  source: Source, seed: int, part: str, limit: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Of eight weeks five are for training, two for testing, one for choosing.

  The two are drawn, of the inner weeks and not side by side, so that every draw
  has as many windows. A window that reaches from one kind into another is left
  out.

  Returns:
    Rows to train and to test on, and the hours to train on.
  """
  assert source.ends is not None
  hours = len(source.x)
  kind = np.zeros((hours // (8 * _WEEK), 8), int)
  kind[:, 7] = 2
  rng = np.random.default_rng((seed, 1))
  for weeks, pair in zip(kind, rng.integers(len(_PAIRS), size=len(kind))):
    weeks[list(_PAIRS[pair])] = 1
  kind = np.repeat(kind.ravel(), _WEEK)
  kind = np.append(kind, np.zeros(hours - len(kind), int))
  of_row = kind[source.ends[:, None] + np.arange(1 - WINDOW, HORIZON + 1)]
  train, test = (
    np.flatnonzero((of_row == wanted).all(axis=1))
    for wanted in (0, 2 if part == splits.SELECT else 1)
  )
  if limit is not None:
    train, test = _thinned(train, 3 * limit // 4), _thinned(test, limit // 4)
  return train, test, np.flatnonzero(kind == 0)


def _thinned(rows: np.ndarray, count: int) -> np.ndarray:
  some = np.linspace(0, len(rows) - 1, min(count, len(rows)))
  return rows[some.astype(int)]


def _diabetes() -> Source:
  from sklearn.datasets import load_diabetes

  loaded: Any = load_diabetes(scaled=False)
  columns = dict(zip(loaded.feature_names, loaded.data.T))
  columns["sex"] = columns["sex"].astype(int)
  return _source(
    "diabetes",
    loaded.data,
    loaded.target,
    columns,
    "progression of the disease after a year",
    "units",
    "units",
  )


def _california(path: Path) -> Source:
  """Districts of the census of 1990; some numbers of bedrooms are missing."""
  numbers = (
    *("longitude", "latitude", "housing_median_age", "total_rooms"),
    *("total_bedrooms", "population", "households", "median_income"),
  )
  target, words = "median_house_value", "ocean_proximity"
  table = read_csv(path, (*numbers, target, words))
  values = _numbers(table, (*numbers, target), path)
  x, y = values[:, :-1], values[:, -1] / 1000
  # Counts are skewed over three orders of magnitude.
  skewed = [numbers.index(n) for n in numbers[3:7]]
  x[:, skewed] = np.log1p(x[:, skewed])
  # The words are for requests only: of a group that was never seen a column of
  # its own would have the weights that it started with.
  columns = {name: table[name] for name in (*numbers, words)}
  return _source(
    "california",
    x,
    y,
    columns,
    "median value of the houses of a district",
    "thousand dollars",
    "k$",
  )


def _source(name: str, x, y, columns, *words: str) -> Source:
  columns = {
    name: np.asarray(c) for name, c in {**columns, "target": y}.items()
  }
  return Source(name, x, y, columns, None, *words)


def _etth1(path: Path) -> Source:
  """A transformer's loads and oil temperature, hour by hour for a year."""
  table = read_csv(path, ("date", *_LOADS, "OT"))
  values = _numbers(table, (*_LOADS, "OT"), path)
  if not np.isfinite(values).all():
    raise ValueError(f"Expected numbers in all columns of {path}, got blanks.")
  ends = np.arange(WINDOW - 1, len(values) - HORIZON)
  y = values[ends + HORIZON, -1]
  columns = {"time": ends / (len(values) - 1), "target": y}
  return Source(
    "etth1",
    values,
    y,
    columns,
    ends,
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
