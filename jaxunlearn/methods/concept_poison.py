"""Concept poisoning: fine-tune on a class under wrong labels that suit it.

Source: arXiv:2405.15662, of which neither code nor full text was at hand: which
rows are poisoned and how they are labelled follows its abstract, and the rest is
ours. `metrics.concepts` finds what a class is made of, and the class nearest to
it.
Class: heuristic. Model state: moves with the batches of both kinds. Cost: one
gradient of a batch per step.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.phase import Objective, supervised
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Fit, FitFields, Model, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, PyTree, Request, Step, Variables
from jaxunlearn.methods import _relabel, _rows


def concept_poison(
  model: Model,
  fit: Fit | None = None,
  *,
  num_classes: int,
  target: int | jax.Array | None = None,
  share: float | jax.Array = 1.0,
  score: jax.Array | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains on forget rows under poisoned labels, among the retain rows.

  Args:
    model: a classifier with integer labels under "label".
    fit: how, on rows of both kinds in their natural proportion.
    num_classes: C.
    target: the label of all poisoned rows, as `metrics.closest_class` gives it;
      None draws one of the other classes for each row, again in every epoch.
      May be traced.
    share: of the forget rows, in [0, 1]; the others are not used. 0 is
      fine-tuning on the retain rows. May be traced.
    score: [N], the forget rows with the highest ones are used; at random by
      default.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` with info "relabel".

  Raises:
    ValueError: an option outside its range; from the call, a soft request,
      scores of other rows.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.concept_poison(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=30, batch_size=16),
    ...   num_classes=4)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit = as_fit(fit, fields)
  checks.count(2, num_classes=num_classes)
  checks.fraction(share=share)
  known = target is not None and checks.is_concrete(target)
  if known and not 0 <= int(target) < num_classes:  # type: ignore[arg-type]
    raise ValueError(
      f"Expected target in 0 .. {num_classes - 1}, got {target}."
    )

  def select(data: PyTree, request: Request, key: jax.Array) -> jax.Array:
    forget = request.forget
    checks.hard_request(forget)
    count = jnp.round(share * forget.sum())
    if score is None:
      return request.retain | _rows.some_of(forget, count, key)
    shaped(f"score [{len(forget)}]", score)
    order = jnp.argsort(jnp.where(forget, -jnp.asarray(score), jnp.inf))
    best = jnp.zeros_like(forget).at[order].set(jnp.arange(len(order)) < count)
    return request.retain | (forget & best)

  plain = supervised(model, train=True)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    label = step.rows["label"]
    wrong = jnp.asarray(target, label.dtype)
    rows: dict[str, Any] = {
      **step.rows,
      "label": jnp.where(step.forget, wrong, label),
    }
    return plain(variables, step._replace(rows=rows), key)

  chosen: Objective = objective
  if target is None:
    chosen = _relabel.random_labels(
      model, num_classes, redraw="epoch", exclude_true=True, train_mode=True
    )
  return _relabel.mixed(
    chosen, fit, num_classes, select=select, name="concept_poison"
  )
