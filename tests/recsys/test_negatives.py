"""Negatives are unseen, uniform, and there for every user who has any."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxunlearn.recsys.negatives import draw_unseen, make_history

USERS, ITEMS, ROWS = 4, 6, 15
build = jax.jit(make_history, static_argnums=(2, 3))


@jax.jit
def drawn(pairs, counted, keys):
  """Items [K, U] and whether there are any [K, U]."""
  history = make_history({"x": pairs}, counted, USERS, ITEMS)
  draw = lambda k: draw_unseen(
    history, jnp.arange(USERS), jax.random.split(k, USERS)
  )
  return jax.jit(jax.vmap(draw))(keys)


@given(
  st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)),
    min_size=ROWS,
    max_size=ROWS,
  ),
  st.lists(st.booleans(), min_size=ROWS, max_size=ROWS),
)
@settings(max_examples=40, deadline=None)
def test_every_unseen_item_and_no_other_is_drawn(pairs, counted):
  keys = jax.random.split(jax.random.key(0), 200)
  pairs, counted = np.array(pairs), np.array(counted)
  items, has_one = drawn(jnp.asarray(pairs), jnp.asarray(counted), keys)
  for user in range(USERS):
    seen = set(pairs[counted & (pairs[:, 0] == user), 1])
    unseen = set(range(ITEMS)) - seen
    assert bool(has_one[0, user]) == bool(unseen)
    if unseen:
      # The chance that 200 draws miss one of six items is below 1e-14.
      assert set(np.asarray(items[:, user]).tolist()) == unseen


def test_draws_are_uniform():
  pairs = jnp.array([[0, 0], [0, 3], [0, 3], [1, 5]])
  history = build({"x": pairs}, jnp.ones(4, bool), 2, 6)
  keys = jax.random.split(jax.random.key(1), 8000)
  items, _ = jax.jit(draw_unseen)(history, jnp.zeros(8000, int), keys)
  count = np.bincount(items, minlength=6)
  assert count[0] == count[3] == 0
  # Four items; five standard errors of a count of 2,000 are 194.
  assert np.abs(count[[1, 2, 4, 5]] - 2000).max() < 194
