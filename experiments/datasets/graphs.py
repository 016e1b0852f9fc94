"""Graphs to forget edges and nodes of, and requests over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import read_npz
from experiments.datasets.splits import REPORT, split_rows
from jaxunlearn import graph
from jaxunlearn.core import keys

SOURCES = "karate, digits, cora or npz:PATH"
FORMS = {
  "edges": "edges:SHARE",
  "in": "in:SHARE",
  "out": "out:SHARE",
  "nodes": "nodes:SHARE",
  "class": "class:C",
}
_NEIGHBOURS = 4  # Of a digit.
_HOPS = 2
# Wayne Zachary (1977), "An information flow model for conflict and fission in
# small groups": who met whom outside the club, by the lower of two numbers (from
# 0), and who stayed with the instructor when the club broke in two.
_KARATE: Mapping[int, tuple[int, ...]] = {
  0: (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 17, 19, 21, 31),
  1: (2, 3, 7, 13, 17, 19, 21, 30),
  2: (3, 7, 8, 9, 13, 27, 28, 32),
  3: (7, 12, 13),
  4: (6, 10),
  5: (6, 10, 16),
  6: (16,),
  8: (30, 32, 33),
  9: (33,),
  13: (33,),
  14: (32, 33),
  15: (32, 33),
  18: (32, 33),
  19: (33,),
  20: (32, 33),
  22: (32, 33),
  23: (25, 27, 29, 32, 33),
  24: (25, 27, 31),
  25: (31,),
  26: (29, 33),
  27: (33,),
  28: (31, 33),
  29: (32, 33),
  30: (32, 33),
  31: (32, 33),
  32: (33,),
}
_INSTRUCTORS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 16, 17, 19, 21)


class GraphData(NamedTuple):
  """An undirected graph with features, and perhaps classes, of its nodes.

  Attributes:
    features: float32 [n, d].
    edges: int32 [E, 2], each once.
    label: int32 [n], or None.
    class_names: one a class.
  """

  features: np.ndarray
  edges: np.ndarray
  label: np.ndarray | None
  class_names: tuple[str, ...]


def load(
  source: str, *, data_dir: str | None = None, max_nodes: int | None = None
) -> GraphData:
  """Loads a graph.

  Args:
    source: one of `SOURCES`.
    data_dir: the folder with cora.npz; the environment variable
      JAXUNLEARN_DATA by default.
    max_nodes: of digits, at most so many, for a quick look.

  Raises:
    ValueError: an unknown source, no folder, or a file that is missing or of
      another form, in one line.
  """
  if source == "karate":
    return _karate()
  if source == "digits":
    return _digits(max_nodes)
  if source == "cora":
    folder = data_dir or os.environ.get("JAXUNLEARN_DATA")
    if folder is None:
      raise ValueError(
        "Expected --data-dir (or JAXUNLEARN_DATA) with the file cora.npz, got "
        "neither."
      )
    return _cora(Path(folder) / "cora.npz")
  if source.startswith("npz:"):
    return _from_npz(Path(source.removeprefix("npz:")))
  raise ValueError(f"Expected --data {SOURCES}, got {source!r}.")


class Split(NamedTuple):
  """One seed's part of the graph to train on, and what is tested on.

  Attributes:
    edges: int32 [E, 2], that carry messages and, of links, are trained on.
    test: int32 [K, 2] edges, or [K] nodes, never trained on.
    absent: int32 [A, 2], half of them edges, that an attacker's model of the test
      edges was not trained on; of nodes None.
    others: int32 [M, 2], pairs that no edge joins; of nodes None.
    rows: int32 [N], the training nodes; of links None.
  """

  edges: np.ndarray
  test: np.ndarray
  absent: np.ndarray | None = None
  others: np.ndarray | None = None
  rows: np.ndarray | None = None


def split_links(data: GraphData, seed: int, part: str = REPORT) -> Split:
  """5 % of the edges each to test, to attack with and to choose settings.

  The other 85 % are trained on; `part` is that of `splits.split_rows`.
  """
  train, test = split_rows(
    len(data.edges), seed, part, test_share=0.05, select_share=0.05
  )
  train = np.random.default_rng((seed, 2)).permutation(train)
  count = max(2, round(0.05 * len(data.edges)))
  unseen, train = np.split(train, [count])
  g = graph.from_edges(data.features[:, :1], data.edges)
  key = keys.derive(jax.random.key(seed), f"non-edges to {part}")
  pairs = np.asarray(
    graph.draw_non_edges(graph.non_edges(g), key, len(train) + count)
  )
  absent = np.concatenate([data.edges[unseen], pairs[len(train) :]])
  edges, test_edges = data.edges[train], data.edges[test]
  return Split(edges, test_edges, absent, pairs[: len(train)])


def split_nodes(data: GraphData, seed: int, part: str = REPORT) -> Split:
  """60 % of the nodes to train on, 30 % to test, 10 % to choose; all edges stay."""
  rows, test = split_rows(len(data.features), seed, part, test_share=0.3)
  return Split(data.edges, test.astype(np.int32), rows=rows.astype(np.int32))


def around(edges: np.ndarray, some: Any, count: int) -> np.ndarray:
  """The nodes within two hops of some nodes, these included: bool [count].

  `graph.hops` on the host, where compiling would cost more than walking.
  """
  reached = np.zeros(count, bool)
  reached[some] = True
  for _ in range(_HOPS):
    reached[edges[reached[edges].any(axis=1)]] = True
  return reached


def on_edges(template: Any, nodes: Any, edges: Any) -> Any:
  """A graph of the template's form with nodes and edges [E, 2] of its own."""
  return template._replace(
    nodes=nodes,
    edges=jnp.ones(2 * len(edges)),
    senders=edges.reshape(-1),
    receivers=edges[:, ::-1].reshape(-1),
  )


