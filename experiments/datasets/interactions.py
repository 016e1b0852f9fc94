"""Interactions to recommend from: MovieLens-100k, generated, or the user's own.

MovieLens-100k is read as implicit feedback, with genres and titles as modalities.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxunlearn import recsys

from ..data import data_folder
from . import own_interactions
from .splits import REPORT, SELECT

GENRES = (
  "unknown",
  "Action",
  "Adventure",
  "Animation",
  "Children's",
  "Comedy",
  "Crime",
  "Documentary",
  "Drama",
  "Fantasy",
  "Film-Noir",
  "Horror",
  "Musical",
  "Mystery",
  "Romance",
  "Sci-Fi",
  "Thriller",
  "War",
  "Western",
)
_FOLDER = "ml-100k"
_RATING_FIELDS = 4
_ITEM_FIELDS = 5 + len(GENRES)
# Users, items and interactions a user of the generated data.
GENERATED: Mapping[str, tuple[int, int, int]] = {
  "smoke": (60, 100, 20),
  "quick": (300, 200, 30),
  "paper": (2000, 1000, 50),
}
_NUM_SOURCES = 4
_HELD_OUT = 0.1


class Source(NamedTuple):
  """Interactions, and what a study has to know of them.

  Attributes:
    pairs: int32 [P, 2], user and item; of a user's file in the order of its rows.
    num_users: U.
    num_items: I.
    features: by modality float32 [I, F]; may be empty.
    groups: by name bool [I], the items of a genre, a licence or another source.
    words: what the data are, for people.
    user_ids: [U], the users as their platform calls them: numbers, strings or
      times.
    item_ids: [I], the items, likewise.
    is_file: whether they are a user's, whose rows have numbers.
    trained: how many interactions stand first that train, where the others are
      the file's own to test on; None where it has none.
  """

  pairs: np.ndarray
  num_users: int
  num_items: int
  features: Mapping[str, np.ndarray]
  groups: Mapping[str, np.ndarray]
  words: str
  user_ids: np.ndarray
  item_ids: np.ndarray
  is_file: bool = False
  trained: int | None = None


class Split(NamedTuple):
  """One seed's division of the interactions.

  Attributes:
    source: what is divided.
    seed: of this division, and of what requests draw.
    row_id: int32 [N], places in `source.pairs` that are trained on.
    held_id: int32 [M], that are tested on.
  """

  source: Source
  seed: int
  row_id: np.ndarray
  held_id: np.ndarray

  @property
  def train(self) -> dict[str, np.ndarray]:
    """{"x": int32 [N, 2]}."""
    return {"x": self.source.pairs[self.row_id]}

  @property
  def test(self) -> dict[str, np.ndarray]:
    """{"x": int32 [M, 2]}."""
    return {"x": self.held}

  @property
  def held(self) -> np.ndarray:
    """int32 [M, 2]."""
    return self.source.pairs[self.held_id]


def split(
  source: Source,
  seed: int,
  part: str = REPORT,
  pinned: np.ndarray | None = None,
) -> Split:
  """Holds out a share of each user's interactions, twice.

  Of a user with n interactions a tenth, at least one and at most (n - 1) / 2, is
  set aside for choosing settings, the same for every seed, and as many are drawn
  for the test; a user with fewer than 3 is trained on alone. Sizes are the same
  for all seeds. Of data with interactions to test on all others are trained on,
  and a fifth of those is set aside.

  Args:
    source: the interactions.
    seed: of the test rows.
    part: `REPORT`, or `SELECT` for the rows set aside in the place of test rows.
    pinned: bool [P], rows that have to be trained on, as requests name them.

  Raises:
    ValueError: nothing is left to test on.
  """
  if source.trained is not None:
    own = np.arange(source.trained, len(source.pairs), dtype=np.int32)
    own = np.random.default_rng(0).permutation(own)
    select, test = np.split(own, [max(1, len(own) // 5)])
    rows = np.arange(source.trained, dtype=np.int32)
    return Split(source, seed, rows, select if part == SELECT else test)
  user = source.pairs[:, 0]
  count = np.bincount(user, minlength=source.num_users)
  size = np.maximum(np.floor(_HELD_OUT * count + 0.5).astype(int), 1)
  size = np.where(count < 3, 0, np.minimum(size, (count - 1) // 2))
  free = np.ones(len(user), bool) if pinned is None else ~pinned

  def some(free: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    order = np.lexsort((rng.random(len(user)), ~free, user))
    place = np.arange(len(user)) - (np.cumsum(count) - count)[user[order]]
    mask = np.zeros(len(user), bool)
    mask[order] = place < size[user[order]]
    return mask & free

  select = some(free, np.random.default_rng(0))
  test = some(free & ~select, np.random.default_rng((seed, 1)))
  held = select if part == SELECT else test
  if not held.any():
    raise ValueError(
      "Expected --requests to leave interactions of users with 3 or more to "
      "test on, got none."
    )
  rows = (np.flatnonzero(mask) for mask in (~select & ~test, held))
  return Split(source, seed, *(part.astype(np.int32) for part in rows))


def load(
  source: str | None, *, preset: str, data_dir: str | None = None
) -> Source:
  """Loads interactions.

  Args:
    source: "movielens", "generated", "npz:PATH" or "csv:PATH" (see
      `own_interactions`; a CSV has columns users and items), or None: MovieLens where
      there is a folder with it, else generated data; with the preset smoke it
      takes a folder that is named by `data_dir`.
    preset: "smoke", "quick" or "paper", the size of generated data.
    data_dir: the folder that holds ml-100k; the environment variable
      JAXUNLEARN_DATA by default.

  Raises:
    ValueError: an unknown source, or data that cannot be used, in one line.
  """
  folder = data_folder(data_dir)
  kind, _, path = (source or "").partition(":")
  if kind in ("npz", "csv") and path:
    return Source(**own_interactions.read(kind, path))
  if source == "generated":
    return generated(preset)
  if source not in (None, "movielens"):
    raise ValueError(
      f"Expected --data movielens, generated, npz:PATH or csv:PATH, got {source!r}."
    )
  if source is None and not (data_dir or (folder and preset != "smoke")):
    made = generated(preset)
    hint = "--data-dir with MovieLens-100k gives real ones"
    return made._replace(words=f"{made.words}; {hint}")
  if not folder:
    raise ValueError(
      "Expected --data-dir (or JAXUNLEARN_DATA) with the folder ml-100k, got "
      "neither."
    )
  return movielens(folder)


def generated(preset: str) -> Source:
  """Interactions from known factors; items come from four sources of taste."""
  num_users, num_items, per_user = GENERATED[preset]
  data, _, of_items = recsys.synthetic(
    jax.random.key(0),
    num_users=num_users,
    num_items=num_items,
    dim=8,
    per_user=per_user,
  )
  rank = np.argsort(np.argsort(np.asarray(of_items)[:, 0]))
  number = rank * _NUM_SOURCES // num_items
  return Source(
    np.concatenate([np.asarray(part["x"]) for part in data[:3]]),
    num_users,
    num_items,
    {name: np.asarray(v) for name, v in data.features.items()},
    {f"source-{i + 1}": number == i for i in range(_NUM_SOURCES)},
    "generated data with known factors",
    np.arange(num_users),
    np.arange(num_items),
  )


def movielens(
  data_dir: str | Path,
  *,
  min_rating: int = 4,
  core: int = 5,
  max_words: int = 256,
) -> Source:
  """Ratings that count as positive, reduced to a core.

  Users and items are numbered anew, in the order of their numbers in the files.
  Genres have rows of length 1, as have titles, which are term frequencies times
  inverse document frequencies of their words.

  Args:
    data_dir: the folder that holds ml-100k, or ml-100k itself.
    min_rating: ratings of at least this are positive, 1 to 5.
    core: every user and item has at least that many positives.
    max_words: the most frequent words of titles.

  Raises:
    ValueError: a file that is missing or malformed, in one line; no positives
      left.
  """
  folder = Path(data_dir)
  if folder.name != _FOLDER:
    folder = folder / _FOLDER
  ratings = _ratings(folder / "u.data")
  titles, genres = _items(folder / "u.item")
  unknown = set(ratings[:, 1].tolist()) - set(titles)
  if unknown:
    raise ValueError(
      f"Expected every rated item in {folder / 'u.item'}, got item "
      f"{min(unknown)} without a line."
    )
  pairs = _core(ratings[ratings[:, 2] >= min_rating, :2], core)
  if len(pairs) == 0:
    raise ValueError(
      f"Expected ratings of at least {min_rating} in a {core}-core, got none."
    )
  user_ids, users = np.unique(pairs[:, 0], return_inverse=True)
  kept, items = np.unique(pairs[:, 1], return_inverse=True)
  sizes = len(user_ids), len(kept)
  data = recsys.interactions(users, items, *sizes)
  of_genre = np.array([genres[i] for i in kept], np.float32)
  return Source(
    np.asarray(data["x"]),
    *sizes,
    {
      "genres": _unit(of_genre),
      "titles": _title_words([titles[i] for i in kept], max_words),
    },
    {name: of_genre[:, i] > 0 for i, name in enumerate(GENRES)},
    f"MovieLens-100k, ratings of {min_rating} or more",
    user_ids,
    kept,
  )


def _lines(path: Path) -> list[str]:
  try:
    return path.read_text(encoding="latin-1").splitlines()
  except OSError as error:
    raise ValueError(
      f"Expected MovieLens-100k at {path.parent}, got no readable {path.name}; "
      "--data-dir names the folder that holds ml-100k."
    ) from error


def _ratings(path: Path) -> np.ndarray:
  """User, item and rating of each line, int [N, 3]."""
  rows = []
  for number, line in enumerate(_lines(path), 1):
    fields = line.split("\t")
    try:
      if len(fields) != _RATING_FIELDS:
        raise ValueError
      user, item, rating = map(int, fields[:3])
      if not (0 < user < 2**63 and 0 < item < 2**63 and 1 <= rating <= 5):
        raise ValueError
    except ValueError:
      raise ValueError(
        f"Expected user, item, rating 1 to 5 and time, separated by tabs, in "
        f"line {number} of {path}, got {line[:60]!r}."
      ) from None
    rows.append((user, item, rating))
  if not rows:
    raise ValueError(f"Expected ratings in {path}, got an empty file.")
  return np.array(rows, np.int64)


def _items(path: Path) -> tuple[dict[int, str], dict[int, list[int]]]:
  """Titles and genres by number."""
  titles, genres = {}, {}
  lines = _lines(path)
  reader = csv.reader(lines, delimiter="|", quoting=csv.QUOTE_NONE)
  for number, fields in enumerate(reader, 1):
    flags = fields[5:]
    if (
      len(fields) != _ITEM_FIELDS
      or not fields[0].isdecimal()
      or set(flags) - {"0", "1"}
    ):
      raise ValueError(
        f"Expected a number, a title, three more fields and {len(GENRES)} flags "
        f"of genres, separated by |, in line {number} of {path}."
      )
    titles[int(fields[0])] = fields[1]
    genres[int(fields[0])] = [int(flag) for flag in flags]
  return titles, genres


def _core(pairs: np.ndarray, least: int) -> np.ndarray:
  """Drops users and items of fewer than `least` rows until none is left."""
  while len(pairs):
    enough = np.ones(len(pairs), bool)
    for side in range(2):
      _, index, count = np.unique(
        pairs[:, side], return_inverse=True, return_counts=True
      )
      enough &= count[index] >= least
    if enough.all():
      break
    pairs = pairs[enough]
  return pairs


def _title_words(titles: list[str], max_words: int) -> np.ndarray:
  """TF-IDF of the titles' words, without the year; float32 [I, W]."""
  from sklearn.feature_extraction.text import TfidfVectorizer

  names = [title.rsplit(" (", 1)[0] for title in titles]
  vectorizer = TfidfVectorizer(max_features=max_words, stop_words="english")
  try:
    return vectorizer.fit_transform(names).toarray().astype(np.float32)
  except ValueError as error:
    raise ValueError(
      "Expected words in the titles, got none beside stop words."
    ) from error


def _unit(rows: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(rows, axis=1, keepdims=True)
  return rows / np.where(norm > 0, norm, 1)
