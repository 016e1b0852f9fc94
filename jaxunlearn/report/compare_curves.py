"""The panels of a comparison that are curves: layers, attackers, ROC curves.

See `compare_panels`, which says what they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxunlearn.report.charts import (
  BLUE,
  GREY,
  INK,
  ORANGE,
  Spec,
  layer,
  names,
  number,
  panel,
)

MODELS = (BLUE, ORANGE)  # Of A and of B, everywhere.
_ENDS = [
  {"expr": f"feature === 0 ? {a} : {b}"} for a, b in ((0, -2.5), (2.5, 10))
]
_AT = {"datum": {"expr": "t"}, "type": "quantitative"}
_DRAG = {
  "type": "point",
  "fields": ["t"],
  "toggle": False,
  "nearest": True,
  "on": "click, [pointerdown, window:pointerup] > pointermove",
}


def layer_panel(reference: int, title: str, layers: Sequence[str]) -> Spec:
  """CKA of A and B to a reference, layer by layer, forget and retain rows."""
  place: Spec = {
    "x": names("layer", layers, axis={"labelAngle": -40 if len(layers) > 4 else 0}),
    "y": number("value", "linear CKA", scale={"domain": [0, 1]}),
    "color": _model_colour(),
  }  # fmt: skip
  dash = _by("group", ["forget", "retain"], [[1, 0], [5, 3]])
  shape = _by("group", ["forget", "retain"], ["cross", "circle"])
  point = {"type": "point", "size": 50, "filled": True, "opacity": 1}
  return panel(
    title,
    layer("line", **place, strokeDash=dash),
    layer(point, **place, shape=shape, tooltip={"field": "label"}),
    data={"name": "layers"},
    transform=[
      {"filter": f"datum.ref === {reference}"},
      *_both("datum.cka"),
      {"calculate": "datum.model + ', ' + datum.layer + ', ' + datum.group + ' rows: ' + format(datum.value, '.3f')", "as": "label"},
    ],
    width=300,
    height=190,
  )  # fmt: skip


def score_panel(which: str, reference: int) -> Spec:
  """Scores of the forgotten rows: the model upwards, the retrained one down."""
  scale = {"domain": _ENDS, "nice": False, "zero": False}
  x = number("low", "value of the attacker's signal", scale=scale)
  y = number(
    "n",
    "rows (retrained: down)",
    scale={"nice": True},
    stack=None,
    axis={"labelExpr": "abs(datum.value)"},
  )
  colour = _by("who", ["m", "r"], [MODELS["ab".index(which)], GREY])
  bars = layer(
    {"type": "rect", "opacity": 0.85, "clip": True},
    x=x, x2={"field": "high"}, y=y, y2={"datum": 0}, color=colour,
    tooltip={"field": "label"},
  )  # fmt: skip
  spots = layer(
    {"type": "point", "opacity": 0, "clip": True},
    x=number("t", "value of the attacker's signal", scale=scale), y={"datum": 0, "type": "quantitative", "title": y["title"]},
  )  # fmt: skip
  return panel(
    {"text": {"expr": f"'{which.upper()}: ' + names[{which}]"}},
    {
      **bars,
      "data": {"name": "scores"},
      "transform": [
        {"calculate": f"datum.s[feature][{which}]", "as": "m"},
        {"calculate": f"datum.s[feature][{reference}]", "as": "r"},
        {"fold": ["m", "r"], "as": ["who", "v"]},
        {"filter": "isValid(datum.v)"},
        {"calculate": "feature === 0 ? 0.05 : 0.25", "as": "step"},
        {"calculate": "floor(datum.v / datum.step) * datum.step", "as": "low"},
        {"aggregate": [{"op": "count", "as": "rows"}, {"op": "max", "field": "step", "as": "step"}], "groupby": ["who", "low"]},
        {"calculate": "datum.low + datum.step", "as": "high"},
        {"calculate": "datum.who === 'r' ? -datum.rows : datum.rows", "as": "n"},
        {"calculate": f"(datum.who === 'r' ? 'retrained' : names[{which}]) + ': ' + datum.rows + ' rows'", "as": "label"},
      ],
    },
    layer({"type": "rule", "color": INK, "strokeWidth": 2}, [{"one": 1}], x={**_AT, "title": x["title"]}),
    {
      **spots,
      "data": {"name": "curves"},
      "transform": [{"filter": "datum.feature === feature && datum.direction === 0"}],
      "params": [{"name": "drag", "select": _DRAG}],
    },
    width=330,
    height=180,
  )  # fmt: skip


def rate_panel() -> Spec:
  """True and false positive rates over thresholds, of the chosen attacker."""
  return _curves(
    "True (solid) and false (dashed) positive rates",
    [
      {"filter": "datum.feature === feature && datum.direction === direction"},
      {"calculate": "1 - datum.fnr[a]", "as": "A true"},
      {"calculate": "datum.fpr[a]", "as": "A false"},
      {"calculate": "1 - datum.fnr[b]", "as": "B true"},
      {"calculate": "datum.fpr[b]", "as": "B false"},
      {
        "fold": ["A true", "A false", "B true", "B false"],
        "as": ["line", "value"],
      },
      {"calculate": "slice(datum.line, 0, 1)", "as": "model"},
      {"calculate": "slice(datum.line, 2)", "as": "how"},
    ],
    _by("how", ["true", "false"], [[1, 0], [5, 3]]),
    "rate",
    True,
  )


def attack_panel(feature: int, signal: str) -> Spec:
  """Two of the paper's four curves: both directions of one signal."""
  return _curves(
    f"Attack score by {signal}",
    [
      {"filter": f"datum.feature === {feature}"},
      *_both("datum.score"),
      {"calculate": "datum.direction ? 'retrained' : 'unlearned'", "as": "how"},
    ],
    _by("how", ["unlearned", "retrained"], [[1, 0], [5, 3]]),
    "attack score",
    False,
  )


