"""Generation against a loop without a cache, and against all texts there are."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_text
from scipy import special
from small_text import CONFIGS, texts

from jaxunlearn.language.generation import Guide, generate, nucleus
from jaxunlearn.language.model import language_model
from jaxunlearn.language.types import Text

KEY = jax.random.key(0)


def prompts():
  x = texts(4, 6, 19)
  return x._replace(prompt=jnp.array([6, 1, 3, 4]))


def next_log_p(lm, variables, tokens):
  logits = small_text.forward(lm.config, variables.params, np.asarray(tokens))
  return special.log_softmax(logits[-1])


@pytest.mark.parametrize("name", ["llama 3", "gpt2", "mistral"])
def test_greedy_equals_a_loop_without_a_cache(name):
  lm, variables = small_text.small(name)
  x = prompts()
  say = lambda v, x: generate(lm, v, x, KEY, max_new=5)
  said = jax.jit(say)(variables, x)
  for row in range(4):
    tokens = x.tokens[row, : int(x.prompt[row])].tolist()
    total = 0.0
    for _ in range(5):
      log_p = next_log_p(lm, variables, tokens)
      tokens.append(int(log_p.argmax()))
      total += float(log_p.max())
    assert said.tokens[row].tolist() == tokens[-5:]
    np.testing.assert_allclose(said.log_prob[row], total, rtol=1e-3)
  assert said.length.tolist() == [5] * 4


def test_what_follows_a_prompt_is_not_looked_at():
  lm, variables = small_text.small("qwen3")
  x = prompts()
  say = jax.jit(lambda x: generate(lm, variables, x, KEY, max_new=4))
  beyond = jnp.arange(6)[None] >= x.prompt[:, None]
  other = x._replace(tokens=jnp.where(beyond, 18, x.tokens))
  chex.assert_trees_all_equal(say(x), say(other))


def test_a_text_ends_at_a_stop_token():
  lm, variables = small_text.small("llama")
  x = prompts()
  free = jax.jit(lambda x: generate(lm, variables, x, KEY, max_new=6))(x)
  stop = int(free.tokens[0, 3])
  said = jax.jit(
    lambda x: generate(lm, variables, x, KEY, max_new=6, stop=[stop, 18])
  )(x)
  for row in range(4):
    said_freely = free.tokens[row].tolist()
    stops = [i for i, t in enumerate(said_freely) if t in (stop, 18)]
    n = stops[0] if stops else 6
    assert int(said.length[row]) == n
    assert said.tokens[row].tolist() == said_freely[:n] + [0] * (6 - n)
  assert int(said.length[0]) <= 3


@functools.cache
def tiny():
  """Four tokens, so that all texts can be looked at."""
  config = dataclasses.replace(CONFIGS["llama"], vocab_size=4)
  lm = language_model(config)
  return lm, small_text.filled(lm, seed=3)


@pytest.mark.parametrize("stop", [None, 2])
def test_beams_find_the_likeliest_of_all_texts(stop):
  """With as many beams as there are beginnings, the search is exhaustive."""
  lm, variables = tiny()
  x = texts(2, 3, 4)._replace(prompt=jnp.array([3, 2]))
  say = lambda beams: generate(
    *(lm, variables, x, KEY), max_new=3, beams=beams, stop=stop
  )
  said, greedy = (jax.jit(say, static_argnums=0)(beams) for beams in (16, 1))
  for row in range(2):
    tokens = x.tokens[row, : int(x.prompt[row])].tolist()
    best = (-np.inf, ())
    for text in itertools.product(range(4), repeat=3):
      if stop in text:
        text = text[: text.index(stop) + 1]
      total = sum(
        float(next_log_p(lm, variables, tokens + [*text[:i]])[text[i]])
        for i in range(len(text))
      )
      best = max(best, (total, text))
    np.testing.assert_allclose(said.log_prob[row], best[0], rtol=1e-3)
    shown = [t for t in best[1] if t != stop]
    assert said.tokens[row, : len(shown)].tolist() == shown
    assert int(said.length[row]) == len(shown)
    assert said.log_prob[row] >= greedy.log_prob[row] - 1e-5


def test_draws_follow_the_models_probabilities():
  """First tokens of many rows; a temperature and a nucleus change them."""
  lm, variables = tiny()
  num = 4000
  one = jnp.zeros(num, jnp.int32) + 2
  x = Text(jnp.tile(jnp.array([[1, 3]]), (num, 1)), one, one)

  @jax.jit
  def shares(temperature, top_p):
    said = generate(
      *(lm, variables, x, KEY),
      max_new=1,
      temperature=temperature,
      top_p=top_p,
    )
    return jnp.bincount(said.tokens[:, 0], length=4) / num

  log_p = next_log_p(lm, variables, [1, 3])
  for temperature, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.6)):
    p = special.softmax(log_p / temperature)
    order = np.argsort(-p)
    kept = order[: 1 + int((np.cumsum(p[order]) < top_p).sum())]
    wanted = np.where(np.isin(np.arange(4), kept), p, 0)
    wanted /= wanted.sum()
    sigma = np.sqrt(wanted * (1 - wanted) / num)
    found = np.asarray(shares(temperature, top_p))
    assert (abs(found - wanted) <= 5 * sigma + 1e-6).all()
  cold = np.asarray(shares(0.0, 1.0))
  assert cold[int(log_p.argmax())] == 1


def test_the_key_and_not_the_batch_decides_what_is_drawn():
  lm, variables = small_text.small("llama")
  x = prompts()
  say = jax.jit(
    lambda x, key: (
      generate(*(lm, variables, x, key), max_new=4, temperature=2.0).tokens
    )
  )
  said = say(x, KEY)
  chex.assert_trees_all_equal(say(x, KEY), said)
  first = jax.tree.map(lambda leaf: leaf[:2], x)
  chex.assert_trees_all_equal(say(first, KEY), said[:2])
  assert (say(x, jax.random.key(1)) != said).any()


def test_a_nucleus_is_the_fewest_that_have_the_share():
  p = jnp.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
  kept = lambda top_p: jnp.isfinite(nucleus(jnp.log(p), top_p)).tolist()
  assert kept(0.5) == [[True, False, False, False], [False, False, True, True]]
  assert kept(0.81) == [[True, True, True, False], [False, True, True, True]]
  assert kept(1.0) == [[True] * 4] * 2


@pytest.mark.parametrize("beams", [1, 3])
def test_a_guide_forbids(beams):
  """No token twice: its state follows what each row and each beam said."""
  (lm, variables), x = small_text.small("llama"), prompts()
  once = Guide(
    lambda rows: jnp.zeros((rows, 19), bool),
    lambda seen, token: seen | (token[:, None] == jnp.arange(19)[None]),
    lambda seen: jnp.where(seen, -jnp.inf, 0.0),
  )
  say = lambda guide: generate(
    *(lm, variables, x, KEY), max_new=10, beams=beams, guide=guide
  )
  free, said = (jax.jit(say, static_argnums=0)(g) for g in (None, once))
  assert all(len(set(row)) == 10 for row in said.tokens.tolist())
  assert any(len(set(row)) < 10 for row in free.tokens.tolist())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"max_new": 11}, "within max_length=16, got 17 tokens"),
    ({"max_new": 0}, "max_new to be a whole number >= 1"),
    ({"beams": 0}, "beams to be a whole number >= 1"),
    ({"temperature": -1.0}, "temperature >= 0, got"),
    ({"top_p": 0.0}, "top_p > 0, got"),
    ({"top_p": 1.1}, "top_p in .0, 1., got"),
    ({"beams": 2, "temperature": 1.0}, "temperature=0 beside beams"),
    ({"stop": 19}, "stop"),
  ],
)
def test_impossible_settings_are_refused(change, message):
  lm, variables = small_text.small("llama")
  with pytest.raises(ValueError, match=message):
    generate(lm, variables, prompts(), KEY, **{"max_new": 4, **change})
