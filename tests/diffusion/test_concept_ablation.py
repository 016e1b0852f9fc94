"""Concept Ablation against its formula, its limits, and what it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import (
  CONCEPT,
  DATA,
  LEVELS,
  OTHER,
  REQUEST,
  check_only_group_moved,
  gain_of,
  linear,
  linear_params,
  params,
  small,
)

from jaxunlearn.core.types import Carry, Env, Variables
from jaxunlearn.diffusion import steps
from jaxunlearn.diffusion.concept_ablation import concept_ablation

KEY = jax.random.key(3)
FEW = {"num_images": 6, "sampler_steps": 3, "batch_size": 2, "num_steps": 3}


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
  _, info = jax.jit(fit)(model.init(KEY), DATA, REQUEST, KEY)
  return float(info["ablate"].loss[0])


@pytest.mark.parametrize("target", ["self", "original"])
def test_the_loss_is_summed_over_channels(target):
  """Three channels of ((2 - 3) / 10)^2; at first both targets are one."""
  assert first_loss(target=target) == pytest.approx(0.03, rel=1e-4)


def pool(fit, model):
  """The anchor's images that the transform makes from its key, float64."""
  first = Variables(model.init(KEY))
  link, key = fit.expand(KEY)[0]
  carry, _ = link.run(Carry(first, first, {}), DATA, REQUEST, key, Env())
  return np.asarray(carry.extra["anchor_images"]["x"], np.float64)


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


def test_a_prior_of_weight_zero_is_none():
  assert first_loss(prior_weight=0.0) == pytest.approx(first_loss(), rel=1e-5)


def test_the_anchor_may_be_the_empty_prompt():
  """Whose noise is gain x: the concept's differs by 0.2."""
  found = first_loss(jnp.array([[1, 0, 0]]))
  assert found == pytest.approx(3 * 0.2**2, rel=1e-4)


def test_losses_are_weighed_by_their_time():
  assert first_loss(time_weights=jnp.full(40, 2.0)) == pytest.approx(
    0.06, rel=1e-4
  )


def test_images_are_the_anchor_s_by_the_original_model():
  fit, model = ablate(linear(), num_images=5), linear()
  _, key = fit.expand(KEY)[0]
  wanted = steps.made_images(
    model, model.init(KEY), OTHER, key, num_images=5, num_steps=3, guidance=7.5
  )
  np.testing.assert_allclose(pool(fit, model), wanted["x"], atol=1e-5)


@jax.jit
def _ablated(original, anchor, data, request, key):
  """One program for several tests of the small model."""
  fit = ablate(
    small(),
    CONCEPT,
    anchor,
    optimizer=steps.clipped_adamw(1e-2, weight_decay=0.1),
  )
  return fit(original, data, request, key)


def ablated(anchor=OTHER, data=DATA, request=REQUEST, key=KEY):
  return _ablated(params(), anchor, data, request, key)


@pytest.mark.slow
def test_a_concept_that_is_its_own_anchor_has_no_loss():
  """The two sides are compiled apart and may differ in their last bits."""
  _, info = ablated(CONCEPT)
  assert float(info["ablate"].loss.max()) < 1e-10


def test_a_concept_that_is_its_own_anchor_changes_nothing():
  model = linear()
  fit = ablate(model, CONCEPT, CONCEPT, optimizer=optax.sgd(1.0))
  moved, _ = jax.jit(fit)(model.init(KEY), DATA, REQUEST, KEY)
  assert float(gain_of(moved)) == pytest.approx(0.3, abs=1e-6)


def test_only_keys_and_values_move():
  moved, info = ablated()
  check_only_group_moved(params(), moved, "xattn-kv")
  assert bool(info["ablate"].is_finite)


