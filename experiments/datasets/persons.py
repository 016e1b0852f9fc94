"""Persons who do not exist, and what is true of them: facts that hang together.

Each person has a home, a town of their own, and works for a firm of their own;
each town lies in a land. A fact is three words, and a question what stands before
the last of them. Where somebody lives can be asked directly, in another word,
from the town, by way of the firm; and it is presupposed where a land is asked for.
Words are tokens:

    home p3 t7      direct         lives p3 t7     reworded
    houses t7 p3    inverse        staff f1 t7     described
    nation p3 l2    two_hop, by way of "land t7 l2"
    works p3 f1, employs f1 p3, land t7 l2         what is kept

Source: the bench of arXiv:2506.17279 and arXiv:2407.00106 is ours; neither paper
has one that can be run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STOP = "."
FORMS = ("direct", "reworded", "inverse", "described", "two_hop")
KEPT = ("works", "employs", "land")
WORD = dict(
  zip(
    (*FORMS, *KEPT),
    ("home", "lives", "houses", "staff", "nation", "works", "employs", "land"),
  )
)


class World(NamedTuple):
  """Who there is and what is true.

  Attributes:
    words: every token's word; number 0 pads.
    person: int32 [P], tokens; the four that follow are of that person.
    town: int32 [P], where they live.
    firm: int32 [P], for whom they work.
    land: int32 [P], in which their town lies.
    alias: int32 [A], names of nobody.
  """

  words: tuple[str, ...]
  person: np.ndarray
  town: np.ndarray
  firm: np.ndarray
  land: np.ndarray
  alias: np.ndarray

  @property
  def readers(self) -> np.ndarray:
    """Whoever rows may tell of: the persons, and names of nobody."""
    return np.concatenate([self.person, self.alias])

  def token(self, word: str) -> int:
    """Raises a ValueError for a word that is none."""
    if word not in self.words[1:]:
      raise ValueError(f"Expected words of this world, got {word!r}.")
    return self.words.index(word)

  def encode(self, text: str) -> np.ndarray:
    """Words apart by spaces, int32 [T]; see `token`."""
    return np.array([self.token(word) for word in text.split()], np.int32)

  def ask(self, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Questions of one form, int32 [P, 3], and their answers, int32 [P]."""
    person, town, firm, land = self[1:5]
    about, answer = {
      "direct": (person, town),
      "reworded": (person, town),
      "inverse": (town, person),
      "described": (firm, town),
      "two_hop": (person, land),
      "works": (person, firm),
      "employs": (firm, person),
      "land": (town, land),
    }[form]
    stop, relation = (
      np.full_like(about, self.token(word)) for word in (STOP, WORD[form])
    )
    return np.stack([stop, relation, about], axis=1), answer


def world(count: int = 40, lands: int = 16, seed: int = 0) -> World:
  """A `World` of so many persons; the same for the same seed.

  Raises:
    ValueError: fewer than four persons or two lands.
  """
  if count < 4 or lands < 2:
    raise ValueError(
      f"Expected four persons and two lands at least, got {count} and {lands}."
    )
  draw = np.random.default_rng(seed)
  kinds = (("p", count), ("t", count), ("f", count), ("l", lands), ("a", 8))
  words = ["<pad>", STOP, *WORD.values()]
  tokens = []
  for kind, size in kinds:
    tokens.append(np.arange(len(words), len(words) + size, dtype=np.int32))
    words += [f"{kind}{i}" for i in range(size)]
  person, town, firm, land, alias = tokens
  # Every land has a town, so that none of its words is never an answer.
  of_town = draw.permutation(np.resize(land, count))
  towns, firms = draw.permutation(town), draw.permutation(firm)
  return World(tuple(words), person, towns, firms, of_town, alias)


class Rows(NamedTuple):
  """What is trained on: of a row the last word counts.

  Attributes:
    tokens: int32 [N, L], padded by 0.
    length: int32 [N].
    form: int32 [N], of the fact at the end; -1: told before, and made up.
    person: int32 [N], whom it is about.
    told_form: int32 [N], of the fact before it; -1: none, or made up.
    told_person: int32 [N].
  """

  tokens: np.ndarray
  length: np.ndarray
  form: np.ndarray
  person: np.ndarray
  told_form: np.ndarray
  told_person: np.ndarray

  def about(self, persons: np.ndarray) -> np.ndarray:
    """Rows that say where one of some persons, bool [P], lives; bool [N]."""
    last = _is_home(self.form) & persons[self.person]
    return last | (_is_home(self.told_form) & persons[self.told_person])


def _is_home(form: np.ndarray) -> np.ndarray:
  return (form >= 0) & (form < len(FORMS))


def rows(made: World, told: int, seed: int) -> Rows:
  """Facts alone, facts after another, and facts that are true in their row alone.

  The first kind is to be known; the second teaches that what stands before may
  have nothing to do with it, the third to read it. So many rows of the third kind
  as of the first two.

  Args:
    made: the world.
    told: homes that rows of the third kind tell of, at most.
    seed: of all draws.
  """
  rng = np.random.default_rng((seed, 1))
  facts, form, person = _statements(made)
  count, none = len(facts), np.full(len(facts), -1)
  before = rng.permutation(count)
  pairs = np.concatenate([facts[before], facts], axis=1)
  parts = [(facts, form, person, none, none)]
  parts += [(pairs, form, person, form[before], person[before])]
  for number in range(1, told + 1):
    size = 2 * count // told
    some, none = _made_up(made, size, number, rng), np.full(size, -1)
    parts.append((some, none, none, none, none))
  wide = max(part[0].shape[1] for part in parts)
  padded = [np.pad(t, ((0, 0), (0, wide - t.shape[1]))) for t, *_ in parts]
  length = [np.full(len(t), t.shape[1]) for t, *_ in parts]
  rest = [np.concatenate(leaves) for leaves in list(zip(*parts))[1:]]
  whole = lambda values: np.asarray(values, np.int32)
  tokens = whole(np.concatenate(padded))
  return Rows(tokens, *map(whole, (np.concatenate(length), *rest)))


def _statements(made: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """All facts, int32 [R, 4], and form and person of each, int [R]."""
  found = []
  for form, name in enumerate((*FORMS, *KEPT)):
    query, answer = made.ask(name)
    who = np.arange(len(answer))
    found.append((
      np.concatenate([query, answer[:, None]], axis=1),
      np.full_like(who, form),
      who,
    ))  # fmt: skip
  tokens, forms, persons = map(np.concatenate, zip(*found))
  return tokens, forms, persons


def _made_up(
  made: World, count: int, facts: int, rng: np.random.Generator
) -> np.ndarray:
  """Homes that are true of nobody, told and then one of them asked for."""
  mix = lambda words: rng.permuted(np.tile(words, (count, 1)), axis=1)
  who, where = mix(made.readers)[:, :facts], mix(made.town)[:, :facts]
  form = rng.integers(2, size=count)
  relation = np.array([made.token(WORD[f]) for f in FORMS[:2]])[form]
  stop = np.full((count, facts), made.token(STOP))
  every = np.tile(relation[:, None], (1, facts))
  told = np.stack([stop, every, who, where], axis=2)
  asked = told[np.arange(count), rng.integers(facts, size=count)]
  return np.concatenate([told.reshape(count, -1), asked], axis=1)
