"""All of an experiment's files in one call."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxunlearn.report import files
from jaxunlearn.report.canvas import figure_png
from jaxunlearn.report.definitions import METRICS, Metric
from jaxunlearn.report.html import html_text
from jaxunlearn.report.results import (
  Results,
  check_results,
  results_to_json,
  summarise,
)
from jaxunlearn.report.tables import Comparison, markdown_report

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def write_report(
  out: str | os.PathLike[str],
  results: Results,
  *,
  figures: Mapping[str, tuple[Figure, str]] | None = None,
  title: str,
  lead: str,
  notes: Sequence[str] = (),
  comparisons: Sequence[Comparison] = (),
  general_findings: bool = True,
  more_findings: Sequence[str] = (),
  verdicts: Sequence[str] = (),
  definitions: Sequence[Metric] = METRICS,
) -> Path:
  """Writes results.json, table.md, plots/NAME.png and report.html.

  Each file is written whole or not at all; the results go first, so that a
  figure that fails does not cost them.

  Args:
    out: the folder; made where it is missing.
    results: see `Results`.
    figures: name -> (figure, caption), in the order of the report. Names are
      those of the files: letters, digits, "_", "-" and ".".
    title: heading of the tables and of the report.
    lead: what was done and why, in plain words.
    notes: further remarks for the report.
    comparisons: further tables, such as `salun_table`.
    general_findings: whether the sentences of `findings` are there, which hold
      unlearning methods against the retrained model.
    more_findings: sentences after those of `findings`.
    verdicts: sentences before them; see `judge`.
    definitions: how to show and explain each metric.

  Returns:
    The path of report.html.

  Raises:
    ValueError: the folder cannot be written to, the results are not as they
      should be, or a figure's name cannot name a file.
  """
  figures = figures or {}
  for name in figures:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
      raise ValueError(
        "Expected figures to be named by letters, digits, '_', '-' and '.', "
        f"got {name!r}."
      )
  out = files.check_writable(out)
  results = check_results(results)
  files.write_json(out / "results.json", results_to_json(results))
  table = markdown_report(
    results,
    summarise(results.rows),
    title=title,
    comparisons=comparisons,
    definitions=definitions,
  )
  files.write_text(out / "table.md", table)
  images = {}
  for name, (figure, caption) in figures.items():
    images[name] = (figure_png(figure), caption)
    files.write_bytes(out / "plots" / f"{name}.png", images[name][0])
  text = html_text(
    results,
    images,
    title=title,
    lead=lead,
    notes=notes,
    comparisons=comparisons,
    general_findings=general_findings,
    more_findings=more_findings,
    verdicts=verdicts,
    definitions=definitions,
  )
  return files.write_text(out / "report.html", text)
