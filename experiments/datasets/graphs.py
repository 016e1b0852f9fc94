"""Graphs to forget edges and nodes of, and requests over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import graph
from jaxunlearn.core import keys

from .. import files, requests
from ..data import data_folder
from . import own_graphs
from .splits import REPORT, SELECT, split_rows

SOURCES = "karate, digits, cora or npz:PATH"
FORMS = {
  "edges": "edges:SHARE, edges:FILE",
  "in": "in:SHARE",
  "out": "out:SHARE",
  "nodes": "nodes:SHARE, nodes:ID,ID",
  "class": "class:C",
  "within": "within:C",
  "index": "index:FILE",
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
    ids: [n], the nodes as their platform calls them, numbers, strings or times;
      None where they are the numbers 0 .. n - 1.
    edges_test: int32 [K, 2], edges of the same graph that no model is trained
      on, where the data say so.
    nodes_test: int32 [T], nodes whose labels no model is trained on, likewise.
  """

  features: np.ndarray
  edges: np.ndarray
  label: np.ndarray | None
  class_names: tuple[str, ...]
  ids: np.ndarray | None = None
  edges_test: np.ndarray | None = None
  nodes_test: np.ndarray | None = None

  @property
  def names(self) -> np.ndarray:
    """[n], what requests and files call the nodes."""
    return np.arange(len(self.features)) if self.ids is None else self.ids


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
    folder = data_folder(data_dir)
    if folder is None:
      raise ValueError(
        "Expected --data-dir (or JAXUNLEARN_DATA) with the file cora.npz, got "
        "neither."
      )
    return _cora(Path(folder) / "cora.npz")
  if source.startswith("npz:"):
    path = Path(source.removeprefix("npz:"))
    return _checked_graph(GraphData(**own_graphs.read(path)), path)
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


