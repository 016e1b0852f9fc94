"""The HTML report: one file that needs nothing else.

No scripts, no external resources; images are part of the file. Every text that
comes from results, options or names is escaped, and a content security policy
forbids whatever is not the one style sheet or an embedded image.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jaxunlearn.report.definitions import (
  DIRECTIONS,
  METRICS,
  SYMBOLS,
  Metric,
)
from jaxunlearn.report.findings import findings
from jaxunlearn.report.limits import LIMITS
from jaxunlearn.report.results import (
  REFERENCES,
  RETRAINED,
  Results,
  Summary,
  check_results,
  summarise,
)
from jaxunlearn.report.style import STYLE
from jaxunlearn.report.tables import (
  Comparison,
  Grid,
  explained,
  legend,
  make_grid,
  split_columns,
)


def html_text(
  results: Results,
  images: Mapping[str, tuple[bytes, str]],
  *,
  title: str,
  lead: str,
  notes: Sequence[str] = (),
  comparisons: Sequence[Comparison] = (),
  general_findings: bool = True,
  more_findings: Sequence[str] = (),
  verdicts: Sequence[str] = (),
  definitions: Sequence[Metric] = METRICS,
) -> str:
  """The report's text; the arguments of `write_report`, figures as PNG bytes."""
  results = check_results(results)
  summary = summarise(results.rows)
  groups = split_columns(summary, definitions)
  general = findings(summary, definitions) if general_findings else ()
  found = [*general, *more_findings]
  sections = [
    _header(results, title, lead),
    _brief(results, summary, verdicts, found),
    _tables(summary, groups, comparisons, definitions),
    _figures(images),
    _glossary(
      explained(
        make_grid(summary, definitions=definitions), comparisons, definitions
      )
    ),
    _limits(),
    _notes(notes),
    _details("Configuration and environment", _config(results)),
    _details(f"All {len(results.rows)} runs", _runs(results, summary)),
  ]
  digest = hashlib.sha256(STYLE.encode()).digest()
  policy = (
    "default-src 'none'; img-src data:; "
    f"style-src 'sha256-{base64.b64encode(digest).decode()}'; "
    "base-uri 'none'; form-action 'none'"
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta http-equiv="Content-Security-Policy" '
    f'content="{escape(policy)}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="referrer" content="no-referrer">\n'
    f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    f"<body>\n<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
  )


def _header(results: Results, title: str, lead: str) -> str:
  paragraphs = [p for p in lead.split("\n\n") if p.strip()]
  return (
    "<header>\n"
    f'<p class="kind">Unlearning report: {escape(results.experiment)}, '
    f"preset {escape(results.preset)}</p>\n"
    f"<h1>{escape(title)}</h1>\n"
    + "".join(f'<p class="lead">{escape(p)}</p>\n' for p in paragraphs)
    + "</header>\n"
  )


def _brief(
  results: Results,
  summary: Summary,
  verdicts: Sequence[str],
  found: Sequence[str],
) -> str:
  """What was asked, what was tried, what was found."""
  seeds = len({row["seed"] for row in results.rows})
  candidates = summary.candidates
  baselines = [m for m in REFERENCES if m in summary.methods]
  compared = f", compared with: {' and '.join(baselines)}" if baselines else ""
  asked = "To be forgotten" if baselines else "Asked of"
  facts = [
    (asked, _listing(summary.requests, 5)),
    ("Methods", _listing(candidates, 20) + compared),
    ("Runs", f"{_count(len(results.rows), 'run')}, {_count(seeds, 'seed')}"),
  ]
  terms = "".join(
    f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>\n"
    for term, text in facts
  )
  lists = "".join(
    f'<h3>{title}</h3>\n<ul class="findings">\n'
    + "".join(f"<li>{escape(sentence)}</li>\n" for sentence in sentences)
    + "</ul>\n"
    for title, sentences in (("Verdicts", verdicts), ("Findings", found))
    if sentences
  )
  hint = (
    '<p class="hint">The <em>retrained model</em> was trained anew without the '
    "rows to be forgotten. It is what unlearning tries to reach at a lower "
    "cost.</p>\n"
  )
  return (
    '<section id="brief">\n<h2>In brief</h2>\n'
    f'<dl class="facts">\n{terms}</dl>\n'
    f"{lists}"
    f"{hint if RETRAINED in summary.methods else ''}</section>\n"
  )


def _tables(
  summary: Summary,
  groups: Sequence[Sequence[str]],
  comparisons: Sequence[Comparison],
  definitions: Sequence[Metric],
) -> str:
  captions = ("Main results", "Further measures")
  parts = ['<section id="results">\n<h2>Results</h2>\n']
  if not any(groups):
    parts.append("<p>No number was measured.</p>\n")
  for caption, group in zip(captions, groups):
    if group:
      grid = make_grid(summary, group, definitions=definitions)
      parts.append(_table(grid, caption))
      parts.append(f'<p class="hint">{escape(legend(grid))}</p>\n')
  for title, hint, grid in comparisons:
    parts.append(_table(grid, title))
    parts.append(f'<p class="hint">{escape(hint)}</p>\n')
  if len(summary.requests) > 1:
    for request in summary.requests:
      tables = [
        _table(
          make_grid(summary, group, request=request, definitions=definitions),
          f"{caption}, request: {request}",
        )
        for caption, group in zip(captions, groups)
        if group
      ]
      parts.append(_details(f"Request: {request}", "".join(tables)))
  return "".join(parts) + "</section>\n"


