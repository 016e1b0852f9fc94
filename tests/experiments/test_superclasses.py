"""Models of superclasses, of which a subclass or a whole one is to be forgotten."""

import csv

import numpy as np
import pytest
from refusals import refused

from experiments import data, forget, requests, zero_shot
from experiments.datasets import classes
from experiments.datasets.superclasses import grouped
from jaxunlearn import report

GROUPS = "round=0,6,8,9;straight=1,4,7;open=2,3,5"
OF = np.array([0, 1, 2, 2, 1, 2, 0, 1, 0, 0])  # The superclass of each digit.


@pytest.fixture(scope="module")
def digits():
  return data.digits()


def test_labels_become_superclasses_and_rows_keep_their_own(digits):
  made = grouped(digits, GROUPS)
  assert made.class_names == ("round", "straight", "open")
  assert made.num_classes == 3
  for old, new in ((digits.train, made.train), (digits.test, made.test)):
    np.testing.assert_array_equal(new["subclass"], old["label"])
    np.testing.assert_array_equal(new["label"], OF[old["label"]])
    np.testing.assert_array_equal(new["x"], old["x"])
  split = classes.split(made, 3, "report")
  for rows in (split.train, split.test, split.aside):
    np.testing.assert_array_equal(rows["label"], OF[rows["subclass"]])


def test_requests_name_superclasses_and_subclasses(digits):
  made = grouped(digits, GROUPS)
  mask = lambda text: np.asarray(requests.parse(text, made).masks[0])
  own = digits.train["label"]
  np.testing.assert_array_equal(mask("subclass:3"), own == 3)
  np.testing.assert_array_equal(mask("subclass:3,8"), np.isin(own, (3, 8)))
  np.testing.assert_array_equal(mask("superclass:open"), OF[own] == 2)
  np.testing.assert_array_equal(mask("class:open"), OF[own] == 2)


def test_test_rows_of_the_subclass_are_those_that_are_gone(digits):
  split = classes.undivided(grouped(digits, GROUPS))
  _, gone = classes.mask("subclass", "3", split)
  np.testing.assert_array_equal(gone, digits.test["label"] == 3)
  _, gone = classes.mask("superclass", "straight", split)
  np.testing.assert_array_equal(gone, OF[digits.test["label"]] == 1)


def test_a_table_or_a_column_says_the_same(digits, tmp_path):
  wanted = grouped(digits, GROUPS)
  path = tmp_path / "groups.csv"
  with path.open("w") as file:
    rows = csv.writer(file)
    rows.writerow(["class", "superclass"])
    for part in GROUPS.split(";"):
      name, members = part.split("=")
      rows.writerows([word, name] for word in members.split(","))
  found = grouped(digits, str(path))
  np.testing.assert_array_equal(found.train["label"], wanted.train["label"])
  names = np.array(["round", "straight", "open"])
  column = names[OF][digits.train["label"]]
  columns = {**digits.columns, "coarse": column}
  found = grouped(digits._replace(columns=columns), "coarse")
  named = np.array(found.class_names)[found.train["label"]]
  np.testing.assert_array_equal(named, column)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", "NAME=CLASS"),
    ("odd", "NAME=CLASS"),
    ("odd=1,3;even", "NAME=CLASS"),
    ("odd=1,3;even=2,11", "of classes that there are.*'11'"),
    ("odd=1,3;even=3,2", "every class in one, got '3'"),
    ("odd=1,3;even=0,2", "name every class, got none for 4"),
    ("all=0,1,2,3,4,5,6,7,8,9", "two at least"),
    ("none.csv", "none.csv"),
  ],
)
def test_tables_that_cannot_be_are_refused(digits, text, words):
  refused(words, grouped, digits, text)


def test_requests_of_groups_that_are_not_there_are_refused(digits):
  made = grouped(digits, GROUPS)
  refused("--superclasses", requests.parse, "subclass:3", digits)
  refused("--superclasses", requests.parse, "superclass:open", digits)
  refused("a class that has rows", requests.parse, "subclass:11", made)
  refused("a class that has rows", requests.parse, "superclass:odd", made)


def test_methods_without_rows_take_whole_superclasses_alone():
  options = lambda request: zero_shot.Options(
    preset="smoke", superclasses=GROUPS, request=request
  )
  assert zero_shot.prepare(options("superclass:open")).requests.names
  refused("forget whole classes", zero_shot.prepare, options("subclass:3"))


def test_the_study_serves_both_with_zrf_beside(tmp_path):
  forget.main([
    *("--preset", "smoke", "--superclasses", GROUPS),
    *("--request", "subclass:3;superclass:open", "--methods", "bad_teacher"),
    *("--out", str(tmp_path)),
  ])  # fmt: skip
  found = report.read_results(tmp_path / "results.json").rows
  for row in found:
    assert 0.3 < row["zrf"] <= 1
    assert 0 <= row["forget_test_accuracy"] <= 1
  names = {row["request"] for row in found}
  assert names == {"subclass:3", "superclass:open"}
  assert "ZRF" in (tmp_path / "table.md").read_text()
