"""Small problems that tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import train
from jaxunlearn.core.types import Variables

NUM_CLASSES = 4
DIM = 6


def blobs(num_rows=60, seed=0):
  """Four Gaussian classes in six dimensions: {"x" [N, 6], "label" [N]}."""
  rng = np.random.default_rng(seed)
  label = np.arange(num_rows) % NUM_CLASSES
  centres = np.random.default_rng(7).normal(size=(NUM_CLASSES, DIM)) * 2
  x = centres[label] + rng.normal(size=(num_rows, DIM))
  return {
    "x": jnp.asarray(x, jnp.float32),
    "label": jnp.asarray(label, jnp.int32),
  }


def mlp_init(key, x):
  del x
  first, second = jax.random.split(key)
  return {
    "hidden": {
      "kernel": jax.random.normal(first, (DIM, 8)) / DIM**0.5,
      "bias": jnp.zeros(8),
    },
    "output": {
      "kernel": jax.random.normal(second, (8, NUM_CLASSES)) / 8**0.5,
      "bias": jnp.zeros(NUM_CLASSES),
    },
  }


def mlp_apply(params, x):
  hidden, output = params["hidden"], params["output"]
  h = jax.nn.relu(x @ hidden["kernel"] + hidden["bias"][None])
  return h @ output["kernel"] + output["bias"][None]


def mlp() -> Model:
  return from_functions(mlp_init, mlp_apply)


RECIPE = {"optimizer": optax.adam(0.01), "num_steps": 60, "batch_size": 16}


@functools.cache
def trained(seed=0) -> tuple[Model, dict, Variables]:
  """A model trained on the blobs, with its data."""
  model, data = mlp(), blobs()
  ones = jnp.ones(60, bool)
  variables, _ = jax.jit(lambda k: train(model, data, ones, k, **RECIPE))(
    jax.random.key(seed)
  )
  return model, data, variables


def counting(model: Model) -> tuple[Model, list]:
  """The model, and a list that grows each time it is traced."""
  traces: list = []

  def apply(variables, inputs, *, train=False, key=None):
    traces.append(1)
    return model.apply(variables, inputs, train=train, key=key)

  return model._replace(apply=apply), traces


def quadratic():
  """One number fitted to rows by half squared distance; gradient p - x."""
  return lambda v, batch, key: 0.5 * (v.params - batch.rows["x"]) ** 2


def setting(c=1):
  """The trained network, its data, and a request for a class."""
  model, data, variables = trained()
  return model, data, variables, data["label"] == c


def hidden(variables, x):
  p = variables.params["hidden"]
  return {"hidden": jax.nn.relu(x @ p["kernel"] + p["bias"][None])}


def trained_with_features():
  model, data, variables = trained()
  return model._replace(features=hidden), data, variables


def class_accuracy(model, variables, data, c):
  """The shares that are right of class c, and of the others."""
  right = model.predict(variables, data["x"]).argmax(-1) == data["label"]
  mask = data["label"] == c
  count = mask.sum()
  kept = (right & ~mask).sum() / (mask.size - count)
  return (right & mask).sum() / count, kept
