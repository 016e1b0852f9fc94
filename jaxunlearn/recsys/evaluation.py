"""Full ranking: every item is a candidate, users come in chunks.

Ties: of equal scores the item with the lower number ranks first. A model that
diverged, to nan or to +inf, ranks nothing, and has not forgotten: a user with
ground truth and a candidate of such a score makes every metric nan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.recsys.data import Dataset
from jaxunlearn.recsys.types import Embeddings, check_pairs, pairs_of

TARGETS = ("test", "validation", "forget", "retain")


class Ranking(NamedTuple):
  """Ranking metrics, each float32 [K], an entry for each cut-off, in [0, 1].

  Higher is better for the test; for forgotten interactions the retrained
  model's value is the aim, not 0. All are nan if no user has ground truth,
  or if the model gave one of them no ranking.

  Attributes:
    recall: hits over the user's ground truth, mean over users.
    ndcg: discounted gain 1 / log2(rank + 1) over the largest possible.
    precision: hits over k, also where there are fewer than k items.
    map: sum over hits of the precision at their rank, over the smaller of k and
      the user's ground truth.
    num_users: int32 [], users with ground truth.
  """

  recall: jax.Array
  ndcg: jax.Array
  precision: jax.Array
  map: jax.Array
  num_users: jax.Array


def ranking(
  data: PyTree,
  num_users: int,
  num_items: int,
  *,
  ks: Sequence[int] = (5, 10, 20, 50),
  chunk_size: int = 256,
) -> Callable[[Embeddings, jax.Array, jax.Array], Ranking]:
  """Makes the ranking metrics of models on given interactions.

  Args:
    data: {"x": int [N, 2]}, concrete, all interactions that are ever ground
      truth or seen; sorted here, once.
    num_users: U.
    num_items: I.
    ks: the cut-offs.
    chunk_size: users at a time: memory holds a few [chunk_size, I] matrices.

  Returns:
    `(embeddings, truth, seen) -> Ranking`, to be jitted and mapped. `truth` and
    `seen` are bool [N]: what counts as ground truth, and what is no candidate.
    What is seen is no ground truth; duplicates count once.

  Raises:
    ValueError: ids out of range, cut-offs that are not positive, a mask or
      embeddings of a wrong shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 0, 0], [0, 2, 3], 1, num_items=4)
    >>> rank = recsys.ranking(data, 1, 4, ks=(1, 2))
    >>> scores = jnp.array([[9.0], [3.0], [2.0], [1.0]])
    >>> made = recsys.Embeddings(jnp.ones((1, 1)), scores)
    >>> seen = jnp.array([True, False, False])  # Item 0; it ranks 1, 2, 3.
    >>> rank(made, ~seen, seen).recall.tolist()  # Of items 2 and 3.
    [0.0, 0.5]
  """
  if not ks:
    raise ValueError("Expected at least one cut-off in ks, got none.")
  for k in ks:
    checks.counts(k=k)
  checks.counts(chunk_size=chunk_size)
  check_pairs(pairs_of(data), num_users, num_items)
  pairs = np.asarray(data["x"])
  order = np.argsort(pairs[:, 0], kind="stable")
  sorted_user = pairs[order, 0]
  size = min(chunk_size, num_users)
  number = np.arange(-(-num_users // size))
  # The last chunk starts early; users that were counted count no more.
  first_user = np.minimum(number * size, num_users - size)
  low = np.searchsorted(sorted_user, first_user)
  window = int((np.searchsorted(sorted_user, first_user + size) - low).max())
  window = max(window, 1)
  first_row = np.minimum(low, len(order) - window)
  cuts = np.asarray(ks)
  top = int(min(cuts.max(), num_items))
  discount = 1 / np.log2(np.arange(cuts.max()) + 2.0)
  ideal = jnp.asarray(np.append(0, np.cumsum(discount)), jnp.float32)
  gains = jnp.asarray(discount[None, :top], jnp.float32)
  places = np.minimum(cuts, top) - 1
  rows = jnp.asarray(order, jnp.int32)
  user_of = jnp.asarray(sorted_user, jnp.int32)
  item_of = jnp.asarray(pairs[order, 1], jnp.int32)
  chunks = jnp.asarray(
    np.stack([number * size, first_user, first_row], 1), jnp.int32
  )

  def of_chunk(made, truth, seen, chunk):
    new_from, user, row = chunk
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, row, window)
    local = cut(user_of) - user
    local = jnp.where((local >= 0) & (local < size), local, size)
    item, place = cut(item_of), cut(rows)

    def table(mask):
      empty = jnp.zeros((size, num_items), bool)
      return empty.at[local, item].max(mask[place], mode="drop")

    is_seen = table(seen)
    wanted = table(truth) & ~is_seen
    users = jax.lax.dynamic_slice_in_dim(made.users, user, size)
    scores = users @ made.items.T
    is_lost = ~((scores < jnp.inf) | is_seen).all(axis=1)
    scores = jnp.where(is_seen, -jnp.inf, scores)
    value, found = jax.lax.top_k(scores, top)
    hit = jnp.take_along_axis(wanted, found, axis=1) & (value > -jnp.inf)
    hit = hit.astype(jnp.float32)
    hits = jnp.cumsum(hit, axis=1)
    rank = jnp.arange(1, top + 1, dtype=jnp.float32)[None]
    gain = jnp.cumsum(hit * gains, axis=1)
    at_hits = jnp.cumsum(hit * hits / rank, axis=1)
    size_of_truth = wanted.sum(axis=1)
    truth_size = jnp.maximum(size_of_truth, 1)[:, None]
    possible = jnp.minimum(truth_size, jnp.asarray(cuts)[None])
    values = jnp.stack(
      [
        hits[:, places] / truth_size,
        gain[:, places] / ideal[possible],
        hits[:, places] / jnp.asarray(cuts, jnp.float32)[None],
        at_hits[:, places] / possible,
      ],
      axis=1,
    )
    values = jnp.where(is_lost[:, None, None], jnp.nan, values)
    is_new = user + jnp.arange(size) >= new_from
    counted = (size_of_truth > 0) & is_new
    total = jnp.where(counted[:, None, None], values, 0.0).sum(axis=0)
    return total, counted.sum(dtype=jnp.int32)

  def evaluate(
    embeddings: Embeddings, truth: jax.Array, seen: jax.Array
  ) -> Ranking:
    wide = jax.tree.map(
      lambda x: x.astype(jnp.promote_types(jnp.float32, x.dtype)),
      Embeddings(embeddings.users, embeddings.items),
    )
    found = wide.users.shape[0], wide.items.shape[0]
    if found != (num_users, num_items):
      raise ValueError(
        f"Expected embeddings of {num_users} users and {num_items} items, got "
        f"{found[0]} and {found[1]}."
      )
    for name, mask in (("truth", truth), ("seen", seen)):
      checks.request({"x": pairs}, mask, name=name)
      checks.hard_request(mask, name)

    def body(index, sums):
      return jax.tree.map(
        jnp.add, sums, of_chunk(wide, truth, seen, chunks[index])
      )

    start = jnp.zeros((4, len(cuts))), jnp.zeros((), jnp.int32)
    total, count = jax.lax.fori_loop(0, len(number), body, start)
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)
    return Ranking(mean[0], mean[1], mean[2], mean[3], count)

  return evaluate


def evaluator(
  data: Dataset,
  *,
  ks: Sequence[int] = (5, 10, 20, 50),
  chunk_size: int = 256,
) -> Callable[..., Ranking]:
  """Makes the ranking metrics of a data set under requests.

  Args:
    data: the splits.
    ks: the cut-offs.
    chunk_size: users at a time.

  Returns:
    `(embeddings, forget_mask, target="test") -> Ranking`, `target` static:

    - "test", "validation": held-out interactions of users and with items that
      are not forgotten altogether; no training interaction is a candidate.
    - "forget": the request's interactions; retained ones are no candidates.
    - "retain": the retained interactions; forgotten ones are no candidates.

  Raises:
    ValueError: as `ranking`; an unknown target; a request of a wrong shape.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> key = jax.random.key(0)
    >>> made = recsys.synthetic(key, num_users=20, num_items=30)[0]
    >>> evaluate = recsys.evaluator(made, ks=(5, 30))
    >>> nothing = jnp.zeros(len(made.train["x"]), bool)
    >>> shown = recsys.popularity(made.train, ~nothing, 20, 30)
    >>> round(float(evaluate(shown, nothing).recall[1]), 3)  # All 30 items.
    1.0
  """
  parts = data.train, data.validation, data.test
  counts = [pairs_of(part).shape[0] for part in parts]
  joined = jnp.concatenate([pairs_of(part) for part in parts])
  rank = ranking(
    {"x": joined},
    data.num_users,
    data.num_items,
    ks=ks,
    chunk_size=chunk_size,
  )
  kind = jnp.asarray(np.repeat(np.arange(3), counts))
  trained = data.train["x"]
  held = sum(counts[1:])

  def evaluate(
    embeddings: Embeddings, forget_mask: jax.Array, target: str = "test"
  ) -> Ranking:
    checks.one_of(TARGETS, target=target)
    checks.request(data.train, forget_mask)
    checks.hard_request(forget_mask)
    forget = jnp.append(forget_mask, jnp.zeros(held, bool))
    retain = (kind == 0) & ~forget
    if target == "forget":
      return rank(embeddings, forget, retain)
    if target == "retain":
      return rank(embeddings, retain, forget)
    gone = [
      _forgotten(trained[:, side], forget_mask, length)[joined[:, side]]
      for side, length in enumerate((data.num_users, data.num_items))
    ]
    wanted = kind == (2 if target == "test" else 1)
    return rank(embeddings, wanted & ~gone[0] & ~gone[1], kind == 0)

  return evaluate


def popularity(
  data: PyTree, weights: jax.Array, num_users: int, num_items: int
) -> Embeddings:
  """The recommender that shows everybody the most popular items.

  Args:
    data: {"x": int [N, 2]}.
    weights: bool [N], the interactions that count.
    num_users: U.
    num_items: I.

  Returns:
    Embeddings of width 1 whose scores are the items' numbers of interactions.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 1, 2, 0], [0, 0, 0, 1], 3, 2)
    >>> kept = jnp.array([True, True, False, True])
    >>> made = recsys.popularity(data, kept, num_users=3, num_items=2)
    >>> (made.users @ made.items.T)[0].tolist()
    [2.0, 1.0]
  """
  checks.request(data, weights, name="weights")
  check_pairs(pairs_of(data), num_users, num_items)
  counts = jax.ops.segment_sum(
    jnp.asarray(weights).astype(jnp.float32), pairs_of(data)[:, 1], num_items
  )
  return Embeddings(jnp.ones((num_users, 1)), counts[:, None])


def _forgotten(
  column: jax.Array, forget_mask: jax.Array, length: int
) -> jax.Array:
  """Whether all of an id's rows, at least one, are in the request. [length]."""
  count = lambda mask: jax.ops.segment_sum(mask.astype(int), column, length)
  return (count(forget_mask) > 0) & (count(~forget_mask) == 0)
