"""Guards of an entity, and the corpus that a model writes itself."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_text
from refusals import refused

from jaxunlearn import language
from jaxunlearn.language.entity_guards import (
  activation_guard,
  control_vector,
  prefix_guard,
)
from jaxunlearn.language.own_words import own_words, spliced
from jaxunlearn.language.types import Text

KEY = jax.random.key(0)
PREFIX = jnp.array([3, 5, 7])
STOP = 2


@pytest.fixture(scope="module")
def lm():
  return small_text.small("llama")


@pytest.fixture(scope="module")
def x():
  return small_text.texts(4, 8, 19)


def scores(lm, variables, x):
  return jax.jit(lambda v: language.token_scores(lm, v, x))(variables)


def said_by(lm, variables, x, **options):
  say = lambda v: language.generate(lm, v, x, KEY, **options)
  return jax.jit(say)(variables)


def behind(prefix, x):
  """The same rows with the prefix written into them."""
  size = len(prefix)
  tokens = jnp.concatenate([jnp.tile(prefix[None], (4, 1)), x.tokens], axis=1)
  return Text(tokens, x.length + size, x.prompt + size)


def test_a_prefix_is_as_if_it_stood_in_every_text(lm, x):
  lm, variables = lm
  guard = prefix_guard(lm, PREFIX)
  told = scores(lm, variables, behind(PREFIX, x)).log_prob
  ours = scores(guard, variables, x).log_prob
  np.testing.assert_allclose(ours, told[:, 3:], atol=1e-5)
  say = lambda model, x: said_by(model, variables, x, max_new=4).tokens
  chex.assert_trees_all_equal(say(guard, x), say(lm, behind(PREFIX, x)))
  logits = jax.jit(guard.model.predict)(variables, x)
  wanted = jax.jit(lm.model.predict)(variables, behind(PREFIX, x))
  np.testing.assert_allclose(logits, wanted[:, 3:], atol=1e-5)
  # What is hidden of it is as good as another word.
  seen = jnp.array([False, True, True])
  hidden = (
    prefix_guard(lm, PREFIX, seen),
    prefix_guard(lm, PREFIX.at[0].set(9), seen),
  )
  one, other = (scores(g, variables, x).log_prob for g in hidden)
  chex.assert_trees_all_equal(one, other)
  assert not np.allclose(one, told[:, 3:], atol=1e-3)


def test_guards_of_no_words_and_no_strength_are_the_model(lm, x):
  lm, variables = lm
  plain = scores(lm, variables, x)
  assert prefix_guard(lm, jnp.zeros(0, int)) is lm
  vector = jnp.ones((lm.config.num_layers, lm.config.width))
  guard = lambda strength: scores(
    activation_guard(lm, vector, strength), variables, x
  )
  chex.assert_trees_all_equal(guard(0.0), plain)
  assert not np.allclose(guard(0.5).log_prob, plain.log_prob, atol=1e-3)


def test_a_push_reaches_every_block_and_what_is_generated(lm, x):
  lm, variables = lm
  vector = jnp.zeros((lm.config.num_layers, lm.config.width)).at[-1].set(1.0)
  guard = activation_guard(lm, vector, 2.0)
  run = lambda model: model.blocks(variables, lm.embed(variables, x.tokens))
  pushed, plain = jax.jit(lambda: (run(guard), run(lm)))()
  np.testing.assert_allclose(pushed.hidden, plain.hidden + 2.0, atol=1e-5)
  said, predict = (
    said_by(guard, variables, x, max_new=3),
    jax.jit(guard.model.predict),
  )
  place = jnp.arange(11)[None]
  step = x.prompt[:, None]
  own = jnp.pad(x.tokens, ((0, 0), (0, 3)))
  for i in range(3):  # Without a cache, a word at a time.
    shown = Text(own, x.prompt + i, x.prompt + i)
    logits = predict(variables, shown)
    word = jnp.take_along_axis(logits, (step + i - 1)[..., None], 1).argmax(-1)
    own = jnp.where(place == step + i, word, own)
    chex.assert_trees_all_equal(word[:, 0], said.tokens[:, i])


def test_the_control_vector_leads_from_expert_to_novice(lm, x):
  lm, variables = lm
  control = jax.jit(lambda new, old: control_vector(lm, variables, new, old))
  vector = control(x, x)
  np.testing.assert_allclose(vector, 0, atol=1e-6)
  other = small_text.texts(4, 8, 19, seed=3)
  ahead = control(other, x)
  states = jax.jit(
    lambda t: lm.blocks(variables, lm.embed(variables, t.tokens)).states
  )
  last = lambda t: np.stack([
    np.asarray(states(t).residual)[:, i, int(n) - 1]
    for i, n in enumerate(t.length)
  ])  # fmt: skip
  np.testing.assert_allclose(
    ahead, (last(other) - last(x)).mean(axis=0), atol=1e-5
  )


def test_own_words_count_from_where_the_model_begins(lm, x):
  lm, variables = lm
  made = jax.jit(
    lambda v: own_words(lm, v, x, KEY, max_new=5, top_p=1.0, stop=STOP)
  )(variables)
  said = said_by(lm, variables, x, max_new=5, temperature=1.0, stop=STOP)
  for i in range(4):
    prompt, size = int(x.prompt[i]), int(said.length[i])
    want = [*x.tokens[i, :prompt].tolist(), *said.tokens[i, :size].tolist()]
    want += [STOP] * (size < 5)
    assert made.tokens[i, : int(made.length[i])].tolist() == want
    assert not made.tokens[i, int(made.length[i]) :].any()
  chex.assert_trees_all_equal(made.prompt, x.prompt)


def test_pieces_stand_one_behind_the_other():
  part = lambda rows, length: (jnp.array(rows), jnp.array(length))
  made = spliced(
    [part([[1, 2], [3, 9]], [2, 1]), part([[4], [9]], [1, 0])],
    [part([[5, 6, 9], [7, 8, 9]], [2, 3])],
  )
  assert made.tokens.tolist() == [[1, 2, 4, 5, 6, 0], [3, 7, 8, 9, 0, 0]]
  assert made.length.tolist() == [5, 4] and made.prompt.tolist() == [3, 1]


def test_guards_that_do_not_fit_are_refused(lm, x):
  lm, variables = lm
  refused(r"prefix int \[P\]", prefix_guard, lm, jnp.ones(3))
  refused(r"there bool \[3\]", prefix_guard, lm, PREFIX, jnp.ones(3))
  refused(r"vector \[3, 8\], got", activation_guard, lm, jnp.ones(8), 1.0)
  fewer = jax.tree.map(lambda leaf: leaf[:2], x)
  refused("as many novice", control_vector, lm, variables, fewer, x)
  refused("of as many rows each", spliced, [], [(x.tokens, x.length)])
