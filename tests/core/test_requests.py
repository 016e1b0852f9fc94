import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn.core import requests

BIG = 2**32 + 5  # Its lower half is 5.
LABELS = jnp.array([2, 0, 1, 2, 2, 0])


def test_classes_selects_every_row_of_the_classes_and_no_other():
  mask = requests.classes(LABELS, [0, 2])
  assert mask.dtype == bool
  assert mask.tolist() == [True, True, False, True, True, True]


def test_classes_works_on_traced_classes_without_recompiling():
  traces = []

  @jax.jit
  def f(c):
    traces.append(1)
    return requests.classes(LABELS, c)

  assert f(jnp.array([1])).tolist() == (LABELS == 1).tolist()
  assert f(jnp.array([0])).tolist() == (LABELS == 0).tolist()
  assert len(traces) == 1


def test_an_absent_class_is_named():
  refused(
    r"class that has rows \(0 .. 2\), got 7", requests.classes, LABELS, [7]
  )


def test_float_labels_are_rejected():
  refused("integer dtype", requests.classes, jnp.array([0.0, 1.0]), [0])


def test_each_class_stacks_the_single_class_requests():
  stacked = requests.each_class(LABELS, 3)
  for c in range(3):
    np.testing.assert_array_equal(stacked[c], requests.classes(LABELS, [c]))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.data())
def test_indices_selects_exactly_the_named_rows(n, data):
  rows = data.draw(st.lists(st.integers(-1, n - 1), max_size=2 * n))
  # N numbers that are all 0 and 1 are refused as a mask, see the test of that.
  assume(not (len(rows) == n > 2 and set(rows) <= {0, 1}))
  mask = np.asarray(requests.indices(n, np.asarray(rows, np.int32)))
  assert set(np.flatnonzero(mask)) == {r for r in rows if r >= 0}


@pytest.mark.parametrize("bad", [6, -2])
def test_indices_out_of_range_are_named(bad):
  refused(f"in 0 .. 5, got {bad}", requests.indices, 6, [0, bad])


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 9))
def test_random_fraction_has_the_rounded_count(n, fraction, seed):
  mask = requests.random_fraction(jax.random.key(seed), n, fraction)
  wanted = np.round(np.float32(fraction) * np.float32(n))
  assert int(mask.sum()) == int(wanted)


def test_random_fraction_is_uniform_over_rows():
  keys = jax.random.split(jax.random.key(0), 4000)
  masks = jax.vmap(lambda k: requests.random_fraction(k, 20, 0.25))(keys)
  # Each row is in with probability 1/4; five standard errors.
  error = 5 * (0.25 * 0.75 / 4000) ** 0.5
  assert np.abs(masks.mean(axis=0) - 0.25).max() < error


def test_random_fraction_outside_the_unit_interval_is_rejected():
  refused("fraction in", requests.random_fraction, jax.random.key(0), 5, 1.5)


def test_predicate_sees_one_row_at_a_time():
  data = {"x": jnp.arange(6.0).reshape(3, 2)}
  mask = requests.predicate(data, lambda row: row["x"].sum() > 4)
  assert mask.tolist() == [False, True, True]
  refused("one bool a row", requests.predicate, data, lambda row: row["x"] > 4)


def test_groups_selects_by_name():
  column = ["bob", "eve", "bob", "ann"]
  assert requests.groups(column, "bob").tolist() == [True, False, True, False]
  assert requests.groups(column, ["ann", "eve"]).sum() == 2
  assert requests.groups(np.array([1, 2, 1]), 2).tolist() == [0, 1, 0]
  refused("'ann', 'bob', 'eve', got 'zoe'", requests.groups, column, "zoe")


def test_a_range_has_its_ends_and_not_nan():
  values = jnp.array([0.0, 1.0, 2.0, 3.0, jnp.nan])
  found = requests.value_range(values, 1.0, 2.0)
  assert found.dtype == bool
  assert found.tolist() == [False, True, True, False, False]
  assert requests.value_range(values, low=2.0).tolist() == [
    *(False, False, True, True, False)
  ]
  assert requests.value_range(jnp.arange(4), high=0).tolist() == [
    *(True, False, False, False)
  ]


