"""Amnesiac unlearning: take back the updates that saw the forget set.

Source: Graves, Nagisetty and Ganesh (2021), "Amnesiac Machine Learning", AAAI.
Class: heuristic (exact only if later updates did not depend on the earlier
ones). Needs what must be kept while training: for each request that may come,
the sum of the updates of all batches that held one of its rows.
Model state: not taken back; the repair phase moves it, from retain rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit, provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.training import fitting, init_variables
from jaxunlearn.core.types import Carry, Draw, Env, Model, PyTree, Transform


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
  inner = optax.with_extra_args_support(optimizer)
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
  model: Model,
  data: PyTree,
  requests: jax.Array,
  key: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
) -> tuple[Any, PyTree]:
  """Trains on all rows as `train` does and keeps the ledger.

  The same draws and updates; another program, so bits may differ by rounding.

  Args:
    model: the model.
    data: pytree of arrays [N, ...].
    requests: bool [R, N].
    key: as of `train`.
    optimizer: as of `train`.
    num_steps: as of `train`.
    batch_size: as of `train`.
    train_mode: as of `train`.

  Returns:
    The variables, and the ledger: like the params, leaves [R, ...].
  """
  if requests.ndim != 2 or requests.dtype != jnp.bool_:
    raise ValueError(
      f"Expected requests of shape [R, N] and dtype bool, got "
      f"{requests.shape} of {requests.dtype}."
    )
  checks.request(data, requests[0], name="requests")
  logging = with_ledger(optimizer, requests)
  start = provide(
    "ledger", lambda carry, *_: logging.init(carry.variables.params)
  )
  fit = phase(
    supervised(model, train=train_mode),
    logging,
    num_steps,
    draw=Draw(retain=batch_size),
    shared_state="ledger",
  )
  init_key, fit_key = jax.random.split(key)
  variables = init_variables(model, data, init_key)
  carry = Carry(variables, variables, {})
  nothing = jnp.zeros(requests.shape[1], bool)
  carry, _ = start.run(carry, data, nothing, init_key, Env())
  carry, _ = fit.run(carry, data, nothing, fit_key, Env())
  return carry.variables, carry.extra["ledger"].ledger


def amnesiac(
  model: Model,
  ledger: PyTree,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
) -> Transform:
  """Subtracts a request's updates, then repairs on the retain set.

  Args:
    model: the model.
    ledger: the entry of `train_logged`'s ledger for this request, like params.
    optimizer: of the repair phase.
    num_steps: of the repair phase; 0 is the bare subtraction.
    batch_size: retain rows a step.
    train_mode: of the repair phase.
  """

  def subtract(variables, data, forget_mask, key):
    params = jax.tree.map(jnp.subtract, variables.params, ledger)
    return variables._replace(params=params)

  repair = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    train_mode=train_mode,
    name="repair",
  )
  return chain(
    edit(subtract, reads="nothing", name="subtract"), repair, name="amnesiac"
  )
