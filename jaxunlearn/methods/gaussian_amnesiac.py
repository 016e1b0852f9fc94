"""Gaussian amnesiac: fit the forget set to targets drawn at random.

Source: Tarun, Chundawat, Mandal and Kankanhalli (2023), "Deep Regression
Unlearning", arXiv:2210.08196: the counterpart of random labels in regression.
Class: heuristic. Data access: rows of both kinds; the targets of forget rows enter the
mean and the standard deviation alone, and not even there where both are given.
Model state: `train_mode` moves it, from all drawn rows.
Cost: one gradient per step.
Differences from the released code: none but the random numbers.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.sampling import blank_rows
from jaxunlearn.core.tasks import Fit, FitFields, Model, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, Slot, Step, Variables
from jaxunlearn.losses.regression import check_targets
from jaxunlearn.methods import _rows

DEFAULT = Fit(optax.adam(1e-3), 100)


def gaussian_amnesiac(
  model: Model,
  fit: Fit = DEFAULT,
  *,
  mean: float | jax.Array | None = None,
  std: float | jax.Array | None = None,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Draws new targets for the forget set, once, and fine-tunes on all rows.

  The targets come from a normal distribution with the mean and the standard
  deviation of all training targets, those to forget included.

  Args:
    model: a regression model; its rows have float targets under "label", [N] or
      [N, ...] (then each entry has moments of its own).
    fit: how, on rows of both kinds in their natural proportion.
    mean: of the distribution, with `std`; that of the targets by default. May be
      traced.
    std: >= 0; 0 regresses every forget row to the mean. May be traced.
    train_mode: static; dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, to change `fit`.

  Returns:
    A `Transform` with info "relabel". An empty request is fine-tuning on all
    rows; a full one makes a model of nothing but the mean.

  Raises:
    ValueError: an option outside its range; one of mean and std without the
      other; targets that are no floats; (concrete values) targets that are not
      finite where they are read; a soft request.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.regression()
    >>> unlearn = ju.methods.gaussian_amnesiac(
    ...   problem.model, ju.Fit(optax.adam(0.1), num_steps=40, batch_size=20),
    ...   mean=0.0, std=0.0)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> at_two = jnp.full((1, 1), 2.0)  # Among the forgotten ones: 5 before.
    >>> [round(problem.model.predict(v, at_two).item())
    ...  for v in (problem.variables, made)]
    [5, 2]
  """
  fit = as_fit(fit, fields)
  if (mean is None) != (std is None):
    raise ValueError(
      f"Expected both mean and std or neither, got mean={mean}, std={std}."
    )
  if std is not None:
    checks.non_negative(std=std)
  plain = supervised(model, train=train_mode)
  moments: Slot[tuple[jax.Array, jax.Array]] = Slot("target moments")
  target_key: Slot[jax.Array] = Slot("target key")

  def find_moments(carry, data, request, key):
    if data is not None:  # A stream may do without.
      checks.hard_request(request.forget)
      check_targets(data, request.retain)
    if mean is None:
      return target_moments(data["label"], _rows.seen(request))
    return jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    check_targets(step.rows)
    label = step.rows["label"]
    # By row, so that a row keeps its target in every epoch.
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    normal = jax.vmap(lambda k: jax.random.normal(k, label.shape[1:]))(
      fold(step[target_key], step.row_id)
    )
    targets = replace_targets(label, step.forget, normal, *step[moments])
    rows = {**step.rows, "label": targets}
    return plain(variables, step._replace(rows=rows), key)

  reads = "rows" if mean is None else "nothing"
  return chain(
    provide(moments, find_moments, reads=reads),
    provide(target_key, lambda *args: args[-1], reads="nothing"),
    phase(objective, fit, draw=Draw(mixed=fit.batch_size), name="relabel"),
    name="gaussian_amnesiac",
  )


def target_moments(
  targets: jax.Array, visible: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Mean and standard deviation over rows, with N - 1 in the denominator.

  Args:
    targets: float [N, ...].
    visible: bool or float [N], the rows that count; all by default.

  Returns:
    Two arrays [...], in at least float32; a deviation of 0 for one row.

  Raises:
    ValueError: no rows, no floats, or (concrete values) some are not finite.
  """
  targets = jnp.asarray(targets)
  weight = jnp.ones(targets.shape[:1]) if visible is None else visible
  check_targets({"label": targets}, weight)
  if targets.shape[0] == 0:
    raise ValueError("Expected targets of some rows, got 0.")
  weight = (weight > 0).astype(jnp.float32)
  dtype = jnp.promote_types(jnp.float32, targets.dtype)
  targets = blank_rows(targets.astype(dtype), weight)
  count = weight.sum()
  mean = targets.sum(axis=0) / jnp.maximum(count, 1)
  apart = blank_rows(jnp.square(targets - mean[None]), weight).sum(axis=0)
  return mean, jnp.sqrt(apart / jnp.maximum(count - 1, 1))


def replace_targets(
  targets: jax.Array,
  forget: jax.Array,
  normal: jax.Array,
  mean: jax.Array,
  std: jax.Array,
) -> jax.Array:
  """mean + std * normal where `forget`, the targets elsewhere, bit for bit.

  Args:
    targets: float [B, ...].
    forget: bool [B].
    normal: float [B, ...], standard normal draws.
    mean: float [] or [...].
    std: float [] or [...].

  Returns:
    [B, ...], of the dtype of `targets`.
  """
  entry = targets.shape[1:]
  mean, std = (jnp.broadcast_to(v, entry)[None] for v in (mean, std))
  drawn = (mean + std * normal).astype(targets.dtype)
  where = forget.reshape(forget.shape + (1,) * len(entry))
  return jnp.where(where, drawn, targets)
