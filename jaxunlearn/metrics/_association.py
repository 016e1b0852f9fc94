"""How columns of a mixed table go together, each pair by its own measure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.columns import Columns
from jaxunlearn.metrics._table_columns import (
  Table,
  mean_and_std,
  one_hot,
  published_error,
  safe,
)
from jaxunlearn.metrics._table_statistics import membership


def associations(table: Table, layout: Columns) -> jax.Array:
  """Pearson, correlation ratio or Theil's U of every pair: [D, D].

  Numbers with numbers: Pearson's r, signed. Categories with numbers: the
  correlation ratio, the same both ways. Categories with categories: Theil's U,
  entry [i, j] = U(j given i), the share of j's entropy that i explains. The
  diagonal is 1. Rows and columns of a constant column are 0.
  """
  weights = table.weights / safe(table.weights.sum())
  mean, std = mean_and_std(table)
  z = (table.values - mean[None]) / safe(std)[None]
  z = z[:, layout.numeric]
  hot = one_hot(table.values, layout)
  member = membership(layout, z.dtype)

  pearson = jnp.clip(z.T @ (weights[:, None] * z), -1, 1)
  share = weights @ hot
  summed = hot.T @ (weights[:, None] * z)
  between = member.T @ (summed**2 / safe(share)[:, None])
  ratio = jnp.sqrt(jnp.clip(between, 0, 1))

  joint = hot.T @ (weights[:, None] * hot)
  entropy = member.T @ _surprise(share)
  both = member.T @ _surprise(joint) @ member
  shared = entropy[:, None] + entropy[None] - both
  theil = jnp.clip(shared / safe(entropy)[None], 0, 1)

  count = layout.num_columns
  found = jnp.zeros((count, count), z.dtype)
  numeric, codes = layout.numeric, layout.categorical
  found = found.at[np.ix_(numeric, numeric)].set(pearson)
  found = found.at[np.ix_(codes, numeric)].set(ratio)
  found = found.at[np.ix_(numeric, codes)].set(ratio.T)
  found = found.at[np.ix_(codes, codes)].set(theil)
  found = jnp.where(np.eye(count, dtype=bool), 1, found)
  varies = std > 0
  return jnp.where(varies[:, None] & varies[None], found, 0)


def _surprise(share: jax.Array) -> jax.Array:
  """-p ln p, 0 at 0."""
  return -share * jnp.log(jnp.where(share > 0, share, 1))


def published_correlation(
  real: jax.Array, fake: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """S2 by the relative error of sign * ln |association|, and whether it is nan.

  As in the authors' code: 0 where it is nan or below 0, which one association
  of exactly 0, that of a constant column for one, suffices for.
  """
  size = real.shape[0]
  log = lambda a: jnp.sign(a) * jnp.log(jnp.abs(a))
  total = published_error(log(real), log(fake)).sum() / (size**2 - size)
  is_nan = jnp.isnan(total)
  return jnp.where(is_nan, 0, jnp.maximum(1 - total, 0)), is_nan


def fixed_correlation(
  real: jax.Array, fake: jax.Array, layout: Columns
) -> jax.Array:
  """S2 by the absolute difference of associations, each in [0, 1].

  The mean over pairs of columns that both vary in the real table, halved where
  signs can differ. A column that varies there and is constant in the fake table
  has associations of 0 and so loses what there was. 1 if there is no pair.
  """
  varies = jnp.diagonal(real) > 0
  pairs = varies[:, None] & varies[None] & ~np.eye(len(varies), dtype=bool)
  is_numeric = np.array(layout.categories) == 0
  signed = is_numeric[:, None] & is_numeric[None]
  error = jnp.abs(real - fake) * np.where(signed, 0.5, 1).astype(real.dtype)
  count = pairs.sum()
  return 1 - jnp.where(pairs, error, 0).sum() / safe(count)
