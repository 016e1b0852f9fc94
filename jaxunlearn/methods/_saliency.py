"""Which weights matter to the forget set: those of the steepest loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, order
from jaxunlearn.core.sharding import placed
from jaxunlearn.core.tasks import as_task
from jaxunlearn.core.types import PyTree, as_request
from jaxunlearn.methods import _rows


def saliency_mask(
  task: Any, keep: float | jax.Array = 0.5, *, chunk_size: int = 256
) -> Callable[..., PyTree]:
  """A weight mask for `masked`: where the forget set's loss is steepest.

  Of all weights together the share `keep` of largest |gradient| of the mean
  loss over the forget set is marked; none for an empty request.

      masked(any_transform, saliency_mask(model), needs=Draw(forget=ALL))

  Args:
    task: a `Task`, or a model of any room.
    keep: in [0, 1]; see `largest`. May be traced.
    chunk_size: static; rows at a time.

  Returns:
    `(variables, data, request, key) -> pytree of bool like the params`, of a
    `Request` or a bare mask. A loss that draws (noise, times) does so by row from the key.

  Raises:
    ValueError: keep outside [0, 1], chunk_size < 1.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> mark = ju.methods.saliency_mask(problem.model, keep=0.25)
    >>> mask = jax.jit(mark)(*problem.arguments)
    >>> {name: int(layer["kernel"].sum()) for name, layer in mask.items()}
    {'hidden': 16, 'output': 6}
    >>> sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask))  # Of 92.
    23
  """
  checks.fraction(keep=keep)
  slope = forget_gradient(task, chunk_size=chunk_size)

  def mask(variables, data, request, key):
    request = as_request(request, data)
    marked = largest(slope(variables, data, request, key), keep)
    # Of gradients that are all 0 the first would be taken.
    is_asked = (request.forget > 0).any()
    return placed(jax.tree.map(lambda marks: marks & is_asked, marked))

  return mask


def forget_gradient(
  task: Any, *, chunk_size: int = 256
) -> Callable[..., PyTree]:
  """`(variables, data, request, key) -> gradient` of the loss to forget.

  The gradient of the sum over the forget set, in evaluation mode.
  """
  checks.count(1, chunk_size=chunk_size)
  task = as_task(task)

  def gradient(variables, data, request, key):
    visible = _rows.seen(request)
    loss, rows = _rows.original_loss(task, variables, data, visible, key)
    return _rows.summed_gradient(
      lambda params, some: loss(params, some).value,
      variables.params,
      rows,
      request.forget,
      chunk_size=chunk_size,
    )

  return gradient


def largest(scores: PyTree, keep: float | jax.Array) -> PyTree:
  """Marks the entries of largest absolute value over all leaves together.

  Args:
    scores: pytree of float arrays, P entries altogether; a nan comes last.
    keep: in [0, 1]; floor(keep * P) entries are marked, of equal ones the first
      in the order of the pytree. May be traced, and is then a float32, whose
      product may round to the next number.

  Returns:
    Pytree of bool like the scores.

  Raises:
    ValueError: a pytree without leaves.
  """
  size = sum(leaf.size for leaf in jax.tree.leaves(scores))
  if not size:
    raise ValueError("Expected scores to hold arrays, got an empty pytree.")
  if checks.is_concrete(keep):
    count = jnp.asarray(math.floor(float(keep) * size), jnp.int32)
  else:
    count = jnp.floor(keep * size).astype(jnp.int32)
  return order.mark_largest(scores, count)
