"""A task's loss on rows outside of a phase, with the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, per_example
from jaxunlearn.core.sharding import placed
from jaxunlearn.core.tasks import as_task
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import Losses, PyTree, Request, Variables, as_step


class Rows(NamedTuple):
  """Rows [B, ...] of the data, and their numbers int32 [B] within it."""

  rows: PyTree
  number: jax.Array


def seen(request: Request) -> jax.Array:
  """Rows that a method may see at all; of the dtype of the request's masks."""
  return jnp.maximum(request.forget, request.retain)


def some_of(
  mask: jax.Array, count: int | jax.Array, key: jax.Array
) -> jax.Array:
  """So many of the rows in a mask, or all of them, at random: bool [N]."""
  order = jax.random.permutation(key, mask.shape[0])
  # The rank of each row among those of the mask, in random order.
  rank = jnp.zeros_like(order).at[order].set(jnp.cumsum(mask[order]))
  return mask & (rank <= count)


def original_loss(
  task: Any,
  variables: Variables,
  data: PyTree,
  visible: jax.Array,
  key: jax.Array,
) -> tuple[Callable[[PyTree, Rows], Losses], Rows]:
  """The loss in evaluation mode, before anything was forgotten.

  Args:
    task: a `Task`, or a model that has one.
    variables: the original model.
    data: pytree of arrays [N, ...].
    visible: bool or float [N], the rows that there are.
    key: decides what the loss draws, row by row.

  Returns:
    `(params, Rows) -> Losses`, and all of the rows to ask it of, or to take
    some of; what a row draws does not depend on which rows are beside it.
  """
  task = as_task(task)
  carry = Carry(variables, variables, {})
  if task.prepare is not None:
    whole = Request(jnp.zeros_like(visible), visible)
    carry, _ = task.prepare.run(carry, data, whole, key, Env())

  def loss(params: PyTree, asked: Rows) -> Losses:
    step = as_step(asked.rows, carry.slots)._replace(
      row_id=asked.number,
      place=asked.number,
      original=variables,
      variables=carry.variables,
    )
    return task.loss(carry.variables._replace(params=params), step, key)

  number = jnp.arange(checks.num_rows(data), dtype=jnp.int32)
  return loss, Rows(data, number)


def row_means(losses: Losses) -> jax.Array:
  """The mean loss within each row [B]; 0 for a row without anything in it."""
  if losses.weight is None:
    return losses.value
  some = losses.weight > 0
  return jnp.where(some, losses.value / jnp.where(some, losses.weight, 1), 0)


def summed_gradient(
  loss: Callable[[PyTree, Rows], jax.Array],
  params: PyTree,
  rows: Rows,
  weights: jax.Array,
  *,
  chunk_size: int,
) -> PyTree:
  """The gradient of the weighted sum of losses [B] over rows, float32 or wider."""

  def chunk(some: Rows, weight: jax.Array) -> PyTree:
    def total(params: PyTree) -> jax.Array:
      return jnp.where(weight > 0, weight * loss(params, some), 0.0).sum()

    return placed(jax.grad(total)(params))

  return per_example.sum_chunks(chunk, rows, weights, chunk_size=chunk_size)
