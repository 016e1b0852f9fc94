"""BPR and its reverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.losses.ranking import bpr, reverse_bpr


def test_bpr_agrees_with_float64():
  rng = np.random.default_rng(0)
  positive, negative = rng.normal(size=(2, 50)) * 5
  wanted = np.log1p(np.exp(-(positive - negative)))
  found = bpr(jnp.asarray(positive), jnp.asarray(negative))
  np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def test_reverse_bpr_is_bpr_with_the_roles_exchanged():
  positive, negative = jax.random.normal(jax.random.key(0), (2, 9))
  np.testing.assert_array_equal(
    reverse_bpr(positive, negative), bpr(negative, positive)
  )
  assert not np.allclose(bpr(positive, negative), bpr(negative, positive))


@pytest.mark.parametrize("gap", [1e4, -1e4])
def test_losses_and_gradients_are_finite_for_huge_gaps(gap):
  for loss in (bpr, reverse_bpr):
    fn = lambda x, loss=loss: loss(x, jnp.zeros(()))
    value, gradient = jax.value_and_grad(fn)(jnp.asarray(gap))
    assert np.isfinite(value) and np.isfinite(gradient)
  assert float(bpr(jnp.asarray(-1e4), jnp.zeros(()))) == 1e4


def test_scores_of_two_shapes_are_refused():
  refused("positive .* and negative", bpr, jnp.ones(2), jnp.ones(3))