def _curves(
  title: str, transform: list[Spec], dash: Spec, y_title: str, at: bool
) -> Spec:
  y = number("value", y_title, scale={"domain": [0, 1]})
  lines = layer(
    {"type": "line", "strokeWidth": 2},
    x=number("t", "threshold", scale={"zero": False, "nice": False}),
    y=y,
    color=_model_colour(),
    strokeDash=dash,
    detail={"field": "how"},
  )
  rule = layer(
    {"type": "rule", "color": INK, "strokeWidth": 2},
    [{"one": 1}],
    x={**_AT, "title": "threshold"},
  )
  made: Spec = {**lines, "data": {"name": "curves"}, "transform": transform}
  return panel(title, made, *([rule] if at else []), width=300, height=180)


def roc_panel(place: int, attack: str) -> Spec:
  """ROC curves of an attack of the library, of A and of B."""
  axis = {"format": "~%", "tickCount": 5}
  scale = {"domain": [0, 1]}
  x = number("fpr", "false positive rate", scale=scale, axis=axis)
  y = number("tpr", "true positive rate", scale=scale, axis=axis)
  mark = {"type": "line", "color": GREY, "strokeDash": [2, 2]}
  guess = [{"fpr": 0, "tpr": 0}, {"fpr": 1, "tpr": 1}]
  curves = layer(
    {"type": "line", "strokeWidth": 2},
    x=x,
    y=y,
    color=_model_colour(),
    order={"field": "order"},
    strokeDash=_by("model", ["A", "B"], [[1, 0], [6, 2]]),
  )
  return panel(
    attack,
    layer(mark, guess, x=x, y=y),
    {
      **curves,
      "data": {"name": "rocs"},
      "transform": [
        {
          "calculate": "[datum.of === a ? 'A' : '', datum.of === b ? 'B' : '']",
          "as": "model",
        },
        {"flatten": ["model"]},
        {"filter": f"datum.attack === {place} && datum.model !== ''"},
      ],
    },
    width=230,
    height=190,
  )


def _both(entries: str) -> list[Spec]:
  """A row for each side from one that has an entry per model."""
  return [
    {"calculate": f"{entries}[a]", "as": "A"},
    {"calculate": f"{entries}[b]", "as": "B"},
    {"fold": ["A", "B"], "as": ["model", "value"]},
    {"filter": "isValid(datum.value)"},
  ]


def _model_colour() -> Spec:
  return _by("model", ["A", "B"], list(MODELS))


def _by(field: str, domain: list[str], range_: list[Any]) -> Spec:
  scale = {"domain": domain, "range": range_}
  return {"field": field, "type": "nominal", "legend": None, "scale": scale}
