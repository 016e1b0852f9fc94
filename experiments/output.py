"""From what a study found to its files and to the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments import cautions, common, methods, relearning, study
from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from experiments.options import Plan

DEFINITIONS = (
  *report.METRICS,
  report.Metric(
    "forget_cross_entropy",
    "Forget cross-entropy",
    "Mean loss on the rows to be forgotten; far above the retrained model's is "
    "over-forgetting.",
    "nats",
    2,
  ),
  report.Metric(
    "newest_forget_accuracy",
    "Forget accuracy, newest request",
    "Share of the rows of the newest request alone that the model still "
    "predicts correctly.",
    "%",
    1,
  ),
  report.Metric(
    "same_class_accuracy",
    "Retain accuracy, same classes",
    "Share of the retained rows of the classes that the request has rows of "
    "that the model predicts correctly; no value where whole classes go.",
    "%",
    1,
  ),
  report.Metric(
    "is_finite",
    "Finite runs",
    "Share of runs that ended with finite weights and outputs.",
    "%",
    0,
    report.HIGHER,
  ),
)
_BASELINES = ("original", "retrained")
_YARDSTICK = "retrain"


class Outcome(NamedTuple):
  """All that a study found; by name of a method, "original" and "retrained"."""

  study: study.Study
  trained: Mapping[str, study.Trained]
  audits: Mapping[str, study.Audit]


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, plots, report and params into a folder."""
  results = _results(plan, outcome)
  summary = report.summarise(results.rows)
  manner = " in sequence" if plan.requests.is_sequence else ""
  title = f"Forgetting {plan.options.request} from {plan.options.data}{manner}"
  salun = report.salun_table(summary, definitions=DEFINITIONS)
  report.write_report(
    folder,
    results,
    figures=_figures(plan, outcome, summary),
    title=title,
    lead=_lead(plan),
    notes=_notes(plan),
    comparisons=[] if salun is None else [salun],
    more_findings=_more_findings(plan, summary),
    definitions=DEFINITIONS,
  )
  _save_params(folder / "params", plan, outcome)
  return summary


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """The main table, the findings, and where the rest lies."""
  console.print(report.rich_table(summary, definitions=DEFINITIONS))
  found = report.findings(summary, DEFINITIONS) + _more_findings(plan, summary)
  for sentence in found:
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def _more_findings(plan: Plan, summary: report.Summary) -> list[str]:
  found = list(plan.notes)
  if plan.requests.is_sequence:
    return found + report.drift_findings(summary, DEFINITIONS)
  for name, rows in cautions.few(plan.requests).items():
    right = [
      f"{method} {rows * cell['forget_accuracy'].mean:.3g}"
      for (method, request), cell in summary.cells.items()
      if request == name and "forget_accuracy" in cell
    ]
    found.append(
      f"Of the {rows} of {name}, each model is right on so many, as a mean over "
      f"seeds: {', '.join(right)}."
    )
  return found


def _shown_request(plan: Plan) -> int:
  """The one whose models are saved and drawn: of a sequence the last."""
  return len(plan.requests.names) - 1 if plan.requests.is_sequence else 0


def _results(plan: Plan, outcome: Outcome) -> report.Results:
  lanes = zip(
    np.asarray(outcome.study.lane_request).tolist(),
    np.asarray(outcome.study.lane_seed).tolist(),
  )
  places = [(plan.requests.names[request], seed) for request, seed in lanes]
  rows = []
  for name, audit in outcome.audits.items():
    made = outcome.trained[name]
    for lane, (request, seed) in enumerate(places):
      values = {metric: v[lane] for metric, v in audit.metrics.items()}
      rows.append(
        {
          "method": name,
          "request": request,
          "seed": seed,
          "seconds_compile": made.seconds_compile,
          "seconds_run": made.seconds_run,
          **values,
        }
      )
  return report.Results(
    "forget",
    plan.options.preset,
    jax.__version__,
    common.device(),
    _config(plan),
    rows,
  )


def _config(plan: Plan) -> dict[str, Any]:
  sizes = {
    "train_rows": len(plan.dataset.train["label"]),
    "test_rows": len(plan.dataset.test["label"]),
    "forget_rows": {
      name: int(mask.sum())
      for name, mask in zip(plan.requests.names, plan.requests.masks)
    },
  }
  config = {
    **dataclasses.asdict(plan.options),
    "seeds": plan.num_seeds,
    "strategy": plan.strategy,
    "training": plan.recipe._asdict(),
    "method_settings": plan.settings,
    "method_data": {n: methods.METHODS[n].data for n in plan.settings},
    "sizes": sizes,
    "environment": common.environment(),
  }
  return plain(config)


