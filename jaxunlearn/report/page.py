"""HTML pages: one file each, that needs nothing else.

Jinja2 (the `experiments` extra) escapes whatever a template shows. Pictures
stand in the page as SVG; scripts sort tables and make pictures live. A content
security policy names the style sheet and the scripts by their hashes and forbids
all else: evaluation of text, and whatever is not in the file.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxunlearn.report import brief, charts, files
from jaxunlearn.report.charts import Chart
from jaxunlearn.report.contents import Contents
from jaxunlearn.report.definitions import (
  DIRECTIONS,
  SYMBOLS,
  Metric,
  describe,
)
from jaxunlearn.report.equivalence import Trial
from jaxunlearn.report.findings import findings
from jaxunlearn.report.limits import LIMITS
from jaxunlearn.report.results import (
  REFERENCES,
  RETRAINED,
  RETRAINED_AGAIN,
  Results,
  Summary,
  check_results,
  summarise,
)
from jaxunlearn.report.tables import (
  Comparison,
  Grid,
  explained,
  legend,
  make_grid,
  split_columns,
)

_FOLDER = Path(__file__).parent / "templates"


def render(template: str, *, scripts: Sequence[str] = (), **fields: Any) -> str:
  """A page from its template, with the style sheet and the scripts."""
  style = (_FOLDER / "style.css").read_text("utf-8")
  allowed = " ".join(map(_hash, scripts)) or "'none'"
  policy = (
    f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
    f"script-src {allowed}; base-uri 'none'; form-action 'none'"
  )
  from markupsafe import Markup

  return (
    _templates()
    .get_template(template)
    .render(
      policy=Markup(policy),
      style=Markup(style),
      scripts=[Markup(script) for script in scripts],
      **fields,
    )
  )


def script(name: str) -> str:
  """A script of the templates."""
  return _inline((_FOLDER / name).read_text("utf-8"))


def scripts(charts_shown: bool) -> list[str]:
  """What sorts and highlights; and Vega, where there are pictures."""
  own = script("report.js")
  return [_vega(), own] if charts_shown else [own]


def html_text(
  results: Results,
  figures: Mapping[str, tuple[Any, str]],
  contents: Contents,
) -> str:
  """The report's text; the arguments of `write_report`."""
  results = check_results(results)
  summary = summarise(results.rows)
  definitions, comparisons = contents.definitions, contents.comparisons
  trial, unanswered = contents.trial, contents.unanswered
  general = findings(summary, definitions) if contents.general_findings else ()
  made = {} if trial is None else brief.marks(trial)
  answer = None if trial is None else brief.brief(trial, results.rows)
  notes_of = brief.twins(results.rows)
  grids = _Grids(summary, definitions, trial, made, notes_of)
  main, rest = split_columns(summary, definitions)
  seeds = sorted({row["seed"] for row in results.rows})
  known = contents.provenance or {}
  shown = [
    (name, *(_picture(figure)), caption)
    for name, (figure, caption) in figures.items()
  ]
  return render(
    "report.html.j2",
    scripts=scripts(any(chart for _, chart, _, _ in shown)),
    results=results,
    title=contents.title,
    lead=[p for p in contents.lead.split("\n\n") if p.strip()],
    brief=answer
    or (brief.Brief("open", unanswered, ()) if unanswered else None),
    # The answer holds them already.
    lists=(
      ("Verdicts", () if answer else contents.verdicts),
      ("Findings", [*general, *contents.more_findings]),
    ),
    facts=_facts(results, summary, len(seeds)),
    methods=summary.methods,
    references=REFERENCES,
    symbols=SYMBOLS,
    directions=DIRECTIONS,
    main=grids.of(main, "Main results"),
    footnotes=grids.footnotes,
    more=_more(grids, summary, (main, rest), comparisons),
    figures=[(name, chart, text, url) for name, chart, url, text in shown],
    glossary=explained(
      make_grid(summary, definitions=definitions), comparisons, definitions
    ),
    limits=LIMITS,
    notes=contents.notes,
    provenance=known,
    origin=[
      *((k, v) for k, v in known.items() if k != "command"),
      ("JAX", results.jax),
      ("Hardware", results.device),
      ("Seeds", ", ".join(map(str, seeds))),
    ],
    config=[
      ("experiment", results.experiment),
      ("preset", results.preset),
      *_flatten(results.config),
    ],
    run_heads=("method", "request", "seed", *summary.metrics),
    runs=[
      [
        _raw(row.get(n))
        for n in ("method", "request", "seed", *summary.metrics)
      ]
      for row in results.rows
    ],
  )


