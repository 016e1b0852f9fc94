"""The replay buffer."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

import jaxunlearn.continual as co

N = 24


offer = functools.partial(jax.jit, static_argnames="rule")(co.offer)
purge = jax.jit(co.purge)


def rows(n=N, classes=4):
  number = jnp.arange(n)
  return {
    "x": jnp.stack([number * 1.0, -number * 1.0], axis=1),
    "label": (number % classes).astype(jnp.int32),
  }


def held(buffer):
  return np.asarray(buffer.row_id)[np.asarray(buffer.valid)]


def check(buffer, data):
  """Every slot holds the row it says, and an empty slot holds nothing."""
  valid = np.asarray(buffer.valid)
  number = np.asarray(buffer.row_id)
  assert len(set(number[valid])) == valid.sum()
  for name, leaf in buffer.rows.items():
    np.testing.assert_array_equal(leaf[valid], data[name][number[valid]])
    assert not np.asarray(leaf)[~valid].any()
  assert (number[~valid] == -1).all()


@pytest.mark.parametrize("rule", ["reservoir", "balanced"])
def test_a_buffer_as_large_as_the_stream_keeps_all_of_it(rule):
  data, buffer = rows(), co.empty_buffer(N, rows())
  for part in range(3):
    mask = jnp.arange(N) // 8 == part
    buffer = offer(buffer, data, mask, jax.random.key(part), rule=rule)
    check(buffer, data)
  assert sorted(held(buffer)) == list(range(N))


@pytest.mark.slow
def test_every_row_of_the_stream_is_kept_equally_often():
  data, runs, capacity = rows(), 4000, 6

  @jax.vmap
  def one(key):
    buffer = co.empty_buffer(capacity, data)
    # Events of different sizes must not matter.
    for lo, hi in ((0, 4), (4, 14), (14, N)):
      mask = (jnp.arange(N) >= lo) & (jnp.arange(N) < hi)
      buffer = offer(buffer, data, mask, jax.random.fold_in(key, lo))
    return jnp.zeros(N).at[buffer.row_id].add(1.0)

  share = np.asarray(one(jax.random.split(jax.random.key(0), runs)).mean(0))
  p = capacity / N
  assert np.abs(share - p).max() < 5 * (p * (1 - p) / runs) ** 0.5


def test_a_balanced_buffer_holds_as_many_rows_of_each_class_as_there_are():
  data = rows()
  label = jnp.asarray([0] * 2 + [1] * 10 + [2] * 12, jnp.int32)
  data = {**data, "label": label}
  buffer = co.empty_buffer(12, data)
  for part in (label == 1, label == 2, label == 0):
    key = jax.random.key(int(part.sum()))
    buffer = offer(buffer, data, part, key, rule="balanced")
  check(buffer, data)
  counts = np.bincount(np.asarray(label)[held(buffer)], minlength=3)
  assert counts.tolist() == [2, 5, 5]


@pytest.mark.slow
def test_of_more_classes_than_slots_a_balanced_buffer_keeps_a_row_each():
  data, everything = rows(classes=12), jnp.ones(N, bool)
  buffer = offer(
    co.empty_buffer(5, data),
    data,
    everything,
    jax.random.key(0),
    rule="balanced",
  )
  labels = np.asarray(data["label"])[held(buffer)]
  assert len(labels) == len(set(labels)) == 5


@functools.partial(jax.jit, static_argnums=0)
def purged_draws(capacity, forget, key):
  """A full buffer after a purge, and 500 draws of 20 rows from it."""
  everything = jnp.ones(N, bool)
  buffer = offer(co.empty_buffer(capacity, rows()), rows(), everything, key)
  buffer = co.purge(buffer, forget)
  keys = jax.random.split(key, 500)
  return buffer, jax.vmap(lambda k: co.draw(buffer, 20, k))(keys)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
  seed=st.integers(0, 2**20),
  forget=st.lists(st.booleans(), min_size=N, max_size=N),
  capacity=st.sampled_from([5, 11, 30]),
)
def test_after_a_purge_no_draw_returns_a_purged_or_an_empty_row(
  seed, forget, capacity
):
  data, forget = rows(), jnp.asarray(forget)
  buffer, (drawn, slot, weight) = purged_draws(
    capacity, forget, jax.random.key(seed)
  )
  check(buffer, data)
  drawn, weight = np.asarray(drawn["x"][..., 0]), np.asarray(weight)
  count = int(buffer.valid.sum())
  assert (weight.sum(axis=1) == min(20, count)).all()
  allowed = set(held(buffer).tolist())
  assert not allowed & set(np.flatnonzero(np.asarray(forget)).tolist())
  assert set(drawn[weight > 0].astype(int).tolist()) <= allowed
  assert not drawn[weight == 0].any()
  for line, w in zip(np.asarray(slot), weight):
    assert len(set(line[w > 0])) == (w > 0).sum()


def test_a_purge_twice_and_a_purge_of_nothing_change_no_bit():
  data = rows()
  everything = jnp.ones(N, bool)
  buffer = offer(co.empty_buffer(9, data), data, everything, jax.random.key(1))
  chex.assert_trees_all_equal(purge(buffer, ~everything), buffer)
  gone = data["label"] == 2
  once = purge(buffer, gone)
  assert int(once.valid.sum()) < 9
  chex.assert_trees_all_equal(purge(once, gone), once)


def test_rows_held_already_are_not_taken_in_again_and_freed_slots_are_used():
  data, everything = rows(), jnp.ones(N, bool)
  buffer = offer(co.empty_buffer(N, data), data, everything, jax.random.key(1))
  again = offer(buffer, data, everything, jax.random.key(2))
  assert sorted(held(again)) == list(range(N))
  chex.assert_trees_all_equal(again.priority, buffer.priority)
  freed = purge(again, data["label"] == 0)
  back = offer(freed, data, data["label"] == 0, jax.random.key(3))
  check(back, data)
  assert sorted(held(back)) == list(range(N))


def test_nan_in_rows_that_are_not_offered_is_not_read():
  data = rows()
  mask = data["label"] == 1
  dirty = {**data, "x": jnp.where(mask[:, None], data["x"], jnp.nan)}
  for rule in ("reservoir", "balanced"):
    key, empty = jax.random.key(4), co.empty_buffer(9, data)
    chex.assert_trees_all_equal(
      offer(empty, dirty, mask, key, rule=rule),
      offer(empty, data, mask, key, rule=rule),
    )


def test_bad_arguments_are_refused():
  data = rows()
  buffer, mask = co.empty_buffer(4, data), jnp.ones(N, bool)
  key = jax.random.key(0)
  refused("Expected buffer_size >= 1, got 0", co.empty_buffer, 0, data)
  refused("rule to be one of", co.offer, buffer, data, mask, key, rule="newest")
  refused("Expected mask of shape", co.offer, buffer, data, mask[:3], key)
  with pytest.raises(ValueError, match="Expected mask of dtype bool"):
    co.offer(buffer, data, mask * 1.0, key)
  with pytest.raises(ValueError, match="rows like those of the buffer"):
    co.offer(buffer, {**data, "x": data["x"][:, :1]}, mask, key)
  refused("forget_mask of dtype bool", co.purge, buffer, mask * 1.0)
  with pytest.raises(ValueError, match=r"forget_mask of shape \[N\], got"):
    co.purge(buffer, jnp.ones((N, 2), bool))
  full = co.offer(co.empty_buffer(N, data), data, mask, key)
  refused(f"at least {N} rows, got {N - 1}", co.purge, full, mask[1:])
  refused("Expected size > 0", co.draw, buffer, 0, key)
