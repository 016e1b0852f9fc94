"""Putting tokens, or embeddings in their place, into prompts of fixed length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion.types import Diffusion

INSERTIONS = ("prefix", "middle", "suffix")


def prompt_lengths(diffusion: Diffusion, tokens: jax.Array) -> jax.Array:
  """Tokens of each prompt [B, L] before its padding, the start included; int32.

  Padding is what the empty prompt ends with; 0 for a prompt of nothing else.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import splicing
    >>> tokens = jnp.array([[1, 3, 2, 0, 0], [1, 0, 0, 0, 0]])
    >>> splicing.prompt_lengths(toy.diffusion().model, tokens).tolist()
    [3, 1]
  """
  used = jnp.asarray(tokens) != diffusion.null_tokens[-1]
  last = tokens.shape[1] - jnp.argmax(used[:, ::-1], axis=1)
  return jnp.where(used.any(axis=1), last, 0).astype(jnp.int32)


def insertion_points(
  diffusion: Diffusion, tokens: jax.Array, insertion: str = "prefix"
) -> jax.Array:
  """Where new tokens go; int32 [B].

  Args:
    diffusion: its empty prompt says what padding is.
    tokens: int [B, L].
    insertion: static; "prefix" after the start, "suffix" before the padding,
      "middle" half-way.

  Raises:
    ValueError: another word.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import splicing
    >>> model, tokens = toy.diffusion().model, jnp.array([[1, 3, 2, 0, 0]])
    >>> splicing.insertion_points(model, tokens).tolist()
    [1]
    >>> splicing.insertion_points(model, tokens, "suffix").tolist()
    [3]
  """
  checks.one_of(INSERTIONS, insertion=insertion)
  length = prompt_lengths(diffusion, tokens)
  if insertion == "prefix":
    return jnp.minimum(length, 1)
  return length if insertion == "suffix" else (length + 1) // 2


def insert(
  sequences: jax.Array, new: jax.Array, points: jax.Array
) -> jax.Array:
  """Puts `new` into sequences, whose ends drop out: their length stays.

  Args:
    sequences: [B, L, ...], tokens [B, L] or their embeddings [B, L, E].
    new: [B, K, ...], K <= L.
    points: int [B], before which entry.

  Returns:
    [B, L, ...], dtype of `sequences`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import splicing
    >>> tokens, new = jnp.array([[1, 3, 2, 0, 0]]), jnp.array([[7, 8]])
    >>> splicing.insert(tokens, new, jnp.array([1])).tolist()
    [[1, 7, 8, 3, 2]]
  """
  length, count = sequences.shape[1], new.shape[1]
  if count == 0:
    return sequences
  new = new.astype(sequences.dtype)

  def one(sequence, piece, point):
    place = jnp.arange(length) - point
    moved = sequence[jnp.where(place < 0, jnp.arange(length), 0)]
    later = sequence[jnp.maximum(jnp.arange(length) - count, 0)]
    inside = piece[jnp.clip(place, 0, count - 1)]
    side = (length,) + (1,) * (sequence.ndim - 1)
    out = jnp.where((place < 0).reshape(side), moved, later)
    return jnp.where(
      ((place >= 0) & (place < count)).reshape(side), inside, out
    )

  return jax.vmap(one)(sequences, new, points)


def encode_with(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  new: jax.Array,
  points: jax.Array,
) -> jax.Array:
  """The context of prompts with embeddings put in.

  Args:
    diffusion: the model.
    params: its params.
    tokens: int [B, L].
    new: [B, K, E], K <= L.
    points: int [B], see `insert`.

  Returns:
    [B, L, D].

  Raises:
    ValueError: as `embedders`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import splicing
    >>> model, (params, *_), *_ = toy.diffusion()
    >>> seven = model.embed(params, jnp.array([[7]]))
    >>> context = splicing.encode_with(
    ...   model, params, jnp.array([[1, 2, 0, 0, 0]]), seven, jnp.array([1])
    ... )
    >>> wanted = model.encode(params, jnp.array([[1, 7, 2, 0, 0]]))
    >>> context.shape, float(abs(context - wanted).max())
    ((1, 5, 4), 0.0)
  """
  embed, encode = embedders(diffusion)
  return encode(params, insert(embed(params, tokens), new, points))


def check_room(
  diffusion: Diffusion, tokens: Any, count: int, name: str = "tokens"
) -> None:
  """New tokens take the place of padding only.

  A model whose padding marks the end of a prompt, as Stable Diffusion's does,
  should have one left; here that is the caller's to see to.

  Raises:
    ValueError: a prompt (looked at outside jit) has no room for so many.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import splicing
    >>> splicing.check_room(toy.diffusion().model, [[1, 3, 2, 0, 0]], 2)
    >>> splicing.check_room(toy.diffusion().model, [[1, 3, 2, 0, 0]], 3)
    Traceback (most recent call last):
      ...
    ValueError: Expected tokens with padding for num_tokens=3 more, got a
    prompt with 2.
  """
  checks.non_negative(num_tokens=count)
  room = diffusion.length
  if checks.is_concrete(tokens) and checks.is_concrete(diffusion.null_tokens):
    with jax.ensure_compile_time_eval():
      used = prompt_lengths(diffusion, jnp.asarray(tokens))
      room -= int(np.asarray(used).max(initial=0))
  if count > room:
    raise ValueError(
      f"Expected {name} with padding for num_tokens={count} more, got a prompt "
      f"with {room}."
    )


def embedders(
  diffusion: Diffusion,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  """`embed` and `encode_embeddings` of a model that has them.

  Raises:
    ValueError: it has not, or does not say how many tokens there are.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import splicing
    >>> splicing.embedders(toy.diffusion().model._replace(embed=None))
    Traceback (most recent call last):
      ...
    ValueError: Expected diffusion.embed to be set, got None.
  """
  for name in ("embed", "encode_embeddings", "vocab_size"):
    if getattr(diffusion, name) is None:
      raise ValueError(f"Expected diffusion.{name} to be set, got None.")
  embed, encode = diffusion.embed, diffusion.encode_embeddings
  return embed, encode  # type: ignore[return-value]


def embedding_table(diffusion: Diffusion, params: PyTree) -> jax.Array:
  """The embedding of every token, [V, E].

  Raises:
    ValueError: as `embedders`.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import splicing
    >>> problem = toy.diffusion()
    >>> params = problem.variables.params
    >>> splicing.embedding_table(problem.model, params).shape
    (8, 4)
  """
  embed, _ = embedders(diffusion)
  size, length = int(diffusion.vocab_size or 0), diffusion.length
  # In rows of a prompt's length, which is all that some encoders take.
  rows = -(-size // length)
  every = jnp.arange(rows * length, dtype=jnp.int32) % size
  table = embed(params, every.reshape(rows, length))
  return table.reshape(rows * length, -1)[:size]
