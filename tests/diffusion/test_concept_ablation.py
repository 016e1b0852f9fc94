"""Concept Ablation against its formula, its limits, and what it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import CONCEPT, LEVELS, OTHER, gain_of, linear

from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import Request, Variables
from jaxunlearn.diffusion import steps
from jaxunlearn.diffusion.concept_ablation import concept_ablation
from jaxunlearn.diffusion.steps import Sampling

KEY = jax.random.key(3)
NO_ROWS = Request()
FEW = {
  "sampling": Sampling(3, 7.5, num_images=6),
  "batch_size": 2,
  "num_steps": 3,
}


def ablate(model, prompts=CONCEPT, anchor=OTHER, **options):
  return concept_ablation(model, prompts, anchor, **{**FEW, **options})


def first_loss(anchor=OTHER[:1], **options):
  model = linear()
  fit = ablate(
    model,
    CONCEPT[:1],
    anchor,
    **{"optimizer": optax.sgd(0.0), "num_steps": 1, **options},
  )
  _, info = jax.jit(fit)(model.init(KEY), None, NO_ROWS, KEY)
  return float(info["ablate"].loss[0])


@pytest.mark.parametrize("target", ["self", "original"])
def test_the_loss_is_summed_over_channels(target):
  """Three channels of ((2 - 3) / 10)^2; at first both targets are one."""
  assert first_loss(target=target) == pytest.approx(0.03, rel=1e-4)


def pool(fit, model):
  """The anchor's images that the transform makes from its key, float64."""
  first = Variables(jax.jit(model.init)(KEY))
  carry = Carry(first, first, {})
  for link, key in fit.expand(KEY)[:2]:  # The prompts, and then the images.
    carry, _ = link.run(carry, None, NO_ROWS, key, Env())
  (images,) = (v for k, v in carry.slots.items() if k.label == "anchor_images")
  return np.asarray(images["x"], np.float64)


def monte_carlo(images, said, draws=20000):
  """Mean of (gain x_t + said - noise)^2 over pictures, times and noise."""
  rng = np.random.default_rng(0)
  level = np.asarray(LEVELS, np.float64)[rng.integers(40, size=draws)]
  level = level[:, None, None, None]
  noise = rng.normal(size=(draws, 2, 2, 3))
  clean = images[rng.integers(len(images), size=draws)]
  noisy = np.sqrt(level) * clean + np.sqrt(1 - level) * noise
  return np.square(0.3 * noisy + said - noise).mean()


@pytest.mark.slow
def test_the_target_may_be_the_noise_and_other_images_a_prior():
  options = {"batch_size": 4096, "num_steps": 1, "optimizer": optax.sgd(0.0)}
  model = linear()
  images = pool(ablate(model, CONCEPT[:1], OTHER[:1], **options), model)
  wanted = 3 * monte_carlo(images, 0.2)
  assert first_loss(target="noise", **options) == pytest.approx(
    wanted, rel=0.02
  )
  wanted = 0.03 + 0.5 * monte_carlo(images, 0.3)
  assert first_loss(prior_weight=0.5, **options) == pytest.approx(
    wanted, rel=0.02
  )


def test_the_anchor_may_be_the_empty_prompt():
  """Whose noise is gain x: the concept's differs by 0.2."""
  found = first_loss(jnp.array([[1, 0, 0]]))
  assert found == pytest.approx(3 * 0.2**2, rel=1e-4)


def test_losses_are_weighed_by_their_time():
  assert first_loss(time_weights=jnp.full(40, 2.0)) == pytest.approx(
    0.06, rel=1e-4
  )


def test_images_are_the_anchor_s_by_the_original_model():
  fit, model = ablate(linear()), linear()
  _, key = fit.expand(KEY)[1]
  wanted = steps.made_images(
    model, jax.jit(model.init)(KEY), OTHER, key, FEW["sampling"]
  )
  np.testing.assert_allclose(pool(fit, model), wanted["x"], atol=1e-5)


def test_a_concept_that_is_its_own_anchor_changes_nothing():
  model = linear()
  fit = ablate(model, CONCEPT, CONCEPT, optimizer=optax.sgd(1.0))
  moved, _ = jax.jit(fit)(model.init(KEY), None, NO_ROWS, KEY)
  assert float(gain_of(moved)) == pytest.approx(0.3, abs=1e-6)


@pytest.mark.slow
def test_the_model_s_own_target_drifts_from_the_original_s():
  model = linear()
  losses = [
    jax.jit(ablate(model, target=t, optimizer=optax.adam(1e-2)))(
      jax.jit(model.init)(KEY), None, NO_ROWS, KEY
    )[1]["ablate"].loss
    for t in ("self", "original")
  ]
  assert float(losses[0][0]) == pytest.approx(float(losses[1][0]), rel=1e-5)
  assert abs(losses[0][1:] - losses[1][1:]).max() > 1e-6


def test_the_concept_comes_to_mean_its_anchor():
  """The encoder's scale s is to give 0.2 s = 0.3; the gain has no need to move."""
  model = linear()
  fit = ablate(
    model,
    CONCEPT[:1],
    OTHER[:1],
    group="all",
    target="original",
    num_steps=150,
    batch_size=32,
    sampling=Sampling(3, 7.5, num_images=32),
    optimizer=optax.adam(0.02),
  )
  moved, _ = jax.jit(fit)(model.init(KEY), None, NO_ROWS, KEY)
  assert float(moved["text_encoder"]["scale"]) == pytest.approx(1.5, abs=0.05)
  assert float(gain_of(moved)) == pytest.approx(0.3, abs=0.03)
