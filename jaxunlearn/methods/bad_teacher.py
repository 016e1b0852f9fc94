"""Bad Teacher: imitate an untrained network on the forget set.

Source: Chundawat, Tarun, Mandal and Kankanhalli (2023), "Can Bad Teaching Induce
Forgetting?", arXiv:2205.08096.
Class: heuristic. Labels are not read. Model state: moves to batches of forget
and retain rows, as in the released code; `train_mode=False` freezes it.
Cost: one gradient and two teachers' forward per step.
Difference from the released code: it divides the divergence by the number of
classes too, `reduction="released"`.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, Model, apply_rows, as_fit
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  Draw,
  Losses,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.methods import _rows

NOTEBOOK = Fit(optax.adam(1e-4), 60)  # The authors', one epoch.


def bad_teacher(
  model: Model,
  fit: Fit = NOTEBOOK,
  *,
  temperature: float | jax.Array = 1.0,
  retain_fraction: float | jax.Array = 0.3,
  reduction: str = "batchmean",
  incompetent: Variables | None = None,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Distils from two teachers: the original, and an incompetent one.

  Minimises over the rows of the forget set and of a part of the retain set the
  mean of KL(teacher || student), softened by the temperature; the teacher is an
  untrained network on forget rows and the original model on the others.

  Args:
    model: a classifier.
    fit: how, on rows of both kinds in their natural proportion.
    temperature: T > 0. May be traced.
    retain_fraction: the share of the retain set that is used, chosen at random
      once; in [0, 1]. May be traced.
    reduction: "batchmean", the sum over classes; "released", their mean.
    incompetent: the incompetent teacher; by default a fresh network drawn from
      the key. One unlucky teacher decides the outcome, so vary the key.
    train_mode: the student's dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, to change `fit`.

  Returns:
    A `Transform` with info "distil". A full request reads the incompetent
    teacher only; an empty one distils the model from itself.

  Raises:
    ValueError: an option outside its range; from the call, a soft request.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.bad_teacher(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=30, batch_size=16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit = as_fit(fit, fields)
  checks.positive(temperature=temperature)
  checks.fraction(retain_fraction=retain_fraction)
  checks.one_of(("batchmean", "released"), reduction=reduction)
  untaught: Slot[Variables] = Slot("incompetent")

  def choose_teacher(carry, data, request, key):
    if incompetent is not None:
      return incompetent
    return init_variables(model, data, key)

  def select(data: PyTree, request: Request, key: jax.Array) -> jax.Array:
    """All forget rows, and a share of the retain rows."""
    checks.hard_request(request.forget)
    count = jnp.round(retain_fraction * request.retain.sum())
    return request.forget | _rows.some_of(request.retain, count, key)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    student, state = apply_rows(model, variables, step, key, train=train_mode)
    x = step.rows["x"]
    competent = model.predict(step.original, x)
    untrained = model.predict(step[untaught], x)
    teacher = jnp.where(step.forget[:, None], untrained, competent)
    kl = losses.kl_to_teacher(
      student, teacher, temperature, per_class_mean=reduction == "released"
    )
    return Losses(kl, None, state)

  reads = "shapes" if incompetent is None else "nothing"
  draw = Draw(mixed=fit.batch_size, select=select)
  return chain(
    provide(untaught, choose_teacher, reads=reads),
    phase(objective, fit, draw=draw, name="distil"),
    name="bad_teacher",
  )
