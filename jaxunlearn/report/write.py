"""All of an experiment's files in one call."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxunlearn.report import files
from jaxunlearn.report.definitions import METRICS, Metric
from jaxunlearn.report.equivalence import (
  Trial,
  nearest_findings,
  verdict_sentences,
)
from jaxunlearn.report.equivalence import (
  comparisons as tested,
)
from jaxunlearn.report.page import html_text
from jaxunlearn.report.results import (
  Results,
  check_results,
  results_to_json,
  summarise,
)
from jaxunlearn.report.tables import Comparison, markdown_report


def write_report(
  out: str | os.PathLike[str],
  results: Results,
  *,
  figures: Mapping[str, tuple[Any, str]] | None = None,
  title: str,
  lead: str,
  notes: Sequence[str] = (),
  comparisons: Sequence[Comparison] = (),
  general_findings: bool = True,
  more_findings: Sequence[str] = (),
  verdicts: Sequence[str] = (),
  definitions: Sequence[Metric] = METRICS,
  trial: Trial | None = None,
  provenance: Mapping[str, str] | None = None,
  unanswered: str = "",
) -> Path:
  """Writes results.json, table.md, plots/NAME.png and report.html.

  Each file is written whole or not at all; the results go first, so that a
  figure that fails does not cost them.

  Args:
    out: the folder; made where it is missing.
    results: see `Results`.
    figures: name -> (figure, caption), in the order of the report; a figure is a
      `Chart` or one of Matplotlib. Names are those of the files: letters, digits,
      "_", "-" and ".".
    title: heading of the tables and of the report.
    lead: what was done and why, in plain words.
    notes: further remarks for the report.
    comparisons: further tables, such as `salun_table`.
    general_findings: whether the sentences of `findings` are there, which hold
      unlearning methods against the retrained model.
    more_findings: sentences after those of `findings`.
    verdicts: sentences before them; see `judge`.
    definitions: how to show and explain each metric.
    trial: by which tests methods are judged; the answer comes first then, the
      sentences and tables of the tests are added, and `general_findings`, which
      call near what is not shown to differ, are left out.
    provenance: "command", date, hashes and the like, for the report.
    unanswered: why it cannot be said whether rows are deleted, where no test
      looked for traces of them; "" leaves the question out.

  Returns:
    The path of report.html.

  Raises:
    ValueError: the folder cannot be written to, the results are not as they
      should be, or a figure's name cannot name a file.

  Example:
    >>> import tempfile
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0, "seconds_run": 1.0,
    ...        "seconds_compile": 2.0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> results = report.Results("study", "smoke", "0.10", "cpu", {}, rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   page = report.write_report(
    ...     folder, results, title="A study", lead="Fine-tuning.")
    ...   sorted(path.name for path in page.parent.iterdir())
    ['report.html', 'results.json', 'table.md']
  """
  figures = figures or {}
  for name in figures:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
      raise ValueError(
        "Expected figures to be named by letters, digits, '_', '-' and '.', "
        f"got {name!r}."
      )
  if trial is not None:
    general_findings = False
    verdicts = [*verdict_sentences(trial), *verdicts]
    more_findings = [*nearest_findings(trial), *more_findings]
    comparisons = [*tested(trial), *comparisons]
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
  for name, (figure, _) in figures.items():
    files.write_bytes(out / "plots" / f"{name}.png", files.figure_png(figure))
  text = html_text(
    results,
    figures,
    title=title,
    lead=lead,
    notes=notes,
    comparisons=comparisons,
    general_findings=general_findings,
    more_findings=more_findings,
    verdicts=verdicts,
    definitions=definitions,
    trial=trial,
    provenance=provenance,
    unanswered=unanswered,
  )
  return files.write_text(out / "report.html", text)
