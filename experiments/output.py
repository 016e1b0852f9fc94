"""From what a study found to its files and to the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from experiments import common, methods, study
from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from experiments.forget import Plan

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
  title = f"Forgetting {plan.options.request} from {plan.options.data}"
  report.write_report(
    folder,
    results,
    figures=_figures(plan, outcome, summary),
    title=title,
    lead=_lead(plan),
    notes=_notes(plan),
    definitions=DEFINITIONS,
  )
  _save_params(folder / "params", plan, outcome)
  return summary


def show(console: Console, summary: report.Summary, out: str) -> None:
  """The main table, the findings, and where the rest lies."""
  console.print(report.rich_table(summary, definitions=DEFINITIONS))
  for sentence in report.findings(summary, DEFINITIONS):
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(out) / 'report.html'}", markup=False, soft_wrap=True
  )


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
  figures = {
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
  seeds = slice(0, plan.num_seeds)  # The lanes of the first request.
  request = plan.requests.names[0]
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
        forgotten=plan.requests.classes[0] or (),
        titles=("Original model", f"After {nearest}"),
      ),
      f"What the model answers on test rows before and after {nearest}, the "
      f"method nearest to retraining (request {request}, all seeds together).",
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


def _lead(plan: Plan) -> str:
  options, rows = plan.options, plan.requests.masks.sum(axis=1)
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
  return (
    f"A model ({options.model}) was {origin} and then made to forget {asked} by "
    f"{len(plan.settings)} methods, with {plan.num_seeds} seeds. The measure of "
    "success is the model in the row retrained, which was trained in the same "
    "way and never saw those rows. A good method ends where it ends, on every "
    "number, in less time; forgetting more than the retrained model is a flaw "
    "as well."
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
  if plan.variables is not None:
    notes.append(
      "The original model was trained elsewhere, so it has no time, and the "
      "retrained model is trained by the recipe in the configuration, which "
      "may differ. Amnesiac unlearning needs what is kept while training and "
      "is left out."
    )
  if len(plan.requests.names) > 1:
    notes.append(
      "The confusion matrices, the losses and the saved params are those of "
      f"the first request, {plan.requests.names[0]}."
    )
  return notes


def _save_params(folder: Path, plan: Plan, outcome: Outcome) -> None:
  """The models of the first request and seed, one a method."""
  config = {
    "data": plan.options.data,
    "model": plan.options.model,
    "request": plan.requests.names[0],
    "seed": 0,
    "training": plan.recipe._asdict(),
  }
  for name, made in outcome.trained.items():
    key = "train_keys" if name in _BASELINES else "unlearn_keys"
    details = {"method": name, "settings": plan.settings.get(name, {})}
    orbax.save(
      folder / name,
      jax.tree.map(lambda leaf: leaf[0], made.variables),
      forget_mask=plan.requests.masks[0],
      key=getattr(outcome.study, key)[0],
      config=plain({**config, **details}),
    )
