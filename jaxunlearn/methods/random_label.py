"""Random labels: fit the forget set to labels that are wrong on purpose.

Source: Graves, Nagisetty and Ganesh (2021), "Amnesiac Machine Learning", AAAI
(labels drawn once, all rows mixed); Fan et al. (2024), arXiv:2310.12508 (labels
drawn again each time, on CIFAR-10 forget rows first and then retain rows).
Class: heuristic. Model state: frozen unless `train_mode` is set, since the
batches hold forget rows. Cost: one gradient a step.
"""

from __future__ import annotations

import jax
import optax

from jaxunlearn.core import checks, relabel
from jaxunlearn.core.types import Model, Transform


def random_label(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  redraw: str = "once",
  exclude_true: bool = True,
  order: str = "mixed",
  num_epochs: int = 1,
  forget_steps: int = 0,
  retain_weight: float | jax.Array = 1.0,
  train_mode: bool = False,
) -> Transform:
  """Fine-tunes on all rows with random labels on the forget set.

  Args:
    model: a classifier with integer labels under "label".
    num_classes: K >= 2.
    optimizer: any.
    num_steps: steps; of each epoch, with the order "sequential".
    batch_size: rows a step, of both kinds or of one.
    redraw: "once", each row has one random label; "epoch", a new one each pass;
      "batch", a new one each step.
    exclude_true: draw among the K - 1 wrong classes only; False may hit the true
      one.
    order: "mixed", both kinds of rows in their natural proportion; "sequential",
      epochs of steps on the forget set and then on the retain set, all with one
      optimiser.
    num_epochs: "sequential": how many epochs.
    forget_steps: "sequential": how many of an epoch's steps are on the forget
      set; the forget rows over `batch_size` make one pass.
    retain_weight: coefficient of the retain rows' loss. May be traced.
    train_mode: dropout active and BatchNorm's statistics moving.

  Raises:
    ValueError: num_classes < 2, an unknown redraw or order, forget_steps
      outside 0 .. num_steps, epochs or forget_steps given for "mixed".
  """
  checks.one_of(("mixed", "sequential"), order=order)
  options = {
    "num_classes": num_classes,
    "optimizer": optimizer,
    "batch_size": batch_size,
    "redraw": redraw,
    "exclude_true": exclude_true,
    "retain_weight": retain_weight,
    "train_mode": train_mode,
  }
  if order == "mixed":
    if (num_epochs, forget_steps) != (1, 0):
      raise ValueError(
        "Expected num_epochs and forget_steps with order='sequential' only, got "
        f"{num_epochs} and {forget_steps} with order='mixed'."
      )
    return relabel.mixed(model, num_steps=num_steps, **options)
  if not 0 <= forget_steps <= num_steps:
    raise ValueError(
      f"Expected forget_steps in 0 .. {num_steps}, got {forget_steps}."
    )
  return relabel.sequential(
    model,
    num_epochs=num_epochs,
    forget_steps=forget_steps,
    retain_steps=num_steps - forget_steps,
    **options,
  )
