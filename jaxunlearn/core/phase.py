"""The phase: one stretch of optimisation as a primitive transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, sampling
from jaxunlearn.core.types import (
  ALL,
  Carry,
  Draw,
  Env,
  Fit,
  Losses,
  PhaseInfo,
  PhaseState,
  PyTree,
  Request,
  Slot,
  Step,
  Transform,
  Variables,
  as_task,
)

Objective = Callable[[Any, Step, jax.Array], "Losses | jax.Array"]
_KINDS = ("forget", "retain", "mixed")
PARAMS = ""  # The path of what a phase trains by default: all params.


def supervised(task: Any, *, train: bool = False) -> Callable[..., Losses]:
  """The task's own loss on the drawn rows, as an objective.

  Args:
    task: a `Task`, or a model that has one.
    train: static; True: dropout is active and BatchNorm's statistics move.

  Returns:
    `(variables, step, key) -> Losses`.
  """
  loss = as_task(task).loss
  return lambda variables, step, key: loss(variables, step, key, train=train)


def phase(
  objective: Objective,
  fit: Fit | optax.GradientTransformation,
  num_steps: int | None = None,
  *,
  draw: Draw | None = None,
  on: str | Slot = PARAMS,
  forget_weight: float | jax.Array = 1.0,
  retain_weight: float | jax.Array = 1.0,
  name: str = "phase",
) -> Transform:
  """Minimises an objective for a number of steps.

  Each step draws rows, reduces the objective's per-example losses to

      forget_weight * mean(forget) + retain_weight * mean(retain) + mean(mixed)

  (means over the rows of each kind: the sum of their values over the sum of
  their weights, see `Losses`; a kind that is not drawn adds nothing) and makes
  one update. All steps are one `lax.scan`.

  Args:
    objective: `(variables, step, key) -> losses`, an array [B] or `Losses`; of
      any length if nothing is drawn.
    fit: a `Fit`, whose batch size is not read since `draw` says it; or an optax
      optimiser, followed by the number of steps. An optimiser that takes extra
      arguments finds `value`, `grad`, `value_fn` and the step's rows as `batch`.
    num_steps: static, >= 0; beside an optimiser.
    draw: what a step draws; nothing by default.
    on: what is optimised. `PARAMS`; a path below the params, "generator" or
      "encoder/layer_0"; or a `Slot` (inputs, a prompt, another network): the
      objective's first argument is then what it holds. A slot that holds
      `Variables` brings its own model state.
    forget_weight: coefficient of the forget rows; negative ascends. May be
      traced.
    retain_weight: coefficient of the retain rows. May be traced.
    name: the key of the phase's info in a chain.

  Returns:
    A `Transform` whose info is a `PhaseInfo`. With an empty pool of rows the
    gradient is zero; steps of weight decay still act.

  Raises:
    ValueError: num_steps < 0, a draw size below -1, a draw that the
      microbatches do not divide, no optimiser.
  """
  if not isinstance(fit, Fit):
    checks.optimizer(fit)
    checks.count(0, num_steps=num_steps)
    fit = Fit(fit, num_steps or 0)
  elif num_steps is not None:
    raise ValueError("Expected num_steps beside an optimiser only, got a Fit.")
  draw = Draw() if draw is None else draw
  num_steps, parts = fit.num_steps, fit.microbatches
  optimizer = optax.with_extra_args_support(fit.optimizer)
  _check_draw(draw, parts)
  share = lambda n: n if n == ALL else n // parts
  part = draw._replace(  # What one microbatch holds.
    forget=share(draw.forget),
    retain=share(draw.retain),
    mixed=share(draw.mixed),
  )
  if fit.remat:
    objective = jax.checkpoint(objective)
  scale = (forget_weight, retain_weight, 1.0)

  def init(carry: Carry, key: jax.Array, env: Env) -> PhaseState:
    del key, env
    trained, model_state = _read(carry, on)
    trained = jax.tree.map(_widened, trained)
    zero = jnp.zeros((), jnp.int32)
    return PhaseState(
      trained, model_state, optimizer.init(trained), zero, zero, carry
    )

  def advance(
    state: PhaseState, batch: Step, key: jax.Array, env: Env
  ) -> tuple[PhaseState, jax.Array]:
    carry = state.carry
    step_key = jax.random.fold_in(_step_key(key), state.step)

    def losses_of(trained: PyTree, model_state: PyTree, rows: Step) -> Losses:
      now = _write(carry, on, trained, model_state)
      first = now[on] if isinstance(on, Slot) else now.variables
      seen = rows._replace(
        index=state.step,
        original=carry.original,
        variables=now.variables,
        slots=now.slots,
      )
      out = objective(first, seen, step_key)
      return out if isinstance(out, Losses) else Losses(out)

    def total(
      trained: PyTree, model_state: PyTree, rows: Step, counts: Any = None
    ) -> tuple[jax.Array, PyTree]:
      out = losses_of(trained, model_state, rows)
      sums, found = _sums(out, rows.weight, part, env)
      counts = _over_devices(found, env) if counts is None else counts
      value = sum(
        c * s / jnp.where(n > 0, n, 1.0) for c, s, n in zip(scale, sums, counts)
      )
      if out.model_state is not None:
        model_state = out.model_state
      return jnp.asarray(value), model_state

    grad_fn = jax.value_and_grad(total, has_aux=True)
    trained = _vary(state.trained, env)
    if parts == 1:
      (loss, model_state), grads = grad_fn(trained, state.model_state, batch)
    else:
      split = _split(batch, draw, parts, env)

      def count(fields: tuple[Any, ...]) -> list[jax.Array]:
        rows = Step(*fields)
        out = losses_of(trained, state.model_state, rows)
        return _sums(out, rows.weight, part, env)[1]

      # Of this pass only the weights are used; the compiler drops the rest.
      counts = [n.sum() for n in jax.lax.map(count, split)]
      counts = _over_devices(counts, env)

      def add(so_far: Any, fields: tuple[Any, ...]) -> tuple[Any, None]:
        loss, grads, model_state = so_far
        (more, model_state), new = grad_fn(
          trained, model_state, Step(*fields), counts
        )
        return (loss + more, optax.tree.add(grads, new), model_state), None

      zeros = jax.tree.map(jnp.zeros_like, trained)
      start = (jnp.zeros_like(counts[0]), zeros, state.model_state)
      (loss, grads, model_state), _ = jax.lax.scan(add, start, split)
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

    # Line searches pass on `batch`, which they are given too.
    def value_fn(params: PyTree, batch: Step = batch) -> jax.Array:
      value, _ = total(params, state.model_state, batch)
      return (
        value if env.axis_name is None else jax.lax.psum(value, env.axis_name)
      )

    updates, opt_state = optimizer.update(
      grads,
      state.opt_state,
      state.trained,
      batch=batch,
      value=loss,
      grad=grads,
      value_fn=value_fn,
    )
    if isinstance(on, str):
      for weight_mask in env.weight_masks:
        updates = mask_updates(updates, _below(weight_mask, on))
    trained = optax.apply_updates(state.trained, updates)
    moving = (trained, model_state, opt_state, state.step + 1)
    return state.moved_to(moving), loss

  def step(
    state: PhaseState, batch: Step, key: jax.Array, env: Env
  ) -> tuple[PhaseState, jax.Array]:
    # A host may have padded its batch; drawn rows are blank already.
    rows = sampling.blank_rows(batch.rows, batch.weight)
    return advance(state, batch._replace(rows=rows), key, env)

  def finish(state: PhaseState) -> Carry:
    before, _ = _read(state.carry, on)
    trained = jax.tree.map(_narrowed, state.trained, before)
    return _write(state.carry, on, trained, state.model_state)

  def info(
    end: PhaseState, losses: jax.Array, forget_count: Any, retain_count: Any
  ) -> PhaseInfo:
    before, _ = _read(end.carry, on)
    after = jax.tree.map(_narrowed, end.trained, before)
    finite = all_finite((losses, end.trained))
    moved = _share_moved(before, after)
    return PhaseInfo(losses, finite, forget_count, retain_count, moved)

  def walk(state, data, request, key, env, plan=None):
    data, request = pool_of(state.carry, data, request, draw)
    if plan is None:
      plan = sampling.make_plan(data, request, draw, sample_key(key), env)
    steps = state.step + jnp.arange(num_steps, dtype=jnp.int32)
    drawn = sampling.draw_ahead(plan, draw, steps, env)

    # The constant part stays outside the scan's carry: under vmap it is then
    # shared by all lanes.
    def body(moving, ahead):
      index, rows = ahead
      batch = sampling.draw_batch(data, plan, draw, index, env, rows)
      now, loss = advance(state.moved_to(moving), batch, key, env)
      return now.moving(), loss

    moving, losses = jax.lax.scan(body, state.moving(), (steps, drawn))
    end = state.moved_to(moving)
    return end, info(end, losses, plan.forget_count, plan.retain_count)

  def run(carry, data, request, key, env):
    end, found = walk(init(carry, key, env), data, request, key, env)
    return finish(end), found

  this = Transform(
    name,
    run,
    num_steps,
    draw,
    lambda key: [(this, key)],
    is_phase=True,
    init=init,
    step=step,
    walk=walk,
    finish=finish,
    info=info,
  )
  return this


def remember(
  link: Transform, slot: Slot, count: Slot | None = None
) -> Transform:
  """A phase that goes on with the optimiser's state that a slot holds.

  Phases that remember in the same slot share one optimiser.

  Args:
    link: a phase.
    slot: where the state is found and left; empty at first.
    count: None, or the slot of the steps done so far, from which the phase then
      goes on drawing.

  Raises:
    ValueError: a transform that is no phase.
  """
  if not link.is_phase:
    raise ValueError(f"Expected a phase to remember, got {link.name!r}.")

  def init(carry: Carry, key: jax.Array, env: Env) -> PhaseState:
    state = link.init(carry, key, env)
    if slot in carry.slots:
      state = state._replace(opt_state=carry[slot])
    if count is not None and count in carry.slots:
      state = state._replace(step=carry[count], begin=carry[count])
    return state

  def finish(state: PhaseState) -> Carry:
    carry = link.finish(state).put(slot, state.opt_state)
    return carry if count is None else carry.put(count, state.step)

  def run(carry, data, request, key, env):
    end, info = link.walk(init(carry, key, env), data, request, key, env)
    return finish(end), info

  this = dataclasses.replace(
    link,
    run=run,
    init=init,
    finish=finish,
    memory=slot,
    count=count,
    expand=lambda key: [(this, key)],
  )
  return this


def pool_of(
  carry: Carry, data: PyTree, request: Request, draw: Draw
) -> tuple[PyTree, Request]:
  """The rows that a phase draws from, and the request over them."""
  if draw.source is None:
    return data, request
  rows = carry[draw.source]
  everything = jnp.ones(checks.num_rows(rows, draw.source.label), bool)
  return rows, Request(~everything, everything, request.concept)


def sample_key(key: jax.Array) -> jax.Array:
  """The key of a phase's stream of rows; hosts that draw rows use it too."""
  return jax.random.fold_in(key, 0)


