"""Requests, noisy labels and curves from values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import trained
from refusals import refused
from sklearn.metrics import f1_score, roc_auc_score

import jaxunlearn as ju
from jaxunlearn.valuation import uses
from jaxunlearn.valuation.types import Utility

VALUES = jnp.array([0.3, -1.0, jnp.nan, 0.1, 0.3, -1.0])


def additive():
  weights = jnp.asarray([1.0, 2.0, 4.0, 8.0])
  return Utility(lambda m: jnp.where(m, weights, 0).sum(), 4, -5.0)


def test_the_lowest_rows_make_the_request():
  request = uses.lowest(VALUES, count=3)
  assert request.dtype == jnp.bool_
  assert np.flatnonzero(request).tolist() == [1, 3, 5]
  assert np.flatnonzero(uses.lowest(VALUES, count=1)).tolist() == [1]
  assert not uses.lowest(VALUES, count=0).any()
  by_fraction = uses.lowest(VALUES, fraction=0.5)
  assert by_fraction.tolist() == request.tolist()


def test_rows_of_unknown_value_are_never_requested():
  request = uses.lowest(VALUES, fraction=1.0)
  assert np.flatnonzero(~request).tolist() == [2]


def test_the_highest_rows_are_the_other_end():
  found = uses.highest(VALUES, count=3)
  assert np.flatnonzero(found).tolist() == [0, 3, 4]
  assert np.flatnonzero(uses.highest(VALUES, count=1)).tolist() == [0]
  everything = uses.highest(VALUES, fraction=1.0)
  assert np.flatnonzero(~everything).tolist() == [2]


@pytest.mark.parametrize("pick", [uses.lowest, uses.highest])
def test_numbers_that_a_jitted_function_closes_over_are_checked_there(pick):
  two, seven = jnp.int32(2), jnp.int32(7)
  assert int(jax.jit(lambda: pick(VALUES, count=two))().sum()) == 2
  with pytest.raises(ValueError, match=r"count in 0 .. 6, got count=7"):
    jax.jit(lambda: pick(VALUES, count=seven))()


def test_the_lowest_values_are_a_request_that_a_method_takes_as_it_is():
  model, data, variables = trained()
  unlearn = ju.methods.finetune(
    model, optimizer=optax.sgd(0.1), num_steps=5, batch_size=8
  )
  key = jax.random.key(2)
  features = data["x"], data["label"]
  traces = []

  def forget_least_valuable(variables, fraction):
    traces.append(1)
    found = ju.valuation.knn_shapley(*features, *features, num_neighbours=3)
    request = ju.valuation.lowest(found.values, fraction=fraction)
    return unlearn(variables, data, request, key)[0], request

  run = jax.jit(forget_least_valuable)
  for fraction, count in ((0.1, 6), (0.25, 15)):
    unlearned, request = run(variables, fraction)
    assert int(request.sum()) == count
    expected, _ = unlearn(variables, data, jnp.asarray(request), key)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      unlearned.params,
      expected.params,
    )
  assert len(traces) == 1


def best_split(values):
  """The two-means threshold by trying all of them, in float64."""
  x = np.sort(np.asarray(values, np.float64))
  cost = [
    ((x[:k] - x[:k].mean()) ** 2).sum() + ((x[k:] - x[k:].mean()) ** 2).sum()
    for k in range(1, len(x))
  ]
  return np.asarray(values) <= x[int(np.argmin(cost))]


@pytest.mark.parametrize("offset", [0.0, -3000.0])
def test_two_means_finds_the_best_threshold(offset):
  rng = np.random.default_rng(0)
  for size in (2, 7, 60):
    values = np.float32(
      np.concatenate([rng.normal(size=size), rng.normal(4, 1, size)]) + offset
    )
    found = uses.flagged(jnp.asarray(values))
    np.testing.assert_array_equal(found, best_split(values))


def test_two_means_leaves_out_unknown_values_and_keeps_ties_together():
  found = uses.flagged(jnp.array([5.0, jnp.nan, 0.0, 0.0, 5.0, 4.0]))
  assert found.tolist() == [False, False, True, True, False, False]
  assert not uses.flagged(jnp.ones(4)).any()
  assert not uses.flagged(jnp.full(3, jnp.nan)).any()
  assert not uses.flagged(jnp.ones(1)).any()
  assert uses.flagged(jnp.array([1.0, 2.0]), fraction=0.5).tolist() == [
    True,
    False,
  ]


def test_noisy_label_scores_equal_scikit_learn():
  rng = np.random.default_rng(1)
  is_noisy = rng.random(80) < 0.2
  values = np.float32(rng.normal(size=80) - 1.5 * is_noisy).round(1)
  found = uses.noisy_label_scores(jnp.asarray(values), jnp.asarray(is_noisy))
  np.testing.assert_allclose(
    found.roc_auc, roc_auc_score(is_noisy, -values), rtol=1e-5
  )
  chosen = best_split(values)
  np.testing.assert_allclose(found.f1, f1_score(is_noisy, chosen), rtol=1e-5)
  np.testing.assert_allclose(
    found.precision, is_noisy[chosen].mean(), rtol=1e-5
  )
  np.testing.assert_allclose(found.recall, chosen[is_noisy].mean(), rtol=1e-5)
  lowest = np.argsort(values, kind="stable")[: is_noisy.sum()]
  np.testing.assert_allclose(
    found.precision_at_noisy, is_noisy[lowest].mean(), rtol=1e-5
  )


def test_scores_of_no_noise_are_nan_and_unknown_values_are_left_out():
  none = uses.noisy_label_scores(jnp.arange(4.0), jnp.zeros(4, bool))
  assert np.isnan(none.roc_auc) and np.isnan(none.recall)
  assert np.isnan(none.precision_at_noisy) and float(none.f1) == 0
  unknown = uses.noisy_label_scores(
    jnp.array([0.0, 1.0, jnp.nan, jnp.nan]),
    jnp.array([True, False, True, False]),
  )
  assert float(unknown.roc_auc) == 1
  perfect = uses.noisy_label_scores(
    jnp.array([0.0, 0.1, 5.0]), jnp.array([True, True, False]), fraction=2 / 3
  )
  assert float(perfect.f1) == 1


VALUE_ORDER = jnp.array([0.1, 0.2, 0.4, 0.8])  # As the worth of the rows.
FRACTIONS = jnp.array([0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize(
  "curve, order, expected",
  [
    (uses.removal_curve, "high", [15, 7, 3, -5]),
    (uses.removal_curve, "low", [15, 14, 12, -5]),
    (uses.addition_curve, "high", [-5, 8, 12, 15]),
    (uses.addition_curve, "low", [-5, 1, 3, 15]),
  ],
)
def test_curves_take_rows_in_the_order_of_their_values(curve, order, expected):
  found = curve(additive(), VALUE_ORDER, FRACTIONS, order=order)
  assert found.tolist() == expected
  chunked = jax.jit(
    lambda f: curve(additive(), VALUE_ORDER, f, order=order, strategy=3)
  )(FRACTIONS)
  assert chunked.tolist() == expected


@pytest.mark.parametrize("curve", [uses.removal_curve, uses.addition_curve])
def test_fractions_that_a_jitted_function_closes_over_are_checked_there(curve):
  run = lambda f: jax.jit(lambda: curve(additive(), VALUE_ORDER, f))()
  plain = curve(additive(), VALUE_ORDER, FRACTIONS)
  for fractions in (FRACTIONS, np.asarray(FRACTIONS), FRACTIONS.tolist()):
    np.testing.assert_array_equal(run(fractions), plain)
  refused(r"fractions in \[0, 1\], got \[1.5\]", run, jnp.array([1.5]))


@pytest.mark.parametrize("order", ["high", "low"])
def test_rows_of_unknown_value_come_last_in_a_curve(order):
  values = jnp.array([jnp.nan, 0.2, 0.4, 0.8])
  found = uses.removal_curve(additive(), values, jnp.array([0.75]), order=order)
  assert found.tolist() == [1]


def test_the_points_of_a_curve_are_one_call():
  calls = []

  def value(mask):
    calls.append(mask.shape)
    return mask.sum().astype(jnp.float32)

  uses.removal_curve(Utility(value, 4), VALUE_ORDER, FRACTIONS)
  assert len(calls) == 1


def test_weighted_accuracy_drop_equals_its_double_sum():
  a = np.array([0.9, 0.8, 0.85, 0.5, 0.2])
  expected = sum(
    sum(a[i - 1] - a[i] for i in range(1, j + 1)) / j for j in range(1, 5)
  )
  np.testing.assert_allclose(
    uses.weighted_accuracy_drop(a), expected, rtol=1e-6
  )
  harmonic = (1 / np.arange(1, 5)).sum()
  telescoped = a[0] * harmonic - (a[1:] / np.arange(1, 5)).sum()
  np.testing.assert_allclose(expected, telescoped)
  assert float(uses.weighted_accuracy_drop(jnp.array([0.4]))) == 0


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: uses.lowest(VALUES), "count or fraction"),
    (lambda: uses.lowest(VALUES, count=1, fraction=0.1), "count or fraction"),
    (lambda: uses.lowest(VALUES, count=7), r"count in 0 .. 6, got count=7"),
    (lambda: uses.lowest(VALUES, count=0.2), "count to be an integer, got"),
    (lambda: uses.highest(VALUES), "count or fraction"),
    (lambda: uses.lowest(VALUES, fraction=1.2), r"fraction in \[0, 1\]"),
    (lambda: uses.lowest(VALUES[None], count=1), r"values \[N\]"),
    (lambda: uses.flagged(VALUES, fraction=-1), r"fraction in \[0, 1\]"),
    (
      lambda: uses.noisy_label_scores(VALUES, jnp.ones(6)),
      r"is_noisy bool \[6\]",
    ),
    (
      lambda: uses.removal_curve(additive(), VALUES, FRACTIONS),
      r"values \[4\]",
    ),
    (
      lambda: uses.removal_curve(
        additive(), VALUE_ORDER, FRACTIONS, order="best"
      ),
      "order to be one of",
    ),
    (
      lambda: uses.addition_curve(additive(), VALUE_ORDER, FRACTIONS + 1),
      r"fractions in \[0, 1\]",
    ),
    (
      lambda: uses.addition_curve(additive(), VALUE_ORDER, 0.5),
      r"fractions \[F\]",
    ),
    (
      lambda: uses.weighted_accuracy_drop(jnp.zeros((2, 2))),
      r"accuracies \[K > 0\]",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  refused(message, call)
