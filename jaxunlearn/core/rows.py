"""Rows on their way in: a part that is held out."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.types import PyTree


def split_rows(
  data: PyTree,
  key: jax.Array,
  held_out: float = 0.2,
  *,
  by: jax.Array | None = None,
) -> tuple[PyTree, PyTree]:
  """Rows to train on and rows that are held out, at random.

  Args:
    data: pytree of arrays [N, ...].
    key: PRNG key; the same key, the same split.
    held_out: share of the rows, in (0, 1), rounded down to whole rows.
    by: None, or [N] (labels, owners): of each value the share is held out, give
      or take a row.

  Returns:
    `(kept, held_out)`, rows in the order of the data.

  Raises:
    ValueError: a share that leaves one side empty, `by` of another length.

  Example:
    >>> kept, out = split_rows({"x": jnp.arange(10)}, jax.random.key(0), 0.3)
    >>> len(kept["x"]), len(out["x"])
    (7, 3)
  """
  n = checks.num_rows(data)
  if not 0 < held_out < 1 or not 1 <= math.floor(n * held_out) < n:
    raise ValueError(
      f"Expected held_out to leave some of {n} rows on either side, got "
      f"{held_out}."
    )
  order = jax.random.permutation(key, n)
  if by is not None:
    by = arrays(f"by [{n}]", by)
    order = order[jnp.argsort(by[order], stable=True)]
  # Evenly spaced places of rows that lie by value: each value has its share.
  place = jnp.arange(math.floor(n * held_out)) / math.floor(n * held_out) * n
  out = jnp.zeros(n, bool).at[order[jnp.floor(place).astype(int)]].set(True)
  rows = jnp.nonzero(~out)[0], jnp.nonzero(out)[0]
  kept, aside = (
    jax.tree.map(lambda leaf, own=own: jnp.asarray(leaf)[own], data)
    for own in rows
  )
  return kept, aside
