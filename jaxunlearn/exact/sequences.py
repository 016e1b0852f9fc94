"""In which orders slices are learned; chosen before any request is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxunlearn.core import checks


def sequences(
  num_slices: int,
  count: int,
  how: str = "cyclic",
  *,
  risk: Sequence[float] | np.ndarray | None = None,
  key: jax.Array | None = None,
) -> np.ndarray:
  """Orders of slices, one per sequence.

  Args:
    num_slices: L.
    count: B, at most L!.
    how: "cyclic", rotations, and after the first L of them rotations of what
      follows the first slice, and so on; L! of them are all orders. "sampled",
      slice after slice at random, one of low risk sooner. "budgeted", B <= L
      sequences grown together: each step gives every sequence another slice, so
      that the chance that they outlive a deletion is highest in all.
    risk: for the latter two, the probability [L] that a deletion hits a slice,
      each in [0, 1); equal by default.
    key: PRNG key of "sampled".

  Returns:
    int32 [B, L], each row a permutation; on the host.

  Raises:
    ValueError: counts out of range, an unknown way, risks that are none.

  Example:
    >>> from jaxunlearn import exact
    >>> exact.sequences(3, 4).tolist()
    [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]]
    >>> exact.sequences(3, 1, "budgeted", risk=[0.5, 0.1, 0.2]).tolist()
    [[1, 2, 0]]
  """
  checks.count(num_slices=num_slices, count=count)
  checks.one_of(("cyclic", "sampled", "budgeted"), how=how)
  most = num_slices if how == "budgeted" else math.factorial(num_slices)
  if count > most:
    raise ValueError(f"Expected count <= {most}, got count={count}.")
  risk = np.full(num_slices, 1 / (num_slices + 1)) if risk is None else risk
  risk = np.asarray(risk, np.float64)
  if risk.shape != (num_slices,) or not ((risk >= 0) & (risk < 1)).all():
    raise ValueError(
      f"Expected risk [{num_slices}] in [0, 1), got {np.asarray(risk)}."
    )
  if how == "cyclic":
    everything = list(range(num_slices))
    made: Any = [_rotated(everything, i) for i in range(count)]
  elif how == "sampled":
    checks.typed_key(key)
    made = _sampled(1 - risk, count, key)
  else:
    made = _budgeted(risk, count)
  return np.asarray(made, np.int32)


def _rotated(items: list[int], number: int) -> list[int]:
  """The order of that number; the first `len(items)` are rotations."""
  if not items:
    return []
  head = number % len(items)
  turned = items[head:] + items[:head]
  return turned[:1] + _rotated(turned[1:], number // len(items))


def _sampled(weight: np.ndarray, count: int, key: Any) -> np.ndarray:
  seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
  rng = np.random.default_rng(seed)
  draw = lambda: rng.choice(
    len(weight), len(weight), replace=False, p=weight / weight.sum()
  )
  return np.stack([draw() for _ in range(count)])


def _budgeted(risk: np.ndarray, count: int) -> np.ndarray:
  """Matchings of sequences with next slices, of the highest survival."""
  from scipy.optimize import linear_sum_assignment

  made = np.zeros((count, 0), int)
  hit = np.zeros(count)  # The chance that a deletion hits what is there.
  for _ in range(len(risk)):
    survival = 1 - hit[:, None] - risk[None]
    used = (made[:, :, None] == np.arange(len(risk))).any(axis=1)
    # Each step leaves a Latin rectangle, which can always be extended.
    _, chosen = linear_sum_assignment(
      np.where(used, -1e6, survival), maximize=True
    )
    made = np.concatenate([made, chosen[:, None]], axis=1)
    hit = hit + risk[chosen]
  return made
