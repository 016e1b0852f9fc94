"""Small problems that tests share."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import toy
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import train
from jaxunlearn.core.types import Variables

NUM_CLASSES = 4
DIM = 6
_MODEL = toy.classifier().model


def blobs(num_rows=60, seed=0):
  """Four Gaussian classes in six dimensions: {"x" [N, 6], "label" [N]}."""
  return toy.classifier(num_rows, seed=seed).data


def mlp() -> Model:
  return _MODEL._replace(features=None)


def mlp_init(key, x):
  return _MODEL.init(key, x).params


def mlp_apply(params, x):
  return _MODEL.predict(Variables(params), x)


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


hidden = _MODEL.features


def trained_with_features():
  return _MODEL, *trained()[1:]


def class_accuracy(model, variables, data, c):
  """The shares that are right of class c, and of the others."""
  right = model.predict(variables, data["x"]).argmax(-1) == data["label"]
  mask = data["label"] == c
  count = mask.sum()
  kept = (right & ~mask).sum() / (mask.size - count)
  return (right & mask).sum() / count, kept
