"""The phase: one stretch of optimisation as a primitive transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import augment, checks, sampling
from jaxunlearn.core.keys import derive
from jaxunlearn.core.reduction import (
  add_up,
  all_finite,
  averaged,
  bounds_of,
  mask_updates,
  over_devices,
  share_moved,
  split_rows,
  sums_of,
  term_sums,
  vary,
)
from jaxunlearn.core.sharding import placed
from jaxunlearn.core.targets import (
  below,
  full_precision,
  narrowed,
  read_target,
  widened,
  with_full_precision,
  write_target,
)
from jaxunlearn.core.tasks import Fit, as_fit, as_task, with_extra_arguments
from jaxunlearn.core.transform import (
  Carry,
  Env,
  PhaseInfo,
  PhaseState,
  Transform,
)
from jaxunlearn.core.types import ALL, Draw, Losses, PyTree, Request, Slot, Step

Objective = Callable[[Any, Step, jax.Array], "Losses | jax.Array"]

PARAMS = ""  # The path of what a phase trains by default: all params.


def supervised(task: Any, *, train: bool = False) -> Callable[..., Losses]:
  """The task's own loss on the drawn rows, as an objective.

  Args:
    task: a `Task`, or a model that has one.
    train: static; True: dropout is active and BatchNorm's statistics move.

  Returns:
    `(variables, step, key) -> Losses`.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> descend = ju.phase(
    ...   ju.supervised(problem.model), optax.sgd(0.1), 2,
    ...   draw=ju.Draw(retain=16))
    >>> made, info = jax.jit(descend)(*problem.arguments)
    >>> info.loss.shape, toy.accuracies(problem, made)
    ((2,), (1.0, 1.0))
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

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> def objective(variables, step, key):
    ...   return 0.5 * (variables.params - step.rows["x"]) ** 2
    >>> ascend = ju.phase(
    ...   objective, optax.sgd(0.1), 3,
    ...   draw=ju.Draw(forget=ju.ALL), forget_weight=-1.0)
    >>> data, forget = {"x": jnp.array([1.0, 5.0])}, jnp.array([True, False])
    >>> made, info = ascend(jnp.float32(2), data, forget, jax.random.key(0))
    >>> round(float(made), 3)  # Its distance to 1 grows threefold by 1.1.
    2.331
    >>> info.loss.shape
    (3,)
  """
  checks.functions(objective=objective)
  if not isinstance(fit, Fit):
    checks.optimizer(fit)
    checks.count(0, num_steps=num_steps)
    fit = Fit(fit, num_steps or 0)
  elif num_steps is not None:
    raise ValueError("Expected num_steps beside an optimiser only, got a Fit.")
  fit = as_fit(fit, {})
  draw = Draw() if draw is None else draw
  num_steps, parts = fit.num_steps, fit.microbatches
  optimizer = with_extra_arguments(fit.optimizer)
  _check_draw(draw, parts)
  if fit.remat:
    objective = jax.checkpoint(objective)
  scale = (forget_weight, retain_weight, 1.0)

  def init(carry: Carry, key: jax.Array, env: Env) -> PhaseState:
    del key, env
    trained, model_state = read_target(carry, on)
    trained = placed(jax.tree.map(widened, trained))
    moments = placed(optimizer.init(trained))
    zero = jnp.zeros((), jnp.int32)
    return PhaseState(trained, model_state, moments, zero, zero, carry)

  def advance(
    state: PhaseState, batch: Step, key: jax.Array, env: Env
  ) -> tuple[PhaseState, jax.Array]:
    carry = state.carry
    step_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
    batch = augment.applied(fit.augment_rows, batch, step_key)

    def sums_at(
      trained: PyTree, model_state: PyTree, rows: Step, part: Draw
    ) -> tuple[list[jax.Array], list[jax.Array], PyTree]:
      now = write_target(carry, on, trained, model_state)
      first = now[on] if isinstance(on, Slot) else now.variables
      bounds = bounds_of(part, rows.weight.size, env)
      forget, retain, mixed = (end - start for start, end in bounds)
      seen = rows._replace(
        index=state.step,
        original=carry.original,
        variables=now.variables,
        slots=now.slots,
        sizes=(forget, retain, mixed),
      )
      out = objective(first, seen, step_key)
      out = out if isinstance(out, Losses) else Losses(out)
      sums, counts = sums_of(out, rows.weight, part, env)
      more = term_sums(env.terms, first, seen, step_key)
      return sums + more[0], counts + more[1], out.model_state

    def total(
      trained: PyTree,
      model_state: PyTree,
      rows: Step,
      part: Draw,
      counts: Any = None,
    ) -> tuple[jax.Array, PyTree]:
      sums, found, moved = sums_at(trained, model_state, rows, part)
      counts = over_devices(found, env) if counts is None else counts
      each = (*scale, *(term.weight for term in env.terms))
      value = sum(
        c * s / jnp.where(n > 0, n, 1.0) for c, s, n in zip(each, sums, counts)
      )
      return jnp.asarray(value), model_state if moved is None else moved

    def loss_and_gradient(
      trained: PyTree, batch: Step, draw: Draw
    ) -> tuple[jax.Array, PyTree, PyTree]:
      """Over all devices; and the model state that it leaves."""
      part = _share(draw, parts)
      grad_fn = jax.value_and_grad(total, has_aux=True)
      trained = vary(trained, env)
      if parts == 1:
        (loss, model_state), grads = grad_fn(
          trained, state.model_state, batch, part
        )
      else:
        split = split_rows(batch, draw, parts, env)

        def count(fields: tuple[Any, ...]) -> list[jax.Array]:
          rows = Step(*fields)
          return sums_at(trained, state.model_state, rows, part)[1]

        (loss, model_state), grads = add_up(
          lambda model_state, fields, counts: grad_fn(
            trained, model_state, Step(*fields), part, counts
          ),
          count,
          (trained, state.model_state),
          split,
          env,
        )
      return averaged((loss, placed(grads), model_state), env)

    if env.forget_gradient is None or not draw.forget:
      loss, grads, model_state = loss_and_gradient(state.trained, batch, draw)
    else:
      size = batch.weight.size
      end = bounds_of(draw, size, env)[0][1]
      alone, rest = draw._replace(retain=0, mixed=0), draw._replace(forget=0)
      first, others = batch.cut(0, end), batch.cut(end, size)
      loss, grads = env.forget_gradient(
        lambda p: loss_and_gradient(p, first, alone)[:2],
        state.trained,
        derive(step_key, "forget gradient"),
      )
      model_state = state.model_state
      if size > end:
        more, added, model_state = loss_and_gradient(
          state.trained, others, rest
        )
        loss, grads = loss + more, optax.tree.add(grads, added)

    # Line searches pass on `batch`, which they are given too.
    def value_fn(params: PyTree, batch: Step = batch) -> jax.Array:
      value, _ = total(params, state.model_state, batch, draw)
      return averaged((value, {}, {}), env)[0]

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
        updates = mask_updates(updates, below(weight_mask, on))
    trained = placed(optax.apply_updates(state.trained, updates))
    moving = (trained, model_state, placed(opt_state), state.step + 1)
    return state.moved_to(moving), loss

  def step(
    state: PhaseState, batch: Step, key: jax.Array, env: Env
  ) -> tuple[PhaseState, jax.Array]:
    # A host may have padded its batch; drawn rows are blank already.
    rows = sampling.blank_rows(batch.rows, batch.weight)
    return advance(state, batch._replace(rows=rows), key, env)

  def finish(state: PhaseState) -> Carry:
    before, _ = read_target(state.carry, on)
    trained = jax.tree.map(narrowed, state.trained, before)
    return write_target(state.carry, on, trained, state.model_state)

  def info(
    end: PhaseState, losses: jax.Array, forget_count: Any, retain_count: Any
  ) -> PhaseInfo:
    before, _ = read_target(end.carry, on)
    after = jax.tree.map(narrowed, end.trained, before)
    finite = all_finite((losses, end.trained))
    moved = share_moved(before, after)
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
    on=on,
    init=init,
    step=step,
    walk=walk,
    finish=finish,
    info=info,
  )
  return this


def remember(
  link: Transform,
  slot: Slot,
  count: Slot | None = None,
  wide: Slot[list[jax.Array]] | None = None,
) -> Transform:
  """A phase that goes on with the optimiser's state that a slot holds.

  Phases that remember in the same slot share one optimiser.

  Args:
    link: a phase.
    slot: where the state is found and left; empty at first.
    count: None, or the slot of the steps done so far, from which the phase then
      goes on drawing.
    wide: None, or the slot of the float32 copies of half-precision weights, on
      which small steps add up. What others have moved since is taken as it is.

  Raises:
    ValueError: a transform that is no phase.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> momentum = ju.Slot("momentum")
    >>> part = ju.phase(
    ...   lambda v, step, key: v.params[None], optax.sgd(1.0, momentum=0.5), 1)
    >>> call = jnp.float32(0), None, ju.Request(), jax.random.key(0)
    >>> float(ju.chain(part, part)(*call)[0])
    -2.0
    >>> going_on = ju.core.remember(part, momentum)
    >>> float(ju.chain(going_on, going_on)(*call)[0])  # 1, then 1 + 0.5.
    -2.5
  """
  if not link.is_phase:
    raise ValueError(f"Expected a phase to remember, got {link.name!r}.")

  def init(carry: Carry, key: jax.Array, env: Env) -> PhaseState:
    state = link.init(carry, key, env)
    if slot in carry.slots:
      state = state._replace(opt_state=carry[slot])
    if count is not None and count in carry.slots:
      state = state._replace(step=carry[count], begin=carry[count])
    if wide is not None and wide in carry.slots:
      before, _ = read_target(carry, link.on)
      trained = with_full_precision(state.trained, before, carry[wide])
      state = state._replace(trained=trained)
    return state

  def finish(state: PhaseState) -> Carry:
    carry = link.finish(state).put(slot, state.opt_state)
    if wide is not None:
      before, _ = read_target(carry, link.on)
      carry = carry.put(wide, full_precision(state.trained, before))
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


def _share(draw: Draw, parts: int) -> Draw:
  """What one microbatch holds."""
  share = lambda n: n if n == ALL else n // parts
  forget, retain, mixed = map(share, draw.sizes)
  return draw._replace(forget=forget, retain=retain, mixed=mixed)


def _check_draw(draw: Draw, parts: int) -> None:
  for kind, size in zip(("forget", "retain", "mixed"), draw.sizes):
    checks.count(ALL, **{f"draw.{kind}": size})
    if parts > 1 and (size == ALL or size % parts):
      raise ValueError(
        f"Expected a number of {kind} rows that {parts} microbatches divide, "
        f"got {size}."
      )
  if parts > 1 and draw.sizes == (0, 0, 0):
    raise ValueError(f"Expected a draw for {parts} microbatches, got none.")
