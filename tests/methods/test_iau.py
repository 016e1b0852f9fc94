import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn.core.types import Losses, as_step

KEY = jax.random.key(0)


def points(num_rows=9):
  """Half squared distances to points; the minimum of their sum is the mean."""
  x = np.random.default_rng(3).normal(size=(num_rows, 2)).astype(np.float32)

  def loss(variables, step, key, *, train=False):
    away = variables.params["p"][None] - step.rows["x"]
    return Losses(0.5 * (away**2).sum(-1))

  task = ju.Task(lambda key, data: ju.Variables({"p": jnp.zeros(2)}), loss)
  return task, {"x": jnp.asarray(x)}


def moved(update="plain", step_size=1.0, mask=None, scale=1.0, **options):
  model, data, variables = problems.trained()
  if scale != 1.0:
    plain = model.loss
    model = model._replace(loss=lambda out, rows: scale * plain(out, rows))
  mask = data["label"] == 1 if mask is None else mask
  edit = ju.methods.iau(model, update=update, step_size=step_size, **options)
  out, length = jax.jit(edit)(variables, data, mask, KEY)
  change = jax.tree.map(lambda a, b: a - b, out.params, variables.params)
  return change, length


def test_one_step_lands_on_the_mean_of_the_others():
  task, data = points()
  x, gone = np.asarray(data["x"]), np.arange(9) < 3
  start = {"p": jnp.asarray(x.mean(0))}
  want = x[~gone].mean(0)
  sums = ju.methods.iau(
    task, update="plain", reduction="sum", retain_weight=0.0, step_size=1 / 6
  )
  out, _ = sums.compiled(start, data, jnp.asarray(gone), KEY)
  np.testing.assert_allclose(out["p"], want, rtol=1e-5)
  # Of means: half of the way comes from each set, so one set alone has all.
  ju_mean = ju.methods.iau(task, update="plain", step_size=1.0)
  out, length = ju_mean.compiled(start, data, jnp.asarray(gone), KEY)
  step = want - x[gone].mean(0)
  np.testing.assert_allclose(out["p"] - start["p"], step, rtol=1e-4)
  np.testing.assert_allclose(length, np.linalg.norm(step), rtol=1e-5)


def test_updates_of_one_gradient():
  plain, length = moved()
  one_adam = optax.adam(1e-3)
  step, _ = one_adam.update(
    jax.tree.map(lambda g: -g, plain), one_adam.init(plain)
  )
  chex.assert_trees_all_close(moved("adam", 1e-3)[0], step, atol=1e-6)
  signs = jax.tree.map(jnp.sign, plain)
  chex.assert_trees_all_close(moved("sign")[0], signs, atol=1e-6)
  unit, _ = moved("normalized", 2.0)
  np.testing.assert_allclose(optax.tree.norm(unit), 2.0, rtol=1e-5)
  np.testing.assert_allclose(optax.tree.norm(plain), length, rtol=1e-4)
  # Only the plain step has the loss's scale.
  three = jax.tree.map(lambda g: 3 * g, plain)
  chex.assert_trees_all_close(moved(scale=3.0)[0], three, rtol=1e-3, atol=1e-6)
  chex.assert_trees_all_close(moved("sign", scale=3.0)[0], signs, atol=1e-6)


def test_no_step_moves_nothing_and_exchanged_sets_move_back():
  _, data, _ = problems.trained()
  zero, _ = moved(step_size=0.0)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(zero))
  there, _ = moved()
  back, _ = moved(mask=data["label"] != 1)
  chex.assert_trees_all_close(
    there, jax.tree.map(lambda g: -g, back), rtol=1e-3, atol=1e-6
  )


def test_chunks_add_up():
  chex.assert_trees_all_close(
    moved(chunk_size=7)[0], moved(chunk_size=60)[0], atol=1e-6
  )


def test_restriction_of_a_known_gradient():
  """Of half a squared distance the mean gradient is p minus the mean."""
  task, data = points()
  params = {"p": jnp.array([0.3, -2.0])}
  step = as_step(data)

  def mean(params, strength):
    task_now = ju.methods.restricted(task, strength)
    return task_now.loss(ju.Variables(params), step, KEY).value.mean()

  away = np.asarray(params["p"]) - np.asarray(data["x"]).mean(0)
  extra = mean(params, 0.5) - mean(params, 0.0)
  np.testing.assert_allclose(extra, 0.5 * np.linalg.norm(away), rtol=1e-5)
  # Its own gradient: the direction to the mean, of length 0.5.
  slope = jax.grad(mean)(params, 0.5)["p"] - jax.grad(mean)(params, 0.0)["p"]
  want = 0.5 * away / np.linalg.norm(away)
  np.testing.assert_allclose(slope, want, rtol=1e-4)


def test_the_norm_by_tensor_is_at_least_the_global_one():
  model, data, variables = problems.trained()
  step = as_step(data)

  def penalty(norm, variables=variables):
    task = ju.methods.restricted(model, 1.0, norm=norm)
    plain = model.task.loss(variables, step, KEY).value
    return (task.loss(variables, step, KEY).value - plain).mean()

  slope = jax.grad(
    lambda p: model.task.loss(ju.Variables(p), step, KEY).value.mean()
  )(variables.params)
  np.testing.assert_allclose(
    penalty("global"), optax.tree.norm(slope), rtol=1e-3
  )
  by_tensor = sum(jnp.linalg.norm(g) for g in jax.tree.leaves(slope))
  np.testing.assert_allclose(penalty("tensor"), by_tensor, rtol=1e-3)
  # A dead network has a gradient of 0, and the penalty one that is finite.
  dead = jax.tree.map(jnp.zeros_like, variables)
  slopes = jax.grad(lambda p: penalty("tensor", ju.Variables(p)))(dead.params)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_training_wears_it_and_without_strength_it_is_the_same_bits():
  model, data, _ = problems.trained()
  fit = ju.Fit(optax.adam(0.01), 4, 16)

  def run(strength):
    task = (
      model.task if strength is None else ju.methods.restricted(model, strength)
    )
    return ju.train(task, data, jnp.ones(60, bool), KEY, fit)[0]

  chex.assert_trees_all_equal(run(None), run(0.0))
  other = run(0.5)
  assert (
    other.params["output"]["kernel"] != run(None).params["output"]["kernel"]
  ).any()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"step_size": -1.0}, "Expected step_size >= 0"),
    ({"update": "newton"}, "Expected update"),
    ({"reduction": "max"}, "Expected reduction"),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(ValueError, match=message):
    ju.methods.iau(problems.mlp(), **options)


def test_bad_restrictions():
  with pytest.raises(ValueError, match="Expected strength >= 0"):
    ju.methods.restricted(problems.mlp(), -1.0)
  with pytest.raises(ValueError, match="Expected norm"):
    ju.methods.restricted(problems.mlp(), 1.0, norm="l1")
