"""What a model makes of each token; the head in chunks of positions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import Losses, Variables
from jaxunlearn.language.types import (
  LanguageModel,
  Text,
  TokenScores,
  bound,
  check_text,
  counted,
)

_LEAST = float(np.log(1e-12))


@renamed(chunk_size="chunk")
def token_scores(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  *,
  chunk_size: int | None = None,
) -> TokenScores:
  """Log p of each counted token and whether it is the likeliest.

  Args:
    lm: the model.
    variables: its values.
    x: the texts, [B, L].
    chunk_size: static; how many positions at a time the head is put on, so that
      logits take [B, chunk_size, V]; `lm.chunk_size` by default, and all if that is None.

  Returns:
    `TokenScores`, float32 [B, L - 1]. What is not used of it is not computed
    under jit. A token outside the vocabulary gives nan.

  Raises:
    ValueError: see `check_text`; chunk_size < 1.

  Example:
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> lm, variables, x = problem.model, problem.variables, problem.data["x"]
    >>> scores = language.token_scores(lm, variables, x)
    >>> scores.mask[0].tolist(), scores.is_top[0].tolist()
    ([False, True, True], [0.0, 1.0, 1.0])
    >>> scores.log_prob.shape, round(float(scores.log_prob.mean()), 2)
    ((8, 3), -0.05)
  """
  check_text(x, lm.config)
  variables = bound(lm, variables, x)
  hidden = lm.blocks(variables, lm.embed(variables, x.tokens)).hidden
  return score_hidden(lm, variables, hidden, x, chunk_size=chunk_size)


def score_hidden(
  lm: LanguageModel,
  variables: Variables,
  hidden: jax.Array,
  x: Text,
  *,
  chunk_size: int | None = None,
) -> TokenScores:
  """`token_scores` from the output [B, L, D] of the last block.

  Under a guide the probabilities are those that are left, made to add up to one.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.scores import score_hidden
    >>> problem = toy.decoder()
    >>> lm, variables, x = problem.model, problem.variables, problem.data["x"]
    >>> hidden = lm.blocks(variables, lm.embed(variables, x.tokens)).hidden
    >>> score_hidden(lm, variables, hidden, x).is_top[0].tolist()
    [0.0, 1.0, 1.0]
  """
  chunk_size = lm.chunk_size if chunk_size is None else chunk_size
  mask, targets = counted(x), x.tokens[:, 1:]
  hidden = hidden[:, :-1]
  guide = None if lm.guide is None else lm.guide(variables)
  told = None if guide is None else _told(guide, x)

  def score(part: tuple[Any, ...]) -> TokenScores:
    states, tokens, mask, told = part
    logits = lm.logits(variables, states)
    if told is None:
      return _score(logits, tokens, mask)
    found = _score(logits + told, tokens, mask)
    # What is forbidden has some probability left, or one token would be all.
    own = found.log_prob
    return found._replace(log_prob=jnp.where(jnp.isneginf(own), _LEAST, own))

  num = targets.shape[1]
  if chunk_size is None or chunk_size >= num:
    if chunk_size is not None:
      checks.count(1, chunk_size=chunk_size)
    return score((hidden, targets, mask, told))
  checks.count(1, chunk_size=chunk_size)
  rest = -num % chunk_size

  def split(leaf: jax.Array) -> jax.Array:
    padding = [(0, 0), (0, rest), *[(0, 0)] * (leaf.ndim - 2)]
    leaf = jnp.pad(leaf, padding)
    leaf = leaf.reshape(leaf.shape[0], -1, chunk_size, *leaf.shape[2:])
    return leaf.swapaxes(0, 1)

  parts = jax.lax.map(
    jax.checkpoint(score), jax.tree.map(split, (hidden, targets, mask, told))
  )
  join = lambda leaf: leaf.swapaxes(0, 1).reshape(leaf.shape[1], -1)[:, :num]
  return TokenScores(*map(join, parts))


@renamed(chunk_size="chunk")
def token_nll(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  weight: jax.Array | None = None,
  *,
  chunk_size: int | None = None,
) -> Losses:
  """Per row the sum of -log p over its counted tokens, and their number.

  A phase that reduces it gives the mean over tokens, not over rows.

  Args:
    lm, variables, x, chunk_size: see `token_scores`.
    weight: None, or float [B, L], how much each token counts.

  Example:
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> lm, variables, x = problem.model, problem.variables, problem.data["x"]
    >>> out = language.token_nll(lm, variables, x)
    >>> round(float(out.value.sum() / out.weight.sum()), 2)  # Nats a token.
    0.08
  """
  scores = token_scores(lm, variables, x, chunk_size=chunk_size)
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

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.scores import summed
    >>> values = jnp.array([[9.0, 1.0, 2.0]])  # Of the tokens 1, 2 and 3.
    >>> mask = jnp.array([[False, True, True]])
    >>> out = summed(values, mask, weight=jnp.array([[1.0, 1.0, 1.0, 0.5]]))
    >>> out.value.tolist(), out.weight.tolist()
    ([2.0], [1.5])
  """
  share = mask.astype(values.dtype)
  if weight is not None:
    wanted = (mask.shape[0], mask.shape[1] + 1)
    shaped(f"token_weight {list(wanted)}", weight)
    share = jnp.where(mask, weight[:, 1:].astype(values.dtype), 0)
  total = jnp.where(share != 0, values * share, 0).sum(axis=-1)
  return Losses(total, share.sum(axis=-1))


def _told(guide: Any, x: Text) -> jax.Array:
  """What a guide adds to the logits of tokens 1, 2, ...: [B, L - 1, V]."""

  def step(state: Any, at: Any) -> tuple[Any, jax.Array]:
    place, before = at
    say = lambda new, old: jnp.where(
      (place > x.prompt).reshape(-1, *[1] * (new.ndim - 1)), new, old
    )
    state = jax.tree.map(say, guide.step(state, before), state)
    begun = (place >= x.prompt)[:, None]
    return state, jnp.where(begun, guide.scores(state), 0)

  num, length = x.tokens.shape
  places = jnp.arange(1, length, dtype=jnp.int32)
  _, found = jax.lax.scan(
    step, guide.start(num), (places, x.tokens[:, :-1].swapaxes(0, 1))
  )
  return found.swapaxes(0, 1)


def _score(
  logits: jax.Array, targets: jax.Array, mask: jax.Array
) -> TokenScores:
  """Scores of tokens [B, T] from their logits [B, T, V]."""
  size = logits.shape[-1]
  known = (targets >= 0) & (targets < size)
  safe = jnp.where(mask & known, targets, 0)
  # As log_softmax, but without an array of all log p, and by a comparison where an
  # index would have a gradient that is scattered.
  logits = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  total = jnp.log(jnp.exp(logits).sum(axis=-1))
  token = jax.lax.broadcasted_iota(safe.dtype, logits.shape, logits.ndim - 1)
  own = jnp.where(token == safe[..., None], logits, 0).sum(axis=-1) - total
  own = jnp.where(known, own, jnp.nan)
  is_top = logits.argmax(axis=-1) == safe
  log_p = logits - total[..., None]
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
