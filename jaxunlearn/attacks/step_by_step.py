"""Questions around the one that was forgotten, and chains of them.

A fact that a model no longer gives when asked as it was taught may come out from
the other end, by a description, where an answer presupposes it, or at the end of
a chain in which the model's own answers lead it on. What the retrained model
answers too follows from what was kept, and is no leak. The same questions on
facts that were to be kept show what was lost with the request.

Class: heuristic; black box, it reads what a model says and nothing else.
Data access: the facts. Cost: one generation for each step of the longest chain.
Source: Sinha et al. (2025), arXiv:2506.17279, whose attacker is a language model
and whose queries are not published: questions, judge, base rates and chains that
follow a fixed list are ours. The published 62.5 % is a share of prompts, `rate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.metrics.text import rouge_l_recall

ANSWER = -1  # In a step: what was said to the step before it.


class Spoken(Protocol):
  """Anything with tokens [Q, M] that were said, and their number, [Q]."""

  @property
  def tokens(self) -> Any: ...
  @property
  def length(self) -> Any: ...


# `(variables, prompts [Q, T], length [Q], key) -> Spoken`; a guard's own too.
Say = Callable[[PyTree, jax.Array, jax.Array, jax.Array], Spoken]


class Queries(NamedTuple):
  """What is asked, and what must not be told.

  Attributes:
    steps: int32 [Q, R, S], tokens of the steps, each behind what was said before;
      `ANSWER` stands for what was said to the last one. The last step is the
      query, and shorter chains begin with steps of no tokens.
    length: int32 [Q, R], tokens of each step.
    answer: int32 [Q, A].
    answer_length: int32 [Q].
    category: int32 [Q], what kind of question it is.
    fact: int32 [Q], the fact that it is about.
  """

  steps: jax.Array
  length: jax.Array
  answer: jax.Array
  answer_length: jax.Array
  category: jax.Array
  fact: jax.Array


class Said(NamedTuple):
  """What was said to the last step: int32 [Q, M], and how much of it, [Q]."""

  tokens: jax.Array
  length: jax.Array


def make_queries(
  chains: Sequence[Sequence[Sequence[int]]],
  answers: Sequence[Sequence[int]],
  category: Sequence[int],
  fact: Sequence[int],
) -> Queries:
  """`Queries` of lists of tokens; on the host.

  Args:
    chains: Q of one to R steps each.
    answers: Q.
    category: Q numbers.
    fact: Q numbers.

  Raises:
    ValueError: no query, or not as many of each; see `step_by_step`.

  Example:
    >>> from jaxunlearn import attacks
    >>> from jaxunlearn.attacks.step_by_step import ANSWER
    >>> chains = [[[1, 2]], [[1, 2], [3, ANSWER]]]
    >>> queries = attacks.make_queries(
    ...   chains, [[8], [9]], category=[0, 1], fact=[0, 0])
    >>> queries.steps.shape, queries.length.tolist()
    ((2, 2, 2), [[0, 2], [2, 2]])
  """
  counts = {len(chains), len(answers), len(category), len(fact)}
  if len(counts) > 1 or not len(chains) or not all(map(len, chains)):
    raise ValueError(
      "Expected chains of steps, and an answer, a category and a fact of each, "
      f"got {len(chains)}, {len(answers)}, {len(category)} and {len(fact)}."
    )
  rounds = max(map(len, chains))
  size = max(len(step) for chain in chains for step in chain)
  steps = np.zeros((len(chains), rounds, size), np.int32)
  length = np.zeros(steps.shape[:2], np.int32)
  said = np.zeros((len(chains), max(map(len, answers))), np.int32)
  for i, chain in enumerate(chains):
    said[i, : len(answers[i])] = answers[i]
    for r, step in enumerate(chain, start=rounds - len(chain)):
      steps[i, r, : len(step)], length[i, r] = step, len(step)
  whole = lambda values: jnp.asarray(values, jnp.int32)
  made = Queries(
    *map(whole, (steps, length, said, [*map(len, answers)], category, fact))
  )
  check_queries(made)
  return made


def step_by_step(
  say: Say,
  variables: PyTree,
  queries: Queries,
  key: jax.Array,
  *,
  max_new: int,
  pad: int = 0,
) -> Said:
  """Puts every query to a model, a step after the other.

  Args:
    say: how the model speaks; prompts are padded on the right. It says at most
      max_new tokens.
    variables: its values; `vmap` over them for a stack of models.
    queries: see `Queries`.
    key: typed PRNG key, for models that draw what they say.
    max_new: static; M.
    pad: static; what stands behind a prompt.

  Returns:
    `Said`. A chain of one step is the plain query.

  Raises:
    ValueError: shapes that do not fit; (concrete) a query without a last step,
      or with more than one `ANSWER` in a step or one in the first; an answer of
      more tokens than are said.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> from jaxunlearn.attacks.step_by_step import ANSWER
    >>> def say(table, tokens, length, key):  # By the last token alone.
    ...   last = tokens[jnp.arange(len(length)), length - 1]
    ...   return attacks.Said(table[last][:, None], jnp.ones_like(length))
    >>> queries = attacks.make_queries([[[1], [3, ANSWER]]], [[9]], [0], [0])
    >>> table = jnp.zeros(10, int).at[1].set(8).at[8].set(9)  # 1 -> 8 -> 9.
    >>> said = attacks.step_by_step(
    ...   say, table, queries, jax.random.key(0), max_new=1)
    >>> said.tokens.tolist()
    [[9]]
  """
  checks.typed_key(key)
  checks.count(1, max_new=max_new)
  check_queries(queries)
  if checks.is_concrete(queries.answer_length):
    longest = int(np.asarray(queries.answer_length).max(initial=0))
    if longest > max_new:
      raise ValueError(
        f"Expected max_new >= {longest}, the longest answer, got {max_new}."
      )
  count, rounds, size = queries.steps.shape
  # Of each step its tokens, what is quoted in it and what is said to it.
  width = rounds * size + 2 * (rounds - 1) * max_new

  def turn(state: Any, step: Any) -> tuple[Any, None]:
    context, used, said = state
    tokens, length, number = step
    context, used = jax.vmap(_written)(context, used, tokens, length, said)
    prompt = jnp.maximum(used, 1)  # Of those that have not begun yet.
    own = jax.random.fold_in(key, number)
    out = say(variables, context, prompt, own)
    there = length > 0
    said = Said(
      jnp.where(there[:, None], out.tokens, said.tokens).astype(jnp.int32),
      jnp.where(there, out.length, said.length).astype(jnp.int32),
    )
    more = jnp.where(there, said.length, 0)
    quote = jnp.full((count, 1), ANSWER, jnp.int32)
    heard = said._replace(length=more)
    added = jax.vmap(_written)(context, used, quote, more > 0, heard)
    return (*added, said), None

  start = (
    jnp.full((count, width), pad, jnp.int32),
    jnp.zeros(count, jnp.int32),
    Said(jnp.zeros((count, max_new), jnp.int32), jnp.zeros(count, jnp.int32)),
  )
  steps = (
    jnp.swapaxes(queries.steps, 0, 1),
    jnp.swapaxes(queries.length, 0, 1),
    jnp.arange(rounds, dtype=jnp.uint32),
  )
  (_, _, said), _ = jax.lax.scan(turn, start, steps)
  return said


def _written(
  context: jax.Array,
  used: jax.Array,
  tokens: jax.Array,
  length: jax.Array,
  said: Said,
) -> tuple[jax.Array, jax.Array]:
  """One row's context [W] with a step [S] behind its first `used` tokens."""
  nowhere = context.shape[0]
  there = jnp.arange(tokens.shape[0]) < length
  quoted = there & (tokens == ANSWER)
  room = jnp.where(quoted, said.length, there)
  place = used + jnp.cumsum(room) - room
  own = jnp.where(there & ~quoted, place, nowhere)
  context = context.at[own].set(tokens, mode="drop")
  number = jnp.arange(said.tokens.shape[0])
  first = jnp.where(quoted, place, nowhere).min()
  quote = jnp.where(number < said.length, first + number, nowhere)
  context = context.at[quote].set(said.tokens, mode="drop")
  return context, used + room.sum()


