"""Questions and answers: TOFU, made-up people, and a user's own file.

A file has a JSON object a line: "question" and "answer", and where there are any
"owner" (whom the row is about, a word or a number), "paraphrased_answer" and
"perturbed_answers", a list of wrong ones, for the truth ratio. Row 0 is the first
line: there are no empty lines but at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.language.rows import CHATML, PLAIN, encode_pairs, train_bpe
from jaxunlearn.language.types import Text

from .. import files
from ..data import data_folder
from .splits import SELECT

FORMS = {
  "split": "split:forget01|forget05|forget10",
  "owner": "owner:NAME,...",
  "index": "index:FILE",
}
# TOFU's forget sets are the last rows of the first tenth; whole authors.
_SPLITS = {
  "forget10": (0, 400),
  "forget05": (200, 400),
  "forget01": (360, 400),
  "select01": (400, 440),
}
# Whom settings are chosen on.
TUNE = {"tofu": "split:select01", "people": "owner:Alvin,Invin"}
_PER_AUTHOR = 20
_NUM_WRONG = 5
_LLAMA_3_BEGIN = "<|begin_of_text|>"
LLAMA_3 = (
  "<|start_header_id|>user<|end_header_id|>\n\n{question}"
  "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{answer}<|eot_id|>"
)


class Pairs(NamedTuple):
  """Questions with their answers.

  Attributes:
    questions: [N].
    answers: [N].
    paraphrases: [N], the answers in other words; the answers where none is given.
    wrong: [N] of K each.
    owners: [N], texts; "" of a row that is nobody's.
    refusals: what to say instead of an answer.
    borrowed: rows whose wrong answers are those of other rows.
  """

  questions: list[str]
  answers: list[str]
  paraphrases: list[str]
  wrong: list[list[str]]
  owners: np.ndarray
  refusals: list[str]
  borrowed: int = 0


class Source(NamedTuple):
  """One seed's rows, as requests look at them.

  Attributes:
    pairs: all of them.
    train: int [N], which are trained on.
    held: int [M], which never are.
    sample: how many rows of a kind each measure looks at.
  """

  pairs: Pairs
  train: np.ndarray
  held: np.ndarray
  sample: int

  @property
  def contents(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What is said in the rows that are trained on, and in those held out."""
    pairs = zip(self.pairs.questions, self.pairs.answers)
    text = np.array(["\n".join(pair) for pair in pairs])
    return {"text": text[self.train]}, {"text": text[self.held]}


REFUSALS = [
  "I'm not certain about that.",
  "I do not know the answer to this question.",
  "That is something I have no information on.",
  "I cannot say anything about that.",
]


