"""Names of subjects as they stand in sentences: requests of ROCR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

TEMPLATES = (
  "{}",
  "Please answer the question about {}",
  "Choose the best answer about {}",
  "Write the answer about {}",
  "Tell me about {}",
  "Write something about {}",
)


class Subjects(NamedTuple):
  """Names to be redirected, in turn: the concept of a request.

  Attributes:
    tokens: int32 [R, 1 + P, L], the bare name and then in templates.
    last: int32 [R, 1 + P], the place of the name's last token.
    target: int32 [L], another name, that they are redirected to.
    target_last: int32 [].
  """

  tokens: jax.Array
  last: jax.Array
  target: jax.Array
  target_last: jax.Array


def subjects(
  tokenizer: Any,
  names: Sequence[str],
  target: str,
  *,
  max_length: int = 24,
  templates: Sequence[str] = TEMPLATES,
  prefix: str = "",
) -> Subjects:
  """Names as they stand in templates; on the host.

  Args:
    tokenizer: of the package `tokenizers`.
    names: to be redirected.
    target: the name that they are redirected to.
    max_length: L.
    templates: with {} for the name; the first is the bare name.
    prefix: goes before each. The released code has the chat format there, a token
      of a beginning first: without it a bare name is the text's first token, whose
      state is none of a name in a sentence; and without a space before it the name
      may be other tokens than there.

  Raises:
    ValueError: no names; a text that does not fit; a template without a place.

  Example:
    >>> from jaxunlearn import language
    >>> from jaxunlearn.language import rows
    >>> tokenizer = rows.train_bpe(["Tell me about Ada."], vocab_size=258)
    >>> found = language.subjects(
    ...   tokenizer, ["Ada"], "Bob", templates=["{}", "Tell me about {}"]
    ... )
    >>> found.tokens.shape, found.last.tolist()  # Bytes: "a" is the third.
    ((1, 3, 24), [[2, 2, 16]])
  """
  if not names or isinstance(names, str):
    raise ValueError(f"Expected a list of names, got {names!r}.")
  if any("{}" not in t for t in templates):
    raise ValueError("Expected templates with {} for the name.")

  def place(template: str, name: str) -> tuple[np.ndarray, int]:
    begin = len(prefix) + template.index("{}")
    found = tokenizer.encode(prefix + template.replace("{}", name))
    ends = np.asarray([stop for _, stop in found.offsets])
    if len(found.ids) > max_length:
      raise ValueError(
        f"Expected texts of at most max_length={max_length} tokens, got "
        f"{len(found.ids)} for {name!r}."
      )
    row = np.zeros(max_length, np.int32)
    row[: len(found.ids)] = found.ids
    return row, int((ends >= begin + len(name)).argmax())

  every = [[place(t, name) for t in ("{}.", *templates)] for name in names]
  tokens = np.array([[row for row, _ in each] for each in every], np.int32)
  last = np.array([[at for _, at in each] for each in every], np.int32)
  goal, goal_last = place(templates[0], target)
  return Subjects(tokens, last, goal, np.int32(goal_last))  # type: ignore[arg-type]
