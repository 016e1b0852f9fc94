"""Losses and gradients of single rows, held against closed forms in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.types import Variables
from jaxunlearn.metrics import per_example

RNG = np.random.default_rng(0)
N, D, C = 23, 5, 3
X = RNG.normal(size=(N, D)).astype(np.float32)
LABEL = RNG.integers(0, C, N).astype(np.int32)
W = RNG.normal(size=(D, C)).astype(np.float32)
B = RNG.normal(size=C).astype(np.float32)
DATA = {"x": jnp.asarray(X), "label": jnp.asarray(LABEL)}
VARIABLES = Variables({"layer": {"kernel": jnp.asarray(W), "bias": B}})
MODEL = from_functions(
  lambda key, x: VARIABLES.params,
  lambda p, x: x @ p["layer"]["kernel"] + p["layer"]["bias"][None],
)


def softmax_regression():
  """Losses [N] and what the gradient of a row is made of, float64."""
  logits = X.astype(np.float64) @ W + B
  logits -= logits.max(axis=1, keepdims=True)
  p = np.exp(logits)
  p /= p.sum(axis=1, keepdims=True)
  # The gradient of the kernel is x outer e, that of the bias e.
  return -np.log(p[np.arange(N), LABEL]), p - np.eye(C)[LABEL]


@pytest.mark.parametrize("chunk_size", [1, 6, 23, 100])
def test_losses_and_norms_are_those_of_the_closed_form(chunk_size):
  losses, e = softmax_regression()
  size = {"chunk_size": chunk_size}
  found, (total, layers) = jax.jit(
    lambda v: (
      per_example.per_example_loss(MODEL, v, DATA, **size),
      per_example.gradient_norms(MODEL, v, DATA, per_layer=True, **size),
    )
  )(VARIABLES)
  np.testing.assert_allclose(found, losses, rtol=1e-5)
  bias = np.linalg.norm(e, axis=1)
  kernel = np.linalg.norm(X.astype(np.float64), axis=1) * bias
  np.testing.assert_allclose(layers["layer/kernel"], kernel, rtol=1e-5)
  np.testing.assert_allclose(layers["layer/bias"], bias, rtol=1e-5)
  np.testing.assert_allclose(total, np.hypot(kernel, bias), rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [5, 64])
def test_dots_and_the_gram_matrix_are_those_of_the_closed_form(chunk_size):
  _, e = softmax_regression()
  x = X.astype(np.float64)
  direction = {
    "layer": {"kernel": RNG.normal(size=(D, C)), "bias": RNG.normal(size=C)}
  }
  wanted = np.einsum("nd,nc,dc->n", x, e, direction["layer"]["kernel"])
  wanted += e @ direction["layer"]["bias"]
  few = jax.tree.map(lambda leaf: leaf[:7], DATA)
  size = {"chunk_size": chunk_size}
  found, gram = jax.jit(
    lambda v: (
      per_example.gradient_dots(MODEL, v, DATA, direction, **size),
      per_example.gradient_gram(
        MODEL, v, DATA, few, others_chunk_size=3, **size
      ),
    )
  )(VARIABLES)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  wanted = (x @ x[:7].T + 1) * (e @ e[:7].T)
  assert gram.shape == (N, 7)
  np.testing.assert_allclose(gram, wanted, rtol=1e-4, atol=1e-5)


def test_a_networks_dots_and_norms_are_those_of_its_gradients_one_by_one():
  model, data, variables = problems.trained()

  @jax.jit
  def gradient(i):
    rows = jax.tree.map(lambda leaf: leaf[i][None], data)
    loss = lambda p: model.loss(
      model.predict(variables._replace(params=p), rows["x"]), rows
    )[0]
    return jax.flatten_util.ravel_pytree(jax.grad(loss)(variables.params))[0]

  each = np.stack([np.asarray(gradient(i), np.float64) for i in range(60)])
  direction = jax.tree.map(jnp.ones_like, variables)
  gram, norms, dots = jax.jit(
    lambda v: (
      per_example.gradient_gram(
        model, v, data, data, chunk_size=16, others_chunk_size=32
      ),
      per_example.gradient_norms(model, v, data, chunk_size=16),
      per_example.gradient_dots(model, v, data, direction),
    )
  )(variables)
  np.testing.assert_allclose(gram, each @ each.T, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(norms, np.linalg.norm(each, axis=1), rtol=1e-4)
  np.testing.assert_allclose(dots, each.sum(axis=1), rtol=1e-3, atol=1e-5)


def test_weights_scale_the_results_and_rows_of_weight_zero_are_not_read():
  weights = np.linspace(0, 1, N).astype(np.float32)
  poisoned = {**DATA, "x": DATA["x"].at[0].set(jnp.nan)}
  ones = jax.tree.map(jnp.ones_like, VARIABLES.params)
  for fn in (
    per_example.per_example_loss,
    per_example.gradient_norms,
    lambda *a, **k: per_example.gradient_dots(*a, ones, **k),
    lambda *a, **k: per_example.gradient_gram(
      *a, jax.tree.map(lambda leaf: leaf[1:3], DATA), **k
    ),
  ):
    fn = jax.jit(functools.partial(fn, MODEL), static_argnames="chunk_size")
    plain = np.asarray(fn(VARIABLES, DATA))
    weighted = fn(VARIABLES, poisoned, weights=weights, chunk_size=4)
    wanted = weights.reshape((N,) + (1,) * (plain.ndim - 1)) * plain
    np.testing.assert_allclose(weighted, wanted, rtol=1e-5, atol=1e-6)
    mask = fn(VARIABLES, poisoned, weights=jnp.asarray(weights > 0))
    np.testing.assert_allclose(mask[1:], plain[1:], rtol=1e-5, atol=1e-6)


def test_bfloat16_params_and_bare_params_give_float32():
  low = jax.tree.map(lambda v: jnp.asarray(v, jnp.bfloat16), VARIABLES.params)
  data = {**DATA, "x": DATA["x"].astype(jnp.bfloat16)}
  for found in (
    per_example.per_example_loss(MODEL, low, data),
    per_example.gradient_norms(MODEL, low, data),
    per_example.gradient_dots(MODEL, low, data, low),
  ):
    assert found.dtype == jnp.float32 and jnp.isfinite(found).all()
  plain = per_example.gradient_norms(MODEL, VARIABLES, DATA)
  near = per_example.gradient_norms(MODEL, low, data)
  np.testing.assert_allclose(near, plain, rtol=0.1, atol=0.03)


def test_what_does_not_fit_is_rejected():
  with pytest.raises(ValueError, match=r"weights of shape \(23,\)"):
    per_example.per_example_loss(MODEL, VARIABLES, DATA, weights=jnp.ones(4))
  with pytest.raises(ValueError, match=r"direction.*bias.*of shape \(3,\)"):
    per_example.gradient_dots(
      MODEL, VARIABLES, DATA, {"layer": {"kernel": W, "bias": W}}
    )
  with pytest.raises(ValueError, match="others_chunk_size > 0"):
    per_example.gradient_gram(MODEL, VARIABLES, DATA, DATA, others_chunk_size=0)
  mean_loss = MODEL._replace(loss=lambda outputs, rows: outputs.mean())
  with pytest.raises(ValueError, match=r"a loss of each row, \[23\], got"):
    per_example.per_example_loss(mean_loss, VARIABLES, DATA)
