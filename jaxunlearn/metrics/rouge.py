"""ROUGE-L, Lin (2004), of tokens on the device and of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped


def common_length(
  a: jax.Array, a_length: jax.Array, b: jax.Array, b_length: jax.Array
) -> jax.Array:
  """Length of the longest common subsequence of two token sequences.

  Args:
    a: int [S]; a_length: int [], how many of them count.
    b: int [T]; b_length: int [].

  Returns:
    int32 []; `vmap` it over rows.
  """
  a = arrays("a [...]", a)
  b = arrays("b [...]", b)
  counted = jnp.arange(b.shape[0]) < b_length

  def row(best: jax.Array, token_and_place: Any) -> tuple[jax.Array, None]:
    token, place = token_and_place
    match = (b == token) & counted & (place < a_length)
    before = jnp.concatenate([jnp.zeros(1, best.dtype), best[:-1]])
    # `best` never falls along b, so that a running maximum does for the loop.
    return jax.lax.cummax(jnp.maximum(best, before + match)), None

  start = jnp.zeros(b.shape[0], jnp.int32)
  best, _ = jax.lax.scan(row, start, (a, jnp.arange(a.shape[0])))
  return best[-1]


def rouge_l_recall(
  said: jax.Array,
  said_length: jax.Array,
  answer: jax.Array,
  answer_length: jax.Array,
) -> jax.Array:
  """ROUGE-L recall on tokens: how much of the answer was said, in its order.

  `rouge_l_of_texts` is the published score, on words with their endings cut off;
  this one runs on the device, under `vmap` over models.

  Args:
    said: int [B, S], generated tokens; said_length: int [B].
    answer: int [B, T]; answer_length: int [B].

  Returns:
    float32 [B] in [0, 1]; nan for an empty answer.

  Raises:
    ValueError: shapes that do not match.
  """
  common, length = _common(said, said_length, answer, answer_length)
  return jnp.where(length > 0, common / jnp.maximum(length, 1), jnp.nan)


def rouge_l_f1(
  said: jax.Array,
  said_length: jax.Array,
  answer: jax.Array,
  answer_length: jax.Array,
) -> jax.Array:
  """ROUGE-L F1 on tokens, as MUSE scores memory (arXiv:2407.06460).

  Args:
    said, said_length, answer, answer_length: see `rouge_l_recall`.

  Returns:
    float32 [B] in [0, 1]: the harmonic mean of the shares of either that are in
    both, in order; 0 where nothing is; nan for an empty answer.
  """
  common, length = _common(said, said_length, answer, answer_length)
  both = jnp.maximum(length + jnp.asarray(said_length), 1)
  return jnp.where(length > 0, 2 * common / both, jnp.nan)


def _common(
  said: jax.Array,
  said_length: jax.Array,
  answer: jax.Array,
  answer_length: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  wanted = "tokens [B, S], length [B], answer [B, T] and its length [B]"
  shaped(wanted, said, said_length, answer, answer_length)
  common = jax.vmap(common_length)(said, said_length, answer, answer_length)
  return common, jnp.asarray(answer_length)


def rouge_l_of_texts(
  said: Sequence[str],
  answers: Sequence[str],
  *,
  score: str = "recall",
  stems: bool = True,
) -> np.ndarray:
  """ROUGE-L of texts, by the package rouge-score; on the host.

  Args:
    said: B texts.
    answers: B texts.
    score: "recall", TOFU's; "fmeasure", MUSE's; or "precision".
    stems: whether endings are cut off words, as TOFU does and MUSE does not.

  Returns:
    float64 [B] in [0, 1].

  Raises:
    ValueError: not one answer for each text; another score.
  """
  from rouge_score.rouge_scorer import RougeScorer

  checks.one_of(("recall", "fmeasure", "precision"), score=score)
  if len(said) != len(answers):
    raise ValueError(
      f"Expected an answer for each of {len(said)} texts, got {len(answers)}."
    )
  of = RougeScorer(["rougeL"], use_stemmer=stems).score
  pairs = zip(said, answers)
  return np.array([getattr(of(a, s)["rougeL"], score) for s, a in pairs])
