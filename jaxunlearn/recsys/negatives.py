"""Negatives: items that a user never interacted with, uniformly and exactly.

A user's unseen items are numbered 0, 1, ... without being listed: below the
seen item h lie h minus its rank unseen ones, which grows along the sorted
history, so a binary search turns a random number into an item. No draw is
rejected, shapes are static and memory is that of the interactions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree
from jaxunlearn.recsys.types import pairs_of


class History(NamedTuple):
  """What each user has interacted with, sorted.

  Attributes:
    unseen_below: int32 [N], how many unseen items lie below the row's item.
    rank: int32 [N], how many seen items lie below it.
    start: int32 [U + 1], where each user's rows begin.
    num_seen: int32 [U], distinct items.
    num_items: int32 [], I.
  """

  unseen_below: jax.Array
  rank: jax.Array
  start: jax.Array
  num_seen: jax.Array
  num_items: jax.Array


def make_history(
  data: PyTree, counted: jax.Array, num_users: int, num_items: int
) -> History:
  """Sorts the interactions for `draw_unseen`.

  Args:
    data: {"x": int [N, 2]}; duplicates count once.
    counted: bool [N], the rows that count as seen. All of them while unlearning,
      so that no forgotten item serves as a negative; the retained ones where a
      model is trained without the others.
    num_users: U, static.
    num_items: I, static.
  """
  pairs = pairs_of(data)
  user = jnp.where(counted, pairs[:, 0], num_users).astype(jnp.int32)
  item = jnp.where(counted, pairs[:, 1], 0).astype(jnp.int32)
  user, item = jax.lax.sort((user, item), num_keys=2)
  start = jnp.searchsorted(user, jnp.arange(num_users + 1)).astype(jnp.int32)
  before = lambda x: jnp.concatenate([jnp.full(1, -1, x.dtype), x[:-1]])
  is_new = (user != before(user)) | (item != before(item))
  # Distinct rows up to each one, over all users; less those of earlier users.
  running = jnp.cumsum(is_new, dtype=jnp.int32)
  total = jnp.concatenate([jnp.zeros(1, jnp.int32), running])
  rank = running - 1 - total[start[jnp.minimum(user, num_users)]]
  num_seen = total[start[1:]] - total[start[:-1]]
  return History(
    item - rank, rank, start, num_seen, jnp.asarray(num_items, jnp.int32)
  )


def draw_unseen(
  history: History, user: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """An unseen item for each of some users, uniformly.

  Args:
    history: see `make_history`.
    user: int [B].
    keys: PRNG keys [B].

  Returns:
    Items int32 [B], and bool [B], whether there is one: for a user who has seen
    every item the item is meaningless and the entry False.
  """
  free = history.num_items - history.num_seen[user]
  draw = lambda key, n: jax.random.randint(key, (), 0, n, jnp.int32)
  number = jax.vmap(draw)(keys, jnp.maximum(free, 1))
  low, end = history.start[user], history.start[user + 1]
  last = history.rank.shape[0] - 1

  # The first row with more than `number` unseen items below it.
  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    found = history.unseen_below[jnp.minimum(middle, last)] > number
    is_open = low < high
    return (
      jnp.where(is_open & ~found, middle + 1, low),
      jnp.where(is_open & found, middle, high),
    )

  rounds = history.rank.shape[0].bit_length()
  low, _ = jax.lax.fori_loop(0, rounds, halve, (low, end))
  inside = history.rank[jnp.minimum(low, last)]
  below = jnp.where(low < end, inside, history.num_seen[user])
  return jnp.minimum(number + below, history.num_items - 1), free > 0