class _Grids:
  """Tables as the template wants them, and the footnotes that they share."""

  def __init__(
    self,
    summary: Summary,
    definitions: Sequence[Metric],
    trial: Trial | None,
    marks: Mapping[str, tuple[str, str]],
    twins: Mapping[str, str],
  ):
    self._summary, self._definitions = summary, definitions
    self._gap = "retrained_gap" if trial is None else trial.gap
    self._order = "the gap to the retrained model"
    if trial is not None and not trial.is_gap:
      self._order = f'the column "{describe(trial.gap, definitions).label}"'
    self._marks = marks
    notes = {method: f"{method}: {text}" for method, text in twins.items()}
    if RETRAINED_AGAIN in summary.methods:
      notes[RETRAINED_AGAIN] = (
        f"{RETRAINED_AGAIN}: the floor, retraining once more with other random "
        "numbers."
      )
      if trial is None or trial.is_gap:
        notes[RETRAINED_AGAIN] += (
          " What stands above it is as near to retraining as retraining is."
        )
    for method, (word, why) in marks.items():
      more = f" {notes[method]}." if method in notes else ""
      notes[method] = f"{method}, {word}: {why}{more}"
    order = [m for m in summary.methods if m in notes]
    self._numbers = {m: i for i, m in enumerate(order, start=1)}
    self.footnotes = [notes[m] for m in order]

  def of(
    self, metrics: Sequence[str], caption: str, request: str | None = None
  ) -> dict[str, Any]:
    """The methods by their gap, with verdicts and the reasons of all marks."""
    grid = make_grid(
      self._summary, metrics, request=request, definitions=self._definitions
    )
    stats = (
      self._summary.overall
      if request is None
      else {m: self._summary.cells[m, request] for m, _ in grid.rows}
    )

    def place(row: Any) -> float:
      gap = stats[row[0]].get(self._gap)
      if row[0] == RETRAINED:
        return -math.inf
      return gap.mean if gap is not None and gap.n else math.inf

    ranked = grid._replace(rows=tuple(sorted(grid.rows, key=place)))
    hint = legend(grid)
    if self._gap in self._summary.metrics:
      hint += (
        f" Rows are ordered by {self._order}; a click on a head orders them by "
        "its column, one on a row picks it out everywhere."
      )
    return self.plain(ranked, caption, hint, request is None)

  def plain(
    self, grid: Grid, caption: str, hint: str, with_marks: bool = False
  ) -> dict[str, Any]:
    """Any table, in the order that it has."""
    with_marks = with_marks and bool(self._marks)
    rows = []
    for method, cells in grid.rows:
      word, why = self._marks.get(method, ("", ""))
      rows.append({
        **{"method": method, "cells": cells, "outcome": word, "why": why},
        "rank": brief.RANK.get(word, len(brief.RANK)),
        "notes": [self._numbers[method]] * with_marks
        if method in self._numbers else [],
      })  # fmt: skip
    made = {"metrics": grid.metrics, "rows": rows, "verdicts": with_marks}
    return {**made, "caption": caption, "hint": hint}


def _more(
  grids: _Grids,
  summary: Summary,
  groups: Sequence[Sequence[str]],
  comparisons: Sequence[Comparison],
) -> list[tuple[str, list[dict[str, Any]]]]:
  """Everything below the one table, folded."""
  captions = ("Main results", "Further measures")
  _, rest = groups
  found = [
    ("Further measures", [grids.of(rest, "Further measures")] if rest else []),
    *((c.title, [grids.plain(c.grid, c.title, c.hint)]) for c in comparisons),
  ]
  for request in summary.requests if len(summary.requests) > 1 else ():
    tables = [
      grids.of(group, f"{caption}, request: {request}", request)
      for caption, group in zip(captions, groups)
      if group
    ]
    found.append((f"Request: {request}", tables))
  return found


def _facts(
  results: Results, summary: Summary, seeds: int
) -> list[tuple[str, str]]:
  """What was asked and what was tried."""
  baselines = [m for m in REFERENCES if m in summary.methods]
  compared = f", compared with: {' and '.join(baselines)}" if baselines else ""
  asked = "To be forgotten" if baselines else "Asked of"
  runs = _count(len(results.rows), "run")
  return [
    (asked, _listing(summary.requests, 5)),
    ("Methods", _listing(summary.candidates, 20) + compared),
    ("Runs", f"{runs}, {_count(seeds, 'seed')}"),
  ]


def _picture(figure: Any) -> tuple[Chart | None, str]:
  """A chart, or the URL of an image: of bytes, or of a figure of Matplotlib."""
  if isinstance(figure, Chart):
    return figure, ""
  png = base64.b64encode(files.figure_png(figure)).decode()
  return None, f"data:image/png;base64,{png}"


@functools.cache
def _templates() -> Any:
  import jinja2
  from markupsafe import Markup, escape

  made = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  # A narrow column breaks a name after its underscores.
  made.filters["breakable"] = lambda name: escape(name).replace(
    "_", Markup("_<wbr>")
  )
  made.filters["drawn"] = lambda panel: Markup(charts.panel_svg(panel))
  made.filters["enumerated"] = lambda names: list(enumerate(names))
  made.filters["pairs"] = lambda names: [(name, name) for name in names]
  made.filters["json"] = lambda value: Markup(_json(value))
  made.filters["live"] = lambda panel, zooms=True: Markup(
    _json(charts.live(panel, zooms))
  )
  return made


@functools.cache
def _vega() -> str:
  """Vega, Vega-Lite and their embedding, which can do without `eval`.

  It takes more than a second to bundle and is the same for a release of
  vl-convert, so it is kept in the user's folder of caches.
  """
  import vl_convert

  release = importlib.metadata.version("vl-convert-python")
  home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  kept = Path(home) / "jaxunlearn" / f"vega-{release}.js"
  with contextlib.suppress(OSError, UnicodeDecodeError):
    return _inline(kept.read_text("utf-8"))
  bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]
  with contextlib.suppress(OSError):
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(kept, bundle)
  return _inline(bundle)


def _inline(script: str) -> str:
  """A script as it can stand in a page, where a parser mends ends of lines.

  Code has neither of the two that are written otherwise: they are in its strings.
  """
  script = re.sub(r"\r\n?", "\n", script)
  return re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)


def _json(value: Any) -> str:
  """JSON that cannot end the element that holds it."""
  return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


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


def _listing(names: Sequence[str], limit: int) -> str:
  if not names:
    return "none"
  rest = len(names) - limit
  more = f", and {rest} more" if rest > 0 else ""
  return ", ".join(names[:limit]) + more


def _count(number: int, noun: str) -> str:
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
