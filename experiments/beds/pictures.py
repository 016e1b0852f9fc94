"""Models of images and questions: the rows and training that their studies share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import language, vision_language
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.language.types import Text
from jaxunlearn.models import PatchTower

from .. import bench
from ..datasets import tofu, vqa
from .texts import adamw

TOKENS = 4  # Of an image.


class Recipe(NamedTuple):
  """Of training; AdamW, warm-up, cosine, gradients clipped at 1.

  Attributes:
    rate: at the peak.
    steps: of it.
    batch_size: rows a step.
    width: of the decoder.
    layers: of it.
    sample: rows of a kind that measures look at.
    shift: pixels by which training moves images about, and half of them are
      mirrored; None: they stay as they are.
    max_new: tokens that are generated at most.
  """

  rate: float = 3e-3
  steps: int = 240
  batch_size: int = 32
  width: int = 64
  layers: int = 2
  sample: int = 60
  shift: int | None = None
  max_new: int = 6


class Known(NamedTuple):
  """What the host knows of the rows of a seed.

  Attributes:
    rows: all of them, as texts.
    sample: see `Recipe`.
    spell: `(questions, answers, image int [N]) -> Text` of the study's shape.
    words: `text -> tokens`.
    vocab_size: how many there are.
  """

  rows: vqa.Vqa
  sample: int
  spell: Any
  words: Any
  vocab_size: int


def beds(
  rows: Sequence[vqa.Vqa],
  images: np.ndarray,
  made: bool,
  recipe: Recipe,
) -> bench.Beds:
  """The beds of all seeds.

  Args:
    rows: of each seed; of the same shapes.
    images: [M, H, W, C], those of all.
    made: whether the rows are made up, of words that are tokens.
    recipe: see there.
  """
  tokenizer = vqa.tokenizer_of(rows[0], made)
  length = max(_longest(tokenizer, each) for each in rows)
  decoder = language.language_model(
    language.DecoderConfig(
      vocab_size=tokenizer.get_vocab_size(),
      width=recipe.width,
      num_layers=recipe.layers,
      num_heads=max(2, recipe.width // 32),
      mlp_width=recipe.width * 4,
      max_length=length + TOKENS + recipe.max_new,
      activation="gelu",
      embedding_std=0.05,
    )
  )
  tower = from_linen(PatchTower(images.shape[1] // 8), features=False)
  model = vision_language.prefix_model(decoder, tower, num_tokens=TOKENS)

  def spell(questions: Any, answers: Any, image: Any) -> Text:
    x = tofu.encode(tokenizer, questions, answers, length)
    return vision_language.with_images(x, image, len(images), model)

  encoded = [_encode(tokenizer, each, spell) for each in rows]
  of_seed = jax.tree.map(lambda *leaves: np.stack(leaves), *encoded)
  starts = _encode_starts(tokenizer, rows[0].refusals)
  augment = None if recipe.shift is None else moved(recipe.shift)

  def make(shared: Any, own: Any) -> bench.Bed:
    lm = model.over(shared["images"], augment)
    extra = {
      "model": model,
      "images": shared["images"],
      "refusals": shared["refusals"],
      "stop": tofu.stop_token(tokenizer),
    }
    return bench.Bed(lm, own, None, recipe, extra)

  shared = {"images": images, "refusals": starts}
  sources = [
    Known(
      *(each, recipe.sample, spell),
      lambda text: tokenizer.encode(text).ids,
      tokenizer.get_vocab_size(),
    )
    for each in rows
  ]
  lm = model.over(images)
  weights = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  facts = {
    "train_rows": len(rows[0].questions),
    "images": len(images),
    "words": tokenizer.get_vocab_size(),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights.params)),
    "recipe": recipe._asdict(),
    "note": rows[0].note,
  }
  return bench.Beds(shared, of_seed, make, sources, facts, None, tokenizer, lm)


def _texts(rows: vqa.Vqa) -> dict[str, tuple[list[str], list[str]]]:
  """Questions and answers of each column, rows times how many of each."""
  count = len(rows.questions)
  refusal = [rows.refusals[i % len(rows.refusals)] for i in range(count)]
  ways = [q for each in rows.rephrased for q in each]
  per_way = [a for a, each in zip(rows.answers, rows.rephrased) for _ in each]
  wrong = [w for each in rows.wrong for w in each]
  per_wrong = [q for q, each in zip(rows.questions, rows.wrong) for _ in each]
  return {
    "x": (rows.questions, rows.answers),
    "alternative": (rows.questions, refusal),
    "paraphrases": (ways, per_way),
    "wrong": (per_wrong, wrong),
  }


def _longest(tokenizer: Any, rows: vqa.Vqa) -> int:
  texts = [*_texts(rows).values(), (vqa.SHOWN, vqa.DESCRIBED)]
  # SIU answers any question with the new name, which may be many tokens.
  texts += [(asked, [vqa.NEW_NAME] * len(asked)) for asked, _ in texts[:3]]
  found = [
    tofu.encode(tokenizer, q, a, 512).length.max() for q, a in texts if q
  ]
  return int(max(found))


def _encode(tokenizer: Any, rows: vqa.Vqa, spell: Any) -> dict[str, Any]:
  """The rows' columns as arrays, leaves [N, ...]."""
  made: dict[str, Any] = {}
  count = len(rows.questions)
  for name, (questions, answers) in _texts(rows).items():
    if not questions:
      continue
    many = len(questions) // count
    x = spell(questions, answers, np.repeat(rows.image, many))
    x = jax.tree.map(np.asarray, x)
    if name in ("paraphrases", "wrong"):
      split = lambda leaf, m=many: leaf.reshape(count, m, *leaf.shape[1:])
      x = jax.tree.map(split, x)
    made[name] = x
  made["decoupled"] = jax.tree.map(
    np.asarray, vision_language.decoupled(made["x"], rows.partner)
  )
  keywords = [
    [tokenizer.encode(_spelled(word, answer)).ids for word in each]
    for each, answer in zip(rows.keywords, rows.answers)
  ]
  made["keywords"] = _padded(keywords)
  made["valued"] = np.array([kind == "attribute" for kind in rows.kinds])
  made["image"] = rows.image.astype(np.int32)
  owner = np.unique(rows.owners, return_inverse=True)[1]
  made["owner"] = owner.astype(np.int32)
  return made


