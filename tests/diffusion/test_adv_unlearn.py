"""AdvUnlearn on a tiny model: its two losses, what moves, and the adversary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import diffusion
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.types import Batch, Context, Variables
from jaxunlearn.diffusion import schedules, splicing
from jaxunlearn.diffusion.adv_unlearn import (
  Task,
  draw_unfinished,
  erasure,
  imitation,
  retention,
  unfinished_images,
)
from jaxunlearn.diffusion.types import parameter_group

SHAPE, LENGTH, VOCAB = (2, 2, 1), 5, 8
LEVELS = schedules.linear(20, 1e-3, 0.3)
CONCEPT = jnp.array([[1, 2, 0, 0, 0], [1, 3, 2, 0, 0]])
OTHER = jnp.array([[1, 4, 0, 0, 0], [1, 3, 4, 0, 0]])
RETAIN = jnp.array([[1, 5, 0, 0, 0], [1, 6, 0, 0, 0], [1, 3, 7, 0, 0]])
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


@functools.cache
def model():
  return diffusion.text_to_image(
    image_shape=SHAPE,
    vocab_size=VOCAB,
    null_tokens=(1, 0, 0, 0, 0),
    alphas_bar=LEVELS,
    width=8,
    num_blocks=1,
    num_heads=2,
    text_width=8,
  )


def shaken(params, seed, size=0.2):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )


@functools.cache
def params():
  return shaken(jax.jit(model().init)(KEY), 1)


@functools.cache
def banks():
  @jax.jit
  def make(params, tokens, seed):
    key = jax.random.key(seed)
    return unfinished_images(
      model(), params, tokens, key, num_images=6, num_steps=4
    )

  return {
    "concept_bank": make(params(), CONCEPT, 1),
    "retain_bank": make(params(), RETAIN, 2),
  }


@pytest.fixture(autouse=True, scope="module")
def made_first():
  """What is cached must not be made inside of a `jit`."""
  banks()


def task(**options):
  points = splicing.insertion_points(model(), CONCEPT)
  return Task(model(), CONCEPT, RETAIN, points, None)._replace(**options)


def batch(adversary=None, current=None):
  extra = {**banks(), "adversary": adversary}
  now = Variables(params() if current is None else current)
  empty = jnp.zeros(0)
  return Batch({}, empty, empty, empty, empty, empty)._replace(
    context=Context(Variables(params()), now, extra, jnp.int32(0))
  )


def drawn(bank, key, size):
  """What a step draws, checked on its own below."""
  return draw_unfinished(banks()[bank], key, size)


def test_the_erasing_loss_is_that_of_the_formula():
  current = shaken(params(), 5)
  weights = jnp.linspace(0.5, 2, 20)
  loss = erasure(task(time_weights=weights), 3, ETA, False)
  got = jax.jit(lambda c: loss(Variables(c), batch(), KEY))(current)
  x, t, which = drawn("concept_bank", KEY, 3)
  eps = lambda p, tokens: np.asarray(
    model().eps(p, x, t, model().encode(p, tokens)), np.float64
  )
  null = eps(params(), jnp.tile(model().null_tokens, (3, 1)))
  wanted = null - ETA * (eps(params(), CONCEPT[which]) - null)
  error = ((eps(current, CONCEPT[which]) - wanted) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(
    got, [(error * np.asarray(weights)[t]).mean()], rtol=1e-4
  )


def test_an_adversary_of_no_embeddings_is_none():
  current = shaken(params(), 5)
  with_none = batch(jnp.zeros((0, 8)))
  with_two = batch(jnp.ones((2, 8)))
  plain = erasure(task(), 3, ETA, False)
  attacked = erasure(task(), 3, ETA, True)
  wanted = plain(Variables(current), with_none, KEY)
  np.testing.assert_array_equal(
    attacked(Variables(current), with_none, KEY), wanted
  )
  moved = attacked(Variables(current), with_two, KEY)
  assert abs(float(moved[0] - wanted[0])) > 1e-4


def test_the_retaining_loss_is_nothing_at_the_original_model():
  loss = jax.jit(lambda p: retention(task(), 3)(Variables(p), batch(), KEY))
  np.testing.assert_allclose(loss(params()), [0.0], atol=1e-10)
  assert float(loss(shaken(params(), 5))[0]) > 1e-3


def test_the_adversary_at_the_original_prompt_imitates_perfectly():
  loss = imitation(task(), 3)
  nothing = loss(jnp.zeros((0, 8)), batch(), KEY)
  np.testing.assert_allclose(nothing, [0.0], atol=1e-10)
  assert float(loss(jnp.ones((2, 8)), batch(), KEY)[0]) > 1e-4


def test_images_of_the_bank_lie_on_the_way_of_the_sampler():
  bank = banks()["concept_bank"]
  assert bank["x"].shape == (6, 4, *SHAPE)
  assert bank["prompt"].tolist() == [0, 1, 0, 1, 0, 1]
  np.testing.assert_array_equal(bank["time"], [19, 14, 9, 4])
  key = jax.random.split(jax.random.key(1), 6)[3]
  predictor = diffusion.classifier_free(model(), params(), CONCEPT[1:], 3.0)
  noise = diffusion.start_noise(model(), key[None])
  way = diffusion.trajectory(model(), predictor, noise, key[None], num_steps=4)
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


def attacking(optimizer, num_steps, current):
  """The adversary that an attack ends with, and the losses on the way."""

  def found(carry):
    return carry.extra["adversary"]

  start = jax.random.normal(jax.random.key(8), (2, 8))
  run = chain(
    *(provide(k, lambda *_, v=v: v) for k, v in banks().items()),
    provide("adversary", lambda *_: start),
    phase(
      imitation(task(), 6),
      optimizer,
      num_steps,
      target="adversary",
      name="attack",
    ),
    record("end", found),
  )
  _, info = jax.jit(run)(Variables(current), NAN_DATA, MASK, KEY)
  return start, info["end"], info["attack"].loss


def test_the_attack_gets_better_and_its_last_update_counts():
  current = shaken(params(), 5)
  start, _, losses = attacking(optax.adam(0.05), 80, current)
  assert float(losses[-20:].mean()) < 0.9 * float(losses[:20].mean())
  _, same, _ = attacking(optax.adam(0.0), 3, current)
  np.testing.assert_array_equal(same, start)
  _, once, _ = attacking(optax.sgd(1.0), 1, current)
  assert float(jnp.abs(once - start).max()) > 1e-4


@functools.cache
def run(**options):
  options = {**SMALL, **options}
  return jax.jit(
    lambda p, concept, key: diffusion.adv_unlearn(
      model(), concept, RETAIN, optimizer=optax.sgd(0.1), **options
    )(p, NAN_DATA, MASK, key)
  )


@pytest.mark.parametrize(
  "group", ["text-layers", pytest.param("xattn", marks=pytest.mark.slow)]
)
def test_only_the_group_moves_and_data_are_not_read(group):
  out, info = run(group=group)(params(), CONCEPT, KEY)
  may_move = parameter_group(params(), group)
  for path, new in jax.tree_util.tree_leaves_with_path(out):
    old, moves = params(), may_move
    for step in path:
      old, moves = old[step.key], moves[step.key]
    assert moves or (np.asarray(new) == np.asarray(old)).all(), path
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), out, params())
  assert any(jax.tree.leaves(changed))
  assert info["warm_up"].loss.shape == (1,)
  assert info["rounds"]["attack"].loss.shape == (3, 2)
  assert info["rounds"]["defend"].loss.shape == (3, 1)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_concepts_in_one_program_are_those_one_by_one():
  many, _ = jax.jit(jax.vmap(lambda c: run()(params(), c, KEY)))(
    jnp.stack([CONCEPT, OTHER])
  )
  for i, concept in enumerate((CONCEPT, OTHER)):
    one, _ = run()(params(), concept, KEY)
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one)):
      np.testing.assert_allclose(a[i], b, atol=2e-4)


def test_a_new_concept_does_not_compile_again():
  traces = []

  def eps(*args):
    traces.append(1)
    return model().eps(*args)

  counted = model()._replace(eps=eps)
  fit = jax.jit(
    lambda concept: diffusion.adv_unlearn(counted, concept, RETAIN, **SMALL)(
      params(), NAN_DATA, MASK, KEY
    )[0]
  )
  fit(CONCEPT)
  before = len(traces)
  fit(OTHER)
  assert before > 0 and len(traces) == before


def test_what_is_retained_weighs_what_it_should():
  """In one program for both weights."""

  def left(weight):
    options = {**SMALL, "num_steps": 60, "warm_up": 60}
    method = diffusion.adv_unlearn(
      model(),
      CONCEPT,
      RETAIN,
      optimizer=optax.adam(0.001),
      retain_weight=weight,
      **options,
    )
    out, info = method(params(), NAN_DATA, MASK, KEY)
    assert info["rounds"]["defend"].loss.shape == (0, 1)
    return retention(task(), 6)(Variables(out), batch(), KEY)[0]

  none, much = jax.jit(jax.vmap(left))(jnp.array([0.0, 100.0]))
  assert float(much) < 0.2 * float(none)


@pytest.mark.slow
def test_options_change_what_is_computed():
  base, _ = run()(params(), CONCEPT, KEY)
  for option in ({"attack_start": "latest"}, {"retain_steps": 2}):
    other, _ = run(**option)(params(), CONCEPT, KEY)
    far = jax.tree.map(lambda a, b: float(abs(a - b).max()), base, other)
    assert max(jax.tree.leaves(far)) > 1e-6


def test_turns_with_steps_of_their_own_have_infos_of_their_own():
  _, info = run(retain_steps=2)(params(), CONCEPT, KEY)
  rounds = info["rounds"]["defend"]
  assert rounds["erase"].loss.shape == (3, 1, 1)
  assert rounds["retain"].loss.shape == (3, 1, 2)
  assert info["warm_up"]["retain"].loss.shape == (1, 2)


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
    ({"time_weights": jnp.ones(3)}, "time_weights of shape"),
    ({"diffusion": 0}, "encode_embeddings to be set"),
  ],
)
def test_errors_say_what_was_found(change, message):
  given = {
    "diffusion": model(),
    "prompts": CONCEPT,
    "retain_prompts": RETAIN,
    **SMALL,
    **change,
  }
  if given["diffusion"] == 0:
    given["diffusion"] = model()._replace(encode_embeddings=None)
  with pytest.raises(ValueError, match=message):
    diffusion.adv_unlearn(**given)
