"""Full ranking against an independent reading in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recsys.small_recsys import dataset, embedded, nothing, trained
from refusals import refused

from jaxunlearn import recsys
from jaxunlearn.core import devices

KS = (1, 3, 5, 40)


def by_hand(scores, pairs, truth, seen, ks):
  """Sorts each user's candidates; ties by item number."""
  num_users, num_items = scores.shape
  sums, count = np.zeros((4, len(ks))), 0
  for user in range(num_users):
    own = pairs[:, 0] == user
    shown = set(pairs[own & seen, 1])
    wanted = set(pairs[own & truth, 1]) - shown
    if not wanted:
      continue
    count += 1
    candidates = [i for i in range(num_items) if i not in shown]
    order = sorted(candidates, key=lambda i: (-scores[user, i], i))
    hit = np.array([i in wanted for i in order], float)
    for c, k in enumerate(ks):
      top = hit[:k]
      rank = np.arange(1, len(top) + 1)
      gain = (top / np.log2(rank + 1)).sum()
      best = (1 / np.log2(np.arange(1, min(k, len(wanted)) + 1) + 1)).sum()
      precision_at = np.cumsum(top) / rank
      sums[:, c] += (
        top.sum() / len(wanted),
        gain / best,
        top.sum() / k,
        (top * precision_at).sum() / min(k, len(wanted)),
      )
  return sums / max(count, 1), count


def random_case(seed, num_users=13, num_items=17, rows=90):
  rng = np.random.default_rng(seed)
  flat = rng.choice(num_users * num_items, rows, replace=False)
  pairs = np.stack(np.divmod(flat, num_items), 1)
  pairs = pairs[pairs[:, 0] % 6 != 5]  # Some users have nothing at all.
  truth = (rng.random(len(pairs)) < 0.4) & (pairs[:, 0] % 5 != 4)
  seen = rng.random(len(pairs)) < 0.4  # Some rows are both.
  # Small integers, so that many scores are equal, and exactly so.
  made = recsys.Embeddings(
    jnp.asarray(rng.integers(-1, 2, (num_users, 2)), jnp.float32),
    jnp.asarray(rng.integers(-1, 2, (num_items, 2)), jnp.float32),
  )
  return pairs, truth, seen, made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk_size", [4, 13, 100])
