"""Forget a request with one or several methods, and see whether it worked.

Question: how near does each method come to a model that never saw the rows?
Methods: UNSIR (arXiv:2111.08947), Bad Teacher (arXiv:2205.08096), and baselines.

    python -m experiments.forget --preset quick --out out/demo

trains an MLP on scikit-learn's digits, forgets class 3 with six methods, and
writes results.json, table.md, plots/, params/ and report.html. It takes one to
two minutes on two CPU cores, most of it compilation, and less the second time.

    python -m experiments.forget --request each-class --sequence

forgets class 0, then class 1, then class 2, and so on, each method going on from
what it made of the model before, and shows how it drifts from retraining.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import jax
from rich.progress import Progress

from experiments import common, flags, options, output, sequence, study
from experiments.flags import described

DEFAULT_SEEDS = {
  "smoke": {"digits": 2, "other": 2},
  "quick": {"digits": 5, "other": 2},
  "paper": {"digits": 10, "other": 5},
}


@dataclasses.dataclass(frozen=True)
class Options(options.Options):
  """Forget part of the training data, and compare with retraining without it."""

  sequence: Annotated[
    bool,
    described(
      "Serve the requests one after the other, each by what the one before left "
      "of the model and of the rows, and see how far every method drifts from "
      "retraining. Wants several requests; each-class leaves the last class, so "
      "that something is left to keep."
    ),
  ] = False


def prepare(asked: Options) -> options.Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  return options.prepare(
    asked,
    DEFAULT_SEEDS,
    trains_original=asked.checkpoint is None,
    sequence=asked.sequence,
  )


def run(plan: options.Plan, progress: Progress) -> output.Outcome:
  """Trains, unlearns and measures; writes nothing."""
  task = progress.add_task("starting", total=4 + len(plan.settings))

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
  begin("training the original model")
  if plan.variables is not None:
    original = study.given_original(this, plan.variables)
  else:
    original = study.train_original(this, with_ledger=plan.needs_ledger)
  progress.advance(task)
  begin("retraining without the forgotten rows")
  trained = {"retrained": study.train_retrained(this)}
  progress.advance(task)
  serve = sequence.unlearn if plan.requests.is_sequence else study.unlearn
  for name, settings in plan.settings.items():
    begin(f"unlearning with {name}")
    trained[name] = serve(this, name, settings, original)
    progress.advance(task)
  begin("measuring")
  audit = study.make_audit(this, original, trained["retrained"])
  lanes = jax.tree.map(lambda leaf: leaf[this.lane_seed], original.variables)
  trained = {"original": original._replace(variables=lanes), **trained}
  progress.advance(task)
  inner = progress.add_task("", total=len(trained))
  audits = {}
  for name, made in trained.items():
    progress.update(inner, description=f"measuring {name}")
    audits[name] = audit(made.variables)
    progress.advance(inner)
  study.add_gaps(audits, "retrained")
  progress.advance(task)
  return output.Outcome(this, trained, audits)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.forget", argv)
  plan, summary = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, summary)


if __name__ == "__main__":
  main()
