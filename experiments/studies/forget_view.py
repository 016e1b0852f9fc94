"""Figures and words of the study of classifiers that forget."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxunlearn import report

from .. import bench
from ..beds import classifier_measures, classifiers
from ..bench import ORIGINAL, Evidence, Plan, cautions, table

Figures = dict[str, tuple[Any, str]]


def drift(evidence: Evidence) -> Figures:
  """Gap and accuracies over the steps of a sequence."""
  plan = evidence.plan
  if not plan.requests.in_sequence:
    return {}
  known, shape = table.definitions(plan), (-1, len(plan.seeds))

  def lines(metric: report.Metric) -> dict[str, np.ndarray]:
    return {
      method: metric.scale * found.values[metric.name].reshape(shape).T
      for method, found in evidence.found.items()
    }

  shown = [
    report.describe(name, known)
    for name in ("retrained_gap", "retain_accuracy", "forget_accuracy")
  ]
  figure = report.curve_panels(
    np.arange(1, len(plan.requests.names) + 1),
    {metric.heading: lines(metric) for metric in shown},
    x_label="requests served",
  )
  return {
    "drift": (
      figure,
      "How each method drifts: left the gap to a model retrained without any row "
      "of the requests so far, in the middle the accuracy on the rows still kept, "
      "right that on all rows forgotten so far. The dashed line is retraining; "
      "bands go from the lowest to the highest seed.",
    )
  }


def overview(evidence: Evidence) -> Figures:
  """Accuracies, and distance against time, as means over requests."""
  known = table.definitions(evidence.plan)
  summary = report.summarise(evidence.rows)
  return {
    "accuracy": (
      report.accuracy_bars(summary, definitions=known),
      "Accuracy on the rows to be forgotten, on the rows kept and on rows never "
      "trained on. The dashed line is the retrained model: the aim is to meet "
      "it, not to be lowest.",
    ),
    "distance": (
      report.distance_plot(summary, definitions=known),
      "How far each method ends from the retrained model, and how long it "
      "takes. Down is better forgetting, left is faster.",
    ),
  }


def confusion(evidence: Evidence) -> Figures:
  """Before and after the method that is nearest to retraining."""
  plan = evidence.plan
  gaps = report.retrained_gaps(report.summarise(evidence.rows))
  ranked = [m for m in plan.methods if m in gaps]
  if not ranked:
    return {}
  nearest = min(ranked, key=lambda m: gaps[m].mean)
  lanes = plan.lanes[0] == plan.shown
  before, after = (
    evidence.found[m].values["confusion"][lanes].sum(axis=0)
    for m in (ORIGINAL, nearest)
  )
  dataset = classifiers.setup_of(plan.options).dataset
  split = plan.beds.sources[0]
  gone = plan.requests.marks[plan.shown, 0]
  label = split.test["label"]
  # Of a superclass a subclass may be gone, and it stays.
  forgotten = np.setdiff1d(label[gone], label[~gone]).tolist()
  return {
    "confusion": (
      report.confusion_pair(
        before,
        after,
        dataset.class_names,
        forgotten=forgotten,
        titles=("Original model", f"After {nearest}"),
      ),
      f"What the model answers on test rows before and after {nearest}, the "
      f"method nearest to retraining (request {_request(plan)}, all seeds "
      "together).",
    )
  }


def relearning(evidence: Evidence) -> Figures:
  """Accuracy on what was forgotten over steps of training on everything."""
  plan = evidence.plan
  lanes = plan.lanes[0] == plan.shown
  return {
    "relearning": (
      report.curves(
        np.arange(classifier_measures.relearn_limit(plan) + 1),
        {
          name: 100 * found.values["relearn_curve"][lanes]
          for name, found in evidence.found.items()
        },
        x_label="steps of training on all rows",
        y_label="accuracy on what was forgotten (%)",
      ),
      "How fast each model learns again what it was made to forget (request "
      f"{_request(plan)}). One that starts low and rises faster than the "
      "retrained model, the dashed line, had only hidden what it knew.",
    )
  }


def losses(evidence: Evidence) -> Figures:
  """The objective of each phase of each method."""
  plan = evidence.plan
  seeds = np.flatnonzero(plan.lanes[0] == plan.shown)
  traces = {
    name: {
      phase: values if len(values) == len(plan.seeds) else values[seeds]
      for phase, values in found.traces.items()
    }
    for name, found in evidence.found.items()
    if found.traces
  }
  return {
    "losses": (
      report.loss_traces(traces),
      "The objective of each phase of each method, step by step (request "
      f"{_request(plan)}). Phases minimise different things, so compare shapes, "
      "not heights; one that ascends on the forgotten rows goes down without "
      "end.",
    )
  }


def salun(evidence: Evidence) -> list[report.Comparison]:
  """The table of SalUn."""
  found = report.salun_table(
    report.summarise(evidence.rows),
    definitions=table.definitions(evidence.plan),
  )
  return [] if found is None else [found]


def findings(evidence: Evidence) -> list[str]:
  """Cautions, drift, and counts where there are few rows."""
  plan, summary = evidence.plan, report.summarise(evidence.rows)
  found = list(plan.notes)
  if plan.requests.in_sequence:
    known = table.definitions(plan)
    return found + report.drift_findings(summary, known)
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


def title(plan: Plan) -> str:
  manner = " in sequence" if plan.requests.in_sequence else ""
  asked = plan.options.request or "; ".join(plan.requests.names)
  notes = plan.dataset.notes
  kind = " (a stand-in)" if any("STAND-IN" in n for n in notes) else ""
  return f"Forgetting {asked} from {plan.options.data}{kind}{manner}"


def lead(plan: Plan) -> str:
  options, rows = plan.options, plan.requests.added[:, 0].sum(axis=1)
  total, given = plan.requests.forget.shape[-1], plan.beds.given
  names = options.request or "; ".join(plan.requests.names)
  origin = bench.origin(plan, f"{total} rows of {options.data}")
  asked = (
    f"the request {names}, {rows[0]} rows,"
    if len(rows) == 1
    else f"each of {len(rows)} requests ({names}, {rows.min()} to {rows.max()} "
    "rows)"
  )
  if plan.requests.in_sequence:
    asked = (
      f"{len(rows)} requests one after the other ({rows.min()} to {rows.max()} "
      f"rows each, {rows.sum()} in all: {names})"
    )
  standard = (
    "which was trained in the same way and never saw those rows"
    if given is None
    else "which was trained here and never saw those rows. Its training is that "
    "of the configuration and may differ from that of the model that was given: "
    "first see whether the two agree on the rows to be kept"
  )
  return (
    f"A model ({options.model}) was {origin} and then made to forget {asked} by "
    f"{len(plan.methods)} methods, with {len(plan.seeds)} seeds. The measure of "
    f"success is the model in the row retrained, {standard}. A good method ends "
    "where it ends, on every number, in less time; forgetting more than the "
    "retrained model is a flaw as well."
  )


def notes(plan: Plan) -> list[str]:
  limit = classifier_measures.relearn_limit(plan)
  found = [
    "Called members: a support vector classifier is fitted to tell retained "
    "rows from test rows by the entropy of the model's outputs, equally many of "
    f"both and at most {classifier_measures.SVC_ROWS}, and asked about the forgotten "
    "rows.",
    "Membership AUC: how often a forgotten row has a lower loss than a test row, "
    "of the same classes where whole classes were forgotten.",
    "Relearning: every model is trained on all training rows, the forgotten ones "
    "with them, by Adam with rate 0.001 and the same batches for all, for at most "
    f"{limit} steps, and measured after each on at most "
    f"{classifier_measures.RELEARN_ROWS} rows.",
    f"ZRF is the mean over {classifier_measures.NUM_TEACHERS} untrained networks that "
    "no method has used.",
    "Rows are divided anew for every seed, each class in proportion; rows set "
    "aside for choosing settings are never reported on. Data that come with test "
    "rows keep theirs.",
  ]
  if plan.options.tune is None:
    found.append(
      "Settings are those of the study, chosen on digits and a part of CIFAR-10; "
      "on other data they are a first guess. --tune chooses them for these data."
    )
  found += bench.of_given(plan)
  found += classifiers.recipe_of(plan.options).notes
  if plan.requests.in_sequence:
    found.append(
      "Each request is served by what the one before it left: the method goes on "
      "from the model that it made itself, and rows forgotten earlier are out of "
      "its reach. Numbers on forgotten rows are those of all requests so far, and "
      "so is the retrained model. Methods that see no rows are told of the "
      "classes of all requests so far."
    )
  if len(plan.requests.names) > 1:
    found.append(
      "The confusion matrices, the losses and the saved params are those of the "
      f"request {_request(plan)}."
    )
  return found


def _request(plan: Plan) -> str:
  return plan.requests.names[plan.shown]


PANELS = (drift, overview, confusion, relearning, losses)
