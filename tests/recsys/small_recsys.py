"""A small generated recommender that this room's tests share."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import recsys

RECIPE = {"optimizer": optax.adam(0.02), "num_steps": 60, "batch_size": 128}


@functools.cache
def dataset() -> recsys.Dataset:
  return recsys.synthetic(jax.random.key(0), num_users=24, num_items=20)[0]


def nothing():
  return jnp.zeros(dataset().train["x"].shape[0], bool)


def small(**options) -> recsys.Recommender:
  data = dataset()
  options = {"dim": 4, "features": data.features, **options}
  return recsys.lightgcn(data.num_users, data.num_items, **options)


@functools.cache
def trained():
  """The model of `small`, and the variables it was trained to."""
  model = small()
  fit = jax.jit(lambda d, k: recsys.train(model, d, ~nothing(), k, **RECIPE)[0])
  return model, fit(dataset().train, jax.random.key(1))


def embedded(model, variables, data, forget_mask):
  """`embed_under` as one program."""
  return jax.jit(model.embed_under)(variables, data, forget_mask)
