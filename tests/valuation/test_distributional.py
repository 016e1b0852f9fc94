"""Distributional Shapley beside every subset, and values of rows not had yet."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from experiments import value_data
from experiments.studies.value_data import unseen_gains
from jaxunlearn.valuation import (
  Utility,
  distributional_shapley,
  rank_correlation,
)

WORTH = np.array([1.0, -2.0, 0.5, 3.0, 1.5, 2.5])
POOL = np.array([True] * 5 + [False])


def worth(mask, xp=np):
  """Rows help each other and saturate."""
  total = (xp.asarray(WORTH) * mask).sum()
  return xp.tanh(total / 3) + 0.1 * mask[0] * mask[3] - 0.2 * mask[1] * mask[5]


GAME = Utility(lambda mask: worth(mask, jnp), 6, worth(np.zeros(6)))


def by_all_sets(point, max_size):
  others = [i for i in np.flatnonzero(POOL) if i != point]
  means = []
  for size in range(max_size):
    gains = []
    for chosen in itertools.combinations(others, size):
      mask = np.zeros(6)
      mask[list(chosen)] = 1
      added = mask.copy()
      added[point] = 1
      gains.append(worth(added) - worth(mask))
    means.append(np.mean(gains))
  return np.mean(means)


@pytest.mark.parametrize("max_size", [1, 3, 5])
def test_values_are_means_over_all_sets_of_every_size(max_size):
  points = jnp.array([5, 0, 3])
  found = distributional_shapley(
    GAME,
    jnp.array(POOL),
    points,
    jax.random.key(1),
    num_sets=3000,
    max_size=max_size,
  )
  wanted = np.array([by_all_sets(p, max_size) for p in (5, 0, 3)])
  error = np.asarray(found.standard_error)
  assert (error < 0.03).all()
  np.testing.assert_array_less(np.abs(found.values - wanted), 4 * error + 1e-6)
  assert int(found.num_evaluations) == 3000 * 4


def test_few_sets_are_spread_over_all_sizes():
  # A row is worth as much as there are others.
  game = Utility(lambda mask: mask.sum() ** 2.0, 41)
  pool = jnp.arange(41) < 40
  found = distributional_shapley(
    game, pool, jnp.array([40]), jax.random.key(0), num_sets=8, max_size=40
  )
  sizes = np.arange(8) * 5
  np.testing.assert_allclose(found.values, [(2 * sizes + 1).mean()])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_sets": 0}, "num_sets"),
    ({"max_size": 6}, "at most the pool's 5 rows, got 6"),
    ({"pool": np.ones(6)}, r"pool bool \[6\], got float32"),
    ({"points": np.ones(2)}, r"points int \[K\], got float"),
  ],
)
def test_bad_input_is_refused(change, message):
  usual = {"pool": POOL, "points": np.array([5]), "num_sets": 2, "max_size": 2}
  refused(
    message,
    distributional_shapley,
    GAME,
    key=jax.random.key(0),
    **{**usual, **change},
  )


def test_unseen_rows_are_valued_by_what_they_add():
  options = value_data.Options(
    preset="smoke", seeds=1, methods="distributional_shapley"
  )
  plan = value_data.prepare(options)
  bed = plan.beds.make((), jax.tree.map(lambda v: v[0], plan.beds.of_seed))
  gains = jax.jit(lambda: unseen_gains(bed))()
  method = plan.study.methods["distributional_shapley"]
  serve = jax.jit(method.build(bed, {"sets": 40}))
  state, _ = serve(None, bed.data, plan.forget[0], jax.random.key(0))
  assert gains.shape == (10,) and state.model_state["unseen"].shape == (10,)
  # Flipped ones add least, and are worth least.
  assert rank_correlation(state.model_state["unseen"], gains) > 0.5
