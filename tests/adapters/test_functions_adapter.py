"""Models from plain functions, and the default loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.adapters.functions import default_loss, from_functions
from jaxunlearn.core.types import Variables


def linear_init(key, x):
  return {"w": jax.random.normal(key, (x.shape[1], 3))}


def linear(params, x):
  return x @ params["w"]


def log_softmax_loss(logits, labels):
  """Independent float64 NumPy computation of each row's cross entropy."""
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(-1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  return -np.take_along_axis(log_p, np.asarray(labels)[..., None], -1)[..., 0]


def test_default_loss_is_the_cross_entropy_of_each_row():
  logits = jax.random.normal(jax.random.key(0), (5, 4)) * 3
  label = jnp.array([0, 1, 2, 3, 1])
  loss = default_loss(logits, {"x": logits, "label": label})
  assert loss.shape == (5,)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(
    loss, log_softmax_loss(logits, label), rtol=1e-5, atol=1e-6
  )


def test_default_loss_of_bfloat16_logits_is_computed_in_float32():
  logits = jnp.array([[300.0, 1.0], [0.5, -300.0]], jnp.bfloat16)
  label = jnp.array([1, 0])
  with jax.numpy_dtype_promotion("standard"):
    loss = default_loss(logits, {"label": label})
  assert loss.dtype == jnp.float32
  expected = log_softmax_loss(logits.astype(jnp.float32), label)
  np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-30)


def test_default_loss_averages_over_positions_of_a_row():
  logits = jax.random.normal(jax.random.key(1), (2, 3, 4))
  label = jnp.array([[0, 1, 2], [3, 3, 0]])
  loss = default_loss(logits, {"label": label})
  expected = log_softmax_loss(logits, label).mean(-1)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("outputs", "rows", "message"),
  [
    ((2, 3), {"x": 0}, r'Expected rows with a "label".*\[\'x\'\]'),
    ((2, 3), np.zeros(2), 'Expected rows with a "label".*ndarray'),
    ((2, 3), {"label": np.zeros(2, np.float32)}, "integer.*float32"),
    (
      (2, 3),
      {"label": np.zeros(3, np.int32)},
      r"labels \[\.\.\.\], got \(2, 3\) and \(3,\)",
    ),
    ((2, 3), {"label": np.full(2, 3, np.int32)}, "0 .. 2, got 3"),
  ],
)
def test_default_loss_names_what_does_not_fit(outputs, rows, message):
  refused(message, default_loss, jnp.zeros(outputs), rows)


def test_plain_functions_become_a_model_without_state():
  model = from_functions(linear_init, linear)
  x = jnp.arange(8.0).reshape(2, 4)
  variables = model.init(jax.random.key(0), x)
  outputs, state = model.apply(variables, x, train=True, key=jax.random.key(1))
  assert variables.model_state == {} and state == {}
  np.testing.assert_array_equal(outputs, x @ variables.params["w"])
  assert model.features is None


def test_train_and_key_reach_only_functions_that_take_them():
  seen = []

  def with_train(params, x, train):
    seen.append(train)
    return linear(params, x)

  def with_all(params, x, **kwargs):
    seen.append(kwargs)
    return linear(params, x)

  x = jnp.ones((1, 2))
  key = jax.random.key(7)
  variables = Variables({"w": jnp.ones((2, 3))})
  from_functions(linear_init, with_train).apply(variables, x, train=True)
  model = from_functions(linear_init, with_all)
  model.apply(variables, x, train=True, key=key)
  model.apply(variables, x, train=False, key=key)
  assert seen[0] is True
  assert seen[1] == {"train": True, "key": key}
  # Evaluation is never random, whatever the caller passes.
  assert seen[2] == {"train": False, "key": None}


def test_state_moves_in_training_mode_only():
  def init(key, x):
    return Variables(linear_init(key, x), {"count": jnp.zeros((), jnp.int32)})

  def apply(variables, x, train, key):
    del key
    moved = {"count": variables.model_state["count"] + 1}
    return linear(variables.params, x), moved

  model = from_functions(init, apply, has_state=True)
  x = jnp.ones((2, 4))
  variables = model.init(jax.random.key(0), x)
  _, moved = model.apply(variables, x, train=True)
  _, kept = model.apply(variables, x)
  assert int(moved["count"]) == 1
  assert kept is variables.model_state


def test_a_stateful_model_must_return_its_state():
  with pytest.raises(ValueError, match=r"init to return Variables.*dict"):
    from_functions(linear_init, linear, has_state=True).init(
      jax.random.key(0), jnp.ones((1, 2))
    )
  model = from_functions(
    lambda key, x: Variables(linear_init(key, x)),
    lambda variables, x: linear(variables.params, x),
    has_state=True,
  )
  variables = model.init(jax.random.key(0), jnp.ones((1, 2)))
  refused(r"\(outputs, model_state\)", model.apply, variables, jnp.ones((1, 2)))


def test_a_loss_and_features_of_ones_own_are_kept():
  loss = lambda outputs, rows: (outputs - rows["y"]) ** 2
  features = lambda variables, x: {"x": x}
  model = from_functions(linear_init, linear, loss=loss, features=features)
  assert model.loss is loss
  assert model.features is features


@pytest.mark.parametrize(
  ("apply", "wanted"),
  [
    (lambda params, x, is_train=False: x + is_train, 1.0),
    (lambda params, x, deterministic=True: x + (not deterministic), 1.0),
    (lambda params, x, train=False, **_: x + train, 1.0),
  ],
)
def test_the_flag_is_known_by_its_usual_names(apply, wanted):
  model = from_functions(lambda key, x: {}, apply)
  x = jnp.zeros((2, 3))
  outputs, _ = model.apply(Variables({}), x, train=True)
  np.testing.assert_array_equal(outputs, x + wanted)
  np.testing.assert_array_equal(model.predict(Variables({}), x), x)