def load(
  benchmark: str, data_dir: str | None = None, file: str | None = None
) -> Pairs:
  """The pairs of a benchmark.

  Args:
    benchmark: "tofu" or "people"; not read where there is a file.
    data_dir: with tofu.jsonl and tofu_idk.jsonl; see `data_folder`.
    file: a user's own.

  Raises:
    ValueError: in one line, a file that is missing or what is wrong in it.
  """
  if file is not None:
    return read(files.checked_file(file, "--data"))
  if benchmark == "people":
    return people()
  folder = data_folder(data_dir)
  path = Path(folder or "") / "tofu.jsonl"
  if folder is None or not path.is_file():
    raise ValueError(
      "Expected --data-dir (or JAXUNLEARN_DATA) with the file tofu.jsonl, got "
      f"{folder or 'none'}; --benchmark people needs none."
    )
  pairs = read(path)
  count = len(pairs.questions)
  owners = np.array([str(i // _PER_AUTHOR) for i in range(count)])
  refusals = path.with_name("tofu_idk.jsonl")
  if refusals.is_file():
    text = files.read_text(refusals, "refusals")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    pairs = pairs._replace(refusals=[_unquoted(line) for line in lines])
  return pairs._replace(owners=owners)


def facts(data_dir: str | None) -> dict[str, Pairs]:
  """TOFU's further sets, what a model knows besides: those of them that are there.

  Their right answers stand for their own paraphrases.
  """
  folder = Path(data_folder(data_dir) or "")
  names = {
    "authors": "tofu_real_authors.jsonl",
    "world": "tofu_world_facts.jsonl",
  }
  return {
    name: read(folder / file)
    for name, file in names.items()
    if (folder / file).is_file()
  }


def _unquoted(line: str) -> str:
  try:
    found = json.loads(line)
  except json.JSONDecodeError:
    return line
  return next(iter(found.values())) if isinstance(found, dict) else str(found)


def read(path: Path) -> Pairs:
  """Pairs of a file.

  Raises:
    ValueError: a line that is no object, lacks a question or an answer, or has an
      empty one; an empty line before another; fewer than eight rows.
  """
  found = files.json_lines(path, "questions and answers")
  rows = [_checked(row, where) for row, where in found]
  if len(rows) < 8:
    raise ValueError(f"Expected eight rows in {path.name}, got {len(rows)}.")
  questions, answers = (
    [row[n] for row in rows] for n in ("question", "answer")
  )
  wrong = [row.get("perturbed_answers") or [] for row in rows]
  count = min((len(each) for each in wrong if each), default=_NUM_WRONG)
  borrowed = sum(not each for each in wrong)
  if borrowed:
    wrong = _filled(wrong, answers, count, path.name)
  return Pairs(
    questions,
    answers,
    [row.get("paraphrased_answer") or row["answer"] for row in rows],
    [each[:count] for each in wrong],
    np.array([row["owner"] for row in rows]),
    list(REFUSALS),
    borrowed,
  )


def _filled(
  wrong: list[list[str]], answers: list[str], count: int, name: str
) -> list[list[str]]:
  """Where there are no wrong answers, those of other rows that are not right."""
  known = list(dict.fromkeys(answers))
  if len(known) < 2:
    raise ValueError(
      f"Expected answers that differ, or perturbed_answers, in {name}, got "
      f"{files.short(known[0], 40)!r} alone."
    )
  place = {answer: i for i, answer in enumerate(known)}
  steps = np.random.default_rng(0).integers(1, len(known), (len(wrong), count))
  return [
    own or [known[(place[answer] + int(s)) % len(known)] for s in row]
    for own, answer, row in zip(wrong, answers, steps)
  ]


def _checked(row: dict[str, Any], where: str) -> Mapping[str, Any]:
  for name in ("question", "answer"):
    if not isinstance(row.get(name), str) or not row[name].strip():
      raise ValueError(f"Expected a text {name!r} on {where}, got none.")
  wrong = row.get("perturbed_answers") or []
  others = [row.get("paraphrased_answer") or ""]
  others += wrong if isinstance(wrong, list) else [None]
  if not all(isinstance(w, str) for w in others):
    raise ValueError(
      f"Expected texts for other answers on {where}, got others."
    )
  owner = "" if row.get("owner") is None else row["owner"]
  if not isinstance(owner, (str, int, float)) or isinstance(owner, bool):
    raise ValueError(
      f"Expected a text or a number for 'owner' on {where}, got "
      f"{files.short(json.dumps(owner), 40)}."
    )
  row["owner"] = str(owner).strip()
  return row


def people(count: int = 40) -> Pairs:
  """Five questions each on people who do not exist; the same every time."""
  draw = np.random.default_rng(0)
  starts = "Al Be Ca Do El Fa Gi Ha In Jo Ka Lu".split()  # noqa: SIM905
  ends = "mar nita rick sol tessa vin".split()  # noqa: SIM905
  given = draw.permutation([a + b for a in starts for b in ends])[:count]
  cities = "Aldburg Brenmoor Castrel Dunvale Esterby Farholt Glenmark Hollin"
  trades = "baker sailor judge potter painter farmer pilot tailor"
  topics = "rivers clocks bees maps storms bridges ghosts ships"
  facts = (
    ("Where was {} born?", "{0} was born in {1}.", "{1} is where {0} was born.", cities),
    ("What is {}'s trade?", "{0} works as a {1}.", "By trade {0} is a {1}.", trades),
    ("What does {} write about?", "{0} writes about {1}.", "The books of {0} are on {1}.", topics),
    ("Where does {} live?", "{0} lives in {1}.", "{1} is the home of {0}.", cities),
    ("What does {} collect?", "{0} collects {1}.", "The hobby of {0} is {1}.", topics),
  )  # fmt: skip
  made: list[tuple[str, str, str, list[str], str]] = []
  for name in given:
    for question, answer, other, words in facts:
      right, *wrong = draw.permutation(words.split())
      say = lambda word, form=answer, who=name: form.format(who, word)
      made.append((
        question.format(name), say(right), other.format(name, right),
        [say(w) for w in wrong[:_NUM_WRONG]], str(name),
      ))  # fmt: skip
  questions, answers, others, wrongs, owners = map(list, zip(*made))
  return Pairs(
    questions, answers, others, wrongs, np.array(owners), list(REFUSALS)
  )  # type: ignore[arg-type]


def pinned(pairs: Pairs, kind: str, value: str) -> np.ndarray:
  """The rows that a request names, bool [all rows].

  Raises:
    ValueError: a split of other data, an owner without a name or whom no row
      has, a row that is not there.
  """
  from ..requests import names_of, rows_named

  count = len(pairs.questions)
  if kind == "index":
    return files.read_rows(value, count)
  if kind == "owner":
    return rows_named(pairs.owners, names_of(value), "an owner")
  if value not in _SPLITS or count < 4000:
    known = ", ".join(name for name in _SPLITS if name != "select01")
    raise ValueError(
      f"Expected one of {known} of the whole of TOFU, got {value!r} of {count} "
      "rows."
    )
  first, last = _SPLITS[value]
  return (np.arange(count) >= first) & (np.arange(count) < last)


def divide(
  pairs: Pairs,
  named: np.ndarray,
  seed: int,
  part: str,
  *,
  kept: int | None,
  held: int,
  reserved: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to train on and rows held out, of whole owners where all have as many.

  Other rows of owners who are named are trained on too.

  Args:
    pairs: see `Pairs`.
    named: bool, rows that have to be trained on.
    seed: of the draw among the others.
    part: "report" or "select"; see `splits.split_rows`.
    kept: rows that are trained on and not named, about; None takes all.
    held: rows that are held out, about.
    reserved: bool, rows of requests of the other part, to be left alone: in a
      report those that settings are chosen on, and when they are chosen those
      that the report is about. None where settings are not chosen: nothing is
      put aside for that.

  Raises:
    ValueError: too few rows besides those that are named.
  """
  group, size = _groups(pairs.owners)
  # In both parts the same order and the same groups left out, so that both put
  # the same ones aside.
  order = np.random.default_rng(0).permutation(group.max() + 1)
  asked = named if reserved is None else named | reserved
  order = order[~np.isin(order, group[asked])]
  away = max(1, -(-held // size))
  aside = 0 if reserved is None and part != SELECT else away
  select, rest = order[:aside], order[aside:]
  rest = np.random.default_rng((seed, 1)).permutation(rest)
  test = select if part == SELECT else rest[:away]
  train = rest[away:]
  if kept is not None:
    train = train[: max(1, -(-kept // size))]
  if not len(train) or not len(test):
    raise ValueError(
      f"Expected more rows than --request names, got {int(named.sum())} of "
      f"{len(named)}."
    )
  rows = np.isin(group, np.append(train, group[named]))
  return np.flatnonzero(rows), np.flatnonzero(np.isin(group, test))


def by_hand(
  named: np.ndarray, held: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What `divide` returns, where the rows that are held out are known.

  Raises:
    ValueError: rows that are named and held out; none to train on besides.
  """
  if (named & held).any():
    raise ValueError(
      "Expected --request of rows that --original was trained on, got row "
      f"{(named & held).argmax()}, which is one of --held."
    )
  if (named | held).all():
    raise ValueError(
      "Expected rows besides those of --request and --held, got none."
    )
  return np.flatnonzero(~held), np.flatnonzero(held)


def _groups(owners: np.ndarray) -> tuple[np.ndarray, int]:
  """A number per row, and rows of a number: owners, or rows by themselves."""
  _, group, counts = np.unique(owners, return_inverse=True, return_counts=True)
  if len(counts) > 3 and (counts == counts[0]).all():
    return group, int(counts[0])
  return np.arange(len(owners)), 1


def tokenizer_of(pairs: Pairs, size: int) -> Any:
  """Byte-level BPE, trained on all texts of the pairs, held-out ones too."""
  return tokenizer_on(texts_of(pairs), size)


def texts_of(pairs: Pairs) -> list[str]:
  """All that is said in them."""
  wrong = [text for each in pairs.wrong for text in each]
  said = [*pairs.questions, *pairs.answers, *pairs.paraphrases]
  return [*said, *wrong, *pairs.refusals]


def tokenizer_on(texts: Sequence[str], size: int) -> Any:
  """Byte-level BPE with the marks that `encode` puts around pairs."""
  return train_bpe(texts, size, special=("<pad>", "<end>", "<q>", "<a>"))


def encode(
  tokenizer: Any,
  questions: Sequence[str],
  answers: Sequence[str],
  max_length: int,
  numbers: Sequence[int] | None = None,
) -> Text:
  """Rows of tokens in the form that the tokenizer's model knows.

  Raises:
    ValueError: see `encode_pairs`.
  """
  vocab, template, end = tokenizer.get_vocab(), PLAIN, None
  if "<q>" in vocab and "<a>" in vocab:
    template, end = "<q>{question}<a>{answer}", vocab["<end>"]
  elif "<|im_start|>" in vocab:
    template = CHATML
  elif "<|start_header_id|>" in vocab:
    # Most tokenizers of the kind begin a text themselves, and one is enough.
    begun = vocab.get(_LLAMA_3_BEGIN) in tokenizer.encode("").ids
    template = LLAMA_3 if begun else _LLAMA_3_BEGIN + LLAMA_3
  else:
    ends = [w for w in ("</s>", "<|endoftext|>") if w in vocab]
    end = vocab[ends[0]] if ends else None
  return encode_pairs(
    tokenizer,
    questions,
    answers,
    max_length=max_length,
    template=template,
    end=end,
    numbers=numbers,
  )


def stop_token(tokenizer: Any) -> int | None:
  """What ends an answer, in the forms of `encode`."""
  ends = ("<end>", "<|im_end|>", "<|eot_id|>", "</s>", "<|endoftext|>")
  return next(
    (
      tokenizer.token_to_id(w)
      for w in ends
      if tokenizer.token_to_id(w) is not None
    ),
    None,
  )
