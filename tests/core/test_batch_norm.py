"""Model state, on a residual network with BatchNorm and on dropout."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.models import MLP, ResNet

KEY = jax.random.key(0)
ADAM = optax.adam(1e-3)
FIT = ju.Fit(ADAM, 2, 8)


@functools.cache
def setting():
  model = from_linen(ResNet(num_classes=3, stage_sizes=(1, 1), num_filters=4))
  rng = np.random.default_rng(0)
  label = np.arange(24) % 3
  x = rng.normal(size=(24, 8, 8, 1)) + label[:, None, None, None]
  data = {
    "x": jnp.asarray(x, jnp.float32),
    "label": jnp.asarray(label, jnp.int32),
  }
  variables = jax.jit(model.init)(KEY, data["x"])
  return model, data, variables, data["label"] == 2


def state_gap(one, two):
  return change(one.model_state, two.model_state)


FROM_RETAIN_ROWS = {
  "finetune": lambda m: ju.methods.finetune(m, FIT),
  "cf_k": lambda m: ju.methods.cf_k(m, FIT, num_layers=1),
  "unsir": lambda m: ju.methods.unsir(
    m, 3, max_classes=1, noise=ju.Fit(ADAM, 2, 4), impair=FIT, repair=FIT
  ),
  "scrub": lambda m: ju.methods.scrub(
    m, FIT, num_epochs=1, max_epochs=0, max_steps=1
  ),
}
FROM_ALL_ROWS = {
  "gradient_ascent": ju.methods.gradient_ascent,
  "neggrad_plus": ju.methods.neggrad_plus,
  "random_label": lambda m, fit, **mode: ju.methods.random_label(
    m, fit, num_classes=3, **mode
  ),
  "bad_teacher": ju.methods.bad_teacher,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_RETAIN_ROWS)
def test_statistics_move_but_not_from_the_forget_set(name):
  model, data, variables, mask = setting()
  run = jax.jit(FROM_RETAIN_ROWS[name](model))
  out, _ = run(variables, data, mask, KEY)
  assert state_gap(out, variables) > 1e-4
  poisoned = jnp.where(mask[:, None, None, None], jnp.nan, data["x"])
  other, _ = run(variables, {**data, "x": poisoned}, mask, KEY)
  chex.assert_trees_all_equal(other.model_state, out.model_state)


@pytest.mark.slow
@pytest.mark.parametrize("name", FROM_ALL_ROWS)
def test_statistics_drift_to_forget_rows_as_published_unless_frozen(name):
  model, data, variables, mask = setting()
  for options in ({}, {"train_mode": False}):
    method = FROM_ALL_ROWS[name](model, FIT, **options)
    out, _ = jax.jit(method)(variables, data, mask, KEY)
    assert (state_gap(out, variables) > 1e-4) == (not options)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, variables)


def test_dropout_is_random_by_step_and_off_outside_training():
  model = from_linen(MLP(num_classes=3, hidden=(16,), dropout_rate=0.5))
  _, data, _, mask = setting()
  variables = jax.jit(model.init)(KEY, data["x"])
  np.testing.assert_array_equal(
    model.predict(variables, data["x"]), model.predict(variables, data["x"])
  )
  still = {"optimizer": optax.sgd(0.0), "num_steps": 3, "batch_size": 16}
  for train_mode in (True, False):
    fit = ju.methods.finetune(model, train_mode=train_mode, **still)
    _, info = jax.jit(fit)(variables, data, mask, KEY)
    # Sixteen retain rows a step are all of them: only dropout can differ.
    assert (np.ptp(np.asarray(info.loss)) > 1e-3) == train_mode
