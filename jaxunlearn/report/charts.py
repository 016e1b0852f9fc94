"""Charts as declarative specifications (Vega-Lite), and their files.

A chart is some panels, each a specification with its own data, so that a page
wraps them to its width and a file has them side by side. vl-convert (the
`experiments` extra) turns them into SVG and PNG without a network or a browser.
"""

from __future__ import annotations

import base64
import functools
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.report import files
from jaxunlearn.report.results import ORIGINAL, RETRAINED, RETRAINED_AGAIN

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, AMBER = "#CC79A7", "#56B4E9", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, "#7A4B1E", "#6F5BD0")
# A page repaints these two on a dark ground; FIXED is the ink on colours.
INK, GREY, FIXED = "#222222", "#6b6b6b", "#111111"
BLUES = ["#ffffff", "#9ecae1", BLUE, "#08306b"]
DASHES = ([1, 0], [6, 2], [2, 2])
# Of lines and points at most so many are drawn, at even distances.
MAX_POINTS = 240
_CONFIG = {
  "view": {"stroke": None},
  "axis": {
    "labelColor": INK,
    "titleColor": INK,
    "titleFontWeight": "normal",
    "gridColor": "#dddddd",
    "domainColor": GREY,
    "tickColor": GREY,
    "labelFontSize": 11,
    "titleFontSize": 11,
    "labelLimit": 150,
  },
  "title": {
    "anchor": "start",
    "color": INK,
    "fontSize": 12,
    "fontWeight": 600,
    "limit": 320,
  },
  "text": {"fontSize": 11, "color": INK},
  "rule": {"color": INK},
}


class Chart(NamedTuple):
  """A figure that is not drawn yet.

  Attributes:
    panels: specifications of Vega-Lite, each with its data.
    columns: how many of them stand side by side in a file.
  """

  panels: tuple[Spec, ...]
  columns: int = 3

  @property
  def spec(self) -> Spec:
    """All panels as one specification, as Vega-Lite and Altair read it."""
    return {
      "columns": self.columns,
      "concat": list(self.panels),
      "config": _CONFIG,
    }

  def altair(self) -> Any:
    """As an `altair.Chart`, to be changed and shown in notebooks."""
    import altair

    return altair.Chart.from_dict(self.spec)

  def svg(self) -> str:
    """One picture of all panels, without scripts."""
    parts = [panel_svg(panel) for panel in self.panels]
    sizes = [
      [float(x) for x in re.findall(r'(?:width|height)="([\d.]+)"', part)[:2]]
      for part in parts
    ]
    lines = [
      range(start, min(start + self.columns, len(parts)))
      for start in range(0, len(parts), self.columns)
    ]
    placed, y, width = [], 0.0, 0.0
    for line in lines:
      x = 0.0
      for i in line:
        at = f'<svg x="{x:g}" y="{y:g}" '
        placed.append(parts[i].replace("<svg ", at, 1))
        x += sizes[i][0] + 12
      width, y = max(width, x), y + max(sizes[i][1] for i in line) + 12
    return (
      '<svg xmlns="http://www.w3.org/2000/svg" '
      f'width="{width:g}" height="{y:g}" viewBox="0 0 {width:g} {y:g}">'
      f'<rect width="100%" height="100%" fill="white"/>{"".join(placed)}</svg>'
    )

  def png(self, scale: float = 2) -> bytes:
    """The same picture in pixels; equal charts give equal bytes."""
    import vl_convert

    return vl_convert.svg_to_png(self.svg(), scale=scale)

  def html(self, title: str = "Chart") -> str:
    """A page with this chart alone, in one file."""
    from jaxunlearn.report import page

    scripts = page.scripts(True)
    return page.render(
      "chart.html.j2", scripts=scripts, title=title, chart=self
    )

  def save(self, path: str | os.PathLike[str]) -> Path:
    """Writes a file of the kind that its name ends with.

    Raises:
      ValueError: it ends with none of .svg, .png, .html and .json.
    """
    kind = Path(path).suffix
    if kind == ".png":
      return files.write_bytes(path, self.png())
    if kind == ".json":
      return files.write_json(path, self.spec)
    if kind == ".svg":
      return files.write_text(path, self.svg())
    if kind == ".html":
      return files.write_text(path, self.html(Path(path).stem))
    raise ValueError(
      f"Expected path to end with .svg, .png, .html or .json, got {kind!r}."
    )


