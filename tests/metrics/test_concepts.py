import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import metrics

RNG = np.random.default_rng(0)


def planted(n=300, d=6, k=3):
  """Embeddings, and concepts that are half spaces of them."""
  e = RNG.normal(size=(n, d)).astype(np.float32)
  directions = RNG.normal(size=(k, d))
  return e, directions, np.sign(e @ directions.T)


def test_integrated_gradients_add_up():
  fn = lambda x: jnp.tanh(x["a"].sum()) * x["b"][0] ** 2
  rows = {
    "a": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=(5, 2)), jnp.float32),
  }
  baseline = {"a": jnp.zeros(3), "b": jnp.full(2, 0.3)}
  found = metrics.integrated_gradients(fn, rows, baseline, num_steps=200)
  total = found["a"].sum(-1) + found["b"].sum(-1)
  want = jax.vmap(fn)(rows) - fn(baseline)
  np.testing.assert_allclose(total, want, atol=1e-4)
  assert (found["b"][:, 1] == 0).all()  # The function does not read it.
  still = jax.tree.map(lambda x: x[None], baseline)
  assert all(
    (leaf == 0).all()
    for leaf in jax.tree.leaves(
      metrics.integrated_gradients(fn, still, baseline)
    )
  )
  w = jnp.array([2.0, -3.0, 0.5])
  linear = metrics.integrated_gradients(
    lambda x: x @ w, rows["a"], jnp.ones(3), num_steps=1
  )
  np.testing.assert_allclose(linear, (rows["a"] - 1) * w[None], rtol=1e-5)


def test_directions_of_planted_concepts():
  e, directions, y = planted()
  bank = jax.jit(metrics.concept_bank)(e, y)
  size = np.linalg.norm(bank.weights, axis=1) * np.linalg.norm(
    directions, axis=1
  )
  cosine = (bank.weights * directions).sum(1) / size
  assert (cosine > 0.95).all() and (bank.accuracy > 0.95).all()
  other = metrics.concept_bank(e, -y)
  np.testing.assert_allclose(other.margins(e), -bank.margins(e), atol=1e-4)
  scaled = bank._replace(weights=3 * bank.weights, bias=3 * bank.bias)
  np.testing.assert_allclose(scaled.margins(e), bank.margins(e), atol=1e-5)


def test_the_direction_is_the_minimum():
  """Against scikit-learn, whose bias is free."""
  from sklearn.linear_model import LogisticRegression

  e, _, y = planted(n=80, k=1)
  bank = metrics.concept_bank(e, y, strength=0.1, num_steps=500)
  model = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000).fit(e, y[:, 0])
  np.testing.assert_allclose(bank.weights, model.coef_, rtol=2e-3, atol=2e-3)
  np.testing.assert_allclose(bank.bias, model.intercept_, atol=5e-3)


def test_what_is_not_known_does_not_count():
  e, _, y = planted()
  y[:, 1] = 1  # No example without it.
  y[200:, 0] = 0
  bank = metrics.concept_bank(e, y)
  assert (bank.weights[1] == 0).all() and jnp.isnan(bank.accuracy[1])
  assert (bank.margins(e)[:, 1] == 0).all()
  alone = metrics.concept_bank(e[:200], y[:200, :1], num_steps=500)
  longer = metrics.concept_bank(e, y, num_steps=500)
  np.testing.assert_allclose(
    longer.weights[0], alone.weights[0], rtol=1e-2, atol=1e-3
  )


def bottleneck_of(penalty=1e-3):
  margins = RNG.normal(size=(400, 4)).astype(np.float32)
  label = (margins[:, 0] > 0).astype(np.int32) + 2 * (margins[:, 1] > 0.5)
  fitted = metrics.fit_bottleneck(margins, label, 4, penalty=penalty)
  return margins, label, fitted


def test_the_bottleneck_tells_classes_and_is_sparse():
  margins, label, fitted = bottleneck_of(0.02)
  right = (fitted.predict(margins).argmax(-1) == label).mean()
  assert right > 0.9
  # Nothing depends on the last two.
  assert jnp.abs(fitted.weights[:, 2:]).max() < 0.1
  assert (fitted.weights[:, 2:] == 0).sum() > 4


