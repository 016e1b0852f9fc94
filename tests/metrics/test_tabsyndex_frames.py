"""Data frames: anything with `columns` and `to_numpy`, pandas or not."""

import jax
import numpy as np
import pytest

from jaxunlearn.metrics.tabsyndex import tabsyndex
from jaxunlearn.metrics.tabsyndex_frames import encode_frames

KEY = jax.random.key(0)


class Column:
  def __init__(self, values):
    self.values = values

  def to_numpy(self):
    return np.asarray(self.values)


class Frame:
  """As much of a data frame as is asked for."""

  def __init__(self, **columns):
    self.held = columns
    self.columns = list(columns)

  def __getitem__(self, name):
    return Column(self.held[name])

  def to_numpy(self):
    return np.column_stack(list(self.held.values()))


def people(n=40, seed=0):
  rng = np.random.default_rng(seed)
  words = np.array(["clerk", "cook", "nurse"], object)
  return {
    "age": rng.integers(20, 60, n),
    "job": words[rng.integers(0, 3, n)],
    "pay": rng.normal(size=n),
  }


def test_words_become_codes_that_both_frames_share():
  real = Frame(age=[30, 40, 50], job=["cook", "nurse", "cook"])
  fake = Frame(job=["clerk", None, "nurse"], age=[31.5, 41, 51])
  found = encode_frames(real, fake, ["job"])
  assert found.names == ("age", "job")
  # clerk, cook, nurse, and what is missing.
  assert found.categories == (0, 4)
  np.testing.assert_array_equal(found.real, [[30, 1], [40, 2], [50, 1]])
  np.testing.assert_array_equal(found.fake, [[31.5, 0], [41, 3], [51, 2]])


def test_whole_numbers_stay_the_codes_they_are():
  real = Frame(kind=[5, 3, 5], x=[0.0, 1.0, 2.0])
  found = encode_frames(real, Frame(kind=[3, 3, 6], x=[0, 1, 2]), ["kind"])
  assert found.categories == (7, 0)
  np.testing.assert_array_equal(found.fake[:, 0], [3, 3, 6])


class NotKnown:
  """Like pandas' NA: compared with anything it gives no truth value."""

  def __ne__(self, other):
    return self

  __hash__ = None

  def __bool__(self):
    raise TypeError("boolean value of NA is ambiguous")


def test_categories_of_one_value_are_one_whatever_its_type():
  real = Frame(kind=np.array([1, -1, 10]), x=[0.0, 1.0, 2.0])
  fake = Frame(kind=np.array([1.0, -1.0, 2.0]), x=[0.0, 1.0, 2.0])
  found = encode_frames(real, fake, ["kind"])
  assert found.categories == (4, 0)
  np.testing.assert_array_equal(found.real[:, 0], [1, 0, 3])
  np.testing.assert_array_equal(found.fake[:, 0], [1, 0, 2])


def test_large_numbers_become_few_codes():
  frame = Frame(place=[94103, 2100, 94103], x=[0.0, 1.0, 2.0])
  found = encode_frames(frame, frame, ["place"])
  assert found.categories == (2, 0)
  np.testing.assert_array_equal(found.real[:, 0], [1, 0, 1])
  endless = Frame(place=[np.inf, 0.0, 1.0], x=[0.0, 1.0, 2.0])
  assert encode_frames(endless, endless, ["place"]).categories == (3, 0)


def test_what_has_no_truth_value_is_missing():
  words = np.array(["cook", NotKnown(), "clerk"], object)
  frame = Frame(job=words, x=[0.0, 1.0, 2.0])
  found = encode_frames(frame, frame, ["job"])
  assert found.categories == (3, 0)
  np.testing.assert_array_equal(found.real[:, 0], [1, 2, 0])


def test_frames_score_like_their_arrays_whatever_the_order_of_columns():
  real, fake = people(), people(seed=1)
  found = tabsyndex(
    Frame(**real),
    Frame(**dict(reversed(fake.items()))),
    KEY,
    categories=["job"],
    target="pay",
    efficacy=None,
  )
  rows = [
    np.column_stack(
      [
        t["age"],
        [["clerk", "cook", "nurse"].index(j) for j in t["job"]],
        t["pay"],
      ]
    )
    for t in (real, fake)
  ]
  wanted = tabsyndex(*rows, KEY, categories=(0, 3, 0), efficacy=None)
  np.testing.assert_allclose(found[1:3], wanted[1:3], rtol=1e-6)
  np.testing.assert_allclose(found.pmse_ratio, wanted.pmse_ratio, rtol=1e-5)


def test_frames_that_do_not_fit_are_refused():
  real = Frame(**people())
  reject = lambda message, *args: pytest.raises(ValueError, match=message)
  with reject("same columns, got job in one only"):
    encode_frames(real, Frame(age=[1], pay=[2.0]), [])
  with reject("numbers in column 'job', got others"):
    encode_frames(real, real, [])
  with reject("'work', which is none"):
    encode_frames(real, real, ["work"])
  with reject("two data frames"):
    tabsyndex(real, np.zeros((3, 3)), KEY, categories=["job"])
  with reject("column 'pay' without missing"):
    holes = people()
    holes["pay"][2] = np.nan
    encode_frames(real, Frame(**holes), ["job"])
  with reject("target to be one of age, job, pay, got 'wage'"):
    tabsyndex(real, real, KEY, categories=["job"], target="wage")
  twice = Frame(**people())
  twice.columns = ["age", "age", "pay"]
  with reject("columns of different names"):
    encode_frames(twice, real, [])