def _step_key(key: jax.Array) -> jax.Array:
  return jax.random.fold_in(key, 1)


def _check_draw(draw: Draw, parts: int) -> None:
  for kind, size in zip(_KINDS, draw.sizes):
    if size < ALL:
      raise ValueError(f"Expected draw.{kind} >= -1, got {size}.")
    if parts > 1 and (size == ALL or size % parts):
      raise ValueError(
        f"Expected a number of {kind} rows that {parts} microbatches divide, "
        f"got {size}."
      )
  if parts > 1 and draw.sizes == (0, 0, 0):
    raise ValueError(f"Expected a draw for {parts} microbatches, got none.")


def _share_moved(before: PyTree, after: PyTree) -> jax.Array:
  changed = jax.tree.map(lambda a, b: (a != b).sum(), after, before)
  size = sum(leaf.size for leaf in jax.tree.leaves(before))
  total = sum(jax.tree.leaves(changed), start=jnp.zeros((), jnp.int32))
  return total / jnp.float32(max(size, 1))


def _widened(leaf: jax.Array) -> jax.Array:
  """Half precision as float32: steps below its last place must add up."""
  is_half = leaf.dtype in (jnp.bfloat16, jnp.float16)
  return leaf.astype(jnp.float32) if is_half else leaf


def _narrowed(leaf: jax.Array, like: jax.Array) -> jax.Array:
  return leaf.astype(like.dtype)


