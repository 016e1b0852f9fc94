"""What comes from outside as a file, read and checked before anything is done.

Every reader raises one line of ValueError, whatever is wrong with the file:
its path, its format, its encoding, or what it holds.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.core import given

# A whole number as people and spreadsheets write it: 3, -3, "3", 3.0.
_WHOLE = re.compile(r'"?([+-]?[0-9]+)(?:\.0*)?"?')
_LONGEST = 1_000_000  # Characters of a line of JSON that is read.


def checked_path(path: str | os.PathLike[str], name: str) -> Path:
  """See `given.path`; what is looked for below a file is only missing."""
  return given.path(path, name, is_missing_below_files=True)


def checked_file(path: str | os.PathLike[str], name: str) -> Path:
  """A path to a file that is there; see `checked_path`."""
  found = checked_path(path, name)
  if not found.is_file():
    raise ValueError(f"Expected {name} to be a file, got no such file: {path}.")
  return found


def made_folder(path: str | os.PathLike[str], name: str) -> Path:
  """A path to a folder, made where it is missing; see `checked_path`."""
  found = checked_path(path, name)
  try:
    if not found.exists():
      found.mkdir(parents=True)
  except OSError as error:
    raise ValueError(
      f"Expected {name} to be a folder that can be made, got {short(str(path))} "
      f"({error.strerror})."
    ) from error
  return found


def short(text: str, length: int = 60) -> str:
  """The text, or its beginning and end where it is longer."""
  half = length // 2
  return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"


def whole(
  text: str, name: str, low: int | None = None, high: int | None = None
) -> int:
  """A whole number, within bounds if there are some, of any size.

  Raises:
    ValueError: other text, or a number outside `low .. high`.
  """
  match = _WHOLE.fullmatch(text.strip())
  if match is None:
    raise ValueError(f"Expected {name}, got {short(text.strip(), 40)!r}.")
  digits = match[1].lstrip("+")
  # Python refuses to read thousands of digits; nothing counts so far.
  found = int(digits) if len(digits) < 1000 else None
  if (
    found is None
    or (low is not None and found < low)
    or (high is not None and found > high)
  ):
    bounds = "" if low is None else f" in {low} .. {high}"
    raise ValueError(f"Expected {name}{bounds}, got {short(digits, 40)}.")
  return found


def read_text(path: str | os.PathLike[str], name: str) -> str:
  """A text in UTF-8, with or without a byte-order mark.

  Raises:
    ValueError: no such file, one that cannot be read, or another encoding.
  """
  found = checked_file(path, name)
  try:
    content = found.read_bytes()
  except OSError as error:
    raise ValueError(
      f"Expected {name} to be readable, got {error.strerror} ({path})."
    ) from error
  if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content:
    raise ValueError(
      f"Expected {name} to be text in UTF-8, got UTF-16 or no text at all "
      f"({path}); save it as UTF-8."
    )
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"Expected {name} to be text in UTF-8, got other bytes from place "
      f"{error.start} on ({path}); save it as UTF-8."
    ) from error


def json_value(text: str, where: str) -> Any:
  """What a text of JSON says.

  Raises:
    ValueError: it is none, has half a character, or is nested deeper or has
      numbers longer than Python reads.
  """
  try:
    found = json.loads(text)
    json.dumps(found, ensure_ascii=False).encode()
  except UnicodeEncodeError as error:
    half = error.object[error.start]
    raise ValueError(
      f"Expected whole characters on {where}, got half of one, {half!r}."
    ) from None
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f"Expected a JSON object on {where}, got {short(text, 40)!r}."
    ) from error
  return found


def json_lines(
  path: str | os.PathLike[str], name: str
) -> Iterator[tuple[dict[str, Any], str]]:
  """The objects of a file, one a line, each with where it is, for errors.

  Args:
    path: the file.
    name: what an error calls its content.

  Raises:
    ValueError: an empty line before another, one that is no object; see
      `read_text` and `json_value`.
  """
  # Only these end a line: JSON may have U+2028 and its like within texts.
  lines = read_text(path, name).rstrip().split("\n")
  for number, line in enumerate(lines, start=1):
    where = f"line {number} of {Path(path).name}"
    found = json_value(line, where) if len(line) < _LONGEST else None
    if not isinstance(found, dict):
      raise ValueError(
        f"Expected a JSON object on {where}, got {short(line, 40)!r}."
      )
    yield found, where


def read_cells(
  path: str | os.PathLike[str], name: str, width: int
) -> list[tuple[int, tuple[str, ...]]]:
  """Lines of a text file as (line number, cells); empty lines are passed over.

  Args:
    path: cells with commas, semicolons, tabs or spaces between.
    name: what an error calls a line.
    width: cells of a line.

  Raises:
    ValueError: a line of another width; see `read_text`.
  """
  found = []
  lines = read_text(path, "the file of " + name).splitlines()
  for number, line in enumerate(lines, start=1):
    text = line.strip().rstrip(",;\t ")
    if not text:
      continue
    cells = [text] if width == 1 else re.split(r"\s*[,;\t]\s*|\s+", text)
    if len(cells) != width:
      raise ValueError(
        f"Expected {width} cells on every line of {name}, got "
        f"{short(text, 40)!r} on line {number}."
      )
    found.append((number, tuple(cell.strip('"') for cell in cells)))
  return found


def read_rows(path: str | os.PathLike[str], count: int) -> np.ndarray:
  """Which rows a file names: bool [count].

  Args:
    path: a text file with a row number, from 0 on, on every line, or an .npy
      of row numbers, integers [K], or of a mask, [count], bools or the integers
      0 and 1. As many zeros and ones as there are rows are a mask; fewer or
      more, some of them twice, are a mask of other data and refused.
    count: N.

  Raises:
    ValueError: anything else, a row that does not exist.
  """
  if str(path).endswith(".npy"):
    rows = _read_npy(path)
  else:
    wanted = "a row number on every line"
    rows = []
    for number, (cell,) in read_cells(path, "row numbers", 1):
      try:
        rows.append(whole(cell, "row numbers", 0, count - 1))
      except ValueError as error:
        if _WHOLE.fullmatch(cell):
          raise
        raise ValueError(
          f"Expected {wanted}, got {short(cell, 40)!r} on line {number}."
        ) from error
    rows = np.array(rows, np.int64)
  return rows_as_mask(rows, count)


def rows_as_mask(rows: np.ndarray, count: int) -> np.ndarray:
  """Row numbers or a mask, told apart by dtype and content: bool [count].

  Raises:
    ValueError: neither, or numbers that do not exist; see `read_rows`.
  """
  if rows.dtype == np.bool_:
    if rows.shape != (count,):
      raise ValueError(
        f"Expected the mask of shape ({count},), a row of data each, got "
        f"{rows.shape}."
      )
    return rows
  if rows.ndim != 1 or rows.dtype.kind not in "iu":
    raise ValueError(
      f"Expected row numbers, integers [K], or a mask, bool [{count}], got "
      f"{rows.dtype} {list(rows.shape)}."
    )
  mask = np.zeros(count, bool)
  if not rows.size:
    return mask
  # As Python's integers: nothing is narrowed before it is known to fit.
  low, high = int(rows.min()), int(rows.max())
  if low < 0 or high >= count:
    bad = low if low < 0 else high
    raise ValueError(f"Expected row numbers in 0 .. {count - 1}, got {bad}.")
  if high <= 1 and len(rows) > high + 1:
    if len(rows) == count:
      return rows == 1
    raise ValueError(
      f"Expected row numbers or a mask of {count} rows, got {len(rows)} zeros "
      "and ones, a mask of other data."
    )
  mask[rows] = True
  return mask


def _read_npy(path: str | os.PathLike[str]) -> np.ndarray:
  found = checked_file(path, "the file of row numbers")
  try:
    return np.asarray(np.load(found))
  except Exception as error:  # Damaged files raise many kinds.
    raise ValueError(
      "Expected an .npy file of row numbers, got one that cannot be read "
      f"({type(error).__name__})."
    ) from error


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Arrays of an .npz; Python objects, which could run code, are refused."""
  found = checked_path(path, "the data")
  if not found.is_file():
    raise ValueError(f"Expected {path} to be an .npz file, got no such file.")
  try:
    with np.load(found) as file:
      if not hasattr(file, "files"):
        raise ValueError(f"Expected {path} to be an .npz file, got one array.")
      arrays = {}
      for name in file.files:
        try:
          arrays[name] = file[name]
        except ValueError as error:
          raise ValueError(
            f"Expected {path} to hold plain arrays, got Python objects under "
            f"{name!r}, which are not loaded."
          ) from error
      return arrays
  except ValueError as error:
    if str(error).startswith("Expected"):
      raise
    raise ValueError(
      f"Expected {path} to be an .npz file, got something else."
    ) from error
  except Exception as error:  # Broken archives raise many kinds.
    raise ValueError(
      f"Expected {path} to be a readable .npz file, got "
      f"{type(error).__name__}: {error}"
    ) from error


