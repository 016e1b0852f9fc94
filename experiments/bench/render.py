"""From evidence to files and to the terminal.

All that knows how reports are made is here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.measure import Measurement

from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.core.types import Variables
from jaxunlearn.report.brief import UNTESTED
from jaxunlearn.report.files import plain
from jaxunlearn.report.tables import split_columns

from .. import common
from . import certify, lanes, table, tune
from .study import ORIGINAL, Evidence, Panel, Plan


def results(
  name: str, options: Any, config: Mapping[str, Any], rows: Sequence[Any]
) -> report.Results:
  """Rows with all that they depend on."""
  config = plain({**config, "environment": common.environment()})
  versions = options.preset, jax.__version__, common.device()
  return report.Results(name, *versions, config, rows)


def render(
  folder: Path,
  results: report.Results,
  contents: report.Contents,
  figures: Mapping[str, tuple[report.Chart, str]],
) -> None:
  """Writes results.json, table.md, plots/ and report.html into a folder."""
  table.check_declared(results.rows, contents.definitions)
  contents = contents._replace(general_findings=False)
  report.write_report(folder, results, contents, figures=figures)


def write(folder: Path, plan: Plan, evidence: Evidence) -> report.Summary:
  """Writes the report, and into params/ the models of the first lane."""
  plan = evidence.plan  # With the settings that were chosen.
  study, trial = plan.study, trial_of(evidence)
  config = {**configuration(plan), **evidence.extra}
  figures: dict[str, tuple[report.Chart, str]] = {}
  for panel in study.panels:
    figures |= panel(evidence)
  cards = {name: study.methods[name].card_of(name) for name in plan.methods}
  depth = report.depth_table(trial, cards)
  config["verdicts"] = report.verdicts(trial)
  findings = [*unmoved(evidence), *study.findings(evidence)]
  config["taxonomy"] = report.depth_account(trial, cards)
  contents = report.Contents(
    study.title(plan),
    study.lead(plan),
    notes=_notes(plan, findings),
    comparisons=[
      *([] if depth is None else [depth]),
      *study.comparisons(evidence),
      *tune.tables(evidence),
    ],
    more_findings=findings,
    definitions=(*table.definitions(plan), *report.DEPTH_COLUMNS),
    trial=trial,
    provenance=certify.provenance(evidence),
    unanswered=study.unanswered or UNTESTED,
  )
  made = results(study.name, plan.options, config, evidence.rows)
  render(folder, made, contents, figures)
  certify.write(folder, evidence, trial)
  for name, content in study.files(evidence).items():
    if isinstance(content, str):
      report.write_text(folder / name, content)
    elif isinstance(content, Variables):
      orbax.save(folder / name, content, config=plain(config))
    elif callable(content):
      content(folder / name)
    else:
      report.write_json(folder / name, plain(content))
  _save_params(folder / "params", evidence)
  return trial.summary


def unmoved(evidence: Evidence) -> list[str]:
  """The methods after which the weights are those of the original, in words."""

  def weights(name: str) -> Any:
    """Edits kept beside the params, in what is frozen, are weights too."""
    first = evidence.found[name].first
    return getattr(first, "params", None), getattr(first, "frozen", None)

  before = weights(ORIGINAL)
  found = []
  for name in evidence.plan.methods:
    after = weights(name)
    if before[0] is None or jax.tree.structure(before) != jax.tree.structure(
      after
    ):
      continue
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after))
    if all(np.array_equal(a, b) for a, b in pairs):
      found.append(name)
  if not found:
    return []
  return [
    f"Moved no weight (first request and seed): {', '.join(found)}. Whatever "
    "differs from the original model is how it is served."
  ]


def trial_of(evidence: Evidence) -> report.Trial:
  """What the report judges."""
  plan = evidence.plan
  known = table.definitions(plan)
  study = plan.study
  rows = [r for r in evidence.rows if r["method"] not in study.unranked]
  of = study.gap, tuple(study.single), study.is_gap
  return report.Trial(rows, plan.rules, known, *of)


def show(
  console: Console,
  summary: report.Summary,
  columns: Sequence[str] | None,
  definitions: Sequence[report.Metric],
  out: str,
) -> None:
  """A table per request with the first columns that fit, and where the rest is."""
  if columns is None:
    columns = split_columns(summary, definitions)[0]
  shown: dict[str, Any] = {"definitions": definitions}
  for name in summary.requests:
    for count in range(len(columns), 0, -1):
      made = report.rich_table(
        summary, columns[:count], **shown, request=name, title=name
      )
      wide = console.options.update_width(10_000)
      least = Measurement.get(console, wide, made).minimum
      if least <= console.width:
        break
    console.print(made)
  where = f"Report: {Path(out) / 'report.html'}"
  console.print(where, markup=False, soft_wrap=True)


def configuration(plan: Plan) -> dict[str, Any]:
  """All that the numbers depend on, for the results."""
  return {
    **dataclasses.asdict(plan.options),
    "requests": plan.requests.names,
    "seeds": plan.seeds,
    "strategy": plan.strategy,
    "settings": plan.settings,
    "settings_from": plan.origins,
    "forget_rows": plan.requests.added.sum(axis=-1),
    "rows": plan.requests.forget.shape[-1],
    **plan.beds.facts,
  }


def bars(names: Sequence[str], caption: str, **labels: str) -> Panel:
  """A figure per request: a panel per column, a bar per method.

  Args:
    names: the columns.
    caption: after the request's name.
    **labels: shorter ones for columns whose own are too long for a panel.
  """

  def panel(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
    known = [
      metric._replace(label=labels.get(metric.name, metric.label))
      for metric in table.definitions(evidence.plan)
    ]
    figures = {}
    for i, request in enumerate(evidence.plan.requests.names):
      rows = [row for row in evidence.rows if row["request"] == request]
      figures[f"bars_{i}"] = (
        report.accuracy_bars(report.summarise(rows), names, definitions=known),
        f"{request}: {caption}",
      )
    return figures

  return panel


def _notes(plan: Plan, findings: Sequence[str]) -> list[str]:
  methods = {name: plan.study.methods[name] for name in plan.methods}
  access = "; ".join(f"{n}: {m.access}" for n, m in methods.items() if m.access)
  own = plan.study.notes(plan)
  return [
    # What the terminal said, once.
    *(note for note in plan.notes if note not in (*findings, *own)),
    *([f"Data that each method had access to: {access}."] if access else []),
    *(f"{name}: {m.note}" for name, m in methods.items() if m.note),
    *own,
    "Run time is that of one request and one seed: the time of the program that "
    "serves all of them divided by their number.",
  ]


def _save_params(folder: Path, evidence: Evidence) -> None:
  """The models of one request and the first seed, one per method."""
  plan = evidence.plan
  config = {
    "options": dataclasses.asdict(plan.options),
    "request": plan.requests.names[plan.shown],
    "seed": plan.seeds[0],
  }
  first = plan.shown * len(plan.seeds)
  for name, found in evidence.found.items():
    variables = found.first
    if not isinstance(variables, Variables):
      variables = variables._asdict()
    setting = plan.settings.get(name, {})
    orbax.save(
      folder / name,
      jax.tree.map(np.asarray, variables),
      forget_mask=plan.requests.forget[plan.shown, 0],
      key=lanes.keys(plan, name)[0 if name == ORIGINAL else first],
      config=plain({**config, "method": name, "setting": setting}),
    )
