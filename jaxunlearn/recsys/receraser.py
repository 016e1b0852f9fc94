"""RecEraser: a recommender of shards, of which a request retrains the touched.

Source: Chen, Sun, Zhang and Ding (2022), "Recommendation Unlearning",
arXiv:2201.06820.
Class: exact with respect to its own training, given the partition; the partition
itself may rest on embeddings that saw every interaction. With one key it gives
what training without the request would have given.
Data access: all interactions of the touched shards, then all retained ones.
Cost: training of the touched shards, and of the aggregation.

Differences from the published code: a centroid is the mean per dimension (the
code averages over all entries); no dropout in the aggregation.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Variables
from jaxunlearn.recsys.objectives import SEEN, Seen, seen, triples
from jaxunlearn.recsys.types import (
  Embeddings,
  Recommender,
  check_data,
  pairs_of,
)

AGGREGATE = Fit(optax.adagrad(0.05), 100, 2048)


def balanced_shards(
  embeddings: Embeddings,
  data: PyTree,
  num_shards: int,
  key: jax.Array,
  *,
  by: str = "interaction",
  slack: float = 1.2,
  num_rounds: int = 5,
) -> jax.Array:
  """Parts the interactions into clusters of bounded size.

  Rounds of: the closest pair of a row and a centroid first, put the row into
  that shard unless it is full; then move the centroids to the means.

  Args:
    embeddings: of a pretrained model.
    data: {"x": int [N, 2]}.
    num_shards: K, static.
    key: PRNG key of the first centroids.
    by: static; "interaction" takes the product of the squared distances of user
      and item, "user" keeps a user's interactions together.
    slack: a shard holds at most `ceil(slack * M / K)` of the M interactions, or
      users; >= 1.
    num_rounds: static, >= 1.

  Returns:
    int32 [N], the shard of each interaction, in 0 .. K - 1.

  Raises:
    ValueError: counts out of range, more shards than there are rows to part.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> made = problem.model.embed_under(*problem.arguments[:3])
    >>> part = lambda *x: recsys.balanced_shards(*x, by="user")
    >>> shard = jax.jit(part, static_argnums=2)(made, problem.data, 2, problem.key)
    >>> shard[::3].tolist()  # Of each user; as many of either taste.
    [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
  """
  checks.counts(num_shards=num_shards, num_rounds=num_rounds)
  checks.one_of(("interaction", "user"), by=by)
  if slack < 1:
    raise ValueError(f"Expected slack >= 1, got {slack}.")
  pairs = pairs_of(data)
  parts = [embeddings.users]
  if by == "interaction":
    parts = [embeddings.users[pairs[:, 0]], embeddings.items[pairs[:, 1]]]
  parts = [p.astype(jnp.promote_types(jnp.float32, p.dtype)) for p in parts]
  many = parts[0].shape[0]
  if num_shards > many:
    raise ValueError(f"Expected num_shards <= {many}, got {num_shards}.")
  limit = -int(-slack * many // num_shards)
  first = jax.random.choice(key, many, (num_shards,), replace=False)

  def distance(part: jax.Array, centres: jax.Array) -> jax.Array:
    cross = part @ centres.T
    squares = (part**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)[None]
    return jnp.maximum(squares - 2 * cross, 0.0)

  def one_round(centres, _):
    cost = jnp.ones((many, num_shards))
    for part, centre in zip(parts, centres):
      cost = cost * distance(part, centre)
    shard = _fill(cost, limit)
    count = jax.ops.segment_sum(jnp.ones(many), shard, num_shards)[:, None]
    moved = [
      jnp.where(
        count > 0,
        jax.ops.segment_sum(part, shard, num_shards) / jnp.maximum(count, 1),
        centre,
      )
      for part, centre in zip(parts, centres)
    ]
    return moved, shard

  centres = [part[first] for part in parts]
  _, shards = jax.lax.scan(one_round, centres, None, length=num_rounds)
  return shards[-1] if by == "interaction" else shards[-1][pairs[:, 0]]


def _fill(cost: jax.Array, limit: int) -> jax.Array:
  """Rows to shards by increasing cost [M, K], at most `limit` per shard."""
  many, num_shards = cost.shape
  order = jnp.argsort(cost.reshape(-1))

  def place(index, state):
    shard, load = state
    row, k = order[index] // num_shards, order[index] % num_shards
    is_put = (shard[row] < 0) & (load[k] < limit)
    shard = shard.at[row].set(jnp.where(is_put, k, shard[row]))
    return shard, load.at[k].add(is_put.astype(jnp.int32))

  start = jnp.full(many, -1, jnp.int32), jnp.zeros(num_shards, jnp.int32)
  return jax.lax.fori_loop(0, many * num_shards, place, start)[0]


def sharded(
  model: Recommender, shard: jax.Array, num_shards: int
) -> Recommender:
  """The recommender that aggregates one model per shard by attention.

  Per shard e_k <- W_k e_k + b_k; the attention over shards is the softmax of
  h . relu(A e_k + b), for users and for items apart. The shards' embeddings get
  no gradient through it.

  Args:
    model: of each shard.
    shard: int [N], the shard of each training interaction.
    num_shards: K, static.

  Returns:
    A `Recommender` with params {"shards": leaves [K, ...], "aggregator"}.

  Raises:
    ValueError: shards out of 0 .. K - 1, or at the call as many interactions as
      there are not shards.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> shard = problem.data["x"][:, 0] % 2  # By user.
    >>> model = recsys.sharded(problem.model, shard, num_shards=2)
    >>> variables = jax.jit(model.init)(problem.key)
    >>> variables.params["shards"]["users"].shape
    (2, 12, 4)
  """
  checks.counts(num_shards=num_shards)
  checks.labels(shard, num_shards, "shard")
  shard = jnp.asarray(shard)

  def graph(data, forget_mask):
    checks.request(data, shard == 0, name="shard")
    gone = jnp.asarray(forget_mask).astype(jnp.float32)
    own = lambda k: model.graph(data, jnp.where(shard == k, gone, 1.0))
    return jax.vmap(own)(jnp.arange(num_shards))

  def init(key):
    shard_key, fresh_key = jax.random.split(key)
    shards = jax.vmap(model.init)(jax.random.split(shard_key, num_shards))
    lone = {"x": jnp.zeros((1, 2), jnp.int32)}
    made = jax.eval_shape(
      lambda k: model.embed(
        model.init(k), model.graph(lone, jnp.zeros(1, bool))
      ),
      key,
    )
    aggregator = _aggregators(fresh_key, num_shards, made.users.shape[1])
    return Variables({"shards": shards.params, "aggregator": aggregator})

  def embed(variables, graphs):
    stacked = _each(model, variables, graphs)
    return _aggregate(variables, stacked)

  return Recommender(
    model.num_users, model.num_items, init, graph, embed, model.penalty
  )


@old_fits(aggregator=("aggregator_optimizer", "aggregator_steps", ""))
def receraser(
  model: Recommender,
  shard: jax.Array,
  num_shards: int,
  fit: Fit | None = None,
  *,
  aggregator: Fit = AGGREGATE,
  strategy: str | int = "map",
  **fields: Unpack[FitFields],
) -> Transform:
  """Retrains the shards that a request touches, and the aggregation.

  The aggregation starts afresh: the old one was fitted to what is forgotten.
  The variables are those of `sharded(model, shard, num_shards)`. The first
  training is `train_shards`.

  Args:
    model: of each shard.
    shard: int [N].
    num_shards: K.
    fit: of a shard's training; about a K-th of the steps of one model.
    aggregator: of the aggregation; by default 100 steps of Adagrad.
    strategy: see `map_many`; with "map", outside `vmap`, untouched shards cost
      nothing, otherwise they are computed and dropped.
    **fields: the fields of `fit` by keyword.

  Returns:
    A `Transform`; info "retrained" holds bool [K], the shards that were.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> shard = problem.data["x"][:, 0] % 2  # By user.
    >>> whole = recsys.sharded(problem.model, shard, num_shards=2)
    >>> problem = problem._replace(variables=jax.jit(whole.init)(problem.key))
    >>> fit = ju.Fit(optax.adam(0.1), num_steps=20, batch_size=18)
    >>> method = recsys.receraser(problem.model, shard, 2, fit, aggregator=fit)
    >>> after, info = method(*problem.arguments)
    >>> info["retrained"].tolist()  # User 0 is of shard 0.
    [True, False]
  """
  fit = as_fit(fit, fields)
  return _receraser(model, shard, num_shards, fit, aggregator, strategy, False)


@old_fits(aggregator=("aggregator_optimizer", "aggregator_steps", ""))
def train_shards(
  model: Recommender,
  shard: jax.Array,
  num_shards: int,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  fit: Fit | None = None,
  *,
  aggregator: Fit = AGGREGATE,
  strategy: str | int = "map",
  **fields: Unpack[FitFields],
) -> tuple[Variables, PyTree]:
  """Trains every shard's model and the aggregation from scratch.

  Args:
    model: of each shard.
    shard: int [N].
    num_shards: K.
    data: {"x": int [N, 2]}.
    weights: bool [N], True = train on the interaction.
    key: PRNG key.
    fit: as of `receraser`, which describes the others too.
    aggregator: of the aggregation.
    strategy: see `map_many`.
    **fields: the fields of `fit` by keyword.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> shard = problem.data["x"][:, 0] % 2  # By user.
    >>> fit = ju.Fit(optax.adam(0.1), num_steps=20, batch_size=18)
    >>> train = lambda *x: recsys.train_shards(
    ...   problem.model, shard, 2, *x, fit, aggregator=fit
    ... )
    >>> rows = jnp.ones(36, bool)
    >>> variables, info = jax.jit(train)(problem.data, rows, problem.key)
    >>> variables.params["shards"]["users"].shape
    (2, 12, 4)
  """
  checks.request({"x": pairs_of(data)}, weights, name="weights")
  checks.weights(weights)
  checks.hard_request(weights, "weights")
  init_key, fit_key = jax.random.split(key)
  fit = as_fit(fit, fields)
  method = _receraser(model, shard, num_shards, fit, aggregator, strategy, True)
  fresh = sharded(model, shard, num_shards).init(init_key)
  return method(fresh, data, ~jnp.asarray(weights), fit_key)


def _receraser(
  model: Recommender,
  shard: jax.Array,
  num_shards: int,
  fit: Fit,
  aggregator: Fit,
  strategy: str | int,
  is_first: bool,
) -> Transform:
  """Both trainings; the first one trains every shard."""
  whole = sharded(model, shard, num_shards)
  shard = jnp.asarray(shard)

  def refit(variables, data, request, key):
    checks.hard_request(request.forget)
    check_data(data, request, model.num_users, model.num_items)
    checks.request(data, shard == 0, name="shard")
    numbers = jnp.arange(num_shards)
    own = shard[None, :] == numbers[:, None]
    touched = (own & request.forget[None, :]).any(axis=1) | is_first

    def one(params, mine, is_touched, key):
      def retrained():
        new = train(model, data, mine & request.retain, key, fit)[0].params
        return jax.tree.map(lambda n, o: n.astype(o.dtype), new, params)

      return jax.lax.cond(is_touched, retrained, lambda: params)

    shard_key, fresh_key = jax.random.split(key)
    keys = jax.random.split(shard_key, num_shards)
    old = variables.params["shards"]
    shards = map_many(one, old, own, touched, keys, strategy=strategy)
    old = variables.params["aggregator"]
    fresh = _aggregators(fresh_key, num_shards, old["users"]["bias"].shape[1])
    params = {
      "shards": shards,
      "aggregator": jax.tree.map(lambda n, o: n.astype(o.dtype), fresh, old),
    }
    return variables._replace(params=params), touched

  # What `triples` hands to `embed`: here the shards' embeddings, made once.
  def embedded(carry, data, request, key):
    found = seen(whole, data, request, "retain", "retain")
    return Seen(_each(model, carry.variables, found.graph), found.history)

  join = phase(
    triples(whole._replace(embed=_aggregate)),
    aggregator,
    draw=Draw(retain=aggregator.batch_size),
    on="aggregator",
    name="aggregate",
  )
  return chain(
    edit(refit, name="retrained"),
    provide(SEEN, embedded),
    join,
    name="receraser",
  )


def _each(
  model: Recommender, variables: Variables, graphs: PyTree
) -> Embeddings:
  """Every shard's embeddings, [K, U, D] and [K, I, D], without gradient."""
  embed = lambda params, graph: model.embed(Variables(params), graph)
  made = jax.vmap(embed)(variables.params["shards"], graphs)
  return jax.lax.stop_gradient(Embeddings(made.users, made.items))


def _aggregators(key: jax.Array, num_shards: int, width: int) -> PyTree:
  """Start as the plain mean of the shards, up to the attention's noise."""
  user_key, item_key = jax.random.split(key)
  return {
    "users": _aggregator(user_key, num_shards, width),
    "items": _aggregator(item_key, num_shards, width),
  }


def _aggregator(key: jax.Array, num_shards: int, width: int) -> PyTree:
  first, second = jax.random.split(key)
  hidden = max(width // 2, 1)
  eye = jnp.broadcast_to(jnp.eye(width), (num_shards, width, width))
  return {
    "transform": eye,
    "bias": jnp.zeros((num_shards, width)),
    "attention": jax.random.normal(first, (width, hidden)) / width**0.5,
    "attention_bias": jnp.zeros(hidden),
    "query": jax.random.normal(second, (hidden,)) / hidden**0.5,
  }


def _aggregate(variables: Variables, stacked: Embeddings) -> Embeddings:
  def one(params: PyTree, each: jax.Array) -> jax.Array:
    moved = jnp.einsum("kud,kde->kue", each, params["transform"])
    moved = moved + params["bias"][:, None, :]
    hidden = moved @ params["attention"] + params["attention_bias"][None, None]
    scores = jax.nn.relu(hidden) @ params["query"]
    share = jax.nn.softmax(scores, axis=0)
    return (share[..., None] * moved).sum(axis=0)

  aggregator = variables.params["aggregator"]
  return Embeddings(
    one(aggregator["users"], stacked.users),
    one(aggregator["items"], stacked.items),
  )
