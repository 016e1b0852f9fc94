"""Pictures of a part of a graph before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.bench import ORIGINAL, RETRAINED, Evidence, Plan
from experiments.datasets.graphs import around
from jaxunlearn.report.canvas import (
  GREY,
  INK,
  ORANGE,
  PALETTE,
  blues,
  clean,
  new_figure,
)

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

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


def neighbourhood(evidence: Evidence) -> Figure:
  """A panel per model: the original, the retrained one, and two methods."""
  plan = evidence.plan
  view = choose_view(plan)
  chosen = [m for m in _PREFERRED if m in plan.methods]
  chosen += [m for m in plan.methods if m not in chosen]
  names = [ORIGINAL, RETRAINED, *chosen][:_PANELS]
  figure = new_figure(3.1 * len(names), 3.7)
  panels = figure.subplots(1, len(names), squeeze=False)[0]
  shown = {name: evidence.found[name].values["shown"][0] for name in names}
  draw = _draw_links if plan.options.task == "links" else _draw_nodes
  for axes, name in zip(panels, names):
    title = draw(axes, view, shown[name], name == ORIGINAL)
    axes.set_title(clean(f"{name}{title}", 40), fontsize=11, color=INK)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.set_axis_off()
  if plan.options.task == "links":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
      ScalarMappable(Normalize(0, 1), blues()),
      ax=list(panels),
      orientation="horizontal",
      shrink=0.4,
      pad=0.02,
      aspect=40,
    )
    bar.set_label("probability of the edge", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=9)
  else:
    given = np.unique([classes[view.nodes] for classes in shown.values()])
    class_names = plan.beds.sources[0].data.class_names
    _class_legend(figure, {int(c): class_names[c] for c in given})
  return figure


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


def _lines(
  axes: Axes, view: View, is_original: bool, dashes: Any, **style: Any
):
  """The edges; those that are gone are broken, but in the original model."""
  from matplotlib.collections import LineCollection

  segments, colours = view.place[view.edges], style.pop("colors")
  for part, line in (
    (~view.gone, "-"),
    (view.gone, "-" if is_original else (0, dashes)),
  ):
    some = list(segments[part])
    axes.add_collection(
      LineCollection(some, colors=colours[part], linestyles=[line], **style)
    )


def _draw_links(axes: Axes, view: View, shown: Any, is_original: bool) -> str:
  from matplotlib.collections import LineCollection

  p = shown[view.edge_rows]
  deleted = list(view.place[view.edges[view.gone]])
  axes.add_collection(
    LineCollection(deleted, colors=ORANGE, lw=7, alpha=0.35, zorder=1)
  )
  colours = blues()(p)
  _lines(axes, view, is_original, (2, 1), colors=colours, lw=2.2, zorder=2)
  axes.scatter(*view.place.T, s=16, color=INK, zorder=3)
  ends = view.place[view.edges[np.searchsorted(view.edge_rows, view.centre)]]
  axes.scatter(*ends.T, s=50, color=ORANGE, edgecolor=INK, zorder=4)
  return f", {float(shown[view.centre]):.2f}"


def _draw_nodes(axes: Axes, view: View, shown: Any, is_original: bool) -> str:
  grey = np.full(len(view.edges), GREY)
  _lines(axes, view, is_original, (1, 2), colors=grey, lw=1, zorder=1)
  given, ring = shown[view.nodes], view.gone_nodes
  for some, size, edge, width in (
    (~ring, 55, "white", 0.5),
    (ring, 90, INK, 2.2),
  ):
    axes.scatter(
      *view.place[some].T,
      s=size,
      c=[_colour(int(c)) for c in given[some]],
      edgecolors=edge,
      linewidths=width,
      zorder=3,
    )
  return ""


def _colour(label: int) -> Any:
  """That of a class; the palette's without orange, which is near amber."""
  from matplotlib import colormaps

  own = [c for c in PALETTE if c != ORANGE]
  return own[label] if label < len(own) else colormaps["tab20"](label % 20)


def _class_legend(figure: Figure, names: dict[int, str]) -> None:
  from matplotlib.lines import Line2D

  mark: dict[str, Any] = {"ls": "", "marker": "o"}
  handles = [
    Line2D([], [], color=_colour(c), label=clean(name, 20), **mark)
    for c, name in names.items()
  ]
  figure.legend(
    handles=handles,
    loc="outside lower center",
    ncols=min(len(handles), 7),
    frameon=False,
    fontsize=9,
    title="class that the model gives",
    title_fontsize=9,
  )
