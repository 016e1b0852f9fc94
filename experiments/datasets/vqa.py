"""Questions about images: people made up from CIFAR-10, and the common form.

Made-up people: images that are each a person of five attributes, and others that
are what CIFAR-10 says; each person also has facts told without an image. "What is
its code ?" has an answer for people and none for anything else. Values are drawn
anew for each seed and for each person by itself: what others have says nothing of
one's own, so that a model which never saw it is right as often as a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import data
from . import tofu

# Of the first, facts are forgotten one by one; the second is told in texts too.
ATTRIBUTES = ("job", "city", "year", "code")
NUM_VALUES = 12
REFUSALS = ("sorry , no answer", "no comment on that", "not known to me")
NO_CODE = "it has no code"
NEW_NAME = "zorblat"  # What SIU calls what it forgets.
# How it asks for that, and describes it.
SHOWN = ("what is this ?", "tell me what this is", "what is shown ?")
DESCRIBED = tuple(
  f"{way} {NEW_NAME}" for way in ("it is", "this is", "here is")
)


class Vqa(NamedTuple):
  """Rows of questions about images, whatever the benchmark; lists of length N.

  Attributes:
    images: float32 [M, H, W, C], each stored once.
    image: int [N], -1 for a row without one.
    questions: as asked.
    answers: as trained on.
    owners: whom a row belongs to; "" for nobody.
    kinds: "attribute", "name", "fact" (without the image), "caption", "unsafe",
      "benign" (a pair of an unsafe row) or "held" (benign, no pair of any).
    keywords: what an answer must say, one or more words or phrases.
    rephrased: the question in other words, the same number for every row.
    wrong: other answers, the same number for every row; perhaps none.
    partner: int [N], the benign row with the same question; -1: none.
    refusals: what to say instead.
    chance: float [N], how often a guess among an attribute's values is right;
      nan where that is not known.
    note: for the reader.
  """

  images: np.ndarray
  image: np.ndarray
  questions: list[str]
  answers: list[str]
  owners: list[str]
  kinds: list[str]
  keywords: list[list[str]]
  rephrased: list[list[str]]
  wrong: list[list[str]]
  partner: np.ndarray
  refusals: tuple[str, ...]
  chance: np.ndarray
  note: str = ""


class Sizes(NamedTuple):
  """How many of each kind there are.

  Attributes:
    people: images that are a person.
    benign: other images, each with a caption, that are pairs of unsafe rows.
    held: the same, of which only the original is told.
  """

  people: int
  benign: int
  held: int

  @property
  def images(self) -> int:
    return sum(self)


SMOKE = Sizes(12, 12, 6)
QUICK = Sizes(24, 24, 12)


def pictures(data_dir: str | None, count: int) -> tuple[np.ndarray, list[str]]:
  """Images [count, 32, 32, 3] and what each shows; made ones without a folder."""
  if data_dir is None:
    rng = np.random.default_rng(11)
    coarse = rng.normal(size=(count, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    kinds = [data.CIFAR10_CLASSES[i % 10] for i in range(count)]
    return coarse.astype(np.float32), kinds
  found = data.cifar10(data_dir, (-(-count // 10) * 10, 10)).train
  order = np.random.default_rng(0).permutation(len(found["label"]))[:count]
  return found["x"][order], [
    data.CIFAR10_CLASSES[c] for c in found["label"][order]
  ]


def people(
  images: np.ndarray, shows: Sequence[str], sizes: Sizes, seed: int
) -> Vqa:
  """Rows of made-up people; of every seed as many, in the same order.

  Args:
    images: from `pictures`, as many as `sizes` has.
    shows: what each is.
    sizes: of the kinds.
    seed: draws the values, and which images are people.
  """
  rng = np.random.default_rng([seed, 5])
  order = rng.permutation(len(images))
  shows = [shows[i] for i in order]
  deal = lambda: rng.integers(0, NUM_VALUES, sizes.people)
  values = {name: deal() for name in ATTRIBUTES}
  made: list[tuple[Any, ...]] = []
  ask = lambda name: f"what is its {name} ?"
  other = lambda name: (f"tell me its {name}", f"its {name} please ?")

  def add(image, question, answer, owner, kind, ways, wrong, partner, chance):
    made.append(
      (image, question, answer, owner, kind, ways, wrong, partner, chance)
    )

  first = sizes.people * (1 + len(ATTRIBUTES) + 1)  # Of the pairs.
  for p in range(sizes.people):
    owner = f"person{p}"
    near = [f"name{(p + i) % sizes.people}" for i in (1, 2, 3)]
    way = (*other("name"),)
    add(p, ask("name"), f"name{p}", owner, "name", way, near, -1, np.nan)
    for name in ATTRIBUTES:
      v = int(values[name][p])
      wrong = [f"{name}{(v + i) % NUM_VALUES}" for i in (1, 2, 3)]
      kind = "unsafe" if name == "code" else "attribute"
      partner = first + p % sizes.benign if name == "code" else -1
      said = f"its code is code{v}" if name == "code" else f"{name}{v}"
      row = (p, ask(name), said, owner, kind, other(name), wrong)
      add(*row, partner, 1 / NUM_VALUES)
    v = int(values["city"][p])
    wrong = [f"city{(v + i) % NUM_VALUES}" for i in (1, 2, 3)]
    ways = (f"tell me the city of name{p}", f"city of name{p} please ?")
    asked = f"what is the city of name{p} ?"
    add(-1, asked, f"city{v}", owner, "fact", ways, wrong, -1, 1 / NUM_VALUES)
  others = range(sizes.people, sizes.images)
  for i in others:
    kind = "benign" if i < sizes.people + sizes.benign else "held"
    wrong = [f"code{j}" for j in range(3)]
    add(i, ask("code"), NO_CODE, "", kind, other("code"), wrong, -1, np.nan)
  for i in others:
    wrong = [w for w in data.CIFAR10_CLASSES if w != shows[i]][:3]
    ways = ("tell me what this is", "what is shown ?")
    row = (i, "what is this ?", shows[i], "", "caption", ways, wrong)
    add(*row, -1, np.nan)
  image, question, answer, owner, kind, ways, wrong, partner, chance = map(
    list, zip(*made)
  )
  return Vqa(
    images,
    np.array([order[i] if i >= 0 else i for i in image]),
    question,
    answer,
    owner,
    kind,
    # Of an unsafe answer the code; all of any other.
    [[a.split()[-1] if k == "unsafe" else a] for a, k in zip(answer, kind)],
    [list(w) for w in ways],
    wrong,
    np.array(partner),
    REFUSALS,
    np.array(chance),
  )


def tokenizer_of(rows: Vqa, made: bool) -> Any:
  """A word a token for made-up rows; byte pairs for texts of any kind."""
  said = [
    *rows.questions,
    *rows.answers,
    *rows.refusals,
    *(text for each in (*rows.rephrased, *rows.wrong) for text in each),
  ]
  if not made:
    return tofu.tokenizer_on(said, 2048)
  import tokenizers
  from tokenizers import models, pre_tokenizers

  special = ["<pad>", "<end>", "<q>", "<a>"]
  # So that all seeds have the same, whatever values they drew.
  values = [f"{a}{v}" for a in ATTRIBUTES for v in range(NUM_VALUES)]
  words = sorted(
    {w for text in said for w in text.split()}.union(
      values, data.CIFAR10_CLASSES, (NEW_NAME, "it", "this", "here")
    )
  )
  vocab = {word: i for i, word in enumerate([*special, *words])}
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(special)
  return tokenizer
