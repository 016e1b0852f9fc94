"""MovieLens-100k as implicit feedback, with genres and titles as modalities."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from jaxunlearn import recsys

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


def movielens(
  data_dir: str | Path,
  *,
  seed: int,
  min_rating: int = 4,
  core: int = 5,
  max_words: int = 256,
) -> recsys.Dataset:
  """Ratings that count as positive, reduced to a core, split by user 80/10/10.

  Users and items are numbered anew, in the order of their numbers in the files.
  Genres have rows of length 1, as have titles, which are term frequencies times
  inverse document frequencies of their words.

  Args:
    data_dir: the folder that holds ml-100k, or ml-100k itself.
    seed: of the split.
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
  _, users = np.unique(pairs[:, 0], return_inverse=True)
  kept, items = np.unique(pairs[:, 1], return_inverse=True)
  num_users, num_items = int(users.max()) + 1, len(kept)
  data = recsys.interactions(users, items, num_users, num_items)
  features = {
    "genres": _unit(np.array([genres[i] for i in kept], np.float32)),
    "titles": _title_words([titles[i] for i in kept], max_words),
  }
  return recsys.split_by_user(
    data, num_users, num_items, seed=seed, features=features
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
      if user < 1 or item < 1 or not 1 <= rating <= 5:
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
      or not fields[0].isdigit()
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
