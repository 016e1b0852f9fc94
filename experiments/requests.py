"""What must be forgotten: from the text of a flag to masks over the rows.

All programs read one grammar, `KIND:VALUE`, several with semicolons between;
each has kinds of its own.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import files

SEPARATOR = ";"  # Between several requests.
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
    text: `KIND:VALUE`, or several with semicolons between; see `parts_of`.
    kinds: those that there are.
    forms: what an error says of them.
    flag: for errors.
    bare: kinds that may stand without a value.

  Raises:
    ValueError: none at all, an unknown kind, one without a value, one twice.
  """
  parts = [part for part in parts_of(text) if part]
  asks: list[Ask] = []
  for part in parts or [text]:
    kind, colon, value = part.partition(":")
    is_bare = kind in bare and not colon
    if kind not in kinds or not (value.strip() or is_bare):
      raise ValueError(f"Expected {flag} {forms}, got {files.short(part)!r}.")
    value = value.strip().replace("\\" + SEPARATOR, SEPARATOR)
    asks.append(Ask(part, kind, value))
  again = next(
    (part for i, part in enumerate(parts) if part in parts[:i]), None
  )
  if again is not None:
    raise ValueError(f"Expected {flag} to differ, got {again!r} twice.")
  return tuple(asks)


def parts_of(text: str) -> list[str]:
  r"""Several requests apart; `\;` is a semicolon of a name."""
  return [part.strip() for part in re.split(rf"(?<!\\){SEPARATOR}", text)]


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


def rows_of_share(value: str, count: int, noun: str = "rows") -> int:
  """How many of all a share asks for.

  Raises:
    ValueError: none, or no share.
  """
  found = round(share(value) * count)
  if found == 0:
    raise ValueError(
      f"Expected a share of {count} {noun}, got {value}, of none."
    )
  return found


def rows_numbered(column: np.ndarray, text: str, noun: str) -> np.ndarray:
  """The rows whose whole number, 0 or more, is the one that is named.

  Args:
    column: int [N].
    text: of the number.
    noun: what an error calls it, such as "a class".

  Returns:
    bool [N].

  Raises:
    ValueError: another text, or a number that no row has.
  """
  number = int(text) if re.fullmatch("[0-9]{1,18}", text) else -1
  if number not in column:
    raise ValueError(
      f"Expected {noun} {column.min()} .. {column.max()}, got "
      f"{files.short(text, 40)!r}."
    )
  return column == number


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


def names_of(value: str) -> tuple[str, ...]:
  """Names with commas between.

  Raises:
    ValueError: an empty one, which rows without a name would have.
  """
  names = tuple(map(str.strip, value.split(",")))
  if not all(names):
    raise ValueError(
      "Expected NAME,... with names between the commas, got "
      f"{files.short(value, 40)!r}."
    )
  return names


def column_and_value(
  text: str, columns: Mapping[str, np.ndarray]
) -> tuple[str, str]:
  """The two sides of COLUMN=VALUE; either may have the sign too.

  Raises:
    ValueError: no such column.
  """
  fits = [name for name in columns if text.startswith(f"{name}=")]
  if not fits:
    raise ValueError(
      "Expected COLUMN=VALUE with a column among "
      f"{', '.join(sorted(columns))}, got {files.short(text)!r}."
    )
  name = max(fits, key=len)
  return name, text[len(name) + 1 :]


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


def parse(text: str, dataset: Any) -> Any:
  """The requests of a text to the rows of a data set, undivided.

  Args:
    text: as `datasets.classes` has kinds of it.
    dataset: see `data.Dataset`; its training rows are what can be forgotten.

  Returns:
    See `bench.Requests`; of one seed, and with `masks`, bool [R, N].

  Raises:
    ValueError: in one line, what is wrong with the text.
  """
  from .beds import classifiers
  from .bench import shell
  from .datasets import classes

  asks = read(
    classes.spell(text, dataset, False),
    classes.FORMS,
    ", ".join(classes.FORMS.values()),
  )
  whole = classes.undivided(dataset)
  beds = shell.Beds(None, None, lambda *args: None, [whole], {})
  return shell.masks(asks, classifiers.kinds(), beds)
