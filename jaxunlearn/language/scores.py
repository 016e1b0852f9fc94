"""What a model makes of each token; the head in chunks of positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.types import Losses, Variables
from jaxunlearn.language.types import (
  LanguageModel,
  Text,
  TokenScores,
  check_text,
  counted,
)


def token_scores(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  *,
  chunk: int | None = None,
) -> TokenScores:
  """Log p of each counted token and whether it is the likeliest.

  Args:
    lm: the model.
    variables: its values.
    x: the texts, [B, L].
    chunk: static; how many positions at a time the head is put on, so that
      logits take [B, chunk, V]; `lm.chunk` by default, and all if that is None.

  Returns:
    `TokenScores`, float32 [B, L - 1]. What is not used of it is not computed
    under jit. A token outside the vocabulary gives nan.

  Raises:
    ValueError: see `check_text`; chunk < 1.
  """
  check_text(x, lm.config)
  hidden = lm.blocks(variables, lm.embed(variables, x.tokens)).hidden
  return score_hidden(lm, variables, hidden, x, chunk=chunk)


def score_hidden(
  lm: LanguageModel,
  variables: Variables,
  hidden: jax.Array,
  x: Text,
  *,
  chunk: int | None = None,
) -> TokenScores:
  """`token_scores` from the output [B, L, D] of the last block."""
  chunk = lm.chunk if chunk is None else chunk
  mask, targets = counted(x), x.tokens[:, 1:]
  hidden = hidden[:, :-1]

  def score(part: tuple[jax.Array, ...]) -> TokenScores:
    states, tokens, mask = part
    return _score(lm.logits(variables, states), tokens, mask)

  num = targets.shape[1]
  if chunk is None or chunk >= num:
    if chunk is not None:
      checks.count(1, chunk=chunk)
    return score((hidden, targets, mask))
  checks.count(1, chunk=chunk)
  rest = -num % chunk

  def split(leaf: jax.Array) -> jax.Array:
    padding = [(0, 0), (0, rest), *[(0, 0)] * (leaf.ndim - 2)]
    leaf = jnp.pad(leaf, padding)
    leaf = leaf.reshape(leaf.shape[0], -1, chunk, *leaf.shape[2:])
    return leaf.swapaxes(0, 1)

  parts = jax.lax.map(
    jax.checkpoint(score), jax.tree.map(split, (hidden, targets, mask))
  )
  join = lambda leaf: leaf.swapaxes(0, 1).reshape(leaf.shape[1], -1)[:, :num]
  return TokenScores(*map(join, parts))


def token_nll(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  weight: jax.Array | None = None,
  *,
  chunk: int | None = None,
) -> Losses:
  """Per row the sum of -log p over its counted tokens, and their number.

  A phase that reduces it gives the mean over tokens, not over rows.

  Args:
    lm, variables, x, chunk: see `token_scores`.
    weight: None, or float [B, L], how much each token counts.
  """
  scores = token_scores(lm, variables, x, chunk=chunk)
  return summed(-scores.log_prob, scores.mask, weight)


def summed(
  values: jax.Array, mask: jax.Array, weight: jax.Array | None = None
) -> Losses:
  """Sums [B] of values [B, L - 1] where they count, and of their weights.

  Args:
    values: one for each token but the first.
    mask: bool [B, L - 1].
    weight: None, or float [B, L], of every token.

  Raises:
    ValueError: a weight of another shape.
  """
  share = mask.astype(values.dtype)
  if weight is not None:
    wanted = (mask.shape[0], mask.shape[1] + 1)
    if weight.shape != wanted:
      raise ValueError(
        f"Expected token_weight of shape {wanted}, got {weight.shape}."
      )
    share = jnp.where(mask, weight[:, 1:].astype(values.dtype), 0)
  total = jnp.where(share != 0, values * share, 0).sum(axis=-1)
  return Losses(total, share.sum(axis=-1))


def _score(
  logits: jax.Array, targets: jax.Array, mask: jax.Array
) -> TokenScores:
  """Scores of tokens [B, T] from their logits [B, T, V]."""
  size = logits.shape[-1]
  known = (targets >= 0) & (targets < size)
  safe = jnp.where(mask & known, targets, 0)
  log_p = jax.nn.log_softmax(logits)
  own = jnp.take_along_axis(log_p, safe[..., None], axis=-1)[..., 0]
  own = jnp.where(known, own, jnp.nan)
  is_top = logits.argmax(axis=-1) == safe
  p = jnp.exp(log_p)
  finite = jnp.where(p > 0, log_p, 0)
  mean = (p * finite).sum(axis=-1)
  # Of centred values: the difference of squares has no digits in float32.
  variance = (p * (finite - mean[..., None]) ** 2).sum(axis=-1)
  show = lambda values: jnp.where(mask, values, 0)
  return TokenScores(
    show(own),
    show(jnp.where(jnp.isnan(own), jnp.nan, is_top.astype(own.dtype))),
    mask,
    show(mean),
    show(jnp.sqrt(variance)),
  )
