"""Training and unlearning on a graph: all lanes of a method in one program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments import common
from experiments.forget_graph_study import (
  Study,
  at,
  make_task,
  rows_of,
  task_on,
  training,
)
from experiments.graph_data import Split
from jaxunlearn import graph

METHODS = (
  "unlink",
  "gradient_ascent",
  "descent_to_delete",
  "partition",
  "gnndelete",
  "d2dgn",
  "d2dgn_feature",
)


class Shards(NamedTuple):
  """A graph in pieces of one shape, stacked; places of padding have no weight.

  Attributes:
    nodes: int32 [P, c + 1], a piece's nodes; n for none, as the last one is.
    edges: int32 [P, e, 2], its edges by their ends' places in the piece.
    edge_row: int32 [P, e], their places in the graph; E for none.
    x: int32 [P, k, 2] or [P, k], its training rows, likewise.
    row: int32 [P, k], their places among all rows; N for none.
  """

  nodes: Any
  edges: Any
  edge_row: Any
  x: Any
  row: Any


def train(study: Study) -> common.Timed:
  """The original models, leaves [S, ...]."""

  def one(task, rows, seed):
    everything = jnp.ones(rows["label"].shape, bool)
    return graph.train(
      task, rows, everything, study.train_keys[seed], **training(study)
    )[0]

  def program(features, splits, seeds):
    def lane(seed):
      split = at(splits, seed)
      task = make_task(study, features, split.edges)
      return one(task, rows_of(study, task, split), seed)

    return ju.map_many(lane, seeds, strategy=study.strategy)

  seeds = jnp.arange(len(study.seeds))
  return common.timed(program, study.data.features, study.splits, seeds)


def serve(study: Study, name: str, originals: Any) -> common.Timed:
  """A method's models of every lane; "retrained" is one of them.

  Args:
    study: see `Study`.
    name: of `METHODS`, or "retrained".
    originals: leaves [S, ...].

  Returns:
    Variables, leaves [R * S, ...]; of "partition" [R * S, P, ...].
  """
  program, arguments = _program(study, name, originals)
  lanes = tuple(map(jnp.asarray, study.lanes))
  many = lambda *args: ju.map_many(
    lambda *lane: program(*args, *lane), *lanes, strategy=study.strategy
  )
  return common.timed(many, *arguments)


def time_alone(
  study: Study, names: Sequence[str], originals: Any
) -> dict[str, np.ndarray]:
  """Seconds of the first request of each seed by itself, by name; float [S].

  For each seed all of them take turns, so that a busy machine slows all down
  alike.
  """
  sides = {}
  for name in names:
    program, arguments = _program(study, name, originals)
    request, first = jnp.array(0), jnp.array(0)
    compiled = jax.jit(program).lower(*arguments, request, first).compile()
    jax.block_until_ready(compiled(*arguments, request, first))
    sides[name] = lambda seed, c=compiled, a=arguments, r=request: c(
      *a, r, seed
    )
  rounds = [
    common.interleaved_medians(
      {name: functools.partial(side, seed) for name, side in sides.items()}, 1
    )
    for seed in jnp.arange(len(study.seeds))
  ]
  return {name: np.array([r[name] for r in rounds]) for name in sides}


def _program(study: Study, name: str, originals: Any):
  """`(*arguments, request, seed) -> variables` of one lane, and arguments."""
  shards = _shards(study) if name == "partition" else None

  def lane(features, splits, masks, originals, shards, request, seed):
    split = at(splits, seed)
    task = make_task(study, features, split.edges)
    rows, mask = rows_of(study, task, split), masks[request, seed]
    if name == "partition":
      pieces = at(shards, seed)
      return _train_pieces(study, task, rows, pieces, mask, seed)
    start, keys = at(originals, seed), study.unlearn_keys
    if name == "retrained":
      # The original's key, so that both start from the same weights.
      keys = study.train_keys
    return make_method(study, name, task)(start, rows, mask, keys[seed])[0]

  arguments = (study.data.features, study.splits, study.masks, originals)
  return lane, jax.tree.map(jnp.asarray, (*arguments, shards))


def make_method(
  study: Study, name: str, task: graph.GraphModel
) -> ju.Transform:
  """One of `METHODS` but the partition, or "retrained", under the recipe."""
  recipe = study.recipe
  makers: Mapping[str, Callable[[], ju.Transform]] = {
    "retrained": lambda: graph.retrain(task, **training(study)),
    "unlink": lambda: graph.unlink(task),
    "gradient_ascent": lambda: graph.gradient_ascent(
      task, num_steps=recipe.ascent_steps
    ),
    "descent_to_delete": lambda: graph.descent_to_delete(
      task, num_steps=recipe.descent_steps
    ),
    "gnndelete": lambda: graph.gnndelete(task, num_steps=recipe.delete_steps),
    "d2dgn": lambda: graph.d2dgn(task, num_steps=recipe.distil_steps),
    "d2dgn_feature": lambda: graph.d2dgn(
      task, num_steps=recipe.distil_steps, knowledge="feature"
    ),
  }
  return makers[name]()


def _train_pieces(study: Study, task, rows, pieces: Shards, mask, seed) -> Any:
  """A model a piece of the graph on what the request leaves; leaves [P, ...]."""
  features = task.graph.nodes
  blank = jnp.zeros((1, features.shape[1]), features.dtype)
  features = jnp.concatenate([features, blank])
  kept = jnp.append(~mask, False)
  capacity = pieces.nodes.shape[1] - 1
  sizes = np.array([capacity, 1], np.int32)
  label = jnp.append(rows["label"], 0)

  def one(piece, index):
    real = (piece.edge_row < task.graph.senders.size // 2).astype(jnp.float32)
    g = task.graph._replace(
      nodes=features[piece.nodes],
      edges=jnp.repeat(real, 2),
      senders=piece.edges.reshape(-1),
      receivers=piece.edges[:, ::-1].reshape(-1),
      n_node=sizes,
    )
    own = {"x": piece.x, "label": label[piece.row]}
    key = jax.random.fold_in(study.train_keys[seed], index + 1)
    return graph.train(
      task_on(study, g), own, kept[piece.row], key, **training(study)
    )[0]

  return ju.map_many(
    one, pieces, jnp.arange(len(pieces.nodes)), strategy=study.strategy
  )


def _shards(study: Study) -> Shards:
  """Each seed's graph in pieces, leaves [S, P, ...]."""
  count, n = study.recipe.shards, len(study.data.features)
  partition = jax.jit(
    lambda key, edges: graph.balanced_shards(
      key, make_task(study, jnp.zeros((n, 1)), edges).graph, count
    )
  )
  found = []
  for seed, key in enumerate(study.unlearn_keys):
    split = at(study.splits, seed)
    found.append((split, np.asarray(partition(key, split.edges))))
  parts = [
    _cut(split, shard, piece, count)
    for split, shard in found
    for piece in range(count)
  ]
  widths = [max(len(part[i]) for part in parts) for i in range(5)]
  ends = (n, widths[0], len(study.splits.edges[0]), widths[0])
  rows = study.masks.shape[-1]
  padded = [
    Shards(*(
      _padded(values, width + (i == 0), end)
      for i, (values, width, end) in enumerate(zip(part, widths, (*ends, rows)))
    ))
    for part in parts
  ]  # fmt: skip
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
  return jax.tree.map(
    lambda leaf: leaf.reshape(len(found), count, *leaf.shape[1:]), stacked
  )


def _cut(split: Split, shard: np.ndarray, piece: int, count: int):
  """One piece's nodes, edges, their rows, training rows and their numbers."""
  nodes = np.flatnonzero(shard == piece).astype(np.int32)
  place = np.full(len(shard), -1, np.int32)
  place[nodes] = np.arange(len(nodes))
  edge_row = np.flatnonzero((shard[split.edges] == piece).all(axis=1))
  edges = place[split.edges[edge_row]]
  edge_row = edge_row.astype(np.int32)
  if split.rows is None:
    return nodes, edges, edge_row, edges, edge_row
  row = np.flatnonzero(shard[split.rows] == piece).astype(np.int32)
  return nodes, edges, edge_row, place[split.rows[row]], row


def _padded(values: np.ndarray, width: int, end: int) -> np.ndarray:
  full = np.full((width, *values.shape[1:]), end, np.int32)
  full[: len(values)] = values
  return full
