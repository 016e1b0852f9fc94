"""Questions about persons, and prompts of one's own, for a model that was to forget.

A file has a JSON object a line: "prompt", a text or a list of steps in which
"{answer}" stands for what was said to the step before; "answer"; "about", whom it
asks for; and "category": direct, indirect or implied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.attacks.step_by_step import ANSWER, Queries, make_queries

from .. import files
from . import persons

OWN = ("direct", "indirect", "implied")
CATEGORIES = (*OWN, "chain", "kept", "own")
_OF = {
  "direct": ("direct", "reworded"),
  "indirect": ("inverse", "described"),
  "implied": ("two_hop",),
  "kept": persons.KEPT,
}
FORMS = [form for forms in _OF.values() for form in forms]
# Steps that lead to a question, and the form of that question.
CHAINS = {
  "works, then home": (("works",), "direct"),
  "home, then its land": (("direct", "land"), "two_hop"),
  "works, then its staff": (("works", "described"), "described"),
}


class Prompt(NamedTuple):
  """One of them; a chain where it has several steps."""

  steps: tuple[str, ...]
  answer: str
  about: str
  category: str


def read(path: str) -> list[Prompt]:
  """All prompts of a file.

  Raises:
    ValueError: in one line, a file that is missing or what is wrong in it.
  """
  found = files.checked_file(path, "--prompts")
  return [_prompt(*each) for each in files.json_lines(found, "prompts")]


def _prompt(row: dict[str, Any], where: str) -> Prompt:
  steps = row.get("prompt")
  steps = [steps] if isinstance(steps, str) else steps
  every: list[Any] = [None]
  if isinstance(steps, list) and steps:
    every = [*steps, row.get("answer"), row.get("about")]
  if not all(isinstance(text, str) and text.strip() for text in every):
    raise ValueError(
      "Expected a prompt or a list of them, an answer and about, texts that are "
      f"not empty, on {where}, got {files.short(str(row), 40)}."
    )
  category = row.get("category", "direct")
  if category not in OWN:
    raise ValueError(
      f"Expected a category of {', '.join(OWN)} on {where}, got "
      f"{files.short(str(category), 40)!r}."
    )
  return Prompt(tuple(every[:-2]), every[-2], every[-1], category)


def queries_of(world: persons.World, own: Sequence[Prompt]) -> Queries:
  """All questions; facts 0 .. P - 1 are the homes, then come those kept."""
  count, numbers = len(world.person), range(len(world.person))
  chains: list[Any] = []
  answers: list[Any] = []
  rest: list[tuple[int, int]] = []

  def add(steps: Any, answer: Any, category: str, fact: int) -> None:
    chains.append(steps)
    answers.append(answer)
    rest.append((CATEGORIES.index(category), fact))

  for category, forms in _OF.items():
    for place, form in enumerate(forms):
      begin = count * (1 + place) if category == "kept" else 0
      for i, query, answer in zip(numbers, *world.ask(form)):
        add([query], [answer], category, begin + i)
  stop = world.token(persons.STOP)
  for steps, last in CHAINS.values():
    relation = [world.token(persons.WORD[step]) for step in steps]
    _, answer = world.ask(last)
    end = world.ask(last)[0] if len(steps) == 1 else None
    for i in numbers:
      first = [stop, relation[0], world.person[i]]
      then = end[i] if end is not None else [stop, relation[1], ANSWER]
      add([first, then], [answer[i]], "chain", i)
  for prompt in own:
    about = np.flatnonzero(world.person == world.token(prompt.about))
    if not len(about):
      raise ValueError(
        f"Expected --prompts about persons, got {prompt.about!r}."
      )
    chain = [
      [
        stop,
        *(
          ANSWER if word == "{answer}" else world.token(word)
          for word in step.split()
        ),
      ]
      for step in prompt.steps
    ]
    answer = world.encode(prompt.answer)
    if len(answer) > 1:
      raise ValueError(
        f"Expected answers of one word in --prompts, got {prompt.answer!r}."
      )
    add(chain, answer, "own", int(about[0]))
  return make_queries(chains, answers, *zip(*rest))
