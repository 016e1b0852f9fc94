"""AdvUnlearn on a tiny model: its two losses, what moves, and the adversary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_attention
from closeness import change
from tiny_attention import CONCEPT, RETAIN, SHAPE, WIDTH, shaken

from jaxunlearn import diffusion
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.types import Draw, Request, Slot, Variables, as_step
from jaxunlearn.diffusion.adv_unlearn import (
  Adversary,
  Objectives,
  Retention,
  unfinished_images,
)
from jaxunlearn.diffusion.steps import Sampling

NO_ROWS = Request()
KEY = jax.random.key(0)
ADVERSARY = Adversary(Fit(optax.adam(1e-3), 2, 4), num_tokens=2, warm_up=1)
RETENTION = Retention(batch_size=3)
SMALL = {
  "num_steps": 4,
  "batch_size": 4,
  "adversary": ADVERSARY,
  "retention": RETENTION,
  "sampling": Sampling(3, num_images=4),
}
ETA = 0.7


MODEL = tiny_attention.model()
PARAMS = tiny_attention.params(jax.random.key(2))


@functools.cache
def banks():
  @jax.jit
  def make(params, tokens, seed):
    key = jax.random.key(seed)
    return unfinished_images(
      MODEL, params, tokens, key, Sampling(4, num_images=6)
    )

  return make(PARAMS, CONCEPT, 1), make(PARAMS, RETAIN, 2)


@pytest.fixture(autouse=True, scope="module")
def made_first():
  """What is cached must not be made inside of a `jit`."""
  banks()


WORDS = Slot("adversary")


def losses(**options):
  return Objectives(MODEL, "prefix", ETA, None)._replace(**options)


def step(bank=0, adversary=None):
  """Every third row of a bank, in a step that has got nowhere."""
  rows = jax.tree.map(lambda leaf: leaf[::3], banks()[bank])
  return as_step(rows, {WORDS: adversary})._replace(
    original=Variables(PARAMS), variables=Variables(PARAMS)
  )


def test_the_erasing_loss_is_that_of_the_formula():
  current = shaken(PARAMS, 5)
  weights = jnp.linspace(0.5, 2, 20)
  loss = losses(time_weights=weights).erasure(None)
  got = jax.jit(lambda c: loss(Variables(c), step(), KEY))(current)
  rows = step().rows
  tokens, t = rows["tokens"], rows["time"]
  eps = lambda p, tokens: np.asarray(
    MODEL.eps(p, rows["x"], t, MODEL.encode(p, tokens)), np.float64
  )
  null = eps(PARAMS, jnp.tile(MODEL.null_tokens, (len(t), 1)))
  wanted = null - ETA * (eps(PARAMS, tokens) - null)
  error = ((eps(current, tokens) - wanted) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(got, error * np.asarray(weights)[t], rtol=1e-4)


def test_an_adversary_of_no_embeddings_is_none():
  now = Variables(shaken(PARAMS, 5))
  loss = lambda words, given: jax.jit(
    lambda adversary: losses().erasure(words)(now, step(0, adversary), KEY)
  )(given)
  wanted = loss(None, jnp.zeros((0, WIDTH)))
  np.testing.assert_allclose(
    loss(WORDS, jnp.zeros((0, WIDTH))), wanted, rtol=1e-5, atol=1e-6
  )
  moved = loss(WORDS, jnp.ones((2, WIDTH)))
  assert abs(float(moved[0] - wanted[0])) > 1e-4


def test_the_retaining_loss_is_nothing_at_the_original_model():
  retain = losses().retention()
  loss = jax.jit(lambda p: retain(Variables(p), step(1), KEY))
  np.testing.assert_allclose(loss(PARAMS), np.zeros(8), atol=1e-10)
  assert float(loss(shaken(PARAMS, 5)).max()) > 1e-3


def test_images_of_the_bank_lie_on_the_way_of_the_sampler():
  bank = banks()[0]
  assert bank["x"].shape == (24, *SHAPE)
  np.testing.assert_array_equal(bank["tokens"][::4], jnp.tile(CONCEPT, (3, 1)))
  np.testing.assert_array_equal(bank["time"], [19, 14, 9, 4] * 6)
  key = jax.random.split(jax.random.key(1), 6)[3]
  predictor = diffusion.classifier_free(MODEL, PARAMS, CONCEPT[1:], 3.0)
  noise = diffusion.start_noise(MODEL, key[None])
  way = diffusion.trajectory(MODEL, predictor, noise, key[None], num_steps=4)
  np.testing.assert_allclose(bank["x"][12:16], way[:-1, 0], atol=1e-5)


def attack(objectives, params, start, rate, num_steps, rows, batch_size):
  """The adversary that an attack by Adam ends with, and its losses."""
  bank = Slot("bank")
  run = chain(
    provide(bank, lambda *_: rows, reads="nothing"),
    provide(WORDS, lambda *_: start, reads="nothing"),
    phase(
      objectives.imitation(),
      Fit(optax.adam(rate), num_steps),
      draw=Draw(retain=batch_size, source=bank),
      on=WORDS,
      name="attack",
    ),
    record("end", lambda carry: carry[WORDS]),
  )
  _, info = run(Variables(params), None, NO_ROWS, KEY)
  return info["end"], info["attack"].loss


def test_the_attack_gets_better_and_does_nothing_at_rate_zero():
  start = jax.random.normal(jax.random.key(8), (2, WIDTH))
  run = jax.jit(
    lambda rate: attack(losses(), PARAMS, start, rate, 80, banks()[0], 6)
  )
  _, found = run(0.05)
  assert float(found[-20:].mean()) < 0.7 * float(found[:20].mean())
  same, _ = run(0.0)
  np.testing.assert_array_equal(same, start)


def test_two_attack_steps_are_those_of_adam_by_hand():
  """With a fresh gradient at each, and the last update in the result.

  The noise is the sum of a prompt's embeddings times a matrix, whatever the
  image, so that the loss is a quadratic function of the adversary.
  """
  rng = np.random.default_rng(0)
  table, weight = rng.normal(size=(8, WIDTH)), rng.normal(size=(WIDTH, 4))
  embed = lambda p, tokens: p["table"][tokens]
  encode = lambda p, embeddings: embeddings
  linear = MODEL._replace(
    embed=embed,
    encode_embeddings=encode,
    encode=embed,
    eps=lambda p, x, t, c: (c.sum(axis=1) @ p["weight"]).reshape(x.shape),
  )
  prompt = CONCEPT[:1]
  start, rate = rng.normal(size=(2, WIDTH)), 0.3
  bank = {
    "x": jnp.zeros((2, *SHAPE)),
    "tokens": jnp.repeat(prompt, 2, 0),
    "time": jnp.array([5, 2]),
  }
  cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
  got, found = jax.jit(
    lambda p, a: attack(losses(diffusion=linear), p, a, rate, 2, bank, 1)
  )(cast({"table": table, "weight": weight}), cast(start))

  # [1, 2, 0, 0, 0] becomes [1, a, a', 2, 0]: two of padding drop out.
  fixed = table[[1, 2, 0]].sum(axis=0)
  wanted = table[np.asarray(prompt[0])].sum(axis=0) @ weight
  a, mean, square, by_hand = start, 0.0, 0.0, []
  for step in (1, 2):
    error = (fixed + a.sum(axis=0)) @ weight - wanted
    by_hand.append((error**2).mean())
    gradient = np.tile(2 / 4 * weight @ error, (2, 1))
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    scaled = np.sqrt(square / (1 - 0.999**step)) + 1e-8
    a = a - rate * mean / (1 - 0.9**step) / scaled
  np.testing.assert_allclose(found, by_hand, rtol=1e-5)
  np.testing.assert_allclose(got, a, rtol=1e-4)


@functools.cache
def run(**options):
  """A program for concepts and models."""
  options = {**SMALL, **options}
  return jax.jit(
    lambda p, concept: diffusion.adv_unlearn(
      MODEL, concept, RETAIN, optimizer=optax.sgd(0.1), **options
    )(p, None, NO_ROWS, KEY)
  )


@pytest.mark.slow
def test_what_is_retained_weighs_what_it_should():
  """In one program for both weights."""

  def left(weight):
    options = {
      "num_steps": 60,
      "adversary": ADVERSARY._replace(warm_up=60),
      "retention": RETENTION._replace(weight=weight),
    }
    method = diffusion.adv_unlearn(
      MODEL,
      CONCEPT,
      RETAIN,
      optimizer=optax.adam(0.001),
      **{**SMALL, **options},
    )
    out, info = method(PARAMS, None, NO_ROWS, KEY)
    assert info["rounds"]["defend"].loss.shape == (0, 1)
    return losses().retention()(Variables(out), step(1), KEY).mean()

  none, much = jax.jit(jax.vmap(left))(jnp.array([0.0, 100.0]))
  assert float(much) < 0.2 * float(none)


@pytest.mark.slow
def test_options_change_what_is_computed():
  base, _ = run()(PARAMS, CONCEPT)
  for option in (
    {"adversary": ADVERSARY._replace(start="latest")},
    {"retention": RETENTION._replace(steps=2)},
  ):
    other, _ = run(**option)(PARAMS, CONCEPT)
    assert change(base, other) > 1e-6


def test_turns_with_steps_of_their_own_have_infos_of_their_own():
  turns = run(retention=RETENTION._replace(steps=2))
  info = jax.eval_shape(turns, PARAMS, CONCEPT)[1]
  assert info["rounds"]["erase"].loss.shape == (3, 1)
  assert info["rounds"]["retain"].loss.shape == (3, 2)
  assert info["warm_up"]["retain"].loss.shape == (1, 2)
