"""Which rows train, which test, and which choose settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

REPORT, SELECT = "report", "select"


def split_rows(
  count: int,
  seed: int,
  part: str,
  *,
  test_share: float,
  select_share: float = 0.1,
  limit: int | None = None,
  pinned: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to train on and rows to test on, drawn once per seed.

  Some rows are set aside for choosing settings. They are the same for every seed,
  so that no report is ever about a row that a setting was chosen on.

  Args:
    count: rows in all.
    seed: of the draw among the others.
    part: `REPORT`, or `SELECT` for the rows set aside in the place of test rows.
    test_share: of all rows; one row at least.
    select_share: likewise.
    limit: at most so many rows in all, for a quick look; None takes all.
    pinned: bool [count], rows that have to be trained on, as requests name them.

  Returns:
    Row numbers in order, int [N] and [M]; no row is in both.

  Raises:
    ValueError: more than half of the rows are pinned.
  """
  order = np.random.default_rng(0).permutation(count)
  named = np.zeros(count, bool) if pinned is None else pinned
  limit = count if limit is None else min(limit, count)
  if 2 * named.sum() > limit:
    raise ValueError(
      f"Expected --request to name at most half of {limit} rows, got "
      f"{named.sum()}."
    )
  order = order[~named[order]][: limit - named.sum()]
  size = lambda share: max(1, round(share * limit))
  select, rest = np.split(order, [size(select_share)])
  rest = np.random.default_rng((seed, 1)).permutation(rest)
  test, train = np.split(rest, [size(test_share)])
  train = np.append(train, np.flatnonzero(named))
  return np.sort(train), np.sort(select if part == SELECT else test)


def per_seed(arrays: Sequence[Any], are_same: bool = False) -> tuple[Any, Any]:
  """The `shared` and `of_seed` of `bench.Beds` from the arrays of each seed.

  Args:
    arrays: one pytree per seed, with the same shapes.
    are_same: whether the first one serves all seeds.
  """
  if are_same:
    return arrays[0], np.zeros(len(arrays))
  return None, jax.tree.map(lambda *leaves: np.stack(leaves), *arrays)
