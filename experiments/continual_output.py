"""From streams to files, figures, findings and the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from rich.console import Console

from experiments import common
from experiments import continual_checks as checks
from experiments import continual_figures as figures
from experiments import continual_study as study
from experiments.continual_definitions import DEFINITIONS
from jaxunlearn import Variables, report
from jaxunlearn.adapters import orbax
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from experiments.continual import Outcome, Plan

CLU_ROWS = ("clu", "clu_teacher", "clu_exclude_label")
# A forgotten task may be this much better known than to the retrained model.
ALLOWED = 0.05
SHOWN = (
  "forget_test_accuracy",
  "retain_test_accuracy",
  "request_accuracy",
  "retrained_gap",
  "membership_auc",
  "seconds_event",
)


def write(
  folder: Path, plan: Plan, outcome: Outcome
) -> tuple[report.Summary, list[str]]:
  """Writes results, tables, plots, report and params into a folder."""
  results = _results(plan, outcome)
  summary = report.summarise(results.rows)
  found = _findings(plan, outcome, summary)
  report.write_report(
    folder,
    results,
    figures=figures.figures(plan, outcome, summary),
    title=f"Learning and forgetting tasks of {plan.options.data} in a stream",
    lead=_lead(plan),
    notes=_notes(plan, outcome),
    more_findings=found,
    definitions=DEFINITIONS,
  )
  _save_params(folder / "params", plan, outcome)
  return summary, found


def show(
  console: Console, plan: Plan, summary: report.Summary, found: list[str]
) -> None:
  """A table a stream, the findings, and where the rest lies."""
  for name in summary.requests:
    console.print(
      report.rich_table(
        summary, SHOWN, request=name, definitions=DEFINITIONS, title=name
      )
    )
  for sentence in found:
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def _results(plan: Plan, outcome: Outcome) -> report.Results:
  lanes, rows = plan.lanes, []
  for name, method in outcome.rows.items():
    ran, values = outcome.ran[method], outcome.compared[name].values
    for lane, (stream, seed) in enumerate(zip(lanes.stream, lanes.seed)):
      rows.append(
        {
          "method": name,
          "request": plan.stream_names[stream],
          "seed": int(seed),
          "seconds_compile": ran.seconds_compile,
          "seconds_run": ran.seconds_run,
          **{metric: float(v[lane]) for metric, v in values.items()},
          "seconds_event": ran.seconds_run / lanes.num_events.mean(),
          "state_kilobytes": ran.state_bytes / 1000,
        }
      )
  config = {
    **dataclasses.asdict(plan.options),
    "seeds": plan.num_seeds,
    "size": plan.size._asdict(),
    "num_tasks": plan.tasks.num_tasks,
    "classes_of_tasks": plan.tasks.of_class.tolist(),
    "features": plan.tasks.features,
    "events": {
      name: figures.texts(plan, number)
      for number, name in enumerate(plan.stream_names)
    },
    "ridge_check": outcome.ridge and outcome.ridge._asdict(),
    "tame_boundaries": None
    if outcome.boundaries is None
    else [b._asdict() for b in outcome.boundaries],
    "many_requests": [s._asdict() for s in outcome.served],
    "environment": common.environment(),
  }
  return report.Results(
    "continual",
    plan.options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    rows,
  )


def _findings(
  plan: Plan, outcome: Outcome, summary: report.Summary
) -> list[str]:
  found = []
  for name in summary.requests:
    cells = {m: summary.cells[m, name] for m in summary.methods}
    found += _clu_findings(name, cells)
  found += _tame_findings(outcome)
  if outcome.ridge is not None:
    check = outcome.ridge
    found.append(
      "ACU's head differs from the head fitted anew on the remaining rows by at "
      f"most {check.retrained:.2g} after any event, and from ridge regression in "
      f"float64 by at most {check.float64:.2g} after the last one (the largest "
      f"weight is {check.size:.2f})."
    )
  found += _cost_findings(summary)
  for served in outcome.served:
    short, long = (b / 1e6 for b in served.program_bytes)
    found.append(
      f"{served.method} served {served.requests} requests of a row each in "
      f"{1000 * served.seconds:.3g} ms a request, by the program that had served "
      f"them in another order; working memory {short:.2f} MB for a tenth of the "
      f"requests, {long:.2f} MB for all."
    )
  return found


def _clu_findings(
  stream: str, cells: Mapping[str, Mapping[str, report.Statistic]]
) -> list[str]:
  """The two bounds, in words, whether they hold or not."""
  found = []
  mean = lambda m, name: cells[m][name].mean
  for method in CLU_ROWS:
    if method not in cells:
      continue
    kept, gone = "retain_test_accuracy", "forget_test_accuracy"
    own, aim = mean(method, gone), mean("retrained", gone)
    sentence = f"{stream}: {method} keeps {100 * mean(method, kept):.1f} %"
    if "experience_replay" in cells:
      other = mean("experience_replay", kept)
      more = 100 * (mean(method, kept) - other)
      sign = "at least as much as" if more >= 0 else "less than"
      sentence += f", {sign} experience replay ({more:+.2f} points)"
    if math.isfinite(own) and math.isfinite(aim):
      within = "within" if own <= aim + ALLOWED else "not within"
      sentence += (
        f"; it still knows {100 * own:.1f} % of what was forgotten, {within} 5 "
        f"points of the retrained model ({100 * aim:.1f} %)"
      )
    found.append(sentence + ".")
  return found


def _tame_findings(outcome: Outcome) -> list[str]:
  if not outcome.boundaries:
    return []
  total = sum(b.total for b in outcome.boundaries)
  noticed = sum(b.found for b in outcome.boundaries)
  alarms = [b.false_alarms for b in outcome.boundaries]
  sentence = (
    f"TAME, which is not told, noticed {noticed} of {total} changes of task in "
    f"{len(alarms)} streams within {checks.NOTICED} batches, with {sum(alarms)} "
    f"false alarms in all and at most {max(alarms)} in a stream."
  )
  if outcome.overflow:
    sentence += " It ran out of room for experts at least once."
  return [sentence]


def _cost_findings(summary: report.Summary) -> list[str]:
  time = lambda m: summary.overall[m]["seconds_event"].mean
  found = []
  for method in ("clu", "acu", "tame"):
    if method in summary.methods:
      ratio = time("retrained") / time(method)
      how = (
        f"{ratio:.1f} times as fast as"
        if ratio >= 1
        else f"{1 / ratio:.1f} times as slow as"
      )
      found.append(f"{method} serves an event {how} retraining.")
  return found


def _lead(plan: Plan) -> str:
  tasks = plan.tasks
  streams = "; ".join(
    f"{name}: {', '.join(figures.texts(plan, i))}"
    for i, name in enumerate(plan.stream_names)
  )
  return (
    f"{plan.options.data} ({len(tasks.train['label'])} training rows, features: "
    f"{tasks.features}) was cut into {tasks.num_tasks} tasks by class. Tasks are "
    "learned one after the other, and some have to be forgotten, with "
    f"{plan.num_seeds} seeds. Streams (+ is learned, \N{MINUS SIGN} forgotten): "
    f"{streams}. The measure of everything is retraining: a model trained anew, "
    "after every event, on the rows that should be known then. The original model "
    "is trained like it, but on all rows that ever came."
  )


def _notes(plan: Plan, outcome: Outcome) -> list[str]:
  size = plan.size
  access = "; ".join(f"{n}: {m.access}" for n, m in plan.methods.items())
  notes = [
    f"What each learner keeps and reads: {access}.",
    "Accuracies are class-incremental: nobody says which task a row is from. "
    "What should be forgotten is as it should be where it is known as little, "
    "and as much, as to the retrained model.",
    "Settings: the library's defaults, "
    f"{size.num_steps} steps of SGD with rate {size.learning_rate} an event, "
    f"{size.retrain_steps} steps a retraining. They were chosen on digits, those "
    "of EWC and of the random filters' answers on CIFAR-10, on other seeds than "
    f"these, which start at {plan.options.first_seed}. The split into training and test rows is the "
    "same for all seeds.",
    "clu forgets by answering like an untrained network, which is right by "
    "chance: it comes out above 0 where the stream ends with a request, while a "
    "model that never saw a class never names it. clu_exclude_label, no part of "
    "the paper, leaves the row's own class out of that answer. clu_teacher is "
    "the moving average that CLU keeps beside the student.",
    "The learners without an unlearning rule erase forgotten rows from their "
    "buffer, if they have one, and train on. A low accuracy on what was "
    "forgotten is then catastrophic forgetting, which also takes what should "
    "stay; it is no promise.",
    "acu is a ridge regression on random features and tame a set of small "
    "networks for single tasks: other models than the retrained one, so that "
    "their gap to it is also one between models, and a divergence from its "
    "outputs, which are fitted probabilities and theirs are not, says little. The "
    "measure of acu is ridge regression on the remaining rows.",
    "tame gets batches without their task, and labels within a task; which class "
    "an expert's answer stands for is read off the rows that it owns. Forgetting "
    "drops or retrains experts, and the selector is trained anew at every event, "
    "without the sigmoid of the authors' code, through which it takes thousands "
    "of steps.",
    "A membership attack by the loss that fails proves little: the model may know "
    "a class without remembering its rows. On small data all models are near 0.5.",
    "Time an event is that of the program for all streams and seeds, by their "
    "number and by the mean number of events. It was taken once: on a machine "
    "with other work the ratios may be off by a factor of two.",
  ]
  if len(plan.stream_names) > 1 and len(set(plan.lanes.num_events)) > 1:
    notes.append(
      "Shorter streams are filled up with events in which nothing happens, so "
      "that one program serves all."
    )
  if "random" in plan.stream_names:
    notes.append(
      "Of the random stream, another one for every seed, the figures show the "
      "first seed."
    )
  return notes


def _save_params(folder: Path, plan: Plan, outcome: Outcome) -> None:
  """What predicts after the last event of the first stream, first seed."""
  config = {
    "data": plan.options.data,
    "stream": plan.stream_names[0],
    "events": figures.texts(plan, 0),
    "seed": plan.options.first_seed,
    "size": plan.size._asdict(),
  }
  for name, method in outcome.rows.items():
    records = outcome.ran[method].records
    view = "retrained" if name == "original" else name
    record = study.final_records(records, 0)[view]
    if not isinstance(record, Variables):
      record = Variables(record._asdict())
    orbax.save(folder / name, record, config=plain({**config, "method": name}))
