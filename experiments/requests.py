"""What must be forgotten: from the text of a flag to masks over the rows.

All programs read one grammar, `KIND:VALUE`, several with semicolons between;
each has kinds of its own. `parse` is that of rows with classes.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import files
from experiments.data import Dataset
from jaxunlearn import requests
from jaxunlearn.core import checks

EACH_CLASS = "each-class"
FORMS = "class:3,5, random:0.1, index:FILE, group:COLUMN=VALUE or " + EACH_CLASS
SEPARATOR = ";"  # Between several requests.
_KINDS = ("class", "random", "index", "group")
# The rows of a random request are the same for every seed: a request is what
# somebody asks for, and seeds are repetitions of answering it.
_RANDOM_REQUEST_KEY = 7
_DECIMAL = re.compile(r"[0-9]*\.[0-9]+(e[+-]?[0-9]+)?|[0-9]+e-[0-9]+", re.I)
_MAX_SUGGESTED = 20_000  # Names that are searched for the nearest.


class Ask(NamedTuple):
  """One request as it was written.

  Attributes:
    text: such as "class:3,5".
    kind: what is before the colon.
    value: what is after it.
  """

  text: str
  kind: str
  value: str


def read(
  text: str,
  kinds: Collection[str],
  forms: str,
  *,
  flag: str = "--request",
  bare: Collection[str] = (),
) -> tuple[Ask, ...]:
  """Takes the text of a flag apart.

  Args:
    text: `KIND:VALUE`, or several with semicolons between.
    kinds: those that there are.
    forms: what an error says of them.
    flag: for errors.
    bare: kinds that may stand without a value.

  Raises:
    ValueError: none at all, an unknown kind, one without a value, one twice.
  """
  parts = [part.strip() for part in text.split(SEPARATOR) if part.strip()]
  asks: list[Ask] = []
  for part in parts or [text]:
    kind, colon, value = part.partition(":")
    is_bare = kind in bare and not colon
    if kind not in kinds or not (value.strip() or is_bare):
      raise ValueError(f"Expected {flag} {forms}, got {files.short(part)!r}.")
    asks.append(Ask(part, kind, value.strip()))
  again = next(
    (part for i, part in enumerate(parts) if part in parts[:i]), None
  )
  if again is not None:
    raise ValueError(f"Expected {flag} to differ, got {again!r} twice.")
  return tuple(asks)


@contextlib.contextmanager
def about(ask: Ask, flag: str = "--request") -> Iterator[None]:
  """Says of a ValueError which request it is about."""
  try:
    yield
  except ValueError as error:
    text = files.short(ask.text, 120)
    raise ValueError(f"{flag} {text}: {error}") from error


def share(value: str) -> float:
  """A share of the whole, between 0 and 1.

  Raises:
    ValueError: another text, or a number outside.
  """
  try:
    found = float(value)
  except ValueError:
    found = float("nan")
  if not 0 < found < 1:
    raise ValueError(
      f"Expected a share in (0, 1), got {files.short(value, 40)!r}."
    )
  return found


def share_or_names(value: str) -> float | tuple[str, ...]:
  """A share, "0.1", or names of things, "4711,4712" or "id=0.1".

  Raises:
    ValueError: neither, such as a share outside (0, 1) or an empty name.
  """
  if _DECIMAL.fullmatch(value):
    return share(value)
  names = tuple(map(str.strip, value.rpartition("=")[2].split(",")))
  if value.rpartition("=")[0] not in ("", "id") or not all(names):
    raise ValueError(
      "Expected a share in (0, 1), or names with commas between, got "
      f"{files.short(value, 40)!r}."
    )
  return names


def rows_named(
  column: np.ndarray, names: Sequence[str], noun: str
) -> np.ndarray:
  """The rows whose entry in a column is one of those that are named.

  Entries are compared as they are: integers of 64 bits with all their digits,
  strings as strings, so that "007" is not 7, and times as times.

  Args:
    column: [N], of bools, numbers, strings or times.
    names: texts.
    noun: what an error calls an entry, such as "a user".

  Returns:
    bool [N].

  Raises:
    ValueError: a name that no row has, with the nearest that there are.
  """
  mask = np.zeros(len(column), bool)
  for name in names:
    found = column == _as_entry(name, column, noun)
    if not np.any(found):
      near = _nearest(name, column)
      raise ValueError(
        f"Expected {noun} of these data, got {files.short(name, 40)}; the "
        f"nearest are {', '.join(near)}."
      )
    mask |= found
  return mask


def _as_entry(text: str, column: np.ndarray, noun: str) -> Any:
  """The text as a value of the column's kind."""
  kind = column.dtype.kind
  if kind == "b":
    if text.lower() not in ("true", "false", "1", "0"):
      raise ValueError(f"Expected true or false, got {text!r}.")
    return text.lower() in ("true", "1")
  if kind == "S":
    return text.encode()
  if kind not in "iufmM":
    return text
  try:
    if kind in "iu":
      # Python's integer: one that the column cannot hold equals none of it.
      return files.whole(text, "a number")
    # Rounded as the column is.
    return column.dtype.type(text)
  except ValueError as error:
    wanted = {"M": "a time", "m": "a duration"}.get(kind, "a number")
    raise ValueError(
      f"Expected {noun}, {wanted}, got {files.short(text, 40)!r}."
    ) from error