def _figures(plan: Plan, outcome: Outcome, summary: report.Summary):
  figures = {}
  if plan.requests.is_sequence:
    figures["drift"] = _drift_figure(plan, outcome)
  figures |= {
    "accuracy": (
      report.accuracy_bars(summary, definitions=DEFINITIONS),
      "Accuracy on the rows to be forgotten, on the rows kept and on rows never "
      "trained on. The dashed line is the retrained model: the aim is to meet "
      "it, not to be lowest.",
    ),
    "distance": (
      report.distance_plot(summary, definitions=DEFINITIONS),
      "How far each method ends from the retrained model, and how long it "
      "takes. Down is better forgetting, left is faster.",
    ),
  }
  shown = _shown_request(plan)
  # The lanes of that request.
  seeds = slice(shown * plan.num_seeds, (shown + 1) * plan.num_seeds)
  request = plan.requests.names[shown]
  gaps = report.retrained_gaps(summary)
  ranked = [m for m in summary.candidates if m in gaps and m != _YARDSTICK]
  if ranked:
    nearest = min(ranked, key=lambda m: gaps[m].mean)
    before, after = (
      outcome.audits[m].confusion[seeds].sum(axis=0)
      for m in ("original", nearest)
    )
    figures["confusion"] = (
      report.confusion_pair(
        before,
        after,
        plan.dataset.class_names,
        forgotten=plan.requests.classes[shown] or (),
        titles=("Original model", f"After {nearest}"),
      ),
      f"What the model answers on test rows before and after {nearest}, the "
      f"method nearest to retraining (request {request}, all seeds together).",
    )
  figures["relearning"] = (
    report.curves(
      np.arange(relearning.num_steps(plan.recipe) + 1),
      {
        name: 100 * audit.relearned.curve[seeds]
        for name, audit in outcome.audits.items()
      },
      x_label="steps of training on all rows",
      y_label="accuracy on what was forgotten (%)",
    ),
    "How fast each model learns again what it was made to forget (request "
    f"{request}). One that starts low and rises faster than the retrained model, "
    "the dashed line, had only hidden what it knew.",
  )
  traces = {
    name: {phase: losses[seeds] for phase, losses in made.traces.items()}
    for name, made in outcome.trained.items()
    if made.traces
  }
  figures["losses"] = (
    report.loss_traces(traces),
    "The objective of each phase of each method, step by step "
    f"(request {request}). Phases minimise different things, so compare shapes, "
    "not heights; one that ascends on the forgotten rows goes down without end.",
  )
  return figures


def _drift_figure(plan: Plan, outcome: Outcome):
  """Gap and accuracies over the steps of a sequence."""

  def lines(name: str):
    """In the unit shown, [seeds, steps] by method."""
    scale = report.describe(name, DEFINITIONS).scale
    shape = (len(plan.requests.names), plan.num_seeds)
    return {
      method: scale * audit.metrics[name].reshape(shape).T
      for method, audit in outcome.audits.items()
    }

  panels = {
    report.describe(name, DEFINITIONS).heading: lines(name)
    for name in ("retrained_gap", "retain_accuracy", "forget_accuracy")
  }
  steps = np.arange(1, len(plan.requests.names) + 1)
  return (
    report.curve_panels(steps, panels, x_label="requests served"),
    "How each method drifts: left the gap to a model retrained without any row "
    "of the requests so far, in the middle the accuracy on the rows still kept, "
    "right that on all rows forgotten so far. The dashed line is retraining; "
    "bands go from the lowest to the highest seed.",
  )


def _lead(plan: Plan) -> str:
  options, rows = plan.options, plan.requests.added.sum(axis=1)
  total = len(plan.dataset.train["label"])
  origin = (
    f"trained on {total} rows of {options.data}"
    if plan.variables is None
    else f"loaded from {options.checkpoint} (data: {options.data}, {total} rows)"
  )
  asked = (
    f"the request {options.request}, {rows[0]} rows,"
    if len(rows) == 1
    else f"each of {len(rows)} requests ({options.request}, {rows.min()} to "
    f"{rows.max()} rows)"
  )
  if plan.requests.is_sequence:
    asked = (
      f"{len(rows)} requests one after the other ({rows.min()} to {rows.max()} "
      f"rows each, {rows.sum()} in all: {options.request})"
    )
  standard = (
    "which was trained in the same way and never saw those rows"
    if plan.variables is None
    else "which was trained here and never saw those rows. Its training is that "
    "of the configuration and may differ from that of the model that was given: "
    "first see whether the two agree on the rows to be kept"
  )
  return (
    f"A model ({options.model}) was {origin} and then made to forget {asked} by "
    f"{len(plan.settings)} methods, with {plan.num_seeds} seeds. The measure of "
    f"success is the model in the row retrained, {standard}. A good method ends "
    "where it ends, on every number, in less time; forgetting more than the "
    "retrained model is a flaw as well."
  )