def split_links(
  data: GraphData,
  seed: int,
  part: str = REPORT,
  pinned: np.ndarray | None = None,
) -> Split:
  """5 % of the edges each to test, to attack with and to choose settings.

  The other 85 % are trained on; for `part` and `pinned`, bool [E], see
  `splits.split_rows`. Of data with edges to test on all others are trained on,
  and of those a fifth is to choose settings, the same for every seed.
  """
  known, given = data.edges, data.edges_test
  if given is not None:
    known = np.concatenate([known, given])
    own = len(data.edges) + np.random.default_rng(0).permutation(len(given))
    select, rest = np.split(own, [max(2, len(given) // 5)])
    own = select if part == SELECT else rest
    own = np.random.default_rng((seed, 1)).permutation(own)
    test, unseen = np.array_split(own, 2)
    train = np.arange(len(data.edges))
  else:
    count = len(known)
    train, test = split_rows(
      count, seed, part, test_share=0.05, select_share=0.05, pinned=pinned
    )
    named = np.zeros(count, bool) if pinned is None else pinned
    train = np.random.default_rng((seed, 2)).permutation(train)
    train = train[np.argsort(named[train], kind="stable")]
    unseen, train = np.split(train, [max(2, round(0.05 * count))])
  g = graph.from_edges(data.features[:, :1], known)
  key = keys.derive(jax.random.key(seed), f"non-edges to {part}")
  pairs = np.asarray(
    graph.draw_non_edges(graph.non_edges(g), key, len(train) + len(unseen))
  )
  absent = np.concatenate([known[unseen], pairs[len(train) :]])
  return Split(known[train], known[test], absent, pairs[: len(train)])


def split_nodes(
  data: GraphData,
  seed: int,
  part: str = REPORT,
  pinned: np.ndarray | None = None,
) -> Split:
  """60 % of the nodes to train on, 30 % to test, 10 % to choose; all edges stay.

  Of data with nodes to test on, all others are trained on.
  """
  count, given = len(data.features), data.nodes_test
  if given is None:
    rows, test = split_rows(count, seed, part, test_share=0.3, pinned=pinned)
  else:
    rows = np.setdiff1d(np.arange(count), given)
    own = np.random.default_rng(0).permutation(given)
    select, rest = np.split(own, [max(1, len(given) // 5)])
    test = np.sort(select if part == SELECT else rest)
  return Split(data.edges, test.astype(np.int32), rows=rows.astype(np.int32))


class NodeRows(NamedTuple):
  """Training and test nodes of one seed, {"x": [N, d], "label": [N]} each."""

  train: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


def rows_of(data: GraphData, split: Split) -> NodeRows | None:
  """The nodes of a split by their features; None of links."""
  if split.rows is None or data.label is None:
    return None
  of = lambda rows: {"x": data.features[rows], "label": data.label[rows]}
  return NodeRows(of(split.rows), of(split.test))


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


def pinned(
  asks: Sequence[requests.Ask], data: GraphData, *, on_links: bool
) -> np.ndarray:
  """The rows that requests name: edges, bool [E], or nodes, bool [n].

  Of a link predictor a node that is named stands for its edges.

  Raises:
    ValueError: in one line, what is no name; see `masks`.
  """
  found = np.zeros(len(data.edges if on_links else data.features), bool)
  for ask in asks:
    with requests.about(ask):
      some = _named(ask.kind, ask.value, data, on_links)
      if some is None:
        continue
      of_nodes = on_links and ask.kind == "nodes"
      found |= some[data.edges].any(axis=1) if of_nodes else some
  return found


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
    ValueError: in one line, a share outside (0, 1), a class, node, edge or row
      that does not exist, edges of a classifier of nodes, too few edges of that
      kind.
  """
  count, on_links = len(data.features), split.rows is None
  some = _named(kind, value, data, on_links)
  among = np.arange(count) if on_links else split.rows
  nodes = np.zeros(count, bool)
  if kind in ("nodes", "class") or not on_links:
    if some is not None:
      picked = some[among]
      if picked.sum() < some.sum():
        raise ValueError(
          "Expected nodes whose labels were trained on, got "
          f"{some.sum() - picked.sum()} of nodes_test."
        )
    elif kind == "class":
      picked = data.label[among] == _class_of(value, data)
    else:
      size = round(requests.share(value) * len(among))
      order = np.random.default_rng((seed, 3)).permutation(len(among))
      picked = np.isin(np.arange(len(among)), order[:size])
    nodes[among[picked]] = True
    if not on_links:
      return picked, nodes
  g = graph.from_edges(data.features[:, :1], split.edges)
  if kind in ("nodes", "class"):
    mask = graph.incident_edges(g, jnp.asarray(nodes))
  elif kind == "within":
    mask = graph.edge_classes(g, data.label, [_class_of(value, data)])
  elif some is not None:
    code = lambda edges: edges.astype(np.int64) @ np.array([count, 1])
    mask = np.isin(code(split.edges), code(data.edges[some]))
  else:
    inside = around(split.edges, split.test, count)[split.edges].all(axis=1)
    eligible = {"edges": None, "in": inside, "out": ~inside}[kind]
    key = keys.derive(jax.random.key(seed), "edges to forget")
    mask = graph.sample_edges(key, g, requests.share(value), eligible)
  return np.asarray(mask), nodes


def _class_of(value: str, data: GraphData) -> int:
  return files.whole(value, "a class", 0, len(data.class_names) - 1)


def _named(
  kind: str, value: str, data: GraphData, on_links: bool
) -> np.ndarray | None:
  """The edges, or nodes, that a request names; None of a share or a class."""
  if not on_links and kind not in ("nodes", "class", "index"):
    raise ValueError(
      "Expected nodes:SHARE, nodes:ID,ID, index:FILE or class:C with --task "
      f"nodes, got '{kind}:{files.short(value)}'."
    )
  if kind in ("class", "within") and data.label is None:
    raise ValueError("Expected data with classes, got none.")
  if kind == "index":
    # Rows of what the network is trained on.
    return files.read_rows(
      value, len(data.edges if on_links else data.features)
    )
  if kind == "nodes":
    names = requests.share_or_names(value)
    if isinstance(names, tuple):
      return requests.rows_named(data.names, names, "a node")
  if kind == "edges" and files.checked_path(value, "edges:FILE").is_file():
    return _edges_of_file(value, data)
  return None


def _edges_of_file(path: str, data: GraphData) -> np.ndarray:
  """The edges between two nodes that each line of a file names: bool [E]."""
  ends = np.sort(data.edges.astype(np.int64), axis=1)
  count = len(data.features)
  known = ends[:, 0] * count + ends[:, 1]
  mask = np.zeros(len(known), bool)
  place = {str(name): i for i, name in enumerate(data.names.tolist())}
  for number, cells in files.read_cells(path, "two nodes", 2):
    for cell in cells:
      if cell not in place:  # For its words on the nearest.
        requests.rows_named(data.names, (cell,), "a node")
    low, high = sorted(place[cell] for cell in cells)
    found = known == low * count + high
    if not found.any():
      raise ValueError(
        f"Expected an edge on every line, got none between {cells[0]} and "
        f"{cells[1]} on line {number}."
      )
    mask |= found
  return mask


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
  arrays = own_graphs.arrays_of(path, (*names, "label", "edges"))
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


def _checked_graph(data: GraphData, path: Path) -> GraphData:
  edges, test = data.edges, data.edges_test
  try:
    graph.from_edges(
      data.features, edges if test is None else np.concatenate([edges, test])
    )
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  n = len(data.features)
  if data.label is not None and len(data.label) != n:
    raise ValueError(
      f"Expected label of {path} for each of {n} nodes, got {len(data.label)}."
    )
  narrow = lambda numbers: numbers if numbers is None else numbers.astype("i4")
  tests = narrow(data.edges_test), narrow(data.nodes_test)
  return data._replace(
    edges=narrow(edges), edges_test=tests[0], nodes_test=tests[1]
  )
