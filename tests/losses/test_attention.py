"""Attention maps against published code's numbers and their own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from refusals import refused

from jaxunlearn.losses.attention import attention_difference, attention_map


def gap(x, y, norm="squared"):
  return attention_difference(attention_map(x), attention_map(y), norm=norm)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4), (5, 3, 2, 6)])
def test_a_map_has_length_one_whatever_the_scale(shape):
  x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  energy = np.square(x, dtype=np.float64)
  energy = energy if x.ndim == 2 else energy.mean(-1)
  energy = energy.reshape(5, -1)
  wanted = energy / np.linalg.norm(energy, axis=1, keepdims=True)
  scale = np.array([1e-2, 0.5, 1.0, 30.0, 1e3], np.float32)
  scale = scale.reshape(5, *[1] * (x.ndim - 1))
  run = jax.jit(attention_map)
  for found in (run(x), run(x * scale)):
    assert_close(found, wanted)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_the_difference_lies_between_none_and_that_of_disjoint_maps():
  apart = np.eye(6, dtype=np.float32)[:, None, :].repeat(2, 1)
  x = np.abs(np.random.default_rng(1).standard_normal((40, 6)))
  y = np.abs(np.random.default_rng(2).standard_normal((40, 6)))
  found = gap(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
  assert (found > 0).all() and (found < 2 / 6).all()
  first, second = jnp.asarray(apart[:3, 0]), jnp.asarray(apart[3:, 0])
  assert_close(gap(first, second), np.full(3, 2 / 6))
  assert_close(gap(first, second, "plain"), np.full(3, 2**0.5))
  assert (gap(first, first) == 0).all()


@pytest.mark.parametrize("norm", ["squared", "plain"])
def test_gradients_are_finite_at_zero_and_at_agreement(norm):
  x = jnp.zeros((3, 4, 2)).at[0].set(1.0)
  grad = jax.grad(lambda x: gap(x, jnp.ones((3, 4, 2)), norm).sum())(x)
  assert jnp.isfinite(grad).all()
  assert (attention_map(x)[1:] == 0).all()


def test_bad_shapes_and_norms_are_rejected():
  refused(r"D\], got shape \(3,\)", attention_map, jnp.ones(3))
  with pytest.raises(ValueError, match=r"\[B, P\], got \(2, 3\)"):
    attention_difference(jnp.ones((2, 3)), jnp.ones((2, 4)))
  with pytest.raises(ValueError, match="norm"):
    attention_difference(jnp.ones((2, 3)), jnp.ones((2, 3)), norm="l1")
