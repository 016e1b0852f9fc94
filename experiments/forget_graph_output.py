"""From what was forgotten of a graph to files, figures and the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

from experiments import common
from experiments import forget_graph_figures as figures
from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from matplotlib.figure import Figure

  from experiments.forget_graph import Outcome, Plan

BARS = {
  "links": ("test_auc", "forget_auc"),
  "nodes": ("forget_accuracy", "retain_accuracy", "test_accuracy"),
}
# How much above the retrained model's AUC is worth a sentence.
_MARGIN = 0.05
_EXPLAINED = ("d2dgn", "gnndelete")


def _metric(name, label, explanation, unit="", decimals=3, **more):
  return report.Metric(name, label, explanation, unit, decimals, **more)


_LINKS = (
  _metric(
    "test_auc",
    "AUC, test edges",
    "Chance that a test edge, never trained on, is given a higher probability "
    "than a pair that no edge joins; of edges at forgotten nodes none counts.",
    headline=True,
  ),
  _metric(
    "forget_auc",
    "AUC, kept over deleted edges",
    "Chance that a kept training edge is given a higher probability than a "
    "deleted one. Near 1 is over-forgetting: to a model that never saw the "
    "deleted edges they are nearly as plausible as the others.",
    headline=True,
  ),
  _metric(
    "mi_ratio",
    "MI ratio",
    "Mean over deleted edges of the probability that an attack gives to their "
    "having been trained on, before over after (arXiv:2302.13406). 1 is no "
    "change; far above the retrained model's value is over-forgetting.",
    decimals=2,
    headline=True,
  ),
  _metric(
    "js_to_retrained",
    "JS, deleted edges",
    "Jensen-Shannon divergence between the probabilities that this model and the "
    "retrained one give to deleted edges.",
    "nats",
    4,
    direction=report.LOWER,
    headline=True,
  ),
  _metric(
    "forget_probability",
    "Probability, deleted edges",
    "Mean probability that the model gives to deleted edges.",
  ),
  _metric(
    "delta_p",
    "Delta p, kept edges",
    "Mean over kept edges of the probability minus the retrained model's "
    "(arXiv:2402.10695); below 0 is damage.",
  ),
)
_NODES = (
  _metric(
    "js_to_retrained",
    "JS, forgotten nodes",
    "Jensen-Shannon divergence between the class probabilities that this model "
    "and the retrained one give to forgotten nodes.",
    "nats",
    4,
    direction=report.LOWER,
    headline=True,
  ),
)
_COST = (
  _metric(
    "speedup",
    "Faster than retraining",
    "Time of retraining over that of the method, for one request by itself; both "
    "took turns on the same machine, once a seed.",
    "times",
    1,
    direction=report.HIGHER,
    headline=True,
  ),
  _metric(
    "seconds_alone",
    "One request alone",
    "Time of the first request by itself, compilation apart.",
    "s",
    direction=report.LOWER,
  ),
  _metric(
    "forward_mflop",
    "Forward pass",
    "Operations of a forward pass over all nodes, by the compiler's count.",
    "MFLOP",
    1,
    direction=report.LOWER,
  ),
)
_NOTES = {
  "links": (
    "Each seed has a split of its own: 90 % of the edges are trained on, 5 % are "
    "test edges, 5 % serve the attack. Every model answers on the graph without "
    "the deleted edges, but the original, which answers on the whole one.",
    "The attack of the MI ratio is a logistic regression that learned on a model "
    "of the test edges how pairs look that were trained on. It is weak; a ratio "
    "says how its opinion changed, not that nothing is left.",
  ),
  "nodes": (
    "Each seed has a split of its own: 60 % of the nodes are trained on. A "
    "forgotten node takes its edges along and is then judged by its features "
    "alone; every model but the original answers on the graph without them.",
  ),
}
_SHARED_NOTES = (
  "d2dgn's rate, steps and weight were chosen on Cora on other seeds than are "
  "reported here; gradient ascent and GNNDelete have the rates of the latter's "
  "code.",
  "partition cuts the graph in pieces and trains a model of each anew. Edges "
  "between pieces are trained on by none; all pieces are retrained, touched or "
  "not, in one program.",
  "Run time is that of one request and one seed: the time of the program that "
  "serves all of them divided by their number.",
)


def definitions(task: str) -> tuple[report.Metric, ...]:
  """How to show each number."""
  gap = next(m for m in report.METRICS if m.name == "retrained_gap")
  # The speed-up stands in the main table for it.
  seconds = next(m for m in report.METRICS if m.name == "seconds_run")
  seconds = seconds._replace(headline=False)
  own = _LINKS if task == "links" else _NODES
  if task == "links":
    gap = gap._replace(
      explanation="Mean absolute difference to the retrained model over both "
      "AUCs.",
      unit="",
      decimals=3,
    )
  else:
    gap = gap._replace(
      explanation="Mean absolute difference to the retrained model over the "
      "accuracies on forgotten, kept and test nodes."
    )
  return (*report.METRICS, *own, gap, seconds, *_COST)


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, plots, the report and params into a folder."""
  study, options = plan.study, plan.options
  config = {
    **dataclasses.asdict(options),
    "requests": [ask.text for ask in study.asks],
    "seeds": study.seeds,
    "strategy": study.strategy,
    "recipe": study.recipe._asdict(),
    "nodes": len(study.data.features),
    "features": study.data.features.shape[1],
    "edges": len(study.data.edges),
    "rows": study.masks.shape[-1],
    "forget_rows": study.masks.sum(axis=-1),
    "environment": common.environment(),
  }
  results = report.Results(
    "forget_graph",
    options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    _rows(plan, outcome),
  )
  known = definitions(study.task)
  summary = report.summarise(results.rows)
  report.write_report(
    folder,
    results,
    figures=_figures(plan, outcome, results.rows),
    title=f"Forgetting a part of the graph {_name(options.data)}",
    lead=_lead(plan),
    notes=(*_NOTES[study.task], *_SHARED_NOTES),
    more_findings=_findings(plan, summary),
    definitions=known,
  )
  _save_params(folder / "params", plan, outcome)
  return summary


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """A table a request, the findings, and where the rest is."""
  task = plan.study.task
  known = definitions(task)
  columns = [*BARS[task]]
  columns += ["mi_ratio"] if task == "links" else []
  columns += ["js_to_retrained", "retrained_gap", "speedup"]
  for request in summary.requests:
    console.print(
      report.rich_table(
        summary, columns, request=request, definitions=known, title=request
      )
    )
  for sentence in _findings(plan, summary):
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def _name(source: str) -> str:
  return Path(source).name if source.startswith("npz:") else source


