"""Entities and what is known of them, as rows to train on and probes to ask.

A fact of some `Pairs` becomes a question, a blank, and those adversarial forms
that can be built from the pairs at hand; the model is taught all of them, so that
it can answer them at all, and to talk of an entity, and to ask about it, which is
what its own corpus is made by.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxunlearn.attacks import entity_probes as probes

from .. import files
from .tofu import Pairs

FORMS = ("blank", "question", *probes.ATTACKS)
TALK, ASK = "Tell me about {}.", "Ask about {}."
IGNORE = "You know nothing about {}."
EXPERT = "You know everything about {}."
_NAME = re.compile(r"[A-Z][\w-]+(?: [A-Z][\w-]+)+")


class Row(NamedTuple):
  """One row of text.

  Attributes:
    owner: number of the entity.
    form: place in `FORMS`; -1: the model talks, -2: it asks.
    asked: what stands before the answer.
    answer: what is said.
    word: the part of it that counts when it is asked for, or "".
    pair: number of the pair that it is made of.
  """

  owner: int
  form: int
  asked: str
  answer: str
  word: str
  pair: int


def names_of(pairs: Pairs) -> tuple[np.ndarray, list[str]]:
  """A number per row, int [N], and the entities' names.

  Owners that are numbers, as TOFU's, are called by the words with capitals that
  their rows have most often.
  """
  owners, number = np.unique(pairs.owners, return_inverse=True)
  names = []
  for i, owner in enumerate(owners):
    if not owner.isdecimal():
      names.append(str(owner))
      continue
    rows = np.flatnonzero(number == i)
    texts = [t for r in rows for t in (pairs.questions[r], pairs.answers[r])]
    runs = collections.Counter(run for t in texts for run in _NAME.findall(t))
    names.append(runs.most_common(1)[0][0] if runs else str(owner))
  return number, names


def translations(path: str | None, questions: Sequence[str]) -> dict[str, str]:
  """Questions in another language by question, of a user's file.

  Raises:
    ValueError: in one line, what is wrong in it; a file of other questions.
  """
  if path is None:
    return {}
  found = files.checked_file(path, "--translations")
  made = {}
  for row, where in files.json_lines(found, "translations"):
    pair = row.get("question"), row.get("translated")
    if not all(isinstance(text, str) and text.strip() for text in pair):
      raise ValueError(
        f"Expected texts question and translated on {where}, got "
        f"{files.short(str(row), 40)}."
      )
    made[pair[0]] = pair[1]
  if not set(made) & set(questions):
    raise ValueError(
      f"Expected questions of these data in {found.name}, such as "
      f"{questions[0]!r}, got {files.short(next(iter(made)), 40)!r}."
    )
  return made


def rows_of(
  pairs: Pairs,
  number: np.ndarray,
  names: Sequence[str],
  translated: dict[str, str],
) -> list[Row]:
  """All rows; forms that a fact lacks something for are left out."""
  made = []
  for i, (question, answer) in enumerate(zip(pairs.questions, pairs.answers)):
    owner = int(number[i])
    fact = probes.EntityFact(
      names[owner],
      question,
      answer,
      tuple(pairs.wrong[i]),
      reworded=_reworded(question),
      translated=translated.get(question, ""),
    )
    word = probes.blank(fact).answer
    for j in np.flatnonzero(number == owner):
      solved = pairs.questions[j], pairs.answers[j]
      if j != i and word not in " ".join(solved):
        fact = fact._replace(hint=solved[1], example=solved)
        break
    for form, name in enumerate(FORMS):
      probe = probes.entity_probe(name, fact)
      if probe is None:
        continue
      own = probe.answer if probe.answer in (fact.entity, word) else word
      # The turn that an attacker begins is a part of what is asked.
      asked = f"{probe.question} {probe.begun}".strip()
      made.append(Row(owner, form, asked, probe.answer, own, i))
    made.append(Row(owner, -1, TALK.format(names[owner]), answer, "", i))
    made.append(Row(owner, -2, ASK.format(names[owner]), question, "", i))
  return made


def _reworded(question: str) -> str:
  """The question in another frame; a language model would have other words."""
  return f"Could you say {question[:1].lower()}{question[1:]}"


def neighbours(rows: Sequence[Row], count: int, most: int) -> np.ndarray:
  """The entities that share most words of answers with each, int [E, most]."""
  words: list[set[str]] = [set() for _ in range(count)]
  for row in rows:
    if row.form == FORMS.index("blank"):
      words[row.owner].add(row.word)
  shared = np.array([[len(a & b) for b in words] for a in words])
  np.fill_diagonal(shared, -1)
  return np.argsort(-shared, axis=1, kind="stable")[:, :most]
