"""Small images to search an architecture for: digits, and digits that move.

The clips stand in for subtle expressions: the class is the direction in which a
digit drifts, the digit is the subject, and a network sees the dynamic image.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jaxunlearn import nas
from jaxunlearn.nas.dynamic_image import to_unit_range

FRAMES, SPEED, NOISE = 8, 0.12, 0.05
_WAYS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])


class Images(NamedTuple):
  """All rows.

  Attributes:
    x: float32 [N, 8, 8, 1].
    label: int32 [N].
    subject: int32 [N]; of digits the label.
    num_classes: of labels.
  """

  x: np.ndarray
  label: np.ndarray
  subject: np.ndarray
  num_classes: int


def load(source: str, limit: int | None = None) -> Images:
  """Loads "digits", or makes "clips" of them; the same every time."""
  from sklearn.datasets import load_digits

  found = load_digits()
  order = np.random.default_rng(0).permutation(len(found.target))[:limit]
  images = found.images[order] / 16
  digit = found.target[order].astype(np.int32)
  if source == "digits":
    return Images(images[..., None].astype(np.float32), digit, digit, 10)
  rng = np.random.default_rng(1)
  way = rng.integers(0, len(_WAYS), len(digit)).astype(np.int32)
  shift = np.arange(FRAMES)[:, None, None] * SPEED * _WAYS[way][None]
  clips = _drifted(images, shift) + NOISE * rng.normal(
    size=(FRAMES, *images.shape)
  )
  clips = clips.swapaxes(0, 1)[..., None].astype(np.float32)
  still = jax.jit(jax.vmap(lambda c: to_unit_range(nas.dynamic_image(c))))
  return Images(np.asarray(still(clips)), way, digit, len(_WAYS))


def _drifted(images: np.ndarray, shift: np.ndarray) -> np.ndarray:
  """Images [N, H, W] moved by less than a pixel, [F, N, H, W], in steps."""
  whole, part = np.floor(shift).astype(int), shift - np.floor(shift)
  moved = np.zeros((len(shift), *images.shape))
  row, column = np.ogrid[: images.shape[1], : images.shape[2]]
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
  number = np.arange(len(images))[None, :, None, None]
  for down in (0, 1):
    for right in (0, 1):
      share = np.where(down, part[..., 0], 1 - part[..., 0])
      share = share * np.where(right, part[..., 1], 1 - part[..., 1])
      y = row[None, None] - (whole[..., 0] + down)[..., None, None] + 2
      x = column[None, None] - (whole[..., 1] + right)[..., None, None] + 2
      moved += share[..., None, None] * padded[number, y, x]
  return moved
