import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.losses.regression import on_targets
from jaxunlearn.models.recurrent import LSTM, LSTMRegressor

X = np.random.default_rng(0).normal(size=(5, 6, 3)).astype(np.float32)


def make(**options):
  return from_linen(LSTMRegressor(**options), loss=on_targets("l2"))


def test_states_are_those_of_the_equations():
  module = LSTM(4)
  params = module.init(jax.random.key(0), X)
  found = module.apply(params, X)
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  p = jax.tree.map(lambda v: np.asarray(v, np.float64), params["params"])
  h = c = np.zeros((5, 4))
  for t in range(6):
    z = X[:, t] @ p["input"]["kernel"] + p["input"]["bias"] + h @ p["recurrent"]
    i, f, g, o = np.split(z, 4, axis=1)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    np.testing.assert_allclose(found[:, t], h, atol=1e-6)


def test_features_are_the_states_and_the_last_layer():
  model = make(width=4, num_outputs=2)
  variables = jax.jit(model.init)(jax.random.key(0), X)
  found = model.features(variables, X)
  assert found["hidden"].shape == (5, 6, 4)
  assert found["features"].shape == (5, 4)
  head = variables.params["Dense_1"]
  np.testing.assert_allclose(
    found["features"] @ head["kernel"] + head["bias"][None],
    model.predict(variables, X),
    atol=1e-6,
  )


def test_the_last_step_and_the_first_both_reach_the_output():
  model = make(width=8)
  variables = jax.jit(model.init)(jax.random.key(1), X)
  total = lambda x: model.predict(variables, x).sum()
  slope = jax.jit(jax.grad(total))(jnp.asarray(X))
  assert (jnp.abs(slope).max(axis=(0, 2)) > 1e-6).all()


def test_dropout_is_active_in_training_mode_only():
  model = make(width=8, dropout_rate=0.5)
  variables = jax.jit(model.init)(jax.random.key(0), X)
  plain = model.predict(variables, X)
  one, _ = model.apply(variables, X, train=True, key=jax.random.key(1))
  two, _ = model.apply(variables, X, train=True, key=jax.random.key(2))
  assert jnp.abs(one - two).max() > 1e-3
  chex.assert_trees_all_equal(plain, model.predict(variables, X))


def test_half_precision_stays_half_precision():
  model = make(width=4, dtype=jnp.bfloat16)
  variables = jax.jit(model.init)(jax.random.key(0), X)
  assert model.predict(variables, X).dtype == jnp.bfloat16
  assert variables.params["lstm"]["recurrent"].dtype == jnp.float32


def test_inputs_that_are_no_sequences_are_refused():
  with pytest.raises(ValueError, match=r"\[B, T, F\], got shape \(5, 3\)"):
    make().init(jax.random.key(0), X[:, 0])
