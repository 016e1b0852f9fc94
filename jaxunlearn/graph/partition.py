"""A partition baseline: a model per shard, and only the touched ones anew.

Source: after GraphEraser, Chen et al. (2021), arXiv:2103.14991: balanced
partition of the nodes by label propagation, one model per shard, aggregation.
Class: exact, in that the models of the touched shards are retrained; a model
never sees edges between rows of two shards, which costs accuracy, all the more
with many shards. Nodes that are no rows (without a training label) are part of
every shard's graph.
Differences from the source: aggregation is the plain mean of probabilities (its
learned one is not here); the partition is of all nodes and is not redone when
edges go.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Fit, FitFields
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.graph import structure
from jaxunlearn.graph.state import with_weight
from jaxunlearn.graph.tasks import GraphModel
from jaxunlearn.graph.training import train_many


def balanced_shards(
  key: jax.Array, graph: Any, num_shards: int, *, num_rounds: int = 20
) -> jax.Array:
  """Nodes to shards of equal size (give or take one), neighbours together.

  In each round a node asks for the shard of most of its neighbours; a shard
  takes the most eager up to its size, and the others fill free places.

  Args:
    key: PRNG key.
    graph: the graph; padding nodes are dealt out too.
    num_shards: static, > 0.
    num_rounds: static, >= 0; 0 is a random partition.

  Returns:
    int32 [n], the shard of each node.

  Raises:
    ValueError: more shards than nodes.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> triangles = [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]
    >>> g = graph.from_edges(jnp.eye(6), triangles)
    >>> shard = graph.balanced_shards(jax.random.key(0), g, 2)
    >>> (shard == shard[0]).tolist()
    [True, True, True, False, False, False]
  """
  checks.counts(num_shards=num_shards)
  checks.non_negative(num_rounds=num_rounds)
  n = graph.nodes.shape[0]
  if num_shards > n:
    raise ValueError(f"Expected num_shards <= {n}, got {num_shards}.")
  first_key, *keys = jax.random.split(key, num_rounds + 1)
  size = n // num_shards + (jnp.arange(num_shards) < n % num_shards)
  place = jax.random.permutation(first_key, n)
  shard = (place % num_shards).astype(jnp.int32)
  ids = jnp.arange(n, dtype=jnp.int32)

  def move(shard, key):
    votes = (
      jnp.zeros((n, num_shards))
      .at[graph.receivers, shard[graph.senders]]
      .add(graph.edges)
    )
    votes += 0.5 * jax.nn.one_hot(shard, num_shards)
    votes += 0.1 * jax.random.uniform(key, votes.shape)  # Breaks ties.
    wish = votes.argmax(axis=1)
    order = jnp.lexsort((-votes.max(axis=1), wish))
    asked = jnp.zeros(num_shards, jnp.int32).at[wish].add(1)
    start = jnp.cumsum(asked) - asked
    rank = jnp.zeros(n, jnp.int32).at[order].set(ids - start[wish[order]])
    taken = rank < size[wish]
    # The rejected fill what is free, in the order of shards.
    free = jnp.cumsum(size - jnp.minimum(asked, size))
    turn = jnp.cumsum(~taken) - 1
    spare = jnp.searchsorted(free, turn, side="right").astype(jnp.int32)
    return jnp.where(taken, wish, spare).astype(jnp.int32), None

  if num_rounds:
    shard, _ = jax.lax.scan(move, shard, jnp.stack(keys))
  return shard


def shard_rows(
  task: GraphModel, data: PyTree, shard: jax.Array, num_shards: int
) -> jax.Array:
  """The rows of each shard: bool [num_shards, N].

  An edge across is in none, and neither is padding.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> shard = jnp.array([0, 0, 0, 1, 1, 1])
    >>> rows = graph.shard_rows(problem.model, problem.data, shard, 2)
    >>> rows.sum(axis=1).tolist()  # The edge between the triangles is in none.
    [3, 3]
  """
  one = shard[data["x"]]
  if task.on_edges:
    inner = (one[:, 0] == one[:, 1]) & (structure.edge_weight(task.graph) > 0)
    one = jnp.where(inner, one[:, 0], -1)
  return jnp.arange(num_shards)[:, None] == one[None, :]


def train_shards(
  task: GraphModel,
  data: PyTree,
  rows: jax.Array,
  keys: jax.Array,
  fit: Fit | None = None,
  *,
  strategy: str | int = "vmap",
  **fields: Unpack[FitFields],
) -> Variables:
  """A model per shard, in one program; leaves [num_shards, ...].

  Unlearning is the same call with `rows & ~forget_mask` and the same keys: a
  shard that the request does not touch gives back its bits, so that a service
  need only train the others (`touched`).

  Args:
    task: see `link_prediction`, `node_classification`.
    data: its rows.
    rows: bool [S, N], of `shard_rows`.
    keys: PRNG keys [S].
    fit: the recipe, full batch.
    strategy: see `map_many`.
    **fields: the fields of `Fit` by keyword.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import graph, toy
    >>> task, _, data, _, key = toy.graph()
    >>> rows = jnp.stack([jnp.arange(7) // 3 == shard for shard in (0, 1)])
    >>> keys = jax.random.split(key, 2)
    >>> fit = ju.Fit(optax.sgd(0.1), num_steps=1, batch_size=ju.ALL)
    >>> models = graph.train_shards(task, data, rows, keys, fit)
    >>> models.params["kernel"].shape
    (2, 2, 2)
  """
  return train_many(task, data, rows, keys, fit, strategy=strategy, **fields)[0]


def touched(rows: jax.Array, forget_mask: jax.Array) -> jax.Array:
  """Which shards a request makes train anew: bool [S].

  Raises:
    ValueError: a request that is not bool.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> rows = jnp.array([[True, True, False], [False, False, True]])
    >>> graph.touched(rows, jnp.array([False, True, False])).tolist()
    [True, False]
  """
  checks.hard_request(forget_mask)
  return (rows & jnp.asarray(forget_mask)[None]).any(axis=1)


def predict_shards(
  task: GraphModel,
  stacked: Variables,
  x: jax.Array,
  weight: jax.Array | None = None,
) -> jax.Array:
  """Logits of the mean probability over the shards' models.

  Args:
    task: see `link_prediction`, `node_classification`.
    stacked: of `train_shards`.
    x: pairs [B, 2] or nodes [B].
    weight: float [E], the graph that all models answer on, such as that which
      `unlink` leaves; the whole graph by default.

  Returns:
    [B] for pairs, log-probabilities [B, C] for nodes.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> other = jax.tree.map(jnp.zeros_like, problem.variables)
    >>> both = lambda *leaves: jnp.stack(leaves)
    >>> models = jax.tree.map(both, problem.variables, other)
    >>> pairs = jnp.array([[0, 1]])  # Probabilities of 0.905 and 0.5.
    >>> logits = graph.predict_shards(problem.model, models, pairs)
    >>> [round(p, 3) for p in jax.nn.sigmoid(logits).tolist()]
    [0.702]
  """
  if weight is None:
    weight = structure.edge_weight(task.graph)
  one = lambda v: task.model.predict(with_weight(v, weight), x)
  logits = jax.vmap(one)(stacked)
  count = jnp.log(logits.shape[0])
  if not task.on_edges:
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - count
  yes = jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=0)
  return yes - jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), axis=0)