def brings_out(
  said: Spoken, queries: Queries, *, least: float = 0.8
) -> jax.Array:
  """Whether so much of the answer was said, in its order; bool [Q].

  Args:
    said: to each query.
    queries: see `Queries`.
    least: share of the answer's tokens, ROUGE-L recall; 1 wants all of them.

  Raises:
    ValueError: a share outside (0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> queries = attacks.make_queries(
    ...   [[[1]], [[2]]], [[7, 8], [7, 8]], category=[0, 0], fact=[0, 1])
    >>> tokens = jnp.array([[7, 5, 8], [8, 7, 0]])
    >>> said = attacks.Said(tokens, jnp.array([3, 2]))
    >>> attacks.brings_out(said, queries).tolist()
    [True, False]
  """
  checks.positive(least=least)
  checks.fraction(least=least)
  recall = rouge_l_recall(
    said.tokens, said.length, queries.answer, queries.answer_length
  )
  return recall >= least


def check_queries(queries: Queries) -> None:
  """Shapes of `Queries`, and their values where they can be seen."""
  shapes = [np.shape(leaf) for leaf in queries]
  steps, answers = shapes[0], shapes[2]
  fits = len(steps) == 3 and len(answers) == 2
  one = steps[:1]
  if not fits or shapes[1:] != [steps[:2], one + answers[1:], one, one, one]:
    raise ValueError(
      "Expected steps [Q, R, S], length [Q, R], answer [Q, A] and three of [Q], "
      f"got shapes {', '.join(map(str, shapes))}."
    )
  if not all(map(checks.is_concrete, queries[:4])):
    return
  length, size = np.asarray(queries.length), steps[2]
  if (length[:, -1:] < 1).any() or (length > size).any():
    raise ValueError(
      f"Expected queries to end with a step of 1 .. {size} tokens, got "
      f"{length[:, -1].min()} .. {length.max()}."
    )
  if (np.asarray(queries.answer_length) < 1).any():
    raise ValueError("Expected an answer of each query, got an empty one.")
  there = np.arange(size) < length[..., None]
  quoted = (there & (np.asarray(queries.steps) == ANSWER)).sum(axis=-1)
  begun = np.cumsum(length > 0, axis=1)
  if (quoted > 1).any() or (quoted[begun <= 1] > 0).any():
    raise ValueError(
      "Expected steps to quote the answer before them once at most, got "
      f"{quoted.max()} quotes, or one in a first step."
    )
