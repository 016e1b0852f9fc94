"""What a model says after prompts of different lengths, as one program.

Prompts are padded on the right. New tokens share a slot of the cache in each
step, at the position that is the row's own; so one program serves every set of
prompts of a shape, and a row says the same whatever stands beside it.

Nucleus: Holtzman et al. (2019), arXiv:1904.09751.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.language.types import (
  Generated,
  LanguageModel,
  Text,
  bound,
  check_text,
)
from jaxunlearn.models.decoder import Cache, empty_cache


class Guide(NamedTuple):
  """What a model is told to say or not to say: forbidden phrases, a grammar.

  Attributes:
    start: `batch -> state`, a pytree of arrays [B, ...].
    step: `(state, token int32 [B]) -> state`, after a token was said.
    scores: `state -> float [B, V]`, <= 0, added to log p of the next token;
      -inf forbids it.
  """

  start: Callable[[int], PyTree]
  step: Callable[[PyTree, jax.Array], PyTree]
  scores: Callable[[PyTree], jax.Array]


class _Said(NamedTuple):
  """So far: rows [R], R = B, or [B, beams] where there are beams."""

  tokens: jax.Array  # [R, max_new], 0 from length on.
  length: jax.Array
  score: jax.Array  # Sum of log p and of the guide's scores.
  done: jax.Array
  last: jax.Array  # What was said last, a stop token too.
  guide: PyTree


def generate(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  key: jax.Array,
  *,
  max_new: int,
  temperature: float | jax.Array = 0.0,
  top_p: float | jax.Array = 1.0,
  beams: int = 1,
  stop: int | Sequence[int] | None = None,
  guide: Guide | None = None,
) -> Generated:
  """Goes on after the first `prompt` tokens of each row.

  Args:
    lm: the model.
    variables: its values.
    x: texts [B, L]; what stands after a prompt is not looked at.
    key: typed PRNG key; row i draws from its own, whatever the batch.
    max_new: static; tokens to say at most.
    temperature: >= 0; 0 takes the likeliest token. May be traced.
    top_p: in (0, 1]; draws from the fewest tokens that have this share. May be
      traced.
    beams: static; of the likeliest beginnings so many are followed, and the
      likeliest text as a whole is returned, its length not made up for.
    stop: token or tokens that end a text.
    guide: None, that of the model if it has one, or a `Guide`.

  Returns:
    `Generated`. Put `jax.jit` around it; with max_new = 80 it is one program
    for all prompts of a shape, and stops when all rows have.

  Raises:
    ValueError: see `check_text`; max_new or beams < 1, a temperature < 0 or
      beside beams, a top_p outside (0, 1]; (concrete) prompts that leave no
      room for max_new tokens in the context; a stop token that is none.

  Example:
    >>> import functools
    >>> import jax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> lm, variables, x = problem.model, problem.variables, problem.data["x"]
    >>> say = functools.partial(language.generate, lm, max_new=2)
    >>> said = jax.jit(say)(variables, x, problem.key)
    >>> said.tokens[:3].tolist()  # The answers of three facts.
    [[12, 20], [13, 21], [14, 22]]
  """
  check_text(x, lm.config)
  checks.typed_key(key)
  checks.count(1, max_new=max_new, beams=beams)
  checks.non_negative(temperature=temperature)
  checks.positive(top_p=top_p)
  checks.fraction(top_p=top_p)
  if beams > 1 and not _is(temperature, 0):
    raise ValueError(
      f"Expected temperature=0 beside beams, got temperature={temperature} and "
      f"beams={beams}."
    )
  if checks.is_concrete(x.prompt) and np.size(x.prompt):
    longest = int(np.asarray(x.prompt).max()) + max_new
    if longest > lm.config.max_length:
      raise ValueError(
        "Expected prompts and max_new within max_length="
        f"{lm.config.max_length}, got {longest} tokens."
      )
  stops = jnp.asarray(() if stop is None else stop, jnp.int32).reshape(-1)
  checks.labels(stops, lm.config.vocab_size, "stop")
  variables = bound(lm, variables, x)
  if guide is None and lm.guide is not None:
    guide = lm.guide(variables)
  batch = x.tokens.shape[0]
  rows = batch * beams
  logits, cache = _prefill(lm, variables, x, max_new)
  first = jnp.repeat(x.prompt, beams)
  cache = cache._replace(
    key=jnp.repeat(cache.key, beams, axis=1),
    value=jnp.repeat(cache.value, beams, axis=1),
    position=jnp.repeat(cache.position, beams, axis=0),
  )
  number = jnp.arange(batch, dtype=jnp.uint32)
  row_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, number)
  zero = jnp.zeros(rows, jnp.int32)
  # All beams but one begin as none.
  score = jnp.where(jnp.arange(rows) % beams == 0, 0.0, -jnp.inf)
  said = _Said(
    jnp.zeros((rows, max_new), jnp.int32),
    *(zero, score, zero > 0, zero),
    guide.start(rows) if guide is not None else None,
  )

  def pick(
    step: Any, logits: jax.Array, said: _Said
  ) -> tuple[_Said, jax.Array | None]:
    log_p = jax.nn.log_softmax(logits)
    if guide is not None:
      log_p = log_p + guide.scores(said.guide)
    parent = None
    if beams == 1:
      step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))
      token = _draw(step_keys(row_keys, step), log_p, temperature, top_p)
      own = jnp.take_along_axis(log_p, token[:, None], axis=1)[:, 0]
      score = said.score + jnp.where(said.done, 0, own)
    else:
      parent, token, score = _best(log_p, said, beams)
      said = jax.tree.map(lambda leaf: leaf[parent], said)
    ends = said.done | jnp.isin(token, stops)
    shown = jnp.where(ends, 0, token)
    state = said.guide
    if guide is not None:
      state = guide.step(state, token)
    tokens = said.tokens.at[:, step].set(shown)
    length = said.length + ~ends
    return _Said(tokens, length, score, ends, token, state), parent

  def goes_on(state: tuple[Any, Cache, _Said]) -> jax.Array:
    step, _, said = state
    # What is likeliest and done stays so, since the others can only lose.
    done = said.done.reshape(batch, beams)[:, 0]
    return (step < max_new) & ~done.all()

  def advance(state: tuple[Any, Cache, _Said]) -> tuple[Any, Cache, _Said]:
    step, cache, said = state
    out = lm.blocks(
      variables,
      lm.embed(variables, said.last[:, None]),
      positions=(first + step - 1)[:, None],
      cache=cache,
    )
    assert out.cache is not None
    cache = out.cache
    said, parent = pick(step, lm.logits(variables, out.hidden[:, 0]), said)
    if parent is not None:
      cache = _taken(cache, parent)
    return step + 1, cache, said

  said, parent = pick(0, jnp.repeat(logits, beams, axis=0), said)
  if parent is not None:
    cache = _taken(cache, parent)
  start = (jnp.ones((), jnp.int32), cache, said)
  _, _, said = jax.lax.while_loop(goes_on, advance, start)
  best = jax.tree.map(lambda leaf: leaf[::beams], said._replace(guide=None))
  return Generated(best.tokens, best.length, best.score)


def _prefill(
  lm: LanguageModel, variables: Variables, x: Text, max_new: int
) -> tuple[jax.Array, Cache]:
  """Logits [B, V] after each prompt, and a cache with room for what follows."""
  batch, length = x.tokens.shape
  place = jnp.arange(length, dtype=jnp.int32)[None]
  there = place < x.prompt[:, None]
  hidden = lm.embed(variables, jnp.where(there, x.tokens, 0))
  cache = empty_cache(lm.config, batch, length + max_new, hidden.dtype)
  out = lm.blocks(variables, hidden, mask=there, cache=cache)
  assert out.cache is not None
  last = jnp.maximum(x.prompt - 1, 0)[:, None, None]
  hidden = jnp.take_along_axis(out.hidden, last, axis=1)[:, 0]
  return lm.logits(variables, hidden), out.cache


def _is(value: Any, number: float) -> bool:
  return checks.is_concrete(value) and float(value) == number


def _draw(
  row_keys: jax.Array, log_p: jax.Array, temperature: Any, top_p: Any
) -> jax.Array:
  """A token for each row of log p [B, V]: the likeliest, or one by chance."""
  likeliest = log_p.argmax(axis=-1)
  if _is(temperature, 0):
    return likeliest
  warm = log_p / jnp.where(temperature > 0, temperature, 1)
  if not _is(top_p, 1):
    warm = nucleus(warm, top_p)
  drawn = jax.vmap(jax.random.categorical)(row_keys, warm)
  return jnp.where(temperature > 0, drawn, likeliest)


def nucleus(logits: jax.Array, top_p: float | jax.Array) -> jax.Array:
  """Logits [B, V], -inf but for the fewest likeliest that have a share top_p.

  Tokens as likely as the last of them stay too.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.generation import nucleus
    >>> logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    >>> jnp.isfinite(nucleus(logits, 0.7)).tolist()
    [[True, True, False, False]]
  """
  p = jax.nn.softmax(logits)
  ordered = jnp.sort(p, axis=-1, descending=True)
  before = ordered.cumsum(axis=-1) - ordered
  least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
  return jnp.where(p >= least, logits, -jnp.inf)


def _best(
  log_p: jax.Array, said: _Said, beams: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Of all ways to go on the likeliest: rows they come from, tokens, scores."""
  rows, size = log_p.shape
  # A text that is done goes on in one way, at no cost.
  only = jnp.where(jnp.arange(size) == 0, 0.0, -jnp.inf)[None]
  log_p = jnp.where(said.done[:, None], only, log_p)
  every = (said.score[:, None] + log_p).reshape(-1, beams * size)
  score, place = jax.lax.top_k(every, beams)
  begin = jnp.arange(0, rows, beams)[:, None]
  parent = (begin + place // size).reshape(-1)
  return parent, (place % size).reshape(-1), score.reshape(-1)


def _taken(cache: Cache, parent: jax.Array) -> Cache:
  """Rows of a cache by number."""
  return cache._replace(
    key=cache.key[:, parent],
    value=cache.value[:, parent],
    position=cache.position[parent],
  )
