"""From questions, answers and documents to rows of tokens; nothing is cut.

A tokenizer is one of the package `tokenizers`, read from a tokenizer.json or
trained here on the texts at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.language.types import Generated, Text

Tokenizer = Any  # Of the package `tokenizers`.

PLAIN = "Question: {question}\nAnswer: {answer}"
CHATML = (
  "<|im_start|>user\n{question}<|im_end|>\n"
  "<|im_start|>assistant\n{answer}<|im_end|>"
)
LLAMA_2 = "[INST] {question} [/INST] {answer}"


def encode_pairs(
  tokenizer: Tokenizer,
  questions: Sequence[str],
  answers: Sequence[str],
  *,
  max_length: int,
  template: str = PLAIN,
  end: int | None = None,
  numbers: Sequence[int] | None = None,
) -> Text:
  """Questions and answers as a `Text` [N, max_length].

  A row is encoded as a whole, as the model will read it; its prompt ends before
  the first token that has a letter of the answer.

  Args:
    tokenizer: of the package `tokenizers`.
    questions: N strings.
    answers: N strings.
    max_length: L.
    template: with {question} and {answer} in it, in this order; `PLAIN`,
      `CHATML`, `LLAMA_2` or one of your own.
    end: None, or a token that is put after each answer and counts.
    numbers: N numbers by which errors name the rows; from 0 on by default.

  Raises:
    ValueError: not one answer for each question; an empty answer; a row longer
      than max_length, or one without a prompt; a template without its parts.

  Example:
    >>> from jaxunlearn.language import rows
    >>> tokenizer = rows.train_bpe(["Who? Ada."], vocab_size=258)
    >>> x = rows.encode_pairs(tokenizer, ["Who?"], ["Ada."], max_length=40)
    >>> x.tokens.shape, int(x.prompt[0]), int(x.length[0])
    ((1, 40), 23, 27)
  """
  checks.count(1, max_length=max_length)
  if len(questions) != len(answers) or not len(answers):
    raise ValueError(
      f"Expected an answer for each question, got {len(questions)} questions "
      f"and {len(answers)} answers."
    )
  before, between, after = _parts(template)
  numbers = range(len(answers)) if numbers is None else numbers
  texts, begins = [], []
  for i, question, answer in zip(numbers, questions, answers, strict=True):
    if not answer.strip():
      raise ValueError(f"Expected answer {i} to say something, got {answer!r}.")
    asked = before + question + between
    texts.append(asked + answer + after)
    # Spaces may be a part of the answer's first token, and are none of it.
    begins.append(len(asked) + len(answer) - len(answer.lstrip()))
  rows: list[list[int]] = []
  prompts: list[int] = []
  for i, found in enumerate(_encoded(tokenizer, texts)):
    ends = np.asarray([stop for _, stop in found.offsets])
    prompt = int((ends > begins[i]).argmax()) if (ends > begins[i]).any() else 0
    if prompt < 1:
      raise ValueError(f"Expected row {numbers[i]} to have a prompt, got none.")
    rows.append([*found.ids, *([] if end is None else [end])])
    prompts.append(prompt)
  return _padded(rows, prompts, max_length, numbers)


def encode_documents(
  tokenizer: Tokenizer,
  documents: Sequence[str],
  *,
  max_length: int,
  end: int | None = None,
) -> tuple[Text, jnp.ndarray]:
  """Documents in pieces of at most max_length tokens.

  A piece begins with the last token of the one before, so that every token of
  a document but its first counts once.

  Args:
    tokenizer: of the package `tokenizers`.
    documents: D strings.
    max_length: L >= 2.
    end: None, or a token that is put after each document and counts.

  Returns:
    `Text` [N, L] of prompt 1, and int32 [N], the document of each piece.

  Raises:
    ValueError: no documents; one of less than two tokens; max_length < 2.

  Example:
    >>> from jaxunlearn.language import rows
    >>> tokenizer = rows.train_bpe(["abcde"], vocab_size=258)  # Bytes alone.
    >>> documents = ["abcde", "ab"]
    >>> x, document = rows.encode_documents(tokenizer, documents, max_length=3)
    >>> document.tolist(), x.length.tolist()
    ([0, 0, 1], [3, 3, 2])
    >>> rows.answers_of(tokenizer, x)  # Each letter but the first counts once.
    ['bc', 'de', 'b']
  """
  checks.count(2, max_length=max_length)
  if not len(documents):
    raise ValueError("Expected at least one document, got none.")
  rows, owner = [], []
  for i, found in enumerate(_encoded(tokenizer, documents)):
    tokens = [*found.ids, *([] if end is None else [end])]
    if len(tokens) < 2:
      raise ValueError(
        f"Expected document {i} to have two tokens or more, got {len(tokens)}."
      )
    for begin in range(0, len(tokens) - 1, max_length - 1):
      rows.append(tokens[begin : begin + max_length])
      owner.append(i)
  text = _padded(rows, [1] * len(rows), max_length, range(len(rows)))
  return text, jnp.asarray(owner, jnp.int32)


def train_bpe(
  texts: Iterable[str],
  vocab_size: int,
  *,
  special: Sequence[str] = ("<pad>", "<end>"),
) -> Tokenizer:
  """Byte pairs learned from texts; it has seen all of them, so say so.

  Args:
    texts: strings.
    vocab_size: tokens at most; at least 256 bytes and the special ones.
    special: take the first numbers, 0, 1, ...

  Raises:
    ValueError: a vocabulary that the bytes do not fit into; without the package
      `tokenizers`, an ImportError.

  Example:
    >>> from jaxunlearn.language import rows
    >>> tokenizer = rows.train_bpe(["the cat", "the hat"] * 9, vocab_size=262)
    >>> tokenizer.encode("the cat").tokens
    ['the', 'Ġ', 'cat']
  """
  least = 256 + len(special)
  checks.count(1, vocab_size=vocab_size)
  if vocab_size < least:
    raise ValueError(
      f"Expected vocab_size >= {least}, the bytes and special tokens, got "
      f"vocab_size={vocab_size}."
    )
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=list(special),
    initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  made.train_from_iterator(texts, trainer)
  return made


def decode(tokenizer: Tokenizer, said: Generated) -> list[str]:
  """What was generated, as strings.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language import Generated, rows
    >>> tokenizer = rows.train_bpe(["Ada"], vocab_size=258)  # Bytes alone.
    >>> tokens = jnp.array([tokenizer.encode("Ada!").ids])
    >>> rows.decode(tokenizer, Generated(tokens, jnp.array([3]), jnp.zeros(1)))
    ['Ada']
  """
  tokens, length = np.asarray(said.tokens), np.asarray(said.length)
  return tokenizer.decode_batch(
    [row[:n].tolist() for row, n in zip(tokens, length)]
  )


def answers_of(tokenizer: Tokenizer, x: Text) -> list[str]:
  """The counted part of each row, as strings.

  Example:
    >>> from jaxunlearn.language import rows
    >>> tokenizer = rows.train_bpe(["Who? Ada."], vocab_size=258)
    >>> x = rows.encode_pairs(tokenizer, ["Who?"], ["Ada."], max_length=40)
    >>> rows.answers_of(tokenizer, x)
    ['Ada.']
  """
  tokens, length, prompt = map(np.asarray, x)
  return tokenizer.decode_batch(
    [row[p:n].tolist() for row, p, n in zip(tokens, prompt, length)]
  )


def _parts(template: str) -> tuple[str, str, str]:
  before, question, rest = template.partition("{question}")
  between, answer, after = rest.partition("{answer}")
  if not (question and answer):
    raise ValueError(
      "Expected template to have {question} and then {answer}, got "
      f"{template!r}."
    )
  return before, between, after


def _encoded(tokenizer: Any, texts: Sequence[str]) -> Any:
  if not hasattr(tokenizer, "encode_batch"):
    raise ValueError(
      "Expected a tokenizer of the package tokenizers, got "
      f"{type(tokenizer).__name__}."
    )
  if tokenizer.truncation or tokenizer.padding:
    # Some files ask for them: rows would be cut, and padding be answers. A copy,
    # as the tokenizer is saved with what it came with.
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
  return tokenizer.encode_batch(list(texts))


def _padded(
  rows: Sequence[Sequence[int]],
  prompts: Sequence[int],
  max_length: int,
  numbers: Sequence[int],
) -> Text:
  lengths = np.asarray([len(row) for row in rows], np.int32)
  if lengths.max() > max_length:
    raise ValueError(
      f"Expected rows of at most max_length={max_length} tokens, got "
      f"{lengths.max()} in row {numbers[int(lengths.argmax())]}."
    )
  tokens = np.zeros((len(rows), max_length), np.int32)
  for i, row in enumerate(rows):
    tokens[i, : len(row)] = row
  prompt = np.asarray(prompts, np.int32)
  return Text(jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(prompt))