def panel_svg(panel: Spec) -> str:
  """A panel drawn; marks that stand for something say so when pointed at."""
  text = json.dumps(panel, sort_keys=True)
  return _drawn(text)


@functools.lru_cache(512)
def _drawn(text: str) -> str:
  import vl_convert

  svg = vl_convert.vegalite_to_svg(
    {**json.loads(text), "config": {**_CONFIG, "background": None}},
    allowed_base_urls=[],
  )
  # Several pictures share a page, and names within them must not.
  own = f"c{zlib.crc32(text.encode()):x}-"
  svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{own}", svg)
  mark = r'<(path|line|text|image)((?: [^<>]*?)? aria-label="([^"]*)"[^<>]*?)'
  svg = re.sub(mark + "/>", r"<\1\2><title>\3</title></\1>", svg)
  return re.sub(mark + ">([^<]+)</", r"<\1\2><title>\3</title>\4</", svg)


def live(panel: Spec, zooms: bool = True) -> Spec:
  """A panel for a browser: numbers zoom with shift and the wheel, and pan."""
  made = {**panel, "config": {**_CONFIG, "background": None}}
  first, *rest = panel["layer"]
  kinds = [
    first["encoding"].get(axis, {}).get("type") == "quantitative"
    for axis in "xy"
  ]
  if zooms and all(kinds):
    zoom = {"type": "interval", "zoom": "wheel![event.shiftKey]"}
    params = [{"name": "zoom", "select": zoom, "bind": "scales"}]
    made["layer"] = [{**first, "params": params}, *rest]
  return made


def clean(text: Any, limit: int = 60) -> str:
  """Text on one line, of signs that have a picture."""
  line = " ".join(str(text).split())
  line = "".join(c if c.isprintable() else "\N{WHITE SQUARE}" for c in line)
  return line if len(line) <= limit else line[: limit - 1] + "…"


def plain(rows: Rows) -> list[dict[str, Any]]:
  """Rows as JSON has them: six digits, null for what is not finite."""
  return [{key: _plain(key, v) for key, v in r.items()} for r in rows]


def _plain(key: str, value: Any) -> Any:
  if isinstance(value, str):
    return value if key == "url" else clean(value, 300)
  if isinstance(value, bool):
    return value
  number = float(value)
  return float(f"{number:.6g}") if math.isfinite(number) else None


def panel(title: str | Spec, *layers: Spec, **fields: Any) -> Spec:
  """Layers on one pair of axes."""
  made: Spec = {"layer": list(layers), **fields}
  if not isinstance(title, str):
    return {"title": title, **made}
  return {"title": clean(title), **made} if title else made


def layer(mark: Any, rows: Rows | None = None, **encoding: Any) -> Spec:
  """Marks of one kind for some rows; those with a `label` show it."""
  if rows and "label" in rows[0]:
    encoding["description"] = {"field": "label"}
    encoding["tooltip"] = {"field": "label"}
  elif isinstance(mark, str):
    mark = {"type": mark, "aria": False}
  else:
    mark = {"aria": False, **mark}
  made: Spec = {"mark": mark, "encoding": encoding}
  return made if rows is None else {"data": {"values": plain(rows)}, **made}


def number(field: str, title: str | None = None, **more: Any) -> Spec:
  """A channel for numbers."""
  made = {"field": field, "type": "quantitative", **more}
  return {**made, "title": clean(title) if title else None}


def names(field: str, order: Sequence[str], **more: Any) -> Spec:
  """A channel for names, in the order given."""
  scale = {"domain": [clean(name, 300) for name in order]}
  return {
    **{"field": field, "type": "nominal", "title": None, "sort": None},
    **{"scale": scale, **more},
  }