def _lead(plan: Plan) -> str:
  study = plan.study
  what = (
    "which nodes are joined" if study.task == "links" else "classes of nodes"
  )
  return (
    f"A graph network ({study.layer.upper()}) that predicts {what} was trained "
    f"on {_name(plan.options.data)}, {len(study.data.features)} nodes and "
    f"{len(study.data.edges)} edges, and then made to forget a part of it by "
    f"{len(plan.methods)} methods, with {len(study.seeds)} seeds. A good one "
    "answers as a model does that was trained without that part: as well on the "
    "rest, and neither more nor less sure of what is gone."
  )


def _rows(plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
  study = plan.study
  retraining = outcome.alone["retrained"]
  rows = []
  for method, found in outcome.measured.items():
    compiling, running = outcome.seconds[method]
    alone = outcome.alone.get(method, np.full_like(retraining, np.nan))
    rows += [
      {
        "method": method,
        "request": study.asks[int(request)].text,
        "seed": int(study.seeds[seed]),
        "seconds_compile": compiling,
        "seconds_run": running,
        **{name: float(v[lane]) for name, v in found.metrics.items()},
        "seconds_alone": alone[seed],
        "speedup": retraining[seed] / alone[seed],
        "forward_mflop": found.flops / 1e6,
      }
      for lane, (request, seed) in enumerate(zip(*study.lanes))
    ]
  return rows


def _findings(plan: Plan, summary: report.Summary) -> list[str]:
  """What the numbers say of links, beyond the nearness to retraining."""
  if plan.study.task != "links":
    return []
  overall = summary.overall
  mean = lambda method, name: overall[method][name].mean
  theirs = mean("retrained", "forget_auc")
  sentences = [
    f"The original model's AUC on test edges is "
    f"{mean('original', 'test_auc'):.3f}, the retrained one's "
    f"{mean('retrained', 'test_auc'):.3f}."
  ]
  over = [
    f"{name} ({mean(name, 'forget_auc'):.3f})"
    for name in summary.candidates
    if mean(name, "forget_auc") > theirs + _MARGIN
  ]
  if over:
    sentences.append(
      "Over-forgetting, kept edges ranked further above deleted ones than by the "
      f"retrained model ({theirs:.3f}): {', '.join(over)}."
    )
  for name in _EXPLAINED:
    if name not in summary.candidates:
      continue
    gap = mean(name, "test_auc") - mean("retrained", "test_auc")
    sentences.append(
      f"{name}: AUC on test edges {mean(name, 'test_auc'):.3f} ({gap:+.3f} "
      f"against retraining), MI ratio {mean(name, 'mi_ratio'):.2f} (retrained "
      f"{mean('retrained', 'mi_ratio'):.2f}), probability of deleted edges "
      f"{mean(name, 'forget_probability'):.3f} (retrained "
      f"{mean('retrained', 'forget_probability'):.3f}), "
      f"{mean(name, 'speedup'):.1f} times as fast as retraining."
    )
  return sentences


def _figures(
  plan: Plan, outcome: Outcome, rows
) -> Mapping[str, tuple[Figure, str]]:
  study = plan.study
  known = definitions(study.task)
  made = {}
  aim = (
    "Near 1 on deleted edges is over-forgetting."
    if study.task == "links"
    else "Lower on forgotten nodes than the dashed line is over-forgetting."
  )
  for i, ask in enumerate(study.asks):
    own = [row for row in rows if row["request"] == ask.text]
    made[f"bars_{i}"] = (
      report.accuracy_bars(
        report.summarise(own), BARS[study.task], definitions=known
      ),
      f"{ask.text}: means and standard deviations over seeds. The dashed line is "
      f"the retrained model, which is the aim. {aim}",
    )
  summary = report.summarise(rows)
  made["trade_off"] = (
    figures.trade_off(summary, study.task, known),
    "What is kept against what is forgotten, means over requests and seeds. "
    "A method should lie where the dashed lines cross: at the retrained model. "
    "The square is the original model.",
  )
  made["distance"] = (
    report.distance_plot(summary, definitions=known),
    "How far each method ends from the retrained model, and how long it takes. "
    "Down is better forgetting, left is faster.",
  )
  made["neighbourhood"] = (
    figures.neighbourhood(study, outcome.measured, plan.methods),
    figures.caption(study),
  )
  return made


def _save_params(folder: Path, plan: Plan, outcome: Outcome) -> None:
  """The models of the first request and seed, one a method."""
  study = plan.study
  config = {
    "data": plan.options.data,
    "task": study.task,
    "layer": study.layer,
    "request": study.asks[0].text,
    "seed": int(study.seeds[0]),
    "recipe": study.recipe._asdict(),
  }
  for name, variables in outcome.first.items():
    is_trained = name in ("original", "retrained", "partition")
    keys = study.train_keys if is_trained else study.unlearn_keys
    orbax.save(
      folder / name,
      variables,
      forget_mask=study.masks[0, 0],
      key=keys[0],
      config=plain({**config, "method": name}),
    )
