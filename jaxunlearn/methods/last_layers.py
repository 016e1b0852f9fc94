"""CF-k and EU-k: forget in the last k layers only.

Source: Goel et al. (2022), arXiv:2201.06640.
Class: heuristic; the frozen layers keep what they learned of the forget set.
Model state: updated from retain rows. Cost: one gradient a step.
Difference from the source: normalisation layers within the last k layers are
trained and, in EU-k, started anew with the rest.
"""

from __future__ import annotations

import optax

from jaxunlearn.core import trees
from jaxunlearn.core.combinators import chain, edit, masked
from jaxunlearn.core.training import fitting, init_variables
from jaxunlearn.core.types import Model, Transform


def cf_k(
  model: Model,
  *,
  num_layers: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
) -> Transform:
  """Fine-tunes the last k layers on the retain set ("catastrophic forgetting").

  Args:
    model: the model.
    num_layers: k, counted in layers with a kernel from the output; all of them
      make it fine-tuning.
    optimizer: any; the frozen weights keep their bits under decay too.
    num_steps: steps.
    batch_size: retain rows a step.
    train_mode: dropout active and BatchNorm's statistics moving.
  """
  fit = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    train_mode=train_mode,
    name="cf_k",
  )
  return _in_last_layers(model, fit, num_layers)


def eu_k(
  model: Model,
  *,
  num_layers: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
) -> Transform:
  """Trains the last k layers from scratch on the retain set ("exact unlearning").

  Args:
    model: the model.
    num_layers: k, counted in layers with a kernel from the output; all of them
      make it retraining, but for running statistics, which start from the
      original's.
    optimizer: that of the original training.
    num_steps: that of the original training.
    batch_size: retain rows a step.
    train_mode: dropout active and BatchNorm's statistics moving.
  """

  def fresh_params(variables, data, forget_mask, key):
    fresh = init_variables(model, data, key, like=variables)
    return variables._replace(params=fresh.params)

  fit = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    train_mode=train_mode,
  )
  whole = chain(
    edit(fresh_params, reads="shapes", name="init"), fit, name="eu_k"
  )
  return _in_last_layers(model, whole, num_layers)


def _in_last_layers(
  model: Model, transform: Transform, num_layers: int
) -> Transform:
  def weight_mask(variables, data, forget_mask, key):
    return trees.last_layers(model, variables, data["x"], num_layers)

  return masked(transform, weight_mask)
