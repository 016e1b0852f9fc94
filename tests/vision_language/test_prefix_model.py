"""An image is read as tokens of its own; everything else is the decoder's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import worlds
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language, vision_language
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.types import as_step
from jaxunlearn.language import Text

KEY = jax.random.key(0)
DECODER = language.language_model(
  language.DecoderConfig(
    32, max_length=12, width=16, num_layers=2, num_heads=2, mlp_width=24
  )
)
TOWER = from_linen(ju.models.PatchTower(2, (6, 8)), features=False)
VLM = vision_language.prefix_model(DECODER, TOWER, num_tokens=4)
IMAGES = jnp.asarray(
  np.random.default_rng(5).normal(size=(10, 8, 8, 1)), jnp.float32
)


@pytest.fixture(scope="module")
def world():
  return worlds.pictures()


def words(num=3, length=6):
  tokens = jnp.asarray(
    np.random.default_rng(1).integers(0, 32, (num, length)), jnp.int32
  )
  return Text(tokens, jnp.full(num, length), jnp.full(num, 3))


def test_a_row_without_an_image_is_the_decoders(world):
  x = vision_language.with_images(words(), [-1, -1, -1], 10, VLM)
  decoder = ju.Variables(world.variables.params["decoder"])
  alone = jax.jit(DECODER.model.predict)(decoder, words())
  both = jax.jit(world.subject.model.predict)(world.variables, x)
  np.testing.assert_allclose(both[:, :6], alone, atol=1e-5)


def test_the_prefix_is_the_projected_features_of_the_rows_image(world):
  x = vision_language.with_images(words(), [7, 2, -1], 10, VLM)
  assert vision_language.image_of(x, VLM).tolist() == [7, 2, -1]
  params = jax.tree.map(np.asarray, world.variables.params)
  seen = IMAGES[jnp.array([7, 2])]
  features = jax.jit(TOWER.predict)(ju.Variables(params["tower"]), seen)
  wanted = np.asarray(features) @ params["projector"]["kernel"]
  wanted = wanted + params["projector"]["bias"]
  found = jax.jit(world.subject.embed)(world.variables, x.tokens)
  np.testing.assert_allclose(found[:2, :4], wanted, atol=1e-5)
  table = params["decoder"]["embed"]["embedding"]
  np.testing.assert_allclose(found[:2, 4:], table[words().tokens[:2]])
  np.testing.assert_allclose(found[2, :6], table[words().tokens[2]])


def test_another_image_is_another_answer_and_words_stay(world):
  x = vision_language.with_images(words(), [7, 2, -1], 10, VLM)
  other = vision_language.seeing(x, jnp.array([3, 2, 5]), VLM)
  assert vision_language.image_of(other, VLM).tolist() == [3, 2, -1]
  predict = jax.jit(world.subject.model.predict)
  a, b = (np.asarray(predict(world.variables, r)) for r in (x, other))
  gap = np.abs(a - b).max(axis=(1, 2))
  assert gap[0] > 1e-3 and gap[1] == 0 and gap[2] == 0


def test_what_is_said_of_an_image_is_what_is_likeliest(world):
  x = vision_language.with_images(words(), [7, 2, -1], 10, VLM)
  say = lambda v: language.generate(world.subject, v, x, KEY, max_new=2)
  said = jax.jit(say)(world.variables)
  predict = jax.jit(world.subject.model.predict)
  logits = predict(world.variables, x)
  rows = jnp.arange(3)
  first = logits[rows, x.prompt - 1].argmax(-1)
  assert said.tokens[:, 0].tolist() == first.tolist()
  longer = x._replace(tokens=x.tokens.at[rows, x.prompt].set(first))
  again = predict(world.variables, longer)
  second = again[rows, x.prompt].argmax(-1)
  assert said.tokens[:, 1].tolist() == second.tolist()


def test_parts_keep_their_weights_when_joined():
  decoder = jax.jit(DECODER.model.init)(KEY, words())
  tower = jax.jit(TOWER.init)(KEY, IMAGES)
  made = VLM.join(tower, decoder, IMAGES, KEY)
  for name, part in (("tower", tower), ("decoder", decoder)):
    same = jax.tree.map(lambda a, b: a is b, made.params[name], part.params)
    assert all(jax.tree.leaves(same))
  assert made.params["projector"]["kernel"].shape == (8, 16)


def same_tower(after, before):
  pairs = jax.tree.map(
    lambda a, b: bool((a == b).all()), after["tower"], before["tower"]
  )
  return all(jax.tree.leaves(pairs))


FIT = ju.Fit(optax.adamw(0.01), 2, 8)
WAYS = {
  "masked": lambda lm: ju.masked(
    language.gradient_ascent(lm, FIT), vision_language.FROZEN_TOWER
  ),
  "adapters": lambda lm: ju.through(
    vision_language.lora_and_projector(rank=2),
    lambda part: language.gradient_ascent(part, FIT),
    lm,
  ),
}


@pytest.mark.parametrize(
  "way", ["masked", pytest.param("adapters", marks=pytest.mark.slow)]
)
def test_a_frozen_tower_keeps_its_bits_and_the_projector_moves(world, way):
  method = jax.jit(WAYS[way](world.subject))
  made, _ = method(world.variables, world.data, world.requests[0], KEY)
  after, before = made.params, world.variables.params
  assert same_tower(after, before)
  kernels = (p["projector"]["kernel"] for p in (after, before))
  assert jnp.abs(jnp.subtract(*kernels)).max() > 1e-4
  blocks = [p["decoder"]["blocks"] for p in (after, before)]
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), *blocks)
  assert moved["mlp"]["up"]["kernel"]
  assert moved["norm_1"]["scale"] == (way == "masked")


def test_images_are_moved_in_training_mode_only(world):
  lm = VLM.over(IMAGES, lambda key, image: -image)
  step = as_step({"x": world.data["x"]})
  loss = lambda model, train: jax.jit(
    lambda v: model.task.loss(v, step, KEY, train=train).value
  )(world.variables)
  turned = VLM.over(-IMAGES)
  np.testing.assert_allclose(loss(lm, False), loss(world.subject, False))
  np.testing.assert_allclose(loss(lm, True), loss(turned, True), rtol=1e-5)


BAD = {
  "image in -1 .. 9": lambda: vision_language.with_images(
    words(), [0, 10, 1], 10, VLM
  ),
  r"image int \[3\]": lambda: vision_language.with_images(
    words(), [0, 1], 10, VLM
  ),
  "tokens in 0 .. 71": lambda: VLM.over(IMAGES).model.predict(
    ju.Variables({}),
    Text(jnp.full((1, 6), 72), jnp.full(1, 6), jnp.full(1, 5)),
  ),
  r"images \[M > 0, H, W, C\]": lambda: VLM.over(IMAGES[0]),
  "num_tokens < max_length=12": lambda: vision_language.prefix_model(
    DECODER, TOWER, num_tokens=12
  ),
  "num_tokens to be a whole": lambda: vision_language.prefix_model(
    DECODER, TOWER, num_tokens=0
  ),
  "num_tokens=9, F": lambda: vision_language.prefix_model(
    DECODER, TOWER, num_tokens=9
  ).init(KEY, IMAGES),
  "multiples of 4": lambda: TOWER.init(KEY, jnp.zeros((1, 6, 6, 1))),
  "targets to match": lambda: vision_language.lora_and_projector(
    rank=2, targets="blocks/none"
  ).apart(worlds.pictures().variables, KEY),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input(said):
  refused(said, BAD[said])
