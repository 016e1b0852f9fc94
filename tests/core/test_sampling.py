from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from scipy import stats

from jaxunlearn.core import sampling
from jaxunlearn.core.transform import Env
from jaxunlearn.core.types import ALL, Draw, Request, as_request

KEY = jax.random.key(0)
N = 50
DRAW_STREAM = jax.jit(
  lambda weight, seed: sampling.draw_rows(
    sampling.make_pool(weight, jax.random.key(seed)),
    jnp.arange(3 * N, dtype=jnp.uint32),
  )
)


@settings(deadline=None, max_examples=60)
@given(
  st.lists(st.booleans(), min_size=N, max_size=N), st.integers(0, 2**31 - 1)
)
def test_every_eligible_row_appears_once_an_epoch_and_no_other(mask, seed):
  mask = np.array(mask)
  rows, epochs = map(np.asarray, DRAW_STREAM(mask.astype(np.float32), seed))
  count = mask.sum()
  if count == 0:
    assert (rows == 0).all()
    return
  for epoch in range(3 * N // count):
    drawn = rows[epoch * count : (epoch + 1) * count]
    np.testing.assert_array_equal(np.sort(drawn), np.flatnonzero(mask))
    assert (epochs[epoch * count : (epoch + 1) * count] == epoch).all()


@pytest.mark.parametrize("count", [2, 3, 17, 64])
def test_rows_are_uniform_over_places_and_pairs_of_places(count):
  keys = jax.random.split(jax.random.key(0), 20_000)

  def places(key):
    pool = sampling.make_pool(jnp.ones(count), key)
    return sampling.draw_rows(pool, jnp.arange(2, dtype=jnp.uint32))[0]

  drawn = np.asarray(jax.jit(jax.vmap(places))(keys))
  for place in range(2):
    counts = np.bincount(drawn[:, place], minlength=count)
    assert stats.chisquare(counts).pvalue > 1e-6
  pairs = drawn[:, 0] * count + drawn[:, 1]
  seen = np.bincount(pairs, minlength=count**2).reshape(count, count)
  assert (np.diag(seen) == 0).all()
  off_diagonal = seen[~np.eye(count, dtype=bool)]
  if len(off_diagonal) > 1:
    assert stats.chisquare(off_diagonal).pvalue > 1e-6


def test_epochs_have_orders_of_their_own():
  pool = sampling.make_pool(jnp.ones(1000), jax.random.key(3))
  rows, _ = sampling.draw_rows(pool, jnp.arange(3000, dtype=jnp.uint32))
  first, second, third = np.asarray(rows).reshape(3, 1000)
  for a, b in [(first, second), (second, third), (first, third)]:
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 1000**0.5
    assert (a == b).sum() < 10  # One is expected.


def make(draw, mask, env=None, seed=0):
  data = {"x": jnp.arange(float(len(mask)))}
  return prepared(data, mask, draw, jax.random.key(seed), env)


class Prepared(NamedTuple):
  at: Any
  plan: sampling.Plan


def prepared(data, mask, draw, key, env=None):
  plan = sampling.make_plan(data, as_request(mask, data), draw, key, env)
  batch = lambda step: sampling.draw_batch(data, plan, draw, step, env)
  return Prepared(jax.jit(batch), plan)


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_kinds_are_never_mixed_up(mask):
  mask = jnp.array(mask)
  sampler = make(Draw(forget=3, retain=4, mixed=5), mask)
  for step in range(6):
    batch = sampler.at(jnp.int32(step))
    live = np.asarray(batch.weight) > 0
    truth = np.asarray(mask)[np.asarray(batch.row_id)]
    assert truth[:3][live[:3]].all()
    assert not truth[3:7][live[3:7]].any()
    np.testing.assert_array_equal(batch.forget[7:], truth[7:])
    assert live[:3].all() == bool(mask.any())
    assert live[3:7].all() == bool((~mask).any())
    np.testing.assert_array_equal(batch.rows["x"][live], batch.row_id[live])
    np.testing.assert_array_equal(batch.place, np.arange(12))


def test_a_row_of_no_weight_is_zeros_even_if_it_is_nan():
  data = {"x": jnp.full(4, jnp.nan)}
  mask = jnp.ones(4, bool)
  sampler = prepared(data, mask, Draw(retain=2), jax.random.key(0))
  batch = sampler.at(0)
  assert batch.weight.tolist() == [0, 0] and batch.rows["x"].tolist() == [0, 0]
  assert (
    int(sampler.plan.retain_count) == 0 and int(sampler.plan.forget_count) == 4
  )


def test_all_takes_every_row_with_its_weight():
  mask = jnp.array([0.25, 1.0, 0.0])
  batch = make(Draw(retain=ALL), mask).at(5)
  np.testing.assert_allclose(batch.weight, [0.75, 0.0, 1.0])
  assert batch.rows["x"].tolist() == [0.0, 0.0, 2.0]


def test_select_limits_what_is_drawn():
  mask = jnp.arange(20) < 10
  select = lambda data, request, key: data["x"] % 2 == 0
  sampler = make(Draw(retain=5, mixed=10, select=select), mask)
  batch = sampler.at(0)
  assert sorted(batch.row_id[:5].tolist()) == [10, 12, 14, 16, 18]
  assert sorted(batch.row_id[5:].tolist()) == list(range(0, 20, 2))
  assert int(sampler.plan.retain_count) == 5


@pytest.mark.slow
def test_devices_share_a_batch_without_overlap():
  mask = jnp.arange(24) < 8
  draw = Draw(forget=8, retain=16)
  one = make(draw, mask).at(3)

  def shard(_):
    return make(draw, mask, Env("i")).at(3)

  many = jax.vmap(shard, axis_name="i")(jnp.arange(8))
  order = np.argsort(np.asarray(many.place).ravel())
  for name in ("row_id", "weight", "forget", "place"):
    flat = np.asarray(getattr(many, name)).ravel()[order]
    np.testing.assert_array_equal(flat, getattr(one, name))


@pytest.mark.parametrize("env", [Env(), Env("i")])
def test_draws_made_ahead_are_those_of_each_step(env):
  draw = Draw(forget=8, mixed=16)
  mask = jnp.arange(24) < 8
  data = {"x": jnp.arange(24)}
  plan = sampling.make_plan(data, as_request(mask, data), draw, KEY)

  def both(_):
    ahead = sampling.draw_ahead(plan, draw, jnp.arange(3, 6), env)
    third = jax.tree.map(lambda leaf: leaf[2], ahead)
    one = sampling.draw_batch(data, plan, draw, 5, env)
    return one, sampling.draw_batch(data, plan, draw, 5, env, third)

  one, other = jax.jit(jax.vmap(both, axis_name="i"))(jnp.arange(8))
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_rows_in_neither_mask_are_in_no_pool():
  request = Request(jnp.arange(9) < 2, jnp.arange(9) >= 6)
  data = {"x": jnp.arange(9)}
  draw = Draw(forget=2, retain=3, mixed=5)
  plan = sampling.make_plan(data, request, draw, KEY)
  drawn = sampling.draw_batch(data, plan, draw, 0).rows["x"].tolist()
  assert sorted(drawn[:2]) == [0, 1] and sorted(drawn[2:5]) == [6, 7, 8]
  assert sorted(drawn[5:]) == [0, 1, 6, 7, 8]


def test_a_batch_that_devices_cannot_share_is_rejected():
  shard = lambda _: make(Draw(retain=6), jnp.zeros(9, bool), Env("i")).at(0)
  with pytest.raises(ValueError, match="4 devices can share, got 6"):
    jax.vmap(shard, axis_name="i")(jnp.arange(4))


def test_mixed_rows_want_a_hard_request():
  soft = jnp.array([0.5, 0.0, 1.0])
  refused("dtype bool for this method, got float", make, Draw(mixed=2), soft)
