"""Classes in groups: the model tells superclasses, a request may name a subclass.

The setting of CIFAR-Super20 in arXiv:2205.08096: a model that tells "vehicles"
forgets its rockets, whose superclass stays (`subclass:rocket`), or all vehicles
(`superclass:vehicles`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import files
from ..data import Dataset, Rows
from ..requests import parts_of
from . import classes

# The key of a row's own class, beside its superclass under "label".
SUBCLASS = "subclass"


def grouped(dataset: Dataset, text: str) -> Dataset:
  """The data with superclasses for labels.

  Args:
    dataset: see `Dataset`.
    text: "odd=1,3,5,7,9;even=0,2,4,6,8"; or a .csv with the columns class and
      superclass; or a column of the data with the superclass of every row.

  Returns:
    Rows with "label", the superclass, and "subclass", the class that it was.

  Raises:
    ValueError: one line: a table that does not name every class once, fewer than
      two superclasses, a class in two.
  """
  if text in dataset.columns:
    table = _of_column(dataset, text)
  elif text.endswith(".csv"):
    found = files.read_csv(text, ("class", "superclass"))
    table = _of_pairs(zip(found["class"], found["superclass"]))
  else:
    table = _of_text(text)
  words = classes.class_words(dataset)
  unknown = [word for word in table if word not in words]
  if unknown:
    raise ValueError(
      "Expected --superclasses of classes that there are, "
      f"{files.short(', '.join(words), 80)}, got {files.short(unknown[0])!r}."
    )
  names = tuple(dict.fromkeys(table.values()))
  place = np.full(dataset.num_classes, -1, np.int32)
  for word, name in table.items():
    if place[words[word]] not in (-1, names.index(name)):
      raise ValueError(
        f"Expected --superclasses with every class in one, got {word} in two."
      )
    place[words[word]] = names.index(name)
  if (place < 0).any():
    missing = dataset.class_names[int((place < 0).argmax())]
    raise ValueError(
      f"Expected --superclasses to name every class, got none for {missing}."
    )
  if len(names) < 2:
    raise ValueError(
      f"Expected --superclasses to name two at least, got {names[0]!r} alone."
    )

  def told(rows: Rows) -> Rows:
    return {**rows, "label": place[rows["label"]], SUBCLASS: rows["label"]}

  pool = dataset.pool
  return dataset._replace(
    train=told(dataset.train),
    test=told(dataset.test),
    num_classes=len(names),
    class_names=names,
    subclasses=words,
    pool=pool and pool._replace(rows=told(pool.rows)),
    unseen=dataset.unseen and told(dataset.unseen),
  )


def _of_text(text: str) -> Mapping[str, str]:
  """ "odd=1,3;even=0,2" """
  pairs = []
  for part in parts_of(text):
    name, equals, members = part.partition("=")
    if not (equals and name.strip() and members.strip()):
      raise ValueError(
        "Expected --superclasses NAME=CLASS,...;NAME=CLASS,..., a .csv with the "
        "columns class and superclass, or a column of the data, got "
        f"{files.short(part)!r}."
      )
    pairs += [(word.strip(), name.strip()) for word in members.split(",")]
  return _of_pairs(pairs)


def _of_pairs(pairs) -> Mapping[str, str]:
  table: dict[str, str] = {}
  for word, name in pairs:
    if table.setdefault(word, name) != name:
      raise ValueError(
        f"Expected --superclasses with every class in one, got {word!r} in "
        f"{table[word]!r} and {name!r}."
      )
  return table


def _of_column(dataset: Dataset, name: str) -> Mapping[str, str]:
  """The superclass that all training rows of a class have."""
  label, column = dataset.train["label"], dataset.columns[name]
  pairs = [
    (classes.class_word(dataset, c), str(group))
    for c in np.unique(label)
    for group in np.unique(column[label == c])
  ]
  return dict(sorted(_of_pairs(pairs).items(), key=lambda pair: pair[1]))
