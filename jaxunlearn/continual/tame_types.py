"""What the files of TAME share: its types, its checks, the squashed model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.continual.buffer import Buffer
from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables


class TameState(NamedTuple):
  """The experts and what is known of them; E slots, windows of W losses.

  Attributes:
    experts: params, model state, optimiser state and number of steps, leaves
      [E, ...].
    init_keys: PRNG keys [E] that an expert's initial params come from.
    used: bool [E], slots that hold an expert.
    active: int32 [], the expert that learns.
    window: float32 [E, W], ring buffers of losses while active.
    window_count: int32 [E], losses ever written to it.
    average_all: float32 [E], running loss over every batch since creation.
    average_active: float32 [E], running loss over the batches it learned.
    threshold: float32 [E], in nats.
    trained_on: bool [E, N], the rows that an expert was trained on.
    owner: int32 [N], the expert that first learned a row; -1 if none has.
    buffer: rows for the selector.
    overflow: bool [], whether an expert was wanted and no slot free; the expert
      of the lowest loss learned the batch then.
    key: draws the buffer's rows.
    num_batches: int32 [], batches seen.
  """

  experts: tuple[PyTree, PyTree, PyTree, jax.Array]
  init_keys: jax.Array
  used: jax.Array
  active: jax.Array
  window: jax.Array
  window_count: jax.Array
  average_all: jax.Array
  average_active: jax.Array
  threshold: jax.Array
  trained_on: jax.Array
  owner: jax.Array
  buffer: Buffer
  overflow: jax.Array
  key: jax.Array
  num_batches: jax.Array

  @property
  def variables(self) -> Variables:
    """The experts' variables, leaves [E, ...]."""
    return Variables(*self.experts[:2])


class TameInfo(NamedTuple):
  """What happened at a batch; of a stream with a leading axis [T].

  Attributes:
    expert: int32 [], which learned it; -1 for a batch without rows.
    loss: float32 [], that expert's loss before the update, in nats.
    has_switched: bool [], whether it is another expert than before.
    is_new: bool [], whether it was made for this batch.
  """

  expert: jax.Array
  loss: jax.Array
  has_switched: jax.Array
  is_new: jax.Array


class Tame(NamedTuple):
  """The learner as pure functions, made by `tame`.

  Attributes:
    init: `(data, key) -> TameState`.
    step: `(state, data, row_id int [B]) -> (state, TameInfo)`; -1 pads.
    fit: `(state, data, row_ids int [T, B]) -> (state, TameInfo)`, one
      `lax.scan`.
    losses: `(state, data, row_id) -> [E]`, mean loss of each expert.
    reset: `(state, slots bool [E], data) -> state`, these slots as new.
    limits: `window [W], count -> threshold`.
    model: the expert, with the outputs that its loss sees.
    num_classes: classes of a task.
  """

  init: Callable[..., TameState]
  step: Callable[..., tuple[TameState, TameInfo]]
  fit: Callable[..., tuple[TameState, TameInfo]]
  losses: Callable[..., jax.Array]
  reset: Callable[..., TameState]
  limits: Callable[[jax.Array, jax.Array], jax.Array]
  model: Model
  num_classes: int


def squashed(model: Model) -> Model:
  """The model with outputs after a sigmoid, in (0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> from jaxunlearn.continual.tame_types import squashed
    >>> model = from_functions(lambda key, x: {}, lambda params, x: x)
    >>> variables = model.init(None, None)
    >>> squashed(model).predict(variables, jnp.array([[0.0, 100.0]])).tolist()
    [[0.5, 1.0]]
  """

  def apply(variables, inputs, *, train=False, key=None):
    outputs, state = model.apply(variables, inputs, train=train, key=key)
    return jax.nn.sigmoid(outputs), state

  return model._replace(apply=apply)


def checked_data(data: PyTree, num_classes: int) -> int:
  n = checks.num_rows(data)
  if not isinstance(data, dict) or not {"x", "label"} <= data.keys():
    raise ValueError('Expected data with "x" and "label".')
  checks.labels(data["label"], num_classes, "data['label']")
  return n


def checked_rows(
  data: PyTree, row_id: Any, num_classes: int, ndim: int
) -> jax.Array:
  n = checked_data(data, num_classes)
  row_id = jnp.asarray(row_id)
  if row_id.ndim != ndim or not jnp.issubdtype(row_id.dtype, jnp.integer):
    wanted = "[B]" if ndim == 1 else "[T, B]"
    raise ValueError(
      f"Expected row numbers, int {wanted}, got {row_id.dtype} {row_id.shape}."
    )
  if checks.is_concrete(row_id) and row_id.size:
    numbers = np.asarray(row_id)
    if numbers.min() < -1 or numbers.max() >= n:
      raise ValueError(
        f"Expected row numbers in -1 .. {n - 1}, got {numbers.min()} .. "
        f"{numbers.max()}."
      )
    if all(map(checks.is_concrete, jax.tree.leaves(data["x"]))):
      read = numbers[numbers >= 0]
      rows = jax.tree.map(lambda leaf: leaf[read], data["x"])
      checks.finite(rows, "data['x']")
  return row_id.astype(jnp.int32)
