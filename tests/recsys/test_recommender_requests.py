"""Requests and data: what they select, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recsys.small_recsys import dataset
from refusals import refused

from jaxunlearn import recsys
from jaxunlearn.recsys import requests

DATA = {"x": jnp.array([[0, 1], [2, 1], [2, 3], [0, 0], [1, 2]])}


def test_users_items_and_groups_select_their_interactions():
  assert requests.users(DATA, [2]).tolist() == [False, True, True, False, False]
  assert requests.items(DATA, [1, 2]).tolist() == [
    True,
    True,
    False,
    False,
    True,
  ]
  genre = ["a", "b", "c", "b"]
  found = requests.item_groups(DATA, genre, "b")
  assert found.tolist() == [True, True, True, False, False]
  found = requests.item_groups(DATA, np.array([1, 2, 2, 3]), [1, 3])
  assert found.tolist() == [False, False, True, True, False]


def test_a_changed_preference_selects_some_users_rows_of_some_items():
  disliked = jnp.array([False, True, True, False])
  found = requests.changed_preference(DATA, [0, 2], disliked)
  assert found.tolist() == [True, True, False, False, False]
  ratings = jnp.array([5.0, 3.0, 4.0, jnp.nan, 1.0])
  found = requests.lowered_ratings(DATA, ratings, 4)
  assert found.tolist() == [False, True, False, False, True]


def test_a_fraction_of_the_interactions_is_that_many():
  data = dataset().train
  found = requests.interactions(jax.random.key(0), data, 0.25)
  assert int(found.sum()) == round(0.25 * found.size)
  other = requests.interactions(jax.random.key(1), data, 0.25)
  assert not np.array_equal(found, other)


def test_padded_requests_can_be_mapped():
  ids = jnp.array([[0, -1], [2, 1], [-1, 1]])
  many = jax.jit(jax.vmap(lambda i: requests.users(DATA, i)))(ids)
  for lane, wanted in enumerate(([0], [2, 1], [1])):
    np.testing.assert_array_equal(many[lane], requests.users(DATA, wanted))


def test_bad_requests_are_refused():
  refused("user that has interactions, got id 7", requests.users, DATA, [0, 7])
  refused("item that has interactions, got id 9", requests.items, DATA, [9])
  with pytest.raises(ValueError, match="user that has interactions, got id -2"):
    requests.users(DATA, [-2, 0])
  refused("at least one user id", requests.users, DATA, [-1])
  refused("user ids of integer dtype", requests.users, DATA, [0.5])
  refused("empty request", requests.interactions, jax.random.key(0), DATA, 0.01)
  with pytest.raises(ValueError, match="covers all 5 rows"):
    requests.interactions(jax.random.key(0), DATA, 1.0)
  with pytest.raises(ValueError, match=r"fraction in \[0, 1\]"):
    requests.interactions(jax.random.key(0), DATA, 1.5)
  with pytest.raises(ValueError, match="a group among"):
    requests.item_groups(DATA, ["a", "b", "b", "b"], "z")
  with pytest.raises(ValueError, match=r"item ids in 0 .. 2"):
    requests.item_groups(DATA, ["a", "b", "b"], "a")
  refused("covers all", requests.item_groups, DATA, ["a"] * 4, "a")
  with pytest.raises(ValueError, match="empty request"):
    requests.changed_preference(
      DATA, [1], jnp.array([True, True, False, False])
    )
  with pytest.raises(ValueError, match=r"bool \[num_items\]"):
    requests.changed_preference(DATA, [1], jnp.ones(4))
  with pytest.raises(ValueError, match=r"new_rating \[5\]"):
    requests.lowered_ratings(DATA, jnp.ones(4), 3)
  refused("empty request", requests.lowered_ratings, DATA, jnp.full(5, 4.0), 4)


def test_bad_interactions_are_refused():
  make = recsys.interactions
  refused("user 1 and item 2 twice", make, [1, 0, 1], [2, 2, 2], 2, 3)
  refused(r"user ids in 0 \.\. 1, got 0 \.\. 2", make, [0, 2], [0, 0], 2, 3)
  refused(r"item ids in 0 \.\. 2", make, [0, 1], [0, -1], 2, 3)
  refused("integer dtype", make, [0.0, 1.0], [0, 1], 2, 3)
  refused("users .* and items", make, [0, 1], [0], 2, 3)
  refused(r"got int32 \(0, 2\)", make, np.zeros(0, int), np.zeros(0, int), 2, 3)
  refused(
    r'"x"\] int \[N > 0, 2\]',
    requests.users,
    {"x": jnp.zeros((3, 3), int)},
    [0],
  )
  refused(
    r"got float32 \(3, 2\)", requests.users, {"x": jnp.zeros((3, 2))}, [0]
  )
  refused('got no "x"', requests.users, jnp.zeros((3, 2), int), [0])


def test_a_split_parts_each_users_rows():
  rng = np.random.default_rng(0)
  flat = rng.choice(30 * 40, 400, replace=False)
  user, item = np.divmod(flat, 40)
  user = np.append(user[user < 29], [29, 29])  # One user with two rows only.
  item = np.append(item[: len(user) - 2], [3, 4])
  pairs = np.unique(np.stack([user, item], 1), axis=0)
  data = recsys.interactions(pairs[:, 0], pairs[:, 1], 30, 40)
  parts = recsys.split_by_user(data, 30, 40, seed=0)
  joined = np.concatenate([np.asarray(p["x"]) for p in parts[:3]])
  order = np.lexsort(joined.T[::-1])
  np.testing.assert_array_equal(joined[order], pairs)
  count = np.bincount(pairs[:, 0], minlength=30)
  wanted = np.maximum(np.floor(count * 0.1 + 0.5), 1) * (count >= 3)
  for held in (parts.validation, parts.test):
    np.testing.assert_array_equal(
      np.bincount(np.asarray(held["x"][:, 0]), minlength=30), wanted
    )
  # A large share leaves every user something to train on.
  large = recsys.split_by_user(data, 30, 40, seed=0, held_out=0.49)
  left = np.bincount(np.asarray(large.train["x"][:, 0]), minlength=30)
  np.testing.assert_array_equal(left > 0, count > 0)
  other = recsys.split_by_user(data, 30, 40, seed=1)
  assert not np.array_equal(parts.test["x"], other.test["x"])
  with pytest.raises(ValueError, match=r"held_out in \(0, 0.5\)"):
    recsys.split_by_user(data, 30, 40, seed=0, held_out=0.5)
  refused(r"user ids in 0 \.\. 9", recsys.split_by_user, data, 10, 40, seed=0)


def test_generated_data_follow_their_factors():
  data, users, items = recsys.synthetic(jax.random.key(3), num_users=200)
  pairs = np.concatenate([np.asarray(p["x"]) for p in data[:3]])
  assert len(np.unique(pairs, axis=0)) == len(pairs) == 200 * 15
  assert len(data.test["x"]) == len(data.validation["x"]) == 200
  scores = np.asarray(users @ items.T)
  taken = scores[pairs[:, 0], pairs[:, 1]].mean()
  # Scores have mean 0 and standard deviation 2 by construction.
  assert taken > 0.5
  noise = np.asarray(jnp.concatenate(list(data.features.values()), 1) - items)
  assert 0.05 < noise.std() < 0.2
  for bad, match in (
    ({"dim": 3}, "dim even"),
    ({"per_user": 50}, r"per_user in 10 \.\. 49"),
    ({"num_users": 0}, "num_users > 0"),
    ({"sharpness": -1.0}, "sharpness >= 0"),
  ):
    refused(match, recsys.synthetic, jax.random.key(0), **bad)
