"""All of an experiment's files in one call."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxunlearn.report import files
from jaxunlearn.report.contents import Contents
from jaxunlearn.report.page import html_text
from jaxunlearn.report.results import (
  Results,
  check_results,
  results_to_json,
  summarise,
)
from jaxunlearn.report.tables import markdown_report
from jaxunlearn.report.trial_words import comparisons as tables_of
from jaxunlearn.report.trial_words import nearest_findings, verdict_sentences


def write_report(
  out: str | os.PathLike[str],
  results: Results,
  contents: Contents | None = None,
  *,
  figures: Mapping[str, tuple[Any, str]] | None = None,
  **loose: Any,
) -> Path:
  """Writes results.json, table.md, plots/NAME.png and report.html.

  Each file is written whole or not at all; the results go first, so that a
  figure that fails does not cost them.

  Args:
    out: the folder; made where it is missing.
    results: see `Results`.
    contents: title, words and tests; see `Contents`.
    figures: name -> (figure, caption), in the order of the report; a figure is a
      `Chart` or one of Matplotlib. Names are those of the files: letters, digits,
      "_", "-" and ".".
    **loose: the fields of `contents`, which are taken for one release.

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
    >>> contents = report.Contents("A study", "Fine-tuning.")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   page = report.write_report(folder, results, contents)
    ...   sorted(path.name for path in page.parent.iterdir())
    ['report.html', 'results.json', 'table.md']
  """
  if contents is None:
    contents = Contents(**loose)
    warnings.warn(
      f"write_report takes {', '.join(loose)} as fields of contents.",
      DeprecationWarning,
      stacklevel=2,
    )
  elif loose:
    raise TypeError(f"Got unexpected keyword arguments {sorted(loose)}.")
  figures = figures or {}
  for name in figures:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
      raise ValueError(
        "Expected figures to be named by letters, digits, '_', '-' and '.', "
        f"got {name!r}."
      )
  trial = contents.trial
  if trial is not None:
    contents = contents._replace(
      general_findings=False,
      verdicts=[*verdict_sentences(trial), *contents.verdicts],
      more_findings=[*nearest_findings(trial), *contents.more_findings],
      comparisons=[*tables_of(trial), *contents.comparisons],
    )
  out = files.check_writable(out)
  results = check_results(results)
  files.write_json(out / "results.json", results_to_json(results))
  table = markdown_report(
    results,
    summarise(results.rows),
    title=contents.title,
    comparisons=contents.comparisons,
    definitions=contents.definitions,
  )
  files.write_text(out / "table.md", table)
  for name, (figure, _) in figures.items():
    files.write_bytes(out / "plots" / f"{name}.png", files.figure_png(figure))
  text = html_text(results, figures, contents)
  return files.write_text(out / "report.html", text)
