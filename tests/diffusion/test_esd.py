"""ESD against its formula on a linear model, its limits, and what it moves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import (
  CONCEPT,
  OTHER,
  gain_of,
  linear,
  linear_params,
  params,
  small,
)

from jaxunlearn.core.types import Request
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.esd import FIRST_RELEASE, PAPER, Variant, esd
from jaxunlearn.diffusion.steps import Sampling

KEY = jax.random.key(7)
NO_ROWS = Request()
COND = Variant("cond")
# What the linear model's eps gains by each prompt: the sum of its tokens / 10.
SAID = np.asarray(CONCEPT).sum(axis=1) / 10 - 0.1


def first_loss(prompts, **options):
  """The objective before the first step, of many images."""
  model = linear()
  fit = esd(
    model,
    prompts,
    optimizer=optax.sgd(0.0),
    num_steps=1,
    batch_size=64,
    sampling=Sampling(4),
    **options,
  )
  _, info = jax.jit(fit)(model.init(KEY), None, NO_ROWS, KEY)
  return float(info.loss[0])


@pytest.mark.parametrize("eta", [-1.0, 0.0, 1.0, 2.5])
def test_the_loss_is_that_of_the_formula(eta):
  """eps(c) - [eps(none) - eta (eps(c) - eps(none))] = (1 + eta) said."""
  wanted = ((1 + eta) * SAID[0]) ** 2
  assert first_loss(CONCEPT[:1], eta=eta) == pytest.approx(wanted, abs=1e-6)
  assert first_loss(CONCEPT[:1], eta=eta + 1, variant=COND) == pytest.approx(
    wanted, abs=1e-6
  )


def test_each_prompt_is_drawn():
  low, high = sorted((2 * SAID) ** 2)
  assert low + 0.1 < first_loss(CONCEPT) < high - 0.1


@pytest.mark.parametrize("base", ["null", "cond"])
def test_a_concept_is_erased_from_another_prompt(base):
  """The student is asked for `from`: its own noise, or the empty prompt's."""
  concept, taught = SAID[0], 0.3
  start = taught if base == "cond" else 0.0
  wanted = (taught - (start - 1.5 * concept)) ** 2
  found = first_loss(
    CONCEPT[:1], eta=1.5, variant=Variant(base), from_prompts=OTHER[:1]
  )
  assert found == pytest.approx(wanted, rel=1e-5)


def test_the_time_is_the_image_s_or_drawn_within_its_step():
  """Weights of one at the sampler's times count the losses taken there."""
  on_grid = np.zeros(40)
  on_grid[schedules.sampling_times(40, 4)] = 1.0
  whole = first_loss(CONCEPT[:1])
  weighed = functools.partial(first_loss, CONCEPT[:1], time_weights=on_grid)
  assert weighed() == pytest.approx(whole, rel=1e-5)
  # Ten times to a step: 6.4 of 64 in expectation, standard deviation 2.4.
  assert 0 < weighed(variant=FIRST_RELEASE) / whole < 0.26


@jax.jit
def _fitted(original, key, eta):
  fit = esd(
    small(),
    CONCEPT,
    eta=eta,
    optimizer=optax.adamw(3e-3, weight_decay=0.1),
    num_steps=3,
    batch_size=2,
    sampling=Sampling(3),
  )
  return fit(original, None, NO_ROWS, key)


def fitted(original, eta=1.0):
  """One program for most tests of the small model."""
  return _fitted(original, KEY, jnp.float32(eta))


def test_the_original_is_where_eta_is_minus_one():
  assert float(fitted(params(), eta=-1.0)[1].loss[0]) < 1e-10
  assert float(fitted(params())[1].loss[0]) > 1e-4


def erased(model, prompts, gain, key, **options):
  """The linear model's gain after four steps, and the losses."""
  fit = esd(
    model,
    prompts,
    **{
      "optimizer": optax.sgd(0.05),
      "num_steps": 4,
      "batch_size": 3,
      "sampling": Sampling(5),
      **options,
    },
  )
  moved, info = fit(linear_params(gain), None, NO_ROWS, key)
  return gain_of(moved), info.loss


def test_the_sampler_is_the_current_or_the_original_model():
  """At first they are one; after a step their images differ."""
  current, original = (
    jax.jit(lambda s=s: erased(linear(), CONCEPT, 0.3, KEY, variant=s)[1])()
    for s in (PAPER, PAPER._replace(sampler="original"))
  )
  assert float(current[0]) == pytest.approx(float(original[0]), rel=1e-5)
  assert abs(current[1:] - original[1:]).max() > 1e-5
