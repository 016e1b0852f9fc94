"""How far chance moves the scores of a synthetic table: the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core.columns import columns_of
from jaxunlearn.core.training import map_many
from jaxunlearn.metrics._table_columns import table_of
from jaxunlearn.metrics.tabsyndex import TabSynDex, Weights, tabsyndex

# Standard deviations on either side of the mean that hold 90 % of a normal law.
_REACH = 1.6449


class Bands(NamedTuple):
  """Scores and how far chance moves them; each a `TabSynDex`.

  Attributes:
    score: of the tables as they are.
    std: standard deviation over resamples.
    low: score - 1.645 std, at least 0.
    high: score + 1.645 std; together about 90 %.
  """

  score: TabSynDex
  std: TabSynDex
  low: TabSynDex
  high: TabSynDex


def tabsyndex_bands(
  real: jax.Array,
  fake: jax.Array,
  key: jax.Array,
  *,
  categories: Sequence[int],
  num_resamples: int = 50,
  strategy: str | int = "vmap",
  efficacy: str | None = "jax",
  real_weights: jax.Array | None = None,
  fake_weights: jax.Array | None = None,
  **options: Any,
) -> Bands:
  """Scores a synthetic table, with bands by the bootstrap.

  Every resample multiplies the weights of both tables' rows by Poisson counts
  of mean 1. Repeated rows make a resample noisier than a table, so that its
  scores lie lower: only their spread is used, not where they lie.

  Args:
    real: float [N, D]; no frame, see `encode_frames`.
    fake: float [M, D].
    key: PRNG key.
    categories: see `tabsyndex`.
    num_resamples: static, > 1.
    strategy: static; see `core.training.map_many`. An int k takes k resamples
      at a time.
    efficacy: "jax", or None. With "sklearn" models are fitted once: the spread
      is that of the other four and of their part of the total.
    real_weights: see `tabsyndex`.
    fake_weights: see `tabsyndex`.
    **options: further ones of `tabsyndex`.

  Returns:
    See `Bands`; of `correlation_is_nan` the share of resamples stands in std.

  Raises:
    ValueError: as `tabsyndex`; num_resamples < 2.

  Example:
    >>> import jax
    >>> from jaxunlearn import metrics
    >>> rows = jax.random.normal(jax.random.key(0), (20, 2))
    >>> bands = metrics.tabsyndex_bands(
    ...   rows, rows, jax.random.key(1), categories=(0, 0), num_resamples=4,
    ...   efficacy=None)
    >>> round(float(bands.score.basic), 3), bands.std.basic.shape
    (1.0, ())
  """
  if num_resamples < 2:
    raise ValueError(f"Expected num_resamples > 1, got {num_resamples}.")
  score_key, draw_key = jax.random.split(key)
  options = {"categories": tuple(categories), **options}
  layout = columns_of(categories, at_least=2)
  tables = (
    table_of(real, real_weights, layout, "real"),
    table_of(fake, fake_weights, layout, "fake"),
  )
  learnt = None
  if efficacy == "sklearn":
    learnt = tabsyndex(
      real,
      fake,
      score_key,
      efficacy=efficacy,
      weights=Weights(real_weights, fake_weights),
      **options,
    ).efficacy

  def scored(key: jax.Array, is_resampled: jax.Array) -> TabSynDex:
    weights = [
      jnp.where(is_resampled, _resampled(t.weights, k), t.weights)
      for t, k in zip(tables, jax.random.split(key))
    ]
    found = tabsyndex(
      tables[0].values,
      tables[1].values,
      score_key,
      efficacy=None if efficacy == "sklearn" else efficacy,
      weights=Weights(*weights),
      **options,
    )
    if learnt is None:
      return found
    found = found._replace(efficacy=learnt)
    return found._replace(total=jnp.stack(found[1:6]).mean())

  # The first lane is the tables as they are: one program for all.
  keys = jax.random.split(draw_key, num_resamples + 1)
  lanes = jnp.arange(num_resamples + 1) > 0
  every = map_many(scored, keys, lanes, strategy=strategy)
  usable = tables[0].is_usable & tables[1].is_usable
  score = jax.tree.map(lambda x: x[0], every)
  # Rows that are not finite were blanked before the lanes could see them.
  seen = lambda x: jnp.where(usable, x, jnp.nan) if x.dtype != bool else x
  score = jax.tree.map(seen, score)
  many = jax.tree.map(lambda x: x[1:], every)
  std = jax.tree.map(lambda x: x.astype(float).std(axis=0, ddof=1), many)
  std = std._replace(correlation_is_nan=many.correlation_is_nan.mean())
  low = jax.tree.map(lambda s, d: jnp.maximum(s - _REACH * d, 0), score, std)
  high = jax.tree.map(lambda s, d: s + _REACH * d, score, std)
  capped = [jnp.minimum(x, 1) for x in high[:6]]
  return Bands(score, std, low, TabSynDex(*capped, *high[6:]))


def _resampled(weights: jax.Array, key: jax.Array) -> jax.Array:
  counts = jax.random.poisson(key, 1.0, weights.shape)
  return weights * counts.astype(weights.dtype)
