"""What must be forgotten: from the text of a flag to masks over the rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Dataset
from jaxunlearn import requests
from jaxunlearn.core import checks

EACH_CLASS = "each-class"
FORMS = "class:3,5, random:0.1, index:FILE, group:COLUMN=VALUE or " + EACH_CLASS
SEPARATOR = ";"  # Between several requests.
# The rows of a random request are the same for every seed: a request is what
# somebody asks for, and seeds are repetitions of answering it.
_RANDOM_REQUEST_KEY = 7


class Requests(NamedTuple):
  """One or several requests on the same rows.

  Attributes:
    names: one a request, as the results show it.
    masks: bool [R, N], True = forgotten once the request is served: its own
      rows, and in a sequence those of the requests before it.
    added: bool [R, N], the rows that the request itself takes away; outside a
      sequence those of `masks`.
    classes: of each row of `masks` the classes that it covers entirely, if it
      is a union of whole classes; else None.
    max_classes: the most classes of which any request itself has a row.
    num_touched: the most classes of which any row of `masks` has one.
    is_sequence: whether they are served one after the other.
  """

  names: tuple[str, ...]
  masks: np.ndarray
  added: np.ndarray
  classes: tuple[tuple[int, ...] | None, ...]
  max_classes: int
  num_touched: int
  is_sequence: bool


def parse(text: str, dataset: Dataset, *, sequence: bool = False) -> Requests:
  """Builds the requests that a flag's text asks for.

  Args:
    text: one of `FORMS`, or several with semicolons between.
    dataset: its training rows are what can be forgotten.
    sequence: whether the requests come one after the other. Of a row that
      several name the first one counts, and "each-class" leaves the last class,
      so that there is something to retain.

  Raises:
    ValueError: in one line, a text of another form, a class, row or group that
      does not exist, a request that is empty or covers everything, alone or, in
      a sequence, by what was forgotten before; a sequence of one.
  """
  parts = [part.strip() for part in text.split(SEPARATOR) if part.strip()]
  if parts == [EACH_CLASS]:
    count = dataset.num_classes - sequence
    parts = [f"class:{c}" for c in range(count)]
  names = tuple(parts) or (text,)
  masks = np.stack([_one(name, dataset) for name in names])
  again = next((n for i, n in enumerate(names) if n in names[:i]), None)
  if again is not None:
    raise ValueError(f"Expected --request to differ, got {again!r} twice.")
  added = masks
  if sequence:
    names, masks, added = _in_sequence(names, masks)
  label = dataset.train["label"]
  return Requests(
    names,
    masks,
    added,
    tuple(_whole_classes(label, mask) for mask in masks),
    max(len(np.unique(label[mask])) for mask in added),
    max(len(np.unique(label[mask])) for mask in masks),
    sequence,
  )


def _one(text: str, dataset: Dataset) -> np.ndarray:
  kind, _, value = text.partition(":")
  build = {
    "class": _classes,
    "random": _random,
    "index": _index,
    "group": _group,
  }.get(kind)
  if build is None or not value:
    raise ValueError(f"Expected --request {FORMS}, got {text!r}.")
  try:
    mask = build(value, dataset)
    checks.request_values(mask, "--request")
  except ValueError as error:
    raise ValueError(f"--request {text}: {error}") from error
  return np.asarray(mask)


def _in_sequence(names: tuple[str, ...], masks: np.ndarray):
  """Names with their place, rows forgotten so far, and rows that are new."""
  if len(names) < 2:
    raise ValueError(
      "Expected several requests for --sequence, such as --request "
      f"'class:0;class:1;class:2' or {EACH_CLASS}, got {names[0]!r} alone."
    )
  so_far = np.logical_or.accumulate(masks)
  added = so_far.copy()
  added[1:] &= ~so_far[:-1]
  for name, mask in zip(names, added):
    if not mask.any():
      raise ValueError(
        f"Expected every request of --sequence to add rows, got {name!r}, whose "
        "rows were all forgotten before."
      )
  if so_far[-1].all():
    raise ValueError(
      "Expected the requests of --sequence to leave rows to retain, got "
      f"{len(names)} that together cover all {masks.shape[1]} rows."
    )
  places = tuple(f"{i}. {name}" for i, name in enumerate(names, start=1))
  return places, so_far, added


def _classes(value: str, dataset: Dataset):
  try:
    wanted = [int(c) for c in value.split(",")]
  except ValueError as error:
    raise ValueError(
      f"Expected classes as integers with commas between, got {value!r}."
    ) from error
  return requests.classes(jnp.asarray(dataset.train["label"]), wanted)


def _random(value: str, dataset: Dataset):
  try:
    fraction = float(value)
  except ValueError as error:
    raise ValueError(f"Expected a fraction, got {value!r}.") from error
  if not 0 < fraction < 1:
    raise ValueError(f"Expected a fraction between 0 and 1, got {value}.")
  key = jax.random.key(_RANDOM_REQUEST_KEY)
  return requests.random_fraction(key, len(dataset.train["label"]), fraction)


def _index(path: str, dataset: Dataset):
  """Row numbers from a text file or an .npy, or a mask from an .npy."""
  if dataset.is_split_here:
    raise ValueError(
      "Expected x_test and y_test in the data for a request by row number, got "
      "neither, so that rows were set aside at random and numbers shift."
    )
  if not Path(path).is_file():
    raise ValueError("Expected a file of row numbers, got no such file.")
  rows = _read_npy(path) if path.endswith(".npy") else _read_lines(path)
  count = len(dataset.train["label"])
  if rows.dtype == np.bool_:
    checks.request(dataset.train, rows, name="the mask")
    return rows
  if rows.ndim != 1 or rows.dtype.kind not in "iu":
    raise ValueError(
      "Expected row numbers, integers [K], or a mask, bool "
      f"[{count}], got {rows.dtype} {list(rows.shape)}."
    )
  # To the library -1 is padding; a user who writes it is mistaken.
  if rows.size and not 0 <= rows.min() <= rows.max() < count:
    bad = rows.min() if rows.min() < 0 else rows.max()
    raise ValueError(f"Expected row numbers in 0 .. {count - 1}, got {bad}.")
  return requests.indices(count, jnp.asarray(rows, jnp.int32))


def _read_npy(path: str) -> np.ndarray:
  try:
    return np.asarray(np.load(path))
  except Exception as error:  # Damaged files raise many kinds.
    raise ValueError(
      "Expected an .npy file of row numbers, got one that cannot be read "
      f"({type(error).__name__})."
    ) from error


def _read_lines(path: str) -> np.ndarray:
  rows = []
  try:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"Expected a text file of row numbers, got {type(error).__name__}."
    ) from error
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      rows.append(int(line))
    except ValueError as error:
      raise ValueError(
        f"Expected a row number on every line, got {line.strip()[:40]!r} on "
        f"line {number}."
      ) from error
  return np.asarray(rows, np.int64)


def _group(value: str, dataset: Dataset):
  name, equals, wanted = value.partition("=")
  if not equals or name not in dataset.columns:
    known = ", ".join(sorted(dataset.columns))
    raise ValueError(
      f"Expected COLUMN=VALUE with a column among {known}, got {value!r}."
    )
  column = dataset.columns[name]
  return requests.groups(column, _as_entry(wanted, column))


def _as_entry(text: str, column: np.ndarray):
  """The text as a value of the column's kind."""
  if column.dtype.kind == "b":
    if text.lower() not in ("true", "false", "1", "0"):
      raise ValueError(f"Expected true or false, got {text!r}.")
    return text.lower() in ("true", "1")
  if column.dtype.kind == "S":
    return text.encode()
  if column.dtype.kind in "iuf":
    try:
      return int(text) if column.dtype.kind in "iu" else float(text)
    except ValueError as error:
      raise ValueError(f"Expected a number, got {text!r}.") from error
  return text


def _whole_classes(label, mask) -> tuple[int, ...] | None:
  touched = np.unique(label[mask])
  if mask.sum() == np.isin(label, touched).sum():
    return tuple(touched.tolist())
  return None
