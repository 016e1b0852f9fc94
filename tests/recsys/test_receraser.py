"""RecEraser: balanced shards, and only the touched ones are retrained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change
from recsys.small_recsys import dataset, embedded, nothing, small, trained
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import recsys

SHARDS = 3
STEPS = {
  "optimizer": optax.adam(0.02),
  "num_steps": 5,
  "batch_size": 32,
  "aggregator": ju.Fit(optax.adagrad(0.05), 4, 32),
}
KEY = jax.random.key(0)


@functools.cache
def shard():
  """By user, so that a user's request touches one shard."""
  return dataset().train["x"][:, 0] % SHARDS


@functools.cache
def first():
  fit = lambda d: recsys.train_shards(
    small(), shard(), SHARDS, d, ~nothing(), KEY, **STEPS
  )
  return jax.jit(fit)(dataset().train)[0]


@pytest.mark.parametrize("by", ["interaction", "user"])
def test_shards_cover_the_data_within_their_capacity(by):
  data = dataset().train
  model, variables = trained()
  made = embedded(model, variables, data, nothing())
  part = jax.jit(
    lambda m, k: recsys.balanced_shards(m, data, SHARDS, k, by=by)
  )(made, KEY)
  n = len(data["x"])
  assert part.shape == (n,) and set(np.asarray(part).tolist()) == {0, 1, 2}
  if by == "interaction":
    assert np.bincount(part).max() <= np.ceil(1.2 * n / SHARDS)
  else:
    owner = np.asarray(data["x"][:, 0])
    of_user = [set(np.asarray(part)[owner == u].tolist()) for u in range(24)]
    assert all(len(s) == 1 for s in of_user)
    count = np.bincount([s.pop() for s in of_user])
    assert count.max() <= np.ceil(1.2 * 24 / SHARDS)


def test_two_clusters_of_users_become_two_shards():
  users = jnp.array([[0.0], [0.1], [9.0], [9.1]])
  made = recsys.Embeddings(users, jnp.ones((2, 1)))
  data = {"x": jnp.array([[0, 0], [1, 1], [2, 0], [3, 1]])}
  keys = jax.random.split(KEY, 8)
  part = jax.jit(
    jax.vmap(
      lambda k: recsys.balanced_shards(made, data, 2, k, by="user", slack=1.0)
    )
  )(keys)
  parts = {tuple(p) for p in np.asarray(part).tolist()}
  assert all(sum(p) == 2 for p in parts)  # Two users each.
  # Both first centroids in one cluster may end elsewhere; not all eight do.
  assert parts & {(0, 0, 1, 1), (1, 1, 0, 0)}


@pytest.mark.slow
def test_a_request_retrains_the_shard_that_it_touches():
  data = dataset().train
  mask = recsys.requests.users(data, [4])  # Of shard 1.
  method = recsys.receraser(small(), shard(), SHARDS, **STEPS)
  params, info = jax.jit(method)(first(), data, mask, jax.random.key(1))
  np.testing.assert_array_equal(info["retrained"], [False, True, False])
  before = first().params["shards"]["users"]
  after = params.params["shards"]["users"]
  np.testing.assert_array_equal(after[0], before[0])
  np.testing.assert_array_equal(after[2], before[2])
  assert np.abs(after[1] - before[1]).max() > 1e-3
  both = (p.params["aggregator"] for p in (params, first()))
  assert change(*both) > 1e-3


@pytest.mark.slow
def test_unlearning_is_training_that_never_saw_the_request():
  data = dataset().train
  mask = recsys.requests.users(data, [4])
  method = jax.jit(recsys.receraser(small(), shard(), SHARDS, **STEPS))
  unlearned, _ = method(first(), data, mask, jax.random.split(KEY)[1])
  # Neither the aggregation nor a shard may remember the rows, whatever they
  # were; the key is the one of the first training's second half.
  other = {"x": jnp.where(mask[:, None], jnp.array([[7, 0]]), data["x"])}
  fit = lambda d: recsys.train_shards(
    small(), shard(), SHARDS, d, ~mask, KEY, **STEPS
  )
  wanted, info = jax.jit(fit)(other)
  assert info["retrained"].all()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    unlearned,
    wanted,
  )


def test_the_aggregate_is_a_weighted_sum_of_the_shards():
  data = dataset().train
  whole = recsys.sharded(small(), shard(), SHARDS)
  made = embedded(whole, first(), data, nothing())
  parts = []
  for k in range(SHARDS):
    params = jax.tree.map(lambda x, k=k: x[k], first().params["shards"])
    parts.append(embedded(small(), params, data, shard() != k).users)
  p = jax.tree.map(
    lambda x: np.asarray(x, float), first().params["aggregator"]["users"]
  )
  moved = [
    np.asarray(e, float) @ p["transform"][k] + p["bias"][k]
    for k, e in enumerate(parts)
  ]
  scores = [
    np.maximum(e @ p["attention"] + p["attention_bias"], 0) @ p["query"]
    for e in moved
  ]
  share = np.exp(scores) / np.exp(scores).sum(axis=0)
  wanted = sum(s[:, None] * e for s, e in zip(share, moved))
  np.testing.assert_allclose(made.users, wanted, atol=2e-5)


def test_bad_input_is_refused():
  data = dataset().train
  made = recsys.Embeddings(jnp.ones((24, 2)), jnp.ones((20, 2)))
  part = lambda count, **o: recsys.balanced_shards(made, data, count, KEY, **o)
  method = lambda s: recsys.receraser(small(), s, SHARDS, **STEPS)
  asked, soft = recsys.requests.users(data, [4]), jnp.ones(len(data["x"]))
  first_of = lambda weights: recsys.train_shards(
    small(), shard(), SHARDS, data, weights, KEY, **STEPS
  )
  for call, match in (
    (lambda: part(2, slack=0.5), "slack >= 1"),
    (lambda: part(2, by="item"), "by to be one of"),
    (lambda: part(25, by="user"), "num_shards <= 24"),
    (lambda: recsys.sharded(small(), shard(), 0), "num_shards > 0"),
    (lambda: recsys.sharded(small(), shard(), 2), r"shard in 0 \.\. 1"),
    (lambda: method(shard()[1:])(first(), data, asked, KEY), "shard of shape"),
    (
      lambda: method(shard())(first(), data, soft * 0, KEY),
      "dtype bool for this method",
    ),
    (lambda: first_of(soft), "weights of dtype bool"),
    (lambda: first_of(nothing()), "weights to select rows"),
  ):
    refused(match, call)
