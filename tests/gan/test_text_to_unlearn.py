"""Text-to-Unlearn: directions, limits, mappers; and scores of what is left."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_close, normal
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import gan, toy
from jaxunlearn.gan.text_to_unlearn import directional_loss, reference_direction

KEY = jax.random.key(0)
FIT = ju.Fit(optax.sgd(0.1), 5, 8)
MAPPER = gan.Mapper(ju.Fit(optax.adam(0.05), 60, 16), (6,), near=0.01)
PROMPT = jnp.array([0.0, 1.0, 0.0, 0.0])


def encode(x):
  """Three numbers and a constant, so that no sample has no length."""
  return jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)


def told(prompt=PROMPT):
  return ju.Request(concept=prompt)


def score(x):
  e = encode(x)
  return (e @ PROMPT) / jnp.linalg.norm(e, axis=1)


def test_the_directional_loss_is_one_less_the_cosine():
  i = np.array([2.0, 0.0, 0.0], np.float32)
  moved = np.array([[5.0, 0, 0], [-3.0, 0, 0], [0, 4.0, 0]], np.float32)
  found = directional_loss(moved, i)
  np.testing.assert_allclose(found, [0, 2, 1], atol=1e-4)
  assert_close(directional_loss(moved, 10 * i), found)


def test_the_slope_is_finite_where_nothing_has_changed():
  slope = jax.grad(lambda m: directional_loss(m, jnp.ones(3)).sum())
  assert np.isfinite(slope(jnp.zeros((2, 3)))).all()
  assert (slope(jnp.zeros((2, 3))) < 0).all()


def test_the_reference_direction_turns_with_its_arguments():
  plain, edit = normal(0, 6, 4), normal(1, 6, 4)
  norm = lambda x: x / np.linalg.norm(np.float64(x), axis=1, keepdims=True)
  found = reference_direction(plain, edit)
  assert_close(found, (norm(plain) - norm(edit)).mean(axis=0))
  assert_close(reference_direction(edit, plain), -found)
  refused("has no effect", reference_direction, plain, plain)
  refused("finite", reference_direction, plain, edit * np.nan)


def test_without_directional_losses_nothing_moves():
  model, variables, _, _ = toy.gan()[:4]
  method = gan.text_to_unlearn(
    *(model, encode, FIT), mapper=MAPPER, direction=0.0, hinge=0.0
  )
  out, info = method.compiled(variables, None, told(), KEY)
  jax.tree.map(np.testing.assert_array_equal, out, variables)
  assert (info["unlearn"].loss == 0).all()


@pytest.fixture(scope="module")
def mapped():
  """The linear generator, a mapper towards the prompt, and scores of latents."""
  model, variables, _, _ = toy.gan()[:4]
  moves = gan.train_mapper(model, encode, variables, PROMPT, KEY, MAPPER)
  w = model.noise(jax.random.split(jax.random.key(8), 200))
  return model, variables, w, gan.edited(moves, w)


def test_a_mapper_moves_latents_towards_its_prompt(mapped):
  model, variables, w, v = mapped
  of = lambda w: score(model.synthesis(variables.params["generator"], w))
  assert of(v).mean() > of(w).mean() + 0.3


def test_edited_latents_lose_what_the_prompt_names(mapped):
  model, variables, w, v = mapped
  method = gan.text_to_unlearn(
    *(model, encode, ju.Fit(optax.adam(0.02), 150, 16)),
    mapper=MAPPER,
    keep=(gan.Keep(0.1, lambda a, b: jnp.square(a - b).mean(axis=1)),),
  )
  out, _ = method.compiled(variables, None, told(), jax.random.key(5))
  before, now = (u.params["generator"] for u in (variables, out))
  of = lambda generator, w: score(model.synthesis(generator, w))
  left = gan.degree_of_unlearning(of(now, v), of(before, v), of(before, w))
  # A third of the way, 0.31; what is to be kept pulls the other way.
  assert left > 0.2


def test_edited_samples_are_held_by_what_they_were_without_the_edit(mapped):
  model, variables, w, v = mapped
  square = lambda a, b: jnp.square(a - b).mean(axis=1)

  def distance(weight):
    method = gan.text_to_unlearn(
      *(model, encode, ju.Fit(optax.adam(0.02), 150, 16)),
      mapper=MAPPER,
      direction=0.0,
      hinge=0.0,
      keep_edited=(gan.Keep(weight, square),),
    )
    out, _ = method.compiled(variables, None, told(), jax.random.key(5))
    before, now = (u.params["generator"] for u in (variables, out))
    old, new = model.synthesis(before, w), model.synthesis(now, v)
    return square(old, new).mean()

  assert distance(1.0) < 0.8 * distance(0.0)


def test_prompts_under_vmap_are_a_loop():
  model, variables, _, _ = toy.gan()[:4]
  method = gan.text_to_unlearn(model, encode, FIT, mapper=MAPPER)
  run = lambda p: method.compiled(variables, None, told(p), KEY)[0].params[
    "generator"
  ]
  prompts = jnp.asarray(normal(2, 4, 4))
  many = jax.jit(jax.vmap(run))(prompts)
  alone = jax.jit(run)
  for i, prompt in enumerate(prompts):
    jax.tree.map(
      lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-4),
      *(many, alone(prompt)),
    )


def test_a_prompt_may_be_a_constant_of_a_program():
  model, variables, _, _ = toy.gan()[:4]
  ascent = gan.prompt_ascent(model, encode, FIT)
  run = lambda key: ascent.compiled(variables, None, told(), key)[0]
  chex.assert_trees_all_equal_shapes(jax.eval_shape(run, KEY), variables)


def test_plain_ascent_lowers_the_score_of_samples():
  model, variables, data, _ = toy.gan()[:4]
  fit = ju.Fit(optax.adam(0.05), 40, 16)
  out, _ = gan.prompt_ascent(model, encode, fit).compiled(
    variables, None, told(), KEY
  )
  now = gan.pool(model, out, jax.random.key(3), 64)["x"]
  assert score(now).mean() < score(data["x"]).mean() - 0.3


BAD = {
  "width": (
    told(jnp.ones(3)),
    r"a prompt float \[4\], got float32 \(3,\)",
  ),
  "integers": (told(jnp.ones(4, int)), "prompt float"),
  "zeros": (told(jnp.zeros(4)), "with a length"),
  "nan": (told(PROMPT * jnp.nan), "prompt to be finite"),
  "none": (ju.Request(), "a request of a concept, got none"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_prompts_are_refused(name):
  request, message = BAD[name]
  model, variables, _, _ = toy.gan()[:4]
  ascent = gan.prompt_ascent(model, encode, FIT)
  refused(message, ascent, variables, None, request, KEY)


def test_pul_counts_what_is_gone():
  before = np.array([1, 1, 0, 1, 1], bool)
  assert gan.unlearned_share(before, before) == 0
  assert gan.unlearned_share(before, np.zeros(5, bool)) == 1
  assert gan.unlearned_share(before, np.array([1, 0, 0, 0, 0], bool)) == 0.75
  assert gan.unlearned_share(before, np.ones(5, bool)) == -0.25
  refused("to have a negative", gan.unlearned_share, ~np.ones(5, bool), before)
  refused(r"after of shape", gan.unlearned_share, before, before[:3])


def test_the_degree_of_unlearning_is_0_at_the_original_and_1_at_plain_scores():
  edited, plain = normal(0, 30) + 2, normal(1, 20)
  degree = jax.jit(gan.degree_of_unlearning)
  assert_close(degree(edited, edited, plain) + 1, 1.0)
  assert_close(degree(plain, edited, plain), 1.0)
  # A shift by t of all is a distance of t.
  half = degree(plain + 0.5, plain + 2, plain)
  assert_close(half, 0.75)
  assert np.isnan(degree(plain, plain, plain))


def test_recall_is_the_share_of_rows_within_a_sample_s_neighbourhood():
  x, y, k = normal(0, 40, 3), normal(1, 25, 3, scale=2.0), 3
  gaps = lambda a, b: np.linalg.norm(np.float64(a)[:, None] - b[None], axis=-1)
  radius = np.sort(gaps(x, x), axis=1)[:, k]
  wanted = (gaps(y, x) <= radius[None]).any(axis=1).mean()
  assert 0 < wanted < 1
  assert_close(gan.recall(x, y, neighbours=k), wanted)
  assert gan.recall(x, x) == 1 and gan.recall(x, x + 100) == 0
  assert np.isnan(gan.recall(x * np.nan, y))
  refused("neighbours in 1 .. 39", gan.recall, x, y, neighbours=40)
  refused("Expected features", gan.recall, x, y[:, :2])
