"""Edges and nodes as rows of data."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.types import PyTree
from jaxunlearn.graph import structure


def link_data(graph: Any) -> PyTree:
  """The training edges as rows: {"x": int32 [E, 2], "label": ones [E]}.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> data = graph.link_data(g)
    >>> data["x"].tolist(), data["label"].tolist()
    ([[0, 1], [1, 2]], [1, 1])
  """
  pairs = structure.edge_rows(graph)
  return {"x": pairs, "label": jnp.ones(pairs.shape[0], jnp.int32)}


def node_data(labels: Any, nodes: Any = None) -> PyTree:
  """Nodes as rows: {"x": int32 [N], "label": int32 [N]}.

  Args:
    labels: int [n], of all nodes.
    nodes: int [N], which of them are rows (those with a training label); all by
      default.

  Raises:
    ValueError: labels that are no integers; a node out of range.

  Example:
    >>> from jaxunlearn import graph
    >>> data = graph.node_data([0, 1, 1, 0], nodes=[0, 2])
    >>> data["x"].tolist(), data["label"].tolist()
    ([0, 2], [0, 1])
  """
  labels = arrays("labels int [n]", labels)
  nodes = jnp.arange(labels.size) if nodes is None else jnp.asarray(nodes)
  checks.labels(nodes, labels.size, "nodes")
  nodes = nodes.astype(jnp.int32)
  return {"x": nodes, "label": labels[nodes].astype(jnp.int32)}


def check_order(graph: Any, rows: np.ndarray, share: np.ndarray) -> None:
  """A mask over rows is one over edges: row e has to be edge e.

  What is forgotten is not looked at.

  Raises:
    ValueError: a row to retain is not its edge.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from jaxunlearn import graph
    >>> from jaxunlearn.graph import rows
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> rows.check_order(g, np.array([[1, 2], [0, 1]]), np.zeros(2))
    Traceback (most recent call last):
      ...
    ValueError: Expected data['x'] to be the graph's edges in their order, got
    2 rows that are others.
  """
  edges = np.asarray(graph.senders).reshape(-1, 2)
  kept = (np.asarray(graph.edges)[::2] > 0) & (share < 1)
  wrong = int(((rows != edges).any(axis=1) & kept).sum())
  if wrong:
    raise ValueError(
      f"Expected data['x'] to be the graph's edges in their order, got {wrong} "
      "rows that are others."
    )


def check_rows(graph: Any, inputs: Any, on_edges: bool) -> None:
  """Rows are pairs [B, 2] or nodes [B], of nodes that exist.

  Raises:
    ValueError: another shape or dtype; (concrete) a number out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> from jaxunlearn.graph import rows
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> rows.check_rows(g, jnp.array([[0, 3]]), on_edges=True)
    Traceback (most recent call last):
      ...
    ValueError: Expected node numbers in 0 .. 2, got 0 .. 3.
  """
  shape = jnp.shape(inputs)
  wanted = "pairs [B, 2]" if on_edges else "nodes [B]"
  if len(shape) != 1 + on_edges or (on_edges and shape[1] != 2):
    raise ValueError(f"Expected rows to be {wanted}, got shape {shape}.")
  checks.labels(inputs, graph.nodes.shape[0], "node numbers")
