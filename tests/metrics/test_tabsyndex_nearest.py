"""Distances of rows to the nearest of some records."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.metrics.tabsyndex_nearest import nearest_record_distance

KINDS = (0, 3, 0)


@functools.partial(jax.jit, static_argnames="chunk_size")
def distance(rows, records, rw=None, cw=None, chunk_size=4):
  return nearest_record_distance(
    rows,
    records,
    categories=KINDS,
    row_weights=rw,
    record_weights=cw,
    chunk_size=chunk_size,
  )


def table(n, seed):
  rng = np.random.default_rng(seed)
  return np.column_stack(
    [rng.normal(size=n), rng.integers(0, 3, n), 9 * rng.random(n)]
  ).astype(np.float32)


def slow(rows, records):
  spread = rows.max(axis=0) - rows.min(axis=0)
  gap = np.abs(rows[:, None] - records[None]) / spread
  gap[..., 1] = rows[:, None, 1] != records[None, :, 1]
  return gap.mean(axis=2).min(axis=1)


def test_distances_are_those_of_numpy_whatever_the_chunk():
  rows, records = table(10, 0), table(23, 1)
  for size in (1, 4, 50):
    found = distance(rows, records, chunk_size=size)
    np.testing.assert_allclose(found, slow(rows, records), rtol=1e-5)


def test_what_does_not_count_is_not_met():
  rows, records = table(10, 0), table(23, 1)
  keep, kept = np.arange(10) < 7, np.arange(23) < 15
  found = distance(
    np.where(keep[:, None], rows, np.nan),
    np.where(kept[:, None], records, np.nan),
    jnp.asarray(keep),
    jnp.asarray(kept),
  )
  np.testing.assert_allclose(found[:7], slow(rows[:7], records[:15]), rtol=1e-5)
  assert np.isnan(found[7:]).all()


def test_a_number_without_range_counts_as_a_category():
  rows, records = table(10, 0), table(23, 1)
  rows[:, 2] = 500
  records[:5, 2] = 500
  spread = np.ptp(rows[:, 0])
  gap = np.abs(rows[:, None] - records[None])
  gap = np.stack([gap[..., 0] / spread, *(gap[..., 1:] > 0).T.swapaxes(1, 2)])
  wanted = gap.mean(axis=0).min(axis=1)
  np.testing.assert_allclose(distance(rows, records), wanted, rtol=1e-5)


def test_a_chunk_of_nothing_is_refused():
  with pytest.raises(ValueError, match="chunk_size > 0, got chunk_size=0"):
    distance(table(5, 0), table(5, 1), chunk_size=0)
