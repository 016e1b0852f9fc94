"""The phase: one stretch of optimisation as a primitive transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, sampling
from jaxunlearn.core.types import (
  ALL,
  Batch,
  Carry,
  Context,
  Draw,
  Env,
  Model,
  PhaseInfo,
  PhaseState,
  PyTree,
  Transform,
  Variables,
)

Objective = Callable[[Any, Batch, jax.Array], Any]


def supervised(model: Model, *, train: bool = False) -> Objective:
  """The task's own loss on the drawn rows, as an objective.

  Args:
    model: its `loss` is taken.
    train: static; True: dropout is active and BatchNorm's statistics move.

  Returns:
    `(variables, batch, key) -> (losses [B], model_state)`.
  """

  def objective(variables, batch, key):
    outputs, state = apply_rows(model, variables, batch, key, train=train)
    return model.loss(outputs, batch.rows), state

  return objective


def apply_rows(
  model: Model,
  variables: Variables,
  batch: Batch,
  key: jax.Array,
  *,
  train: bool,
) -> tuple[jax.Array, PyTree]:
  """`model.apply` on a batch's inputs; devices get dropout of their own."""
  if train:
    key = jax.random.fold_in(key, batch.slot[0]) if batch.slot.size else key
  return model.apply(variables, batch.rows["x"], train=train, key=key)


def phase(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  *,
  draw: Draw | None = None,
  forget_weight: float | jax.Array = 1.0,
  retain_weight: float | jax.Array = 1.0,
  target: str | None = None,
  shared_state: str | None = None,
  name: str = "phase",
) -> Transform:
  """Minimises an objective for a number of steps.

  Each step draws rows, reduces the objective's per-example losses to

      forget_weight * mean(forget) + retain_weight * mean(retain) + mean(mixed)

  (means over the rows of each kind by their weights; a kind that is not drawn
  adds nothing) and makes one update. All steps are one `lax.scan`.

  Args:
    objective: `(variables, batch, key) -> losses`, or `-> (losses,
      model_state)`. Losses [B] of the batch's rows; of any length if nothing is
      drawn. A first-form objective leaves the model state alone.
    optimizer: any optax optimiser; starts fresh. One that takes extra arguments
      finds the step's rows as `batch`.
    num_steps: static, >= 0.
    draw: what a step draws; nothing by default.
    forget_weight: coefficient of the forget rows; negative ascends. May be
      traced.
    retain_weight: coefficient of the retain rows. May be traced.
    target: None optimises the params. A name optimises that entry of
      `Context.extra` instead (inputs, a generator, a prompt); the objective's
      first argument is then that entry.
    shared_state: None, or the name of the entry of `Context.extra` that holds
      the optimiser's state, for phases that share one optimiser.
    name: the key of the phase's info in a chain.

  Returns:
    A `Transform` whose info is a `PhaseInfo`. With an empty pool of rows the
    gradient is zero; steps of weight decay still act.

  Raises:
    ValueError: num_steps < 0 or a draw size below -1.
  """
  checks.non_negative(num_steps=num_steps)
  draw = Draw() if draw is None else draw
  optimizer = optax.with_extra_args_support(optimizer)
  for kind, size in zip(draw._fields, draw.sizes):
    if size < ALL:
      raise ValueError(f"Expected draw.{kind} >= -1, got {size}.")
  coefficients = (forget_weight, retain_weight, 1.0)

  def init(carry: Carry, key: jax.Array, env: Env) -> PhaseState:
    del key, env
    if target is None:
      trained, model_state = carry.variables
    elif target in carry.extra:
      trained, model_state = carry.extra[target], {}
    else:
      raise ValueError(
        f"Expected an earlier link to provide {target!r}, got "
        f"{sorted(carry.extra)}."
      )
    if shared_state is None:
      opt_state = optimizer.init(trained)
    else:
      opt_state = carry.extra[shared_state]
    return PhaseState(
      trained, model_state, opt_state, jnp.zeros((), jnp.int32), carry
    )

  def advance(
    state: PhaseState, batch: Batch, key: jax.Array, env: Env
  ) -> tuple[PhaseState, jax.Array]:
    carry = state.carry
    step_key = jax.random.fold_in(_step_key(key), state.step)

    def total(trained: PyTree) -> tuple[jax.Array, PyTree]:
      if target is None:
        current = Variables(trained, state.model_state)
      else:
        current = carry.variables
      context = Context(carry.original, current, carry.extra, state.step)
      first = current if target is None else trained
      out = objective(first, batch._replace(context=context), step_key)
      losses, new_state = (
        out if isinstance(out, tuple) else (out, state.model_state)
      )
      return _reduce(losses, batch.weight, draw, coefficients, env), new_state

    trained = _vary(state.trained, env)
    grad_fn = jax.value_and_grad(total, has_aux=True)
    (loss, model_state), grads = grad_fn(trained)
    if env.axis_name is not None:
      loss, grads = jax.lax.psum((loss, grads), env.axis_name)
      model_state = jax.tree.map(
        lambda s: (
          jax.lax.pmean(s, env.axis_name)
          if jnp.issubdtype(s.dtype, jnp.inexact)
          else s
        ),
        model_state,
      )
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.trained, batch=batch
    )
    if target is None:
      for weight_mask in env.weight_masks:
        updates = mask_updates(updates, weight_mask)
    trained = optax.apply_updates(state.trained, updates)
    state = PhaseState(trained, model_state, opt_state, state.step + 1, carry)
    return state, loss

  def step(
    state: PhaseState, batch: Batch, key: jax.Array, env: Env
  ) -> tuple[PhaseState, jax.Array]:
    # A host may have padded its batch; drawn rows are blank already.
    rows = sampling.blank_rows(batch.rows, batch.weight)
    return advance(state, batch._replace(rows=rows), key, env)

  def finish(state: PhaseState) -> Carry:
    carry, extra = state.carry, dict(state.carry.extra)
    if shared_state is not None:
      extra[shared_state] = state.opt_state
    if target is None:
      carry = carry._replace(
        variables=Variables(state.trained, state.model_state)
      )
    else:
      extra[target] = state.trained
    return carry._replace(extra=extra)

  def run(carry, data, forget_mask, key, env):
    plan = sampling.make_plan(data, forget_mask, draw, sample_key(key), env)
    start = init(carry, key, env)

    # The constant part stays outside the scan's carry: under vmap it is then
    # shared by all lanes.
    def body(moving, index):
      state = PhaseState(*moving, carry)
      batch = sampling.draw_batch(data, plan, draw, index, env)
      state, loss = advance(state, batch, key, env)
      return state.moving(), loss

    steps = jnp.arange(num_steps, dtype=jnp.int32)
    moving, losses = jax.lax.scan(body, start.moving(), steps)
    end = PhaseState(*moving, carry)
    info = PhaseInfo(
      losses,
      all_finite((losses, end.trained)),
      plan.forget_count,
      plan.retain_count,
    )
    return finish(end), info

  this = Transform(
    name,
    run,
    num_steps,
    draw,
    lambda key: [(this, key)],
    is_phase=True,
    init=init,
    step=step,
    finish=finish,
  )
  return this


