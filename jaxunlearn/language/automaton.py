"""Phrases that a model must not say, as a guide of generation.

A row's state is what it said last. A phrase whose beginning stands there has its
last token forbidden, so none is ever said, whatever else is. Phrases are an
array: others of the same shape compile nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.language.generation import Guide


def forbid(
  phrases: jax.Array, vocab_size: int, rows: jax.Array | None = None
) -> Guide:
  """A `Guide` that keeps phrases from being said.

  Only what is generated is looked at: a phrase that begins in the prompt may be
  ended. A phrase is its tokens; another spelling is another phrase.

  Args:
    phrases: int [P, K], a phrase a row, padded on the right by -1; a row of
      padding alone forbids nothing. May be traced.
    vocab_size: static; V.
    rows: None, or bool [B], the prompts that are guarded; the others are
      generated as without a guide, to the bit.

  Raises:
    ValueError: phrases of another shape; (concrete) a token outside -1 .. V - 1.
  """
  checks.count(1, vocab_size=vocab_size)
  phrases = jnp.asarray(phrases)
  if phrases.ndim != 2 or not jnp.issubdtype(phrases.dtype, jnp.integer):
    raise ValueError(
      f"Expected phrases int [P, K], got {phrases.dtype} {phrases.shape}."
    )
  checks.labels(jnp.where(phrases < 0, 0, phrases), vocab_size, "phrases")
  num, size = phrases.shape
  length = (phrases >= 0).sum(axis=1)
  ends = jnp.take_along_axis(
    phrases, jnp.maximum(length - 1, 0)[:, None], axis=1
  )[:, 0]
  ends = jnp.where(length > 0, ends, vocab_size)  # Dropped when it is set.
  # What must have been said before the last token, aligned on the right.
  place = jnp.arange(size - 1)[None] + (length - size)[:, None]
  begins = jnp.take_along_axis(phrases, jnp.maximum(place, 0), axis=1)
  is_any = place < 0

  def start(batch: int) -> tuple[jax.Array, jax.Array]:
    said = jnp.full((batch, size - 1), -1, jnp.int32)
    if rows is None:
      return said, jnp.ones(batch, bool)
    return said, jnp.repeat(rows, batch // rows.shape[0])

  def step(
    state: tuple[jax.Array, jax.Array], token: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    said, guarded = state
    said = jnp.concatenate([said, token[:, None].astype(said.dtype)], axis=1)
    return said[:, 1:], guarded

  def scores(state: tuple[jax.Array, jax.Array]) -> jax.Array:
    said, guarded = state
    fits = is_any[None] | (said[:, None] == begins[None])
    caught = fits.all(axis=-1) & guarded[:, None]
    free = jnp.zeros((said.shape[0], vocab_size), jnp.float32)
    cost = jnp.where(caught, -jnp.inf, 0.0)
    every = jnp.broadcast_to(ends[None], (said.shape[0], num))
    return jax.vmap(lambda f, e, c: f.at[e].min(c, mode="drop"))(
      free, every, cost
    )

  return Guide(start, step, scores)
