"""The table: one row per method, request and seed, of declared columns only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxunlearn import report
from jaxunlearn.report.results import IDENTITY

from .study import (
  RETRAINED,
  Evidence,
  Measure,
  Plan,
)

FINITE = report.Metric(
  "is_finite",
  "Finite",
  "Share of models without nan or inf, in their parameters and outputs. A model "
  "that diverged has no other number, and its method is not ranked.",
  "%",
  0,
  report.HIGHER,
)
SPEEDUP = report.Metric(
  "speedup",
  "Faster than retraining",
  "Time of retraining over that of the method, for one request by itself; both "
  "took turns on the same machine, once per seed.",
  "times",
  1,
  report.HIGHER,
  headline=True,
)
TUNED = report.Metric(
  "is_tuned",
  "Settings tuned",
  "Whether the settings were chosen on rows, requests and seeds that the report "
  "is not about; else they are by hand.",
  "%",
  0,
)
ALONE = report.Metric(
  "seconds_alone",
  "One request alone",
  "Time of the first request by itself, compilation apart.",
  "s",
  3,
  report.LOWER,
)


def shared(name: str, **changes: Any) -> report.Metric:
  """A definition that the reports share, worded for a study."""
  return report.describe(name)._replace(**changes)


def definitions(plan: Plan) -> tuple[report.Metric, ...]:
  """How to show each column; the frame's own, then those of the measures."""
  seconds = [
    report.describe(name) for name in ("seconds_run", "seconds_compile")
  ]
  if plan.study.time_alone:
    # The speed-up stands in the main table for it.
    seconds[0] = seconds[0]._replace(headline=False)
    seconds += [SPEEDUP, ALONE]
  return (
    *plan.metrics,
    FINITE,
    TUNED,
    report.describe("forget_rows"),
    *seconds,
  )


def rows(evidence: Evidence) -> list[dict[str, Any]]:
  """The rows of the results.

  Raises:
    ValueError: a column that no measure declares.
  """
  plan = evidence.plan
  arrays = {name for m in plan.measures for name in m.arrays}
  made = []
  for method, found in evidence.found.items():
    columns = {k: v for k, v in found.values.items() if k not in arrays}
    # Of a model that diverged nothing is left, whatever could be computed.
    columns = {
      k: np.where(found.is_finite, v, np.nan) for k, v in columns.items()
    }
    columns["is_finite"] = found.is_finite
    columns["forget_rows"] = plan.requests.added.sum(axis=-1).ravel()
    columns |= _times(evidence, method)
    if method in plan.methods and plan.study.methods[method].space:
      is_tuned = method in evidence.tuned or method in plan.origins
      columns["is_tuned"] = np.full(len(plan.lanes[0]), is_tuned)
    made += [
      {
        "method": method,
        "request": plan.requests.names[int(request)],
        "seed": plan.seeds[int(seed)],
        "seconds_compile": found.seconds_compile,
        "seconds_run": found.seconds_run,
        **{name: float(v[lane]) for name, v in columns.items()},
      }
      for lane, (request, seed) in enumerate(zip(*plan.lanes))
      if seed == 0 or method not in plan.study.single
    ]
  check_declared(made, definitions(plan))
  return made


def check_declared(
  rows: Sequence[Mapping[str, Any]], metrics: Sequence[report.Metric]
) -> None:
  """Raises a ValueError for a column that no definition declares."""
  known = {metric.name for metric in metrics} | set(IDENTITY)
  unknown = sorted({name for row in rows for name in row} - known)
  if unknown:
    raise ValueError(f"Expected columns that are declared, got {unknown[0]}.")


def gap(
  names: Sequence[str],
  explanation: str | None = None,
  *,
  name: str = "retrained_gap",
  relative: bool = False,
  **shown: Any,
) -> Measure:
  """The mean absolute difference to the retrained model over some columns.

  Args:
    names: the columns; a row that lacks one has no gap.
    explanation: of what it is a mean; None for the shared words.
    name: its own.
    relative: whether differences count in shares of the retrained model's value.
    **shown: fields of `report.Metric`, such as `unit`.
  """

  def after(evidence: Evidence, method: str) -> Mapping[str, Any]:
    own, theirs = (evidence.found[m].values for m in (method, RETRAINED))
    differences = [
      np.abs(own[k] / theirs[k] - 1 if relative else own[k] - theirs[k])
      for k in names
    ]
    return {name: np.mean(differences, axis=0)}

  if explanation is not None:
    shown["explanation"] = explanation
  metric = shared(name, **shown)
  return Measure((metric,), after=after)


def _times(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
  if not evidence.alone:
    return {}
  retraining = evidence.alone[RETRAINED]
  alone = evidence.alone.get(method, np.full_like(retraining, np.nan))
  of_seed = evidence.plan.lanes[1]
  return {
    "seconds_alone": alone[of_seed],
    "speedup": (retraining / alone)[of_seed],
  }
