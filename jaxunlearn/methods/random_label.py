"""Random labels: fit the forget set to labels that are wrong on purpose.

Source: Graves, Nagisetty and Ganesh (2021), "Amnesiac Machine Learning", AAAI
(labels drawn once); Fan et al. (2024), arXiv:2310.12508 (drawn again each time).
Class: heuristic. Model state: frozen unless `train_mode` is set, since the
batches hold forget rows. Cost: one gradient a step.
Difference from the sources: forget and retain rows are mixed in their natural
proportion, as Graves et al. do; SalUn's code passes over one, then the other.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import Draw, Model, Transform


def random_label(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  redraw: str = "once",
  exclude_true: bool = True,
  train_mode: bool = False,
) -> Transform:
  """Fine-tunes on all rows with random labels on the forget set.

  Args:
    model: a classifier with integer labels under "label".
    num_classes: K >= 2.
    optimizer: any.
    num_steps: steps.
    batch_size: rows a step, of both kinds.
    redraw: "once", each row has one random label; "epoch", a new one each pass;
      "batch", a new one each step.
    exclude_true: draw among the K - 1 wrong classes only; False may hit the true
      one.
    train_mode: dropout active and BatchNorm's statistics moving.

  Raises:
    ValueError: num_classes < 2 or an unknown redraw.
  """
  checks.one_of(("once", "epoch", "batch"), redraw=redraw)
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
    return plain(variables, batch._replace(rows=rows), key)

  keep_key = provide(
    "label_key",
    lambda carry, data, forget_mask, key: jax.random.key_data(key),
    reads="nothing",
  )
  fit = phase(
    objective,
    optimizer,
    num_steps,
    draw=Draw(mixed=batch_size),
    name="relabel",
  )
  return chain(keep_key, fit, name="random_label")


def _row_keys(batch, label_key, step_key, redraw):
  """A key a row that changes as often as its label shall."""
  if redraw == "batch":
    return jax.vmap(lambda s: jax.random.fold_in(step_key, s))(batch.slot)
  if redraw == "once":
    return jax.vmap(lambda i: jax.random.fold_in(label_key, i))(batch.row_id)
  return jax.vmap(
    lambda i, e: jax.random.fold_in(jax.random.fold_in(label_key, e), i)
  )(batch.row_id, batch.epoch)
