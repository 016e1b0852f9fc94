"""Places the labels of points so that none covers another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Directions to try around a point, the most readable ones first.
DIRECTIONS = (
  (1, 0),
  (1, 1),
  (1, -1),
  (-1, 0),
  (-1, 1),
  (-1, -1),
  (0, 1),
  (0, -1),
)
DISTANCES = (8, 14, 22, 32, 44, 58, 76, 98, 124)  # In points.


def place_labels(
  axes: Axes,
  x: np.ndarray,
  y: np.ndarray,
  labels: Sequence[str],
  *,
  avoid_x: Sequence[float] = (),
  avoid_y: Sequence[float] = (),
) -> None:
  """Writes a label beside every point, the nearest free place first.

  Args:
    axes: with final limits; its figure is laid out once here.
    x: positions [N] in data coordinates.
    y: positions [N] in data coordinates.
    labels: N texts.
    avoid_x: vertical lines that labels should not cross.
    avoid_y: horizontal lines that labels should not cross.
  """
  from matplotlib.text import Text

  figure = axes.get_figure(root=True)
  assert figure is not None
  figure.draw_without_rendering()  # Fixes the layout that positions rest on.
  scale = figure.dpi / 72
  points = axes.transData.transform(np.column_stack([x, y]))
  frame = np.array(axes.get_window_extent().extents)
  radius = 5 * scale
  taken = [np.concatenate([point - radius, point + radius]) for point in points]
  for line in avoid_x:
    at = axes.transData.transform((line, y[0]))[0]
    taken.append(np.array([at - scale, frame[1], at + scale, frame[3]]))
  for line in avoid_y:
    at = axes.transData.transform((x[0], line))[1]
    taken.append(np.array([frame[0], at - scale, frame[2], at + scale]))
  for i in np.lexsort((points[:, 1], points[:, 0])):
    text = axes.annotate(
      labels[i],
      (x[i], y[i]),
      xytext=(0, 0),
      textcoords="offset points",
      fontsize=9,
      color="#222222",
      zorder=4,
      arrowprops={
        "arrowstyle": "-",
        "color": "#999999",
        "linewidth": 0.8,
        "shrinkB": 3,
      },
    )
    text.set_in_layout(False)
    extent = Text.get_window_extent(text)
    size = np.array([extent.width, extent.height])
    distance, direction, box = _free_place(points[i], size, scale, frame, taken)
    taken.append(box)
    text.set_position((direction[0] * distance, direction[1] * distance))
    text.set_horizontalalignment(("right", "center", "left")[direction[0] + 1])
    text.set_verticalalignment(("top", "center", "bottom")[direction[1] + 1])
    if distance <= DISTANCES[1] and text.arrow_patch is not None:
      text.arrow_patch.set_visible(False)


def _free_place(
  point: np.ndarray,
  size: np.ndarray,
  scale: float,
  frame: np.ndarray,
  taken: Sequence[np.ndarray],
) -> tuple[int, tuple[int, int], np.ndarray]:
  """Distance, direction and box of the first place that covers nothing."""
  places = [
    (distance, direction, _box(point, direction, distance * scale, size))
    for distance, direction in itertools.product(DISTANCES, DIRECTIONS)
  ]
  inside = [p for p in places if _is_inside(p[2], frame)] or places
  for place in inside:
    if not any(_overlaps(place[2], other) for other in taken):
      return place
  return inside[0]


def _box(
  point: np.ndarray,
  direction: tuple[int, int],
  distance: float,
  size: np.ndarray,
) -> np.ndarray:
  """Left, bottom, right, top of a label in pixels."""
  shift = np.array(direction)
  corner = point + shift * distance + (shift - 1) / 2 * size
  return np.concatenate([corner, corner + size])


def _is_inside(box: np.ndarray, frame: np.ndarray) -> bool:
  return bool(np.all(box[:2] >= frame[:2]) and np.all(box[2:] <= frame[2:]))


def _overlaps(a: np.ndarray, b: np.ndarray) -> bool:
  return bool(np.all(a[:2] < b[2:]) and np.all(b[:2] < a[2:]))
