"""A graph in pieces, and a model of each: the partition of `forget_graph`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import graph
from jaxunlearn.core import keys

from ..bench import Bed
from ..datasets import graphs


class Cut(NamedTuple):
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


class Models(NamedTuple):
  """A model per piece, leaves [P, ...]."""

  models: Any


def training(bed: Bed, task_on: Callable[[Any], Any], cut: Cut, fit: ju.Fit):
  """The method: a model per piece, trained on what the request leaves."""

  def method(variables, data, forget_mask, key):
    del variables
    g = bed.model.graph
    blank = jnp.zeros((1, g.nodes.shape[1]), g.nodes.dtype)
    features = jnp.concatenate([g.nodes, blank])
    kept = jnp.append(~forget_mask, False)
    label = jnp.append(data["label"], 0)
    sizes = np.array([cut.nodes.shape[1] - 1, 1], np.int32)

    def one(piece, key):
      real = (piece.edge_row < g.senders.size // 2).astype(jnp.float32)
      own = graphs.on_edges(g, features[piece.nodes], piece.edges)
      own = own._replace(edges=jnp.repeat(real, 2), n_node=sizes)
      rows = {"x": piece.x, "label": label[piece.row]}
      return graph.train(task_on(own), rows, kept[piece.row], key, fit)[0]

    piece_keys = jax.random.split(key, len(cut.nodes))
    return Models(ju.map_many(one, cut, piece_keys, strategy="map")), None

  return method


def fit_the_network(beds: Any) -> bool:
  """Whether the network can be called on a part of the nodes."""
  first = jax.tree.map(lambda v: jnp.asarray(v[0]), beds.of_seed)
  bed = beds.make(jnp.asarray(beds.shared), first)
  g, (task_on, _) = bed.model.graph, bed.extra
  size = np.array([2, 0], np.int32)
  ends = dict.fromkeys(("senders", "receivers"), np.arange(2))
  few = g._replace(nodes=g.nodes[:2], edges=g.edges[:2], n_node=size, **ends)
  try:
    jax.eval_shape(
      lambda k: task_on(few).model.init(k, None), jax.random.key(0)
    )
  except Exception:  # Whatever the user's module raises.
    return False
  return True


def cut(
  template: Any,
  splits: Sequence[graphs.Split],
  seeds: Sequence[int],
  count: int,
) -> Cut:
  """Each seed's graph in `count` pieces, leaves [S, P, ...]."""
  n = len(template.nodes)
  partition = jax.jit(
    lambda key, edges: graph.balanced_shards(
      key, graphs.on_edges(template, jnp.zeros((n, 1)), edges), count
    )
  )
  parts = []
  for split, seed in zip(splits, seeds):
    key = keys.derive(jax.random.key(seed), "pieces")
    shard = np.asarray(partition(key, split.edges))
    parts += [_piece(split, shard, piece) for piece in range(count)]
  widths = [max(len(part[i]) for part in parts) for i in range(5)]
  edges, rows = len(splits[0].edges), len(splits[0].edges)
  if splits[0].rows is not None:
    rows = len(splits[0].rows)
  ends = (n, widths[0], edges, widths[0], rows)
  widths[0] += 1
  leaves = []
  for values, width, end in zip(zip(*parts), widths, ends):
    full = np.full((len(parts), width, *values[0].shape[1:]), end, np.int32)
    for line, own in zip(full, values):
      line[: len(own)] = own
    leaves.append(full.reshape(len(splits), count, *full.shape[1:]))
  return Cut(*leaves)


def _piece(split: graphs.Split, shard: np.ndarray, piece: int):
  """One piece's nodes, edges, their rows, training rows and their numbers."""
  nodes = np.flatnonzero(shard == piece)
  place = np.full(len(shard), -1)
  place[nodes] = np.arange(len(nodes))
  edge_row = np.flatnonzero((shard[split.edges] == piece).all(axis=1))
  edges = place[split.edges[edge_row]]
  if split.rows is None:
    return nodes, edges, edge_row, edges, edge_row
  row = np.flatnonzero(shard[split.rows] == piece)
  return nodes, edges, edge_row, place[split.rows[row]], row
