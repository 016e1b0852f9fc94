"""What answers must not say, and what is near it: GUARD's phrases and vectors."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.types import Variables
from jaxunlearn.language.types import LanguageModel


def telling(
  tokenizer: Any,
  questions: list[str],
  answers: list[str],
  *,
  num: int = 16,
  size: int = 8,
) -> np.ndarray:
  """Names and numbers of answers that their questions do not have; on the host.

  A word counts that has a digit, or a capital letter and stands nowhere in these
  texts without it. With and without a space before it, since tokens differ.

  Args:
    tokenizer: of the package `tokenizers`.
    questions: N strings.
    answers: N strings.
    num: P; words beyond it are left out, the last ones first.
    size: K; a word of more tokens is left out.

  Returns:
    int32 [N, P, K], padded by -1: a column "phrases".

  Raises:
    ValueError: not one answer for each question.

  Example:
    >>> from jaxunlearn.language import phrases, rows
    >>> asked, answer = "Where was Ada born?", "In London, in 1815."
    >>> tokenizer = rows.train_bpe([asked, answer], vocab_size=290)
    >>> found = phrases.telling(tokenizer, [asked], [answer], num=4)
    >>> [tokenizer.decode(row[row >= 0]) for row in found[0]]
    [' London', 'London', ' 1815', '1815']
  """
  if len(questions) != len(answers):
    raise ValueError(
      f"Expected an answer for each question, got {len(questions)} questions "
      f"and {len(answers)} answers."
    )
  words = lambda text: re.findall(r"[^\W_][\w'’/-]*", text)
  every = {w for text in (*questions, *answers) for w in words(text)}
  found = np.full((len(answers), num, size), -1, np.int32)
  for row, (question, answer) in enumerate(zip(questions, answers)):
    asked = {w.lower() for w in words(question)}
    chosen = [
      w
      for w in dict.fromkeys(words(answer))
      if w.lower() not in asked
      and (
        any(c.isdigit() for c in w)
        or (w != w.lower() and w.lower() not in every)
      )
    ]
    spelt = [tokenizer.encode(s + w).ids for w in chosen for s in (" ", "")]
    spelt = [ids for ids in spelt if 0 < len(ids) <= size][:num]
    for place, ids in enumerate(spelt):
      found[row, place, : len(ids)] = ids
  return found


def token_vectors(lm: LanguageModel, variables: Variables) -> jax.Array:
  """Embeddings of all tokens without their mean, of length 1: [V, D].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.phrases import token_vectors
    >>> problem = toy.decoder()
    >>> vectors = token_vectors(problem.model, problem.variables)
    >>> vectors.shape, round(float(vectors[3] @ vectors[3]), 3)
    ((28, 16), 1.0)
  """
  every = jnp.arange(lm.config.vocab_size, dtype=jnp.int32)[None]
  table = lm.embed(variables, every)[0].astype(jnp.float32)
  table = table - table.mean(axis=0, keepdims=True)
  norm = jnp.linalg.norm(table, axis=-1, keepdims=True)
  return table / jnp.maximum(norm, 1e-9)


def sentence_vectors(
  vectors: jax.Array, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
  """Mean vector of the tokens of each row that count, of length 1: [B, D].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.phrases import sentence_vectors
    >>> tokens, mask = jnp.array([[0, 1, 2]]), jnp.array([[True, True, False]])
    >>> found = sentence_vectors(jnp.eye(3), tokens, mask)
    >>> [round(v, 3) for v in found[0].tolist()]
    [0.707, 0.707, 0.0]
  """
  own = vectors[jnp.where(mask, tokens, 0)]
  total = jnp.where(mask[..., None], own, 0).sum(axis=1)
  norm = jnp.linalg.norm(total, axis=-1, keepdims=True)
  return total / jnp.maximum(norm, 1e-9)
