"""How near synthetic rows come to given ones: does a generator repeat a row?"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxunlearn.core.columns import columns_of
from jaxunlearn.core.per_example import map_chunks
from jaxunlearn.metrics._table_columns import (
  limits,
  safe,
  table_of,
)


def nearest_record_distance(
  rows: jax.Array,
  records: jax.Array,
  *,
  categories: Sequence[int],
  row_weights: jax.Array | None = None,
  record_weights: jax.Array | None = None,
  chunk_size: int = 64,
) -> jax.Array:
  """Gower's distance of each row to the nearest of some records.

  The mean over columns of |difference| / range for numbers, the range being
  that of the rows that count, and of 0 or 1 for categories and for numbers that
  are all the same there. A few rows have a poor range: give the entire table and
  read the entries of the request. Given the rows of a request and
  the draws of a generator, it is larger where the generator does not repeat
  them; in expectation that of a generator that was trained without them, as
  large as for other rows of the same law.

  Args:
    rows: float [N, D], such as the table that a generator was trained on.
    records: float [M, D], such as synthetic rows.
    categories: static; see `tabsyndex`.
    row_weights: None, bool or float [N]; rows of weight 0 give nan.
    record_weights: None, bool or float [M]; records of weight 0 do not exist.
    chunk_size: static; rows at a time: memory holds chunk_size M D numbers.

  Returns:
    [N], >= 0; nan where nothing counts.

  Raises:
    ValueError: as `tabsyndex`; chunk_size < 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> table = jnp.array([[0.0, 0.0], [10.0, 1.0]])
    >>> synthetic = jnp.array([[5.0, 0.0], [9.0, 1.0]])
    >>> found = metrics.nearest_record_distance(
    ...   table, synthetic, categories=(0, 2))
    >>> print(found)
    [0.25 0.05]
  """
  layout = columns_of(categories, at_least=2)
  table = table_of(rows, row_weights, layout, "rows")
  others = table_of(records, record_weights, layout, "records")
  low, high = limits(table)
  is_number = jnp.asarray([k == 0 for k in layout.categories]) & (high > low)
  spread = safe(high - low)
  exists = others.weights > 0

  def of(chunk: jax.Array) -> jax.Array:
    gap = jnp.abs(chunk[:, None] - others.values[None])
    apart = jnp.where(
      is_number[None, None], gap / spread[None, None], jnp.sign(gap)
    )
    mean = apart.mean(axis=2)
    return jnp.where(exists[None], mean, jnp.inf).min(axis=1)

  found = map_chunks(of, table.values, chunk_size=chunk_size)
  usable = table.is_usable & others.is_usable
  return jnp.where(usable & (table.weights > 0), found, jnp.nan)
