"""From a plan to evidence: train, unlearn, measure; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from experiments.bench import lanes, table
from experiments.bench.study import (
  AGAIN,
  ORIGINAL,
  REFERENCES,
  RETRAINED,
  Evidence,
  Found,
  Plan,
)


def run(plan: Plan, progress: Progress) -> Evidence:
  """Trains, unlearns and measures."""
  names = plan.methods
  task = progress.add_task("training the original model", total=6 + len(names))
  done = lambda words: progress.update(task, advance=1, description=words)
  original = lanes.train(plan)
  done("retraining")
  made = {
    ORIGINAL: original._replace(
      value=lanes.at(original.value, plan.lanes[1]),
      # Of one model, as of the others.
      seconds_run=original.seconds_run * len(plan.lanes[0]) / len(plan.seeds),
    ),
    RETRAINED: lanes.serve(plan, RETRAINED, original.value),
  }
  done("retraining once more")
  made[AGAIN] = lanes.serve(plan, AGAIN, original.value)
  done("measuring these")
  measure = lanes.make_measure(plan, original.value, made[RETRAINED].value)
  evidence = Evidence(plan, {})
  for name in REFERENCES:
    evidence.found[name] = _found(plan, made[name], measure)
  _add_host_columns(evidence, REFERENCES)
  for name in names:
    done(f"unlearning by {name}")
    served = lanes.serve(plan, name, original.value)
    evidence.found[name] = _found(plan, served, measure)
    _add_host_columns(evidence, (name,))
  if plan.study.time_alone:
    done("timing one request alone")
    timed = (RETRAINED, *names)
    evidence = evidence._replace(
      alone=lanes.time_alone(plan, timed, original.value)
    )
  return evidence._replace(rows=table.rows(evidence))


def _found(plan: Plan, made: Any, measure: Any) -> Found:
  values = dict(measure(made.value))
  is_finite = values.pop("is_finite")
  values = {
    name: v.astype(np.float64) if v.dtype.kind == "f" else v
    for name, v in values.items()
  }
  return Found(
    values,
    is_finite,
    jax.tree.map(lambda leaf: leaf[0], made.value),
    made.seconds_compile,
    made.seconds_run / len(plan.lanes[0]),
  )


def _add_host_columns(evidence: Evidence, names: Sequence[str]) -> None:
  """What measures add on the host."""
  for measure in evidence.plan.measures:
    # All references have a column before any needs it for a comparison.
    for name in names if measure.after else ():
      added = measure.after(evidence, name)
      evidence.found[name].values.update(
        {k: np.asarray(v, np.float64) for k, v in added.items()}
      )
