"""`--certificate`: from evidence to the page that answers a request."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

import jaxunlearn as ju
from experiments import common
from experiments.bench import lanes
from experiments.bench.study import ORIGINAL, Evidence, Found, Plan
from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.report.certificate import (
  Certificate,
  certificate_html,
  hash_arrays,
)
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

_RESAMPLES = 1000


def check(plan: Plan) -> None:
  """Refuses what cannot be certified.

  Raises:
    ValueError: a method that is not run; several requests; a study without tests.
  """
  method = plan.options.certificate
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
    _hashes(evidence, name),
    {
      "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
      "date (UTC)": datetime.datetime.now(datetime.UTC).isoformat(
        "T", "seconds"
      ),
      "device": common.device(),
      **{f"version of {k}": v for k, v in common.environment().items()},
    },
    plan.options.retrain,
  )


def run_alone(plan: Plan, progress: Progress) -> Evidence:
  """Unlearns, and trains nothing."""
  name = plan.options.certificate
  task = progress.add_task(f"unlearning by {name}", total=1)
  original = lanes.train(plan)
  found = {
    row: Found({}, np.ones(1), lanes.at(made.value, 0), {}, np.nan, np.nan)
    for row, made in {
      ORIGINAL: original,
      **lanes.served(plan, name, original),
    }.items()
  }
  progress.advance(task)
  return Evidence(plan, found)


def write_alone(folder: Path, plan: Plan, evidence: Evidence) -> Certificate:
  """Writes a certificate by what is known of a model that cannot be retrained.

  Its rows are held against rows of their kind that it was never trained on, and
  what was to be kept against the model as it was; intervals are bootstrapped over
  rows, since there is one model.
  """
  checks = _against_unseen(evidence, plan.options.certificate)
  control = _against_unseen(evidence, ORIGINAL)
  verdict = report.judge(checks, control=control)
  made = _made(evidence, verdict, checks, 1)
  report.write_json(folder / "certificate.json", made.to_json())
  report.write_text(folder / "certificate.html", certificate_html(made))
  orbax.save(folder / "params", evidence.found[made.method].first)
  return made


def _against_unseen(evidence: Evidence, name: str) -> list[report.Check]:
  plan, rng = evidence.plan, np.random.default_rng(0)
  bed = plan.beds.make(
    *jax.tree.map(
      jnp.asarray, (plan.beds.shared, lanes.at(plan.beds.of_seed, 0))
    )
  )
  forget, kind = plan.forget[0], np.asarray(plan.requests.marks[0, 0])
  unseen = kind if kind.any() else np.ones_like(kind)

  def seen(method: str, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    variables = evidence.found[method].first
    logits = ju.predict(bed.model, variables, rows["x"])
    right = np.asarray(logits.argmax(-1) == rows["label"], np.float64)
    return right, -np.asarray(bed.model.loss(logits, rows), np.float64)

  (right, signal), (tested, test_signal) = (
    seen(name, rows) for rows in (bed.data, bed.test)
  )
  before, before_tested = (
    seen(ORIGINAL, rows)[0] for rows in (bed.data, bed.test)
  )
  mean_gap = lambda a, b: a.mean() - b.mean()
  auc_gap = lambda a, b: _auc(a, b) - 0.5
  # Test rows of a kind that was forgotten are no part of what is kept.
  others = ~unseen if kind.any() and not unseen.all() else np.ones_like(unseen)
  # Words, own rows, others, statistic, whether rows are pairs, and the standard.
  plans = (
    (
      "membership AUC by the loss, against unseen rows of the kind",
      *(signal[forget], test_signal[unseen], auc_gap, False, 0.5, 0.05),
      *(TRACE, TELLTALE),
    ),
    (
      "accuracy on the rows, against unseen rows of the kind",
      *(right[forget], tested[unseen], mean_gap, False),
      *(tested[unseen].mean(), 0.05, TRACE, TELLTALE),
    ),
    (
      "accuracy on the rows kept, against the model as it was",
      *(right[~forget], before[~forget], mean_gap, True),
      *(before[~forget].mean(), 0.02, NOTHING, DAMAGE),
    ),
    (
      "accuracy on other unseen rows, against the model as it was",
      *(tested[others], before_tested[others], mean_gap, True),
      *(before_tested[others].mean(), 0.02, NOTHING, DAMAGE),
    ),
  )
  checks = []
  for words, ours, theirs, statistic, are_pairs, standard, *rest in plans:
    drawn = []
    for _ in range(_RESAMPLES):
      mine = rng.integers(len(ours), size=len(ours))
      yours = mine if are_pairs else rng.integers(len(theirs), size=len(theirs))
      drawn.append(statistic(ours[mine], theirs[yours]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    value = standard + statistic(ours, theirs)
    checks.append(report.Check(words, value, standard, low, high, *rest))
  return checks


def _auc(ours: np.ndarray, theirs: np.ndarray) -> float:
  """How often a value of ours is above one of theirs; ties count half."""
  order = np.sort(theirs)
  below = np.searchsorted(order, ours) + np.searchsorted(order, ours, "right")
  return float(below.mean() / (2 * len(theirs)))


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