def masks(
  kind: str, value: str, data: GraphData, split: Split, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """The rows of a request.

  Args:
    kind: of `FORMS`.
    value: what stands behind the colon.
    data: the graph.
    split: of `split_links` or `split_nodes`, which says what a row is.
    seed: draws what is forgotten.

  Returns:
    The rows to forget, edges or training nodes, bool [N], and the nodes to
    forget, bool [n]. A node takes its edges along.

  Raises:
    ValueError: in one line, a share outside (0, 1), a class that does not exist,
      edges of a classifier of nodes, too few edges of that kind.
  """
  count = len(data.features)
  if kind == "class":
    if data.label is None:
      raise ValueError(
        f"Expected data with classes for class:{value}, got none."
      )
    if not value.isdecimal() or int(value) >= len(data.class_names):
      raise ValueError(
        f"Expected a class of 0 .. {len(data.class_names) - 1}, got {value!r}."
      )
    pick = lambda among: data.label[among] == int(value)
  else:
    try:
      share = float(value)
    except ValueError:
      share = float("nan")
    if not 0 < share < 1:
      raise ValueError(f"Expected a share in (0, 1), got {value!r}.")
    order = np.random.default_rng((seed, 3)).permutation
    pick = lambda among: np.isin(
      np.arange(len(among)), order(len(among))[: round(share * len(among))]
    )
  nodes = np.zeros(count, bool)
  if split.rows is not None:
    if kind not in ("nodes", "class"):
      raise ValueError("Expected nodes:SHARE or class:C with --task nodes.")
    mask = pick(split.rows)
    nodes[split.rows[mask]] = True
    return mask, nodes
  g = graph.from_edges(data.features[:, :1], split.edges)
  if kind in ("nodes", "class"):
    nodes = pick(np.arange(count))
    mask = graph.incident_edges(g, jnp.asarray(nodes))
  else:
    inside = around(split.edges, split.test, count)[split.edges].all(axis=1)
    eligible = {"edges": None, "in": inside, "out": ~inside}[kind]
    key = keys.derive(jax.random.key(seed), "edges to forget")
    mask = graph.sample_edges(key, g, share, eligible)
  return np.asarray(mask), nodes


def _karate() -> GraphData:
  """34 members of a club; a member's features say who it is."""
  edges = [(a, b) for a, others in _KARATE.items() for b in others]
  label = np.ones(34, np.int32)
  label[list(_INSTRUCTORS)] = 0
  return GraphData(
    np.eye(34, dtype=np.float32),
    np.array(edges, np.int32),
    label,
    ("instructor", "officers"),
  )


def _digits(max_nodes: int | None) -> GraphData:
  """scikit-learn's digits, each joined to the nearest others by their pixels."""
  from sklearn.datasets import load_digits
  from sklearn.neighbors import kneighbors_graph

  loaded: Any = load_digits()
  x = (loaded.data[:max_nodes] / 16).astype(np.float32)
  near = kneighbors_graph(x, _NEIGHBOURS).tocoo()
  pairs = np.sort(np.stack([near.row, near.col], axis=1), axis=1)
  return GraphData(
    x,
    np.unique(pairs, axis=0).astype(np.int32),
    loaded.target[:max_nodes].astype(np.int32),
    tuple(map(str, range(10))),
  )


def _cora(path: Path) -> GraphData:
  """2,708 papers and who cites whom; words of a paper have a sum of 1."""
  names = ("feat_indptr", "feat_indices", "feat_data", "feat_shape")
  arrays = _arrays(path, (*names, "label", "edges"))
  indptr, indices, values, shape = (arrays[name] for name in names)
  x = np.zeros(tuple(shape), np.float32)
  x[np.repeat(np.arange(len(x)), np.diff(indptr)), indices] = values
  x /= np.maximum(x.sum(axis=1, keepdims=True), 1e-9)
  return _checked_graph(
    GraphData(
      x, arrays["edges"], arrays["label"].astype(np.int32), tuple("0123456")
    ),
    path,
  )


def _from_npz(path: Path) -> GraphData:
  """Of one's own: features [n, d], edges [E, 2] and perhaps label [n]."""
  arrays = _arrays(path, ("features", "edges"))
  label = arrays.get("label")
  names: tuple[str, ...] = ()
  if label is not None:
    if (
      label.ndim != 1
      or label.dtype.kind not in "iu"
      or len(label) == 0
      or label.min() < 0
    ):
      raise ValueError(
        f"Expected label of {path} to be classes from 0 on, one a node, got "
        f"{label.dtype} {label.shape}."
      )
    label = label.astype(np.int32)
    names = tuple(str(i) for i in range(int(label.max()) + 1))
  features = arrays["features"]
  if features.dtype.kind not in "fiub":
    raise ValueError(
      f"Expected features of {path} to be numbers, got {features.dtype}."
    )
  return _checked_graph(
    GraphData(features.astype(np.float32), arrays["edges"], label, names), path
  )


def _checked_graph(data: GraphData, path: Path) -> GraphData:
  try:
    graph.from_edges(data.features, data.edges)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  n = len(data.features)
  if data.label is not None and len(data.label) != n:
    raise ValueError(
      f"Expected label of {path} for each of {n} nodes, got {len(data.label)}."
    )
  return data._replace(edges=data.edges.astype(np.int32))


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  arrays = read_npz(str(path))
  missing = [name for name in names if name not in arrays]
  if missing:
    raise ValueError(f"Expected {path} to have {missing[0]}, got none.")
  return arrays
