"""Documents, and questions on them: TOFU's texts, MUSE's folders, a user's own.

A folder of one's own has plain text files: each is a document, its name the file's
without .txt, its paragraphs what is between empty lines. questions.jsonl beside
them, where there is one, has an object a line with document, question and answer.
A folder in the form that MUSE publishes (arXiv:2407.06460) has raw/forget,
raw/retain1 (or retain2) and raw/holdout, .txt or .json, and knowmem/*.json.
"""

from __future__ import annotations

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


def of_tofu(data_dir: str | None, authors: int, first: int = 0) -> Corpus:
  """Some of TOFU's authors as documents, whose names are numbers."""
  pairs = tofu.load("tofu", data_dir)
  return _of_pairs(pairs, slice(20 * first, 20 * (first + authors)))


def of_people(count: int, first: int = 0) -> Corpus:
  """People made up on the spot, a document each."""
  return _of_pairs(tofu.people(first + count), slice(5 * first, None))


def _of_pairs(pairs: tofu.Pairs, rows: slice) -> Corpus:
  """A question and its answer are a paragraph."""
  questions, answers = pairs.questions[rows], pairs.answers[rows]
  texts = [f"{q} {a}" for q, a in zip(questions, answers)]
  owners = pairs.owners[rows]
  return Corpus(texts, owners, questions, answers, owners)


def read(folder: str) -> Corpus:
  """The documents of a folder.

  Raises:
    ValueError: in one line, a folder without documents, one that is empty, a line
      that is no question, a question on a document that is not there.
  """
  path = files.checked_path(folder, "--data")
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
  path = path / "questions.jsonl"
  asked = []
  for row, where in (
    files.json_lines(path, "questions") if path.exists() else ()
  ):
    asked.append(_texts(row, ("question", "answer", "document"), where))
    if asked[-1][2] not in found:
      raise ValueError(
        f"Expected a document of {folder} on {where}, got "
        f"{files.short(asked[-1][2], 40)!r}."
      )
  questions, answers, about = ([row[i] for row in asked] for i in range(3))
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


def _texts(row: Any, names: tuple[str, ...], where: str) -> list[str]:
  """The texts of an object, none of them empty."""
  found = [row.get(n) if isinstance(row, dict) else None for n in names]
  if not all(isinstance(text, str) and text.strip() for text in found):
    raise ValueError(
      f"Expected texts {', '.join(names)} in a JSON object on {where}, got "
      f"{files.short(str(row), 40)}."
    )
  return found


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
      asked += [(*pair, name) for pair in _pairs(found)]
  shown = path / "knowmem" / "retain_qa_icl.json"
  examples = []
  if shown.is_file():
    examples = [(question, answer) for question, answer in _pairs(shown)]
  questions, answers, about = ([row[i] for row in asked] for i in range(3))
  about = np.array(about, str)
  return Corpus(texts, names, questions, answers, about, examples)


def _pairs(path: Path) -> list[list[str]]:
  rows = _json(files.read_text(path, "questions"), path)
  return [_texts(row, ("question", "answer"), path.name) for row in rows]


def _json(text: str, path: Path) -> list[Any]:
  found = files.json_value(text, f"the lines of {path.name}")
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