def test_metrics_agree_with_numpy_on_ties_empty_users_and_large_k(
  seed, chunk_size
):
  pairs, truth, seen, made = random_case(seed)
  rank = recsys.ranking(
    {"x": jnp.asarray(pairs)}, 13, 17, ks=KS, chunk_size=chunk_size
  )
  found = jax.jit(rank)(made, jnp.asarray(truth), jnp.asarray(seen))
  scores = np.asarray(made.users, float) @ np.asarray(made.items, float).T
  wanted, count = by_hand(scores, pairs, truth, seen, KS)
  assert 0 < count < 13
  assert int(found.num_users) == count
  np.testing.assert_allclose(jnp.stack(found[:4]), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lost", [jnp.nan, jnp.inf])
def test_a_model_that_diverged_has_no_ranking(lost):
  pairs, truth, seen, made = random_case(1)
  truth, seen = jnp.asarray(truth), jnp.asarray(seen)
  data = {"x": jnp.asarray(pairs)}
  rank = jax.jit(recsys.ranking(data, 13, 17, ks=KS))
  user = int(pairs[np.flatnonzero(truth & ~seen)[0], 0])
  for broken in (
    made._replace(items=made.items.at[3].set(lost)),
    made._replace(users=made.users.at[user].set(lost)),
    jax.tree.map(lambda x: x * lost, made),
  ):
    found = rank(broken, truth, seen)
    assert np.isnan(jnp.stack(found[:4])).all()
  # A user without ground truth, and an item that is no candidate, are not read.
  other = np.setdiff1d(np.arange(13), pairs[np.asarray(truth & ~seen), 0])[0]
  aside = made._replace(users=made.users.at[other].set(lost))
  same = jnp.stack(rank(aside, truth, seen)[:4])
  np.testing.assert_array_equal(same, jnp.stack(rank(made, truth, seen)[:4]))


def test_no_ground_truth_gives_nan():
  pairs, _, _, made = random_case(0)
  none = jnp.zeros(len(pairs), bool)
  found = recsys.ranking({"x": jnp.asarray(pairs)}, 13, 17)(made, none, none)
  assert np.isnan(found.recall).all() and int(found.num_users) == 0


def test_memory_follows_the_chunk_and_not_the_users():
  """A million users and 500 items: the scores alone would be 2 GB."""
  num_users, num_items = 1_000_000, 500
  pairs = np.stack([np.arange(num_users), np.arange(num_users) % num_items], 1)
  rank = recsys.ranking(
    {"x": pairs}, num_users, num_items, ks=(20,), chunk_size=1024
  )
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  mask = jax.ShapeDtypeStruct((num_users,), jnp.bool_)
  made = recsys.Embeddings(shape(num_users, 8), shape(num_items, 8))
  assert devices.program_bytes(rank, made, mask, mask) < 64 * 2**20


def test_targets_count_the_right_interactions():
  data = dataset()
  evaluate = recsys.evaluator(data, ks=(5, 20))
  jitted = jax.jit(evaluate, static_argnums=2)
  pairs = np.asarray(data.train["x"])
  mask = np.asarray(recsys.requests.users(data.train, [2, 7]))
  mask = mask | (pairs[:, 1] == 4)
  model, variables = trained()
  made = embedded(model, variables, data.train, nothing())
  scores = np.asarray(made.users @ made.items.T, float)
  all_pairs = np.concatenate([np.asarray(p["x"]) for p in data[:3]])
  kind = np.repeat([0, 1, 2], [len(p["x"]) for p in data[:3]])
  forget = np.append(mask, np.zeros(len(all_pairs) - len(mask), bool))
  live = ~np.isin(all_pairs[:, 0], [2, 7]) & (all_pairs[:, 1] != 4)
  cases = {
    "test": ((kind == 2) & live, kind == 0),
    "validation": ((kind == 1) & live, kind == 0),
    "forget": (forget, (kind == 0) & ~forget),
    "retain": ((kind == 0) & ~forget, forget),
  }
  for target, (truth, seen) in cases.items():
    found = jitted(made, jnp.asarray(mask), target)
    wanted, count = by_hand(scores, all_pairs, truth, seen, (5, 20))
    assert int(found.num_users) == count > 0
    np.testing.assert_allclose(
      jnp.stack(found[:4]), wanted, rtol=1e-5, err_msg=target
    )


def test_popularity_ranks_by_the_number_of_interactions_that_count():
  data = {"x": jnp.array([[0, 1], [1, 1], [2, 0], [2, 2], [1, 2], [0, 2]])}
  counted = jnp.array([True, True, True, True, False, False])
  made = recsys.popularity(data, counted, 3, 4)
  np.testing.assert_array_equal(made.items[:, 0], [1, 2, 1, 0])
  np.testing.assert_array_equal(made.users @ made.items.T, [[1, 2, 1, 0]] * 3)


def test_bad_input_is_refused():
  pairs, truth, _, made = random_case(0)
  data = {"x": jnp.asarray(pairs)}
  rank = recsys.ranking(data, 13, 17)
  ok = jnp.asarray(truth)
  refused("at least one cut-off", recsys.ranking, data, 13, 17, ks=())
  refused("k > 0", recsys.ranking, data, 13, 17, ks=(0,))
  refused("chunk_size > 0", recsys.ranking, data, 13, 17, chunk_size=0)
  refused(r"item ids in 0 \.\. 9", recsys.ranking, data, 13, 10)
  with pytest.raises(ValueError, match="embeddings of 13 users and 17 items"):
    rank(made._replace(users=made.users[1:]), ok, ok)
  refused("truth of shape", rank, made, ok[1:], ok)
  refused("seen of dtype bool", rank, made, ok, ok.astype(jnp.float32))
  evaluate = recsys.evaluator(dataset())
  refused("target to be one of", evaluate, made, nothing(), "train")
  refused("forget_mask of shape", evaluate, made, nothing()[1:])