def test_ranges_may_be_traced_without_recompiling():
  values, traces = jnp.arange(6.0), []

  @jax.jit
  def f(low, high):
    traces.append(1)
    return requests.value_range(values, low, high)

  assert f(1.0, 2.0).sum() == 2
  # Nothing can be looked at: an empty range is an empty request.
  assert f(3.0, 1.0).sum() == 0
  assert len(traces) == 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({}, "low or high or both, got neither"),
    ({"low": 3.0, "high": 1.0}, "low <= high, got low=3.0, high=1.0"),
    ({"low": 9.0}, r"range that has rows \(values 0 .. 5\), got low=9.0"),
  ],
)
def test_a_bad_range_is_refused(options, message):
  refused(message, requests.value_range, jnp.arange(6.0), **options)


def test_a_range_of_something_else_is_refused():
  with pytest.raises(ValueError, match=r"values \[N\] that are numbers"):
    requests.value_range(jnp.ones((2, 2)), low=0.0)
  refused("of bool", requests.value_range, jnp.ones(2, bool), low=0.0)
  refused(r"values none\)", requests.value_range, jnp.full(2, jnp.nan), low=0.0)


def test_times_keep_their_digits_and_constants_may_be_asked_under_jit():
  # In float32 both are 1.7e9; in milliseconds they exceed 32 bits.
  seconds = np.array([1_700_000_000, 1_700_000_050])
  for times in (seconds, seconds * 1000, seconds.astype(float)):
    found = requests.value_range(times, high=times[0])
    assert found.tolist() == [True, False]
  # An end in double precision is still the value that it was made of.
  tenth = np.float64(0.1)
  found = requests.value_range(jnp.array([tenth, 0.2]), high=tenth)
  assert found.tolist() == [True, False]
  values = jnp.arange(3.0)
  late = jax.jit(lambda x: requests.value_range(values, low=1.0) & (x > 0))
  assert late(1.0).tolist() == [False, True, True]


