"""The panels of a comparison of models, as specifications of Vega-Lite.

Every panel reads one of the named data sets that `compare.datasets` makes, whose
rows have an entry per model, and a few params: `a` and `b`, the models that are
compared, and what else a reader chooses. A page sets those and nothing else, so
that one specification serves every pair, with and without scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxunlearn.report.charts import (
  AMBER,
  BLUE,
  BLUES,
  FIXED,
  GREEN,
  GREY,
  INK,
  ORANGE,
  SKY,
  Spec,
  layer,
  names,
  number,
  panel,
)

KINDS = (
  "kept",
  "overly forgotten",
  "correctly forgotten",
  "not forgotten",
)
_KIND_COLOURS = (SKY, AMBER, GREEN, ORANGE)
_KIND_SHAPES = ("circle", "triangle-up", "cross", "diamond")
_OF_CLASS = "klass < 0 || datum.i === klass"
_PICK = {"type": "point", "fields": ["i"], "toggle": False}
_ROW = {"type": "point", "fields": ["row"], "toggle": False}


def class_panels(classes: Sequence[str]) -> list[Spec]:
  """Accuracies and their difference, and two kinds of matrices of A, B, B - A."""
  return [
    _accuracies(classes),
    _differences(classes),
    *(
      _matrix(classes, field, words, which)
      for field, words in (
        ("share", "predicted (%)"),
        ("conf", "mean probability (%)"),
      )
      for which in ("a", "b", "")
    ),
  ]


def _choose(name: str, select: Spec) -> dict[str, Any]:
  return {"params": [{"name": name, "select": select}]}


def _of_split(**more: str) -> list[Spec]:
  made: list[Spec] = [{"filter": "datum.split === split"}]
  return made + [{"calculate": v, "as": k} for k, v in more.items()]


def _faded() -> Spec:
  return {"condition": {"test": _OF_CLASS, "value": 1}, "value": 0.2}


def _class_axis(classes: Sequence[str], **more: Any) -> Spec:
  axis = {"domain": False, "ticks": False, "labelLimit": 90, **more}
  return names("true", classes, axis=axis)


def _accuracies(classes: Sequence[str]) -> Spec:
  y, scale = _class_axis(classes), {"domain": [0, 1]}
  x = lambda field: number(
    field, "accuracy", scale=scale, axis={"format": "~%", "tickCount": 5}
  )
  mark = {"type": "point", "filled": True, "size": 70, "opacity": 1}
  told = {"field": "label"}
  shown: Spec = {"y": y, "opacity": _faded(), "tooltip": told}
  return panel(
    {"text": "Accuracy of A (circle) and B (square)"},
    layer({"type": "rule", "color": GREY}, y=y, x=x("A"), x2={"field": "B"}),
    layer({**mark, "shape": "circle", "color": BLUE}, x=x("A"), **shown),
    {
      **layer({**mark, "shape": "square", "color": ORANGE, "size": 36}, x=x("B"), **shown),
      **_choose("pick", _PICK),
    },
    data={"name": "accuracy"},
    transform=_of_split(
      A="datum.acc[a]",
      B="datum.acc[b]",
      label="datum.true + ': A ' + format(datum.acc[a], '.1%') + ', B ' + "
      "format(datum.acc[b], '.1%')",
    ),
    # Two fill a line, so that matrices begin one.
    width=330,
    height={"step": 20},
  )  # fmt: skip


def _differences(classes: Sequence[str]) -> Spec:
  words, scale = "accuracy of B less that of A", {"domain": [-1, 1]}
  axis = {"format": "+~%", "tickCount": 5}
  colour = {
    "condition": {"test": "datum.v < 0", "value": BLUE},
    "value": ORANGE,
  }
  bar = layer(
    {"type": "bar", "height": {"band": 0.7}},
    y=_class_axis(classes),
    x=number("v", words, scale=scale, axis=axis),
    color=colour,
    opacity=_faded(),
    tooltip={"field": "label"},
  )
  return panel(
    {"text": "B - A (dashed: mean over kept classes)"},
    {**bar, **_choose("pick", _PICK)},
    layer({"type": "rule", "color": INK, "strokeDash": [5, 3]}, x=number("mean", words, scale=scale, axis=axis)),
    data={"name": "accuracy"},
    transform=[
      *_of_split(v="datum.acc[b] - datum.acc[a]", kept="datum.gone ? null : datum.v"),
      {"joinaggregate": [{"op": "mean", "field": "kept", "as": "mean"}]},
      {"calculate": "datum.true + ': ' + format(datum.v, '+.1%')", "as": "label"},
    ],
    width=330,
    height={"step": 20},
  )  # fmt: skip


def _matrix(classes: Sequence[str], field: str, words: str, which: str) -> Spec:
  """The cells of A, of B, or with no letter of the difference."""
  of = lambda letter: f"datum.{field}[{letter}]"
  cells, count = of(which), len(classes)
  both = f"isValid({of('a')}) && isValid({of('b')})"
  if not which:
    cells = f"{both} ? {of('b')} - {of('a')} : null"
  scale = (
    {"domain": [0, 1], "range": BLUES, "interpolate": "rgb"}
    if which
    else {
      "domain": [-1, 0, 1],
      "range": [BLUE, "#ffffff", ORANGE],
      "interpolate": "rgb",
    }
  )
  side = max(5, min(22, 260 // count))
  across = {
    "domain": False,
    "ticks": False,
    "labelLimit": 60,
    "labelAngle": -90,
  }
  place: Spec = {
    "y": _class_axis(classes),
    "x": names("pred", classes, axis={**across, "title": words}),
  }
  frame = {
    "condition": {"test": "datum.gone", "value": ORANGE},
    "value": "#cfcfcf",
  }
  head = f"'{which.upper()}: ' + names[{which}]" if which else "'B - A'"
  layers = [
    {
      **layer(
        "rect", **place, color=number("v", scale=scale, legend=None),
        stroke=frame, opacity=_faded(), tooltip={"field": "label"},
      ),
      **_choose("pick", _PICK),
    }
  ]  # fmt: skip
  if count <= 12:
    dark = {
      "condition": {"test": "abs(datum.v) > 0.6", "value": "#ffffff"},
      "value": FIXED,
    }
    shown = layer(
      {"type": "text", "fontSize": 9, "tooltip": None}, **place,
      text={"field": "text"}, color=dark,
    )  # fmt: skip
    layers.append({**shown, "transform": [{"filter": "abs(datum.v) >= 0.005"}]})
  sign = "" if which else "+"
  return panel(
    {"text": {"expr": head}},
    *layers,
    data={"name": "classes"},
    transform=[
      *_of_split(
        v=cells,
        text=f"format(100 * datum.v, '{sign}.0f')",
        label=f"datum.true + ' as ' + datum.pred + ': ' + format(datum.v, '{sign}.1%')",
      ),
      {"filter": "isValid(datum.v)"},
    ],
    width={"step": side},
    height={"step": min(side, 20)},
  )  # fmt: skip


def row_panel(which: str) -> Spec:
  """All rows of one side, on axes that both sides share."""
  axis = {"labels": False, "ticks": False, "grid": False}
  scale = {"domain": [-0.03, 1.03], "nice": False}
  at: Spec = {
    "x": number("X", "first direction", scale=scale, axis=axis),
    "y": number("Y", "second direction", scale=scale, axis=axis),
  }
  by = lambda range_: {
    "field": "kind",
    "type": "nominal",
    "legend": None,
    "scale": {"domain": list(KINDS), "range": list(range_)},
  }
  point = {
    "type": "point",
    "filled": True,
    "size": 26,
    "opacity": 0.8,
    "clip": True,
  }
  ring = {
    "type": "point",
    "size": 240,
    "color": INK,
    "strokeWidth": 2.5,
    "clip": True,
  }
  hovered = {**_ROW, "on": "pointerover", "clear": "pointerout"}
  points = layer(
    point,
    **at,
    color=by(_KIND_COLOURS),
    shape=by(_KIND_SHAPES),
    tooltip={"field": "label"},
  )
  # The selections stand in the second layer: zooming is the first's.
  own = {
    "params": [
      {"name": "pick", "select": _ROW},
      {"name": "hover", "select": hovered},
    ]
  }
  small = layer(
    {**point, "opacity": 0, "size": 60}, **at, tooltip={"field": "label"}
  )
  marked = layer(ring, **at)
  right = f"datum.pred[{which}] === datum.i"
  return panel(
    {"text": {"expr": f"'{which.upper()}: ' + names[{which}]"}},
    points,
    {**small, **own},
    {**marked, "transform": [{"filter": "datum.row === pinned || datum.row === hovered"}]},
    data={"name": "rows"},
    transform=[
      {"calculate": f"datum.x[layout][{which}]", "as": "X"},
      {"calculate": f"datum.y[layout][{which}]", "as": "Y"},
      {"calculate": f"datum.forget ? ({right} ? '{KINDS[3]}' : '{KINDS[2]}') : ({right} ? '{KINDS[0]}' : '{KINDS[1]}')", "as": "kind"},
      {"filter": f"isValid(datum.X) && (show === 'all' || (show === 'forget' ? datum.forget : datum.kind === show)) && ({_OF_CLASS})"},
      {"calculate": f"'row ' + datum.row + ', ' + datum.true + ' taken for ' + classes[datum.pred[{which}]] + ': ' + datum.kind", "as": "label"},
    ],
    width=330,
    height=300,
  )  # fmt: skip
