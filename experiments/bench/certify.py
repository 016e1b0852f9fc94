"""`--certificate`: from evidence to the page that answers a request."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import common
from experiments.bench.study import Evidence, Plan
from jaxunlearn import report
from jaxunlearn.report.certificate import (
  Certificate,
  certificate_html,
  hash_arrays,
)


def check(plan: Plan) -> None:
  """Refuses what cannot be certified.

  Raises:
    ValueError: a method that is not run; several requests; a study without tests.
  """
  method = plan.options.certificate
  if method is None:
    return
  if method not in plan.methods:
    raise ValueError(
      f"Expected --certificate to be one of --methods ({', '.join(plan.methods)}"
      f"), got {method!r}."
    )
  if not plan.rules:
    raise ValueError(
      "Expected --certificate where methods are tested against retraining, got "
      f"{plan.study.name}, which tests none."
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
  request, method = plan.requests.names[0], plan.study.methods[name]
  verdict = report.verdicts(trial).get(request, {}).get(name)
  if verdict is None:
    raise common.UnusableError(
      f"Expected {name} to end with finite numbers and tests for --certificate, "
      "got neither."
    )
  return Certificate(
    request,
    int(plan.forget[0].sum()),
    name,
    method.access,
    plan.settings[name],
    verdict,
    report.checks(trial, request, name),
    len(plan.seeds),
    _hashes(evidence, name),
    {
      "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
      "date (UTC)": datetime.datetime.now(datetime.UTC).isoformat(
        "T", "seconds"
      ),
      "device": common.device(),
      **{f"version of {k}": v for k, v in common.environment().items()},
    },
  )


def _hashes(evidence: Evidence, name: str) -> dict[str, str]:
  plan = evidence.plan
  split: Any = plan.beds.sources[0]
  rows = np.flatnonzero(plan.forget[0])
  rows = getattr(split, "row_id", np.arange(plan.forget.shape[1]))[rows]
  found = {
    "numbers of the rows": hash_arrays(np.sort(rows).astype(np.int64)),
    "model in params": hash_arrays(evidence.found[name].first),
    "original model": hash_arrays(evidence.found["original"].first),
  }
  if hasattr(split, "train"):
    found["training rows"] = hash_arrays(jax.tree.map(np.asarray, split.train))
  return found
