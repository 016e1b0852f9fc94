"""Rows with classes: divided once per seed, and what can be asked of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn import requests

from .. import files
from ..data import Dataset, Rows
from ..requests import (
  Ask,
  about,
  column_and_value,
  parts_of,
  rows_named,
  share,
)
from .splits import SELECT

EACH_CLASS = "each-class"
# Of all rows, or of the test rows where somebody else set those aside: as many
# are for methods that choose among their own results, and for the tuner.
ASIDE, ASIDE_OF_TEST = 0.05, 0.15
# The rows of a random request are drawn alike for every seed: a request is what
# somebody asks for, and seeds are repetitions of answering it.
_RANDOM_REQUEST_KEY = 7


class Split(NamedTuple):
  """The rows of one seed.

  Attributes:
    train: {"x": [N, ...], "label": int32 [N]}.
    test: rows that are never trained on.
    aside: further ones, which a method may look at to choose among its results.
    columns: by name an entry per training row; what a group request looks at.
    row_id: int [N], the training rows' numbers in the file.
    num_rows: how many the file has.
    names: what requests call classes, and the number of each among the labels.
    subclasses: the same of "subclass", where labels are superclasses.
    probe: `(share, easiest, unit) -> bool [N]`, the worst or the easiest rows to
      forget, or whole units of int [N]; None where no model is at hand.
    public: bool [N], rows that are never deleted, see `public_rows`; or None.
  """

  train: Rows
  test: Rows
  aside: Rows
  columns: Mapping[str, np.ndarray]
  row_id: np.ndarray
  num_rows: int
  names: Mapping[str, int]
  subclasses: Mapping[str, int]
  probe: Any = None
  public: np.ndarray | None = None


def class_words(dataset: Dataset) -> dict[str, int]:
  """What requests call classes: of a user's table its labels and no places.

  Elsewhere the number of a class is as good as its name, 3 as "cat".
  """
  words = {name: i for i, name in enumerate(dataset.class_names)}
  if not dataset.is_split_here:
    words |= {str(i): i for i in range(dataset.num_classes)}
  return words


def class_word(dataset: Dataset, number: int) -> str:
  """The class as a request says it."""
  return dataset.class_names[number] if dataset.is_split_here else str(number)


def split(
  dataset: Dataset,
  seed: int,
  part: str,
  pinned: np.ndarray | None = None,
  public: np.ndarray | None = None,
) -> Split:
  """Divides a data set, each class in proportion, once per seed.

  Some rows are set aside for choosing settings, and some for methods that
  choose among their own results. They are the same for every seed, so that no
  report is ever about a row that something was chosen on. Of a data set with
  test rows of its own, those alone are divided, and alike for every seed.

  Args:
    dataset: see `Dataset`.
    seed: of the draw among the other rows.
    part: `REPORT`, or `SELECT` for rows set aside in the place of test rows.
    pinned: bool [rows], those that have to be trained on.
    public: bool [rows], further ones, which alone standardise all others, so
      that no row's numbers depend on a row that may be deleted.
  """
  pool = dataset.pool
  if pool is None:
    count = len(dataset.train["label"])
    label = dataset.test["label"]
    aside, select, test = _deal(
      label, np.ones(len(label), bool), (ASIDE_OF_TEST, ASIDE_OF_TEST), None
    )
    take = lambda rows: jax.tree.map(lambda leaf: leaf[rows], dataset.test)
    return Split(
      dataset.train,
      take(select if part == SELECT else test),
      take(aside) if dataset.unseen is None else dataset.unseen,
      dataset.columns,
      np.arange(count),
      count,
      class_words(dataset),
      dataset.subclasses,
      public=public,
    )
  label = pool.rows["label"]
  free = np.ones(len(label), bool)
  for stays in (pinned, public):
    free &= True if stays is None else ~stays
  shares = (ASIDE, ASIDE, pool.test_share - ASIDE)
  aside, select, test, train = _deal(label, free, shares, seed)
  train = np.sort(np.append(train, np.flatnonzero(~free)))
  columns = {"label": label, **pool.columns}
  by = train if public is None else np.flatnonzero(public)
  return Split(
    pool.take(train, by),
    pool.take(select if part == SELECT else test, by),
    pool.take(aside, by),
    {name: column[train] for name, column in columns.items()},
    train,
    len(label),
    class_words(dataset),
    dataset.subclasses,
    public=None if public is None else public[train],
  )


def public_rows(dataset: Dataset, share: float) -> np.ndarray:
  """Rows that are trained on and never deleted, whoever asks for what.

  Args:
    dataset: see `Dataset`.
    share: of the rows that train; above 0 it is one row at least.

  Returns:
    bool [rows] of all rows, of which `split` trains on these, or of the training
    rows where test rows are set aside already. The same for every seed.
  """
  pool = dataset.pool
  count = len((dataset.train if pool is None else pool.rows)["label"])
  wanted = share * count * (1 if pool is None else 1 - pool.test_share)
  order = np.random.default_rng(17).permutation(count)
  return order < (max(1, round(wanted)) if share else 0)


def undivided(dataset: Dataset) -> Split:
  """The rows as they were loaded."""
  count = len(dataset.train["label"])
  return Split(
    dataset.train,
    dataset.test,
    dataset.test,
    dataset.columns,
    np.arange(count),
    count,
    class_words(dataset),
    dataset.subclasses,
  )


def _deal(
  label: np.ndarray,
  free: np.ndarray,
  shares: tuple[float, ...],
  seed: int | None,
) -> list[np.ndarray]:
  """Row numbers in order: a list per share, of each class, and the rest.

  The first two lists do not depend on the seed. A class gives rows to a list
  only while it keeps one for the rest.
  """
  fixed = np.random.default_rng(0)
  moving = None if seed is None else np.random.default_rng((seed, 1))
  dealt: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
  for c in np.unique(label):
    rows = fixed.permutation(np.flatnonzero((label == c) & free))
    size = int((label == c).sum())
    for i, part in enumerate(shares):
      if i == 2 and moving is not None:
        rows = moving.permutation(rows)
      # Test rows first of all: a small class has some, whatever else it lacks.
      least = 1 if i == 2 else 0
      wanted = max(least, round(part * size))
      taken = max(0, min(wanted, len(rows) - 1 - (i < 2 and len(shares) > 2)))
      dealt[i].append(rows[:taken])
      rows = rows[taken:]
    dealt[-1].append(rows)
  return [np.sort(np.concatenate(parts)) for parts in dealt]


def spell(text: str, dataset: Dataset, in_sequence: bool) -> str:
  """`each-class` as a request per class; in a sequence the last one is left."""
  parts = parts_of(text)
  if EACH_CLASS not in parts:
    return text
  known = np.unique(dataset.train["label"])
  words = [class_word(dataset, c) for c in known[: len(known) - in_sequence]]
  every = ";".join("class:" + word.replace(";", r"\;") for word in words)
  return ";".join(every if part == EACH_CLASS else part for part in parts)


def pinned(asks: Iterable[Ask], dataset: Dataset) -> np.ndarray | None:
  """The rows that requests name one by one, bool [rows]; None for none.

  Raises:
    ValueError: a file that names no rows of these data; more than half of all.
  """
  if dataset.pool is None:
    return None
  count = len(dataset.pool.rows["label"])
  named = np.zeros(count, bool)
  for ask in asks:
    if ask.kind == "index":
      with about(ask):
        named |= files.read_rows(ask.value, count)
  if 2 * named.sum() > count:
    raise ValueError(
      f"Expected --request to name at most half of {count} rows, got "
      f"{named.sum()}."
    )
  return named


def mask(kind: str, value: str, rows: Split) -> tuple[np.ndarray, np.ndarray]:
  """The rows that a request is about.

  Returns:
    bool [N], and bool [N_test], test rows of the classes (or subclasses, if it
    names those) that the request covers entirely; nowhere True where it is no
    union of them.

  Raises:
    ValueError: a class, row or group that does not exist.
  """
  asked = np.asarray(_MASKS[kind](value, rows))
  by = "subclass" if kind == "subclass" else "label"
  label = rows.train[by]
  touched = np.unique(label[asked])
  is_whole = asked.sum() == np.isin(label, touched).sum()
  return asked, np.isin(rows.test[by], touched) & is_whole


def _classes(value: str, rows: Split) -> np.ndarray:
  return _of_words(value, rows.train["label"], rows.names)


def _grouped(value: str, rows: Split, *, sub: bool) -> np.ndarray:
  """Rows of a superclass, or of the subclasses within, where there are such."""
  if not rows.subclasses:
    raise ValueError("Expected --superclasses, which says of what, got none.")
  if sub:
    return _of_words(value, rows.train["subclass"], rows.subclasses)
  return _classes(value, rows)


def _of_words(
  value: str, label: np.ndarray, names: Mapping[str, int]
) -> np.ndarray:
  """Rows with one of the labels that are named, with commas between."""
  wanted, known = [], np.unique(label)
  of_numbers = all(name.isdecimal() for name in names)
  # A name may have commas of its own.
  for text in [value] if value in names else value.split(","):
    word = text.strip()
    if of_numbers and word not in names:
      word = str(files.whole(text, "classes as integers with commas between"))
    number = names.get(word)
    if number not in known:
      there = [name for name, i in names.items() if i in known]
      said = f"{there[0]} .. {there[-1]}" if of_numbers else ", ".join(there)
      raise ValueError(
        f"Expected a class that has rows ({files.short(said, 80)}), got "
        f"{files.short(word, 40)}."
      )
    wanted.append(number)
  return np.isin(label, wanted)


def _random(value: str, rows: Split) -> jax.Array:
  key = jax.random.key(_RANDOM_REQUEST_KEY)
  return requests.random_fraction(key, len(rows.row_id), share(value))


def _index(path: str, rows: Split) -> np.ndarray:
  """By the numbers that rows have in their file."""
  return files.read_rows(path, rows.num_rows)[rows.row_id]


def _group(value: str, rows: Split) -> np.ndarray:
  name, wanted = column_and_value(value, rows.columns)
  return rows_named(rows.columns[name], (wanted,), "a group")


def _extreme(value: str, rows: Split, *, easiest: bool) -> np.ndarray:
  """The worst or easiest share of the rows, or of the groups of a column."""
  name, equals, text = value.rpartition("=")
  unit = None
  if equals:
    if name not in rows.columns:
      known = ", ".join(sorted(rows.columns))
      raise ValueError(
        f"Expected SHARE or COLUMN=SHARE with a column among {known}, got "
        f"{value!r}."
      )
    unit = np.unique(rows.columns[name], return_inverse=True)[1]
  part = share(text)
  if rows.probe is None:
    raise ValueError("Expected a study that has a model to look at, got none.")
  return rows.probe(part, easiest, unit)


_MASKS: Mapping[str, Any] = {
  "class": _classes,
  "superclass": functools.partial(_grouped, sub=False),
  "subclass": functools.partial(_grouped, sub=True),
  "random": _random,
  "index": _index,
  "group": _group,
  "worst": functools.partial(_extreme, easiest=False),
  "easiest": functools.partial(_extreme, easiest=True),
}
FORMS = {
  "class": "class:3,5",
  "superclass": "superclass:NAME",
  "subclass": "subclass:3,5",
  "random": "random:0.1",
  "index": "index:FILE",
  "group": "group:COLUMN=VALUE",
  "worst": "worst:0.1",
  "easiest": "easiest:0.1",
}
