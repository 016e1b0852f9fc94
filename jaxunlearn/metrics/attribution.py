"""Which parts of an input made an output what it is.

Source: integrated gradients, arXiv:1703.01365.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, given

PyTree = Any


def integrated_gradients(
  fn: Callable[[PyTree], jax.Array],
  inputs: PyTree,
  baseline: PyTree,
  *,
  num_steps: int = 50,
) -> PyTree:
  """(x - x') times the mean gradient on the way from x' to x, for each row.

  Summed up they are fn(x) - fn(x'), up to the error of the midpoint rule, which
  is none for a linear or quadratic function.

  Args:
    fn: of one row, leaves without the row axis; returns a number.
    inputs: pytree of floats [B, ...].
    baseline: leaves [...], for all rows the same.
    num_steps: static, >= 1; gradients of a row.

  Returns:
    Like `inputs`.

  Raises:
    ValueError: num_steps < 1, a baseline of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> square = lambda row: (row**2).sum()
    >>> x = jnp.array([[1.0, 2.0]])
    >>> metrics.integrated_gradients(square, x, jnp.zeros(2)).round(3).tolist()
    [[1.0, 4.0]]
  """
  checks.count(1, num_steps=num_steps)
  checks.num_rows(inputs, "inputs")
  given.numbers(inputs, "inputs")
  given.numbers(baseline, "baseline")
  rows = jax.tree.map(lambda x: jnp.shape(x)[1:], inputs)
  own = jax.tree.map(jnp.shape, baseline)
  if rows != own:
    raise ValueError(f"Expected baseline of shape {rows}, got {own}.")

  def one(row: PyTree) -> PyTree:
    way = jax.tree.map(jnp.subtract, row, baseline)

    def add(total: PyTree, share: jax.Array) -> tuple[PyTree, None]:
      at = jax.tree.map(lambda b, w: b + share * w, baseline, way)
      return jax.tree.map(jnp.add, total, jax.grad(fn)(at)), None

    shares = (jnp.arange(num_steps) + 0.5) / num_steps
    zero = jax.tree.map(jnp.zeros_like, way)
    total, _ = jax.lax.scan(add, zero, shares)
    return jax.tree.map(lambda w, t: w * t / num_steps, way, total)

  return jax.vmap(one)(inputs)