REFUSED = {
  "row of 64 bits": (
    lambda: requests.indices(40, np.array([2**32 + 1])),
    r"row numbers in 0 \.\. 39, got 4294967297",
  ),
  "row of 64 bits, unsigned": (
    lambda: requests.indices(40, np.array([2**64 - 1], np.uint64)),
    "got 18446744073709551615",
  ),
  "row beyond 64 bits": (
    lambda: requests.indices(40, [2**70]),
    "row numbers of integer dtype, got 1180591620717411303424",
  ),
  "mask of integers as rows": (
    lambda: requests.indices(4, np.array([0, 0, 1, 1])),
    "got 4 values of 0 and 1, which is a mask",
  ),
  "mask as rows": (
    lambda: requests.indices(2, np.array([True, False])),
    "row numbers of integer dtype, got bool",
  ),
  "broken number of rows": (
    lambda: requests.indices(4.0, [1]),
    "num_rows to be a whole number >= 1, got num_rows=4.0",
  ),
  "class of 64 bits": (
    lambda: requests.classes(np.array([4, 5]), [BIG]),
    r"class that has rows \(4 \.\. 5\), got 4294967301",
  ),
  "class of 64 bits among traced labels": (
    lambda: jax.jit(lambda y: requests.classes(y, np.array([BIG])))(LABELS),
    r"request\['classes'\] to fit into int32",
  ),
  "labels of 64 bits and a traced class": (
    lambda: jax.jit(lambda c: requests.classes(np.array([BIG, 5]), c))(5),
    r"request\['labels'\] to fit into int32, got 5 \.\. 4294967301",
  ),
  "labels in a column": (
    lambda: requests.classes(np.array([[1], [2]]), [1]),
    r"labels of shape \(2,\), one integer per row, got \(2, 1\)",
  ),
  "each class of labels in a column": (
    lambda: requests.each_class(np.array([[1], [2]]), 3),
    r"labels of shape \(2,\)",
  ),
  "no class": (lambda: requests.classes(LABELS, []), "at least one class"),
  "ids of 64 bits in a traced predicate": (
    lambda: jax.jit(
      lambda user: requests.predicate(np.array([BIG, 5]), lambda x: x == user)
    )(5),
    "data to fit into int32",
  ),
  "number that the column cannot hold": (
    lambda: requests.predicate(LABELS, lambda x: x == BIG),
    "numbers that the columns can hold",
  ),
  "names in a predicate": (
    lambda: requests.predicate({"a": np.array(["b"])}, lambda x: x["a"] == 0),
    r"data\['a'\] of numbers, got <U1; `groups`",
  ),
  "groups in a column": (
    lambda: requests.groups(np.array([[1], [2]]), 1),
    r"column \[N\], got shape \(2, 1\)",
  ),
  "range of 64 bits with a traced end": (
    lambda: jax.jit(lambda x: requests.value_range(np.array([BIG]), high=x))(1),
    "to fit into int32",
  ),
  "seed as key": (
    lambda: requests.random_fraction(5, 4, 0.5),
    r"key to be a typed PRNG key, jax.random.key\(seed\), got 5",
  ),
  "raw key": (
    lambda: requests.random_fraction(np.zeros(2, np.uint32), 4, 0.5),
    r"got uint32 of shape \(2,\)",
  ),
  "text as fraction": (
    lambda: requests.random_fraction(jax.random.key(0), 4, "0.5"),
    r"fraction in \[0, 1\], got fraction='0.5'",
  ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_one_line_of_error(name):
  call, message = REFUSED[name]
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "build",
  [
    lambda ids: requests.predicate({"id": ids}, lambda row: row["id"] == 5),
    lambda ids: requests.classes(ids, [5]),
    lambda ids: requests.groups(ids, [5]),
    lambda ids: requests.value_range(ids, 5, 5),
    lambda ids: requests.each_class(ids, 6)[5],
  ],
)
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_ids_of_64_bits_are_compared_with_all_their_digits(build, dtype):
  ids = np.array([BIG, 5, 7, 2**60 + 5], dtype)
  assert np.flatnonzero(build(ids)).tolist() == [1]


def test_two_kinds_of_wide_integers_are_not_compared_as_floats():
  ids = np.array([2**60, 2**60 + 1], np.uint64)
  assert requests.groups(ids, [2**60]).tolist() == [True, False]


def test_a_service_compiles_nothing_for_requests_of_other_sizes():
  compiled = []
  listen = lambda name, _, **__: compiled.append("backend_compile" in name)
  rows = {"id": np.arange(50)}
  serve = [
    lambda size: requests.indices(50, np.arange(size)),
    lambda size: requests.classes(rows["id"], np.arange(size)),
    lambda size: requests.groups(rows["id"], np.arange(size)),
    lambda size: requests.value_range(rows["id"], high=size),
    lambda size: requests.predicate(rows, lambda row: row["id"] < 3),
  ]
  for build in serve:
    build(3)
  jax.monitoring.register_event_duration_secs_listener(listen)
  gc.collect()
  before = len(jax.live_arrays())
  try:
    for i in range(10_000):
      serve[0](1 + i % 49)
    for build in serve[1:]:
      for size in range(1, 50):
        build(size)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  gc.collect()
  assert sum(compiled) == 0
  assert len(jax.live_arrays()) <= before


def test_identified_rows_are_nested_and_of_the_damaged():
  key = jax.random.key(0)
  damaged = jnp.arange(40) % 2 == 0
  find = jax.jit(requests.identified)
  few, many = find(key, damaged, 0.25), find(key, damaged, 0.6)
  assert (few.sum(), many.sum()) == (5, 12)
  assert not (few & ~many).any() and not (many & ~damaged).any()
  assert (find(key, damaged, 1.0) == damaged).all()
  assert not find(key, damaged, 0.0).any()
  with pytest.raises(ValueError, match="Expected a damaged row"):
    requests.identified(key, damaged & False, 0.5)
  refused("Expected damaged bool", requests.identified, key, jnp.ones(3), 0.5)
