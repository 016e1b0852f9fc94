"""Numbers near each other, and numbers to begin with."""

import jax
import numpy as np


def change(a, b):
  """The largest difference of a leaf, float."""
  gaps = jax.tree.map(
    lambda x, y: float(np.abs(np.asarray(x, float) - y).max(initial=0)), a, b
  )
  return max(jax.tree.leaves(gaps))


def assert_close(found, wanted, tolerance=1e-5):
  """Within `tolerance` of the largest entry."""
  found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
  assert found.shape == wanted.shape
  assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def normal(seed, *shape, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.standard_normal(shape)).astype(np.float32)