def _steps_of(path: str) -> list[str]:
  return [name for name in path.split("/") if name]


def _below(tree: PyTree, path: str) -> PyTree:
  """The subtree at a path; of a tree that ends above it, that end."""
  for name in _steps_of(path):
    if not hasattr(tree, "keys"):
      return tree
    tree = tree[name]
  return tree


def _with(tree: PyTree, path: list[str], value: PyTree) -> PyTree:
  if not path:
    return value
  return {**tree, path[0]: _with(tree[path[0]], path[1:], value)}


def _read(carry: Carry, on: str | Slot) -> tuple[PyTree, PyTree]:
  """What a phase trains, and the model state that goes with it."""
  if not isinstance(on, Slot):
    variables = carry.variables
    if _steps_of(on):
      try:
        return _below(variables.params, on), variables.model_state
      except KeyError as error:
        raise ValueError(
          f"Expected params below {on!r}, got {sorted(variables.params)}."
        ) from error
    return variables.params, variables.model_state
  value = carry[on]
  if isinstance(value, Variables):
    return value.params, value.model_state
  return value, {}


def _write(
  carry: Carry, on: str | Slot, trained: PyTree, model_state: PyTree
) -> Carry:
  """The carry with it trained, in the dtypes that it had."""
  before, _ = _read(carry, on)
  trained = jax.tree.map(_narrowed, trained, before)
  if not isinstance(on, Slot):
    params = _with(carry.variables.params, _steps_of(on), trained)
    variables = carry.variables._replace(params=params, model_state=model_state)
    return carry._replace(variables=variables)
  value = carry[on]
  if isinstance(value, Variables):
    return carry.put(
      on, value._replace(params=trained, model_state=model_state)
    )
  return carry.put(on, trained)


