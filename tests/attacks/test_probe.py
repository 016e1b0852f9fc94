"""Linear probes against scikit-learn's ridge regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from refusals import refused

from jaxunlearn.attacks.probe import linear_probe, probe_model

N, D, C = 90, 7, 4


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(N, D)).astype(np.float32) + 0.5
  labels = np.argmax(
    features @ rng.normal(size=(D, C)) + rng.normal(size=(N, C)), axis=1
  )
  fit = rng.random(N) < 0.6
  return features, labels.astype(np.int32), fit


def reference(features, labels, weights, ridge):
  """sklearn's Ridge on one-hot labels, with the column of ones shrunk too."""
  from sklearn.linear_model import Ridge

  h = np.concatenate([features, np.ones((len(features), 1))], 1)
  h = h.astype(np.float64)
  used = weights > 0
  gram = (h[used] * weights[used, None]).T @ h[used]
  alpha = ridge * np.trace(gram) / h.shape[1]
  solver = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky")
  solver.fit(h[used], np.eye(C)[labels[used]], sample_weight=weights[used])
  return solver.coef_.T, h @ solver.coef_.T


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
def test_the_probe_is_the_ridge_regression_of_sklearn(rows, ridge):
  features, labels, fit = rows
  probe = functools.partial(linear_probe, num_classes=C, ridge=ridge)
  found = jax.jit(probe)(features, labels, fit, ~fit)
  weights, scores = reference(features, labels, fit.astype(float), ridge)
  np.testing.assert_allclose(found.kernel, weights[:-1], atol=1e-4)
  np.testing.assert_allclose(found.bias, weights[-1], atol=1e-4)
  right = scores.argmax(1) == labels
  np.testing.assert_allclose(found.accuracy, right[~fit].mean(), rtol=1e-6)
  np.testing.assert_allclose(found.fit_accuracy, right[fit].mean(), rtol=1e-6)


def test_weights_of_rows_are_those_of_sklearn(rows):
  features, labels, _ = rows
  weights = np.random.default_rng(5).uniform(0, 2, N).astype(np.float32)
  weights[::3] = 0
  found = linear_probe(
    features, labels, weights / 2, weights == 0, num_classes=C, ridge=0.01
  )
  expected, _ = reference(features, labels, weights, 0.01)
  np.testing.assert_allclose(found.kernel, expected[:-1], atol=1e-4)


def test_rows_outside_both_masks_are_not_read(rows):
  features, labels, fit = rows
  judged = ~fit & (np.arange(N) % 2 == 0)
  clean = linear_probe(features, labels, fit, judged, num_classes=C)
  poisoned = np.where((fit | judged)[:, None], features, np.nan)
  found = linear_probe(poisoned, labels, fit, judged, num_classes=C)
  np.testing.assert_array_equal(clean.kernel, found.kernel)
  assert float(clean.accuracy) == float(found.accuracy)


def test_empty_sets_give_nan_and_so_does_a_nan_that_counts(rows):
  features, labels, fit = rows
  none = np.zeros(N, bool)
  found = linear_probe(features, labels, none, fit, num_classes=C)
  assert np.isnan(found.accuracy) and np.isnan(found.kernel).all()
  found = linear_probe(features, labels, fit, none, num_classes=C)
  assert np.isnan(found.accuracy) and np.isfinite(found.fit_accuracy)
  broken = features.copy()
  broken[np.flatnonzero(fit)[0]] = np.nan
  found = linear_probe(broken, labels, fit, ~fit, num_classes=C)
  assert np.isnan(found.accuracy)


# Models.


def hidden(variables, x):
  layer = variables.params["hidden"]
  h = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
  return {"hidden": h, "map": h.reshape(-1, 2, 4), "input": x}


@pytest.fixture(scope="module")
def probed():
  model, data, variables = problems.trained()
  return model._replace(features=hidden), data, variables


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [7, 60, 100])
def test_a_model_is_probed_in_chunks_as_at_once(probed, chunk_size):
  model, data, variables = probed
  fit = jnp.arange(60) % 3 > 0
  found = probe_model(
    model,
    variables,
    data,
    fit,
    ~fit,
    layers=("hidden", "map"),
    num_classes=C,
    chunk_size=chunk_size,
  )
  assert list(found) == ["hidden", "map"]
  wanted = linear_probe(
    hidden(variables, data["x"])["hidden"],
    data["label"],
    fit,
    ~fit,
    num_classes=C,
  )
  for probe in found.values():
    for a, b in zip(probe, wanted):
      np.testing.assert_allclose(a, b, atol=1e-4)
  assert float(wanted.accuracy) > 0.5


@pytest.mark.parametrize(
  ("changes", "match"),
  [
    ({"layers": "hiden"}, r"\['hidden', 'input', 'map'\], got 'hiden'"),
    ({"layers": ()}, "got none"),
    ({"chunk_size": 0}, "chunk_size > 0"),
    ({"num_classes": 2}, r"labels in 0 \.\. 1"),
    ({"ridge": 0.0}, "ridge > 0"),
    ({"fit": jnp.ones(3, bool)}, "fit_mask of shape"),
    ({"judged": jnp.ones(60, int)}, "eval_mask of dtype bool"),
  ],
)
def test_probe_model_names_what_is_wrong(probed, changes, match):
  model, data, variables = probed
  every = jnp.ones(60, bool)
  config = {"layers": "hidden", "num_classes": C, **changes}
  fit, judged = config.pop("fit", every), config.pop("judged", every)
  refused(match, probe_model, model, variables, data, fit, judged, **config)


def test_a_model_without_features_is_refused():
  model, data, variables = problems.trained()
  every = jnp.ones(60, bool)
  with pytest.raises(ValueError, match="model with features"):
    probe_model(
      model, variables, data, every, every, layers="hidden", num_classes=C
    )


@pytest.mark.parametrize(
  ("features", "labels", "match"),
  [
    (np.ones((5, 2, 2)), np.zeros(5, int), r"features \[N,"),
    (np.ones((5, 2)), np.zeros(4, int), "labels "),
    (np.ones((5, 2)), np.zeros(5), "integer dtype"),
  ],
)
def test_linear_probe_names_what_is_wrong(features, labels, match):
  every = np.ones(5, bool)
  features = features.astype(np.float32)
  refused(match, linear_probe, features, labels, every, every, num_classes=C)
