"""Pictures of a graph before and after, and of what was kept and forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.forget_graph_measure import Measured
from experiments.forget_graph_study import Study
from experiments.graph_data import around
from jaxunlearn import report
from jaxunlearn.report.canvas import (
  BLUE,
  GREY,
  INK,
  ORANGE,
  PALETTE,
  blues,
  clean,
  new_figure,
  style_axes,
)
from jaxunlearn.report.label_layout import place_labels

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_WANTED = 20  # Nodes of the picture, about.
_PANELS = 4
_PREFERRED = ("d2dgn", "gnndelete")


def trade_off(
  summary: report.Summary, task: str, known: Sequence[report.Metric]
) -> Figure:
  """Utility upwards, forgetting to the right; the retrained model's lines."""
  names = ("forget_auc", "test_auc")
  if task == "nodes":
    names = ("forget_accuracy", "test_accuracy")
  x, y = (report.describe(name, known) for name in names)
  at = lambda method, metric: (
    metric.scale * summary.overall[method][metric.name].mean
  )
  shown = [
    m for m in summary.candidates if np.isfinite([at(m, x), at(m, y)]).all()
  ]
  figure = new_figure(8, 5)
  axes = figure.subplots()
  xs, ys = ([at(m, metric) for m in shown] for metric in (x, y))
  axes.plot(xs, ys, "o", color=BLUE, zorder=3)
  axes.plot(at("original", x), at("original", y), "s", color=GREY, zorder=3)
  lines: dict[str, Any] = {"color": INK, "ls": "--", "lw": 1.2, "zorder": 1}
  axes.axvline(at("retrained", x), label="retrained model", **lines)
  axes.axhline(at("retrained", y), **lines)
  axes.margins(0.15)
  style_axes(axes, grid="both")
  axes.set_xlabel(clean(x.heading, 60), fontsize=10)
  axes.set_ylabel(clean(y.heading, 60), fontsize=10)
  figure.legend(loc="outside lower center", frameon=False, fontsize=9)
  named = ["original", *shown]
  place_labels(
    axes,
    np.array([at(m, x) for m in named]),
    np.array([at(m, y) for m in named]),
    [clean(m) for m in named],
    avoid_x=[at("retrained", x)],
    avoid_y=[at("retrained", y)],
  )
  return figure


class View(NamedTuple):
  """A part of the graph that fits a picture.

  Attributes:
    nodes: int [m].
    place: float [m, 2].
    edge_rows: int [q], the edges of the training graph between them.
    centre: of links the edge, of nodes the node, that was forgotten.
  """

  nodes: np.ndarray
  place: np.ndarray
  edge_rows: np.ndarray
  centre: int


def caption(study: Study) -> str:
  """What the picture of a neighbourhood shows."""
  first = f"{study.asks[0].text}, seed {study.seeds[0]}"
  if study.task == "links":
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


def neighbourhood(
  study: Study, measured: Mapping[str, Measured], methods: Sequence[str]
) -> Figure:
  """A panel a model: the original, the retrained one, and two methods."""
  view = choose_view(study)
  chosen = [m for m in _PREFERRED if m in methods]
  chosen += [m for m in methods if m not in chosen]
  names = ["original", "retrained", *chosen][:_PANELS]
  figure = new_figure(3.1 * len(names), 3.7)
  panels = figure.subplots(1, len(names), squeeze=False)[0]
  for axes, name in zip(panels, names):
    draw = _draw_links if study.task == "links" else _draw_nodes
    title = draw(axes, study, view, measured[name].shown, name == "original")
    axes.set_title(clean(f"{name}{title}", 40), fontsize=11, color=INK)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.08)
    axes.set_axis_off()
  if study.task == "links":
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
    _class_legend(figure, study, view, [measured[name].shown for name in names])
  return figure


def choose_view(study: Study) -> View:
  """The neighbourhood of a forgotten edge or node that fits a picture best."""
  edges = np.asarray(study.splits.edges[0])
  n = len(study.data.features)
  forgotten = np.flatnonzero(study.masks[0, 0])
  rows = edges
  if study.splits.rows is not None:
    rows = study.splits.rows[0][:, None]
  best = None
  for centre in forgotten[:200]:
    inside = around(edges, rows[centre], n)
    badness = abs(int(inside.sum()) - _WANTED)
    if best is None or badness < best[0]:
      best = badness, int(centre), inside
  assert best is not None
  _, centre, inside = best
  nodes = np.flatnonzero(inside)
  edge_rows = np.flatnonzero(inside[edges].all(axis=1))
  place = np.full(n, -1)
  place[nodes] = np.arange(len(nodes))
  at = place_nodes(len(nodes), place[edges[edge_rows]])
  return View(nodes, at, edge_rows, centre)


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


def _segments(study: Study, view: View) -> np.ndarray:
  """The edges' ends in the picture, [q, 2, 2]."""
  edges = np.asarray(study.splits.edges[0])[view.edge_rows]
  return view.place[np.searchsorted(view.nodes, edges)]


def _draw_links(axes: Axes, study, view, shown, is_original: bool) -> str:
  from matplotlib.collections import LineCollection

  lines = _segments(study, view)
  gone = study.masks[0, 0][view.edge_rows]
  p = np.asarray(shown)[view.edge_rows]
  axes.add_collection(
    LineCollection(list(lines[gone]), colors=ORANGE, lw=7, alpha=0.35, zorder=1)
  )
  for part, style in (
    (~gone, "-"),
    (gone, "-" if is_original else (0, (2, 1))),
  ):
    axes.add_collection(
      LineCollection(
        list(lines[part]),
        colors=blues()(p[part]),
        lw=2.2,
        linestyles=[style],
        zorder=2,
      )
    )
  x, y = view.place.T
  axes.scatter(x, y, s=16, color=INK, zorder=3)
  ends = np.asarray(study.splits.edges[0])[view.centre]
  middle = view.place[np.searchsorted(view.nodes, ends)]
  axes.scatter(
    middle[:, 0], middle[:, 1], s=50, color=ORANGE, edgecolor=INK, zorder=4
  )
  return f", {float(np.asarray(shown)[view.centre]):.2f}"


def _draw_nodes(axes: Axes, study, view, shown, is_original: bool) -> str:
  from matplotlib.collections import LineCollection

  edges = np.asarray(study.splits.edges[0])[view.edge_rows]
  gone_nodes = study.gone[0, 0]
  gone = gone_nodes[edges].any(axis=1)
  lines = _segments(study, view)
  for part, style in (
    (~gone, "-"),
    (gone, "-" if is_original else (0, (1, 2))),
  ):
    axes.add_collection(
      LineCollection(
        list(lines[part]), colors=GREY, lw=1, linestyles=[style], zorder=1
      )
    )
  given = np.asarray(shown)[view.nodes]
  ring = gone_nodes[view.nodes]
  for some, size, edge, width in (
    (~ring, 55, "white", 0.5),
    (ring, 90, INK, 2.2),
  ):
    axes.scatter(
      view.place[some, 0],
      view.place[some, 1],
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


def _class_legend(figure: Figure, study, view, shown) -> None:
  from matplotlib.lines import Line2D

  given = np.unique(np.concatenate([np.asarray(s)[view.nodes] for s in shown]))
  handles = [
    Line2D(
      [],
      [],
      ls="",
      marker="o",
      color=_colour(int(c)),
      label=clean(study.data.class_names[int(c)], 20),
    )
    for c in given
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
