"""LiRA finds a row that was planted to be memorised, at a low error rate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import attacks
from jaxunlearn.adapters.functions import from_functions

NUM_MODELS = 32
NUM_ROWS = 300
NUM_COPIES = 4
PLANTED = NUM_ROWS  # The first copy; the rest follows.


@functools.cache
def leak():
  """Statistics [S, N] of digits of which one is mislabelled and repeated.

  Its copies are together in half of the models, and in none of the others, as
  every ordinary row by itself is.
  """
  from sklearn.datasets import load_digits

  x, label = load_digits(return_X_y=True)
  order = np.random.default_rng(0).permutation(len(x))[: NUM_ROWS + 1]
  x, label = x[order] / 16, label[order]
  repeats = np.append(np.ones(NUM_ROWS, int), NUM_COPIES)
  x, label = np.repeat(x, repeats, axis=0), np.repeat(label, repeats)
  label[PLANTED:] = (label[PLANTED:] + 5) % 10
  data = {
    "x": jnp.asarray(x, jnp.float32),
    "label": jnp.asarray(label, jnp.int32),
  }
  masks = attacks.shadow_masks(jax.random.key(0), NUM_MODELS, len(x))
  masks = masks.at[:, PLANTED:].set(masks[:, PLANTED : PLANTED + 1])
  model = from_functions(_init, _apply)
  statistics = jax.jit(
    lambda masks, keys: attacks.train_shadows(
      model,
      data,
      masks,
      keys,
      optimizer=optax.adam(5e-3),
      num_steps=150,
      batch_size=32,
      strategy="map",
    )
  )(masks, jax.random.split(jax.random.key(1), NUM_MODELS))
  return statistics, masks


def _init(key, x):
  del x
  first, second = jax.random.split(key)
  return {
    "w": jax.random.normal(first, (64, 32)) / 8,
    "b": jnp.zeros(32),
    "v": jax.random.normal(second, (32, 10)) / 32**0.5,
  }


def _apply(params, x):
  return jax.nn.relu(x @ params["w"] + params["b"][None]) @ params["v"]


def found(scores, masks):
  """TPR at 0.1 % FPR of the planted row, and of the ordinary ones.

  Non-members are ordinary rows under every model that left them out.
  """
  scores, masks = np.asarray(scores), np.asarray(masks)
  ordinary, member = scores[:, :PLANTED], masks[:, :PLANTED]
  others = ordinary[~member]
  assert others.size >= 1000  # Fewer cannot tell 0.1 %.
  rate = lambda members: float(
    attacks.tpr_at_fpr(jnp.asarray(members), jnp.asarray(others), fpr=0.001)
  )
  planted, present = scores[:, PLANTED], masks[:, PLANTED]
  return rate(planted[present]), rate(planted[~present]), rate(ordinary[member])


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["fixed", "per_example"])
def test_the_planted_row_is_found_where_it_is_and_nowhere_else(variance):
  statistics, masks = leak()
  scores = attacks.lira_leave_one_out(statistics, masks, variance=variance)
  where_it_is, where_it_is_not, ordinary = found(scores, masks)
  assert where_it_is >= 0.9
  assert where_it_is_not == 0
  assert ordinary < 0.05


def test_one_rule_for_all_rows_misses_it():
  """A mislabelled row that was learned looks like an ordinary one at best."""
  statistics, masks = leak()
  scores = attacks.global_threshold(statistics)
  assert found(scores, masks)[0] <= 0.1
