"""Files from outside: what is read, and what is refused in one line."""

import numpy as np
import pytest
from refusals import refused

from experiments import files, requests

COUNT = 60


def written(folder, name, content):
  path = folder / name
  if isinstance(content, np.ndarray):
    np.save(path, content)
  else:
    path.write_bytes(content)
  return path


@pytest.mark.parametrize(
  ("name", "content", "expected"),
  [
    ("plain.txt", b"7\n0\n\n7\n", [0, 7]),
    ("mark.txt", b"\xef\xbb\xbf1\r\n2\r\n", [1, 2]),
    ("floats.csv", b"3.0\r\n4.\r\n\r\n\r\n", [3, 4]),
    ("quotes.csv", b'"3"\n"4",\n', [3, 4]),
    ("mask.txt", b"0\n1\n" * (COUNT // 2), range(1, COUNT, 2)),
    ("bools.npy", np.arange(COUNT) > 57, [58, 59]),
    ("mask.npy", (np.arange(COUNT) > 57).astype(np.int64), [58, 59]),
    ("mask8.npy", (np.arange(COUNT) > 57).astype(np.uint8), [58, 59]),
    ("rows.npy", np.array([1, 0], np.uint16), [0, 1]),
    ("one.npy", np.array([1]), [1]),
  ],
)
def test_rows_are_read_from_lists_and_masks(tmp_path, name, content, expected):
  mask = files.read_rows(written(tmp_path, name, content), COUNT)
  assert mask.dtype == bool and mask.shape == (COUNT,)
  assert np.flatnonzero(mask).tolist() == list(expected)


@pytest.mark.parametrize(
  ("name", "content", "words"),
  [
    ("header.csv", b"row\n3\n", "got 'row' on line 1"),
    ("columns.csv", b"3,4\n", "got '3,4' on line 1"),
    ("half.txt", b"3.5\n", "got '3.5' on line 1"),
    ("utf16.txt", "3\n4\n".encode("utf-16"), "save it as UTF-8"),
    ("latin.txt", b"3 \xe9\n", "other bytes from place 2"),
    ("far.txt", b"4294967297\n", "in 0 .. 59, got 4294967297"),
    ("long.txt", b"9" * 5000, "in 0 .. 59, got 9999"),
    ("minus.txt", b"-1\n", "in 0 .. 59, got -1"),
    ("far.npy", np.array([2**32 + 1]), "in 0 .. 59, got 4294967297"),
    ("unsigned.npy", np.array([2**63], np.uint64), "got 9223372036854775808"),
    ("minus.npy", np.array([-(2**32)]), "got -4294967296"),
    ("other.npy", np.arange(50) % 2, "a mask of 60 rows, got 50 zeros"),
    ("short.npy", np.ones(7, bool), r"shape (60,)"),
    ("floats.npy", np.ones(60), "integers [K]"),
    ("table.npy", np.array([[1, 2]]), "[1, 2]"),
    ("objects.npy", np.array([1, 2], object), "cannot be read"),
  ],
)
def test_what_names_no_rows_is_refused(tmp_path, name, content, words):
  with pytest.raises(ValueError) as found:
    files.read_rows(written(tmp_path, name, content), COUNT)
  assert words in str(found.value)
  assert "\n" not in str(found.value) and len(str(found.value)) < 300


@pytest.mark.parametrize(
  "path", ["", "  ", "a" * 300, "~nosuchuser/x", "a\0b", "/".join("ab" * 5000)]
)
def test_a_path_that_cannot_exist_is_refused(path):
  with pytest.raises(ValueError, match="Expected --data to be a path") as found:
    files.checked_path(path, "--data")
  assert len(str(found.value)) < 300


@pytest.mark.parametrize(
  ("content", "words"),
  [
    (b"", "JSON object on line 1 of x.jsonl, got ''"),
    (b'{"a": 1}\n\n{"a": 2}\n', "on line 2"),
    (b'{"a": 1}\n[2]\n', "on line 2 of x.jsonl, got '\\[2\\]'"),
    (b'{"a": 1}\n{"a": ', "on line 2"),
    (b"[" * 100_000, "on line 1"),
    (b'{"a": ' + b"9" * 5000 + b"}", "on line 1"),
    (b'{"a": ["\\ud800"]}', "whole characters on line 1 of x.jsonl"),
    (b'{"a": "\xe9"}', "save it as UTF-8"),
  ],
)
def test_a_file_of_objects_is_read_line_by_line(content, words, tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_bytes(content)
  refused(words, lambda: list(files.json_lines(path, "rows")))
  path.write_bytes(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}\r\n{"b": NaN}\r\n\r\n')
  (one, where), (other, _) = files.json_lines(path, "rows")
  assert one == {"a": "\u2028"} and where == "line 1 of x.jsonl"
  assert list(other) == ["b"]


COLUMNS = {
  "long": np.array([2**40 + 5, 5, 7]),
  "words": np.array(["007", "7", "anna"]),
  "bytes": np.array([b"x", b"y", b"z"]),
  "floats": np.array([0.1, 0.2, 0.3], np.float32),
  "days": np.array(["2024-01-05", "2024-02-01", "2024-03-01"], "M8[D]"),
  "bools": np.array([True, False, False]),
}


@pytest.mark.parametrize(
  ("column", "name", "row"),
  [
    ("long", str(2**40 + 5), 0),
    ("long", "5", 1),
    ("words", "007", 0),
    ("words", "7", 1),
    ("bytes", "y", 1),
    ("floats", "0.1", 0),
    ("days", "2024-02-01", 1),
    ("bools", "true", 0),
  ],
)
def test_names_are_compared_as_they_are(column, name, row):
  mask = requests.rows_named(COLUMNS[column], (name,), "a user")
  assert np.flatnonzero(mask).tolist() == [row]


@pytest.mark.parametrize(
  ("column", "name", "words"),
  [
    ("long", "6", "got 6; the nearest are 5, 7, 1099511627781"),
    ("long", "9" * 30, "the nearest are 5, 7, 1099511627781"),
    ("long", "anna", "a user, a number, got 'anna'"),
    ("words", "ana", "got ana; the nearest are 'anna'"),
    ("days", "2025-01-01", "the nearest are 2024-01-05"),
    ("days", "soon", "a user, a time, got 'soon'"),
    ("floats", "0.25", "the nearest are 0.1"),
  ],
)
def test_an_unknown_name_comes_with_the_nearest(column, name, words):
  with pytest.raises(ValueError) as found:
    requests.rows_named(COLUMNS[column], (name,), "a user")
  assert words in str(found.value)


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ("0.1", 0.1),
    (".5", 0.5),
    ("1e-2", 0.01),
    ("4711", ("4711",)),
    ("4711, anna", ("4711", "anna")),
    ("id=0.1", ("0.1",)),
    ("=4711", ("4711",)),
  ],
)
def test_a_share_is_told_from_names(value, expected):
  assert requests.share_or_names(value) == expected


@pytest.mark.parametrize("value", ["1.5", "0.0", "a,", "id=", "name=3"])
def test_neither_a_share_nor_names_is_refused(value):
  refused(r"a share in \(0, 1\)", requests.share_or_names, value)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "got ''"),
    (" ; ", "got ' ; '"),
    ("users:", "got 'users:'"),
    ("edges", "got 'edges'"),
    ("klass:3", "got 'klass:3'"),
    ("users;edges:1;users", "to differ, got 'users' twice"),
  ],
)
def test_what_is_no_request_is_refused(text, words):
  with pytest.raises(ValueError, match="--request") as found:
    requests.read(text, ("users", "edges"), "of two kinds", bare=("users",))
  assert words in str(found.value)


def test_requests_are_taken_apart():
  asks = requests.read("users;edges: a:b", ("users", "edges"), "", bare="users")
  assert asks == (
    requests.Ask("users", "users", ""),
    requests.Ask("edges: a:b", "edges", "a:b"),
  )
