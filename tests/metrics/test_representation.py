"""Linear CKA and what a model says of each class."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import metrics

RNG = np.random.default_rng(0)


def cka(x, y):
  """By Gram matrices, in float64."""
  x, y = (v - v.mean(0) for v in (x, y))
  cross = np.linalg.norm(y.T @ x) ** 2
  return cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


@pytest.mark.parametrize("count, widths", [(30, (4, 7)), (6, (20, 9))])
def test_it_equals_float64_by_features_and_by_rows(count, widths):
  x, y = (RNG.normal(size=(count, w)) + 1 for w in widths)
  found = metrics.linear_cka(jnp.float32(x), jnp.float32(y))
  assert float(found) == pytest.approx(cka(x, y), abs=1e-5)
  mask = np.arange(count) % 3 > 0
  found = metrics.linear_cka(jnp.float32(x), jnp.float32(y), jnp.asarray(mask))
  assert float(found) == pytest.approx(cka(x[mask], y[mask]), abs=1e-5)


def test_rotation_and_scale_do_not_matter_and_constants_have_no_value():
  x = RNG.normal(size=(25, 6))
  turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
  found = metrics.linear_cka(jnp.float32(x), jnp.float32(3 * x @ turn + 5))
  assert float(found) == pytest.approx(1, abs=1e-5)
  same = jnp.full((25, 3), 0.1)
  assert np.isnan(metrics.linear_cka(jnp.float32(x), same))
  broken = jnp.float32(x).at[2, 1].set(jnp.nan)
  assert np.isnan(metrics.linear_cka(broken, jnp.float32(x)))
  with pytest.raises(ValueError, match="y of 25 rows as x, got 4"):
    metrics.linear_cka(jnp.float32(x), jnp.zeros((4, 2)))


def test_outcomes_equal_a_loop_and_a_diverged_row_spoils_its_class_alone():
  logits, labels = RNG.normal(size=(40, 3)) * 2, np.arange(40) % 2
  weights = RNG.random(40)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  found = metrics.class_outcomes(
    jnp.float32(logits), jnp.asarray(labels), 3, jnp.float32(weights)
  )
  for c in range(2):
    w = weights * (labels == c) / weights[labels == c].sum()
    np.testing.assert_allclose(found.confidences[c], w @ p, atol=1e-5)
    shares = w @ np.eye(3)[logits.argmax(-1)]
    np.testing.assert_allclose(found.shares[c], shares, atol=1e-5)
  assert np.isnan(found.shares[2]).all()  # No row is of this class.
  broken = jnp.float32(logits).at[0].set(jnp.nan)
  found = metrics.class_outcomes(broken, jnp.asarray(labels), 3)
  assert (
    np.isnan(found.shares[0]).all() and np.isnan(found.confidences[0]).all()
  )
  assert np.isfinite(found.shares[1]).all()
