"""CS-Shapley against enumeration and games with a closed form."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import NUM_CLASSES, blobs, mlp
from refusals import refused

from jaxunlearn.core.devices import make_mesh
from jaxunlearn.core.training import train
from jaxunlearn.valuation.class_wise import (
  class_wise_shapley,
  trained_class_scores,
)

LABEL = np.array([0, 1, 0, 1, 0])
WORTH = np.array([0.1, 0.05, 0.2, 0.15, 0.05])


def additive(mask):
  """Every row adds its worth to the score of its class."""
  worth = jnp.where(mask, jnp.asarray(WORTH, jnp.float32), 0)
  return jnp.zeros(2).at[LABEL].add(worth)


def crooked(mask, xp=jnp):
  """Scores with interactions within a class and across classes."""
  m = xp.asarray(mask) * 1.0
  first = 0.3 * m[0] * m[2] + 0.1 * m[4] - 0.05 * m[1] * m[4]
  second = 0.2 * xp.maximum(m[1], m[3]) + 0.05 * m[0]
  return xp.stack([first, second])


def enumerate_values(scores):
  """By definition: over all O and all S; float64, O with chance 1/2."""
  values = np.zeros(5)
  for i, y in enumerate(LABEL):
    own = [j for j in range(5) if LABEL[j] == y and j != i]
    other = [j for j in range(5) if LABEL[j] != y]

    def u(rows):
      mask = np.zeros(5)
      mask[list(rows)] = 1
      s = scores(mask)
      return s[y] * math.exp(s.sum() - s[y]) if rows else 0.0

    for outside in itertools.product([0, 1], repeat=len(other)):
      o = [j for j, taken in zip(other, outside) if taken]
      for size in range(len(own) + 1):
        weight = 1 / (len(own) + 1) / math.comb(len(own), size)
        for s in itertools.combinations(own, size):
          gain = u([*o, *s, i]) - u([*o, *s])
          values[i] += weight * gain / 2 ** len(other)
  return values


def test_values_without_rescaling_estimate_the_enumeration():
  found = jax.jit(
    lambda key: class_wise_shapley(
      crooked, LABEL, key, num_classes=2, num_permutations=3000, rescale=False
    )
  )(jax.random.key(0))
  expected = enumerate_values(lambda m: crooked(m, np))
  error = np.asarray(found.standard_error)
  assert (error < 4e-3).all() and (error > 0).all()
  assert (np.abs(found.values - expected) < 5 * error).all()
  assert int(found.num_evaluations) == 3000 * (5 + 2) + 1


def test_an_additive_game_gives_back_what_the_rows_are_worth():
  # A marginal is w_i exp(a_out): the factor is common to a class on average
  # and the rescaling takes it out, up to the draw of O.
  found = class_wise_shapley(
    additive, LABEL, jax.random.key(1), num_classes=2, num_permutations=5
  )
  np.testing.assert_allclose(found.values, WORTH, atol=1e-6)
  np.testing.assert_allclose(found.utility_full, WORTH.sum(), atol=1e-6)


def test_rescaled_values_add_up_to_the_score_of_their_class():
  found = class_wise_shapley(
    crooked, LABEL, jax.random.key(2), num_classes=2, num_permutations=3
  )
  full = np.asarray(crooked(np.ones(5)))
  for y in range(2):
    np.testing.assert_allclose(
      found.values[y == LABEL].sum(), full[y], atol=1e-6
    )


def test_a_sum_that_is_but_rounding_is_zero_too():
  def scores(mask):
    # Rows 0 and 2 undo what row 4 did, up to the last digit.
    m = mask.astype(jnp.float32)
    return jnp.array([0.1 * m[0] + 0.3 * m[2] - (0.4 + 2e-7) * m[4] + 0.4, 0.0])

  found = class_wise_shapley(
    scores,
    LABEL,
    jax.random.key(0),
    num_classes=2,
    num_permutations=2,
    empty_scores=jnp.array([0.4, 0.0]),
  )
  np.testing.assert_allclose(found.values, [0.1, 0, 0.3, 0, -0.4], atol=1e-5)


@pytest.mark.slow
def test_strategies_and_a_mesh_give_the_same_values():
  def call(**how):
    return class_wise_shapley(
      crooked,
      LABEL,
      jax.random.key(3),
      num_classes=2,
      num_permutations=4,
      **how,
    ).values

  expected = call()
  mesh = make_mesh(models=8)
  for how in ({"strategy": "map"}, {"strategy": 3}, {"mesh": mesh}):
    np.testing.assert_allclose(call(**how), expected, atol=1e-6)


@pytest.mark.slow
def test_class_scores_are_shares_of_right_answers_of_the_trained_model():
  data, validation = blobs(16), blobs(30, seed=5)
  recipe = {"optimizer": optax.adam(0.05), "num_steps": 10, "batch_size": 8}
  key, mask = jax.random.key(0), jnp.arange(16) < 11
  scores = trained_class_scores(
    mlp(), data, validation, key, num_classes=NUM_CLASSES + 1, **recipe
  )
  found = jax.jit(scores)(mask)
  variables, _ = train(mlp(), data, mask, key, **recipe)
  guess = np.asarray(mlp().predict(variables, validation["x"])).argmax(axis=1)
  label = np.asarray(validation["label"])
  expected = [((guess == label) & (label == y)).sum() / 30 for y in range(5)]
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"num_permutations": 0}, "num_permutations > 0"),
    ({"num_classes": 0}, "num_classes > 0"),
    ({"labels": np.array([0, 2])}, "labels in 0 .. 1, got 0 .. 2"),
    ({"labels": np.zeros((2, 2), int)}, r"labels \[N > 0\]"),
    ({"labels": np.zeros(0, int)}, "N > 0"),
    ({"rate": 1.5}, r"rate in \[0, 1\]"),
    ({"empty_scores": np.zeros(3)}, r"empty_scores \[2\]"),
    ({"class_scores": lambda m: m.sum()}, r"return \[2\], got shape \(\)"),
    ({"class_scores": lambda m: jnp.full(2, jnp.nan)}, "finite utilities"),
  ],
)
def test_bad_input_is_named(change, match):
  given = {"class_scores": additive, "labels": LABEL, "num_classes": 2}
  given |= {"num_permutations": 2, **change}
  refused(match, class_wise_shapley, key=jax.random.key(0), **given)


def test_class_scores_want_validation_rows_with_known_labels():
  data, key = blobs(8), jax.random.key(0)
  none = {"x": jnp.zeros((0, 6)), "label": jnp.zeros(0, jnp.int32)}
  with pytest.raises(ValueError, match="validation to hold rows, got 0"):
    trained_class_scores(mlp(), data, none, key, num_classes=4)
  with pytest.raises(ValueError, match=r"validation\['label'\] in 0 .. 2"):
    trained_class_scores(mlp(), data, blobs(8), key, num_classes=3)