def level(
  channel: str, value: float, label: str, title: str | None = None, **style: Any
) -> Spec:
  """A line across at a value, dashed; `title` is that of the axis."""
  mark = {"type": "rule", "color": INK, "strokeDash": [5, 3], **style}
  rows = [{"v": value, "label": label}]
  return layer(mark, rows, **{channel: number("v", title)})


def styles(wanted: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
  """Colour and dashes by name; no two alike up to 24 beside the references."""
  own = {
    RETRAINED: (INK, [5, 3]),
    ORIGINAL: (GREY, [1, 2]),
    RETRAINED_AGAIN: (GREY, [5, 3]),
  }
  found, turn = {}, 0
  for name in wanted:
    if name in own:
      found[name] = own[name]
    else:
      way = turn // len(PALETTE) % len(DASHES)
      found[name] = PALETTE[turn % len(PALETTE)], DASHES[way]
      turn += 1
  return found


def coloured(shown: Mapping[str, tuple[str, list[int]]]) -> dict[str, Spec]:
  """The channels that give each `method` its style."""
  channel = lambda range_: {
    "field": "method",
    "type": "nominal",
    "scale": {"domain": [clean(n, 300) for n in shown], "range": range_},
    "legend": None,
  }
  return {
    "color": channel([colour for colour, _ in shown.values()]),
    "strokeDash": channel([dash for _, dash in shown.values()]),
  }


def legend(shown: Mapping[str, tuple[str, list[int]]], title: str = "") -> Spec:
  """A panel that says which style is whose."""
  rows = [
    {
      **{"method": name, "label": name, "x": 150 * (i % 2), "y": -(i // 2)},
      **{"end": 150 * (i % 2) + 22, "at": 150 * (i % 2) + 28},
    }
    for i, name in enumerate(shown)
  ]
  lines = math.ceil(len(rows) / 2)
  scale = lambda *ends: {"domain": list(ends), "nice": False}
  y = number("y", axis=None, scale=scale(0.5 - lines, 0.5))
  at = lambda field: number(field, axis=None, scale=scale(0, 300))
  return panel(
    title,
    layer(
      {"type": "rule", "strokeWidth": 2.5},
      rows,
      x=at("x"),
      x2={"field": "end"},
      y=y,
      **coloured(shown),
    ),
    layer(
      {"type": "text", "align": "left", "limit": 118},
      rows,
      x=at("at"),
      y=y,
      text={"field": "method"},
    ),
    width=300,
    height=18 * lines,
  )


def distinct(given: Sequence[Any]) -> list[str]:
  """Names on one line each, numbered where two are the same."""
  short = [clean(name, 40) for name in given]
  return [
    f"{name} ({i})" if short.count(name) > 1 else name
    for i, name in enumerate(short)
  ]


def data_url(image: Any) -> str:
  """An image in [0, 1], [H, W], [H, W, 1] or [H, W, 3], as a PNG in a URL."""
  array = np.asarray(image, np.float64)
  scaled = np.round(255 * np.clip(np.nan_to_num(array), 0, 1))
  pixels = scaled.astype(np.uint8)
  pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
  height, width = pixels.shape[:2]
  chunk = lambda kind, data: (
    struct.pack(">I", len(data)) + kind + data
    + struct.pack(">I", zlib.crc32(kind + data))
  )  # fmt: skip
  kind = 2 if pixels.ndim == 3 else 0
  head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
  body = b"".join(b"\0" + line.tobytes() for line in pixels)
  png = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
  )  # fmt: skip
  return "data:image/png;base64," + base64.b64encode(png).decode()


def message(text: str) -> Chart:
  """A sentence in the place of a figure."""
  mark = {"type": "text", "color": GREY, "fontSize": 13}
  only = layer(mark, [{"t": clean(text, 90)}], text={"field": "t"})
  return Chart((panel("", only, width=320, height=60),))
