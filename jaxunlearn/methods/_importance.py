"""How much the loss depends on each weight: what SSD compares."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.sharding import placed
from jaxunlearn.core.types import Losses, PyTree
from jaxunlearn.methods import _rows

_ESTIMATORS = ("example", "batch")


def ratio(total: PyTree, count: jax.Array) -> PyTree:
  """Sums over what was summed; 0 where that is nothing."""
  return jax.tree.map(lambda t: t / jnp.where(count > 0, count, 1.0), total)


def check_kind(estimator: str, batch_size: int, label_free: bool) -> None:
  """The options that `ssd` and `importance` share."""
  checks.one_of(_ESTIMATORS, estimator=estimator)
  checks.count(1, batch_size=batch_size)
  checks.one_of((True, False), label_free=label_free)


def loss_and_rows(task, variables, data, visible, key, label_free):
  """What is differentiated, `(params, Rows) -> Losses`, and all rows."""
  loss, rows = _rows.original_loss(task, variables, data, visible, key)
  if not label_free:
    return loss, rows
  if task.predict is None:
    raise ValueError("Expected a Task that predicts for label_free=True.")

  def norm(params: PyTree, asked: _rows.Rows) -> Losses:
    outputs = task.predict(variables._replace(params=params), asked.rows["x"])
    outputs = outputs.astype(jnp.promote_types(jnp.float32, outputs.dtype))
    return Losses(jnp.square(outputs).reshape(len(outputs), -1).sum(axis=1))

  return norm, rows


def sums(loss, params, data, weights, estimator, batch_size, label_free):
  """The sum of what `importance` averages, and the weight of what it sums.

  The rows that count are gathered first, so that the loop, whose length is a
  run-time number, never walks over the others.
  """
  weights = weights.astype(jnp.float32)
  n = checks.num_rows(data)
  size = min(batch_size, n)
  order = jnp.argsort(~(weights > 0), stable=True)
  row_count = (weights > 0).sum(dtype=jnp.int32)
  measure = jnp.abs if label_free else jnp.square

  def measured(grads: PyTree) -> PyTree:
    wide = lambda g: g.astype(jnp.promote_types(jnp.float32, g.dtype))
    return jax.tree.map(lambda g: measure(wide(g)), grads)

  def of_rows(rows: _rows.Rows, weight: jax.Array) -> tuple[PyTree, jax.Array]:
    def one(row: _rows.Rows) -> PyTree:
      single = jax.tree.map(lambda x: x[None], row)
      mean = lambda p: _rows.row_means(loss(p, single))[0]
      return measured(jax.grad(mean)(params))

    def add(value: jax.Array) -> jax.Array:
      w = weight.reshape(weight.shape + (1,) * (value.ndim - 1))
      return jnp.where(w > 0, w * value, 0.0).sum(axis=0)

    return jax.tree.map(add, jax.vmap(one)(rows)), weight.sum()

  def of_batch(rows: _rows.Rows, weight: jax.Array) -> tuple[PyTree, jax.Array]:
    def mean_loss(params: PyTree) -> jax.Array:
      out = loss(params, rows)
      w = weight if out.weight is None else weight * out.weight
      value = jnp.where(w > 0, weight * out.value, 0.0).sum()
      return value / jnp.maximum(w.sum(), 1e-12)

    return measured(placed(jax.grad(mean_loss)(params))), jnp.ones(())

  one_chunk = of_rows if estimator == "example" else of_batch

  def body(index: jax.Array, total: PyTree) -> PyTree:
    position = index * size + jnp.arange(size)
    row_id = order[jnp.minimum(position, n - 1)]
    weight = jnp.where(position < row_count, weights[row_id], 0.0)
    added = one_chunk(take_rows(data, row_id, weight), weight)
    grads, count = jax.tree.map(jnp.add, total, added)
    return placed(grads), count

  like = jax.eval_shape(body, 0, _zero_sums(params))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
  zeros = (placed(zeros[0]), zeros[1])
  return jax.lax.fori_loop(0, -(-row_count // size), body, zeros)


def _zero_sums(params):
  wide = lambda p: jnp.zeros(p.shape, jnp.promote_types(jnp.float32, p.dtype))
  return jax.tree.map(wide, params), jnp.zeros(())
