"""Fitting the forget set to random labels: what several methods are made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide, repeat
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import Draw, Model, Transform

REDRAWS = ("once", "epoch", "batch")


def mixed(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  redraw: str,
  exclude_true: bool,
  train_mode: bool,
  retain_weight: float | jax.Array = 1.0,
) -> Transform:
  """Steps on both kinds of rows in their natural proportion."""
  fit = phase(
    _objective(
      model, num_classes, redraw, exclude_true, train_mode, retain_weight
    ),
    optimizer,
    num_steps,
    draw=Draw(mixed=batch_size),
    name="relabel",
  )
  return chain(_label_key(), fit, name="random_label")


def sequential(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_epochs: int,
  forget_steps: int,
  retain_steps: int,
  batch_size: int,
  redraw: str,
  exclude_true: bool,
  train_mode: bool,
  retain_weight: float | jax.Array = 1.0,
) -> Transform:
  """Epochs of steps on forget rows and then on retain rows; one optimiser."""
  checks.non_negative(num_epochs=num_epochs, retain_weight=retain_weight)
  relabel = phase(
    _objective(model, num_classes, redraw, exclude_true, train_mode, 1.0),
    optimizer,
    forget_steps,
    draw=Draw(forget=batch_size),
    name="relabel",
    shared_state="optimizer",
  )
  keep = phase(
    supervised(model, train=train_mode),
    optimizer,
    retain_steps,
    draw=Draw(retain=batch_size),
    retain_weight=retain_weight,
    name="retain",
    shared_state="optimizer",
  )
  start = provide(
    "optimizer",
    lambda carry, *_: optimizer.init(carry.variables.params),
    reads="nothing",
  )
  # A phase counts its own passes from zero, so that labels of one pass are made
  # new by a key of each epoch's own.
  both = (relabel, keep)
  links: tuple[Transform, ...]
  if redraw == "once":
    links = (
      start,
      _label_key(),
      repeat(chain(*both), num_epochs, name="epochs"),
    )
  else:
    links = (
      start,
      repeat(chain(_label_key(), *both), num_epochs, name="epochs"),
    )
  return chain(*links, name="random_label")


def _label_key() -> Transform:
  return provide(
    "label_key",
    lambda carry, data, forget_mask, key: jax.random.key_data(key),
    reads="nothing",
  )


def _objective(
  model, num_classes, redraw, exclude_true, train_mode, retain_weight
):
  checks.one_of(REDRAWS, redraw=redraw)
  checks.non_negative(retain_weight=retain_weight)
  if num_classes < 2:
    raise ValueError(f"Expected num_classes >= 2, got {num_classes}.")
  plain = supervised(model, train=train_mode)

  def objective(variables, batch, key):
    label_key = jax.random.wrap_key_data(
      batch.context.extra["label_key"], impl=jax.random.key_impl(key)
    )
    keys = _row_keys(batch, label_key, key, redraw)
    label = batch.rows["label"]
    choices = num_classes - 1 if exclude_true else num_classes
    drawn = jax.vmap(lambda k: jax.random.randint(k, (), 0, choices))(keys)
    drawn = drawn.astype(label.dtype)
    if exclude_true:
      drawn = drawn + (drawn >= label).astype(label.dtype)
    rows = {**batch.rows, "label": jnp.where(batch.forget, drawn, label)}
    losses, state = plain(variables, batch._replace(rows=rows), key)
    return jnp.where(batch.forget, 1.0, retain_weight) * losses, state

  return objective


def _row_keys(batch, label_key, step_key, redraw):
  """A key a row that changes as often as its label shall."""
  if redraw == "batch":
    return jax.vmap(lambda s: jax.random.fold_in(step_key, s))(batch.slot)
  if redraw == "once":
    return jax.vmap(lambda i: jax.random.fold_in(label_key, i))(batch.row_id)
  return jax.vmap(
    lambda i, e: jax.random.fold_in(jax.random.fold_in(label_key, e), i)
  )(batch.row_id, batch.epoch)
