"""Phrases that a model must not say, or come near, as guides of generation.

A row's state is what it said last. A phrase whose beginning stands there has its
last token forbidden, so none is ever said, whatever else is. Phrases are an
array: others of the same shape compile nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.language.generation import Guide

Scalar = float | jax.Array


class _Heard(NamedTuple):
  """Of each row: what it said last, which phrases are its own, if guarded."""

  said: jax.Array  # int32 [R, S], -1 before anything is.
  which: jax.Array  # int32 [R]
  guarded: jax.Array  # bool [R]


def forbid(
  phrases: jax.Array, vocab_size: int, rows: jax.Array | None = None
) -> Guide:
  """A `Guide` that keeps phrases from being said.

  Only what is generated is looked at: a phrase that begins in the prompt may be
  ended. A phrase is its tokens; another spelling is another phrase.

  Args:
    phrases: int [P, K], a phrase a row, padded on the right by -1; a row of
      padding alone forbids nothing. Or int [B, P, K], those of each prompt. May
      be traced.
    vocab_size: static; V.
    rows: None, or bool [B], the prompts that are guarded; the others are
      generated as without a guide, to the bit.

  Raises:
    ValueError: phrases of another shape; (concrete) a token outside -1 .. V - 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> guide = language.forbid(jnp.array([[2, 3]]), vocab_size=5)
    >>> state = guide.step(guide.start(1), jnp.array([2]))
    >>> guide.scores(state).tolist()  # After 2 there may be no 3.
    [[0.0, 0.0, 0.0, -inf, 0.0]]
  """
  checks.count(1, vocab_size=vocab_size)
  phrases = _sets(phrases, vocab_size)
  size = phrases.shape[-1]
  length = (phrases >= 0).sum(axis=-1)
  last = jnp.maximum(length - 1, 0)[..., None]
  ends = jnp.take_along_axis(phrases, last, axis=-1)[..., 0]
  ends = jnp.where(length > 0, ends, vocab_size)  # Dropped when it is set.
  # What must have been said before the last token, aligned on the right.
  place = jnp.arange(size - 1)[None, None] + (length - size)[..., None]
  begins = jnp.take_along_axis(phrases, jnp.maximum(place, 0), axis=-1)
  is_any = place < 0

  def scores(state: _Heard) -> jax.Array:
    own = lambda leaf: leaf[state.which]
    fits = own(is_any) | (state.said[:, None] == own(begins))
    caught = fits.all(axis=-1) & state.guarded[:, None]
    free = jnp.zeros((state.said.shape[0], vocab_size), jnp.float32)
    cost = jnp.where(caught, -jnp.inf, 0.0)
    return jax.vmap(lambda f, e, c: f.at[e].min(c, mode="drop"))(
      free, own(ends), cost
    )

  return _guide(phrases.shape[0], size - 1, rows, scores)


def avoid(
  phrases: jax.Array,
  vectors: jax.Array,
  *,
  penalty: Scalar,
  similarity: Scalar,
  span: int = 3,
  rows: jax.Array | None = None,
) -> Guide:
  """A `Guide` that makes what is near a phrase cost something.

  A token costs `penalty` where the mean vector of the last `span` tokens, itself
  included, has a cosine above `similarity` with that of a phrase.

  Args:
    phrases: see `forbid`.
    vectors: float [V, D], of the tokens; of length 1.
    penalty: >= 0, nats; inf forbids. May be traced.
    similarity: above 1 nothing is avoided. May be traced.
    span: static, >= 1.
    rows: see `forbid`.

  Raises:
    ValueError: see `forbid`; penalty < 0, span < 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.automaton import avoid
    >>> vectors = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> phrase = jnp.array([[0]])
    >>> guide = avoid(phrase, vectors, penalty=4.0, similarity=0.7, span=1)
    >>> guide.scores(guide.start(1)).tolist()  # Cosines are 1, 0.8 and 0.
    [[-4.0, -4.0, 0.0]]
  """
  checks.non_negative(penalty=penalty)
  checks.count(1, span=span)
  vocab_size = vectors.shape[0]
  phrases = _sets(phrases, vocab_size)
  there = phrases >= 0
  total = jnp.where(there[..., None], vectors[jnp.maximum(phrases, 0)], 0).sum(
    axis=-2
  )
  unit = total / jnp.maximum(jnp.linalg.norm(total, axis=-1), 1e-9)[..., None]
  of_token = jnp.einsum("qpd,vd->qpv", unit, vectors)
  square = (vectors**2).sum(axis=-1)

  def scores(state: _Heard) -> jax.Array:
    said = state.said[..., None]
    before = jnp.where(said >= 0, vectors[state.said], 0).sum(axis=1)
    of_span = jnp.einsum("rd,rpd->rp", before, unit[state.which])
    long = (before**2).sum(axis=-1, keepdims=True) + square[None]
    long = jnp.sqrt(jnp.maximum(long + 2 * before @ vectors.T, 1e-18))
    cosine = of_span[..., None] + of_token[state.which]
    near = cosine > similarity * long[:, None]
    near &= there.any(axis=-1)[state.which][..., None]
    near = near.any(axis=1) & state.guarded[:, None]
    return jnp.where(near, -jnp.asarray(penalty, jnp.float32), 0.0)

  return _guide(phrases.shape[0], span - 1, rows, scores)


def both(one: Guide, other: Guide, free: jax.Array | None = None) -> Guide:
  """The costs of two guides together.

  Args:
    one: a guide.
    other: another.
    free: None, or int [S], tokens that never cost anything: what ends a text is
      then what is left where all else is forbidden.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.automaton import both, forbid
    >>> one, other = (forbid(jnp.array([[t]]), vocab_size=4) for t in (1, 3))
    >>> guide = both(one, other, free=jnp.array([3]))
    >>> guide.scores(guide.start(1)).tolist()
    [[0.0, -inf, 0.0, 0.0]]
  """

  def scores(state: Any) -> jax.Array:
    cost = one.scores(state[0]) + other.scores(state[1])
    return cost if free is None else cost.at[:, free].set(0.0, mode="drop")

  return Guide(
    lambda batch: (one.start(batch), other.start(batch)),
    lambda s, token: (one.step(s[0], token), other.step(s[1], token)),
    scores,
  )


def _guide(sets: int, size: int, rows: jax.Array | None, scores: Any) -> Guide:
  """A guide by the last `size` tokens; the prompts have `sets` of phrases."""

  def start(batch: int) -> _Heard:
    said = jnp.full((batch, size), -1, jnp.int32)
    which = jnp.repeat(jnp.arange(sets), batch // sets)
    if rows is None:
      return _Heard(said, which, jnp.ones(batch, bool))
    return _Heard(said, which, jnp.repeat(rows, batch // rows.shape[0]))

  def step(state: _Heard, token: jax.Array) -> _Heard:
    token = token[:, None].astype(jnp.int32)
    said = jnp.concatenate([state.said, token], axis=1)[:, 1:]
    return state._replace(said=said)

  return Guide(start, step, scores)


def _sets(phrases: jax.Array, vocab_size: int) -> jax.Array:
  """Phrases as [1 or B, P, K]."""
  phrases = arrays("phrases int [P, K] or [N, P, K]", phrases)
  checks.labels(jnp.where(phrases < 0, 0, phrases), vocab_size, "phrases")
  return phrases if phrases.ndim == 3 else phrases[None]
