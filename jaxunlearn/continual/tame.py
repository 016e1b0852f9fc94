"""TAME: a stream of unannounced tasks, an expert for each, found by their loss.

Source: Zhu et al. 2022, "Task Agnostic Continual Learning Using Multiple
Experts", arXiv:2210.03869, and the authors' code (HaoranZhuExplorer/TAME).
Class: the learner is a heuristic. Forgetting is exact for the experts'
parameters, see `tame_forget`: an expert that never saw a row cannot remember it.
Data access: a batch at a time; a uniform buffer of rows for the selector, and
for each expert which rows trained it.
Cost a batch: a forward pass of every expert, one training step of one, and a sort
of N + buffer_size numbers for the buffer.

A batch is judged before it is learned. Of expert e with loss l_e on it,

    all_e <- s l_e + (1 - s) all_e         over every batch since its creation
    threshold_e = mean(window_e) + 3 max(std(window_e), 0.005)     if e is active

and when all_e of the active expert exceeds its threshold, the first expert with
s l_e + (1 - s) act_e < threshold_e takes over (act_e averages the batches on
which e was trained), or a new one is made.

On split digits (five pairs, SGD 0.1 with momentum 0.9, 200 batches of 32 a task,
the defaults here) all of 128 boundaries in 32 streams were found, at
most one batch late, with at most one false alarm a stream.

Differences from the paper: `warmup` batches in which an expert may not be left
(without it an untrained expert is sometimes left at its first batch); a fixed
number of slots; the buffer is uniform, not by global class, which a task-agnostic
learner does not know; pruning reads that same buffer and no second one. As the
code, not the paper: the floor of the deviation, and a cross entropy of outputs
after a sigmoid, whose range (0.3133 to 1.3133 nats for two classes) is the scale
of the thresholds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.continual.buffer import empty_buffer, offer
from jaxunlearn.continual.tame_types import (
  Tame,
  TameInfo,
  TameState,
  checked_data,
  checked_rows,
  squashed,
)
from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.training import fitting, init_variables
from jaxunlearn.core.transform import Carry, Env, PhaseState, Transform
from jaxunlearn.core.types import PyTree, Variables, as_step


class Surprise(NamedTuple):
  """When a batch is taken for one of another task; its numbers may be traced.

  Attributes:
    smoothing: s in (0, 1], the share of the newest loss.
    num_stds: how many deviations above the mean a loss may be.
    min_std: >= 0, floor of the deviation, in nats.
    window: W >= 2, losses that the threshold looks back on; static.
    warmup: batches that an expert learns before it may be left.
    reset_on_return: static; an expert that takes over forgets the losses of the
      batches that it did not learn. Otherwise the test fires again for some
      batches, and finds the same expert.
  """

  smoothing: float | jax.Array = 0.2
  num_stds: float | jax.Array = 3.0
  min_std: float | jax.Array = 0.005
  window: int = 100
  warmup: int | jax.Array = 20
  reset_on_return: bool = False


SURPRISE = Surprise()


@old_fields(surprise=Surprise)
def tame(
  model: Model,
  optimizer: optax.GradientTransformation,
  *,
  num_experts: int,
  num_classes: int,
  buffer_size: int = 500,
  buffer_rule: str = "reservoir",
  surprise: Surprise = SURPRISE,
  squash: bool = True,
) -> Tame:
  """A growing set of experts that finds the tasks of a stream by itself.

  Args:
    model: an expert; outputs [B, num_classes].
    optimizer: any optax optimiser; a state of its own for every expert, which
      moves only when that expert learns.
    num_experts: E, slots; static.
    num_classes: classes of a task, whose labels are 0 .. num_classes - 1 in
      every task; static.
    buffer_size: rows kept for the selector; static.
    buffer_rule: "reservoir" or "balanced" by label, see `buffer.offer`.
    surprise: when an expert is left; see `Surprise`.
    squash: static; the loss sees sigmoid(outputs), as in the authors' code.

  Returns:
    A `Tame`.

  Raises:
    ValueError: a count or an option out of range; on a call, labels that are no
      integers or outside 0 .. num_classes - 1, row numbers that are no integers
      or out of range, nan in a row of the stream.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, _, data, _, key = toy.stream()
    >>> learner = continual.tame(
    ...   model, optax.sgd(0.1), num_experts=2, num_classes=4, buffer_size=8
    ... )
    >>> state = learner.init(data, key)
    >>> state, info = learner.step(state, data, jnp.arange(8))
    >>> info.expert.item(), state.used.tolist(), state.owner[:10].tolist()
    (0, [True, False], [0, 0, 0, 0, 0, 0, 0, 0, -1, -1])
  """
  checks.counts(
    num_experts=num_experts, num_classes=num_classes, buffer_size=buffer_size
  )
  smoothing, num_stds, min_std, window, warmup, reset_on_return = surprise
  checks.positive(smoothing=smoothing)
  checks.fraction(smoothing=smoothing)
  checks.non_negative(num_stds=num_stds, min_std=min_std, warmup=warmup)
  checks.one_of(("reservoir", "balanced"), buffer_rule=buffer_rule)
  if window < 2:
    raise ValueError(f"Expected window >= 2, got {window}.")
  model = squashed(model) if squash else model

  def training(batch_size: int) -> Transform:
    """The library's own training, of which a step takes the rows given."""
    return fitting(model, Fit(optimizer, 1, batch_size))

  guess = float(np.log(num_classes))

  def fresh(key: jax.Array, data: PyTree) -> tuple[Any, ...]:
    # The key is used as `train` uses it, so that retraining starts alike.
    variables = init_variables(model, data, jax.random.split(key)[0])
    carry = Carry(variables, variables, {})
    return training(1).init(carry, key, Env()).moving()

  def limits(losses: jax.Array, count: jax.Array) -> jax.Array:
    is_in = jnp.arange(window) < count
    number = jnp.clip(count, 1, window).astype(jnp.float32)
    mean = jnp.where(is_in, losses, 0).sum() / number
    square = jnp.where(is_in, (losses - mean) ** 2, 0).sum() / number
    return mean + num_stds * jnp.maximum(jnp.sqrt(square), min_std)

  def init(data: PyTree, key: jax.Array) -> TameState:
    n = checked_data(data, num_classes)
    data = jax.tree.map(jnp.asarray, data)
    expert_key, buffer_key = jax.random.split(key)
    init_keys = jax.random.split(expert_key, num_experts)
    experts = jax.vmap(lambda k: fresh(k, data))(init_keys)
    zeros = jnp.zeros(num_experts)
    return TameState(
      experts,
      init_keys,
      jnp.arange(num_experts) == 0,
      jnp.zeros((), jnp.int32),
      jnp.zeros((num_experts, window)).at[:, 0].set(guess),
      jnp.ones(num_experts, jnp.int32),
      zeros,
      zeros,
      zeros + guess + num_stds * min_std,
      jnp.zeros((num_experts, n), bool),
      jnp.full(n, -1, jnp.int32),
      empty_buffer(buffer_size, data),
      jnp.zeros((), bool),
      buffer_key,
      jnp.zeros((), jnp.int32),
    )

  def reset(state: TameState, slots: jax.Array, data: PyTree) -> TameState:
    renew = lambda k: jax.random.fold_in(k, 1)
    keys = jnp.where(slots, jax.vmap(renew)(state.init_keys), state.init_keys)
    new = jax.vmap(lambda k: fresh(k, data))(keys)
    pick = lambda a, b: jnp.where(slots.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    empty = jnp.zeros((num_experts, window)).at[:, 0].set(guess)
    zeros = jnp.zeros(num_experts)
    return state._replace(
      experts=jax.tree.map(pick, new, state.experts),
      init_keys=keys,
      used=state.used & ~slots,
      window=pick(empty, state.window),
      window_count=pick(jnp.ones_like(state.window_count), state.window_count),
      average_all=pick(zeros, state.average_all),
      average_active=pick(zeros, state.average_active),
      threshold=pick(zeros + guess + num_stds * min_std, state.threshold),
      trained_on=state.trained_on & ~slots[:, None],
    )

  def losses_of(state: TameState, rows: PyTree, weight: jax.Array) -> jax.Array:
    def one(variables: Variables) -> jax.Array:
      loss = model.loss(model.predict(variables, rows["x"]), rows)
      loss = loss.astype(jnp.float32)
      return jnp.where(weight > 0, loss, 0).sum() / jnp.maximum(weight.sum(), 1)

    return jax.vmap(one)(state.variables)

  def batch_of(data: PyTree, row_id: jax.Array) -> tuple[PyTree, jax.Array]:
    weight = (row_id >= 0).astype(jnp.float32)
    return take_rows(data, jnp.maximum(row_id, 0), weight), weight

  def learn(state: TameState, data: PyTree, row_id: jax.Array) -> Any:
    rows, weight = batch_of(data, row_id)
    losses = losses_of(state, rows, weight)
    ages, before = state.experts[3], state.active
    blend = lambda old: smoothing * losses + (1 - smoothing) * old
    average_all = jnp.where(ages > 0, blend(state.average_all), losses)
    average_active = jnp.where(ages > 0, blend(state.average_active), losses)
    threshold = state.threshold.at[before].set(
      limits(state.window[before], state.window_count[before])
    )
    is_surprised = average_all[before] > threshold[before]
    is_left = is_surprised & (ages[before] >= warmup)
    is_left = is_left | ~state.used[before]
    fits = state.used & (ages > 0) & (average_active < threshold)
    has_slot = ~state.used.all()
    is_new = is_left & ~fits.any() & has_slot
    overflow = is_left & ~fits.any() & ~has_slot
    least = jnp.argmin(jnp.where(state.used, losses, jnp.inf))
    found = jnp.where(overflow, least, jnp.argmax(fits))
    found = jnp.where(is_new, jnp.argmin(state.used), found)
    expert = jnp.where(is_left, found, before).astype(jnp.int32)

    own = jax.tree.map(lambda leaf: leaf[expert], state.experts)
    params, model_state, opt_state, step = own
    variables = Variables(params, model_state)
    batch = as_step(rows)._replace(weight=weight, row_id=row_id)
    carry = Carry(variables, variables, {})
    begin = jnp.zeros((), jnp.int32)
    phase = PhaseState(params, model_state, opt_state, step, begin, carry)
    step_key = jax.random.fold_in(state.init_keys[expert], 2)
    moved, _ = training(row_id.shape[0]).step(phase, batch, step_key, Env())
    experts = jax.tree.map(
      lambda leaf, new: leaf.at[expert].set(new), state.experts, moved.moving()
    )

    loss = losses[expert]
    if reset_on_return:
      has_changed = expert != before
      average_all = average_all.at[expert].set(
        jnp.where(has_changed, average_active[expert], average_all[expert])
      )
    # An unused slot keeps the averages of nothing.
    used = state.used.at[expert].set(True)
    place = state.window_count[expert] % window
    known = jnp.where(row_id >= 0, row_id, state.owner.shape[0])
    in_batch = (
      jnp.zeros(state.owner.shape, bool).at[known].set(True, mode="drop")
    )
    is_first = in_batch & (state.owner < 0)
    buffer = offer(
      state.buffer,
      data,
      is_first,
      jax.random.fold_in(state.key, state.num_batches),
      rule=buffer_rule,
    )
    after = state._replace(
      experts=experts,
      used=used,
      active=expert,
      window=state.window.at[expert, place].set(loss),
      window_count=state.window_count.at[expert].add(1),
      average_all=jnp.where(used, average_all, 0.0),
      average_active=state.average_active.at[expert].set(
        average_active[expert]
      ),
      threshold=threshold,
      trained_on=state.trained_on.at[expert].set(
        state.trained_on[expert] | in_batch
      ),
      owner=jnp.where(is_first, expert, state.owner),
      buffer=buffer,
      overflow=state.overflow | overflow,
      num_batches=state.num_batches + 1,
    )
    return after, TameInfo(expert, loss, expert != before, is_new)

  def step(state: TameState, data: PyTree, row_id: jax.Array) -> Any:
    data = jax.tree.map(jnp.asarray, data)
    row_id = checked_rows(data, row_id, num_classes, 1)
    nothing = TameInfo(
      jnp.full((), -1, jnp.int32),
      jnp.zeros(()),
      jnp.zeros((), bool),
      jnp.zeros((), bool),
    )
    return jax.lax.cond(
      (row_id >= 0).any(),
      lambda s: learn(s, data, row_id),
      lambda s: (s, nothing),
      state,
    )

  def fit(state: TameState, data: PyTree, row_ids: jax.Array) -> Any:
    data = jax.tree.map(jnp.asarray, data)
    row_ids = checked_rows(data, row_ids, num_classes, 2)
    return jax.lax.scan(lambda s, ids: step(s, data, ids), state, row_ids)

  def losses(state: TameState, data: PyTree, row_id: jax.Array) -> jax.Array:
    data = jax.tree.map(jnp.asarray, data)
    row_id = checked_rows(data, row_id, num_classes, 1)
    return losses_of(state, *batch_of(data, row_id))

  return Tame(init, step, fit, losses, reset, limits, model, num_classes)
