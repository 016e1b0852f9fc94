"""A corpus that the model writes itself, where none of the entity is at hand.

Class: no method by itself; what GA, NPO, DPO or refusals then train on.
Model state: none. Data access: none but the beginnings of the texts.
Source: RWKU, Jin et al. (2024), arXiv:2406.10890: sampled biographies, of which
each begins with one of some fixed words; temperature 1, top-p 0.9, 512 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import Variables
from jaxunlearn.language.generation import generate
from jaxunlearn.language.types import LanguageModel, Text

Piece = tuple[jax.Array, jax.Array]  # Tokens [N, S], and how many of them, [N].


def own_words(
  lm: LanguageModel,
  variables: Variables,
  starts: Text,
  key: jax.Array,
  *,
  max_new: int,
  temperature: float | jax.Array = 1.0,
  top_p: float | jax.Array = 0.9,
  stop: int | None = None,
) -> Text:
  """What a model says of its own accord, as rows to train on.

  Args:
    lm: the model.
    variables: its values.
    starts: [N, L], what it is asked and how its text begins; tokens behind
      `prompt` are not looked at.
    key: typed PRNG key.
    max_new: static; tokens to say at most.
    temperature: see `generate`.
    top_p: see `generate`.
    stop: a token that ends a text; it is put behind it, so that ends count.

  Returns:
    `Text` [N, L + max_new], of which what was said counts; a text of which
    nothing was said has no counted token.

  Raises:
    ValueError: see `generate`.

  Example:
    >>> import functools
    >>> import jax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> starts = jax.tree.map(lambda leaf: leaf[:2], problem.data["x"])
    >>> say = functools.partial(
    ...   language.own_words, problem.model, max_new=2, temperature=0.1
    ... )
    >>> x = jax.jit(say)(problem.variables, starts, problem.key)
    >>> x.tokens[:, :4].tolist(), x.length.tolist()
    ([[1, 4, 12, 20], [1, 5, 13, 21]], [4, 4])
  """
  said = generate(
    lm,
    variables,
    starts,
    key,
    max_new=max_new,
    temperature=temperature,
    top_p=top_p,
    stop=stop,
  )
  ended = (said.length < max_new) & (stop is not None)
  end = jnp.full((said.length.shape[0], 1), 0 if stop is None else stop)
  return spliced(
    [(starts.tokens, starts.prompt)],
    [(said.tokens, said.length), (end, ended.astype(jnp.int32))],
  )


def spliced(prompt: Sequence[Piece], answer: Sequence[Piece]) -> Text:
  """Rows of pieces one behind the other, without the padding between them.

  Args:
    prompt: pieces (tokens int [N, S], how many of them [N]) that are asked.
    answer: likewise, those that count.

  Returns:
    `Text` [N, L], L the sum of all widths.

  Raises:
    ValueError: no pieces of either kind, or not as many rows in each.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> asked = jnp.array([[5, 6, 0], [7, 0, 0]]), jnp.array([2, 1])
    >>> said = jnp.array([[8, 9], [8, 0]]), jnp.array([2, 1])
    >>> x = language.spliced([asked], [said])
    >>> x.tokens.tolist(), x.length.tolist(), x.prompt.tolist()
    ([[5, 6, 8, 9, 0], [7, 8, 0, 0, 0]], [4, 2], [2, 1])
  """
  pieces = [*prompt, *answer]
  rows = {jnp.shape(leaf)[:1] for piece in pieces for leaf in piece}
  if not prompt or not answer or len(rows) != 1:
    raise ValueError(
      "Expected pieces of prompts and of answers, of as many rows each, got "
      f"{len(prompt)} and {len(answer)}, of rows {sorted(rows)}."
    )
  width = sum(tokens.shape[1] for tokens, _ in pieces)

  def one(row: Sequence[Piece]) -> tuple[jax.Array, jax.Array]:
    made, used = jnp.zeros(width, jnp.int32), jnp.zeros((), jnp.int32)
    for tokens, length in row:
      place = jnp.arange(tokens.shape[0])
      put = jnp.where(place < length, used + place, width)
      made = made.at[put].set(tokens, mode="drop")
      used = used + length
    return made, used

  tokens, length = jax.vmap(one)(pieces)
  asked = sum(length for _, length in prompt)
  return Text(tokens, length, jnp.asarray(asked, jnp.int32))
