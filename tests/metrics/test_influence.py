"""Influence functions against closed forms, golden vectors and retraining."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from golden.table import load

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.types import Variables
from jaxunlearn.metrics import influence
from jaxunlearn.metrics.influence import (
  gauss_newton_vector_product,
  hessian_vector_product,
)

PRODUCTS = [gauss_newton_vector_product, hessian_vector_product]


def linear(loss):
  return from_functions(
    lambda key, x: jnp.zeros(x.shape[1]), lambda w, x: x @ w, loss=loss
  )


RIDGE = linear(lambda out, rows: 0.5 * (out - rows["y"]) ** 2)


def test_scores_predict_the_loss_of_a_query_after_leaving_a_row_out():
  g = load("ridge__remove_random_rows")
  n, rows = len(g["y"]), g["leave_one_out_rows"]
  data = {"x": jnp.float32(g["X"]), "y": jnp.float32(g["y"])}
  query = {"x": data["x"][:3] + 1.0, "y": data["y"][:3]}
  start = Variables(jnp.float32(g["params_full_sum"]))
  scores, info = jax.jit(
    lambda start: influence.influence_scores(
      RIDGE, start, data, query, damping=float(g["ridge_sum"]) / n
    )
  )(start)
  assert bool(info.is_converged) and scores.shape == (n,)

  def loss(w):
    residual = np.asarray(query["x"]) @ w - np.asarray(query["y"])
    return 0.5 * (residual**2).mean()

  full = loss(g["params_full_sum"])
  actual = np.array([loss(w) - full for w in g["leave_one_out_params"]])
  # A row's true change is larger by 1 / (1 - leverage), and of second order.
  predicted = np.asarray(scores)[rows] / (1 - g["leverage"][rows])
  np.testing.assert_allclose(predicted, actual, rtol=0.1, atol=2e-4)


def test_the_scores_of_a_request_add_up_to_its_influence():
  g = load("ridge__remove_random_rows")
  data = {"x": jnp.float32(g["X"]), "y": jnp.float32(g["y"])}
  start = Variables(jnp.float32(g["params_full_sum"]))
  query = jax.tree.map(lambda leaf: leaf[:1], data)
  mask = jnp.asarray(g["remove_mask"] == 1)
  weights = jnp.linspace(0.0, 1.0, 200)
  options = {"damping": 0.01, "weights": weights, "chunk_size": 33}
  (scores, _), (change, _) = jax.jit(
    lambda start: (
      influence.influence_scores(RIDGE, start, data, query, **options),
      influence.influence_of_request(RIDGE, start, data, mask, **options),
    )
  )(start)
  residual = query["x"][0] @ start.params - query["y"][0]
  wanted = residual * query["x"][0] @ change
  np.testing.assert_allclose(scores[mask].sum(), wanted, rtol=1e-3)
  assert scores[0] == 0.0  # A row of weight 0.


@pytest.mark.slow
def test_products_are_those_of_the_dense_matrices():
  model, data, variables = problems.trained()
  weights = jnp.linspace(0.0, 1.0, 60)
  flat, back = jax.flatten_util.ravel_pytree(variables.params)
  mean = lambda losses: (weights * losses).sum() / weights.sum()
  predict = lambda w: model.predict(Variables(back(w)), data["x"])
  hessian = jax.hessian(lambda w: mean(model.loss(predict(w), data)))(flat)
  jacobian = np.asarray(jax.jacobian(predict)(flat), np.float64)  # [N, C, P]
  p = np.asarray(jax.nn.softmax(predict(flat)), np.float64)
  inner = np.einsum("nc,cd->ncd", p, np.eye(4)) - np.einsum("nc,nd->ncd", p, p)
  share = np.asarray(weights / weights.sum(), np.float64)
  gauss = np.einsum("n,ncp,ncd,ndq->pq", share, jacobian, inner, jacobian)
  vector = jax.random.normal(jax.random.key(1), flat.shape)
  for product, dense in zip(PRODUCTS, (gauss, np.asarray(hessian))):
    wanted = dense @ np.asarray(vector) + 0.1 * np.asarray(vector)
    run = lambda v, d: product(
      model, variables, data, v, weights=weights, damping=d, chunk_size=16
    )
    for call in (run, jax.jit(run)):
      found, _ = jax.flatten_util.ravel_pytree(call(back(vector), 0.1))
      np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_rows_of_weight_zero_are_not_read():
  model, data, variables = problems.trained()
  kept = data["label"] != 2
  poisoned = {**data, "x": jnp.where(kept[:, None], data["x"], jnp.nan)}
  query = jax.tree.map(lambda leaf: leaf[:2], data)
  run = lambda d: influence.influence_scores(
    model, variables, d, query, damping=0.1, weights=kept, chunk_size=16
  )[0]
  chex.assert_trees_all_close(run(poisoned), run(data), rtol=1e-4, atol=1e-6)


def test_an_empty_request_changes_nothing():
  model, data, variables = problems.trained()
  nobody = jnp.zeros(60, bool)
  change, info = jax.jit(
    lambda v: influence.influence_of_request(
      model, v, data, nobody, damping=0.1
    )
  )(variables)
  chex.assert_trees_all_equal(
    change, jax.tree.map(jnp.zeros_like, variables.params)
  )
  assert bool(info.is_converged) and info.residual == 0


def test_a_solve_that_stops_early_says_so():
  model, data, variables = problems.trained()
  vector = jax.tree.map(jnp.ones_like, variables.params)
  solve = lambda v, steps: influence.solve_curvature(
    model, v, data, vector, damping=0.1, max_steps=steps
  )[1]
  short, long = jax.jit(lambda v: (solve(v, 1), solve(v, 200)))(variables)
  assert not bool(short.is_converged) and short.residual > 1e-2
  assert bool(long.is_converged) and long.residual < short.residual


def test_bfloat16_params_are_solved_in_float32():
  model, data, variables = problems.trained()
  low = jax.tree.map(lambda v: v.astype(jnp.bfloat16), variables)
  change, _ = jax.jit(
    lambda v: influence.influence_of_request(
      model, v, data, data["label"] == 0, damping=1.0, max_steps=5
    )
  )(low)
  leaves = jax.tree.leaves(change)
  assert all(leaf.dtype == jnp.float32 for leaf in leaves)
  assert all(jnp.isfinite(leaf).all() for leaf in leaves)


def test_what_does_not_fit_is_rejected():
  model, data, variables = problems.trained()
  vector = variables.params
  with pytest.raises(ValueError, match="damping >= 0, got damping=-1"):
    hessian_vector_product(model, variables, data, vector, damping=-1.0)
  with pytest.raises(ValueError, match="tol > 0"):
    influence.solve_curvature(
      model, variables, data, vector, damping=1.0, tol=0.0
    )
  with pytest.raises(ValueError, match="max_steps > 0"):
    influence.solve_curvature(
      model, variables, data, vector, damping=1.0, max_steps=0
    )
  with pytest.raises(ValueError, match=r"forget_mask of shape \(60,\)"):
    influence.influence_of_request(
      model, variables, data, jnp.ones(3, bool), damping=1.0
    )
  with pytest.raises(ValueError, match=r"query_weights of shape \(60,\)"):
    influence.influence_scores(
      model, variables, data, data, damping=1.0, query_weights=jnp.ones(2)
    )
  with pytest.raises(ValueError, match="vector"):
    gauss_newton_vector_product(model, variables, data, vector["hidden"])
