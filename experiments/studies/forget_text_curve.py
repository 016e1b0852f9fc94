"""What is kept at equal forgetting: methods that are stopped on their way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxunlearn import report

from .. import bench

# arXiv:2404.05868 holds the first against the others.
STOPPED = ("npo", "gradient_ascent", "grad_diff")
_FORGET, _RETAIN = "forget_em", "retain_em"


def sweeps(plan: bench.Plan) -> dict[str, dict[str, tuple[float, ...]]]:
  """Shares of the steps, the last all of them, for the methods that are there."""
  count = plan.options.curve
  if count is None:
    return {}
  shares = tuple(float(s) for s in np.arange(1, count + 1) / count)
  return {n: {"share": shares} for n in STOPPED if n in plan.methods}


def curves(evidence: bench.Evidence) -> dict[str, Any]:
  """Shares [K] from 0 on, and by column and method exact match [lanes, K]."""
  plan = evidence.plan
  shares = next(iter(sweeps(plan).values()))["share"]
  found = {
    column: {
      name: np.stack(
        [evidence.found[bench.ORIGINAL].values[column]]
        + [each.values[column] for each in swept],
        axis=-1,
      )
      for name, swept in evidence.swept.items()
    }
    for column in (_FORGET, _RETAIN)
  }
  return {"share": (0.0, *shares), **found}


def kept_at(forget: np.ndarray, retain: np.ndarray, level: float) -> float:
  """Retain exact match where the forget one first falls to a level; nan if never.

  Args:
    forget: [K], along the way.
    retain: [K].
    level: in [0, 1].
  """
  below = np.flatnonzero(forget <= level)
  if not len(below):
    return np.nan
  last = below[0]
  if last == 0:
    return float(retain[0])
  width = forget[last - 1] - forget[last]
  part = (forget[last - 1] - level) / width
  return float(retain[last - 1] + part * (retain[last] - retain[last - 1]))


def at_equal_forgetting(
  evidence: bench.Evidence, levels: tuple[float, ...] = (0.75, 0.5, 0.25, 0.1)
) -> Mapping[float, Mapping[str, float]]:
  """By level of forget exact match the mean of what is kept, by method."""
  found = curves(evidence)
  return {
    level: {
      name: float(
        np.mean(
          [
            kept_at(*lane, level)
            for lane in zip(found[_FORGET][name], found[_RETAIN][name])
          ]
        )
      )
      for name in evidence.swept
    }
    for level in levels
  }


def findings(evidence: bench.Evidence) -> list[str]:
  """What each method keeps where all have forgotten as much."""
  if not evidence.swept:
    return []
  told = []
  for level, kept in at_equal_forgetting(evidence).items():
    each = ", ".join(
      f"{name} {'never gets there' if np.isnan(v) else format(v, '.1%')}"
      for name, v in kept.items()
    )
    told.append(
      f"Where exact match on rows to be forgotten has fallen to {level:.0%}, that "
      f"on rows to be kept is: {each}."
    )
  return told


def panels(evidence: bench.Evidence) -> dict[str, tuple[Any, str]]:
  """Exact match along the way."""
  if not evidence.swept:
    return {}
  found = curves(evidence)
  shown = {
    "Exact match, forget": found[_FORGET],
    "Exact match, retain": found[_RETAIN],
  }
  return {
    "curve": (
      report.curve_panels(found["share"], shown, x_label="share of the steps"),
      "Exact match of methods that are stopped on their way; 0 is the original. "
      "Bands go from the lowest to the highest lane.",
    )
  }


def files(evidence: bench.Evidence) -> dict[str, Any]:
  """The curves as numbers."""
  if not evidence.swept:
    return {}
  equal = {str(k): v for k, v in at_equal_forgetting(evidence).items()}
  return {"curve.json": {**curves(evidence), "at_equal_forgetting": equal}}
