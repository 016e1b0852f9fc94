"""The partial-diffusion attack on models whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import diffusion
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.partial_diffusion import handed_over_at
from jaxunlearn.diffusion.types import Diffusion, Predictor

SHAPE = (2, 1, 1)
LEVELS = schedules.linear(100, 1e-3, 0.12)
TOKENS = jnp.array([[1, 0], [2, 0], [3, 1]])
KEY = jax.random.key(2)


def linear_model():
  """eps = params x + prompt / 10."""
  return Diffusion(
    init=lambda key: jnp.float32(0),
    eps=lambda p, x, t, c: p * x + c[:, 0, :1, None, None] / 10,
    encode=lambda p, tokens: tokens[..., None].astype(jnp.float32),
    null_tokens=jnp.zeros(2, jnp.int32),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    clip=2.0,
  )


MODEL = linear_model()
ORIGINAL, UNLEARNED = jnp.float32(0.9), jnp.float32(0.3)


def attacked(psi, unlearned=UNLEARNED, key=KEY, **kwargs):
  return diffusion.partial_diffusion(
    MODEL, ORIGINAL, unlearned, TOKENS, psi, key, **kwargs
  )


run = jax.jit(attacked, static_argnames="num_steps")


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_ends_are_the_two_models_alone(eta):
  for psi, params in ((0.0, UNLEARNED), (1.0, ORIGINAL)):
    alone = jax.jit(lambda p: diffusion.sample(MODEL, p, TOKENS, KEY, eta=eta))(
      params
    )
    np.testing.assert_allclose(run(psi, eta=eta), alone, atol=1e-5)
  half = run(0.5, eta=eta)
  assert float(abs(half - run(0.0, eta=eta)).max()) > 1e-3
  assert float(abs(half - run(1.0, eta=eta)).max()) > 1e-3


def test_a_model_that_did_not_change_gives_the_same_for_every_psi():
  psis = jnp.linspace(0, 1, 6)
  images = jax.jit(jax.vmap(lambda p: attacked(p, ORIGINAL)))(psis)
  np.testing.assert_allclose(
    images, jnp.broadcast_to(images[:1], images.shape), atol=1e-5
  )


@pytest.mark.parametrize(
  "psi, num_steps, wanted",
  [
    (0.25, 20, 5),
    (0.55, 20, 11),
    (0.35, 20, 7),
    (0.15, 100, 15),
    (0.001, 100, 0),
    (0.29, 100, 29),
    (1.0, 7, 7),
    (0.0, 7, 0),
  ],
)
def test_the_first_model_takes_the_wanted_number_of_steps(
  psi, num_steps, wanted
):
  """The noise predicted is one constant before, another one after."""
  stop = handed_over_at(psi, num_steps)
  assert int(stop) == wanted
  grid = np.append(np.asarray(schedules.sampling_times(100, num_steps)), -1)
  levels = np.append(np.cumprod(1 - np.linspace(1e-3, 0.12, 100)), 1.0)
  first, second = 0.02, -0.01
  constant = lambda value: Predictor(
    lambda x: (), lambda s, x, t, i: (jnp.full_like(x, value), s)
  )
  model = MODEL._replace(clip=None)
  keys = samplers.image_keys(KEY, 3)
  x = samplers.start_noise(model, keys)
  both = constant(first), constant(second)
  found = jax.jit(
    lambda x, stop: diffusion.hand_over(
      model, *both, x, keys, stop, num_steps=num_steps
    )
  )(x, stop)
  # DDIM with a constant eps, in float64; one marker's step more or less shows.
  y = np.asarray(x, np.float64)
  for i in range(num_steps):
    a, b = levels[grid[i]], levels[grid[i + 1]]
    eps = first if i < wanted else second
    clean = (y - np.sqrt(1 - a) * eps) / np.sqrt(a)
    y = np.sqrt(b) * clean + np.sqrt(1 - b) * eps
  np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-4)


def test_the_curve_is_the_share_of_recognised_images():
  recognise = lambda x: x.mean(axis=(1, 2, 3)) > 0
  psis = jnp.array([0.0, 0.4, 1.0])
  curve = diffusion.concept_curve(
    MODEL, ORIGINAL, UNLEARNED, TOKENS, psis, KEY, recognise, num_steps=10
  )
  wanted = [np.mean(np.asarray(recognise(run(p, num_steps=10)))) for p in psis]
  np.testing.assert_allclose(curve, wanted)
  assert curve.dtype == jnp.float32


def test_an_old_key_and_a_list_of_prompts_do():
  old = jax.random.PRNGKey(2)  # The data of KEY, as two numbers.
  found = diffusion.partial_diffusion(
    MODEL, ORIGINAL, UNLEARNED, TOKENS[:2].tolist(), 0.5, old, num_steps=2
  )
  wanted = diffusion.partial_diffusion(
    MODEL, ORIGINAL, UNLEARNED, TOKENS[:2], 0.5, KEY, num_steps=2
  )
  np.testing.assert_array_equal(found, wanted)


def curve(psis, recognise=lambda x: x[:, 0, 0, 0] > 0):
  return diffusion.concept_curve(
    MODEL, ORIGINAL, UNLEARNED, TOKENS, psis, KEY, recognise
  )


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: attacked(-0.1), r"psi in \[0, 1\]"),
    (lambda: attacked(1.1), r"psi in \[0, 1\]"),
    (lambda: attacked(float("nan")), r"psi in \[0, 1\]"),
    (lambda: attacked(jnp.array([0.1])), "scalar"),
    (lambda: attacked(0.5, noise=jnp.zeros((3, 1, 1, 1))), "noise float "),
    (lambda: curve(jnp.zeros(0)), "psis "),
    (lambda: curve(jnp.float32(0.5)), "psis "),
    (lambda: curve(jnp.array([0.1, 1.2])), "highest_psi"),
    (lambda: curve(jnp.array([0.1]), lambda x: x > 0), "recognise to return"),
  ],
)
def test_mistakes_are_named(call, message):
  refused(message, call)
