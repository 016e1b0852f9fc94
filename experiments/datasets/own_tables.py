"""A user's own table, CSV or Parquet, as rows of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..data import MAX_CLASSES, Dataset, Pool, pooled
from ..files import checked_file, read_csv, short

LABELS = ("y", "label", "target")
MOST_WORDS = 50  # A column of more different words is no kind but a name.


def from_table(kind: str, path: str) -> Dataset:
  """A table with a header, a row per line.

  The column y, label or target is what is learned: whole numbers or words. Of
  the others, numbers are standardised by the rows that train, and words become
  a 0 or 1 for each word. Ids (id, *_id) and words of more than `MOST_WORDS`
  kinds are not learned from. Every column can be asked for: group:COLUMN=VALUE.

  Args:
    kind: "csv" or "parquet".
    path: the file.

  Raises:
    ValueError: in one line, what cannot be read or used.
  """
  table, name = read_table(kind, path)
  label, classes = _classes(table[name], name)
  x, count, left_out = features(table, name, path)
  columns = {**table, "label": table[name]}
  made = pooled(Pool({"x": x, "label": label}, columns, 0.2, count), classes)
  notes = [
    f"Not learned from, but there for requests: {', '.join(left_out)}."
  ] * bool(left_out)
  return made._replace(is_split_here=True, notes=tuple(notes))


def read_table(kind: str, path: str) -> tuple[dict[str, np.ndarray], str]:
  """The columns of a table as words, and which of them is to be learned."""
  found = checked_file(path, "the data")
  table = read_csv(found) if kind == "csv" else _parquet(found)
  names = [name for name in LABELS if name in table]
  if len(names) != 1:
    raise ValueError(
      f"Expected one column of {path} to be called {' or '.join(LABELS)}, got "
      f"{' and '.join(names) or 'the columns ' + short(', '.join(table))}."
    )
  return table, names[0]


def features(
  table: Mapping[str, np.ndarray], but: str, path: str
) -> tuple[np.ndarray, int, list[str]]:
  """What can be learned from in a table.

  Args:
    table: columns of words.
    but: the column that is learned.
    path: of the file, for errors.

  Returns:
    x float64 [N, D], how many of its columns are numbers, which come first, and
    the names of the columns that are left out.

  Raises:
    ValueError: nothing to learn from; see `numbers_of`.
  """
  numbers, flags, left_out = [], [], []
  for name, words in table.items():
    if name == but:
      continue
    values = numbers_of(name, words)
    kinds = np.unique(words)
    # Tools number rows in a column without a name.
    nameless = not name or name.lower().startswith("unnamed:")
    if nameless or name.lower() == "id" or name.lower().endswith("_id"):
      left_out.append(name or "(no name)")
    elif values is not None:
      numbers.append(values)
    elif len(kinds) <= MOST_WORDS:
      flags.append(words[:, None] == kinds[None])
    else:
      left_out.append(name)
  if not numbers and not flags:
    raise ValueError(
      f"Expected {path} to have columns to learn from beside {but}, got "
      f"{short(', '.join(left_out)) or 'none'}."
    )
  parts = [np.stack(numbers, axis=1)] if numbers else []
  x = np.concatenate([*parts, *flags], axis=1).astype(np.float64)
  return x, len(numbers), left_out


def _classes(
  words: np.ndarray, name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Places of labels among all that there are; numbers by size."""
  if (words == "").any():
    raise ValueError(
      f"Expected a label in every row of the column {name}, got "
      f"{(words == '').sum()} empty cells."
    )
  kinds, label = np.unique(words, return_inverse=True)
  values = numbers_of(name, kinds)
  if values is not None:
    if len(np.unique(values)) < len(kinds):
      raise ValueError(
        f"Expected the column {name} to spell each number in one way, got "
        f"{len(kinds)} spellings of {len(np.unique(values))}."
      )
    order = np.argsort(values, kind="stable")
    kinds, label = kinds[order], np.argsort(order)[label]
  if not 2 <= len(kinds) <= MAX_CLASSES or (len(kinds) > len(words) / 2 > 2):
    raise ValueError(
      f"Expected the column {name} to be classes of several rows each, got "
      f"{len(kinds)} kinds in {len(words)} rows."
    )
  return label.astype(np.int32), tuple(map(str, kinds))


def numbers_of(name: str, words: np.ndarray) -> np.ndarray | None:
  """The column as numbers; None where it is words.

  Raises:
    ValueError: numbers with gaps, or beyond what float32 holds.
  """
  given = words[words != ""]
  try:
    values = given.astype(np.float64)
  except ValueError:
    return None
  if not given.size or len(given) < len(words):
    raise ValueError(
      f"Expected a number in every row of the column {name}, got "
      f"{len(words) - len(given)} empty cells; fill them or leave it out."
    )
  if not (np.abs(values) < np.finfo(np.float32).max).all():
    raise ValueError(
      f"Expected the column {name} to be finite numbers, got some that are nan "
      "or too large."
    )
  return values


def _parquet(path: Path) -> dict[str, np.ndarray]:
  """Columns as words; 64-bit ids keep all of their digits."""
  try:
    from pyarrow import ArrowException, parquet
  except ImportError as error:
    raise ValueError(
      "Expected pyarrow for --data parquet:PATH, got no such package; pip "
      "install pyarrow."
    ) from error
  try:
    table = parquet.read_table(path)
  except (ArrowException, OSError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"Expected {path} to be a Parquet file, got {short(reason)}."
    ) from error
  if len(set(table.column_names)) < table.num_columns:
    raise ValueError(
      f"Expected the columns of {path} to differ, got one twice."
    )
  if not table.num_rows:
    raise ValueError(f"Expected {path} to have rows, got none.")
  say = lambda value: "" if value is None else str(value)
  return {
    name: np.array([say(v) for v in table[name].to_pylist()])
    for name in table.column_names
  }
