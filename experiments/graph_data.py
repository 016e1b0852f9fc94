"""Graphs to forget edges and nodes of, and requests over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import files, requests
from experiments.data import MAX_CLASSES, data_folder
from jaxunlearn import graph
from jaxunlearn.core import checks

SOURCES = "karate, digits, cora or npz:PATH"
FORMS = (
  "edges:SHARE, edges:FILE, in:SHARE, out:SHARE, nodes:SHARE, nodes:ID,ID, "
  "index:FILE or class:C"
)
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
  """

  features: np.ndarray
  edges: np.ndarray
  label: np.ndarray | None
  class_names: tuple[str, ...]
  ids: np.ndarray | None = None

  @property
  def names(self) -> np.ndarray:
    """[n], what requests and files call the nodes."""
    return np.arange(len(self.features)) if self.ids is None else self.ids


class Ask(NamedTuple):
  """One request as it was written.

  Attributes:
    text: such as "in:0.05".
    kind: "edges", "in", "out", "nodes", "class" or "index".
    value: a share in (0, 1), or the number of a class.
    named: what is named instead: bool [E] of edges or [n] of nodes.
  """

  text: str
  kind: str
  value: float
  named: np.ndarray | None = None

  @property
  def is_of_nodes(self) -> bool:
    return self.kind in ("nodes", "class")


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
    return _from_npz(Path(source.removeprefix("npz:")))
  raise ValueError(f"Expected --data {SOURCES}, got {source!r}.")


def parse(text: str, data: GraphData, task: str) -> tuple[Ask, ...]:
  """Reads the requests of a flag.

  Args:
    text: one of `FORMS`, or several with semicolons between.
    data: what they are about.
    task: "links" or "nodes"; of edges a classifier of nodes is not asked.

  Raises:
    ValueError: in one line, another form, a share outside (0, 1), a class that
      does not exist, a request of edges of a classifier, one that comes twice.
  """
  kinds = ("edges", "in", "out", "nodes", "class", "index")
  found = []
  for ask in requests.read(text, kinds, FORMS):
    try:
      found.append(_ask(ask, data, task))
    except ValueError as error:
      text = files.short(ask.text)
      raise ValueError(f"--request {text}: {error}") from error
  return tuple(found)


def _ask(ask: requests.Ask, data: GraphData, task: str) -> Ask:
  text, kind, value = ask
  if task == "nodes" and kind not in ("nodes", "class", "index"):
    raise ValueError(
      f"Expected nodes:SHARE, nodes:ID,ID, index:FILE or class:C with --task "
      f"nodes, got {text!r}."
    )
  if kind == "class":
    if data.label is None:
      raise ValueError("Expected data with classes, got none.")
    count = len(data.class_names)
    return Ask(text, kind, files.whole(value, "a class", 0, count - 1))
  if kind == "index":
    # Rows of what the network is trained on.
    rows = data.edges if task == "links" else data.features
    named = files.read_rows(value, len(rows))
    return Ask(text, "edges" if task == "links" else "nodes", 1.0, named)
  if kind == "nodes":
    share = requests.share_or_names(value)
    if isinstance(share, tuple):
      named = requests.rows_named(data.names, share, "a node")
      return Ask(text, kind, 1.0, named)
    return Ask(text, kind, share)
  if kind == "edges" and files.checked_path(value, "edges:FILE").is_file():
    return Ask(text, kind, 1.0, _edges_of_file(value, data))
  return Ask(text, kind, requests.share(value))


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


def _named_last(order: np.ndarray, named: Sequence[np.ndarray]) -> np.ndarray:
  """The same order with what requests name at its end, where training is.

  Raises:
    ValueError: they name more than half.
  """
  if not named:
    return order
  pinned = np.logical_or.reduce(named)
  if 2 * pinned.sum() > len(order):
    raise ValueError(
      f"Expected --request to name at most half of {len(order)} edges or nodes, "
      f"got {pinned.sum()}."
    )
  return np.concatenate([order[~pinned[order]], order[pinned[order]]])


def split_links(data: GraphData, seed: int, asks: Sequence[Ask] = ()) -> Split:
  """90 % of the edges to train on, 5 % each to test and to attack with.

  Edges that a request names, or that end in a node that it names, are trained
  on.
  """
  rng = np.random.default_rng((seed, 1))
  count = max(2, round(0.05 * len(data.edges)))
  order = rng.permutation(len(data.edges))
  order = _named_last(
    order,
    [
      ask.named[data.edges].any(axis=1) if ask.is_of_nodes else ask.named
      for ask in asks
      if ask.named is not None
    ],
  )
  test, unseen, train = np.split(data.edges[order], [count, 2 * count])
  g = graph.from_edges(data.features[:, :1], data.edges)
  pairs = np.asarray(
    graph.draw_non_edges(
      graph.non_edges(g), jax.random.key(seed), len(train) + count
    )
  )
  absent = np.concatenate([unseen, pairs[len(train) :]])
  return Split(train, test, absent, pairs[: len(train)])


def split_nodes(data: GraphData, seed: int, asks: Sequence[Ask] = ()) -> Split:
  """60 % of the nodes to train on, the others to test on; all edges stay.

  Nodes that a request names are trained on.
  """
  rng = np.random.default_rng((seed, 2))
  order = rng.permutation(len(data.features)).astype(np.int32)
  named = [ask.named for ask in asks if ask.named is not None]
  order = _named_last(order[::-1], named)[::-1]
  rows, test = np.split(order, [round(0.6 * len(order))])
  return Split(data.edges, np.sort(test), rows=np.sort(rows))


