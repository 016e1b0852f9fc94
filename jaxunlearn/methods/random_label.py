"""Random labels: fit the forget set to labels that are wrong on purpose.

Source: Graves, Nagisetty and Ganesh (2021), "Amnesiac Machine Learning", AAAI
(labels drawn once, all rows mixed); Fan et al. (2024), arXiv:2310.12508 (labels
drawn again each time, on CIFAR-10 forget rows first and then retain rows).
Class: heuristic. Model state: moves, from rows of both kinds, as in the code of
both sources; `train_mode=False` freezes it. Cost: one gradient per step.
"""

from __future__ import annotations

from typing import Unpack

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Fit, FitFields, Model, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.methods import _relabel


def random_label(
  model: Model,
  fit: Fit | None = None,
  *,
  num_classes: int,
  redraw: str = "once",
  exclude_true: bool = True,
  order: str = "mixed",
  num_epochs: int = 1,
  forget_steps: int = 0,
  retain_weight: float | jax.Array = 1.0,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Fine-tunes on all rows with random labels on the forget set.

  Args:
    model: a classifier with integer labels under "label".
    fit: how; its steps are those of each epoch with the order "sequential", its
      rows are of both kinds or of one.
    num_classes: K >= 2.
    redraw: "once", each row has one random label; "epoch", a new one each pass;
      "batch", a new one each step.
    exclude_true: draw among the K - 1 wrong classes only; False may hit the true
      one.
    order: "mixed", both kinds of rows in their natural proportion; "sequential",
      epochs of steps on the forget set and then on the retain set, all with one
      optimiser.
    num_epochs: "sequential": how many epochs.
    forget_steps: "sequential": how many of an epoch's steps are on the forget
      set; the forget rows over the batch size make one pass.
    retain_weight: coefficient of the retain rows' loss. May be traced.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Raises:
    ValueError: num_classes < 2, an unknown redraw or order, forget_steps
      outside 0 .. num_steps, epochs or forget_steps given for "mixed"; from the
      call, labels that are not int [N].

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.random_label(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=30, batch_size=16),
    ...   num_classes=4)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit = as_fit(fit, fields)
  checks.one_of(("mixed", "sequential"), order=order)
  objective = _relabel.random_labels(
    model,
    num_classes,
    redraw=redraw,
    exclude_true=exclude_true,
    train_mode=train_mode,
    retain_weight=retain_weight,
  )
  if order == "mixed":
    if (num_epochs, forget_steps) != (1, 0):
      raise ValueError(
        "Expected num_epochs and forget_steps with order='sequential' only, got "
        f"{num_epochs} and {forget_steps} with order='mixed'."
      )
    return _relabel.mixed(objective, fit, num_classes)
  if not 0 <= forget_steps <= fit.num_steps:
    raise ValueError(
      f"Expected forget_steps in 0 .. {fit.num_steps}, got {forget_steps}."
    )
  return _relabel.sequential(
    objective,
    fit,
    num_classes,
    num_epochs=num_epochs,
    forget_steps=forget_steps,
    retain_steps=fit.num_steps - forget_steps,
  )
