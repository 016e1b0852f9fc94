"""Attacks on a model that paints one picture a token, so that answers are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.diffusion import schedules, splicing, token_search
from jaxunlearn.diffusion.prompt_attack import (
  PromptAttack,
  Sampler,
  attack_prompts,
  attack_rates,
)
from jaxunlearn.diffusion.token_search import SoftSearch, TokenSearch
from jaxunlearn.diffusion.types import Diffusion

SHAPE, LENGTH, VOCAB = (2, 2, 1), 5, 7
LEVELS = schedules.linear(50, 1e-3, 0.2)
TARGET = 5
START, PAD = 1, 0


def painter(traces=None):
  """The picture of the token at position 1; embeddings are one-hot.

  `traces` grows each time the network is traced.
  """
  embed = lambda p, tokens: jax.nn.one_hot(tokens, VOCAB)
  encode = lambda p, embeddings: embeddings

  def eps(p, x, t, context):
    if traces is not None:
      traces.append(1)
    clean = jnp.einsum("bv,vhwc->bhwc", context[:, 1], p)
    signal, spread = schedules.signal_and_noise(LEVELS, t, x)
    return (x - signal * clean) / spread

  return Diffusion(
    init=lambda key: pictures(),
    eps=eps,
    encode=lambda p, tokens: encode(p, embed(p, tokens)),
    null_tokens=jnp.array([START] + [PAD] * (LENGTH - 1)),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    clip=1.5,
    embed=embed,
    encode_embeddings=encode,
    vocab_size=VOCAB,
  )


def pictures():
  """The bits of a token's number are its four pixels, -1 or 1."""
  bits = (np.arange(VOCAB)[:, None] >> np.arange(4)) % 2
  return jnp.asarray(2.0 * bits - 1, jnp.float32).reshape(VOCAB, *SHAPE)


MODEL, PARAMS = painter(), pictures()
TOKENS = jnp.array([[START, 2, 3, PAD, PAD], [START, TARGET, 4, PAD, PAD]])
IMAGES = jnp.stack([PARAMS[TARGET]] * 2)
SEARCH = TokenSearch(1, outer_steps=3, inner_steps=60, weight_decay=0.0)
SMALL = {"soft": SoftSearch(150), "sampler": Sampler(3, 1.0)}


def shows(x):
  return jnp.abs(x - PARAMS[TARGET][None]).max(axis=(1, 2, 3)) < 0.3


TRACES = []


@functools.cache
def program(search=SEARCH, **options):
  """`TRACES` grows when it is traced."""
  options = {**SMALL, **options}
  return jax.jit(
    lambda params, tokens, images, key, rate, allowed: attack_prompts(
      painter(TRACES),
      params,
      tokens,
      images,
      shows,
      key,
      search=search._replace(learning_rate=rate),
      allowed=allowed,
      **options,
    )
  )


def attacked(**options):
  """`program` at a rate that succeeds and with every token allowed."""

  def run(params, tokens, images, key, rate=0.1, allowed=None):
    allowed = jnp.ones(VOCAB, bool) if allowed is None else allowed
    return program(**options)(params, tokens, images, key, rate, allowed)

  return run


def test_the_pictures_differ_so_that_only_one_token_shows_the_target():
  assert shows(PARAMS).tolist() == [i == TARGET for i in range(VOCAB)]


@pytest.mark.parametrize("batch_size, start", [(1, "uniform"), (4, "random")])
def test_the_token_that_explains_the_image_is_found_for_every_seed(
  batch_size, start
):
  search = jax.jit(
    jax.vmap(
      lambda key: token_search.adversarial_tokens(
        MODEL,
        PARAMS,
        TOKENS[0],
        IMAGES[0],
        key,
        TokenSearch(
          1,
          outer_steps=5,
          learning_rate=0.1,
          weight_decay=0.0,
          batch_size=batch_size,
          start=start,
        ),
      )
    )
  )
  ids, losses = search(jax.random.split(jax.random.key(0), 8))
  assert ids.shape == (8, 5, 1) and losses.shape == (8, 5, 40)
  assert (ids[:, -1] == TARGET).all()
  assert float(losses[:, -1, -10:].mean()) < 0.1 * float(losses[:, 0].mean())


@pytest.mark.slow
def test_success_is_judged_by_generations():
  result = attacked()(PARAMS, TOKENS, IMAGES, jax.random.key(1))
  assert result.pre.tolist() == [False, True]
  assert result.tokens.shape == (2, 3, 1) and result.tokens.dtype == jnp.int32
  assert result.loss.shape == (2, 3, 60)
  np.testing.assert_array_equal(
    result.adversarial, result.tokens[..., 0] == TARGET
  )
  np.testing.assert_array_equal(
    result.random, result.random_tokens[..., 0] == TARGET
  )
  assert result.adversarial[:, -1].all() and result.soft.all()


