"""NoMUS and the forgetting score of arXiv:2311.02240."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import metrics


def test_published_rows_and_ends():
  # Test accuracy, |M - 1/2| and NoMUS of the repository's table for MUFAC.
  for accuracy, off, wanted in (
    (0.4880, 0.0445, 0.6995),
    (0.5951, 0.2136, 0.58395),
    (0.6055, 0.2129, 0.58985),
  ):
    for side in (1, -1):
      found = metrics.nomus(accuracy, 0.5 + side * off)
      assert float(found) == pytest.approx(wanted, abs=6e-5)
  assert float(metrics.nomus(1.0, 0.5)) == 1
  assert float(metrics.nomus(0.0, 1.0)) == float(metrics.nomus(0.0, 0.0)) == 0
  np.testing.assert_allclose(
    metrics.forgetting_score(jnp.array([0.3, 0.5, 0.9])),
    [0.2, 0, 0.4],
    atol=1e-6,
  )
  assert float(metrics.nomus(0.4, 0.7, 1.0)) == pytest.approx(0.4)


def test_it_is_pure_and_passes_nan_on():
  both = jax.jit(jax.vmap(metrics.nomus))(
    jnp.array([0.4, jnp.nan]), jnp.array([0.6, 0.5])
  )
  assert float(both[0]) == pytest.approx(0.6) and np.isnan(both[1])
  assert np.isnan(metrics.nomus(jnp.nan, 0.5))


@pytest.mark.parametrize(
  ("arguments", "name"),
  [
    ((1.2, 0.5), "accuracy"),
    ((0.5, -0.1), "attack_accuracy"),
    ((0.5, 0.5, 2), "utility_share"),
  ],
)
def test_bad_input(arguments, name):
  refused(rf"^Expected {name} .*in \[0, 1\]", metrics.nomus, *arguments)
