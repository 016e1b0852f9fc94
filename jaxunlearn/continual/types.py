"""What a stream of learning and forgetting is, as data and pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree, Variables


class Stream(NamedTuple):
  """Events over the rows of one data pytree; a pytree of arrays itself.

  An event may learn rows, forget rows, or both at once. One compiled program
  serves every stream of T events; `jax.vmap` serves a stack of them.

  Attributes:
    learn_masks: bool [T, N], the rows that event t brings to learn.
    forget_masks: bool [T, N], the rows that event t asks to forget; none that
      it learns.
    task: int32 [N], the task that each row belongs to.
  """

  learn_masks: jax.Array
  forget_masks: jax.Array
  task: jax.Array


class EventInfo(NamedTuple):
  """What an event leaves behind; a few numbers.

  Attributes:
    loss: float32 [], mean of the objective over the event's steps; 0 where the
      event made no step.
    learn_count: int32 [], rows learned.
    forget_count: int32 [], rows forgotten: those asked for that had been
      learned. 0 says that the request was for nothing.
    buffer_count: int32 [], rows in the buffer afterwards.
    is_finite: bool [], whether every loss and every parameter is finite.
  """

  loss: jax.Array
  learn_count: jax.Array
  forget_count: jax.Array
  buffer_count: jax.Array
  is_finite: jax.Array


class Learner(NamedTuple):
  """A way to meet a stream, as pure functions of a state that is a pytree.

  Attributes:
    init: `(variables, data, key) -> state`; of the data, shapes and dtypes only.
    event: `(state, data, learn_mask, forget_mask, key) -> (state, info)`; reads
      the rows under the two masks alone, unless the learner says otherwise.
    predict: `(state, inputs) -> outputs [B, ...]`, in evaluation mode.
  """

  init: Callable[[Variables, PyTree, jax.Array], Any]
  event: Callable[..., tuple[Any, Any]]
  predict: Callable[[Any, PyTree], jax.Array]


class Ledger(NamedTuple):
  """Which rows are learned at present: a bit a row, and no data.

  Attributes:
    learned: bool [N], learned and not forgotten since.
  """

  learned: jax.Array

  def settle(
    self, learn_mask: jax.Array, forget_mask: jax.Array
  ) -> tuple[Ledger, jax.Array, jax.Array]:
    """What an event asks for that can be done, and the ledger afterwards.

    Rows that were never learned, or are forgotten already, are not forgotten
    again: a request that comes twice does nothing the second time. Where both
    masks are set, the row is forgotten.

    Returns:
      The new ledger, the rows to learn and the rows to forget, bool [N].

    Raises:
      ValueError: masks of another length.
    """
    n = self.learned.shape[0]
    if learn_mask.shape != (n,) or forget_mask.shape != (n,):
      raise ValueError(
        f"Expected data of the {n} rows that `init` was given, got masks of "
        f"shapes {learn_mask.shape} and {forget_mask.shape}."
      )
    forget = forget_mask & self.learned
    learn = learn_mask & ~forget_mask
    return Ledger((self.learned | learn) & ~forget), learn, forget


def empty_ledger(num_rows: int) -> Ledger:
  """Nothing learned.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual.types import empty_ledger
    >>> learn, forget = jnp.array([True, False]), jnp.array([False, True])
    >>> ledger, learned, forgotten = empty_ledger(2).settle(learn, forget)
    >>> ledger.learned.tolist(), forgotten.tolist()  # Row 1 was not known.
    ([True, False], [False, False])
  """
  return Ledger(jnp.zeros(num_rows, bool))
