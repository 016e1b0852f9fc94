"""The largest entries of a pytree against a sort in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from refusals import refused

from jaxunlearn.core.types import Request
from jaxunlearn.methods._saliency import largest, saliency_mask


def scores(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {"a": draw(3, 4), "b": {"c": np.float32(rng.normal()), "d": draw(7)}}


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("keep", [0.0, 0.05, 0.33, 0.5, 0.999, 1.0])
def test_the_share_of_largest_absolute_value_is_marked(keep):
  tree = scores()
  marks = jax.jit(lambda tree: largest(tree, keep))(tree)
  assert jax.tree.map(np.shape, marks) == jax.tree.map(np.shape, tree)
  size = np.abs(flat(tree))
  count = int(np.floor(keep * 20))
  wanted = np.zeros(20, bool)
  wanted[np.argsort(-size, kind="stable")[:count]] = True
  np.testing.assert_array_equal(flat(marks), wanted)
  under_jit = jax.jit(lambda t: largest(t, keep))(tree)
  np.testing.assert_array_equal(flat(under_jit), wanted)


def test_equal_entries_are_taken_in_order_and_nan_last():
  tree = {"a": jnp.array([1.0, -1.0, jnp.nan]), "b": jnp.array([1.0, -jnp.inf])}
  marked = [flat(largest(tree, k / 5)).tolist() for k in (1, 2, 3, 4, 5)]
  assert marked == [
    [False, False, False, False, True],
    [True, False, False, False, True],
    [True, True, False, False, True],
    [True, True, False, True, True],
    [True] * 5,
  ]


def test_half_precision_is_compared_with_other_leaves():
  tree = {"a": jnp.array([1, 3], jnp.bfloat16), "b": jnp.float32(2)}
  assert flat(largest(tree, 0.5)).tolist() == [False, True, False]


def test_a_tree_without_entries_is_refused():
  refused("scores to hold arrays", largest, {}, 0.5)


def test_a_mask_of_weights_takes_a_bare_request_as_transforms_do():
  model, data, variables, request = problems.setting()
  mark, key = saliency_mask(model, 0.25), jax.random.key(0)
  bare = mark(variables, data, request, key)
  full = mark(variables, data, Request(request, ~request), key)
  assert flat(bare).sum() == 23  # Of 92.
  np.testing.assert_array_equal(flat(bare), flat(full))