def _nearest(text: str, column: np.ndarray) -> list[str]:
  known = np.unique(column)
  if column.dtype.kind in "SU":
    words = [
      word.decode(errors="replace") if isinstance(word, bytes) else str(word)
      for word in known[:_MAX_SUGGESTED]
    ]
    near = difflib.get_close_matches(text, words, 3, 0.0)
    return list(map(repr, near))
  if column.dtype.kind in "iu":
    number = int(_as_entry(text, column, ""))
    limits = np.iinfo(column.dtype)
    number = min(max(number, limits.min), limits.max)
    place = int(np.searchsorted(known, column.dtype.type(number)))
  else:
    place = int(np.searchsorted(known, _as_entry(text, column, "")))
  first = max(0, min(place - 1, len(known) - 3))
  return [str(entry) for entry in known[first : first + 3]]


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
  if text.strip(f"{SEPARATOR} ") == EACH_CLASS:
    known = np.unique(dataset.train["label"])
    text = SEPARATOR.join(f"class:{c}" for c in known[: len(known) - sequence])
  asks = read(text, _KINDS, FORMS)
  names = tuple(ask.text for ask in asks)
  masks = np.stack([_mask(ask, dataset) for ask in asks])
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


def _mask(ask: Ask, dataset: Dataset) -> np.ndarray:
  build = {
    "class": _classes,
    "random": _random,
    "index": _index,
    "group": _group,
  }[ask.kind]
  try:
    mask = build(ask.value, dataset)
    checks.request_values(mask, name="--request")
  except ValueError as error:
    text = files.short(ask.text, 120)
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


def _classes(value: str, dataset: Dataset) -> np.ndarray:
  known = np.unique(dataset.train["label"])
  wanted = []
  for text in value.split(","):
    number = files.whole(text, "classes as integers with commas between")
    if number not in known:
      raise ValueError(
        f"Expected a class that has rows ({known[0]} .. {known[-1]}), got "
        f"{files.short(str(number), 40)}."
      )
    wanted.append(number)
  return np.isin(dataset.train["label"], wanted)


def _random(value: str, dataset: Dataset) -> jax.Array:
  key = jax.random.key(_RANDOM_REQUEST_KEY)
  count = len(dataset.train["label"])
  return requests.random_fraction(key, count, share(value))


def _index(path: str, dataset: Dataset) -> np.ndarray:
  """Row numbers from a text file or an .npy, or a mask from an .npy."""
  if dataset.is_split_here:
    raise ValueError(
      "Expected x_test and y_test in the data for a request by row number, got "
      "neither, so that rows were set aside at random and numbers shift."
    )
  return files.read_rows(path, len(dataset.train["label"]))


def _group(value: str, dataset: Dataset) -> np.ndarray:
  name, equals, wanted = value.partition("=")
  if not equals or name not in dataset.columns:
    known = ", ".join(sorted(dataset.columns))
    raise ValueError(
      f"Expected COLUMN=VALUE with a column among {known}, got {value!r}."
    )
  return rows_named(dataset.columns[name], (wanted,), "a group")


def _whole_classes(label, mask) -> tuple[int, ...] | None:
  touched = np.unique(label[mask])
  if mask.sum() == np.isin(label, touched).sum():
    return tuple(touched.tolist())
  return None
