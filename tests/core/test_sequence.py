"""Deletion requests one after the other, in one program."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import NUM_CLASSES, counting, mlp, trained
from refusals import refused

from jaxunlearn.core import requests
from jaxunlearn.core.drivers import unlearn_sequence
from jaxunlearn.core.links import edit
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import ALL, Draw

KEYS = jax.random.split(jax.random.key(3), 3)


def both(model, steps=4):
  """Descends on the retain rows and ascends on the forget rows."""
  return phase(
    supervised(model),
    optax.sgd(0.05),
    steps,
    draw=Draw(forget=8, retain=16),
    forget_weight=-0.1,
  )


def each(data):
  return requests.each_class(data["label"], NUM_CLASSES)[:3]


def at(tree, index):
  return jax.tree.map(lambda leaf: leaf[index], tree)


def test_the_first_request_gives_what_it_gives_alone():
  model, data, variables = trained()
  masks, method = each(data), both(model)
  many, info = jax.jit(unlearn_sequence, static_argnums=0)(
    method, variables, data, masks, KEYS
  )
  alone, alone_info = jax.jit(method)(variables, data, masks[0], KEYS[0])
  chex.assert_trees_all_close(at(many, 0), alone, rtol=1e-6, atol=1e-7)
  chex.assert_trees_all_close(at(info, 0), alone_info, rtol=1e-6, atol=1e-7)
  assert info.loss.shape == (3, 4)


def test_each_request_starts_from_what_the_last_one_left():
  _, data, variables = trained()

  def halve(variables, data, request, key):
    return jax.tree.map(lambda p: p / 2, variables)

  many, _ = unlearn_sequence(edit(halve), variables, data, each(data), KEYS)
  for k in range(3):
    wanted = jax.tree.map(lambda p: p / 2 ** (k + 1), variables)
    chex.assert_trees_all_equal(at(many, k), wanted)


def test_rows_forgotten_earlier_are_out_of_reach():
  model, data, variables = trained()
  masks = each(data)

  def last(first_rows):
    poisoned = {
      **data,
      "x": jnp.where(masks[0][:, None], first_rows, data["x"]),
    }

    def spared(variables, rows, request, key, is_first):
      out, info = both(model)(variables, rows, request, key)
      keep = lambda old, new: jnp.where(is_first, old, new)
      return jax.tree.map(keep, variables, out), info.retain_count

    is_first = jnp.array([True, False, False])
    return jax.jit(
      lambda: unlearn_sequence(
        spared, variables, poisoned, masks, KEYS, is_first
      )
    )()[0]

  clean, other = last(data["x"]), last(jnp.full_like(data["x"], jnp.nan))
  chex.assert_trees_all_equal(clean, other)
  assert np.isfinite(at(other, 2).params["output"]["kernel"]).all()


def test_a_mean_over_all_rows_is_that_of_the_rows_that_are_left():
  # Of 4 classes with 15 rows each the first two go.
  model, data, variables = trained()
  full = phase(supervised(model), optax.sgd(0.1), 1, draw=Draw(ALL, ALL, 0))
  masks = each(data)[jnp.array([0, 1])]
  early = jnp.stack([masks[0] | masks[1], each(data)[2]])
  many, info = unlearn_sequence(full, variables, data, early, KEYS[:2])
  left = np.flatnonzero(np.asarray(data["label"]) >= 2)
  rows = jax.tree.map(lambda leaf: leaf[left], data)
  start = at(many, 0)
  wanted, wanted_info = full(start, rows, early[1][left], KEYS[1])
  chex.assert_trees_all_close(at(many, 1), wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(info.loss[1], wanted_info.loss, rtol=1e-5)
  assert info.forget_count[1] == wanted_info.forget_count


def test_a_row_named_twice_is_forgotten_the_first_time():
  _, data, variables = trained()
  method = lambda v, data, request, key: (v, request.forget.sum())
  masks = each(data)
  twice = jnp.stack([masks[0], masks[0] | masks[1]])
  _, counts = unlearn_sequence(method, variables, data, twice, KEYS[:2])
  assert counts.tolist() == [15, 15]
  _, apart = unlearn_sequence(method, variables, data, masks[:2], KEYS[:2])
  np.testing.assert_array_equal(counts, apart)


def test_more_requests_are_traced_once_and_other_requests_not_again():
  model, traces = counting(mlp())
  _, data, variables = trained()
  run = jax.jit(
    lambda m, k: unlearn_sequence(both(model), variables, data, m, k)
  )
  masks = each(data)
  run(masks[:1], KEYS[:1])
  for_one = len(traces)
  run(masks, KEYS)
  assert len(traces) == 2 * for_one
  run(masks[::-1], KEYS)
  assert len(traces) == 2 * for_one


@pytest.mark.parametrize(
  ("masks", "message"),
  [
    (jnp.zeros(60, bool), r"forget_masks \[R, N\] .*got \(60,\)"),
    (jnp.zeros((2, 60)), "forget_masks of dtype bool"),
    (jnp.zeros((2, 7), bool), r"a row of forget_masks of shape \(60,\)"),
  ],
)
def test_masks_that_are_no_stack_of_requests_are_rejected(masks, message):
  _, data, variables = trained()
  method = lambda v, data, mask, key: (v, None)
  refused(message, unlearn_sequence, method, variables, data, masks, KEYS[:2])


@pytest.mark.parametrize("keys", [KEYS[0], KEYS[:1]])
def test_there_must_be_a_key_for_every_request(keys):
  _, data, variables = trained()
  method = lambda v, data, mask, key: (v, None)
  with pytest.raises(ValueError, match=r"keys \[R, ...\], got"):
    unlearn_sequence(method, variables, data, each(data)[:2], keys)
