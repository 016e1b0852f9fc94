"""Statistics of columns, one by one: the basic score and support coverage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.columns import Columns
from jaxunlearn.metrics._table_columns import (
  Table,
  limits,
  mean_and_std,
  median,
  one_hot,
  published_error,
  relative_error,
  safe,
  shares,
)

NUM_BINS = 20
_MAX_RATIO = 2.0  # Published: a bin may have twice its share and make up so.


def published_basic(real: Table, fake: Table) -> jax.Array:
  """S1: 1 minus the mean relative error of means, deviations and medians.

  Over all columns, codes of categories taken as numbers.
  """
  of = lambda table: jnp.stack([*mean_and_std(table), median(table)])
  return 1 - published_error(of(real), of(fake)).mean()


def fixed_basic(real: Table, fake: Table, layout: Columns) -> jax.Array:
  """S1 that depends on neither origin nor unit nor the order of codes.

  A column of numbers has errors of mean and median in units of the real
  standard deviation, and the relative error of the standard deviation, each at
  most 1. A column of categories has the total variation distance of its shares.
  """
  columns = layout.numeric
  (mean, std), (fake_mean, fake_std) = map(mean_and_std, (real, fake))
  places = jnp.stack([mean, median(real)])
  fake_places = jnp.stack([fake_mean, median(fake)])
  off = jnp.abs(places - fake_places)
  # Of a constant column: right is the constant and nothing else.
  scaled = jnp.where(
    (std > 0)[None], off / safe(std)[None], (off > 0).astype(off.dtype)
  )
  spread = relative_error(std, fake_std)
  numbers = (jnp.clip(scaled, 0, 1).sum(axis=0) + spread)[columns] / 3
  variation = jnp.abs(shares(real, layout) - shares(fake, layout)) / 2
  total = numbers.sum() + variation.sum()
  return 1 - total / layout.num_columns


def support(
  real: Table, fake: Table, layout: Columns, *, is_published: bool
) -> jax.Array:
  """S5 of every column [D]: how much of the real support has its rows.

  Bins of equal width over the real range, closed on the right, or categories;
  of each that has real rows the ratio of its share in the fake to that in the
  real table, at most 2 (published) or 1; the mean over them, at most 1.
  """
  cap = _MAX_RATIO if is_published else 1.0
  rows, fake_rows = real.weights.sum(), fake.weights.sum()

  def mean_ratio(count, fake_count):
    ratio = fake_count / safe(count) * rows / safe(fake_rows)
    used = count > 0
    return jnp.where(used, jnp.minimum(ratio, cap), 0), used

  edges = _edges(real)[:, layout.numeric]
  count = _binned(real, edges, layout)
  ratio, used = mean_ratio(count, _binned(fake, edges, layout))
  numbers = ratio.sum(axis=1) / safe(used.sum(axis=1))

  totals = [t.weights @ one_hot(t.values, layout) for t in (real, fake)]
  ratio, used = mean_ratio(*totals)
  member = membership(layout, ratio.dtype)
  codes = ratio @ member / safe(used.astype(ratio.dtype) @ member)

  found = jnp.zeros(layout.num_columns, ratio.dtype)
  found = found.at[layout.numeric].set(numbers.astype(ratio.dtype))
  return jnp.minimum(found.at[layout.categorical].set(codes), 1)


def membership(layout: Columns, dtype: jnp.dtype) -> jax.Array:
  """Which categorical column each level belongs to, as 0 and 1: [L, D_c]."""
  groups = np.arange(len(layout.categorical))
  return jnp.asarray(layout.level_group[:, None] == groups[None], dtype)


def _edges(real: Table) -> jax.Array:
  """Edges [21, D] of the bins, the lowest moved down a little."""
  low, high = limits(real)
  is_flat = low == high
  widened = jnp.where(low == 0, 0.001, 0.001 * jnp.abs(low))
  low = jnp.where(is_flat, low - widened, low)
  high = jnp.where(is_flat, high + widened, high)
  span = high - low
  inner = jnp.arange(NUM_BINS + 1, dtype=low.dtype)[:, None]
  # First the product: whole numbers then fall on edges exactly.
  edges = low[None] + span[None] * inner / NUM_BINS
  edges = edges.at[-1].set(high)
  # Down at all: beside a large origin a thousandth of the range is rounded off.
  lowest = jnp.minimum(low - 0.001 * span, jnp.nextafter(low, -jnp.inf))
  return edges.at[0].set(jnp.where(is_flat, low, lowest))


def _binned(table: Table, edges: jax.Array, layout: Columns) -> jax.Array:
  """The weight in each bin of the columns of numbers: [D_n, 20]."""
  values = table.values[:, layout.numeric]
  place = jax.vmap(lambda e, v: jnp.searchsorted(e, v, side="left"))(
    edges.T, values.T
  )
  # Place 0 and 21 are below and above the range.
  add = lambda p: jnp.zeros(NUM_BINS + 2, values.dtype).at[p].add(table.weights)
  return jax.vmap(add)(place)[:, 1:-1]
