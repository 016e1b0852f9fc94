"""Forgetting for TAME: drop an expert, or retrain those that saw the rows.

Source: the learner is arXiv:2210.03869 (see `tame`), which does not unlearn. This
is the isolation argument of SISA with shards that were found, not cut: what one
expert learned goes with it, and the others keep their bits.
Class: exact for the experts' parameters. What remains of a forgotten row: the
running losses and thresholds of experts that never learned it, which saw its
loss go by, and when experts were made. A selector has to be trained anew.
Cost: nothing to drop an expert; one training under a mask for each expert that
learned a forgotten row, nothing for the others (all E under vmap).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.continual.buffer import purge
from jaxunlearn.continual.tame_types import Tame, TameState
from jaxunlearn.core import checks
from jaxunlearn.core.training import train
from jaxunlearn.core.types import PyTree


class TameForgetInfo(NamedTuple):
  """What a request did.

  Attributes:
    dropped: bool [E], experts that are gone.
    retrained: bool [E], experts that were trained anew.
    also_learned: bool [N], forgotten rows that an expert which stays as it is
      was trained on as well: the batches at a task's end or start that another
      expert took. Ask for them by `tame_forget_examples`.
  """

  dropped: jax.Array
  retrained: jax.Array
  also_learned: jax.Array


def tame_forget_task(
  learner: Tame, state: TameState, data: PyTree, expert: int | jax.Array
) -> tuple[TameState, TameForgetInfo]:
  """Forgets a task by dropping its expert; all others keep their bits.

  Args:
    learner: see `tame`.
    state: of the learner.
    data: the rows of the stream, {"x": [N, ...], "label": int [N]}; of the inputs
      only the shape is used, for the fresh params that take the slot.
    expert: its number; may be traced, where a slot that is not used changes
      nothing.

  Returns:
    The state, and what was done. The rows that the expert was the first to
    learn are gone from the buffer and count as never seen.

  Raises:
    ValueError: outside jit, an expert that is not used or does not exist.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, _, data, _, key = toy.stream()
    >>> learner = continual.tame(
    ...   model, optax.sgd(0.1), num_experts=2, num_classes=4, buffer_size=8
    ... )
    >>> state = learner.init(data, key)
    >>> state, _ = learner.step(state, data, jnp.arange(8))
    >>> state, info = continual.tame_forget_task(learner, state, data, expert=0)
    >>> info.dropped.tolist(), int(state.buffer.valid.sum())
    ([True, False], 0)
  """
  slots = jnp.arange(state.used.shape[0]) == expert
  known = checks.is_concrete(expert) and checks.is_concrete(state.used)
  if known and not bool((slots & state.used).any()):
    found = jnp.flatnonzero(state.used).tolist()
    raise ValueError(
      f"Expected an expert in use, one of {found}, got {expert}."
    )
  slots = slots & state.used
  rows = (state.owner == expert) & slots.any()
  state = learner.reset(state, slots, data)
  state = state._replace(
    owner=jnp.where(rows, -1, state.owner), buffer=purge(state.buffer, rows)
  )
  also = rows & state.trained_on.any(axis=0)
  return state, TameForgetInfo(slots, jnp.zeros_like(slots), also)


def tame_forget_examples(
  learner: Tame,
  state: TameState,
  data: PyTree,
  forget_mask: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
) -> tuple[TameState, TameForgetInfo]:
  """Forgets rows: experts that learned one are retrained on what they keep.

  They start from the initial params that they had in the stream. An expert of
  which no row is left is dropped. Its window of losses is that of the
  retraining's last steps.

  Args:
    learner: see `tame`.
    state: of the learner.
    data: the rows of the stream; forgotten ones are not read.
    forget_mask: bool [N]; rows that no expert learned change nothing.
    optimizer: of the retraining, see `train`; the learner's own optimiser has to
      have states of the same structure, since it goes on with a fresh one.
    num_steps: of the retraining; static.
    batch_size: of the retraining; static.

  Returns:
    The state, and what was done; `also_learned` is False everywhere.

  Raises:
    ValueError: a mask that is not bool [N], data of other rows than the state's,
      a count that is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, _, data, _, key = toy.stream()
    >>> sgd = optax.sgd(0.1)
    >>> learner = continual.tame(
    ...   model, sgd, num_experts=2, num_classes=4, buffer_size=8
    ... )
    >>> state = learner.init(data, key)
    >>> state, _ = learner.step(state, data, jnp.arange(8))
    >>> forget = jnp.arange(16) < 3
    >>> state, info = continual.tame_forget_examples(
    ...   learner, state, data, forget, optimizer=sgd, num_steps=1, batch_size=4
    ... )
    >>> info.retrained.tolist(), int(state.buffer.valid.sum())
    ([True, False], 5)
  """
  checks.counts(num_steps=num_steps, batch_size=batch_size)
  checks.request({"data": data, "state": state.owner}, forget_mask)
  checks.hard_request(forget_mask)
  data = jax.tree.map(jnp.asarray, data)
  mask = jnp.asarray(forget_mask)
  touched = (state.trained_on & mask[None, :]).any(axis=1)
  kept = state.trained_on & ~mask[None, :]
  dropped = touched & ~kept.any(axis=1)
  retrained = touched & ~dropped
  old_keys, ages = state.init_keys, state.experts[3]
  width = state.window.shape[1]

  # Touched slots lose their optimiser's state, averages and thresholds too.
  fresh = learner.reset(state, touched, data)
  keys = jnp.where(retrained, old_keys, fresh.init_keys)

  def retrain(lane):
    weights, key, is_wanted, params, model_state = lane

    def run(_):
      variables, info = train(
        learner.model,
        data,
        weights,
        key,
        optimizer=optimizer,
        num_steps=num_steps,
        batch_size=batch_size,
      )
      made = variables.params, variables.model_state
      return made, info.loss.astype(jnp.float32)

    skip = lambda _: ((params, model_state), jnp.zeros(num_steps))
    return jax.lax.cond(is_wanted, run, skip, None)

  # One expert after the other, so that untouched ones cost nothing.
  params, model_state, opt_state, new_ages = fresh.experts
  (params, model_state), losses = jax.lax.map(
    retrain, (kept, old_keys, retrained, params, model_state)
  )
  number = min(num_steps, width)
  window = jnp.zeros_like(state.window).at[:, :number].set(losses[:, -number:])
  level = losses[:, -number:].mean(axis=1)
  count = jnp.full_like(state.window_count, number)
  limits = jax.vmap(lambda w: learner.limits(w, count[0]))(window)
  of_lane = lambda new, old: jnp.where(
    retrained.reshape(-1, *[1] * (old.ndim - 1)), new, old
  )
  rows = mask & (state.owner >= 0)
  return fresh._replace(
    experts=(params, model_state, opt_state, of_lane(ages, new_ages)),
    init_keys=keys,
    used=state.used & ~dropped,
    window=of_lane(window, fresh.window),
    window_count=of_lane(count, fresh.window_count),
    average_all=of_lane(level, fresh.average_all),
    average_active=of_lane(level, fresh.average_active),
    threshold=of_lane(limits, fresh.threshold),
    trained_on=kept,
    owner=jnp.where(rows, -1, state.owner),
    buffer=purge(state.buffer, rows),
  ), TameForgetInfo(dropped, retrained, jnp.zeros_like(mask))