def _notes(plan: Plan) -> list[str]:
  access = "; ".join(
    f"{name}: {methods.METHODS[name].data}" for name in plan.settings
  )
  notes = [
    f"Data that each method had access to: {access}.",
    "Called members: a support vector classifier is fitted to tell retained "
    "rows from test rows by the entropy of the model's outputs, equally many of "
    f"both and at most {study.SVC_ROWS}, and asked about the forgotten rows.",
    "Membership AUC: how often a forgotten row has a lower loss than a test row, "
    "of the same classes where whole classes were forgotten.",
    "Relearning: every model is trained on all training rows, the forgotten ones "
    "with them, by Adam with rate 0.001 and the same batches for all, for at most "
    f"{relearning.num_steps(plan.recipe)} steps, and measured after each on at "
    f"most {relearning.MAX_ROWS} rows.",
    f"ZRF is the mean over {study.NUM_TEACHERS} untrained networks that no "
    "method has used.",
    "Run time is that of one request and one seed: the time of the program "
    f"that serves all of them (strategy: {plan.strategy}) divided by their "
    "number. Compile time is that of the whole program, and short where the "
    "compilation cache had it.",
  ]
  if plan.options.preset != "paper":
    notes.append(
      "The settings of the methods were chosen by hand on digits and on a part "
      "of CIFAR-10, by the numbers shown here. On these data they flatter the "
      "methods that were given most care; on other data they are a first guess."
    )
  if "scrub_rewind" in plan.settings:
    notes.append(
      "scrub_rewind chooses among its epochs by the errors on the test rows, "
      "so its numbers on these are a little optimistic."
    )
  if "unsir" in plan.settings and None in plan.requests.classes:
    notes.append(
      "UNSIR forgets whole classes: a request for a part of a class impairs "
      "the class, and its other rows help to repair it."
    )
  zero_shot = [n for n, m in methods.METHODS.items() if m.zero_shot]
  if plan.requests.num_touched == plan.dataset.num_classes:
    notes.append(
      f"{' and '.join(zero_shot)} forget whole classes and are left out, since a "
      "request has rows of every class."
    )
  elif None in plan.requests.classes and set(zero_shot) & set(plan.settings):
    notes.append(
      f"{' and '.join(zero_shot)} forget whole classes: a request for a part of "
      "a class is to them one for the class."
    )
  if plan.variables is not None:
    notes.append(
      "The original model was trained elsewhere, so it has no time, and the "
      "retrained model is trained by the recipe in the configuration, which "
      "may differ. Amnesiac unlearning needs what is kept while training and "
      "is left out."
    )
  if plan.requests.is_sequence:
    notes.append(
      "Each request is served by what the one before it left: the method goes on "
      "from the model that it made itself, and rows forgotten earlier are out of "
      "its reach. So that shapes stay as they are, copies of the rows that are "
      "left, spread evenly, stand in their places. Numbers on forgotten rows are "
      "those of all requests so far, and so is the retrained model. Methods "
      "that see no rows are told of the classes of all requests so far."
    )
  if len(plan.requests.names) > 1:
    which = "last" if plan.requests.is_sequence else "first"
    notes.append(
      "The confusion matrices, the losses and the saved params are those of "
      f"the {which} request, {plan.requests.names[_shown_request(plan)]}."
    )
  return notes


def _save_params(folder: Path, plan: Plan, outcome: Outcome) -> None:
  """The models of one request and the first seed, one a method."""
  shown = _shown_request(plan)
  lane = shown * plan.num_seeds
  config = {
    "data": plan.options.data,
    "model": plan.options.model,
    "request": plan.requests.names[shown],
    "seed": 0,
    "training": plan.recipe._asdict(),
  }
  for name, made in outcome.trained.items():
    key = "train_keys" if name in _BASELINES else "unlearn_keys"
    details = {"method": name, "settings": plan.settings.get(name, {})}
    orbax.save(
      folder / name,
      jax.tree.map(lambda leaf: leaf[lane], made.variables),
      forget_mask=plan.requests.masks[shown],
      key=getattr(outcome.study, key)[0],
      config=plain({**config, **details}),
    )
