"""Audit a model that is said to have forgotten a request.

Question: can what was forgotten still be found in the model, or brought back?
Attacks: LiRA (arXiv:2112.03570), RMIA (arXiv:2312.03262), U-LiRA
(arXiv:2403.01218) and the forgetting quality of the 2023 unlearning challenge,
relearning time and Anamnesis Index (arXiv:2201.05629), quantisation
(arXiv:2410.16454), linear probes.

    python -m experiments.audit --preset quick --out out/audit

trains MLPs on scikit-learn's digits, makes them forget class 3 in several ways,
attacks what comes out, and writes results.json, table.md, plots/ and report.html
with a verdict for each method. It takes two to three minutes on two CPU cores.

    python -m experiments.audit --checkpoint DIR --request index:rows.txt ...

attacks a model of your own beside models that are trained and retrained here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, cast

import jax
from rich.progress import Progress

from experiments import (
  audit_output,
  audit_suite,
  common,
  flags,
  options,
  study,
)
from experiments.flags import described

DEFAULT_SEEDS = {
  "smoke": {"digits": 4, "other": 4},
  "quick": {"digits": 16, "other": 4},
  "paper": {"digits": 64, "other": 16},
}
DEFAULT_SHADOWS = {"smoke": 8, "quick": 64, "paper": 256}


@dataclasses.dataclass(frozen=True)
class Options(options.Options):
  """Attack a model that is said to have forgotten part of its training data."""

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint of the model to audit, unlearned by whatever means or "
      "merely trained; it is named given in the report. Without it only models "
      "that are trained and unlearned here are attacked.",
      "DIR",
    ),
  ] = None

  request: Annotated[
    str,
    described(
      "What is said to be forgotten, one request: class:3,5 (all rows of these "
      "classes), random:0.1 (a tenth of the rows), index:FILE (a row number a "
      "line, or an .npy of numbers or of bools), or group:COLUMN=VALUE."
    ),
  ] = "class:3"

  methods: Annotated[
    str,
    described(
      "Unlearning methods to audit as well, as in unsir,bad_teacher, or all. "
      "retrain, with other random numbers, shows what an honest model looks "
      "like."
    ),
  ] = "finetune,gradient_ascent,unsir,salun,ssd,retrain"

  seeds: Annotated[
    int | None,
    described(
      "How many models of each kind to train and to attack; the preset's number "
      "by default. U-LiRA wants four at least.",
      "INT",
    ),
  ] = None

  shadows: Annotated[
    int | None,
    described(
      "Shadow models for LiRA and RMIA; the preset's number by default.", "INT"
    ),
  ] = None

  out: Annotated[str, described("Folder for the results.", "DIR")] = "out/audit"


def prepare(asked: Options) -> options.Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  least = audit_suite.MIN_SHADOWS
  if asked.shadows is not None and asked.shadows < least:
    raise ValueError(f"Expected --shadows >= {least}, got {asked.shadows}.")
  if asked.seeds == 1:
    raise ValueError(
      "Expected --seeds >= 2, since differences need a spread, got 1."
    )
  plan = options.prepare(asked, DEFAULT_SEEDS)
  if len(plan.requests.names) != 1:
    raise ValueError(
      "Expected --request to be one request, got "
      f"{len(plan.requests.names)} ({asked.request!r})."
    )
  return plan


def run(plan: options.Plan, progress: Progress) -> audit_output.Outcome:
  """Trains, unlearns and attacks; writes nothing.

  Raises:
    ValueError: fewer than two originals or retrained models did not diverge,
      so that there is nothing to compare with.
  """
  asked = cast(Options, plan.options)
  task = progress.add_task("starting", total=5 + len(plan.settings))

  def begin(text: str) -> None:
    progress.update(task, description=text)

  this = study.make(
    plan.model,
    plan.dataset,
    plan.requests,
    plan.recipe,
    num_seeds=plan.num_seeds,
    strategy=plan.strategy,
  )
  begin("training the original models")
  original = study.train_original(this, with_ledger=plan.needs_ledger)
  progress.advance(task)
  begin("retraining without the forgotten rows")
  trained = {"original": original, "retrained": study.train_retrained(this)}
  for name, made in trained.items():
    audit_suite.check_trained(name, made.variables, plan.recipe.learning_rate)
  progress.advance(task)
  if plan.variables is not None:
    trained["given"] = study.given_original(this, plan.variables)
  for name, settings in plan.settings.items():
    begin(f"unlearning with {name}")
    trained[name] = study.unlearn(this, name, settings, original)
    progress.advance(task)
  shadows = asked.shadows or DEFAULT_SHADOWS[asked.preset]
  begin(f"training {shadows} shadow models")
  setup = audit_suite.prepare(this, shadows)
  jax.block_until_ready(setup.shadow_signals)
  progress.advance(task)
  begin("measuring")
  measure = study.make_audit(this, original, trained["retrained"])
  audits = {name: measure(made.variables) for name, made in trained.items()}
  study.add_gaps(audits, "retrained")
  progress.advance(task)
  begin("attacking")
  inner = progress.add_task("", total=len(trained))
  attacked = {}
  variables = {name: made.variables for name, made in trained.items()}
  for name, found in audit_suite.attack(setup, variables):
    progress.update(inner, description=f"attacked {name}", advance=1)
    attacked[name] = found
  told = {
    name: audit_suite.tell_apart(setup, found, attacked["retrained"])
    for name, found in attacked.items()
    if name not in ("retrained", "given")
  }
  progress.advance(task)
  return audit_output.Outcome(setup, trained, audits, attacked, told)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.audit", argv)

  def attack(plan, progress):
    try:
      return run(plan, progress)
    except audit_suite.DivergedError as error:
      common.fail(error)

  _, shown = common.run_program(asked, prepare, attack, audit_output.write)
  audit_output.show(common.wide_console(), shown, asked.out)


if __name__ == "__main__":
  main()
