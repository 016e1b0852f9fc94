"""Fitting the forget set to random labels: what several methods are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import Objective, phase, remember, supervised
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, PyTree, Slot, Step, Variables
from jaxunlearn.methods._classes import class_labels

REDRAWS = ("once", "epoch", "batch")
_KEY: Slot[jax.Array] = Slot("label key")


def mixed(
  objective: Objective,
  fit: Fit,
  num_classes: int,
  *,
  select: Callable[..., jax.Array] | None = None,
  name: str = "random_label",
) -> Transform:
  """Steps on both kinds of rows in their natural proportion; see `Draw`."""
  draw = Draw(mixed=fit.batch_size, select=select)
  relabel = phase(objective, fit, draw=draw, name="relabel")
  return chain(_label_key(num_classes), relabel, name=name)


def sequential(
  objective: Objective,
  fit: Fit,
  num_classes: int,
  *,
  num_epochs: int,
  forget_steps: int,
  retain_steps: int,
) -> Transform:
  """Epochs of steps on forget rows and then on retain rows; one optimiser."""
  checks.count(0, num_epochs=num_epochs, forget_steps=forget_steps)
  checks.count(0, retain_steps=retain_steps)
  shared: Slot[PyTree] = Slot("optimizer")
  relabel = phase(
    objective,
    fit._replace(num_steps=forget_steps),
    draw=Draw(forget=fit.batch_size),
    name="relabel",
  )
  keep = phase(
    objective,
    fit._replace(num_steps=retain_steps),
    draw=Draw(retain=fit.batch_size),
    name="retain",
  )
  both = (remember(link, shared) for link in (relabel, keep))
  epochs = alternate(*both, rounds=num_epochs, name="epochs")
  return chain(_label_key(num_classes), epochs, name="random_label")


def _label_key(num_classes: int) -> Transform:
  def look(carry, data, request, key):
    if data is not None:  # A stream may do without.
      class_labels(data, num_classes)
    return key

  return provide(_KEY, look, reads="nothing")


def random_labels(
  model: Model | Any,
  num_classes: int,
  *,
  redraw: str,
  exclude_true: bool,
  train_mode: bool,
  retain_weight: float | jax.Array = 1.0,
) -> Objective:
  """The model's loss, on forget rows against labels drawn at random."""
  checks.one_of(REDRAWS, redraw=redraw)
  checks.non_negative(retain_weight=retain_weight)
  checks.count(2, num_classes=num_classes)
  plain = supervised(model, train=train_mode)
  choices = num_classes - 1 if exclude_true else num_classes

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    label = step.rows["label"]
    drawn = jax.vmap(lambda k: jax.random.randint(k, (), 0, choices))(
      _row_keys(step, key, redraw)
    ).astype(label.dtype)
    if exclude_true:
      drawn = drawn + (drawn >= label).astype(label.dtype)
    rows = {**step.rows, "label": jnp.where(step.forget, drawn, label)}
    out = plain(variables, step._replace(rows=rows), key)
    weight = jnp.where(step.forget, 1.0, retain_weight)
    return out._replace(value=weight * out.value)

  return objective


def _row_keys(step: Step, key: jax.Array, redraw: str) -> jax.Array:
  """A key per row that changes as often as its label shall."""
  if redraw == "batch":
    return step.keys(keys.derive(key, "labels"))
  fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  if redraw == "once":
    return fold(step[_KEY], step.row_id)
  return jax.vmap(jax.random.fold_in)(fold(step[_KEY], step.epoch), step.row_id)
