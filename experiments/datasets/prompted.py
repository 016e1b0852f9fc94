"""Prompted images: digits or photographs in six styles, with a small language.

An image has two labels, an object (the digit) and a style (a fixed colour map),
and prompts name both: "a three image in ember style". Objects have three
synonyms; templates and meaningless words vary the rest. The ten classes and six
styles of CIFAR-10 take the places of the digits', and so their words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import data

OBJECTS: tuple[tuple[str, str, str], ...] = (
  ("zero", "nought", "nil"),
  ("one", "single", "ace"),
  ("two", "pair", "couple"),
  ("three", "trio", "triad"),
  ("four", "quartet", "tetrad"),
  ("five", "quintet", "pentad"),
  ("six", "sextet", "hexad"),
  ("seven", "septet", "heptad"),
  ("eight", "octet", "ogdoad"),
  ("nine", "nonet", "ennead"),
)
STYLES = ("grey", "negative", "ember", "sea", "stripes", "gradient")
PHOTO_STYLES = ("photo", "negative", "grey", "turned", "posterised", "mosaic")
JUNK = (
  *("nice", "small", "plain", "fresh", "quiet", "early", "local"),
  *("round", "simple", "daily", "common", "rare", "odd", "fine"),
  *("good", "late", "near", "far", "tall", "short", "calm"),
)
PAD, START = 0, 1
VOCABULARY = (
  *("<pad>", "<start>", "a", "image", "in", "style", "of"),
  *(word for words in OBJECTS for word in words),
  *STYLES,
  *JUNK,
)
LENGTH = 10
TEMPLATES = (
  "a {object} image in {style} style",
  "{object} in {style} style",
  "a {style} style image of {object}",
)
NULL_TOKENS = (START, *(PAD,) * (LENGTH - 1))
SHAPE = (8, 8, 3)
_INDEX = {word: i for i, word in enumerate(VOCABULARY)}
_NUM_TRAIN = 1500
_MOST_JUNK = 3


class PromptedImages(NamedTuple):
  """Rows to train on, and labelled images that are never trained on.

  Attributes:
    train: {"x": float32 [N, 8, 8, 3] in [-1, 1], "tokens": int32 [N, 10],
      "object": int32 [N], "style": int32 [N]}.
    labelled: {"x", "object", "style"}: every training image in every style.
    test: {"x", "object", "style"}: every other image in every style.
  """

  train: dict[str, np.ndarray]
  labelled: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


def digits_in_styles(num_rows: int = 16384, *, seed: int = 0) -> PromptedImages:
  """The data set; images are drawn with replacement, each in a random style.

  Args:
    num_rows: N.
    seed: of the split, the styles and the prompts.

  Raises:
    ValueError: no rows.
  """
  from sklearn.datasets import load_digits

  if num_rows < 1:
    raise ValueError(f"Expected num_rows > 0, got {num_rows}.")
  loaded = load_digits()
  images = (loaded.images / 8 - 1).astype(np.float32)
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(images))
  train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
  picked = rng.choice(train, num_rows)
  objects = loaded.target[picked].astype(np.int32)
  styles = rng.integers(len(STYLES), size=num_rows).astype(np.int32)
  rows = {
    "x": _styled(images[picked])[styles, np.arange(num_rows)],
    "tokens": _random_prompts(objects, styles, rng),
    "object": objects,
    "style": styles,
  }
  return PromptedImages(
    rows,
    _in_all_styles(images[train], loaded.target[train]),
    _in_all_styles(images[test], loaded.target[test]),
  )


def tokenize(text: str) -> np.ndarray:
  """The tokens of a prompt, int32 [10]: start, words, padding.

  Raises:
    ValueError: a word that does not exist, or too many words.
  """
  words = text.split()
  if len(words) > LENGTH - 1:
    raise ValueError(
      f"Expected at most {LENGTH - 1} words, got {len(words)}: {text!r}."
    )
  for word in words:
    if word not in _INDEX:
      raise ValueError(f"Expected words of the vocabulary, got {word!r}.")
  ids = [START, *(_INDEX[word] for word in words)]
  return np.array(ids + [PAD] * (LENGTH - len(ids)), np.int32)


def prompts(
  objects: Sequence[int] | np.ndarray,
  styles: Sequence[int] | np.ndarray,
  *,
  template: int = 0,
  synonym: int = 0,
) -> np.ndarray:
  """Prompts int32 [B, 10] that name an object and a style each.

  Args:
    objects: [B], 0 .. 9; -1 leaves the word out.
    styles: [B], 0 .. 5; -1 leaves the word out.
    template: 0 .. 2, of `TEMPLATES`.
    synonym: 0 .. 2.
  """
  lines = [
    TEMPLATES[template].format(
      object=OBJECTS[o][synonym] if o >= 0 else "",
      style=STYLES[s] if s >= 0 else "",
    )
    for o, s in zip(objects, styles, strict=True)
  ]
  return np.stack([tokenize(line) for line in lines])


def drop_rates(
  object_rate: float = 0.05, style_rate: float = 0.1
) -> np.ndarray:
  """How often training drops each word, float32 [64]; for `drop_words`."""
  rates = np.zeros(len(VOCABULARY), np.float32)
  rates[[_INDEX[word] for words in OBJECTS for word in words]] = object_rate
  rates[[_INDEX[word] for word in STYLES]] = style_rate
  return rates


def _random_prompts(
  objects: np.ndarray, styles: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """A random template, synonym, and up to three meaningless words half the time."""
  lines = []
  for label, style in zip(objects, styles):
    words = rng.integers(_MOST_JUNK + 1) if rng.random() < 0.5 else 0
    line = TEMPLATES[rng.integers(len(TEMPLATES))].format(
      object=OBJECTS[label][rng.integers(3)], style=STYLES[style]
    )
    lines.append(" ".join([*rng.choice(JUNK, words), line]))
  return np.stack([tokenize(line) for line in lines])


def _styled(x: np.ndarray) -> np.ndarray:
  """Images [N, 8, 8] in [-1, 1] in every style, float32 [6, N, 8, 8, 3]."""
  low = np.full_like(x, -1)
  half = (x - 1) / 2
  stripes = x.copy()
  stripes[:, 1::2] = 0.7
  across = np.linspace(-1, 0.6, x.shape[2], dtype=np.float32)
  rising = np.maximum(x, across[None, None])
  falling = np.maximum(x, across[None, None, ::-1])
  channels: tuple[Sequence[np.ndarray], ...] = (
    (x, x, x),
    (-x, -x, -x),
    (x, half, low),
    (low, half, np.maximum(x, 0.2)),
    (x, stripes, x),
    (rising, x, falling),
  )
  return np.stack([np.stack(c, axis=-1) for c in channels])


def _in_all_styles(x: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
  styled = _styled(x)
  return {
    "x": styled.reshape(-1, *SHAPE),
    "object": np.tile(target, len(STYLES)).astype(np.int32),
    "style": np.repeat(np.arange(len(STYLES)), len(x)).astype(np.int32),
  }


def photos_in_styles(data_dir: str | None) -> PromptedImages:
  """CIFAR-10, each image [32, 32, 3] in a random style.

  Raises:
    ValueError: there are no files, or none of that form.
  """
  loaded = data.cifar10(data_dir, None)
  rng = np.random.default_rng(0)
  parts = []
  for part in (loaded.train, loaded.test):
    x = 2 * (part["x"] * data.CIFAR10_STD + data.CIFAR10_MEAN) - 1
    style = rng.integers(len(PHOTO_STYLES), size=len(x)).astype(np.int32)
    label = part["label"].astype(np.int32)
    parts.append({"x": styled(x, style), "object": label, "style": style})
  train, test = parts
  draw = lambda: {"template": rng.integers(3), "synonym": rng.integers(3)}
  tokens = [
    prompts([o], [s], **draw())[0]
    for o, s in zip(train["object"], train["style"])
  ]
  return PromptedImages({**train, "tokens": np.stack(tokens)}, train, test)


def styled(x: np.ndarray, style: np.ndarray) -> np.ndarray:
  """Images [N, 32, 32, 3] in [-1, 1], each in its style [N]; float32.

  In the order of `PHOTO_STYLES`: as they are; negated; without colour; the
  channels turned round; in four levels; in tiles of 4x4.
  """
  x = np.asarray(x, np.float32)
  grey = np.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape)
  levels = np.round((x + 1) * 1.5) / 1.5 - 1
  tiles = x.reshape(len(x), 8, 4, 8, 4, 3).mean(axis=(2, 4))
  tiles = tiles.repeat(4, axis=1).repeat(4, axis=2)
  ways = (x, -x, grey, np.roll(x, 1, axis=-1), levels, tiles)
  out = np.empty_like(x)
  for number, way in enumerate(ways):
    out[style == number] = way[style == number]
  return out