def _table(grid: Grid, caption: str) -> str:
  head = "".join(
    f'<th scope="col" title="{escape(m.explanation)}">{escape(m.heading)}\u00a0'
    f'<span class="sign">{SYMBOLS[m.direction]}</span></th>'
    for m in grid.metrics
  )
  lines = []
  for method, cells in grid.rows:
    baseline = ' class="baseline"' if method in REFERENCES else ""
    numbers = "".join(
      f"<td><strong>{escape(c.text)}</strong></td>"
      if c.best
      else f"<td>{escape(c.text)}</td>"
      for c in cells
    )
    lines.append(
      f'<tr{baseline}><th scope="row">{_breakable(method)}</th>{numbers}</tr>\n'
    )
  return _scroll(
    f"<table>\n<caption>{escape(caption)}</caption>\n"
    f'<thead><tr><th scope="col">Method</th>{head}</tr></thead>\n'
    f"<tbody>\n{''.join(lines)}</tbody>\n</table>\n",
    caption,
  )


def _figures(images: Mapping[str, tuple[bytes, str]]) -> str:
  if not images:
    return ""
  parts = []
  for name, (png, caption) in images.items():
    source = base64.b64encode(png).decode()
    parts.append(
      f'<figure>\n<img alt="{escape(f"Figure {name}")}" '
      f'src="data:image/png;base64,{source}">\n'
      f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )
  return (
    f'<section id="figures">\n<h2>Figures</h2>\n{"".join(parts)}</section>\n'
  )


def _glossary(metrics: Sequence[Metric]) -> str:
  """What each number means, for those that occur."""
  if not metrics:
    return ""
  terms = "".join(
    f"<div><dt>{escape(m.heading)}</dt><dd>{escape(m.explanation)} "
    f'<span class="sign">{SYMBOLS[m.direction]} '
    f"{escape(DIRECTIONS[m.direction])}</span></dd></div>\n"
    for m in metrics
  )
  return (
    '<section id="glossary">\n<h2>What the numbers mean</h2>\n'
    f'<dl class="glossary">\n{terms}</dl>\n</section>\n'
  )


def _limits() -> str:
  terms = "".join(
    f"<h3>{escape(head)}</h3>\n<p>{escape(text)}</p>\n" for head, text in LIMITS
  )
  return (
    '<section id="limits">\n'
    "<h2>What this report proves and what it does not</h2>\n"
    f"{terms}</section>\n"
  )


def _notes(notes: Sequence[str]) -> str:
  if not notes:
    return ""
  items = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
  return (
    f'<section id="notes">\n<h2>Notes</h2>\n<ul>\n{items}</ul>\n</section>\n'
  )


def _config(results: Results) -> str:
  pairs = [
    ("experiment", results.experiment),
    ("preset", results.preset),
    ("JAX", results.jax),
    ("device", results.device),
    *_flatten(results.config),
  ]
  lines = "".join(
    f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>\n'
    for name, text in pairs
  )
  return _scroll(
    '<table class="pairs">\n<thead><tr><th scope="col">Option</th>'
    '<th scope="col">Value</th></tr></thead>\n'
    f"<tbody>\n{lines}</tbody>\n</table>\n",
    "Configuration",
  )


def _runs(results: Results, summary: Summary) -> str:
  """Every row as it was measured, unscaled."""
  names = ("method", "request", "seed", *summary.metrics)
  head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
  lines = "".join(
    "<tr>"
    + "".join(f"<td>{escape(_raw(row.get(name)))}</td>" for name in names)
    + "</tr>\n"
    for row in results.rows
  )
  return _scroll(
    f'<table class="runs">\n<thead><tr>{head}</tr></thead>\n'
    f"<tbody>\n{lines}</tbody>\n</table>\n",
    "All runs",
  )


def _details(summary: str, content: str) -> str:
  return (
    f"<details>\n<summary>{escape(summary)}</summary>\n{content}</details>\n"
  )


def _scroll(table: str, label: str) -> str:
  """Lets a wide table scroll by itself, by keyboard too."""
  return (
    f'<div class="scroll" role="region" tabindex="0" '
    f'aria-label="{escape(label)}">\n{table}</div>\n'
  )


def _flatten(
  value: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, str]]:
  pairs: list[tuple[str, str]] = []
  for key, item in value.items():
    name = f"{prefix}{key}"
    if isinstance(item, Mapping) and item:
      pairs += _flatten(item, f"{name}.")
    elif isinstance(item, str):
      pairs.append((name, item))
    else:
      pairs.append((name, json.dumps(item, ensure_ascii=False)))
  return pairs


def _raw(value: Any) -> str:
  if value is None or (isinstance(value, float) and not math.isfinite(value)):
    return "–"
  return f"{value:.6g}" if isinstance(value, float) else str(value)


def _breakable(name: str) -> str:
  """A name, escaped, that a narrow column breaks after its underscores."""
  return escape(name).replace("_", "_<wbr>")


def _listing(names: Sequence[str], limit: int) -> str:
  if not names:
    return "none"
  rest = len(names) - limit
  more = f", and {rest} more" if rest > 0 else ""
  return ", ".join(names[:limit]) + more


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
