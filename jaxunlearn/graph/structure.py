"""A graph as arrays of fixed shapes, and what is read off its edges in jit.

A graph is one `jraph.GraphsTuple`, padded, with both directions of every
undirected edge. Row e of the edge list [E, 2] is the directed edges 2e and
2e + 1, so that a request is a mask over rows. An edge is never taken out: its
weight becomes 0, and one compiled program serves every deletion.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped

# Pairs are numbered u * n + v in 32 bits.
_MAX_NODES = 65_535
_NONE = np.uint32(2**32 - 1)


def from_edges(
  features: Any,
  edges: Any,
  *,
  pad_nodes_to: int | None = None,
  pad_edges_to: int | None = None,
) -> Any:
  """A padded `jraph.GraphsTuple` of node features and undirected edges.

  Layers add self-loops of their own where they want them.

  Args:
    features: float [n, d], finite. Isolated nodes are fine.
    edges: int [E, 2], each undirected edge once, in either order, no
      self-loops; int64 is taken if it fits.
    pad_nodes_to: static; nodes in all, n by default, one more where edges are
      padded (padding edges hang on a padding node).
    pad_edges_to: static; undirected edges in all, E by default.

  Returns:
    A `jraph.GraphsTuple` of two graphs, the second the padding: `nodes` [n',
    d], `senders`, `receivers` int32 [2 E'], `edges` float32 [2 E'] the weights
    (1 real, 0 padding), `n_node`, `n_edge` int32 [2].

  Raises:
    ValueError: features that are not [n, d] or not finite; no edges; a node
      number out of range, a self-loop, an edge that comes twice; a padded size
      below what there is.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]], pad_edges_to=4)
    >>> g.senders.tolist(), g.edges.tolist()
    ([0, 1, 1, 2, 3, 3, 3, 3], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
  """
  import jraph

  features = arrays("features float [n, d]", features)
  checks.finite(features, "features")
  n = features.shape[0]
  edges = _checked_edges(edges, n)
  count = edges.shape[0]
  rows = count if pad_edges_to is None else pad_edges_to
  nodes = n + (rows > count) if pad_nodes_to is None else pad_nodes_to
  if rows < count:
    raise ValueError(f"Expected pad_edges_to >= {count}, got {rows}.")
  if nodes < n + (rows > count):
    raise ValueError(
      f"Expected pad_nodes_to >= {n + (rows > count)}, got {nodes}."
    )
  padded = np.full((rows, 2), nodes - 1, np.int32)
  padded[:count] = edges
  return jraph.GraphsTuple(
    nodes=jnp.pad(features, ((0, nodes - n), (0, 0))),
    edges=jnp.asarray(np.repeat(np.arange(rows) < count, 2), jnp.float32),
    senders=jnp.asarray(padded.reshape(-1)),
    receivers=jnp.asarray(padded[:, ::-1].reshape(-1)),
    globals=None,
    n_node=jnp.array([n, nodes - n], jnp.int32),
    n_edge=jnp.array([2 * count, 2 * (rows - count)], jnp.int32),
  )


def _checked_edges(edges: Any, num_nodes: int) -> np.ndarray:
  shaped("edges int [E, 2]", edges)
  edges = np.asarray(edges)
  if len(edges) == 0:
    raise ValueError("Expected a graph with edges, got 0.")
  low, high = int(edges.min()), int(edges.max())
  if low < 0 or high >= num_nodes:
    raise ValueError(
      f"Expected node numbers in 0 .. {num_nodes - 1}, got {low} .. {high}."
    )
  loops = int((edges[:, 0] == edges[:, 1]).sum())
  if loops:
    raise ValueError(f"Expected edges without self-loops, got {loops}.")
  twice = len(edges) - len(np.unique(np.sort(edges, axis=1), axis=0))
  if twice:
    raise ValueError(f"Expected each edge once, got {twice} that repeat.")
  return edges.astype(np.int32)


def edge_rows(graph: Any) -> jax.Array:
  """The undirected edges as rows, int32 [E, 2].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> graph.edge_rows(g).tolist()
    [[0, 1], [1, 2]]
  """
  return graph.senders.reshape(-1, 2)


def edge_weight(graph: Any) -> jax.Array:
  """Float32 [E], 1 for a real edge, 0 for padding.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]], pad_edges_to=4)
    >>> graph.edge_weight(g).tolist()
    [1.0, 1.0, 0.0, 0.0]
  """
  return graph.edges[::2]


def num_nodes(graph: Any) -> int:
  """Real nodes, without padding.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]], pad_nodes_to=8)
    >>> graph.num_nodes(g)
    3
  """
  return int(np.asarray(graph.n_node)[0])  # Under jit it stays on the host.


def incident_edges(graph: Any, node_mask: jax.Array) -> jax.Array:
  """The edges of some nodes: bool [E], True if an end is in `node_mask` [n].

  Raises:
    ValueError: a mask of another length, or that is not bool.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(4), [[0, 1], [1, 2], [2, 3]])
    >>> graph.incident_edges(g, jnp.arange(4) == 1).tolist()
    [True, True, False]
  """
  node_mask = checked_node_mask(graph, node_mask)
  return node_mask[edge_rows(graph)].any(axis=1) & (edge_weight(graph) > 0)


def hops(
  graph: Any, node_mask: jax.Array, num_hops: int, weight: Any = None
) -> jax.Array:
  """Nodes within some hops of others: bool [n], the others included.

  Args:
    graph: the graph.
    node_mask: bool [n], where to start.
    num_hops: static, >= 0.
    weight: float [E], an edge of weight 0 is not walked; the graph's own by
      default.

  Raises:
    ValueError: num_hops < 0; a mask of another length, or that is not bool.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(4), [[0, 1], [1, 2], [2, 3]])
    >>> graph.hops(g, jnp.arange(4) == 0, num_hops=2).tolist()
    [True, True, True, False]
  """
  checks.non_negative(num_hops=num_hops)
  reached = checked_node_mask(graph, node_mask)
  weight = edge_weight(graph) if weight is None else weight
  open_edge = jnp.repeat(weight > 0, 2)

  def walk(reached, _):
    sent = reached[graph.senders] & open_edge
    return reached.at[graph.receivers].max(sent), None

  return jax.lax.scan(walk, reached, None, length=num_hops)[0]


def endpoints(graph: Any, edge_mask: jax.Array) -> jax.Array:
  """The nodes at the ends of some edges: bool [n] of bool [E].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(4), [[0, 1], [1, 2], [2, 3]])
    >>> graph.endpoints(g, jnp.array([True, False, False])).tolist()
    [True, True, False, False]
  """
  ends = jnp.zeros(graph.nodes.shape[0], bool)
  return ends.at[edge_rows(graph)].max(edge_mask[:, None])


def checked_node_mask(graph: Any, node_mask: jax.Array) -> jax.Array:
  """The mask as an array.

  Raises:
    ValueError: it is not bool [n].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> from jaxunlearn.graph import structure
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> structure.checked_node_mask(g, [0, 1, 0])
    Traceback (most recent call last):
      ...
    ValueError: Expected node_mask bool [3], got int32 (3,).
  """
  node_mask = jnp.asarray(node_mask)
  n = graph.nodes.shape[0]
  shaped(f"node_mask bool [{n}]", node_mask)
  return node_mask


class NonEdges(NamedTuple):
  """The pairs of nodes that no edge joins, ready to be drawn.

  Attributes:
    taken: uint32 [n + 2 E], the other pairs (u, v) as numbers u n + v, sorted;
      the largest number where there is none.
    total: uint32 [], ordered free pairs; an undirected one counts twice.
    num_nodes: int32 [], real nodes.
  """

  taken: jax.Array
  total: jax.Array
  num_nodes: jax.Array


def non_edges(graph: Any, weight: jax.Array | None = None) -> NonEdges:
  """Prepares the draw of pairs that no edge of positive weight joins.

  One sort; no pair of a node with itself is free. Nothing is rejected later,
  so that shapes are static and each free pair has the same chance.

  Args:
    graph: the graph, at most 65,535 nodes.
    weight: float [E]; the graph's own by default.

  Raises:
    ValueError: more nodes than pairs can be numbered for in 32 bits; where the
      weights can be looked at, a graph in which every pair is joined.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> int(graph.non_edges(g).total)  # (0, 2) and (2, 0)
    2
  """
  n = num_nodes(graph)
  if n > _MAX_NODES:
    raise ValueError(f"Expected at most {_MAX_NODES} nodes, got {n}.")
  weight = edge_weight(graph) if weight is None else weight
  taken = jnp.repeat(weight > 0, 2)
  ids = jnp.arange(n, dtype=jnp.uint32)
  u, v = graph.senders.astype(jnp.uint32), graph.receivers.astype(jnp.uint32)
  codes = jnp.concatenate([jnp.where(taken, u * n + v, _NONE), ids * n + ids])
  count = jnp.uint32(n * n - n) - taken.sum(dtype=jnp.uint32)
  if checks.is_concrete(count) and int(count) == 0:
    raise ValueError("Expected a pair that no edge joins, got none.")
  return NonEdges(jnp.sort(codes), count, jnp.int32(n))


def draw_non_edges(free: NonEdges, key: jax.Array, count: int) -> jax.Array:
  """Pairs that no edge joins, uniformly and with replacement: int32 [count, 2].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> pairs = graph.draw_non_edges(graph.non_edges(g), jax.random.key(0), 4)
    >>> jnp.sort(pairs, axis=1).tolist()
    [[0, 2], [0, 2], [0, 2], [0, 2]]
  """
  place = jax.random.randint(
    key, (count,), jnp.uint32(0), jnp.maximum(free.total, 1), jnp.uint32
  )
  # How many free pairs come before each taken one.
  rank = jnp.arange(free.taken.size, dtype=jnp.uint32)
  gaps = jnp.where(free.taken == _NONE, _NONE, free.taken - rank)
  before = jnp.searchsorted(gaps, place, side="right")
  code = place + before.astype(jnp.uint32)
  n = free.num_nodes.astype(jnp.uint32)
  return jnp.stack([code // n, code % n], axis=1).astype(jnp.int32)


def are_joined(free: NonEdges, pairs: jax.Array) -> jax.Array:
  """Which pairs int [B, 2] an edge joins; bool [B], False for padding.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> free = graph.non_edges(graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]]))
    >>> graph.are_joined(free, jnp.array([[1, 0], [0, 2]])).tolist()
    [True, False]
  """
  n = free.num_nodes.astype(jnp.uint32)
  u, v = pairs.astype(jnp.uint32).T
  place = jnp.searchsorted(free.taken, u * n + v)
  return free.taken.at[place].get(mode="clip") == u * n + v
