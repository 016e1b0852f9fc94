"""From a plan to evidence: train, unlearn, measure; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.progress import Progress

from .. import common
from . import lanes, table, tune
from .study import ORIGINAL, RETRAINED, Evidence, Found, Plan


def run(plan: Plan, progress: Progress) -> Evidence:
  """Chooses settings where that is asked for, trains, unlearns and measures."""
  task = progress.add_task("training", total=2 + len(plan.methods))
  say = lambda words: progress.update(task, description=words)
  tuned: Mapping[str, tune.Tuned] = {}
  if plan.selection is not None:
    tuned = dict(tune.choose(plan.selection, plan.options.tune, record, say))
    chosen = {name: found.setting for name, found in tuned.items()}
    plan = plan._replace(settings={**plan.settings, **chosen})
  say("training the original and the retrained models")
  plan = plan.study.before(plan)
  made, original = lanes.references(plan)
  progress.update(task, advance=1, description="measuring them")
  measure = lanes.make_measure(plan, original, made[RETRAINED].value)
  evidence = Evidence(plan, {}, tuned=tuned)
  record(evidence, measure, made)
  _check_standard(evidence)
  programs = {RETRAINED: made[RETRAINED].program}
  for name in plan.methods:
    progress.update(task, advance=1, description=f"unlearning by {name}")
    own = lanes.served(plan, name, original)
    record(evidence, measure, own)
    programs |= {row: one.program for row, one in own.items()}
  for name, values in plan.study.sweeps(plan).items():
    say(f"unlearning by {name} with further settings")
    found = _swept(evidence, measure, name, original, values)
    evidence = evidence._replace(swept={**evidence.swept, name: found})
  if plan.study.time_alone:
    progress.update(task, advance=1, description="timing one request alone")
    alone = lanes.time_alone(plan, programs, original)
    evidence = evidence._replace(alone=alone)
  evidence = evidence._replace(rows=table.rows(evidence))
  say("finding out what else the study asks")
  return evidence._replace(extra=plan.study.extra(evidence))


def _swept(
  evidence: Evidence, measure: Any, name: str, original: Any, values: Any
) -> list[Found]:
  traced = {key: np.asarray(v, np.float32) for key, v in values.items()}
  many = lanes.serve(evidence.plan, name, original, traced)
  aside, found = evidence._replace(found=dict(evidence.found)), []
  for i in range(min(map(len, traced.values()))):
    one = many._replace(value=lanes.at(many.value, i))
    record(aside, measure, {name: one})
    found.append(aside.found[name])
  return found


def _check_standard(evidence: Evidence) -> None:
  """Of what all others are held against, some models must be finite."""
  for name in (ORIGINAL, RETRAINED):
    found = evidence.found[name].is_finite
    if found.sum() < min(2, len(found)):
      raise common.UnusableError(
        f"Expected two {name} models at least that did not diverge, got "
        f"{int(found.sum())} of {len(found)}; a lower rate of training may help."
      )


def record(
  evidence: Evidence, measure: Any, made: Mapping[str, lanes.Made]
) -> None:
  """Adds what is found of some models, by name, to the evidence."""
  plan = evidence.plan
  for name, part in made.items():
    values = dict(measure(name, part.value))
    is_finite = values.pop("is_finite")
    evidence.found[name] = Found(
      {
        k: v.astype(np.float64) if v.dtype.kind == "f" else v
        for k, v in values.items()
      },
      is_finite,
      plan.study.saved(lanes.at(part.value, plan.shown * len(plan.seeds))),
      part.losses,
      part.seconds_compile,
      part.seconds_run / len(plan.lanes[0]),
    )
  for step in plan.measures:
    if step.after is None:
      continue
    # All references have a column before any needs it for a comparison.
    for name in made:
      added = step.after(evidence, name)
      evidence.found[name].values.update(
        {k: np.asarray(v, np.float64) for k, v in added.items()}
      )
