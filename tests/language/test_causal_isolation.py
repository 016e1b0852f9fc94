"""The adaptive weight, the blocks that move, and where a fact begins."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_text
from closeness import change
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.causal_isolation import adaptive_weight, window

KEY = jax.random.key(0)
MASK = jnp.arange(8) < 3


@pytest.fixture(scope="module")
def rows():
  lm, variables = small_text.small("llama")
  return lm, variables, {"x": small_text.texts(8, 8, 19, seed=1)}


def test_the_weight_grows_with_the_excess_in_tenths():
  excess = jnp.array([-1.0, 0.0, 0.5, 1.0, 9.0, jnp.nan])
  found = adaptive_weight(excess)
  np.testing.assert_allclose(found, [1.2, 1.2, 1.5, 2.3, 2.3, 1.2], rtol=1e-6)
  paper = adaptive_weight(excess, 1.2, 2.8)
  np.testing.assert_allclose(paper, [1.2, 1.2, 1.5, 2.6, 2.8, 1.2], rtol=1e-6)


def served(rows, mask=MASK, steps=6, rate=0.3, **more):
  lm, variables, data = rows
  fit = ju.Fit(optax.sgd(rate), steps, 3)
  method = language.causal_isolation(lm, fit, start=1, stop=2, **more)
  return method.compiled(variables, data, mask, KEY)[0]


def test_chosen_blocks_move_and_the_weight_grows_after_the_first_epoch(rows):
  _, variables, _ = rows
  adaptive, fixed = served(rows), served(rows, alpha_max=1.2)
  for path, (old, new) in zip(
    map(
      jax.tree_util.keystr,
      dict(jax.tree_util.tree_leaves_with_path(variables.params)),
    ),
    zip(*map(jax.tree.leaves, (variables.params, adaptive.params))),
  ):
    if "'mlp'" not in path:
      np.testing.assert_array_equal(old, new)
    else:
      np.testing.assert_array_equal(old[::2], new[::2])
      assert (old[1] != new[1]).any()
  assert change(adaptive.params, fixed.params) > 1e-4
  # Two batches of three make the first epoch of five rows: the same till then.
  early = [served(rows, steps=1, alpha_max=top) for top in (1.2, 2.3)]
  chex.assert_trees_all_equal(*early)


def test_one_step_is_the_joint_gradient_of_those_weights(rows):
  lm, variables, data = rows
  rate = 0.1
  fit = ju.Fit(optax.sgd(rate), 1, ju.ALL)
  method = language.causal_isolation(lm, fit, start=0, stop=3, alpha=1.5)
  made, _ = method.compiled(variables, data, MASK, KEY)

  def joint(params):
    out = language.token_nll(lm, ju.Variables(params), data["x"])
    mean = lambda m: (m * out.value).sum() / (m * out.weight).sum()
    return -mean(MASK) + 1.5 * mean(~MASK)

  grads = jax.jit(jax.grad(joint))(variables.params)["blocks"]["mlp"]
  wanted = jax.tree.map(
    lambda p, g: np.asarray(p) - rate * np.asarray(g),
    variables.params["blocks"]["mlp"],
    grads,
  )
  chex.assert_trees_all_close(
    made.params["blocks"]["mlp"], wanted, rtol=1e-4, atol=1e-5
  )


def test_all_blocks_are_the_plain_method_and_frozen_ones_have_no_moments(rows):
  """An optimiser is started on what is trained alone."""
  lm, variables, data = rows
  seen = []
  sgd = optax.sgd(0.1)

  def start(params):
    seen.append([leaf.shape for leaf in jax.tree.leaves(params)])
    return sgd.init(params)

  fit = ju.Fit(optax.GradientTransformation(start, sgd.update), 1, 3)
  method = language.causal_isolation(lm, fit, start=1, stop=2)
  method(variables, data, MASK, KEY)
  assert seen and all(
    shape[0] == 1 for shapes in seen for shape in shapes if shape
  )


def test_a_window_begins_where_most_is_brought_back():
  effect = jnp.array([0.1, 0.0, 0.5, 0.4, 0.1])
  assert window(effect, 2) == 2 and window(effect, 3) == 2
  refused(r"effect \[layers\]", window, effect, 6)


def test_what_cannot_be_is_refused(rows):
  refused("alpha_max - alpha >= 0", served, rows, alpha_max=1.0)
  refused("targets to match", served, rows, targets="nothing")
  lm, variables, data = rows
  method = language.causal_isolation(lm, ju.Fit(optax.sgd(0.1), 1, 3), stop=4)
  refused("stop <= 3", method, variables, data, MASK, KEY)
