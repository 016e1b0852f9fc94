"""AdvUnlearn on a tiny model: its two losses, what moves, and the adversary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_attention
from tiny_attention import CONCEPT, OTHER, RETAIN, SHAPE, WIDTH

from jaxunlearn import diffusion
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.types import Batch, Context, Variables
from jaxunlearn.diffusion import splicing
from jaxunlearn.diffusion.adv_unlearn import (
  Task,
  draw_unfinished,
  erasure,
  imitation,
  retention,
  unfinished_images,
)
from jaxunlearn.diffusion.types import parameter_group

NAN_DATA = {"x": jnp.full((4, 3), jnp.nan)}
MASK = jnp.array([True, False, False, True])
KEY = jax.random.key(0)
SMALL = {
  "num_steps": 4,
  "warm_up": 1,
  "batch_size": 4,
  "retain_batch_size": 3,
  "num_tokens": 2,
  "attack_steps": 2,
  "num_images": 4,
  "sampler_steps": 3,
}
ETA = 0.7


MODEL = tiny_attention.model()
PARAMS = tiny_attention.params(jax.random.key(2))


def shaken(params, seed, size=0.2):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )


@functools.cache
def banks():
  @jax.jit
  def make(params, tokens, seed):
    key = jax.random.key(seed)
    return unfinished_images(
      MODEL, params, tokens, key, num_images=6, num_steps=4
    )

  return {
    "concept_bank": make(PARAMS, CONCEPT, 1),
    "retain_bank": make(PARAMS, RETAIN, 2),
  }


@pytest.fixture(autouse=True, scope="module")
def made_first():
  """What is cached must not be made inside of a `jit`."""
  banks()


def task(**options):
  points = splicing.insertion_points(MODEL, CONCEPT)
  return Task(MODEL, CONCEPT, RETAIN, points, None)._replace(**options)


def batch(adversary=None, current=None):
  extra = {**banks(), "adversary": adversary}
  now = Variables(PARAMS if current is None else current)
  empty = jnp.zeros(0)
  return Batch({}, empty, empty, empty, empty, empty)._replace(
    context=Context(Variables(PARAMS), now, extra, jnp.int32(0))
  )


def drawn(bank, key, size):
  """What a step draws, checked on its own below."""
  return draw_unfinished(banks()[bank], key, size)


def test_the_erasing_loss_is_that_of_the_formula():
  current = shaken(PARAMS, 5)
  weights = jnp.linspace(0.5, 2, 20)
  loss = erasure(task(time_weights=weights), 3, ETA, False)
  got = jax.jit(lambda c: loss(Variables(c), batch(), KEY))(current)
  x, t, which = drawn("concept_bank", KEY, 3)
  eps = lambda p, tokens: np.asarray(
    MODEL.eps(p, x, t, MODEL.encode(p, tokens)), np.float64
  )
  null = eps(PARAMS, jnp.tile(MODEL.null_tokens, (3, 1)))
  wanted = null - ETA * (eps(PARAMS, CONCEPT[which]) - null)
  error = ((eps(current, CONCEPT[which]) - wanted) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(
    got, [(error * np.asarray(weights)[t]).mean()], rtol=1e-4
  )


def test_an_adversary_of_no_embeddings_is_none():
  now = Variables(shaken(PARAMS, 5))
  with_none = batch(jnp.zeros((0, WIDTH)))
  with_two = batch(jnp.ones((2, WIDTH)))
  loss = lambda on: jax.jit(
    lambda given: erasure(task(), 3, ETA, on)(now, given, KEY)
  )
  plain, attacked = loss(False), loss(True)
  wanted = plain(with_none)
  np.testing.assert_allclose(attacked(with_none), wanted, rtol=1e-6)
  moved = attacked(with_two)
  assert abs(float(moved[0] - wanted[0])) > 1e-4


def test_the_retaining_loss_is_nothing_at_the_original_model():
  loss = jax.jit(lambda p: retention(task(), 3)(Variables(p), batch(), KEY))
  np.testing.assert_allclose(loss(PARAMS), [0.0], atol=1e-10)
  assert float(loss(shaken(PARAMS, 5))[0]) > 1e-3


def test_the_adversary_at_the_original_prompt_imitates_perfectly():
  loss = jax.jit(
    lambda adversary: imitation(task(), 3)(adversary, batch(), KEY)
  )
  nothing = loss(jnp.zeros((0, WIDTH)))
  np.testing.assert_allclose(nothing, [0.0], atol=1e-10)
  assert float(loss(jnp.ones((2, WIDTH)))[0]) > 1e-4


def test_images_of_the_bank_lie_on_the_way_of_the_sampler():
  bank = banks()["concept_bank"]
  assert bank["x"].shape == (6, 4, *SHAPE)
  assert bank["prompt"].tolist() == [0, 1, 0, 1, 0, 1]
  np.testing.assert_array_equal(bank["time"], [19, 14, 9, 4])
  key = jax.random.split(jax.random.key(1), 6)[3]
  predictor = diffusion.classifier_free(MODEL, PARAMS, CONCEPT[1:], 3.0)
  noise = diffusion.start_noise(MODEL, key[None])
  way = diffusion.trajectory(MODEL, predictor, noise, key[None], num_steps=4)
  np.testing.assert_allclose(bank["x"][3], way[:-1, 0], atol=1e-5)


def test_a_step_draws_different_images_at_their_times():
  bank = {
    "x": jnp.arange(20.0).reshape(5, 4),
    "prompt": jnp.arange(5) * 10,
    "time": jnp.array([9, 6, 3, 0]),
  }
  seen = []
  for seed in range(30):
    x, t, which = draw_unfinished(bank, jax.random.key(seed), 3)
    row, step = np.asarray(x) // 4, np.asarray(x) % 4
    assert len(set(row.tolist())) == 3
    np.testing.assert_array_equal(which, row * 10)
    np.testing.assert_array_equal(t, 9 - 3 * step)
    seen += [tuple(pair) for pair in zip(row, step)]
  assert len(set(seen)) > 16  # of 20 pairs


def attack(task, params, start, rate, num_steps, extra, batch_size):
  """The adversary that an attack by Adam ends with, and its losses."""
  run = chain(
    *(provide(k, lambda *_, v=v: v) for k, v in extra.items()),
    provide("adversary", lambda *_: start),
    phase(
      imitation(task, batch_size),
      optax.adam(rate),
      num_steps,
      target="adversary",
      name="attack",
    ),
    record("end", lambda carry: carry.extra["adversary"]),
  )
  _, info = run(Variables(params), NAN_DATA, MASK, KEY)
  return info["end"], info["attack"].loss


def test_the_attack_gets_better_and_does_nothing_at_rate_zero():
  start = jax.random.normal(jax.random.key(8), (2, WIDTH))
  run = jax.jit(
    lambda rate: attack(task(), PARAMS, start, rate, 80, banks(), 6)
  )
  _, losses = run(0.05)
  assert float(losses[-20:].mean()) < 0.7 * float(losses[:20].mean())
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
  points = splicing.insertion_points(linear, prompt)
  start, rate = rng.normal(size=(2, WIDTH)), 0.3
  bank = {
    "x": jnp.zeros((1, 2, *SHAPE)),
    "prompt": jnp.zeros(1, int),
    "time": jnp.array([5, 2]),
  }
  cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)
  got, losses = jax.jit(
    lambda p, a: attack(
      Task(linear, prompt, RETAIN, points, None),
      p,
      a,
      rate,
      2,
      {"concept_bank": bank},
      1,
    )
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
  np.testing.assert_allclose(losses, by_hand, rtol=1e-5)
  np.testing.assert_allclose(got, a, rtol=1e-4)


TRACES = []


@functools.cache
def run(**options):
  """A program for concepts and models; `TRACES` grows when it is traced."""
  options = {**SMALL, **options}
  return jax.jit(
    lambda p, concept: diffusion.adv_unlearn(
      tiny_attention.model(TRACES),
      concept,
      RETAIN,
      optimizer=optax.sgd(0.1),
      **options,
    )(p, NAN_DATA, MASK, KEY)
  )


def far(a, b):
  each = jax.tree.map(lambda x, y: float(abs(x - y).max()), a, b)
  return max(jax.tree.leaves(each))


@pytest.mark.slow
@pytest.mark.parametrize(
  "group", ["text-layers", pytest.param("xattn", marks=pytest.mark.slow)]
)
def test_only_the_group_moves_and_data_are_not_read(group):
  out, info = run(group=group)(PARAMS, CONCEPT)
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), out, PARAMS)
  assert changed == parameter_group(PARAMS, group)
  assert info["warm_up"].loss.shape == (1,)
  assert info["rounds"]["attack"].loss.shape == (3, 2)
  assert info["rounds"]["defend"].loss.shape == (3, 1)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_a_new_concept_gives_another_model_without_compiling():
  base, _ = run(group="text-layers")(PARAMS, CONCEPT)
  before = len(TRACES)
  other, _ = run(group="text-layers")(PARAMS, OTHER)
  assert before > 0 and len(TRACES) == before
  assert far(base, other) > 1e-3


@pytest.mark.slow
def test_models_and_concepts_in_one_program_are_those_one_by_one():
  fit = run(group="text-layers")
  models, concepts = (PARAMS, shaken(PARAMS, 12)), (CONCEPT, OTHER)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
  many, _ = jax.jit(jax.vmap(fit))(stacked, jnp.stack(concepts))
  for i in range(2):
    one, _ = fit(models[i], concepts[i])
    assert far(jax.tree.map(lambda x: x[i], many), one) < 2e-4


@pytest.mark.slow
def test_what_is_retained_weighs_what_it_should():
  """In one program for both weights."""

  def left(weight):
    options = {**SMALL, "num_steps": 60, "warm_up": 60}
    method = diffusion.adv_unlearn(
      MODEL,
      CONCEPT,
      RETAIN,
      optimizer=optax.adam(0.001),
      retain_weight=weight,
      **options,
    )
    out, info = method(PARAMS, NAN_DATA, MASK, KEY)
    assert info["rounds"]["defend"].loss.shape == (0, 1)
    return retention(task(), 6)(Variables(out), batch(), KEY)[0]

  none, much = jax.jit(jax.vmap(left))(jnp.array([0.0, 100.0]))
  assert float(much) < 0.2 * float(none)


@pytest.mark.slow
def test_options_change_what_is_computed():
  base, _ = run(group="text-layers")(PARAMS, CONCEPT)
  for option in ({"attack_start": "latest"}, {"retain_steps": 2}):
    other, _ = run(**option)(PARAMS, CONCEPT)
    assert far(base, other) > 1e-6


def test_turns_with_steps_of_their_own_have_infos_of_their_own():
  info = jax.eval_shape(run(retain_steps=2), PARAMS, CONCEPT)[1]
  rounds = info["rounds"]["defend"]
  assert rounds["erase"].loss.shape == (3, 1, 1)
  assert rounds["retain"].loss.shape == (3, 1, 2)
  assert info["warm_up"]["retain"].loss.shape == (1, 2)


def test_few_images_are_one_a_prompt_at_least():
  options = {"batch_size": 1, "retain_batch_size": 1, "num_images": 1}
  method = diffusion.adv_unlearn(MODEL, CONCEPT, RETAIN, **{**SMALL, **options})
  names = ("concept_bank", "retain_bank")
  made = record("made", lambda carry: {k: carry.extra[k] for k in names})
  _, info = jax.eval_shape(chain(method, made), PARAMS, NAN_DATA, MASK, KEY)
  assert info["made"]["concept_bank"]["x"].shape == (2, 3, *SHAPE)
  assert info["made"]["retain_bank"]["x"].shape == (3, 3, *SHAPE)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"retain_prompts": RETAIN[:0]}, "retain_prompts to hold prompts"),
    ({"retain_batch_size": 4}, "fill a batch of 4"),
    (
      {"retain_prompts": jnp.concatenate([RETAIN, CONCEPT])},
      "without prompts of the concept",
    ),
    ({"prompts": CONCEPT[:, :4]}, "prompts of shape"),
    ({"prompts": jnp.array([[1, 0, 0, 0, 0]])}, "to name a concept"),
    ({"num_tokens": 3}, "padding for num_tokens=3"),
    ({"insertion": "inside"}, "insertion to be one of"),
    ({"attack_start": "zero"}, "attack_start to be one of"),
    ({"group": "most"}, "group to be one of"),
    ({"warm_up": -1}, "warm_up >= 0"),
    ({"warm_up": 5}, "num_steps >= 5"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"attack_steps": -1}, "attack_steps >= 0"),
    ({"retain_steps": -1}, "retain_steps >= 0"),
    ({"retain_weight": -1.0}, "retain_weight >= 0"),
    ({"num_images": 3}, "num_images >= 4"),
    ({"sampler_steps": 0}, "sampler_steps in 1 .. 20"),
    ({"chunk_size": 0}, "chunk_size > 0"),
    ({"time_weights": jnp.ones(3)}, "time_weights of shape"),
    ({"diffusion": 0}, "encode_embeddings to be set"),
  ],
)
def test_errors_say_what_was_found(change, message):
  given = {
    "diffusion": MODEL,
    "prompts": CONCEPT,
    "retain_prompts": RETAIN,
    **SMALL,
    **change,
  }
  if given["diffusion"] == 0:
    given["diffusion"] = MODEL._replace(encode_embeddings=None)
  with pytest.raises(ValueError, match=message):
    diffusion.adv_unlearn(**given)