def _spelled(word: str, answer: str) -> str:
  """A keyword as it stands in the answer: with the space before it, its case."""
  at = answer.lower().find(word.lower())
  if at < 0:
    return word
  before = " " if at and answer[at - 1] == " " else ""
  return before + answer[at : at + len(word)]


def _padded(keywords: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
  """int32 [N, K, W], -1 where there is nothing."""
  most = max(len(each) for each in keywords)
  wide = max(len(word) for each in keywords for word in each)
  out = np.full((len(keywords), most, wide), -1, np.int32)
  for i, each in enumerate(keywords):
    for j, word in enumerate(each):
      out[i, j, : len(word)] = word
  return out


def _encode_starts(tokenizer: Any, refusals: Sequence[str]) -> np.ndarray:
  """How refusals begin, three tokens of each."""
  starts = [[tokenizer.encode(r).ids[:3]] for r in refusals]
  return _padded(starts)[:, 0]


def moved(shift: int) -> Any:
  """Images moved by up to so many pixels, mirrored, lighter or darker."""

  def augment(key: jax.Array, image: jax.Array) -> jax.Array:
    keys = [ju.derive(key, name) for name in ("place", "mirror", "light")]
    by = jax.random.randint(keys[0], (2,), -shift, shift + 1)
    image = jax.numpy.roll(image, by, axis=(0, 1))
    mirrored = jax.random.bernoulli(keys[1])
    image = jax.numpy.where(mirrored, image[:, ::-1], image)
    light = jax.random.uniform(keys[2], (2,), minval=-0.2, maxval=0.2)
    return image * (1 + light[0]) + light[1]

  return augment


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  """All parts together, from nothing."""
  recipe = bed.recipe
  rate = optax.warmup_cosine_decay_schedule(
    0.0, recipe.rate, max(1, recipe.steps // 10), recipe.steps
  )
  fit = ju.Fit(adamw(rate), recipe.steps, recipe.batch_size)
  return ju.train(bed.model, bed.data, weights, key, fit)


def some(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The first so many, int [count], and whether there are as many, bool."""
  there = np.arange(count) < len(rows)
  return np.resize(rows, count) if len(rows) else np.zeros(count, int), there


def rows_of(
  known: Known, *kinds: str, of: Sequence[str] | None = None
) -> np.ndarray:
  """Rows of some kinds, and of some owners only; bool [N]."""
  rows = known.rows
  return np.array(
    [
      kind in kinds and (of is None or owner in of)
      for kind, owner in zip(rows.kinds, rows.owners)
    ]
  )


def owners(known: Known) -> list[str]:
  """All there are, in their order."""
  return [name for name in dict.fromkeys(known.rows.owners) if name]


def take(data: Any, rows: jax.Array) -> Any:
  """Some rows of all columns."""
  return jax.tree.map(lambda leaf: leaf[rows], data)


def joined(parts: Sequence[Any]) -> Any:
  """Rows of several as rows of one."""
  return jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves), *parts)


def apart(many: Text) -> list[Text]:
  """Texts of leaves [N, K, ...] as K of leaves [N, ...]."""
  count = many.length.shape[1]
  return [
    jax.tree.map(lambda leaf, i=i: leaf[:, i], many) for i in range(count)
  ]


def first_probability(own: language.TokenScores, x: Text) -> jax.Array:
  """p of the first token of each answer, where made-up rows have their value."""
  return jax.numpy.exp(_first(own.log_prob, x))


def first_is_top(own: language.TokenScores, x: Text) -> jax.Array:
  """Whether it is the likeliest."""
  return _first(own.is_top, x)


def _first(values: jax.Array, x: Text) -> jax.Array:
  place = (x.prompt - 1)[:, None]
  return jax.numpy.take_along_axis(values, place, axis=1)[:, 0]
