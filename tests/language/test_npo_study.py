"""The synthetic study of NPO: logistic regression on two Gaussians.

Sizes and rates are the paper's (arXiv:2404.05868); it is exact, full batches of a
model of fixed random features.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxunlearn as ju
from jaxunlearn.core.types import Losses
from jaxunlearn.losses import sequences

DIM, FORGET, RETAIN, WIDTH, ALPHA = 16, 200, 1000, 128, 1.0
SEEDS = 3


def log_p(theta, rows):
  """log P(y | x), [B]."""
  sign = jnp.where(rows["y"], 1.0, -1.0)
  return jax.nn.log_sigmoid(sign * (rows["features"] @ theta))


def draw(seed):
  keys = dict(zip("wfryu", jax.random.split(jax.random.key(seed), 5)))
  direction = jnp.ones(DIM) / DIM**0.5
  mean = ALPHA * jnp.ones(DIM)
  x_f = mean[None] + jax.random.normal(keys["f"], (FORGET, DIM))
  x_r = -mean[None] + jax.random.normal(keys["r"], (RETAIN, DIM))
  logit = jnp.concatenate(
    [(x_f - mean[None]) @ direction + 1, -((x_r + mean[None]) @ direction) - 1]
  )
  w = jax.random.normal(keys["w"], (WIDTH, DIM)) / DIM**0.5
  x = jnp.concatenate([x_f, x_r])
  y = jax.random.uniform(keys["y"], logit.shape) < jax.nn.sigmoid(logit)
  features = jax.nn.relu(x @ w.T)
  return {"features": features, "y": y}, jnp.arange(len(y)) < FORGET


def descend(objective, rate, steps, draw, **weights):
  return ju.phase(objective, optax.sgd(rate), steps, draw=draw, **weights)


def nll(v, step, key):
  return -log_p(v.params, step.rows)


def npo_loss(beta):
  def objective(v, step, key):
    score = log_p(v.params, step.rows)
    before = log_p(step.original.params, step.rows)
    forget = sequences.npo(score, before, beta)
    return Losses(jnp.where(step.forget, forget, -score))

  return objective


BOTH = ju.Draw(forget=ju.ALL, retain=ju.ALL)
FORGET_ONLY = ju.Draw(forget=ju.ALL)
METHODS = {
  "GA": descend(nll, 5e-4, 2000, FORGET_ONLY, forget_weight=-1.0),
  "GradDiff": descend(nll, 5e-4, 2000, BOTH, forget_weight=-1.0),
  "NPO": descend(npo_loss(1.0), 5e-3, 2000, FORGET_ONLY),
  "NPO+RT": descend(npo_loss(1.0), 5e-3, 2000, BOTH),
}


def divergence(gold, theta, rows):
  """Mean KL(gold || model) of a Bernoulli."""
  z, q = (rows["features"] @ t for t in (gold, theta))
  p = jax.nn.sigmoid(z)
  log = jax.nn.log_sigmoid
  return (p * (log(z) - log(q)) + (1 - p) * (log(-z) - log(-q))).mean()


@functools.cache
def study():
  """Distances (forget, retain) of each model, leaves [SEEDS, 2]."""

  def one(seed):
    data, mask = draw(seed)
    start, key = ju.Variables(jnp.zeros(WIDTH)), jax.random.key(9)

    def fit(rows):
      """Plain descent on the mean loss: 20,000 steps."""
      data = {k: v[rows] for k, v in rows_of.items()}
      grad = jax.grad(lambda t: -log_p(t, data).mean())
      step = lambda _, t: t - 0.05 * grad(t)
      return jax.lax.fori_loop(0, 20_000, step, start.params)

    rows_of = data
    original, gold = fit(slice(None)), fit(slice(FORGET, None))
    made = {"original": original} | {
      name: method(ju.Variables(original), data, mask, key)[0].params
      for name, method in METHODS.items()
    }
    sides = [
      {k: v[a:b] for k, v in data.items()}
      for a, b in ((0, FORGET), (FORGET, None))
    ]
    return {
      name: jnp.stack([divergence(gold, theta, rows) for rows in sides])
      for name, theta in made.items()
    }

  with jax.threefry_partitionable(True):
    found = jax.jit(jax.vmap(one))(jnp.arange(SEEDS))
  return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.slow(reason="Two trainings of 20,000 steps for each of the seeds.")
@pytest.mark.optimized(reason="It is matrix products.")
def test_npo_keeps_what_ascent_destroys():
  found = study()
  forget, retain = (
    {name: value[:, side] for name, value in found.items()} for side in (0, 1)
  )
  # The paper has 1.70 and .02; the first depends on the draw.
  assert ((forget["original"] > 1.2) & (forget["original"] < 2.3)).all()
  assert (retain["original"] < 0.03).all()
  assert (retain["NPO+RT"] < 0.03).all()
  assert (retain["GA"] > 1).all()
  assert (retain["NPO"] < retain["GA"] / 3).all()
  assert (retain["GradDiff"] > 5 * retain["NPO+RT"]).all()
