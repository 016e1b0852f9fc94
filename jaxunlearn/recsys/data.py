"""Interactions as arrays: checked, split by user, or generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.recsys.types import check_pairs, pairs_of


class Dataset(NamedTuple):
  """A recommender's data.

  Attributes:
    train: {"x": int32 [N, 2]}, (user, item); requests are masks over these.
    validation: the same, held out.
    test: the same, held out.
    num_users: U.
    num_items: I.
    features: by modality float32 [I, F]; may be empty.
  """

  train: dict[str, jax.Array]
  validation: dict[str, jax.Array]
  test: dict[str, jax.Array]
  num_users: int
  num_items: int
  features: dict[str, jax.Array]


def interactions(
  users: Any, items: Any, num_users: int, num_items: int
) -> dict[str, jax.Array]:
  """Checked interactions {"x": int32 [N, 2]}.

  Args:
    users: int [N], concrete.
    items: int [N].
    num_users: U.
    num_items: I.

  Raises:
    ValueError: ids out of range or no integers, columns of two lengths, no
      interactions, or one that comes twice (drop it, or count it as one).

  Example:
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 0, 1], [2, 3, 0], 2, num_items=4)
    >>> data["x"].tolist()
    [[0, 2], [0, 3], [1, 0]]
  """
  shaped("users [N] and items [N]", users, items)
  users, items = np.asarray(users), np.asarray(items)
  checks.labels(users, num_users, "user ids")
  checks.labels(items, num_items, "item ids")
  pairs = np.stack([users, items], axis=1).astype(np.int32)
  pairs_of({"x": pairs})
  order = np.lexsort((items, users))
  ordered = pairs[order]
  twice = (ordered[1:] == ordered[:-1]).all(axis=1)
  if twice.any():
    user, item = ordered[1:][twice][0]
    raise ValueError(
      f"Expected each interaction once, got user {user} and item {item} twice."
    )
  return {"x": jnp.asarray(pairs)}


def split_by_user(
  data: dict[str, jax.Array],
  num_users: int,
  num_items: int,
  *,
  seed: int,
  held_out: float = 0.1,
  features: Mapping[str, Any] | None = None,
) -> Dataset:
  """Holds out a share of each user's interactions, twice.

  Of a user with n interactions `round(held_out * n)`, at least one and at most
  (n - 1) / 2, are for validation and as many for the test, so that one is left
  for training; a user with fewer than 3 keeps them all for it.

  Args:
    data: {"x": int [N, 2]}, concrete.
    num_users: U.
    num_items: I.
    seed: of the split.
    held_out: each share, in (0, 0.5).
    features: by modality [I, F], passed on as float32.

  Raises:
    ValueError: a share outside (0, 0.5); ids out of range.

  Example:
    >>> from jaxunlearn import recsys
    >>> users, items = [0] * 5 + [1] * 2, [0, 1, 2, 3, 4, 0, 1]
    >>> data = recsys.interactions(users, items, num_users=2, num_items=5)
    >>> parts = recsys.split_by_user(data, 2, 5, seed=0, held_out=0.2)
    >>> [len(part["x"]) for part in parts[:3]]  # User 1 has too few.
    [5, 1, 1]
  """
  if not 0 < held_out < 0.5:
    raise ValueError(f"Expected held_out in (0, 0.5), got {held_out}.")
  check_pairs(pairs_of(data), num_users, num_items)
  pairs = np.asarray(data["x"])
  rng = np.random.default_rng(seed)
  order = np.lexsort((rng.random(len(pairs)), pairs[:, 0]))
  user = pairs[order, 0]
  count = np.bincount(user, minlength=num_users)
  place = np.arange(len(user)) - np.repeat(np.cumsum(count) - count, count)
  share = np.maximum(np.floor(held_out * count + 0.5).astype(int), 1)
  share = np.where(count < 3, 0, np.minimum(share, (count - 1) // 2))[user]
  part = np.where(place < share, 2, np.where(place < 2 * share, 1, 0))
  # In the order of the rows that came in.
  parts = np.empty(len(user), int)
  parts[order] = part
  take = lambda k: {"x": jnp.asarray(pairs[parts == k], jnp.int32)}
  shown = {k: jnp.asarray(v, jnp.float32) for k, v in (features or {}).items()}
  return Dataset(take(0), take(1), take(2), num_users, num_items, shown)


def synthetic(
  key: jax.Array,
  *,
  num_users: int = 60,
  num_items: int = 50,
  dim: int = 4,
  per_user: int = 15,
  sharpness: float = 3.0,
  feature_noise: float = 0.1,
) -> tuple[Dataset, jax.Array, jax.Array]:
  """Interactions drawn from known factors, with two modalities.

  A user takes `per_user` items without replacement, with probabilities softmax
  of `sharpness` times the product of the factors; a fifth of them is held out,
  half for validation. The modalities show the first and the second half of the
  items' factors with noise.

  Args:
    key: PRNG key.
    num_users: U.
    num_items: I.
    dim: of the factors, even, >= 2.
    per_user: interactions a user, in 10 .. num_items - 1.
    sharpness: 0 makes interactions random.
    feature_noise: standard deviation.

  Returns:
    The data and the factors of users [U, dim] and of items [I, dim].

  Raises:
    ValueError: sizes out of the ranges above.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys
    >>> made, of_users, of_items = recsys.synthetic(
    ...   jax.random.key(0), num_users=20, num_items=30, per_user=10
    ... )
    >>> made.train["x"].shape, made.test["x"].shape  # 8 and 1 of each 10.
    ((160, 2), (20, 2))
    >>> made.features["first"].shape
    (30, 2)
  """
  checks.counts(num_users=num_users, num_items=num_items)
  checks.non_negative(sharpness=sharpness, feature_noise=feature_noise)
  if dim < 2 or dim % 2:
    raise ValueError(f"Expected dim even and >= 2, got {dim}.")
  if not 10 <= per_user < num_items:
    raise ValueError(
      f"Expected per_user in 10 .. {num_items - 1}, got {per_user}."
    )
  user_key, item_key, draw_key, order_key, noise_key = jax.random.split(key, 5)
  of_users = jax.random.normal(user_key, (num_users, dim))
  of_items = jax.random.normal(item_key, (num_items, dim))
  logits = sharpness * (of_users @ of_items.T) / dim**0.5
  # The largest of logits with Gumbel noise are a draw without replacement.
  noisy = logits + jax.random.gumbel(draw_key, logits.shape)
  _, taken = jax.lax.top_k(noisy, per_user)
  taken = jax.random.permutation(order_key, taken, axis=1, independent=True)
  held = max(per_user // 10, 1)

  def part(start: int, stop: int) -> dict[str, jax.Array]:
    ids = taken[:, start:stop]
    owner = jnp.broadcast_to(jnp.arange(num_users)[:, None], ids.shape)
    pairs = jnp.stack([owner.reshape(-1), ids.reshape(-1)], axis=1)
    return {"x": pairs.astype(jnp.int32)}

  noise = feature_noise * jax.random.normal(noise_key, of_items.shape)
  shown = of_items + noise
  features = {"first": shown[:, : dim // 2], "second": shown[:, dim // 2 :]}
  data = Dataset(
    part(0, per_user - 2 * held),
    part(per_user - 2 * held, per_user - held),
    part(per_user - held, per_user),
    num_users,
    num_items,
    features,
  )
  return data, of_users, of_items
