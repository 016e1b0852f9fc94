"""Model state, on a residual network with BatchNorm and on dropout."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.models import MLP, ResNet

KEY = jax.random.key(0)
ADAM = optax.adam(1e-3)
STEPS = {"optimizer": ADAM, "num_steps": 2, "batch_size": 8}


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
  variables = model.init(KEY, data["x"])
  return model, data, variables, data["label"] == 2


def state_gap(one, two):
  gaps = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(), one.model_state, two.model_state
  )
  return float(max(jax.tree.leaves(gaps)))


FROM_RETAIN_ROWS = {
  "finetune": lambda m: ju.finetune(m, **STEPS),
  "cf_k": lambda m: ju.cf_k(m, num_layers=1, **STEPS),
  "unsir": lambda m: ju.unsir(
    m,
    num_classes=3,
    max_classes=1,
    noise_batch=4,
    noise_steps=2,
    impair_steps=2,
    repair_steps=2,
    batch_size=8,
  ),
  "scrub": lambda m: ju.scrub(
    m,
    optimizer=ADAM,
    num_epochs=1,
    max_epochs=0,
    max_steps=1,
    min_steps=2,
    forget_batch_size=4,
    retain_batch_size=8,
  ),
}
FROZEN = {
  "gradient_ascent": lambda m: ju.gradient_ascent(m, **STEPS),
  "neggrad_plus": lambda m: ju.neggrad_plus(
    m, optimizer=ADAM, num_steps=2, forget_batch_size=4, retain_batch_size=8
  ),
  "random_label": lambda m: ju.random_label(m, num_classes=3, **STEPS),
  "bad_teacher": lambda m: ju.bad_teacher(m, num_steps=2, batch_size=8),
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
@pytest.mark.parametrize("name", FROZEN)
def test_methods_that_read_forget_rows_leave_the_statistics_alone(name):
  model, data, variables, mask = setting()
  out, _ = jax.jit(FROZEN[name](model))(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out.model_state, variables.model_state)
  chex.assert_trees_all_equal_shapes_and_dtypes(out, variables)


@pytest.mark.slow
def test_the_released_variant_lets_them_drift():
  model, data, variables, mask = setting()
  for method in (
    ju.bad_teacher(model, num_steps=2, batch_size=8, train_mode=True),
    ju.gradient_ascent(model, train_mode=True, **STEPS),
  ):
    out, _ = jax.jit(method)(variables, data, mask, KEY)
    assert state_gap(out, variables) > 1e-4


@pytest.mark.slow
def test_vmap_over_requests_equals_a_loop_with_statistics():
  model, data, variables, _ = setting()
  masks = ju.requests.each_class(data["label"], 3)
  keys = jax.random.split(KEY, 3)
  method = ju.finetune(model, **STEPS)
  many, _ = jax.jit(jax.vmap(method, (None, None, 0, 0)))(
    variables, data, masks, keys
  )
  one, _ = jax.jit(method)(variables, data, masks[1], keys[1])
  chex.assert_trees_all_close(
    jax.tree.map(lambda leaf: leaf[1], many), one, rtol=1e-3, atol=1e-4
  )


def test_dropout_is_random_by_step_and_off_outside_training():
  model = from_linen(MLP(num_classes=3, hidden=(16,), dropout_rate=0.5))
  _, data, _, mask = setting()
  variables = model.init(KEY, data["x"])
  np.testing.assert_array_equal(
    model.predict(variables, data["x"]), model.predict(variables, data["x"])
  )
  still = {"optimizer": optax.sgd(0.0), "num_steps": 3, "batch_size": 16}
  for train_mode in (True, False):
    fit = ju.finetune(model, train_mode=train_mode, **still)
    _, info = jax.jit(fit)(variables, data, mask, KEY)
    # Sixteen retain rows a step are all of them: only dropout can differ.
    assert (np.ptp(np.asarray(info.loss)) > 1e-3) == train_mode
