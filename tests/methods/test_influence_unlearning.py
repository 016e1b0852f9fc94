"""Influence unlearning, where it is exact and as it was released."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core import sampling
from jaxunlearn.core.types import Variables
from jaxunlearn.methods.influence_unlearning import (
  influence_released,
  influence_unlearning,
)

KEY = jax.random.key(0)


def least_squares(num_rows=40, dim=5):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num_rows, dim))
  y = x @ rng.normal(size=dim) + 0.3 * rng.normal(size=num_rows)
  model = from_functions(
    lambda key, x: jnp.zeros(dim),
    lambda w, x: x @ w[:, None],
    loss=lambda o, rows: 0.5 * (o[:, 0] - rows["y"]) ** 2,
  )
  data = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}
  return model, data, x, y, np.arange(num_rows) % 7 == 0


@pytest.mark.parametrize("chunk_size", [7, 64])
def test_on_least_squares_it_is_retraining(chunk_size):
  model, data, x, y, mask = least_squares()
  fitted = np.linalg.lstsq(x, y, rcond=None)[0]
  retrained = np.linalg.lstsq(x[~mask], y[~mask], rcond=None)[0]
  method = influence_unlearning(
    model, damping=0.0, chunk_size=chunk_size, tolerance=1e-7
  )
  start = Variables(jnp.asarray(fitted, jnp.float32))
  out, info = jax.jit(method)(start, data, jnp.asarray(mask), KEY)
  np.testing.assert_allclose(out.params, retrained, rtol=1e-4, atol=1e-5)
  assert np.abs(fitted - retrained).max() > 1e-3
  assert info.residual < 1e-4


def test_damping_and_scale_are_those_of_the_formula():
  model, data, x, y, mask = least_squares()
  w = np.linalg.lstsq(x, y, rcond=None)[0] + 0.1  # No optimum.
  slope = x * (x @ w - y)[:, None]
  v = slope.mean(0) - slope[~mask].mean(0)
  h = x[~mask].T @ x[~mask] / (~mask).sum() + 0.5 * np.eye(5)
  wanted = w + 0.7 * np.linalg.solve(h, v)
  out, _ = influence_unlearning(model, scale=0.7, damping=0.5)(
    Variables(jnp.asarray(w, jnp.float32)), data, jnp.asarray(mask), KEY
  )
  np.testing.assert_allclose(out.params, wanted, rtol=1e-4, atol=1e-5)


def test_for_a_softmax_the_curvature_is_the_fisher_information():
  dim, classes, n = 3, 4, 30
  rng = np.random.default_rng(2)
  x, w = rng.normal(size=(n, dim)), rng.normal(size=(dim, classes))
  label = rng.integers(classes, size=n)
  mask = np.arange(n) < 5
  z = x @ w
  p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
  slope = np.einsum("nd,nk->ndk", x, p - np.eye(classes)[label]).reshape(n, -1)
  v = slope.mean(0) - slope[~mask].mean(0)
  h = 0.1 * np.eye(dim * classes)
  for xi, pi in zip(x[~mask], p[~mask]):
    h += np.kron(np.outer(xi, xi), np.diag(pi) - np.outer(pi, pi)) / 25
  wanted = w + np.linalg.solve(h, v).reshape(dim, classes)
  model = from_functions(lambda key, x: None, lambda w, x: x @ w)
  data = {"x": jnp.asarray(x, jnp.float32), "label": jnp.asarray(label)}
  out, _ = influence_unlearning(model, damping=0.1, chunk_size=8)(
    Variables(jnp.asarray(w, jnp.float32)), data, jnp.asarray(mask), KEY
  )
  np.testing.assert_allclose(out.params, wanted, rtol=1e-4, atol=1e-5)


def test_the_released_recursion_is_followed_sample_by_sample():
  model, data, x, y, mask = least_squares()
  w = np.linalg.lstsq(x, y, rcond=None)[0]
  size = 9
  method = influence_released(model, scale=0.5, num_samples=size)
  start = Variables(jnp.asarray(w, jnp.float32))
  out, _ = method(start, data, jnp.asarray(mask), KEY)
  pool = sampling.make_pool(jnp.asarray(~mask, jnp.float32), KEY)
  rows, _ = sampling.draw_rows(pool, jnp.arange(size + 2, dtype=jnp.uint32))
  assert not mask[np.asarray(rows)].any()
  slope = x * (x @ w - y)[:, None]
  v = slope.mean(0) - slope[~mask].mean(0)
  u = slope[rows[0]].copy()
  for g in slope[np.asarray(rows[1:])]:
    s = u @ g
    v = v - (v @ g) / (size + s) * u
    u = u * (1 - s / (size + s))
  np.testing.assert_allclose(out.params, w + 0.5 * v, rtol=1e-5, atol=1e-6)
