"""Safe latent guidance against a step-by-step reference in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import diffusion
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.safe_guidance import (
  SAFETY_MAX,
  SAFETY_WEAK,
  SafetyStrength,
  safe_guidance,
)
from jaxunlearn.diffusion.types import Diffusion

SHAPE = (2, 1, 2)
LEVELS = schedules.linear(100, 1e-3, 0.12)
TOKENS = jnp.array([[1, 0], [2, 3], [3, 1]])
SAFETY = jnp.array([2, 1])
KEYS = samplers.image_keys(jax.random.key(2), 3)
MIXED = SafetyStrength(2, 3.0, 0.05, 0.3, 0.6)


def encode(params, tokens):
  return tokens[..., None].astype(jnp.float32)


def linear_model():
  """eps depends on image, time and both tokens of the prompt."""

  def eps(p, x, t, c):
    shift = jnp.stack([c[:, 0], -c[:, 1] / 3], axis=-1)[:, None]
    return p * x + shift / 10 + t[:, None, None, None] / 1000

  return Diffusion(
    init=lambda key: jnp.float32(0),
    eps=eps,
    encode=encode,
    null_tokens=jnp.zeros(2, jnp.int32),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    clip=2.0,
    vocab_size=4,
  )


MODEL, PARAMS = linear_model(), jnp.float32(0.4)


def guarded(strength, guidance=4.0, tokens=TOKENS, safety=SAFETY, **steps):
  predictor = safe_guidance(
    MODEL, PARAMS, tokens, guidance, safety_tokens=safety, strength=strength
  )
  x = samplers.start_noise(MODEL, KEYS)
  return samplers.walk(MODEL, predictor, x, KEYS, num_steps=8, **steps)


def plain(guidance=4.0):
  return diffusion.sample(
    MODEL, PARAMS, TOKENS, KEYS, num_steps=8, guidance=guidance
  )


@pytest.mark.parametrize(
  "strength", [MIXED, SAFETY_WEAK._replace(warmup=3), SAFETY_MAX]
)
def test_every_step_is_that_of_the_released_code(strength):
  predictor = safe_guidance(
    MODEL, PARAMS, TOKENS, 4.0, safety_tokens=SAFETY, strength=strength
  )
  x = samplers.start_noise(MODEL, KEYS)
  state, velocity = predictor.init(x), np.zeros(x.shape)
  rng = np.random.default_rng(0)
  acted = 0
  for index in range(6):
    image = rng.normal(size=x.shape)
    time = 90 - 10 * index

    def noise(tokens, image=image, time=time):
      c = np.asarray(tokens, np.float64)
      shift = np.stack([c[:, 0], -c[:, 1] / 3], -1)[:, None, None] / 10
      return 0.4 * image + shift + time / 1000

    null = noise(np.zeros((3, 2)))
    prompted, shunned = noise(TOKENS), noise(np.tile(SAFETY, (3, 1)))
    gap = prompted - shunned
    share = np.minimum(np.abs(gap) * float(strength.scale), 1)
    share[gap >= strength.threshold] = 0
    steer = share * (shunned - null) + strength.momentum_scale * velocity
    velocity = strength.momentum * velocity + (1 - strength.momentum) * steer
    if index < strength.warmup:
      steer = 0 * steer
    acted += np.abs(steer).max() > 1e-3
    wanted = null + 4.0 * (prompted - null - steer)
    found, state = predictor.predict(
      state, jnp.asarray(image, jnp.float32), jnp.full(3, time), index
    )
    np.testing.assert_allclose(found, wanted, atol=2e-6, rtol=1e-5)
    np.testing.assert_allclose(state, velocity, atol=1e-6)
  assert acted == 6 - strength.warmup


@pytest.mark.slow
def test_without_scale_and_momentum_it_is_plain_guidance_bit_for_bit():
  off = MIXED._replace(scale=0.0, momentum_scale=0.0)
  for guidance in (0.0, 1.0, 4.0):
    np.testing.assert_array_equal(guarded(off, guidance), plain(guidance))
    assert (guarded(MIXED, guidance) != plain(guidance)).any() == (guidance > 0)


def test_a_warm_up_of_all_steps_is_plain_guidance():
  np.testing.assert_array_equal(guarded(MIXED._replace(warmup=8)), plain())
  assert (guarded(MIXED._replace(warmup=7)) != plain()).any()


def test_a_high_threshold_counts_every_difference_in_full():
  """mu is 1 wherever the prompts differ: eps = e + w (p - s)."""
  strength = SafetyStrength(0, 1e9, 1e9, 0.0, 0.0)
  predictor = safe_guidance(
    MODEL, PARAMS, TOKENS, 4.0, safety_tokens=SAFETY, strength=strength
  )
  x, t = samplers.start_noise(MODEL, KEYS), jnp.full(3, 50)
  found, _ = predictor.predict(predictor.init(x), x, t, 0)
  of = lambda tokens: np.asarray(
    MODEL.eps(PARAMS, x, t, encode(None, jnp.broadcast_to(tokens, (3, 2))))
  )
  null, p, s = of(jnp.zeros(2, int)), of(TOKENS), of(SAFETY)
  assert (p != s).any() and (p == s).any()
  wanted = null + 4 * np.where(p != s, p - s, p - null)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_prompt_that_is_the_safety_prompt_is_left_alone():
  alike = guarded(
    SAFETY_MAX._replace(momentum_scale=0.0), tokens=jnp.tile(SAFETY, (3, 1))
  )
  wanted = diffusion.sample(
    MODEL, PARAMS, jnp.tile(SAFETY, (3, 1)), KEYS, num_steps=8
  )
  np.testing.assert_array_equal(alike, wanted)


def test_the_dtype_of_the_images_stays():
  x = samplers.start_noise(MODEL, KEYS).astype(jnp.bfloat16)
  predictor = safe_guidance(
    MODEL, PARAMS, TOKENS, 4.0, safety_tokens=SAFETY, strength=MIXED
  )
  out = samplers.walk(MODEL, predictor, x, KEYS, num_steps=4)
  assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "options, match",
  [
    ({"tokens": TOKENS[0]}, "tokens int "),
    ({"safety": jnp.array([1, 2, 3])}, "safety_tokens int "),
    ({"safety": jnp.array([1, 4])}, "safety_tokens in 0 .. 3"),
    ({"safety": SAFETY * 1.0}, "safety_tokens int "),
    ({"safety": jnp.tile(SAFETY, (2, 1))}, "safety_tokens for 3 images"),
    ({"strength": MIXED._replace(scale=-1.0)}, "scale >= 0"),
    ({"strength": MIXED._replace(warmup=-1)}, "warmup >= 0"),
    ({"strength": MIXED._replace(momentum_scale=-1.0)}, "momentum_scale >= 0"),
    ({"strength": MIXED._replace(momentum=1.5)}, "momentum in"),
  ],
)
def test_what_does_not_fit_is_refused(options, match):
  refused(match, guarded, **{"strength": MIXED, **options})
