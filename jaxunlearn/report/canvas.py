"""What all figures share: canvas, colours, axes, safe text."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

DPI = 120
# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, AMBER = "#CC79A7", "#56B4E9", "#E69F00"
INK, GREY, FAINT = "#222222", "#6b6b6b", "#dddddd"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)


def figure_png(figure: Figure) -> bytes:
  """A figure as PNG, without metadata, so that equal figures give equal files.

  Args:
    figure: drawn at its own resolution.

  Returns:
    The bytes of the file.
  """
  buffer = io.BytesIO()
  figure.savefig(
    buffer, format="png", dpi=figure.dpi, metadata={"Software": None}
  )
  return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(
    figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white"
  )
  FigureCanvasAgg(figure)
  return figure


def empty_figure(message: str) -> Figure:
  figure = new_figure(6, 1.4)
  figure.text(0.5, 0.5, message, ha="center", va="center", color=GREY)
  return figure


def style_axes(axes: Axes, grid: Any) -> None:
  axes.grid(True, axis=grid, color=FAINT, linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(GREY)
  axes.tick_params(labelsize=9, color=GREY, labelcolor=INK)


def plain_log_ticks(axes: Axes, ratio: float) -> None:
  """0.1, 1, 10 instead of powers; more of them where the range is short."""
  from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

  subs = (1.0, 2.0, 5.0) if ratio < 100 else (1.0,)
  axes.xaxis.set_major_locator(LogLocator(subs=subs))
  axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
  axes.xaxis.set_minor_formatter(NullFormatter())


def clean(text: str, limit: int = 30) -> str:
  """Text on one line that Matplotlib shows as it stands."""
  line = " ".join(text.split())
  known = _glyphs()
  line = "".join(c if ord(c) in known else "\N{WHITE SQUARE}" for c in line)
  if len(line) > limit:
    line = line[: limit - 1] + "…"
  return line.replace("$", r"\$")  # A pair of dollars would start a formula.


@functools.cache
def _glyphs() -> frozenset[int]:
  """Characters that the font has; others would warn and draw boxes."""
  from matplotlib import font_manager

  path = font_manager.findfont(font_manager.FontProperties())
  return frozenset(font_manager.get_font(path).get_charmap())


@functools.cache
def blues() -> Any:
  """White to dark blue; blank rows in grey."""
  from matplotlib.colors import LinearSegmentedColormap

  colours = ["#ffffff", "#9ecae1", BLUE, "#08306b"]
  scale = LinearSegmentedColormap.from_list("share", colours)
  return scale.with_extremes(bad="#eeeeee")
