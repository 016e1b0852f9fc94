"""LiRA, here, in NumPy and in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks.lira import lira_scores
from jaxunlearn.attacks.shadow import shadow_masks

from .peers_harness import Case, Peer, Scores
from .peers_tasks import Sizes


def scoring(sizes: Sizes) -> Iterator[Case]:
  """Online LiRA, a normal distribution a row, medians as centres."""
  import torch

  from . import peers_torch

  count, num_rows = sizes.shadows, sizes.scored
  rng = np.random.default_rng(0)
  masks = np.array(shadow_masks(jax.random.key(0), count, num_rows))
  noise = rng.normal(size=(count, num_rows, 2))
  statistics = (noise + masks[..., None]).astype(np.float32)
  target = rng.normal(size=(num_rows, 2)).astype(np.float32)
  arrays = (target, statistics, masks)
  torch_arrays = tuple(torch.from_numpy(a) for a in arrays)
  # Medians and spreads in float64, all rows at once.
  expected = lira_in_numpy(*(a.astype(a.dtype) for a in arrays))

  def scores(found: Any) -> Scores:
    error = np.abs(np.asarray(found) - expected) / (1 + np.abs(expected))
    return {"largest_error": float(error.max())}

  yield Case(
    "lira",
    f"online LiRA, {num_rows:,} rows, {count} shadows, 2 queries",
    lambda *arrays: lira_scores(*arrays),
    lambda seed: tuple(jnp.asarray(a) for a in arrays),
    scores,
    (
      Peer("NumPy, row by row", lambda _: lira_by_row(*arrays), scores),
      Peer("NumPy, all rows", lambda _: lira_in_numpy(*arrays), scores),
      Peer(
        "PyTorch, all rows",
        lambda _: peers_torch.lira(*torch_arrays).numpy(),
        scores,
        lambda: peers_torch.lira(*torch_arrays),
      ),
    ),
    {"largest_error": 1e-3},
  )


def lira_by_row(
  target: np.ndarray, statistics: np.ndarray, masks: np.ndarray
) -> np.ndarray:
  """The loop over rows in which the reference is written; [N]."""
  found = []
  for row in range(target.shape[0]):
    densities = []
    for member in (True, False):
      values = statistics[masks[:, row] == member, row]
      middle, std = np.median(values, axis=0), np.std(values, axis=0)
      z = (target[row] - middle) / std
      densities.append(-0.5 * z**2 - np.log(std))
    found.append((densities[0] - densities[1]).mean())
  return np.array(found)


def lira_in_numpy(
  target: np.ndarray, statistics: np.ndarray, masks: np.ndarray
) -> np.ndarray:
  """The same of balanced masks, without a loop over rows; [N]."""
  order = np.argsort(~masks, axis=0, kind="stable")[..., None]
  grouped = np.take_along_axis(statistics, order, axis=0)
  members = int(masks[:, 0].sum())

  def log_density(values: np.ndarray) -> np.ndarray:
    middle, std = np.median(values, axis=0), np.std(values, axis=0)
    return -0.5 * ((target - middle) / std) ** 2 - np.log(std)

  both = log_density(grouped[:members]) - log_density(grouped[members:])
  return both.mean(axis=1)
