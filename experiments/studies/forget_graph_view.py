"""Pictures of a part of a graph before and after."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxunlearn import report
from jaxunlearn.report import charts

from ..bench import ORIGINAL, RETRAINED, Evidence, Plan
from ..datasets.graphs import around

_WANTED = 20  # Nodes of the picture, about.
_PANELS = 4
_PREFERRED = ("d2dgn", "gnndelete")


class View(NamedTuple):
  """A part of the graph that fits a picture.

  Attributes:
    nodes: int [m].
    place: float [m, 2].
    edge_rows: int [q], the edges of the training graph between them.
    edges: int [q, 2], their ends by place in `nodes`.
    gone: bool [q], which go with the request.
    gone_nodes: bool [m], likewise.
    centre: of links the edge, of nodes the node, that was forgotten.
  """

  nodes: np.ndarray
  place: np.ndarray
  edge_rows: np.ndarray
  edges: np.ndarray
  gone: np.ndarray
  gone_nodes: np.ndarray
  centre: int


def caption(plan: Plan) -> str:
  """What the picture of a neighbourhood shows."""
  first = f"{plan.requests.names[0]}, seed {plan.seeds[0]}"
  if plan.options.task == "links":
    return (
      f"What lies within two steps of a deleted edge ({first}). The darker an "
      "edge, the higher the probability that the model gives to it; deleted "
      "edges are orange underneath and, once deleted, broken. The number is the "
      "probability of the deleted edge in the middle."
    )
  return (
    f"What lies within two steps of a forgotten node ({first}). Colours are the "
    "classes that the model gives; forgotten nodes have a black ring, and "
    "their edges are broken once they are gone."
  )


def neighbourhood(evidence: Evidence) -> report.Chart:
  """A panel per model: the original, the retrained one, and two methods."""
  plan = evidence.plan
  view = choose_view(plan)
  chosen = [m for m in _PREFERRED if m in plan.methods]
  chosen += [m for m in plan.methods if m not in chosen]
  names = [ORIGINAL, RETRAINED, *chosen][:_PANELS]
  shown = {name: evidence.found[name].values["shown"][0] for name in names}
  if plan.options.task == "links":
    return report.Chart(
      tuple(_links(name, view, own) for name, own in shown.items()), _PANELS
    )
  given = np.unique([classes[view.nodes] for classes in shown.values()])
  class_names = charts.distinct(plan.beds.sources[0].data.class_names)
  # Without orange, which is near amber.
  own = [c for c in charts.PALETTE if c != charts.ORANGE]
  colours = {int(c): own[int(c) % len(own)] for c in given}
  styles = {class_names[c]: (colour, [1, 0]) for c, colour in colours.items()}
  panels = [
    _nodes(name, view, classes, colours, class_names)
    for name, classes in shown.items()
  ]
  legend = charts.legend(styles, "class that the model gives")
  return report.Chart((*panels, legend), _PANELS)


def choose_view(plan: Plan) -> View:
  """The neighbourhood of a forgotten edge or node that fits a picture best."""
  split = plan.beds.sources[0].split
  edges, mask = split.edges, plan.requests.forget[0, 0]
  gone_nodes = plan.requests.marks[0, 0]
  n = len(gone_nodes)
  rows = edges if split.rows is None else split.rows[:, None]
  around_each = {
    int(row): around(edges, rows[row], n) for row in np.flatnonzero(mask)[:200]
  }
  badness = lambda row: abs(int(around_each[row].sum()) - _WANTED)
  centre = min(around_each, key=badness)
  inside = around_each[centre]
  nodes = np.flatnonzero(inside)
  edge_rows = np.flatnonzero(inside[edges].all(axis=1))
  gone = mask if split.rows is None else gone_nodes[edges].any(axis=1)
  ends = np.searchsorted(nodes, edges[edge_rows])
  place = place_nodes(len(nodes), ends)
  return View(
    nodes, place, edge_rows, ends, gone[edge_rows], gone_nodes[nodes], centre
  )


def place_nodes(count: int, edges: np.ndarray) -> np.ndarray:
  """Places in which distances are those in the graph, nearly: float [m, 2].

  Classical scaling, and then stress majorisation with weights of one over the
  squared distance; the same in every run.
  """
  from scipy.sparse import coo_array
  from scipy.sparse.csgraph import shortest_path

  ones = np.ones(len(edges))
  joined = coo_array((ones, (edges[:, 0], edges[:, 1])), (count, count))
  wanted = shortest_path(joined.tocsr(), directed=False, unweighted=True)
  wanted[np.isinf(wanted)] = wanted[np.isfinite(wanted)].max() + 1
  centred = wanted**2 - (wanted**2).mean(axis=0)
  centred -= centred.mean(axis=1, keepdims=True)
  values, vectors = np.linalg.eigh(-centred / 2)
  x = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
  # What is alike in the graph would else lie on one point for ever.
  angle = 2 * np.pi * np.arange(count) / count
  x = x + 0.05 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  weight = np.where(wanted > 0, 1 / np.maximum(wanted, 1) ** 2, 0)
  inverse = np.linalg.pinv(np.diag(weight.sum(axis=1)) - weight)
  for _ in range(300):
    found = np.linalg.norm(x[:, None] - x[None], axis=-1)
    ratio = np.divide(
      wanted, found, out=np.zeros_like(wanted), where=found > 1e-9
    )
    pull = -weight * ratio
    pull -= np.diag(pull.sum(axis=1))
    x = inverse @ (pull @ x)
  return x


def _edges(view: View, name: str, values: np.ndarray) -> list[dict[str, Any]]:
  """The edges; those that are gone are broken, but in the original model."""
  return [
    {
      **{"x": a[0], "y": a[1], "x2": b[0], "y2": b[1]},
      **{"gone": bool(gone), "broken": bool(gone and name != ORIGINAL)},
      "p": value,
    }
    for (a, b), gone, value in zip(view.place[view.edges], view.gone, values)
  ]


def _drawing(title: str, view: View, edges: Any, nodes: Any, **marks: Any):
  """Edges in layers, nodes above, on a square."""
  middle = (view.place.max(axis=0) + view.place.min(axis=0)) / 2
  half = 1.1 * np.ptp(view.place, axis=0).max() / 2 + 1e-9
  x, y = (
    charts.number(axis, axis=None, scale={"domain": [c - half, c + half]})
    for axis, c in zip("xy", middle)
  )
  ends = {"x": x, "y": y, "x2": {"field": "x2"}, "y2": {"field": "y2"}}
  drawn = [charts.layer(mark, rows, **ends, **of) for mark, rows, of in edges]
  drawn.append(
    charts.layer({"type": "circle", "opacity": 1}, nodes, x=x, y=y, **marks)
  )
  return charts.panel(title, *drawn, width=220, height=220)


_DASH = {
  "condition": {"test": "datum.broken", "value": [4, 3]},
  "value": [1, 0],
}


def _links(name: str, view: View, shown: Any) -> charts.Spec:
  p = shown[view.edge_rows]
  edges = _edges(view, name, p)
  told = [{**row, "label": f"edge: {row['p']:.2f}"} for row in edges]
  scale = {"domain": [0, 1], "range": charts.BLUES, "interpolate": "rgb"}
  centre = view.edges[np.searchsorted(view.edge_rows, view.centre)]
  nodes = [
    {"x": at[0], "y": at[1], "size": 60 if i in centre else 18}
    for i, at in enumerate(view.place)
  ]
  glow = {"type": "rule", "color": charts.ORANGE, "opacity": 0.35}
  gone = [row for row in edges if row["gone"]]
  return _drawing(
    f"{name}, {float(shown[view.centre]):.2f}",
    view,
    [
      ({**glow, "strokeWidth": 7}, gone, {}),
      (
        {"type": "rule", "strokeWidth": 2.2},
        told,
        {
          "color": charts.number("p", scale=scale, legend=None),
          "strokeDash": _DASH,
        },
      ),
    ],
    nodes,
    size={"field": "size", "type": "quantitative", "scale": None},
    color={"value": charts.INK},
  )


def _nodes(
  name: str, view: View, shown: Any, colours: Any, class_names: Any
) -> charts.Spec:
  given = [int(c) for c in shown[view.nodes]]
  nodes = [
    {
      **{"x": at[0], "y": at[1], "color": colours[c], "ring": bool(ring)},
      "label": f"node: {class_names[c]}",
    }
    for at, c, ring in zip(view.place, given, view.gone_nodes)
  ]
  ring = lambda yes, no: {
    "condition": {"test": "datum.ring", "value": yes},
    "value": no,
  }
  grey = {"type": "rule", "color": charts.GREY, "strokeWidth": 1}
  edges = _edges(view, name, np.zeros(len(view.edges)))
  return _drawing(
    name,
    view,
    [(grey, edges, {"strokeDash": _DASH})],
    nodes,
    **{"size": ring(90, 55), "stroke": ring(charts.INK, "#ffffff")},
    strokeWidth=ring(2.2, 0.5),
    color={"field": "color", "type": "nominal", "scale": None},
  )
