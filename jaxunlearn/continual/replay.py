"""The learner that all methods by gradient steps share.

A method is a `Rule`: a loss of a step's rows, and what it keeps beside the model
and the buffer. What an event does is the same for all of them:

1. The ledger settles which rows are learned and which are forgotten. A request
   for rows that were never learned, or are forgotten already, ends here: the
   state comes back with the same bits.
2. Forgotten rows are erased from the buffer.
3. `num_steps` updates by a fresh optimiser, so that no momentum remembers what
   was forgotten. Each draws a batch of the event's rows (the forget rows among
   them only where the rule has a use for them) and one from the buffer. A rule
   without a use for forget rows goes on replaying what the buffer keeps at a
   forget event, the usual "forget by not rehearsing"; without a buffer, there
   is nothing to do and the model stays as it is.
4. The rows learned are offered to the buffer, once each.

Model state is frozen and dropout inactive: prefer GroupNorm to BatchNorm. Cost
of an event: num_steps gradients of batch_size + replay_batch_size rows, and two sorts
of N numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.continual import buffer as buffers
from jaxunlearn.continual.stream import checked_event
from jaxunlearn.continual.types import (
  EventInfo,
  Learner,
  Ledger,
  empty_ledger,
)
from jaxunlearn.core import checks, sampling
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables


class Rows(NamedTuple):
  """Rows of a step, by where they come from.

  Attributes:
    rows: pytree [B, ...]; zeros where the weight is 0.
    weight: float32 [B], 1 for a row and 0 for padding.
    forget: bool [B], whether the row is to be forgotten.
  """

  rows: PyTree
  weight: jax.Array
  forget: jax.Array


class StepRows(NamedTuple):
  """What a rule's loss looks at.

  Attributes:
    new: rows of the event [batch_size].
    replay: rows of the buffer [replay_batch_size]; of a rule without buffer, one row
      of weight 0.
    key: PRNG key of the step.
  """

  new: Rows
  replay: Rows
  key: jax.Array


class ReplayState(NamedTuple):
  """The state of a learner between two events.

  Attributes:
    variables: the model (of a distilled learner, the student).
    buffer: a `Buffer`, or None.
    ledger: which rows are learned.
    memory: what the rule keeps beside.
    step: int32 [], updates made so far.
  """

  variables: Variables
  buffer: buffers.Buffer | None
  ledger: Ledger
  memory: PyTree
  step: jax.Array


def _same(memory: PyTree, *args: Any) -> PyTree:
  del args
  return memory


class Rule(NamedTuple):
  """A method: its loss, and what it keeps.

  Attributes:
    loss: `(variables, step_rows, memory) -> scalar`.
    init: `(variables, data, key) -> memory`; of the data, shapes only.
    begin: `(memory, variables) -> memory`, before an event's first step.
    after: `(memory, variables, step, key) -> memory`, after every update; step
      int32 [] counts the updates before it since the stream began.
    end: `(memory, variables, data, learn_mask, key) -> memory`, after the last.
    remember: None, or `(variables, rows) -> {name: [B, ...]}`, what the buffer
      keeps of a row beside it, computed when the row comes in.
    uses_forget: whether the loss has a use for forget rows.
  """

  loss: Callable[[Variables, StepRows, PyTree], jax.Array]
  init: Callable[..., PyTree] = lambda variables, data, key: ()
  begin: Callable[..., PyTree] = _same
  after: Callable[..., PyTree] = _same
  end: Callable[..., PyTree] = _same
  remember: Callable[[Variables, PyTree], dict[str, jax.Array]] | None = None
  uses_forget: bool = False


def mean_over(losses: jax.Array, weight: jax.Array) -> jax.Array:
  """Mean of losses [B] over rows of positive weight; 0 where there is none.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import replay
    >>> losses, weight = jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1, 1, 0])
    >>> float(replay.mean_over(losses, weight))
    2.0
  """
  counted = weight > 0
  total = jnp.where(counted, losses, 0).sum()
  return total / jnp.maximum(counted.sum(), 1)


def event_info(
  loss: jax.Array,
  learn: jax.Array,
  forget: jax.Array,
  held: jax.Array,
  variables: Variables,
) -> EventInfo:
  """The info of an event from its masks, and that of the buffer's slots.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.continual import replay
    >>> learn, forget = jnp.array([True, True]), jnp.array([False, False])
    >>> held = jnp.array([True, False, False])  # Slots of the buffer.
    >>> info = replay.event_info(
    ...   jnp.float32(0.5), learn, forget, held, toy.stream().variables
    ... )
    >>> int(info.learn_count), int(info.forget_count), int(info.buffer_count)
    (2, 0, 1)
  """
  count = lambda mask: mask.sum(dtype=jnp.int32)
  return EventInfo(
    loss=loss,
    learn_count=count(learn),
    forget_count=count(forget),
    buffer_count=count(held),
    is_finite=jnp.isfinite(loss) & all_finite(variables),
  )


def num_classes_of(model: Model, variables: Variables, data: PyTree) -> int:
  """Outputs of a classifier; of the data, only the shape of "x" matters.

  Raises:
    ValueError: outputs that are no logits [B, C].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.continual import replay
    >>> problem = toy.stream()
    >>> replay.num_classes_of(problem.model, problem.variables, problem.data)
    4
  """
  inputs = jax.tree.map(lambda x: x[:1], data["x"])
  outputs = jax.eval_shape(model.predict, variables, inputs)
  shaped("a model with outputs [B, C]", outputs)
  return outputs.shape[-1]


@renamed(replay_batch_size="replay_size")
def replay_learner(
  model: Model,
  rule: Rule,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  buffer_size: int | None = None,
  replay_batch_size: int = 32,
  buffer_rule: str = "reservoir",
) -> Learner:
  """Makes a learner of a rule.

  Args:
    model: a classifier over all classes of the stream; those that have not come
      yet have outputs from the start.
    rule: the method.
    optimizer: any optax optimiser; starts fresh at every event.
    num_steps: static; updates at an event, >= 0.
    batch_size: static; rows of the event a step, drawn without replacement
      within an epoch.
    buffer_size: static; slots of the buffer, None for no buffer.
    replay_batch_size: static; rows of the buffer a step.
    buffer_rule: "reservoir" or "balanced", see `buffer.offer`.

  Returns:
    The learner; its state is a `ReplayState`, its infos are `EventInfo`.

  Raises:
    ValueError: a count out of range, an unknown rule; `init`: a balanced buffer
      of fewer slots than the model has classes; `event`: see `run_stream`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> from jaxunlearn.continual import replay
    >>> model, variables, data, stream, key = toy.stream()
    >>> def loss(variables, step, memory):
    ...   rows, weight, _ = step.new
    ...   loss = model.loss(model.predict(variables, rows["x"]), rows)
    ...   return replay.mean_over(loss, weight)
    >>> learner = continual.replay_learner(
    ...   model,
    ...   continual.Rule(loss),
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   batch_size=4,
    ...   buffer_size=5,
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> infos.buffer_count.tolist()
    [5, 5, 0]
  """
  checks.non_negative(num_steps=num_steps)
  checks.counts(batch_size=batch_size, replay_batch_size=replay_batch_size)
  if buffer_size is not None and buffer_size < 1:
    raise ValueError(f"Expected buffer_size >= 1, got {buffer_size}.")
  checks.one_of(buffers.RULES, buffer_rule=buffer_rule)

  def init(variables: Variables, data: PyTree, key: jax.Array) -> ReplayState:
    num_rows = checks.num_rows(data)
    classes = num_classes_of(model, variables, data)
    buffer = None
    if buffer_size is not None:
      if buffer_rule == "balanced" and buffer_size < classes:
        raise ValueError(
          f"Expected buffer_size >= {classes}, a row for each class of a "
          f"balanced buffer, got {buffer_size}."
        )
      kept = _extended(rule, variables, jax.tree.map(jnp.asarray, data))
      buffer = buffers.empty_buffer(buffer_size, kept)
    memory = rule.init(variables, data, key)
    # Copies, so that the caller may donate the state and keep the model.
    variables, memory = jax.tree.map(jnp.array, (variables, memory))
    return ReplayState(
      variables,
      buffer,
      empty_ledger(num_rows),
      memory,
      jnp.zeros((), jnp.int32),
    )

  def event(
    state: ReplayState,
    data: PyTree,
    learn_mask: jax.Array,
    forget_mask: jax.Array,
    key: jax.Array,
  ) -> tuple[ReplayState, EventInfo]:
    classes = num_classes_of(model, state.variables, data)
    data, *masks = checked_event(data, learn_mask, forget_mask, classes)
    ledger, learn, forget = state.ledger.settle(*masks)
    is_asked = (learn | forget).any()
    buffer, has_replay = state.buffer, jnp.array(False)
    if buffer is not None:
      buffer = buffers.purge(buffer, forget)
      has_replay = buffer.valid.any()
    state = state._replace(buffer=buffer, ledger=ledger)
    drawn = learn | forget if rule.uses_forget else learn
    has_rows = is_asked & (drawn.any() | has_replay)
    state, loss = jax.lax.cond(
      has_rows,
      lambda s: _work(s, data, drawn, learn, forget, key),
      lambda s: (s, jnp.zeros((), jnp.float32)),
      state,
    )
    kept = state.buffer
    held = jnp.zeros(1, bool) if kept is None else kept.valid
    return state, event_info(loss, learn, forget, held, state.variables)

  def _work(state, data, drawn, learn, forget, key):
    pool_key, step_key, offer_key, end_key = jax.random.split(key, 4)
    pool = sampling.make_pool(drawn, pool_key)
    memory = rule.begin(state.memory, state.variables)
    opt_state = optimizer.init(state.variables.params)

    def advance(carry, number):
      variables, opt_state, memory = carry
      draw_key, loss_key, after_key = jax.random.split(
        jax.random.fold_in(step_key, number), 3
      )
      position = number * batch_size + jnp.arange(batch_size)
      row_id, _ = sampling.draw_rows(pool, position.astype(jnp.uint32))
      weight = pool.weight[row_id]
      rows = sampling.take_rows(data, row_id, weight)
      new = Rows(rows, weight, forget[row_id])
      step = StepRows(new, _replayed(state.buffer, rows, draw_key), loss_key)

      def total(params):
        return rule.loss(variables._replace(params=params), step, memory)

      loss, grads = jax.value_and_grad(total)(variables.params)
      updates, opt_state = optimizer.update(grads, opt_state, variables.params)
      params = optax.apply_updates(variables.params, updates)
      variables = variables._replace(params=params)
      memory = rule.after(memory, variables, state.step + number, after_key)
      return (variables, opt_state, memory), loss.astype(jnp.float32)

    carry = (state.variables, opt_state, memory)
    numbers = jnp.arange(num_steps, dtype=jnp.int32)
    (variables, _, memory), losses = jax.lax.scan(advance, carry, numbers)
    memory = rule.end(memory, variables, data, learn, end_key)
    buffer = state.buffer
    if buffer is not None:
      # Nothing to offer leaves the buffer as it is, slot by slot.
      buffer = jax.lax.cond(
        learn.any(),
        lambda: _taken_in(buffer, variables, data, learn, offer_key),
        lambda: buffer,
      )
    loss = losses.sum() / max(num_steps, 1)
    step = state.step + num_steps
    return ReplayState(variables, buffer, state.ledger, memory, step), loss

  def _replayed(buffer, like, key):
    if buffer is None:
      blank = jax.tree.map(lambda x: jnp.zeros_like(x[:1]), like)
      return Rows(blank, jnp.zeros(1), jnp.zeros(1, bool))
    rows, _, weight = buffers.draw(buffer, replay_batch_size, key)
    return Rows(rows, weight, jnp.zeros(replay_batch_size, bool))

  def _taken_in(buffer, variables, data, learn, key):
    kept = _extended(rule, variables, data)
    merged = buffers.offer(buffer, kept, learn, key, rule=buffer_rule)
    if rule.remember is None:
      return merged
    n = learn.shape[0]
    held = jnp.where(buffer.valid, buffer.row_id, n)
    was_held = jnp.zeros(n, bool).at[held].set(True, mode="drop")
    is_new = merged.valid & ~was_held[jnp.maximum(merged.row_id, 0)]
    noted = rule.remember(variables, merged.rows)

    def choose(old, fresh):
      new = is_new.reshape(is_new.shape + (1,) * (old.ndim - 1))
      return jnp.where(new, fresh.astype(old.dtype), old)

    kept = {name: choose(merged.rows[name], noted[name]) for name in noted}
    return merged._replace(rows={**merged.rows, **kept})

  predict = lambda state, inputs: model.predict(state.variables, inputs)
  return Learner(init, event, predict)


def _extended(rule: Rule, variables: Variables, data: PyTree) -> PyTree:
  """The data with room for what the rule remembers of each row."""
  if rule.remember is None:
    return data
  noted = jax.eval_shape(rule.remember, variables, data)
  return {
    **data,
    **{name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in noted.items()},
  }
