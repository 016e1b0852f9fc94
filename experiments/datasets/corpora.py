"""Documents, and questions on them: TOFU's texts, MUSE's folders, a user's own.

A folder of one's own has plain text files: each is a document, its name the file's
without .txt, its paragraphs what is between empty lines. questions.jsonl beside
them, where there is one, has an object a line with document, question and answer.
A folder in the form that MUSE publishes (arXiv:2407.06460) has raw/forget,
raw/retain1 (or retain2) and raw/holdout, .txt or .json, and knowmem/*.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import files
from . import tofu

HELD = "holdout"  # What no model is trained on, in a folder that says so.


class Corpus(NamedTuple):
  """Paragraphs of documents, and questions.

  Attributes:
    texts: [N] paragraphs.
    document: [N], the name of each paragraph's.
    questions: [Q].
    answers: [Q].
    about: [Q], the document that a question is on.
    examples: pairs that are shown before a question; may be empty.
  """

  texts: list[str]
  document: np.ndarray
  questions: list[str]
  answers: list[str]
  about: np.ndarray
  examples: list[tuple[str, str]] = []  # noqa: RUF012  never written to


def of_tofu(data_dir: str | None, authors: int) -> Corpus:
  """TOFU's first authors as documents: a question and its answer a paragraph.

  Their names are numbers from 0 on.
  """
  pairs = tofu.load("tofu", data_dir)
  count = min(20 * authors, len(pairs.questions))
  questions, answers = pairs.questions[:count], pairs.answers[:count]
  texts = [f"{q} {a}" for q, a in zip(questions, answers)]
  owners = pairs.owners[:count]
  return Corpus(texts, owners, questions, answers, owners)


def of_people(count: int) -> Corpus:
  """People made up on the spot, a document each."""
  pairs = tofu.people(count)
  texts = [f"{q} {a}" for q, a in zip(pairs.questions, pairs.answers)]
  owners = pairs.owners
  return Corpus(texts, owners, pairs.questions, pairs.answers, owners)


def read(folder: str) -> Corpus:
  """The documents of a folder.

  Raises:
    ValueError: in one line, a folder without documents, one that is empty, a line
      that is no question, a question on a document that is not there.
  """
  path = Path(folder)
  if not path.is_dir():
    raise ValueError(f"Expected --data to be a folder, got {folder!r}.")
  if (path / "raw").is_dir():
    return _published(path)
  found = {p.stem: files.read_text(p, "a document") for p in path.glob("*.txt")}
  if len(found) < 4:
    raise ValueError(
      f"Expected four documents NAME.txt or more in {folder}, got {len(found)}."
    )
  texts, names = _paragraphs(dict(sorted(found.items())))
  questions, answers, about = [], [], []
  asked = path / "questions.jsonl"
  if asked.is_file():
    lines = files.read_text(asked, "questions").rstrip().split("\n")
    for number, line in enumerate(lines, start=1):
      row = _question(line, f"line {number} of questions.jsonl")
      if row["document"] not in found:
        raise ValueError(
          f"Expected a document of {folder} on line {number} of questions.jsonl, "
          f"got {files.short(row['document'], 40)!r}."
        )
      for to, name in (
        (questions, "question"), (answers, "answer"), (about, "document"),
      ):  # fmt: skip
        to.append(row[name])
  return Corpus(texts, names, questions, answers, np.array(about, str))


def _paragraphs(documents: dict[str, str]) -> tuple[list[str], np.ndarray]:
  texts: list[str] = []
  names: list[str] = []
  for name, text in documents.items():
    own = [" ".join(p.split()) for p in text.split("\n\n") if p.split()]
    if not own:
      raise ValueError(f"Expected document {name} to say something, got none.")
    texts += own
    names += [name] * len(own)
  return texts, np.array(names)


def _question(line: str, where: str) -> dict[str, str]:
  try:
    row = json.loads(line)
  except ValueError:
    row = None
  names = ("document", "question", "answer")
  if not isinstance(row, dict) or not all(
    isinstance(row.get(n), str) and row[n].strip() for n in names
  ):
    raise ValueError(
      f"Expected texts {', '.join(names)} in a JSON object on {where}, got "
      f"{files.short(line, 40)!r}."
    )
  return row


def _published(path: Path) -> Corpus:
  """MUSE's folder: the parts are the documents."""
  parts = {}
  for name in ("forget", "retain1", "retain2", HELD):
    for found in sorted((path / "raw").glob(f"{name}.*")):
      text = files.read_text(found, "a document")
      if found.suffix == ".json":
        text = "\n\n".join(map(str, _json(text, found)))
      parts[name] = text
  missing = {"forget", HELD} - set(parts)
  if missing or len(parts) < 3:
    raise ValueError(
      f"Expected raw/forget, raw/retain1 and raw/holdout in {path}, got "
      f"{', '.join(parts) or 'none'}."
    )
  texts, names = _paragraphs(parts)
  kept = "retain2" if "retain2" in parts else "retain1"
  asked: list[Any] = []
  for part, name in (("forget", "forget"), ("retain", kept), ("retain2", kept)):
    found = path / "knowmem" / f"{part}_qa.json"
    if found.is_file():
      rows = _json(files.read_text(found, "questions"), found)
      asked += [(row["question"], row["answer"], name) for row in rows]
  shown = path / "knowmem" / "retain_qa_icl.json"
  examples = []
  if shown.is_file():
    rows = _json(files.read_text(shown, "examples"), shown)
    examples = [(row["question"], row["answer"]) for row in rows]
  questions, answers, about = ([row[i] for row in asked] for i in range(3))
  about = np.array(about, str)
  return Corpus(texts, names, questions, answers, about, examples)


def _json(text: str, path: Path) -> list[Any]:
  try:
    found = json.loads(text)
  except ValueError:
    found = None
  if not isinstance(found, list) or not found:
    raise ValueError(f"Expected a list in {path.name}, got none.")
  return found


def divide(
  corpus: Corpus, named: np.ndarray, seed: int, held: int
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to train on and rows held out, of whole documents.

  Args:
    corpus: see there.
    named: bool, rows that have to be trained on.
    seed: of the draw among the other documents.
    held: how many documents are held out; of a folder that says so those.

  Raises:
    ValueError: too few documents besides those that are named.
  """
  order = np.array(list(dict.fromkeys(corpus.document.tolist())))
  others = [n for n in order if n not in set(corpus.document[named])]
  if HELD in order:
    away = [HELD]
  else:
    others = np.random.default_rng((seed, 1)).permutation(others).tolist()
    away = others[:held]
  if not set(others) - set(away) or HELD in set(corpus.document[named]):
    raise ValueError(
      "Expected --request to leave documents to keep and to hold out, got "
      f"{len(order) - len(others)} of {len(order)} named."
    )
  test = np.isin(corpus.document, away)
  return np.flatnonzero(~test), np.flatnonzero(test)
