"""Benchmarks' own files: a folder of images with a JSON file in it.

Of each what its public repository reads: FIUBench a list of people with their
questions; MMUBench conversations as LLaVA has them; SafeEraser images with unsafe
and harmless pairs; UnLOK-VQA questions about COCO's images. A file may be one list
or a JSON object a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import checked_file, json_lines, json_value, read_text, short
from .vqa import REFUSALS, Vqa

SIDE = 32  # Pixels that images are made.
_MOST = 2000  # Rows that are read.


def load(benchmark: str, file: str) -> Vqa:
  """The rows of a benchmark's folder, or of one of several files in it.

  Raises:
    ValueError: no such file, no JSON, an entry without what it needs, an image
      that is not there or none.
  """
  path = _file_of(Path(file))
  rows: list[dict[str, Any]] = []
  for number, entry in enumerate(_entries(path)):
    try:
      rows += _READERS[benchmark](entry)
    except (
      KeyError,
      TypeError,
      IndexError,
      AttributeError,
      ValueError,
    ) as error:
      found = f"none of {error}" if isinstance(error, KeyError) else str(entry)
      raise ValueError(
        f"Expected entry {number} of {path.name} as {benchmark} has it, got "
        f"{short(found)}."
      ) from error
    if len(rows) > _MOST:
      break
  if not rows:
    raise ValueError(f"Expected questions in {path.name}, got none.")
  return _gathered(rows, path.parent)


def _file_of(path: Path) -> Path:
  """The file itself, or the only one of a folder."""
  if not path.is_dir():
    return checked_file(path, "--data")
  found = sorted(
    p.name for p in path.iterdir() if p.suffix in (".json", ".jsonl")
  )
  if len(found) != 1:
    raise ValueError(
      f"Expected --data with one JSON file in {path}, or such a file, got "
      f"{short(', '.join(found)) or 'none'}."
    )
  return path / found[0]


def _entries(path: Path) -> list[Any]:
  text = read_text(path, "--data")
  if text.lstrip().startswith("["):
    return json_value(text, f"the lines of {path.name}")
  return [row for row, _ in json_lines(path, "--data")]


def _row(
  image: str, question: str, answer: str, owner: str, kind: str, **more: Any
) -> dict[str, Any]:
  said = (question, answer)
  if not isinstance(image, str) or not all(
    isinstance(text, str | int | float) and str(text).strip() for text in said
  ):
    raise TypeError("no text")
  words = _many(more.pop("keywords", None)) or [str(answer)]
  base = {"image": image, "question": str(question), "answer": str(answer)}
  return {**base, "owner": owner, "kind": kind, "keywords": words, **more}


def _fiubench(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
  image = entry["image_path"]
  pairs = entry.get("question_and_answer") or entry.get("qa_list") or [entry]
  read = lambda qa, *names: next((qa[n] for n in names if qa.get(n)), None)
  owner = str(entry.get("unique_id") or Path(image).stem)
  return [
    _row(
      image,
      read(qa, "q", "question") or "",
      read(qa, "a", "answer") or "",
      owner,
      "attribute",
      keywords=read(qa, "keywords"),
      rephrased=_many(read(qa, "paraphrased_question", "paraphrased_q")),
      wrong=_many(read(qa, "perturbed_answers", "perturbed_answer")),
    )
    for qa in pairs
  ]


def _mmubench(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
  turns = entry["conversations"]
  image = entry.get("image") or ""
  # A concept is the folder of its images; what is told without one has its name.
  owner = str(entry.get("concept") or Path(image).parent.name)
  kind = "attribute" if image else "fact"
  clean = lambda text: text.replace("<image>", "").strip()
  return [
    _row(image, clean(q["value"]), a["value"], owner, _named(a, owner, kind))
    for q, a in zip(turns[::2], turns[1::2])
  ]


def _named(turn: Mapping[str, Any], owner: str, kind: str) -> str:
  same = owner.replace("_", " ").lower() in turn["value"].lower()
  return "name" if same and kind == "attribute" else kind


def _safeeraser(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
  image, owner = entry["image_path"], Path(entry["image_path"]).stem
  rows = []
  for pair in entry["unsafe_pairs"]:
    unsafe = (pair["question"], pair["model_response"], owner, "unsafe")
    partner = None
    if entry.get("SDImage_path") and pair.get("sd_response"):
      partner = (entry["SDImage_path"], pair["question"], pair["sd_response"])
      rows.append(_row(*partner, "", "benign"))
    rows.append(_row(image, *unsafe, partner=partner))
  for key in sorted(k for k in entry if k.startswith("UnharmPair_")):
    pair = entry[key]
    rows.append(
      _row(image, pair["Question"], pair["Prediction"], "", "caption")
    )
  return rows


def _unlok(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
  number = int(entry["image_id"])
  image = entry.get("image") or f"{number:012d}.jpg"
  owner = str(entry.get("id", number))
  near = zip(_many(entry.get("loc")), _many(entry.get("loc_ans")))
  asked = _many(entry.get("rephrase"))
  return [
    _row(
      image, entry["src"], entry["pred"], owner, "attribute", rephrased=asked
    ),
    *(_row(image, q, a, "", "caption") for q, a in near),
  ]


def _many(value: Any) -> list[str]:
  if value is None:
    return []
  return [value] if isinstance(value, str) else [str(v) for v in value]


_READERS: Mapping[str, Callable[[Any], list[dict[str, Any]]]] = {
  "fiubench": _fiubench,
  "mmubench": _mmubench,
  "safeeraser": _safeeraser,
  "unlok": _unlok,
}


def _gathered(rows: Sequence[dict[str, Any]], folder: Path) -> Vqa:
  """Rows of a common form; what is not there is borrowed from other rows."""
  names = list(dict.fromkeys(r["image"] for r in rows if r["image"]))
  images = np.stack([_image(folder / name) for name in names])
  place = {name: i for i, name in enumerate(names)}
  pairs = {
    (r["image"], r["question"], r["answer"]): i
    for i, r in enumerate(rows)
    if r["kind"] == "benign"
  }
  asked = [r["question"] for r in rows]
  said = [r["answer"] for r in rows]
  others = lambda i: [a for a in (*said[i + 1 :], *said) if a != said[i]]
  borrow = [r.get("wrong") or others(i)[:1] or [""] for i, r in enumerate(rows)]
  ways = [r.get("rephrased") or [f"Tell me: {q}"] for r, q in zip(rows, asked)]
  few = min(map(len, borrow))
  kinds = [r["kind"] for r in rows]
  # Every fifth pair of an unsafe question is for the test.
  kinds = [
    "held" if k == "benign" and i % 5 == 4 else k for i, k in enumerate(kinds)
  ]
  # A pair that is for the test is no pair of training: the next one is.
  trained = [i for i, k in enumerate(kinds) if k == "benign"]
  own = [pairs.get(r.get("partner"), -1) for r in rows]
  partner = [
    i if i < 0 or i in trained or not trained else trained[i % len(trained)]
    for i in own
  ]
  return Vqa(
    images,
    np.array([place.get(r["image"], -1) for r in rows]),
    asked,
    said,
    [r["owner"] for r in rows],
    kinds,
    [r["keywords"] for r in rows],
    [each[:1] for each in ways],
    [each[:few] for each in borrow],
    np.array(partner),
    REFUSALS,
    np.full(len(rows), np.nan),
    "Questions without other wordings or wrong answers have made-up ones.",
  )


def _image(path: Path) -> np.ndarray:
  """A picture as float32 [SIDE, SIDE, 3], about -1 to 1."""
  from PIL import Image

  checked_file(path, "an image")
  try:
    with Image.open(path) as image:
      small = image.convert("RGB").resize((SIDE, SIDE))
  except Exception as error:  # Damaged images raise many kinds.
    raise ValueError(
      f"Expected {path} to be an image, got {short(str(error))}."
    ) from error
  return np.asarray(small, np.float32) / 127.5 - 1
