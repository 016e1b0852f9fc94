import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from scipy.special import logsumexp

from jaxunlearn import metrics

RNG = np.random.default_rng(0)
klom = jax.jit(metrics.klom, static_argnames=("num_bins", "direction"))


def by_histogram(p_margins, q_margins, bins=20, floor=1e-5):
  """In float64, by NumPy's histograms, whose last bin is closed."""
  found = []
  for p, q in zip(p_margins.T, q_margins.T):
    both = np.concatenate([p, q])
    edges = np.linspace(both.min(), both.max(), bins + 1)
    p = np.histogram(p, edges)[0] / len(p)
    q = np.maximum(np.histogram(q, edges)[0] / len(q), floor)
    some = p > 0
    found.append((p[some] * np.log(p[some] / q[some])).sum())
  return np.array(found)


def test_against_histograms():
  p, q = RNG.normal(size=(50, 7)), RNG.normal(0.5, 2, size=(80, 7))
  found = klom(p, q)
  np.testing.assert_allclose(found, by_histogram(p, q), rtol=1e-4, atol=1e-5)
  other = klom(p, q, direction="retrained")
  np.testing.assert_allclose(other, by_histogram(q, p), rtol=1e-4, atol=1e-5)


def test_worked_values():
  same = jnp.asarray(RNG.normal(size=(30, 3)), jnp.float32)
  np.testing.assert_allclose(klom(same, same), 0, atol=1e-6)
  # Halves of two bins against all of the first.
  p, q = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [0.1]])
  want = 0.5 * np.log(0.5) + 0.5 * np.log(0.5 / 1e-5)
  np.testing.assert_allclose(klom(p, q, num_bins=2), want, rtol=1e-5)
  # Margins without spread share their bin.
  np.testing.assert_allclose(klom(p * 0 + 3, q * 0 + 3), 0, atol=1e-6)


def test_what_changes_nothing():
  p, q = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2))
  whole = klom(p, q)
  np.testing.assert_allclose(klom(p[::-1], q), whole, rtol=1e-6)
  moved = klom(4 * p + 8, 4 * q + 8)
  np.testing.assert_allclose(moved, whole, rtol=1e-4)
  p[3, 0] = np.nan
  np.testing.assert_array_equal(jnp.isnan(klom(p, q)), [True, False])


def test_the_floor_is_that_of_two_halves():
  q = RNG.normal(size=(41, 4))
  np.testing.assert_allclose(
    jax.jit(metrics.klom_floor)(q),
    by_histogram(q[:20], q[20:40]),
    rtol=1e-4,
    atol=1e-5,
  )


def test_margins_of_logits():
  logits = RNG.normal(size=(5, 4))
  label = np.array([0, 3, 1, 2, 2])
  rest = [logsumexp(np.delete(row, k)) for row, k in zip(logits, label)]
  want = logits[np.arange(5), label] - rest
  found = metrics.logit_confidence(logits, label)
  np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda a: metrics.klom(a, a, num_bins=1), "Expected num_bins"),
    (lambda a: metrics.klom(a, a, floor=0.0), "Expected floor > 0"),
    (lambda a: metrics.klom(a, a, direction="both"), "Expected direction"),
    (lambda a: metrics.klom(a[0], a), "Expected unlearned"),
    (
      lambda a: metrics.klom(a, a[:, :2]),
      r"\[M > 0, E\] and retrained \[K > 0, E\]",
    ),
    (lambda a: metrics.klom_floor(a[:1]), "K > 1"),
  ],
)
def test_bad_input(call, message):
  refused(message, call, np.zeros((4, 3)))