@pytest.mark.slow
@pytest.mark.parametrize(
  "group, target", [("full", "original"), ("xattn", "noise")]
)
def test_only_the_chosen_group_moves(group, target):
  fit = ablate(
    small(),
    group=group,
    target=target,
    prior_weight=1.0,
    optimizer=steps.clipped_adamw(1e-2, weight_decay=0.1),
  )
  moved, info = jax.jit(fit)(params(), DATA, REQUEST, KEY)
  check_only_group_moved(params(), moved, group)
  assert bool(info["ablate"].is_finite)


@pytest.mark.slow
def test_the_model_s_own_target_drifts_from_the_original_s():
  model = linear()
  losses = [
    jax.jit(ablate(model, target=t, optimizer=optax.adam(1e-2)))(
      model.init(KEY), DATA, REQUEST, KEY
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
    num_images=32,
    optimizer=optax.adam(0.02),
  )
  moved, _ = jax.jit(fit)(model.init(KEY), DATA, REQUEST, KEY)
  assert float(moved["text_encoder"]["scale"]) == pytest.approx(1.5, abs=0.05)
  assert float(gain_of(moved)) == pytest.approx(0.3, abs=0.03)


@pytest.mark.slow
def test_many_concepts_equal_a_loop_and_compile_once():
  traces: list = []
  model = linear(traces)

  @jax.jit
  def forget(prompts, anchor, gain, key):
    fit = ablate(
      model, prompts, anchor, prior_weight=1.0, optimizer=optax.sgd(0.05)
    )
    return fit(linear_params(gain), DATA, REQUEST, key)

  prompts = jnp.stack([CONCEPT, OTHER])
  gains, keys = jnp.array([0.3, 0.5]), jax.random.split(KEY, 2)
  many = jax.vmap(forget)(prompts, prompts[::-1], gains, keys)
  alone = forget(prompts[0], prompts[1], gains[0], keys[0])
  traced = len(traces)
  other = forget(prompts[1], prompts[0], gains[1], keys[1])
  assert traced > 0 and len(traces) == traced
  for i, one in enumerate((alone, other)):
    jax.tree.map(
      lambda stacked, single, i=i: np.testing.assert_allclose(
        stacked[i], single, rtol=1e-4, atol=1e-6
      ),
      many,
      one,
    )
  assert abs(float(gain_of(alone[0])) - 0.3) > 1e-4


def test_params_keep_their_dtype():
  model = linear()
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), model.init(KEY))
  fit = jax.jit(ablate(model, optimizer=optax.adam(1e-2)))
  moved, info = fit(half, DATA, REQUEST, KEY)
  assert all(p.dtype == jnp.bfloat16 for p in jax.tree.leaves(moved))
  assert gain_of(moved) != gain_of(half)
  assert info["ablate"].loss.dtype == jnp.float32


@pytest.mark.parametrize(
  "options, message",
  [
    ({"prompts": CONCEPT[:0]}, "prompts to hold prompts, got none"),
    ({"prompts": jnp.ones((2, 9), int)}, r"prompts of shape \[B, 3\]"),
    ({"anchor": OTHER[:1]}, r"anchor_prompts of shape \(2, 3\), one a prompt"),
    ({"anchor": OTHER + 9}, "anchor_prompts in 0 .. 5"),
    ({"prompts": jnp.array([[1, 2, 0], [1, 0, 0]])}, "the empty prompt at 1"),
    ({"group": "heads"}, "group to be one of"),
    ({"target": "frozen"}, "target to be one of 'self', 'original', 'noise'"),
    ({"prior_weight": -1.0}, "prior_weight >= 0"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"num_images": 0}, "num_images > 0"),
    ({"num_images": 1}, "num_images >= 2, one an anchor, got 1"),
    ({"chunk_size": 0}, "chunk_size > 0"),
    ({"sampler_steps": 0}, "sampler_steps in 1 .. 40"),
    ({"num_steps": -1}, "num_steps >= 0"),
    ({"time_weights": jnp.ones(3)}, "time_weights of shape"),
  ],
)
def test_mistakes_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    ablate(small(), **options)