def _over_devices(counts: list[jax.Array], env: Env) -> list[jax.Array]:
  if env.axis_name is None:
    return counts
  return jax.lax.psum(counts, env.axis_name)


def _bounds(draw: Draw, length: int, env: Env) -> list[tuple[int, int]]:
  """Where each kind of rows begins and ends in this device's batch."""
  devices = 1 if env.axis_name is None else jax.lax.axis_size(env.axis_name)
  # A device holds its share of each mini-batch, and every row of an `ALL`.
  shares = [0 if size == ALL else size // devices for size in draw.sizes]
  rest = length - sum(shares)
  if rest and ALL not in draw.sizes:
    raise ValueError(
      f"Expected a batch of the {sum(shares)} rows that a step draws, got "
      f"{length}."
    )
  every = rest // max(draw.sizes.count(ALL), 1)
  ends, end = [], 0
  for size, share in zip(draw.sizes, shares):
    start, end = end, end + (every if size == ALL else share)
    ends.append((start, end))
  return ends


def _sums(
  out: Losses, weight: jax.Array, draw: Draw, env: Env
) -> tuple[list[jax.Array], list[jax.Array]]:
  """This device's sums of values, and of weights, over each kind of rows."""
  losses = out.value
  losses = losses.astype(jnp.promote_types(jnp.float32, losses.dtype))
  each = jnp.ones_like(losses) if out.weight is None else out.weight
  each = each.astype(losses.dtype)
  nothing = jnp.zeros((), losses.dtype)
  if draw.sizes == (0, 0, 0):
    return [nothing, nothing, losses.sum()], [nothing, nothing, each.sum()]
  if losses.shape != weight.shape:
    raise ValueError(
      "Expected the objective to return one loss for each of the "
      f"{weight.size} drawn rows, got shape {losses.shape}."
    )
  w = weight.astype(losses.dtype) * each
  sums = jnp.where(w > 0, weight.astype(losses.dtype) * losses, 0.0)
  bounds = _bounds(draw, weight.size, env)
  return [sums[a:b].sum() for a, b in bounds], [w[a:b].sum() for a, b in bounds]


def _split(batch: Step, draw: Draw, parts: int, env: Env) -> tuple[PyTree, ...]:
  """The batch's fields in `parts` parts with the same share of each kind."""

  def split(leaf: jax.Array) -> jax.Array:
    pieces = [
      leaf[a:b].reshape(parts, (b - a) // parts, *leaf.shape[1:])
      for a, b in _bounds(draw, leaf.shape[0], env)
    ]
    return jnp.concatenate(pieces, axis=1)

  # Rows and what belongs to each; the rest is the same for all parts.
  parted = [batch.rows, batch.weight, batch.forget, batch.row_id]
  return jax.tree.map(split, (*parted, batch.place, batch.epoch))


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
