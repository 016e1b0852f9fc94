"""The MovieLens files as a data set, on files of a few lines."""

import numpy as np
import pytest
from refusals import refused

from experiments.datasets.interactions import GENRES, movielens, split


def write(folder, ratings, items):
  folder = folder / "ml-100k"
  folder.mkdir(exist_ok=True)
  lines = ["\t".join(map(str, (*row, 0))) for row in ratings]
  (folder / "u.data").write_text("\n".join(lines), encoding="latin-1")
  (folder / "u.item").write_text("\n".join(items), encoding="latin-1")


def item_line(number, title, *genres):
  flags = ["1" if name in genres else "0" for name in GENRES]
  return "|".join([str(number), title, "01-Jan-1995", "", "url", *flags])


def good(folder):
  """Users 1 to 6 like items 10 to 15; user 9 and item 99 are no core."""
  ratings = [(u, i, 4 + u % 2) for u in range(1, 7) for i in range(10, 16)]
  ratings += [(9, 10, 5), (1, 99, 5), (2, 99, 3)]
  titles = ["Tésis", "Red Sea", "Blue Sea", "Red Car", "Moon", "Sun", "Gone"]
  numbers = [10, 11, 12, 13, 14, 15, 99]
  items = [
    item_line(n, f"{t} (1995)", "Drama", *(["War"] if n == 11 else []))
    for n, t in zip(numbers, titles)
  ]
  write(folder, ratings, items)
  return ratings, items


def test_a_core_of_positives_is_split_and_has_two_modalities(tmp_path):
  good(tmp_path)
  data = movielens(tmp_path)
  assert (data.num_users, data.num_items) == (6, 6)
  report, select = (split(data, 0, part) for part in ("report", "select"))
  sizes = [len(rows) for rows in (report[2], select[3], report[3])]
  assert sizes == [24, 6, 6]
  parts = np.concatenate([report.row_id, select.held_id, report.held_id])
  np.testing.assert_array_equal(np.sort(parts), np.arange(36))
  genres = np.asarray(data.features["genres"])
  assert genres.shape == (6, 19)
  np.testing.assert_allclose(np.linalg.norm(genres, axis=1), 1, rtol=1e-6)
  assert genres[1, GENRES.index("War")] > 0 == genres[0, GENRES.index("War")]
  titles = np.asarray(data.features["titles"])
  # The items share "Red" (1, 3) and "Sea" (1, 2), and the year with nobody.
  cosine = titles @ titles.T
  assert cosine[1, 2] > 0 and cosine[1, 3] > 0
  assert cosine[0, 1] == 0 and cosine[2, 3] == 0


def test_ratings_below_the_threshold_are_no_interactions(tmp_path):
  good(tmp_path)
  with pytest.raises(ValueError, match="in a 5-core, got none"):
    movielens(tmp_path, min_rating=5)  # Three users are left.
  kept = movielens(tmp_path / "ml-100k", min_rating=5, core=3)
  assert (kept.num_users, kept.num_items) == (3, 6)


def test_missing_and_malformed_files_are_named(tmp_path):
  refused(r"no readable u\.data", movielens, tmp_path)
  ratings, items = good(tmp_path)
  for bad, shown in (
    ([(1, 2)], "line 1"),
    ([*ratings[:3], (1, "x", 4)], "line 4"),
    ([(1, 10, 9)], "line 1"),
    ([(0, 10, 4)], "line 1"),
  ):
    write(tmp_path, bad, items)
    refused(shown, movielens, tmp_path)
  write(tmp_path, [], items)
  refused(r"line 1|empty file", movielens, tmp_path)
  write(tmp_path, ratings, [*items[:2], "12|Blue Sea|0|1"])
  refused("line 3", movielens, tmp_path)
  write(tmp_path, ratings, items[1:])
  refused("item 10 without a line", movielens, tmp_path)
  write(tmp_path, ratings, [item_line(n, "") for n in (*range(10, 16), 99)])
  refused("words in the titles", movielens, tmp_path)
