"""Amnesiac unlearning: take back the updates that saw the forget set.

Source: Graves, Nagisetty and Ganesh (2021), "Amnesiac Machine Learning", AAAI.
Class: heuristic (exact only if later updates did not depend on the earlier
ones). Needs what must be kept while training: for each request that may come,
the sum of the updates of all batches that held one of its rows.
Model state: not taken back; the repair phase moves it, from retain rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import edit
from jaxunlearn.core.phase import phase, remember, supervised
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import (
  Fit,
  FitFields,
  Task,
  as_fit,
  as_task,
  with_extra_arguments,
)
from jaxunlearn.core.training import fitting, init_variables, prepared
from jaxunlearn.core.transform import Carry, Env, Transform
from jaxunlearn.core.types import Draw, PyTree, Request, Slot, Variables


class LedgerState(NamedTuple):
  """Attributes: inner: the optimiser's state. ledger: leaves [R, ...]."""

  inner: Any
  ledger: PyTree


def with_ledger(
  optimizer: optax.GradientTransformation, requests: jax.Array
) -> optax.GradientTransformationExtraArgs:
  """An optimiser that adds up the updates which each request would take back.

  Args:
    optimizer: any.
    requests: bool [R, N], the requests to be ready for.
  """
  inner = with_extra_arguments(optimizer)
  many = requests.shape[0]

  def init_fn(params):
    zeros = lambda p: jnp.zeros((many, *p.shape), p.dtype)
    return LedgerState(inner.init(params), jax.tree.map(zeros, params))

  def update_fn(updates, state, params=None, *, batch, **extra_args):
    updates, inner_state = inner.update(
      updates, state.inner, params, batch=batch, **extra_args
    )
    touched = (requests[:, batch.row_id] & (batch.weight > 0)[None]).any(axis=1)

    def add(total, update):
      flag = touched.reshape((many,) + (1,) * update.ndim)
      return total + jnp.where(flag, update[None], 0)

    ledger = jax.tree.map(add, state.ledger, updates)
    return updates, LedgerState(inner_state, ledger)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def train_logged(
  task: Task | Any,
  data: PyTree,
  requests: jax.Array,
  key: jax.Array,
  fit: Fit | None = None,
  *,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> tuple[Variables, PyTree]:
  """Trains on all rows as `train` does and keeps the ledger.

  The same draws and updates; another program, so bits may differ by rounding.

  Args:
    task: as of `train`.
    data: pytree of arrays [N, ...].
    requests: bool [R, N].
    key: as of `train`.
    fit: as of `train`.
    train_mode: as of `train`.
    **fields: as of `train`.

  Returns:
    The variables, and the ledger: like the params, leaves [R, ...].

  Example:
    >>> import optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, _, data, request, key = toy.classifier()
    >>> variables, ledger = ju.methods.train_logged(
    ...   model, data, request[None], key, ju.Fit(optax.sgd(0.1), 10, 16))
    >>> ledger["output"]["bias"].shape  # What one request has to take away.
    (1, 4)
  """
  task, fit = as_task(task), as_fit(fit, fields)
  shaped("requests bool [R, N]", requests)
  checks.request(data, requests[0], name="requests")
  ledger: Slot[LedgerState] = Slot("ledger")
  logged = phase(
    supervised(task, train=train_mode),
    fit._replace(optimizer=with_ledger(fit.optimizer, requests)),
    draw=Draw(retain=fit.batch_size),
    name="fit",
  )
  init_key, fit_key = jax.random.split(key)
  variables = init_variables(task, data, init_key)
  everything = jnp.ones(requests.shape[1], bool)
  carry, _ = prepared(task, remember(logged, ledger)).run(
    Carry(variables, variables, {}),
    data,
    Request(~everything, everything),
    fit_key,
    Env(),
  )
  return carry.variables, carry[ledger].ledger


def amnesiac(
  task: Task | Any,
  ledger: PyTree,
  fit: Fit | None = None,
  *,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Subtracts a request's updates, then repairs on the retain set.

  Args:
    task: what was trained.
    ledger: the entry of `train_logged`'s ledger for this request, like params.
    fit: of the repair; with no steps it is the bare subtraction.
    train_mode: of the repair phase.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Raises:
    ValueError: from the call, a ledger that does not fit the params.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> model, _, data, request, key = problem
    >>> variables, ledger = ju.methods.train_logged(
    ...   model, data, request[None], key, ju.Fit(optax.adam(0.05), 40, 16))
    >>> its = jax.tree.map(lambda sum: sum[0], ledger)  # Of the first request.
    >>> repair = ju.Fit(optax.adam(0.05), num_steps=10, batch_size=16)
    >>> unlearn = ju.methods.amnesiac(model, its, repair)
    >>> made, info = jax.jit(unlearn)(variables, data, request, key)
    >>> toy.accuracies(problem, variables)
    (1.0, 1.0)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  repair = fitting(
    task, as_fit(fit, fields), train_mode=train_mode, name="repair"
  )

  def subtract(variables, data, request, key):
    checks.same_structure(ledger, variables.params, "ledger")
    params = jax.tree.map(
      lambda p, gone: (p - gone).astype(p.dtype), variables.params, ledger
    )
    return variables._replace(params=params)

  return chain(
    edit(subtract, reads="nothing", name="subtract"), repair, name="amnesiac"
  )