def read_csv(
  path: str | os.PathLike[str], columns: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
  """Columns of a CSV file with a header, as words.

  Args:
    path: the file, UTF-8.
    columns: those that are wanted; None for all.

  Raises:
    ValueError: no such file, another form, a column that is missing.
  """
  found = checked_path(path, "the data")
  if not found.is_file():
    raise ValueError(
      f"Expected --data-dir with the file {found.name}, got {found.parent}, "
      "which has none."
    )
  text = io.StringIO(read_text(found, str(path)), newline="")
  try:
    reader = csv.DictReader(text, skipinitialspace=True)
    head = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = head
    rows = list(reader)
  except csv.Error as error:
    raise ValueError(f"Expected {path} to be CSV, got {error}.") from error
  if len(set(head)) < len(head):
    twice = next(name for name in head if head.count(name) > 1)
    raise ValueError(
      f"Expected the columns of {path} to differ, got {short(twice)!r} twice."
    )
  if any(None in row for row in rows):
    raise ValueError(
      f"Expected {path} to have as many cells on every line as in its header, "
      f"{len(head)}, got more on some."
    )
  names = head if columns is None else columns
  for name in names:
    if not rows or any(row.get(name) is None for row in rows):
      raise ValueError(
        f"Expected {path} to have rows, each with the column {name!r}, got "
        "none or some without."
      )
  return {name: np.array([r[name].strip() for r in rows]) for name in names}
