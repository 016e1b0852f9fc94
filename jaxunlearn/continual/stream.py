"""Streams: how they are made, and the one program that runs any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.continual.types import Learner, Stream, empty_ledger
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import PyTree


class Event(NamedTuple):
  """An event in words: tasks to learn and tasks to forget, at once."""

  learn: tuple[int, ...] = ()
  forget: tuple[int, ...] = ()


def learn(*tasks: int) -> Event:
  """The event that brings the rows of these tasks.

  Example:
    >>> from jaxunlearn import continual
    >>> continual.learn(0, 2)
    Event(learn=(0, 2), forget=())
  """
  return Event(learn=tasks)


def forget(*tasks: int) -> Event:
  """The event that asks to forget the rows of these tasks.

  Example:
    >>> from jaxunlearn import continual
    >>> continual.forget(1)
    Event(learn=(), forget=(1,))
  """
  return Event(forget=tasks)


def task_stream(task: jax.Array, events: Sequence[Event]) -> Stream:
  """A stream of whole tasks.

  Args:
    task: int [N], the task of each row.
    events: what happens, in order. A task may be learned or forgotten again,
      and forgotten without ever having been learned, which does nothing.

  Returns:
    The stream; memory for its masks is 2 T N bytes.

  Raises:
    ValueError: no events, task that is not int [N], an event of a task without
      rows, or one that learns and forgets the same task.

  Example:
    >>> stream = task_stream(jnp.array([0, 0, 1]), [learn(0), forget(0)])
    >>> stream.forget_masks.tolist()
    [[False, False, False], [True, True, False]]
  """
  known = np.asarray(task)
  shaped("task int [N]", known)
  if not events:
    raise ValueError("Expected events, got none.")
  for event in events:
    for name in event.learn + event.forget:
      if name not in known:
        raise ValueError(
          f"Expected tasks among {np.unique(known).tolist()}, got {name}."
        )
  return mask_stream(
    jnp.asarray(np.stack([np.isin(known, e.learn) for e in events])),
    jnp.asarray(np.stack([np.isin(known, e.forget) for e in events])),
    jnp.asarray(known),
  )


def mask_stream(
  learn_masks: jax.Array,
  forget_masks: jax.Array,
  task: jax.Array | None = None,
) -> Stream:
  """A stream of any rows, from its masks.

  Args:
    learn_masks: bool [T, N].
    forget_masks: bool [T, N].
    task: int [N]; None puts all rows in task 0.

  Raises:
    ValueError: shapes or dtypes differ from these, or an event that learns and
      forgets the same row.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> learn = jnp.array([[True, True], [False, False]])
    >>> forget = jnp.array([[False, False], [False, True]])
    >>> stream = continual.mask_stream(learn, forget)
    >>> continual.learned_after(stream).tolist()
    [[True, True], [True, False]]
  """
  learn_masks = jnp.asarray(learn_masks)
  forget_masks = jnp.asarray(forget_masks)
  rows = learn_masks.shape[-1:]
  task = jnp.zeros(rows, jnp.int32) if task is None else task
  task = arrays("task int [N]", task)
  stream = Stream(learn_masks, forget_masks, task.astype(jnp.int32))
  _check_masks(stream)
  return stream


def run_stream(
  learner: Learner,
  state: Any,
  data: PyTree,
  stream: Stream,
  key: jax.Array,
  *,
  record: Callable[[Any], PyTree] | None = None,
  first_event: int | jax.Array = 0,
) -> tuple[Any, Any, PyTree]:
  """Runs a stream: one `lax.scan` over events.

  Memory does not grow with the number of events, but for the masks and for what
  is recorded. Safe under `jit` and `vmap`, over streams, keys and states.

  Args:
    learner: see `Learner`.
    state: from `learner.init`, or from an earlier run.
    data: pytree of arrays [N, ...], with "x" and "label".
    stream: T events over these rows.
    key: event t draws from `fold_in(key, first_event + t)`.
    record: None, or `state -> pytree`, what to note after every event (such as
      `lambda s: learner.predict(s, test_x)`); keep it small.
    first_event: >= 0; where a stream that was cut goes on, the number of events
      already run. The two halves then give the bits of the whole. May be
      traced.

  Returns:
    The state, the infos with leaves [T, ...], and what was recorded with leaves
    [T, ...] (None without `record`).

  Raises:
    ValueError: outside jit, masks that do not fit the data or each other, or
      that are not bool; labels that the model has no output for; inputs that
      are nan or infinite in a row of the stream.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.naive(
    ...   model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=4
    ... )
    >>> state = learner.init(variables, data, key)
    >>> record = lambda state: learner.predict(state, data["x"])
    >>> state, infos, logits = continual.run_stream(
    ...   learner, state, data, stream, key, record=record
    ... )
    >>> infos.learn_count.tolist(), infos.forget_count.tolist(), logits.shape
    ([8, 8, 0], [0, 0, 8], (3, 16, 4))
  """
  _check_masks(stream)
  checks.non_negative(first_event=first_event)
  data = jax.tree.map(jnp.asarray, data)
  check_rows(
    data,
    _any_event(stream.learn_masks, stream.forget_masks),
    _num_outputs(learner.predict, state, data),
  )

  def step(state: Any, event: Any) -> Any:
    number, learn_mask, forget_mask = event
    state, info = learner.event(
      state,
      data,
      learn_mask,
      forget_mask,
      jax.random.fold_in(key, first_event + number),
    )
    noted = None if record is None else record(state)
    return state, (info, noted)

  numbers = jnp.arange(stream.learn_masks.shape[0])
  state, (infos, records) = jax.lax.scan(
    step, state, (numbers, stream.learn_masks, stream.forget_masks)
  )
  return state, infos, records


def learned_after(stream: Stream) -> jax.Array:
  """The rows that should be known after every event.

  Returns:
    bool [T, N]: learned, and not forgotten since.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> events = [continual.learn(0), continual.learn(1), continual.forget(0)]
    >>> stream = continual.task_stream(jnp.array([0, 0, 1]), events)
    >>> continual.learned_after(stream).tolist()
    [[True, True, False], [True, True, True], [False, False, True]]
  """
  ledger = empty_ledger(stream.learn_masks.shape[1])

  def step(ledger, event):
    ledger, _, _ = ledger.settle(*event)
    return ledger, ledger.learned

  masks = (stream.learn_masks, stream.forget_masks)
  return jax.lax.scan(step, ledger, masks)[1]


def state_bytes(state: Any) -> int:
  """Bytes that a learner keeps between two events; the same at every event.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> state = {"params": jnp.zeros(10), "ledger": jnp.zeros(8, bool)}
    >>> continual.state_bytes(state)
    48
  """
  return sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in map(jnp.asarray, jax.tree.leaves(state))
  )


def checked_event(
  data: PyTree,
  learn_mask: jax.Array,
  forget_mask: jax.Array,
  num_classes: int | None,
) -> tuple[PyTree, jax.Array, jax.Array]:
  """An event's arguments as arrays, checked; what a learner begins with.

  Raises:
    ValueError: masks that are not bool [N]; see `check_rows`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import stream
    >>> data = {"x": jnp.ones((2, 3)), "label": jnp.array([0, 1])}
    >>> learn, forget = [True, False], [0.5, 0.0]
    >>> stream.checked_event(data, learn, forget, num_classes=2)
    Traceback (most recent call last):
      ...
    ValueError: Expected forget_mask of dtype bool for this method, got
    float64; soft requests are for phases that draw forget and retain rows
    apart.
  """
  for name, mask in (("learn", learn_mask), ("forget", forget_mask)):
    checks.request(data, mask, f"{name}_mask")
    checks.hard_request(mask, f"{name}_mask")
  data = jax.tree.map(jnp.asarray, data)
  learn_mask, forget_mask = jnp.asarray(learn_mask), jnp.asarray(forget_mask)
  check_rows(data, learn_mask | forget_mask, num_classes)
  return data, learn_mask, forget_mask


def check_rows(data: PyTree, mask: jax.Array, num_classes: int | None) -> None:
  """Rows that a stream reads hold finite inputs and labels with an output.

  Args:
    data: pytree of arrays [N, ...].
    mask: bool [N], the rows that count.
    num_classes: C, or None where outputs are no classes.

  Raises:
    ValueError: they do not, and their values can be looked at.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import stream
    >>> data = {"x": jnp.ones((2, 3)), "label": jnp.array([0, 5])}
    >>> stream.check_rows(data, jnp.array([True, False]), num_classes=2)
    >>> stream.check_rows(data, jnp.array([True, True]), num_classes=2)
    Traceback (most recent call last):
      ...
    ValueError: Expected data['label'] in 0 .. 1, got 0 .. 5.
  """
  if "x" not in data or "label" not in data:
    raise ValueError(f'Expected data with "x" and "label", got {sorted(data)}.')
  checks.request(data, mask, "masks of the stream")
  if not jnp.issubdtype(data["label"].dtype, jnp.integer):
    checks.labels(data["label"], 1, "data['label']")
  if not all(map(checks.is_concrete, (mask, *jax.tree.leaves(data)))):
    return
  used = np.asarray(mask)
  checks.finite(
    jax.tree.map(lambda leaf: np.asarray(leaf)[used], data["x"]),
    "data['x'] of the stream's rows",
  )
  if num_classes is not None:
    checks.labels(np.asarray(data["label"])[used], num_classes, "data['label']")


def _num_outputs(predict: Any, state: Any, data: PyTree) -> int | None:
  """How many classes a learner tells apart; None of outputs that are no [B, C]."""
  inputs = jax.tree.map(lambda x: x[:1], data["x"]) if "x" in data else None
  if inputs is None:
    return None
  outputs = jax.eval_shape(predict, state, inputs)
  return outputs.shape[-1] if len(outputs.shape) == 2 else None


def _any_event(learn_masks: Any, forget_masks: Any) -> Any:
  if checks.is_concrete(learn_masks) and checks.is_concrete(forget_masks):
    return (np.asarray(learn_masks) | np.asarray(forget_masks)).any(axis=0)
  return (learn_masks | forget_masks).any(axis=0)


def _check_masks(stream: Stream) -> None:
  learn_masks, forget_masks = stream.learn_masks, stream.forget_masks
  wanted = "learn_masks [T > 0, N], forget_masks [T, N] and task [N]"
  shaped(wanted, learn_masks, forget_masks, stream.task)
  checks.hard_request(learn_masks, "learn_masks")
  checks.hard_request(forget_masks, "forget_masks")
  if checks.is_concrete(learn_masks) and checks.is_concrete(forget_masks):
    both = (np.asarray(learn_masks) & np.asarray(forget_masks)).any(axis=1)
    if both.any():
      raise ValueError(
        "Expected events that forget no row that they learn, got both in event "
        f"{int(both.argmax())}."
      )
