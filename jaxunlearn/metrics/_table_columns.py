"""Mixed tables under weights, checked; for their columns see `core.columns`."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.columns import Columns
from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows


class Table(NamedTuple):
  """Rows under weights.

  Attributes:
    values: float [N, D], what is not finite replaced by 0.
    weights: float [N], >= 0.
    is_usable: bool [], whether some row counts and every one that counts is
      finite.
  """

  values: jax.Array
  weights: jax.Array
  is_usable: jax.Array


def table_of(
  values: jax.Array, weights: jax.Array | None, layout: Columns, name: str
) -> Table:
  """Checks a table and puts it in order.

  Args:
    values: float or int [N, D].
    weights: None, bool [N] or float [N] >= 0.
    layout: of its columns.
    name: what messages call it.

  Raises:
    ValueError: another number of columns; of concrete values: fewer than 2 rows
      that count, a row that counts with a missing or infinite value, a code
      that is no whole number in 0 .. K - 1, a negative weight.
  """
  shaped(f"{name} [N, {layout.num_columns}]", values)
  values = _rows.widened(values, "values")
  weights = _rows.weights_of(weights, values)
  if checks.is_concrete(values) and checks.is_concrete(weights):
    _check_values(np.asarray(values), np.asarray(weights), layout, name)
  finite = jnp.isfinite(values)
  counted = weights > 0
  usable = jnp.where(counted, finite.all(axis=1), True).all() & counted.any()
  return Table(
    jnp.where(finite, values, 0), jnp.where(counted, weights, 0), usable
  )


def _check_values(
  values: np.ndarray, weights: np.ndarray, layout: Columns, name: str
) -> None:
  if not (np.isfinite(weights).all() and (weights >= 0).all()):
    raise ValueError(f"Expected weights of {name} >= 0, got others.")
  counted = values[weights > 0]
  if len(counted) < 2:
    raise ValueError(
      f"Expected {name} to have at least 2 rows that count, got {len(counted)}."
    )
  bad = np.flatnonzero(~np.isfinite(counted).all(axis=0))
  if bad.size:
    raise ValueError(
      f"Expected {name} without missing or infinite values, got some in column "
      f"{bad[0]}."
    )
  for column in layout.categorical:
    codes, size = counted[:, column], layout.categories[column]
    if (
      (codes != np.floor(codes)).any()
      or codes.min() < 0
      or (codes.max() >= size)
    ):
      raise ValueError(
        f"Expected codes 0 .. {size - 1} in column {column} of {name}, got "
        f"{codes.min():g} .. {codes.max():g}."
      )


def one_hot(values: jax.Array, layout: Columns) -> jax.Array:
  """Every level of every categorical column as 0 or 1: [N, L]."""
  codes = values[:, layout.level_column]
  return (codes == layout.level_code[None]).astype(values.dtype)


def shares(table: Table, layout: Columns) -> jax.Array:
  """The share of rows that have each level: [L]."""
  total = table.weights.sum()
  return table.weights @ one_hot(table.values, layout) / safe(total)


def safe(x: jax.Array) -> jax.Array:
  """`x` with ones in the place of zeros: a divisor."""
  return jnp.where(x == 0, 1, x)


def mean_and_std(table: Table) -> tuple[jax.Array, jax.Array]:
  """Mean and population standard deviation of every column, each [D].

  A column of one value has a standard deviation of exactly 0.
  """
  low, high = limits(table)
  values, weights = table.values, table.weights
  total = safe(weights.sum())
  # Around a value in the midst of the column, so that float32 suffices.
  shift = jnp.where(high > low, low + (high - low) / 2, low)
  off = values - shift[None]
  mean = weights @ off / total
  variance = weights @ (off - mean[None]) ** 2 / total
  std = jnp.where(high > low, jnp.sqrt(variance), 0)
  return shift + mean, std


def limits(table: Table) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value of every column, each [D]."""
  counted = (table.weights > 0)[:, None]
  values = table.values
  low = jnp.where(counted, values, jnp.inf).min(axis=0, initial=jnp.inf)
  high = jnp.where(counted, values, -jnp.inf).max(axis=0, initial=-jnp.inf)
  return low, high


def median(table: Table) -> jax.Array:
  """Weighted median of every column [D]: half of the weight on either side.

  With equal weights NumPy's: of an even number the mean of the middle two.
  """
  order = jnp.argsort(table.values, axis=0)
  values = jnp.take_along_axis(table.values, order, axis=0)
  reached = jnp.cumsum(table.weights[order], axis=0)
  half = table.weights.sum() / 2
  lower = jnp.argmax(reached >= half, axis=0)
  upper = jnp.argmax(reached > half, axis=0)
  pick = lambda rows: jnp.take_along_axis(values, rows[None], axis=0)[0]
  return (pick(lower) + pick(upper)) / 2


def relative_error(real: jax.Array, fake: jax.Array) -> jax.Array:
  """|real - fake| / (|real| + 1e-6), at most 1."""
  return jnp.clip(jnp.abs(real - fake) / (jnp.abs(real) + 1e-6), 0, 1)


def published_error(real: jax.Array, fake: jax.Array) -> jax.Array:
  """|real - fake| / |real + 1e-6|, at most 1, as the authors' code has it."""
  return jnp.clip(jnp.abs(real - fake) / jnp.abs(real + 1e-6), 0, 1)


def unit_scaled(table: Table, low: jax.Array, high: jax.Array) -> jax.Array:
  """Columns scaled by given limits to [0, 1]; a constant one becomes 0."""
  spread = high - low
  scaled = (table.values - low[None]) / safe(spread)[None]
  return jnp.where((table.weights > 0)[:, None], scaled, 0)