def test_attributions_are_integrated_gradients_of_the_logit():
  margins, label, fitted = bottleneck_of()
  found = metrics.class_attributions(fitted, margins, label)
  logit = lambda s, c: fitted.predict(s[None])[0, c]
  for c in range(4):
    rows, rest = margins[label == c], margins[label != c].mean(0)
    each = metrics.integrated_gradients(
      lambda s, c=c: logit(s, c), jnp.asarray(rows), jnp.asarray(rest)
    )
    np.testing.assert_allclose(found[c], each.mean(0), rtol=1e-3, atol=1e-4)
  with_mask = metrics.class_attributions(
    fitted, margins, label, jnp.asarray(label != 3)
  )
  assert jnp.isnan(with_mask[3]).all() and jnp.isfinite(with_mask[:3]).all()


def test_coverage_takes_the_largest_first():
  a = jnp.array([0.5, -4.0, 3.0, 1.5, 0.0])
  chosen = lambda c: metrics.concepts_of(a, c).tolist()
  assert chosen(0.0) == [False] * 5
  assert chosen(0.6) == [False, False, True, False, False]
  assert chosen(0.9) == [False, False, True, True, False]
  assert chosen(1.0) == [True, False, True, True, False]
  assert not metrics.concepts_of(-jnp.abs(a)).any()


def test_the_residue_and_the_closest_class():
  before, after = jnp.array([2.0, -1.0, 1.0]), jnp.array([0.5, 9.0, -0.5])
  chosen = jnp.array([True, False, True])
  residue = metrics.concept_residue(after, before, chosen)
  np.testing.assert_allclose(residue, 1 / 3, rtol=1e-6)
  assert jnp.isnan(metrics.concept_residue(after, before, ~chosen & chosen))
  table = jnp.array([[1.0, 0.0], [0.0, 5.0], [0.2, 0.1], [jnp.nan, 1.0]])
  assert metrics.closest_class(table, 0) == 2
  assert metrics.closest_class(table, 1) == 2


def of_classes(margins, label, weights=None):
  one = jnp.ones(1)
  bottleneck = metrics.Bottleneck(jnp.ones((2, 1)), jnp.ones(2), one, one)
  return metrics.class_attributions(bottleneck, margins, label, weights)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda e, y: metrics.concept_bank(e, y[:, :0]), "K > 0"),
    (lambda e, y: metrics.concept_bank(e, y, strength=0.0), "strength > 0"),
    (
      lambda e, y: metrics.fit_bottleneck(y, np.zeros(300, int), 2, l1_ratio=2),
      "l1_ratio",
    ),
    (lambda e, y: metrics.concepts_of(y[0], 1.5), "coverage"),
    (lambda e, y: metrics.concepts_of(y), "of one class"),
    (lambda e, y: metrics.closest_class(y[:3], of=3), r"of in 0 \.\. 2"),
    (lambda e, y: metrics.closest_class(y[0], of=0), r"attributions \[N, C\]"),
    (
      lambda e, y: metrics.concept_residue(y, y[:1], y > 0),
      "and after ",
    ),
    (lambda e, y: metrics.concept_residue(y, y, y[0] > 0), "and chosen "),
    (lambda e, y: metrics.concept_residue(y, y, y), "chosen of dtype bool"),
    (lambda e, y: of_classes(y[:, :1], y[:, 0] > 0), "label of integer dtype"),
    (lambda e, y: of_classes(y[:, :1], np.full(300, 2)), r"label in 0 \.\. 1"),
    (lambda e, y: of_classes(y, np.zeros(300, int)), r"margins \[N, 1\]"),
    (
      lambda e, y: of_classes(y[:, :1], np.zeros(300, int), np.ones((300, 1))),
      r"weights \[300\]",
    ),
    (
      lambda e, y: metrics.integrated_gradients(lambda x: x.sum(), e, e[0, :2]),
      "Expected baseline of shape",
    ),
  ],
)
def test_bad_input(call, message):
  e, _, y = planted()
  refused(message, call, e, y)