def test_a_rate_counts_prompts_that_succeed_by_themselves_or_once():
  made = PromptAttack(
    pre=jnp.array([True, False, False, False]),
    adversarial=jnp.array([[0, 0], [0, 1], [1, 1], [0, 0]], bool),
    random=jnp.array([[0, 0], [0, 0], [1, 0], [0, 0]], bool),
    soft=jnp.array([False, True, True, True]),
    tokens=jnp.zeros((4, 2, 1), jnp.int32),
    random_tokens=jnp.zeros((4, 2, 1), jnp.int32),
    loss=jnp.zeros((4, 2, 1)),
  )
  found = [float(rate) for rate in attack_rates(made)]
  assert found == [0.25, 0.5, 0.75, 1.0]


def test_a_search_that_does_not_move_stays_at_the_first_token():
  key = jax.random.key(2)
  result = attacked()(PARAMS, TOKENS, IMAGES, key, rate=0.0)
  assert (result.tokens == 0).all()


def test_no_tokens_are_the_prompt_itself():
  run = attacked(
    search=SEARCH._replace(num_tokens=0, inner_steps=1), soft=SoftSearch(0)
  )
  result = run(PARAMS, TOKENS, IMAGES, jax.random.key(2))
  assert result.pre.tolist() == [False, True]
  for hits in (result.adversarial, result.random):
    np.testing.assert_array_equal(
      hits, jnp.broadcast_to(result.pre[:, None], (2, 3))
    )
  assert not result.soft.any()  # Without steps it has no success.


def test_tokens_that_are_not_allowed_are_not_used():
  allowed = jnp.arange(VOCAB) % 2 == 0
  key = jax.random.key(3)
  free = attacked()(PARAMS, TOKENS, IMAGES, key)
  found = attacked()(PARAMS, TOKENS, IMAGES, key, allowed=allowed)
  assert (free.tokens % 2 == 1).any() and (free.random_tokens % 2 == 1).any()
  assert (found.tokens % 2 == 0).all() and (found.random_tokens % 2 == 0).all()
  assert len(np.unique(found.random_tokens)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["map", 1])
def test_prompts_do_not_depend_on_those_beside_them(strategy):
  key = jax.random.key(4)
  together = attacked()(PARAMS, TOKENS, IMAGES, key)
  apart = attacked(sampler=Sampler(3, 1.0, strategy))(
    PARAMS, TOKENS, IMAGES, key
  )
  np.testing.assert_array_equal(together.tokens, apart.tokens)
  np.testing.assert_array_equal(together.random, apart.random)
  again = attacked()(PARAMS, TOKENS, IMAGES, key)
  np.testing.assert_array_equal(together.loss, again.loss)


def test_new_prompts_images_and_rates_do_not_compile_again():
  first = attacked()(PARAMS, TOKENS, IMAGES, jax.random.key(0))
  before = len(TRACES)
  second = attacked()(PARAMS, TOKENS[::-1], -IMAGES, jax.random.key(1), 0.2)
  assert before > 0 and len(TRACES) == before
  assert (first.loss != second.loss).any()


def bisected(row):
  low, high = row.min() - 2, row.max()
  for _ in range(100):
    middle = (low + high) / 2
    if np.clip(row - middle, 0, 1).sum() > 1:
      low = middle
    else:
      high = middle
  return np.clip(row - low, 0, 1)


def test_the_projection_is_that_of_bisection():
  x = np.random.default_rng(0).normal(size=(6, 9)) * [
    [0.01],
    [1],
    [1],
    [3],
    [1],
    [9],
  ]
  got = jax.jit(token_search.project_simplex)(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got, [bisected(r) for r in x], atol=1e-5)
  np.testing.assert_allclose(got.sum(axis=1), np.ones(6), atol=1e-5)
  assert (got >= 0).all()
  again = jax.jit(token_search.project_simplex)(got)
  np.testing.assert_allclose(again, got, atol=1e-6)


def test_the_projection_of_large_numbers_sums_to_one():
  """Beside 1e9 a 1 is lost in float32."""
  x = jnp.array([[1e9, 0, -1e9], [1e9, 1e9, 0], [3e7, 3e7 - 2, -1]])
  got = jax.jit(token_search.project_simplex)(x)
  np.testing.assert_allclose(got, [[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0]])


def test_the_projection_within_allowed_tokens_is_that_of_their_part():
  x = np.random.default_rng(1).normal(size=(4, 8))
  allowed = np.arange(8) % 3 > 0
  got = jax.jit(token_search.project_simplex)(
    jnp.asarray(x, jnp.float32), allowed
  )
  assert (got[:, ~allowed] == 0).all()
  np.testing.assert_allclose(
    got[:, allowed], [bisected(r) for r in x[:, allowed]], atol=1e-5
  )


