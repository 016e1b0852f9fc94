"""Panels from tidy rows: bars, lines, points, cells, images, words.

Each returns a specification of Vega-Lite, see `charts`. A row is a mapping; its
`label` is shown when the mark is pointed at, and begins with the `method`, by
which a page knows what belongs together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxunlearn.report.charts import (
  BLUES,
  FIXED,
  GREY,
  ORANGE,
  SKY,
  Rows,
  Spec,
  clean,
  coloured,
  data_url,
  distinct,
  layer,
  level,
  names,
  number,
  panel,
)


def bars(
  rows: Rows,
  title: str,
  *,
  aim: tuple[float, str] | None = None,
  domain: Sequence[float] | None = None,
  width: int = 165,
) -> Spec:
  """A bar per method with its interval, and the aim as a line.

  Args:
    rows: `method`, `value`, `low`, `high`, `label`, `color`.
    title: what the bars measure.
    aim: a value and its words.
    domain: ends of the axis; by default as the values want.
    width: of the axes, in pixels.
  """
  order = [row["method"] for row in rows]
  y = names("method", order)
  scale: Spec = {} if domain is None else {"scale": {"domain": list(domain)}}
  x = number("value", **scale)
  ends = {"x": number("low", **scale), "x2": {"field": "high"}}
  missing = [r for r in rows if not math.isfinite(r["value"])]
  layers = [
    layer(
      {"type": "bar", "height": {"band": 0.7}},
      rows,
      **{"y": y, "x": x, "color": {"field": "color", "scale": None}},
    ),
    layer({"type": "rule", "clip": True}, rows, y=y, **ends),
  ]
  if missing:
    mark = {"type": "text", "align": "left", "dx": 4, "color": GREY}
    zero = {"value": 0}
    layers.append(layer(mark, missing, y=y, x=zero, text={"value": "no value"}))
  if aim is not None and math.isfinite(aim[0]):
    layers.append(level("x", *aim))
  return panel(title, *layers, width=width, height={"step": 19})


def lines(
  rows: Rows,
  title: str,
  shown: Mapping[str, tuple[str, list[int]]],
  *,
  x_title: str = "",
  y_title: str = "",
  log: bool = False,
  filled: Collection[str] = (),
  interpolate: str = "linear",
  domains: Mapping[str, Sequence[float]] | None = None,
  size: tuple[int, int] = (250, 170),
) -> Spec:
  """A line per method; a band where its rows have `low` and `high`.

  Args:
    rows: `method`, `x`, `value`, and `low` and `high` where there is a band.
    title: above.
    shown: see `styles`.
    x_title: below.
    y_title: beside.
    log: whether both axes are logarithmic, of shares.
    filled: methods with an area from the axis to the line.
    interpolate: how points are joined.
    domains: ends of the axes "x" and "y".
    size: width and height of the axes, in pixels.
  """
  kind: Spec = {"type": "log"} if log else {"zero": False}
  shares = {"axis": {"format": "~%", "tickCount": 4}} if log else {}
  ends = lambda axis: (
    {"domain": list(domains[axis]), "nice": False} if domains and axis in domains else {}
  )  # fmt: skip
  x = number("x", x_title, scale={**kind, **ends("x")}, **shares)
  y = number(
    "value", y_title, scale={**kind, **ends("y")}, stack=None, **shares
  )
  style, layers = coloured(shown), []
  banded = [r for r in rows if r.get("low", 0) != r.get("high", 0)]
  if banded:
    band = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    mark = {"type": "area", "opacity": 0.15, "clip": True}
    layers.append(layer(mark, banded, x=x, **band, color=style["color"]))
  within = [r for r in rows if r["method"] in filled]
  if within:
    mark = {"type": "area", "opacity": 0.25, "clip": True}
    mark["interpolate"] = interpolate
    layers.append(layer(mark, within, x=x, y=y, color=style["color"]))
  labelled = [{"label": row["method"], **row} for row in rows]
  few = len({row["x"] for row in rows}) <= 1
  line = {"type": "line", "strokeWidth": 1.8, "clip": True, "point": few}
  mark = {**line, "interpolate": interpolate, "strokeCap": "butt"}
  layers.append(layer(mark, labelled, x=x, y=y, **style))
  return panel(title, *layers, width=size[0], height=size[1])


def scatter(
  points: Rows,
  x_title: str,
  y_title: str,
  *,
  domains: tuple[Sequence[float], Sequence[float]],
  log_x: bool = False,
  levels: Sequence[tuple[str, float, str]] = (),
  width: int = 520,
  height: int = 300,
) -> Spec:
  """Named points with intervals upwards, and lines across.

  Args:
    points: `method`, `x`, `y`, `low`, `high`, `label`.
    x_title: below.
    y_title: beside.
    domains: ends of the two axes.
    log_x: whether the axis to the right is logarithmic.
    levels: channel ("x", "y"), value and words of each line.
    width: of the axes, in pixels.
    height: likewise.
  """
  titles = {"x": x_title, "y": y_title}
  kinds = {
    "x": {"type": "log"} if log_x else {"zero": False},
    "y": {"zero": False},
  }
  at = {
    axis: number(
      axis,
      titles[axis],
      scale={**kinds[axis], "domain": list(ends), "nice": False},
      axis={
        "tickCount": 6,
        **({"format": "~g"} if axis == "x" and log_x else {}),
      },
    )
    for axis, ends in zip("xy", domains)
  }
  ends = {
    "x": at["x"],
    "y": {**at["y"], "field": "low"},
    "y2": {"field": "high"},
  }
  layers = [level(*line, titles[line[0]], color=GREY) for line in levels]
  for axis, value, words in levels:
    style = {"type": "text", "align": "left", "dx": 4, "color": GREY}
    style["dy"] = 0 if axis == "x" else -7
    place = {
      "x": {"value": 0},
      "y": {"value": 8},
      axis: {**at[axis], "field": "v"},
    }
    layers.append(
      layer(style, [{"v": value, "t": words}], **place, text={"field": "t"})
    )
  layers.append(
    layer({"type": "rule", "color": SKY, "clip": True}, points, **ends)
  )
  layers.append(
    layer({"type": "point", "filled": True, "size": 60, "opacity": 1}, points, **at, color={"field": "color", "scale": None})
  )  # fmt: skip
  named = _label_sides(points, domains, log_x, (width, height), levels)
  for (align, dx, dy), rows in named.items():
    mark = {"type": "text", "align": align, "dx": dx, "dy": dy}
    layers.append(layer(mark, rows, **at, text={"field": "method"}))
  return panel("", *layers, width=width, height=height)


_SIDES = (
  ("left", 7, 0),
  ("right", -7, 0),
  ("center", 0, -11),
  ("center", 0, 12),
)


def _label_sides(
  points: Rows, domains: Any, log_x: bool, size: Any, levels: Any
) -> dict[tuple[str, int, int], list[Mapping[str, Any]]]:
  """On which side of its point each name has room; those without have none."""
  bend = (np.log if log_x else np.asarray, np.asarray)

  def pixel(axis: int, value: float) -> float:
    low, high, v = (bend[axis](float(u)) for u in (*domains[axis], value))
    share = float((v - low) / (high - low))
    return share * size[0] if axis == 0 else (1 - share) * size[1]

  taken: list[tuple[float, ...]] = []
  for p in points:
    x, y = pixel(0, p["x"]), pixel(1, p["y"])
    taken.append((x - 4, y - 4, x + 4, y + 4))
  for axis, value, words in levels:
    at, wide = pixel("xy".index(axis), value), 6.2 * len(words)
    if axis == "x":
      taken += [(at, 0, at, size[1]), (at + 4, 2, at + 4 + wide, 14)]
    else:
      taken += [(0, at, size[0], at), (4, at - 13, 4 + wide, at - 1)]
  found: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
  for p in points:
    x, y, wide = pixel(0, p["x"]), pixel(1, p["y"]), 6.2 * len(p["method"])
    for side in _SIDES:
      left = (
        x + side[1] - {"left": 0, "right": 1, "center": 0.5}[side[0]] * wide
      )
      box = (left, y + side[2] - 6, left + wide, y + side[2] + 6)
      inside = box[0] >= 0 and box[2] <= size[0] and box[1] >= 0 and box[3] <= size[1]  # fmt: skip
      if inside and not any(
        box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3]
        for o in taken
      ):
        taken.append(box)
        found.setdefault(side, []).append(p)
        break
  return found


def heat(
  shares: Any,
  down: Sequence[str],
  across: Sequence[str],
  title: str,
  *,
  framed: Any = None,
  axes: tuple[str, str] = ("", ""),
  ends: tuple[float, float] = (0, 100),
  decimals: int = 0,
  cell: tuple[int, int] = (24, 20),
) -> Spec:
  """A coloured cell per number.

  Args:
    shares: float [R, C]; what is not finite is left grey.
    down: R names.
    across: C names.
    title: above.
    framed: bool [R, C], cells with an orange frame.
    axes: titles of the axis down and of the one across.
    ends: of the scale.
    decimals: of the numbers in the cells.
    cell: width and height in pixels.
  """
  values = np.asarray(shares, np.float64)
  down, across = distinct(down), distinct(across)
  text = values.size <= 450
  rows: list[dict[str, Any]] = [
    {
      **{"down": down[i], "across": across[j], "value": value},
      "text": f"{value:z.{decimals}f}" if math.isfinite(value) else "",
      "label": f"{down[i]}: {across[j]}, {value:.3g}",
      "dark": bool(value > ends[0] + 0.55 * (ends[1] - ends[0])),
      "frame": bool(framed is not None and framed[i, j]),
    }
    for (i, j), value in np.ndenumerate(values)
  ]
  grid = {"domain": False, "ticks": False, "labelLimit": 90}
  place = {
    "y": names("down", down, axis={**grid, "title": axes[0] or None}),
    "x": names("across", across, axis={**grid, "title": axes[1] or None, "labelAngle": -90 if max(map(len, across), default=0) > 3 else 0}),
  }  # fmt: skip
  scale = {
    "domain": list(ends),
    "range": BLUES,
    "interpolate": "rgb",
    "clamp": True,
  }
  colour = number("value", scale=scale, legend=None)
  when = lambda test, yes, no: {
    "condition": {"test": test, "value": yes},
    "value": no,
  }
  finite = [row for row in rows if row["text"]]
  layers = [
    layer({"type": "rect", "color": "#e4e4e4"}, [{k: v for k, v in r.items() if k != "label"} for r in rows], **place),
    layer(
      "rect", finite, **place, color=colour, stroke=when("datum.frame", ORANGE, "#cfcfcf"), strokeWidth=when("datum.frame", 2, 0.3)
    ),
  ]  # fmt: skip
  if text:
    mark = {"type": "text", "fontSize": 9, "tooltip": None}
    shown = [{k: v for k, v in r.items() if k != "label"} for r in finite]
    ink = when("datum.dark", "#ffffff", FIXED)
    layers.append(
      layer(mark, shown, **place, text={"field": "text"}, color=ink)
    )
  width, height = cell
  return panel(title, *layers, width={"step": width}, height={"step": height})


def pictures(
  images: Any,
  down: Sequence[str],
  across: Sequence[str],
  title: str = "",
  captions: Any = None,
) -> Spec:
  """A grid of images with names.

  Args:
    images: [R][C] arrays [H, W], [H, W, 1] or [H, W, 3] in [0, 1].
    down: R names.
    across: C names.
    title: above.
    captions: [R][C] texts under the images, in the place of `across`.
  """
  down, across = distinct(down), distinct(across)
  rows = [
    {
      **{"down": down[i], "across": across[j], "url": data_url(image)},
      "text": clean(captions[i][j], 24) if captions else "",
      "label": f"{down[i]}, {captions[i][j] if captions else across[j]}",
    }
    for i, line in enumerate(images)
    for j, image in enumerate(line)
  ]
  first, tall = np.asarray(images[0][0]), 44
  wide = round(tall * first.shape[1] / first.shape[0])
  step = max(wide + 6, 58) if captions else wide + 6
  grid = {"domain": False, "ticks": False, "grid": False, "labelLimit": 90}
  top = None if captions else {**grid, "orient": "top", "labelAngle": 0}
  place = {
    "y": names("down", down, axis=grid),
    "x": names("across", across, axis=top),
  }
  image = {"type": "image", "width": wide, "height": tall}
  layers = [
    layer(image, rows, **place, url={"field": "url", "type": "nominal"})
  ]
  if captions:
    mark = {"type": "text", "dy": tall // 2 + 8, "fontSize": 8, "limit": step}
    layers.append(layer(mark, rows, **place, text={"field": "text"}))
  tall += 18 if captions else 6
  return panel(title, *layers, width={"step": step}, height={"step": tall})


def words(
  rows: Sequence[Sequence[Any]], heads: Sequence[str], title: str
) -> Spec:
  """A small table as a picture: R rows of C texts under C heads."""
  cells = [
    {"down": i, "across": j, "text": clean(text, 16)}
    for i, line in enumerate([heads, *rows])
    for j, text in enumerate(line)
  ]
  place = {
    "y": {"field": "down", "type": "ordinal", "axis": None},
    "x": {"field": "across", "type": "ordinal", "axis": None},
  }
  mark = {"type": "text", "align": "left", "dx": -45}
  texts = layer(mark, cells, **place, text={"field": "text"})
  return panel(title, texts, width={"step": 100}, height={"step": 17})
