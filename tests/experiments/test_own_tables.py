"""A user's own table: kinds of columns, ids, what is refused."""

import numpy as np
import pytest
from refusals import refused

from experiments import data, requests

ROWS = 40
HEADER = "user_id,age,city,remark,label\n"


def line(i):
  city = ("Bonn", "Köln")[i % 2]
  return f"{2**63 + i},{20 + i},{city},said {i},{('no', 'yes')[i % 2]}\n"


def csv(tmp_path, *lines, header=HEADER):
  path = tmp_path / "rows.csv"
  path.write_text(header + "".join(lines))
  return f"csv:{path}"


def load(source):
  return data.load(source, preset="quick")


def test_columns_become_numbers_flags_or_names(tmp_path, monkeypatch):
  monkeypatch.setattr("experiments.datasets.own_tables.MOST_WORDS", 5)
  found = load(csv(tmp_path, *map(line, range(ROWS))))
  assert found.num_classes == 2 and found.class_names == ("no", "yes")
  x = found.train["x"]
  assert x.shape == (32, 3) and x.dtype == np.float32
  np.testing.assert_allclose(x[:, 0].mean(), 0, atol=1e-6)
  np.testing.assert_allclose(x[:, 0].std(), 1, atol=1e-6)
  # One of two cities, and the label follows it.
  np.testing.assert_array_equal(x[:, 1:].sum(1), 1)
  np.testing.assert_array_equal(x[:, 2], found.train["label"])
  # An id beyond 64 signed bits is still that of its row.
  ids = [int(v) - 2**63 for v in found.columns["user_id"]]
  ages = [int(v) - 20 for v in found.columns["age"]]
  assert ids == ages
  assert found.notes == (
    "Not learned from, but there for requests: user_id, remark.",
  )


def test_parquet_is_the_same_table(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  lines = list(map(line, range(ROWS)))
  rows = [text.strip().split(",") for text in lines]
  columns = dict(zip(HEADER.strip().split(","), zip(*rows)))
  columns["age"] = list(map(int, columns["age"]))
  path = tmp_path / "rows.parquet"
  pq.write_table(pa.table(columns), path)
  found = load(f"parquet:{path}")
  wanted = load(csv(tmp_path, *lines))
  np.testing.assert_array_equal(found.train["x"], wanted.train["x"])
  np.testing.assert_array_equal(
    found.columns["user_id"], wanted.columns["user_id"]
  )
  path.write_bytes(path.read_bytes()[:-9])
  refused(r"to be a Parquet file, got .*\.$", load, f"parquet:{path}")


@pytest.mark.parametrize(
  ("lines", "header", "message"),
  [
    ([], HEADER, "to have rows"),
    (["1,2\n"] * 4, "age,x\n", "called y or label or target, got the columns"),
    (["1,a\n", "2,b\n"] * 3, "y,label\n", "got y and label"),
    (["3,a\n", ",b\n"] * 3, "age,y\n", "column age, got 3 empty cells"),
    (["1e39,a\n", "1,b\n"] * 3, "age,y\n", "age to be finite numbers"),
    (["nan,a\n", "1,b\n"] * 3, "age,y\n", "age to be finite numbers"),
    (["1,a\n"] * 6, "age,y\n", "got 1 kinds in 6 rows"),
    (["1,a\n", "2,b\n"] * 3, "user_id,y\n", "columns to learn from beside y"),
    (["1,a\n", "1,\n"] * 3, "age,y\n", "column y, got 3 empty cells"),
    (["1,1\n", "2,1.0\n", "3,2\n"] * 3, "age,y\n", "3 spellings of 2"),
    (["1,2,a\n"] * 6, "age,age,y\n", "to differ, got 'age' twice"),
    (["1,5,a\n"] * 6, "age,y\n", "header, 2, got more on some"),
    ([f"1,{i}.5\n" for i in range(9)], "age,y\n", "got 9 kinds in 9 rows"),
  ],
)
def test_one_line_says_what_is_wrong(tmp_path, lines, header, message):
  with pytest.raises(ValueError, match=message) as caught:
    load(csv(tmp_path, *lines, header=header))
  assert "\n" not in str(caught.value)


def test_a_request_names_classes_as_the_table_does(tmp_path):
  rows = [f"{i},{(5, 10, 'a;b')[i % 3]}\n" for i in range(30)]
  found = load(csv(tmp_path, *rows, header="a,y\n"))
  assert found.class_names == ("10", "5", "a;b")
  word = found.columns["y"]
  for text, wanted in (
    ("class:5", word == "5"),
    ("group:label=5", word == "5"),
    ("group:y=10", word == "10"),
    (r"class:a\;b", word == "a;b"),
    ("class:5,10", word != "a;b"),
  ):
    np.testing.assert_array_equal(requests.parse(text, found).masks, [wanted])
  assert requests.parse("each-class", found).masks.sum() == len(word)
  for text in ("class:0", "class:a"):
    refused(r"has rows \(10, 5, a;b\), got", requests.parse, text, found)


def test_labels_from_one_on_are_no_places(tmp_path):
  rows = [f"{i},{i % 7},{1 + i % 3}\n" for i in range(30)]
  found = load(csv(tmp_path, *rows, header=",a=b,y\n"))
  # A column without a name only counts the rows.
  assert found.train["x"].shape[1] == 1
  asked = requests.parse("class:1", found).masks[0]
  np.testing.assert_array_equal(asked, found.columns["y"] == "1")
  asked = requests.parse("group:a=b=3", found).masks[0]
  np.testing.assert_array_equal(asked, found.columns["a=b"] == "3")


def test_numbers_as_labels_are_ordered_by_size(tmp_path):
  rows = [f"{i},{(2, 10)[i % 2]}\n" for i in range(20)]
  assert load(csv(tmp_path, *rows, header="a,y\n")).class_names == ("2", "10")