def test_the_gradient_of_drawn_tokens_is_clipped_and_handed_on():
  q = jnp.full((2, 3), 1 / 3)
  one_hot = jnp.eye(3)[:2]
  value, pull = jax.vjp(lambda q: token_search.straight_through(q, one_hot), q)
  np.testing.assert_array_equal(value, one_hot)
  upstream = jnp.array([[0.5, -3.0, 2.0], [-0.1, 1.0, 0.0]])
  np.testing.assert_allclose(
    pull(upstream)[0], [[0.5, -1.0, 1.0], [-0.1, 1.0, 0.0]]
  )


def test_times_are_the_middles_of_equal_bins():
  wide = MODEL._replace(alphas_bar=schedules.linear(1000))
  times = token_search.attack_times(wide, 50)
  np.testing.assert_array_equal(times, np.arange(10, 1000, 20))


def spliced(sequence, new, point):
  return [*sequence[:point], *new, *sequence[point:]][: len(sequence)]


@pytest.mark.parametrize(
  "insertion, points",
  [("prefix", [1, 1]), ("middle", [2, 1]), ("suffix", [3, 2])],
)
def test_tokens_go_where_they_should_and_padding_drops_out(insertion, points):
  tokens = jnp.array([[START, 2, 3, PAD, PAD], [START, 4, PAD, PAD, PAD]])
  new = jnp.array([[5, 6], [6, 5]])
  found = splicing.insertion_points(MODEL, tokens, insertion)
  assert found.tolist() == points
  wanted = [spliced(*row) for row in zip(tokens.tolist(), new.tolist(), points)]
  np.testing.assert_array_equal(splicing.insert(tokens, new, found), wanted)
  # Embeddings in the same places.
  table = jax.random.normal(jax.random.key(0), (VOCAB, 3))
  np.testing.assert_array_equal(
    splicing.insert(table[tokens], table[new], found), table[np.array(wanted)]
  )


def test_the_table_of_embeddings_holds_every_token():
  table = splicing.embedding_table(MODEL, PARAMS)
  np.testing.assert_array_equal(table, np.eye(VOCAB))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"search": SEARCH._replace(num_tokens=3)}, "padding for num_tokens=3"),
    ({"search": SEARCH._replace(num_tokens=-1)}, "num_tokens >= 0"),
    ({"search": SEARCH._replace(insertion="inside")}, "insertion to be one of"),
    ({"search": SEARCH._replace(start="zero")}, "start to be one of"),
    ({"search": SEARCH._replace(outer_steps=0)}, "outer_steps > 0"),
    ({"search": SEARCH._replace(inner_steps=0)}, "inner_steps > 0"),
    ({"soft": SoftSearch(-1)}, "soft_steps >= 0"),
    ({"allowed": jnp.zeros(VOCAB, bool)}, "allowed to leave tokens"),
    ({"allowed": jnp.ones(VOCAB)}, "allowed bool"),
    ({"images": IMAGES[:, :1]}, "images float "),
    ({"images": IMAGES.at[0].set(jnp.nan)}, "images to be finite"),
    ({"images": IMAGES[:1]}, "an image a prompt"),
    ({"tokens": TOKENS[:0], "images": IMAGES[:0]}, "an image a prompt"),
    ({"tokens": TOKENS.at[0, 1].set(VOCAB)}, "tokens in 0"),
    ({"recognise": lambda x: x[:, 0, 0, 0]}, "recognise to return bool"),
    (
      {"diffusion": MODEL._replace(vocab_size=None)},
      "diffusion.vocab_size to be set",
    ),
    ({"diffusion": MODEL._replace(embed=None)}, "diffusion.embed to be set"),
  ],
)
def test_errors_say_what_was_found(change, message):
  given = {
    "diffusion": MODEL,
    "params": PARAMS,
    "tokens": TOKENS,
    "images": IMAGES,
    "recognise": shows,
    "key": jax.random.key(0),
    "search": SEARCH,
    **SMALL,
    **change,
  }
  refused(message, jax.eval_shape, lambda: attack_prompts(**given))


def test_loose_keywords_of_the_search_are_taken_for_one_release():
  given = (MODEL, PARAMS, TOKENS, IMAGES, shows, jax.random.key(0))
  with (
    pytest.warns(
      DeprecationWarning, match="takes soft_steps as fields of soft"
    ),
    pytest.raises(ValueError, match="soft_steps >= 0"),
  ):
    attack_prompts(*given, search=SEARCH, **SMALL, soft_steps=-1)