def sample_key(key: jax.Array) -> jax.Array:
  """The key of a phase's stream of rows; hosts that draw rows use it too."""
  return jax.random.fold_in(key, 0)


def _step_key(key: jax.Array) -> jax.Array:
  return jax.random.fold_in(key, 1)


def _reduce(
  losses: jax.Array,
  weight: jax.Array,
  draw: Draw,
  coefficients: tuple[Any, ...],
  env: Env,
) -> jax.Array:
  """This device's share of the weighted means, added up over the kinds."""
  devices = 1 if env.axis_name is None else jax.lax.axis_size(env.axis_name)
  losses = losses.astype(jnp.promote_types(jnp.float32, losses.dtype))
  if draw.sizes == (0, 0, 0):
    return losses.mean() / devices
  if losses.shape != weight.shape:
    raise ValueError(
      "Expected the objective to return one loss for each of the "
      f"{weight.size} drawn rows, got shape {losses.shape}."
    )
  # A device holds its share of each mini-batch, and every row of an `ALL`.
  shares = [0 if size == ALL else size // devices for size in draw.sizes]
  rest = weight.size - sum(shares)
  if rest and ALL not in draw.sizes:
    raise ValueError(
      f"Expected a batch of the {sum(shares)} rows that a step draws, got "
      f"{weight.size}."
    )
  every = rest // max(draw.sizes.count(ALL), 1)
  total, offset = jnp.zeros((), losses.dtype), 0
  for size, share, coefficient in zip(draw.sizes, shares, coefficients):
    if size == 0:
      continue
    length = every if size == ALL else share
    part = slice(offset, offset + length)
    offset += length
    w, x = weight[part].astype(losses.dtype), losses[part]
    count = w.sum()
    if env.axis_name is not None:
      count = jax.lax.psum(count, env.axis_name)
    summed = jnp.where(w > 0, w * x, 0.0).sum()
    total = total + coefficient * summed / jnp.where(count > 0, count, 1.0)
  return total


def mask_updates(updates: PyTree, weight_mask: PyTree) -> PyTree:
  """Scales updates entry by entry; `weight_mask` may be a tree prefix."""
  return jax.tree.map(
    lambda mask, subtree: jax.tree.map(
      lambda u: jnp.where(mask != 0, u * jnp.asarray(mask, u.dtype), 0),
      subtree,
    ),
    weight_mask,
    updates,
  )


def mask_change(before: PyTree, after: PyTree, weight_mask: PyTree) -> PyTree:
  """Takes `after` where the mask is one, `before`, bit for bit, where zero."""

  def mix(mask, old, new):
    mask = jnp.asarray(mask)
    between = old + jnp.asarray(mask, old.dtype) * (new - old)
    return jnp.where(mask == 0, old, jnp.where(mask == 1, new, between))

  return jax.tree.map(
    lambda mask, old, new: jax.tree.map(lambda o, n: mix(mask, o, n), old, new),
    weight_mask,
    before,
    after,
  )


def all_finite(tree: PyTree) -> jax.Array:
  """Whether every float entry of a pytree is finite; bool []."""
  leaves = [
    jnp.isfinite(leaf).all()
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.stack(leaves).all() if leaves else jnp.array(True)


def _vary(tree: PyTree, env: Env) -> PyTree:
  """Marks replicated params as varying over the axis.

  `shard_map` would otherwise add up their gradient over devices by itself,
  before the explicit `psum`.
  """
  if env.axis_name is None:
    return tree

  def mark(leaf: jax.Array) -> jax.Array:
    try:
      return jax.lax.pcast(leaf, env.axis_name, to="varying")
    except ValueError:  # It varies already.
      return leaf

  return jax.tree.map(mark, tree)
