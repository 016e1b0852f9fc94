"""Forbidden phrases against a search for them in what was said."""

import chex
import jax
import jax.numpy as jnp
import pytest
import small_text
from refusals import refused
from small_text import texts

from jaxunlearn.language.automaton import forbid
from jaxunlearn.language.generation import generate

KEY = jax.random.key(0)


def says(row, phrase):
  text = row.tolist()
  size = len(phrase)
  return any(text[i : i + size] == phrase for i in range(len(text) - size + 1))


@pytest.mark.parametrize("beams", [1, 2])
def test_no_phrase_is_said_where_it_is_guarded(beams):
  """Others keep their bits, and other phrases are served by one program."""
  lm, variables = small_text.small("llama")
  x = texts(4, 6, 19)._replace(prompt=jnp.array([6, 1, 3, 4]))
  traces = []
  guarded = jnp.array([True, False, True, True])

  @jax.jit
  def say(phrases):
    traces.append(1)
    guide = forbid(phrases, 19, guarded)
    return generate(
      *(lm, variables, x, KEY), max_new=10, beams=beams, guide=guide
    )

  free = say(jnp.full((3, 4), -1))
  plain = jax.jit(
    lambda x: generate(lm, variables, x, KEY, max_new=10, beams=beams)
  )(x)
  chex.assert_trees_all_equal(free.tokens, plain.tokens)
  # Of one, of two and of four tokens of what was said freely.
  words = free.tokens
  phrases = jnp.full((3, 4), -1).at[0, :1].set(words[0, 2])
  phrases = phrases.at[1, :2].set(words[2, 4:6]).at[2].set(words[3, 1:5])
  said = say(phrases)
  wanted = [[t for t in row if t >= 0] for row in phrases.tolist()]
  assert [says(words[i], p) for i, p in zip((0, 2, 3), wanted)] == [True] * 3
  for row in (0, 2, 3):
    assert not any(says(said.tokens[row], p) for p in wanted)
  chex.assert_trees_all_equal(said.tokens[1], free.tokens[1])
  assert len(traces) == 1


def test_the_last_token_of_a_phrase_is_what_is_forbidden():
  guide = forbid(jnp.array([[1, 2, -1], [1, 2, 3], [4, -1, -1]]), 6)
  state = guide.start(1)
  found = []
  for token in (1, 2, 0, 2):
    state = guide.step(state, jnp.array([token]))
    found.append(jnp.isinf(guide.scores(state))[0].nonzero()[0].tolist())
  assert found == [[2, 4], [3, 4], [4], [4]]


def test_phrases_that_cannot_be_are_refused():
  refused(r"phrases int \[P, K\]", forbid, jnp.array([1, 2]), 6)
  refused("phrases", forbid, jnp.array([[1, 6]]), 6)
