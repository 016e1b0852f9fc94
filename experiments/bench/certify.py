"""`--certificate`: from evidence to the page that answers a request."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

import jaxunlearn as ju
from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.report.certificate import (
  Certificate,
  certificate_html,
  hash_arrays,
)
from jaxunlearn.report.unseen import (
  Answers,
  checks_by_unseen,
  doubts_by_unseen,
)
from jaxunlearn.report.verdict import TRACE

from .. import common
from ..launch import started
from . import lanes
from .study import ORIGINAL, Evidence, Found, Plan


def check(plan: Plan) -> None:
  """Refuses what cannot be certified.

  Raises:
    ValueError: a method that is not run; several requests; a study without tests
      for traces; what needs retrained models where none are to be had.
  """
  method = plan.options.certificate
  if not plan.options.retrain and (
    plan.options.tune is not None or plan.options.write_settings is not None
  ):
    raise ValueError(
      "Expected --no-retrain without --tune and --write-settings, which hold "
      "settings against retrained models, got one."
    )
  if not plan.options.retrain and (
    method is None
    or plan.beds.given is None
    or plan.study.train is None
    or not {"x", "label"} <= set(getattr(plan.beds.sources[0], "train", ()))
  ):
    raise ValueError(
      "Expected --no-retrain with --certificate and a classifier's --checkpoint, "
      "of which there is no model without the rows to be had, got it alone."
    )
  if method is None:
    return
  if method not in plan.methods:
    raise ValueError(
      f"Expected --certificate to be one of --methods ({', '.join(plan.methods)}"
      f"), got {method!r}."
    )
  if not any(TRACE in (rule.above, rule.below) for rule in plan.rules):
    raise ValueError(
      "Expected --certificate where methods are tested for traces of the rows, "
      f"got {plan.study.name}, which tests none."
    )
  if len(plan.requests.names) > 1:
    raise ValueError(
      f"Expected one --request for --certificate, got "
      f"{len(plan.requests.names)}."
    )


def write(folder: Path, evidence: Evidence, trial: report.Trial) -> None:
  """Writes certificate.html and certificate.json where they are asked for."""
  plan = evidence.plan
  if plan.options.certificate is None:
    return
  made = certificate(evidence, trial)
  report.write_json(folder / "certificate.json", made.to_json())
  report.write_text(folder / "certificate.html", certificate_html(made))


def certificate(evidence: Evidence, trial: report.Trial) -> Certificate:
  """What is to be said of the request, for the method of `--certificate`.

  Raises:
    UnusableError: the method diverged, or the study has no tests.
  """
  plan, name = evidence.plan, evidence.plan.options.certificate
  request = plan.requests.names[0]
  verdict = report.verdicts(trial).get(request, {}).get(name)
  if verdict is None:
    raise common.UnusableError(
      f"Expected {name} to end with finite numbers and tests for --certificate, "
      "got neither."
    )
  found = report.checks(trial, request, name)
  return _made(evidence, verdict, found, len(plan.seeds))


def _made(
  evidence: Evidence,
  verdict: report.Verdict,
  checks: Sequence[report.Check],
  seeds: int,
) -> Certificate:
  plan, name = evidence.plan, evidence.plan.options.certificate
  return Certificate(
    plan.requests.names[0],
    int(plan.forget[0].sum()),
    name,
    plan.study.methods[name].access,
    plan.settings[name],
    verdict,
    checks,
    seeds,
    hashes(evidence, name),
    {
      "command": command(plan),
      "date (UTC)": date(),
      "device": common.device(),
      **{f"version of {k}": v for k, v in common.environment().items()},
    },
    plan.options.retrain,
  )


def run_alone(plan: Plan, progress: Progress) -> Evidence:
  """Unlearns, and trains nothing.

  Raises:
    UnusableError: a model has parameters or answers that are not finite.
  """
  name = plan.options.certificate
  task = progress.add_task(f"unlearning by {name}", total=1)
  original = lanes.train(plan)
  found = {}
  made = {ORIGINAL: original, **lanes.served(plan, name, original)}
  for row in (ORIGINAL, name):
    first = lanes.at(made[row].value, 0)
    answers = _answers(plan, first)
    if not (all_finite(first) and all_finite(answers)):
      raise common.UnusableError(
        f"Expected finite parameters and losses of {row} for --no-retrain, got "
        "some that are not."
      )
    finite = np.ones(1, bool)
    found[row] = Found(answers, finite, first, {}, np.nan, np.nan)
  progress.advance(task)
  return Evidence(plan, found)


def _answers(plan: Plan, variables: Any) -> dict[str, np.ndarray]:
  """The fields of `Answers` of a model."""
  bed = plan.beds.make(
    *jax.tree.map(
      jnp.asarray, (plan.beds.shared, lanes.at(plan.beds.of_seed, 0))
    )
  )
  found: list[np.ndarray] = []
  for rows in (bed.data, bed.test):
    logits = ju.predict(bed.model, variables, rows["x"])
    right, loss = (
      logits.argmax(-1) == rows["label"],
      bed.model.loss(logits, rows),
    )
    found += [np.asarray(right, np.float64), np.asarray(loss, np.float64)]
  return Answers(*found)._asdict()


def write_alone(folder: Path, plan: Plan, evidence: Evidence) -> Certificate:
  """Writes a certificate by what is known of a model that cannot be retrained."""
  kind = np.asarray(plan.requests.marks[0, 0])
  kind = kind if kind.any() else np.ones_like(kind)
  now, before = (
    Answers(**evidence.found[name].values)
    for name in (plan.options.certificate, ORIGINAL)
  )
  forget = plan.forget[0]
  checks, control = (
    checks_by_unseen(own, before, forget, kind) for own in (now, before)
  )
  verdict = report.judge(
    checks,
    control=control,
    doubts=doubts_by_unseen(forget, kind),
    standard="what is known",
  )
  made = _made(evidence, verdict, checks, 1)
  report.write_json(folder / "certificate.json", made.to_json())
  report.write_text(folder / "certificate.html", certificate_html(made))
  orbax.save(folder / "params", evidence.found[made.method].first)
  return made


def provenance(evidence: Evidence) -> dict[str, str]:
  """What the report says of its making, beside versions and machine."""
  found = hashes(evidence, None)
  return {
    "command": command(evidence.plan),
    "Date (UTC)": date(),
    **{f"SHA-256, {name}": value for name, value in found.items()},
  }


def command(plan: Plan) -> str:
  """The line that runs the study again."""
  return command_of(plan.study.name, plan.options)


def command_of(name: str, options: Any) -> str:
  """The line that runs a program again: every flag that is not its default."""
  words = started(name).split()
  for field in dataclasses.fields(options):
    value, flag = getattr(options, field.name), field.name.replace("_", "-")
    if value == field.default or value is None:
      continue
    if isinstance(value, bool):
      words.append(f"--{'' if value else 'no-'}{flag}")
    else:
      words += [f"--{flag}", str(value)]
  return shlex.join(words)


def date() -> str:
  """Now, to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")


def hashes(evidence: Evidence, name: str | None) -> dict[str, str]:
  """SHA-256 of the rows asked for, the data, the original and a model."""
  plan = evidence.plan
  split: Any = plan.beds.sources[0]
  rows = np.flatnonzero(plan.forget[0])
  rows = getattr(split, "row_id", np.arange(plan.forget.shape[1]))[rows]
  found = {
    "numbers of the rows": hash_arrays(np.sort(rows).astype(np.int64)),
    "original model": hash_arrays(evidence.found["original"].first),
  }
  if name is not None:
    found["model in params"] = hash_arrays(evidence.found[name].first)
  if hasattr(split, "train"):
    found["training rows"] = hash_arrays(jax.tree.map(np.asarray, split.train))
  return found