def around(edges: np.ndarray, some: Any, count: int) -> np.ndarray:
  """The nodes within two hops of some nodes, these included: bool [count].

  `graph.hops` on the host, where compiling would cost more than walking.
  """
  reached = np.zeros(count, bool)
  reached[some] = True
  for _ in range(_HOPS):
    reached[edges[reached[edges].any(axis=1)]] = True
  return reached


def mask_links(
  ask: Ask, data: GraphData, split: Split, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """A request of a link predictor.

  Returns:
    The edges to forget, bool [E], and the nodes to forget, bool [n].

  Raises:
    ValueError: too few edges of that kind; none, or all.
  """
  rng = np.random.default_rng((seed, 3))
  nodes = np.zeros(len(data.features), bool)
  g = graph.from_edges(data.features[:, :1], split.edges)
  if ask.is_of_nodes:
    nodes = _nodes(ask, data, np.arange(len(nodes)), rng)
    mask = graph.incident_edges(g, jnp.asarray(nodes))
  elif ask.named is not None:
    wanted = data.edges[ask.named].astype(np.int64)
    key = lambda edges: edges[:, 0] * len(nodes) + edges[:, 1]
    mask = np.isin(key(split.edges.astype(np.int64)), key(wanted))
  else:
    inside = around(split.edges, split.test, len(nodes))[split.edges].all(
      axis=1
    )
    eligible = {"edges": None, "in": inside, "out": ~inside}[ask.kind]
    key = jax.random.key(seed)
    try:
      mask = graph.sample_edges(key, g, ask.value, eligible)
    except ValueError as error:
      raise ValueError(f"--request {ask.text}: {error}") from error
  return _checked(ask, np.asarray(mask)), nodes


def mask_nodes(
  ask: Ask, data: GraphData, split: Split, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """A request of a classifier: training nodes bool [N], and bool [n]."""
  assert split.rows is not None
  rng = np.random.default_rng((seed, 3))
  mask = _checked(ask, _nodes(ask, data, split.rows, rng))
  nodes = np.zeros(len(data.features), bool)
  nodes[split.rows[mask]] = True
  return mask, nodes


def _nodes(ask, data, among, rng) -> np.ndarray:
  """Which of some nodes are asked for: bool like them."""
  if ask.named is not None:
    return ask.named[among]
  if ask.kind == "class":
    return data.label[among] == ask.value
  chosen = rng.permutation(len(among))[: round(ask.value * len(among))]
  return np.isin(np.arange(len(among)), chosen)


def _checked(ask: Ask, mask: np.ndarray) -> np.ndarray:
  try:
    checks.request_values(mask, "--request")
  except ValueError as error:
    raise ValueError(f"--request {ask.text}: {error}") from error
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
  """Of one's own: features [n, d], edges [E, 2], perhaps label and ids [n].

  Where there are ids the edges are between these, else between row numbers.
  """
  arrays = _arrays(path, ("features", "edges"))
  label = arrays.get("label")
  names: tuple[str, ...] = ()
  if label is not None:
    is_whole = label.ndim == 1 and label.dtype.kind in "iu" and len(label)
    # As Python's integers: nothing is narrowed before it is known to fit.
    if (
      not is_whole
      or not 0 <= int(label.min()) <= int(label.max()) < MAX_CLASSES
    ):
      ends = f", {label.min()} .. {label.max()}" if is_whole else ""
      raise ValueError(
        f"Expected label of {path} to be classes from 0 on, at most "
        f"{MAX_CLASSES}, one a node, got {label.dtype} {label.shape}{ends}."
      )
    label = label.astype(np.int32)
    names = tuple(str(i) for i in range(int(label.max()) + 1))
  features = arrays["features"]
  if features.dtype.kind not in "fiub":
    raise ValueError(
      f"Expected features of {path} to be numbers, got {features.dtype}."
    )
  edges, ids = arrays["edges"], arrays.get("ids")
  if ids is not None:
    edges = _by_number(edges, ids, len(features), path)
  made = GraphData(features.astype(np.float32), edges, label, names, ids)
  return _checked_graph(made, path)


def _by_number(
  edges: np.ndarray, ids: np.ndarray, count: int, path: Path
) -> np.ndarray:
  """Edges between ids as edges between row numbers, int [E, 2]."""
  if ids.shape != (count,) or ids.dtype.kind not in "iuUSM":
    raise ValueError(
      f"Expected ids of {path}, integers or strings [{count}], got {ids.dtype} "
      f"{list(ids.shape)}."
    )
  known, row = np.unique(ids, return_index=True)
  if len(known) < count:
    raise ValueError(f"Expected ids of {path} to differ, got some twice.")
  if edges.ndim != 2 or edges.dtype.kind != ids.dtype.kind:
    raise ValueError(
      f"Expected edges of {path} between ids ({ids.dtype}), got {edges.dtype} "
      f"{list(edges.shape)}."
    )
  unknown = edges[~np.isin(edges, known)]
  if unknown.size:
    raise ValueError(
      f"Expected edges of {path} between ids, got the unknown {unknown[0]}."
    )
  return row[np.searchsorted(known, edges)]


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
  arrays = files.read_npz(str(path))
  missing = [name for name in names if name not in arrays]
  if missing:
    raise ValueError(f"Expected {path} to have {missing[0]}, got none.")
  return arrays
