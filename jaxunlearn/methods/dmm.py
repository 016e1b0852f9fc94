"""Datamodel matching: fine-tune to outputs that retraining is predicted to have.

Source: arXiv:2410.23232 and its released code; the datamodels are those of
arXiv:2202.00622, `valuation.datamodels`.
Class: heuristic, judged by `metrics.klom`. Labels are not read. Model state:
moves in training mode. Cost: one gradient of a batch per step, and beforehand,
once for all requests, the many trainings of the datamodels (`dmm`) or, for each
request, those of the oracles (`oracle_matching`, which is no method to deploy
but shows what matching can reach).
Differences: of a batch a fixed part are forget rows, where the released code
shuffles `forget_copies` copies of them among the others: the same loss in
expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import per_row, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Fit, FitFields, Model, apply_rows, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  ALL,
  Draw,
  Losses,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.methods import _rows

CIFAR10 = Fit(optax.adam(1e-4), 100, 512)  # Theirs, of a request of 500 rows.


def dm_direct(
  outputs: jax.Array,
  attribution: jax.Array,
  forget: jax.Array,
  strength: float | jax.Array = 1.0,
) -> jax.Array:
  """What retraining without some rows is predicted to say about known rows.

  Args:
    outputs: [E, C], the original model's.
    attribution: [N, E, C], what a training row adds to an output: the weights
      [N, E * C] of `valuation.datamodels.fit_ridge` on the outputs, reshaped.
    forget: bool or float [N].
    strength: 1 takes the rows' weights away, 0 nothing. May be traced.

  Returns:
    [E, C], outputs - strength * sum over forget rows of attribution.

  Raises:
    ValueError: shapes that do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> outputs = jnp.array([[5.0, 1.0]])  # Of one row, for two classes.
    >>> adds = jnp.array([[[2.0, 0.0]], [[1.0, -1.0]]])  # By two others.
    >>> forget = jnp.array([True, False])
    >>> ju.methods.dm_direct(outputs, adds, forget).tolist()
    [[3.0, 1.0]]
  """
  shaped(f"attribution {[len(forget), *outputs.shape]}", attribution)
  gone = jnp.einsum(
    "n,nec->ec",
    forget.astype(jnp.float32),
    attribution.astype(jnp.float32),
    precision="highest",
  )
  return outputs - strength * gone


def dmm(
  model: Model,
  attribution: jax.Array,
  fit: Fit = CIFAR10,
  *,
  strength: float | jax.Array = 1.0,
  forget_copies: int = 5,
  retain_copies: int = 20,
  anchor: float | jax.Array = 0.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Matches `dm_direct` of the original model on forget and some retain rows.

  Args:
    model: a classifier; its outputs are those that the datamodels predict.
    attribution: [N, N, C], see `dm_direct`; the second axis are the data too.
    fit: how; of its batch `forget_copies` in `forget_copies + retain_copies`
      are forget rows.
    strength: see `dm_direct`. May be traced.
    forget_copies: static, >= 1; how often a forget row counts against one of
      the retain rows that are used.
    retain_copies: static, >= 0; retain rows that are used, for each forget row;
      chosen once at random.
    anchor: of the squared distance to the original params, >= 0. May be traced.
    **fields: the fields of `Fit` by keyword, to change `fit`.

  Returns:
    A `Transform` with info "match".

  Raises:
    ValueError: an option outside its range; from the call, a soft request, an
      attribution of other rows.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> adds = jnp.zeros((60, 60, 4))  # By rows of class 1, to their logit.
    >>> adds = adds.at[1::4, :, 1].set(1.0)
    >>> unlearn = ju.methods.dmm(
    ...   problem.model, adds, ju.Fit(optax.adam(0.05), 40, 32),
    ...   forget_copies=2, retain_copies=2)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  before: Slot[jax.Array] = Slot("original outputs")
  attribution = jnp.asarray(attribution)

  def predicted(carry, data, request, key):
    outputs = carry[before].astype(jnp.float32)
    return dm_direct(outputs, attribution, request.forget, strength)

  first = per_row(
    before, lambda variables, rows: model.predict(variables, rows["x"])
  )
  link = _matching(
    model, predicted, as_fit(fit, fields), forget_copies, retain_copies, anchor
  )
  return chain(first, *link, name="dmm")


def oracle_matching(
  model: Model,
  targets: jax.Array,
  fit: Fit = CIFAR10,
  *,
  forget_copies: int = 5,
  retain_copies: int = 20,
  anchor: float | jax.Array = 0.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """`dmm` on the mean outputs of models retrained without the request.

  Args:
    model: a classifier.
    targets: [N, C], the mean outputs of such models on the data.
    fit: see `dmm`.
    forget_copies: see `dmm`.
    retain_copies: see `dmm`.
    anchor: see `dmm`.
    **fields: see `dmm`.

  Returns:
    A `Transform` with info "match".

  Raises:
    ValueError: as `dmm`; targets of other rows.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> logits = problem.model.predict(
    ...   problem.variables, problem.data["x"])
    >>> never_one = logits.at[:, 1].set(-10.0)  # As of models retrained.
    >>> unlearn = ju.methods.oracle_matching(
    ...   problem.model, never_one, ju.Fit(optax.adam(0.05), 40, 32),
    ...   forget_copies=2, retain_copies=2)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  targets = jnp.asarray(targets, jnp.float32)

  def known(carry, data, request, key):
    if len(targets) != len(request.forget):
      raise ValueError(
        f"Expected targets of {len(request.forget)} rows, got {targets.shape}."
      )
    return targets

  link = _matching(
    model, known, as_fit(fit, fields), forget_copies, retain_copies, anchor
  )
  return chain(*link, name="oracle_matching")


def _matching(
  model: Model,
  find: Callable[..., jax.Array],
  fit: Fit,
  forget_copies: int,
  retain_copies: int,
  anchor: float | jax.Array,
) -> tuple[Transform, Transform]:
  """Leaves the targets [N, C], and fits the outputs to them."""
  checks.count(1, forget_copies=forget_copies)
  checks.count(0, retain_copies=retain_copies)
  checks.non_negative(anchor=anchor)
  targets: Slot[jax.Array] = Slot("targets")
  share = forget_copies / (forget_copies + retain_copies)

  def select(data: PyTree, request: Request, key: jax.Array) -> jax.Array:
    checks.hard_request(request.forget)
    count = retain_copies * request.forget.sum()
    return request.forget | _rows.some_of(request.retain, count, key)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    outputs, state = apply_rows(model, variables, step, key, train=True)
    error = outputs.astype(jnp.float32) - step[targets][step.row_id]
    away = optax.tree.sub(variables.params, step.original.params)
    pull = anchor * optax.tree.norm(away, squared=True)
    return Losses((error**2).mean(axis=-1) + pull, None, state)

  forget_rows = retain_rows = ALL
  if fit.batch_size != ALL:
    forget_rows = max(1, round(fit.batch_size * share))
    retain_rows = max(min(1, retain_copies), fit.batch_size - forget_rows)
  draw = Draw(forget_rows, retain_rows * (retain_copies > 0), select=select)
  return provide(targets, find, needs=Draw(forget=ALL)), phase(
    objective,
    fit,
    draw=draw,
    forget_weight=share,
    retain_weight=1 - share,
    name="match",
  )
