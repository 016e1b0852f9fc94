"""CF-k and EU-k: forget in the last k layers only.

Source: Goel et al. (2022), arXiv:2201.06640.
Class: heuristic; the frozen layers keep what they learned of the forget set.
Model state: updated from retain rows. Cost: one gradient per step.
Difference from the source: normalisation layers within the last k layers are
trained and, in EU-k, started anew with the rest.
"""

from __future__ import annotations

from typing import Unpack

from jaxunlearn.core import trees
from jaxunlearn.core.combinators import chain, masked
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Fit, FitFields, Model, as_fit
from jaxunlearn.core.training import fitting, init_variables
from jaxunlearn.core.transform import Transform


def cf_k(
  model: Model,
  fit: Fit | None = None,
  *,
  num_layers: int,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Fine-tunes the last k layers on the retain set ("catastrophic forgetting").

  Args:
    model: the model.
    fit: how; the frozen weights keep their bits under decay too.
    num_layers: k, counted in layers with a kernel from the output; all of them
      make it fine-tuning.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.cf_k(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=40, batch_size=16),
    ...   num_layers=1)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit = as_fit(fit, fields)
  fitted = fitting(model, fit, train_mode=train_mode, name="cf_k")
  return _in_last_layers(model, fitted, num_layers)


def eu_k(
  model: Model,
  fit: Fit | None = None,
  *,
  num_layers: int,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains the last k layers from scratch on the retain set ("exact unlearning").

  Args:
    model: the model.
    fit: the recipe of the original training.
    num_layers: k, counted in layers with a kernel from the output; all of them
      make it retraining, but for running statistics, which start from the
      original's.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.eu_k(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=40, batch_size=16),
    ...   num_layers=1)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """

  def fresh_params(variables, data, request, key):
    fresh = init_variables(model, data, key, like=variables)
    return variables._replace(params=fresh.params)

  whole = chain(
    edit(fresh_params, reads="shapes", name="init"),
    fitting(model, as_fit(fit, fields), train_mode=train_mode),
    name="eu_k",
  )
  return _in_last_layers(model, whole, num_layers)


def _in_last_layers(
  model: Model, transform: Transform, num_layers: int
) -> Transform:
  def weight_mask(variables, data, request, key):
    return trees.last_layers(model, variables, data["x"], num_layers)

  return masked(transform, weight_mask)
