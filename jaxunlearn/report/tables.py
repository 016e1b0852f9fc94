"""Tables of results as grids of cells, and in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxunlearn.report.definitions import (
  DIRECTIONS,
  HIGHER,
  LOWER,
  METRICS,
  NEAREST,
  SYMBOLS,
  Metric,
  column_decimals,
  describe,
  format_mean,
)
from jaxunlearn.report.results import (
  REFERENCES,
  RETRAINED,
  Results,
  Statistic,
  Summary,
)

MAX_COLUMNS = 7
_BEST = {
  NEAREST: "nearest to the retrained model's {}",
  LOWER: "the lowest",
  HIGHER: "the highest",
}


class Cell(NamedTuple):
  """One number of a table.

  Attributes:
    text: as shown.
    best: whether it is its column's best.
    why: the reason behind a mark.
    value: to sort by; the text by default.
  """

  text: str
  best: bool = False
  why: str = ""
  value: float | str = ""


class Grid(NamedTuple):
  """A table before it takes a form.

  Attributes:
    metrics: one a column.
    rows: (method, cells) in order, "original" and "retrained" first.
    partial: whether some cell has values for a part of its runs only.
  """

  metrics: tuple[Metric, ...]
  rows: tuple[tuple[str, tuple[Cell, ...]], ...]
  partial: bool


class Comparison(NamedTuple):
  """A table beside those of all numbers.

  Attributes:
    title: its caption.
    hint: how to read it, in sentences.
    grid: its cells; the columns may have short labels of their own.
  """

  title: str
  hint: str
  grid: Grid


def make_grid(
  summary: Summary,
  metrics: Sequence[str] | None = None,
  *,
  request: str | None = None,
  definitions: Sequence[Metric] = METRICS,
) -> Grid:
  """Texts and marks of a table.

  Best are, of the methods, the value nearest to the retrained model or the
  lowest or highest one, by the metric's direction, and all that look the same
  as shown. Nothing is marked with fewer than two methods to choose from.

  Args:
    summary: see `summarise`.
    metrics: the columns; None takes all that have a value somewhere.
    request: the request to show; None shows the mean over requests.
    definitions: how to show each metric.

  Returns:
    The grid, methods without a row for the request left out.

  Raises:
    ValueError: the summary does not have the request.
  """
  stats = _statistics(summary, request)
  if metrics is None:
    metrics = sum(split_columns(summary, definitions), ())
  columns = [_column(stats, describe(name, definitions)) for name in metrics]
  rows = tuple(
    (method, tuple(column[method] for column in columns)) for method in stats
  )
  shown = [stats[method].get(name) for method in stats for name in metrics]
  partial = any(s is not None and 0 < s.rows < s.total for s in shown)
  return Grid(
    tuple(describe(name, definitions) for name in metrics), rows, partial
  )


def split_columns(
  summary: Summary,
  definitions: Sequence[Metric] = METRICS,
  limit: int = MAX_COLUMNS,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Names for the main table and for the table of further numbers.

  Args:
    summary: see `summarise`.
    definitions: headline metrics go into the main table, then those that have
      no definition, as far as there is room.
    limit: columns of the main table.

  Returns:
    Two tuples of names; metrics without any value, and those that have a table
    of their own, are in neither.
  """
  present = [
    name
    for name in summary.metrics
    if describe(name, definitions).is_shared
    and any(stats[name].n for stats in summary.overall.values())
  ]
  order = {metric.name: i for i, metric in enumerate(definitions)}
  # An experiment's own numbers are what it is about; they stay in sight.
  chosen = [
    name
    for name in present
    if name not in order or describe(name, definitions).headline
  ]
  chosen.sort(key=lambda name: name not in order)
  main = (chosen or present)[:limit]
  rest = [name for name in present if name not in main]
  return _reading_order(main, order), _reading_order(rest, order)


def markdown_table(
  summary: Summary,
  metrics: Sequence[str] | None = None,
  *,
  request: str | None = None,
  definitions: Sequence[Metric] = METRICS,
) -> str:
  """A table in Markdown, methods as rows, the best value of a column in bold.

  Args:
    summary: see `summarise`.
    metrics: the columns; None takes all that have a value somewhere.
    request: the request to show; None shows the mean over requests.
    definitions: how to show each metric.

  Returns:
    The table, ending in a newline; names are escaped.

  Raises:
    ValueError: the summary does not have the request.

  Example:
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> summary = report.summarise(rows)
    >>> print(report.markdown_table(summary, ["forget_accuracy"]))
    | method    | Forget accuracy (%) ≈ |
    | --------- | --------------------: |
    | retrained |                  10.0 |
    | finetune  |                  40.0 |
  """
  return grid_markdown(
    make_grid(summary, metrics, request=request, definitions=definitions)
  )


def grid_markdown(grid: Grid) -> str:
  """A grid in Markdown, ending in a newline; names are escaped."""
  lines = [
    ["method"] + [f"{m.heading} {SYMBOLS[m.direction]}" for m in grid.metrics]
  ]
  lines[0] = [escape_markdown(text) for text in lines[0]]
  for method, cells in grid.rows:
    texts = [f"**{c.text}**" if c.best else c.text for c in cells]
    lines.append([escape_markdown(method)] + texts)
  widths = [max(3, *(len(text) for text in column)) for column in zip(*lines)]
  rule = [
    "-" * width if i == 0 else "-" * (width - 1) + ":"
    for i, width in enumerate(widths)
  ]
  padded = [
    [
      text.ljust(width) if i == 0 else text.rjust(width)
      for i, (text, width) in enumerate(zip(line, widths))
    ]
    for line in [lines[0], rule, *lines[1:]]
  ]
  return "".join("| " + " | ".join(line) + " |\n" for line in padded)


def markdown_report(
  results: Results,
  summary: Summary,
  *,
  title: str | None = None,
  comparisons: Sequence[Comparison] = (),
  definitions: Sequence[Metric] = METRICS,
) -> str:
  """The content of `table.md`: tables over requests and of each, and a legend.

  Args:
    results: for the heading.
    summary: of the results' rows.
    title: the heading; None takes the experiment's name.
    comparisons: further tables, after the others.
    definitions: how to show each metric.

  Returns:
    Markdown, ending in a newline.
  """
  groups = [group for group in split_columns(summary, definitions) if group]
  parts = [f"# {escape_markdown(title or results.experiment)}\n"]
  views: list[str | None] = [None]
  if len(summary.requests) > 1:
    views += summary.requests
  for view in views:
    if len(views) > 1:
      name = "Mean over requests" if view is None else f"Request: {view}"
      parts.append(f"## {escape_markdown(name)}\n")
    parts += [
      markdown_table(summary, group, request=view, definitions=definitions)
      for group in groups
    ]
  grid = make_grid(summary, definitions=definitions)
  parts.append(legend(grid) + "\n")
  for comparison in comparisons:
    parts.append(f"## {escape_markdown(comparison.title)}\n")
    parts.append(grid_markdown(comparison.grid))
    parts.append(escape_markdown(comparison.hint) + "\n")
  parts.append(
    "".join(
      f"- **{escape_markdown(m.heading)}**: {escape_markdown(m.explanation)}\n"
      for m in explained(grid, comparisons, definitions)
    )
  )
  return "\n".join(parts)


def explained(
  grid: Grid, comparisons: Sequence[Comparison], definitions: Sequence[Metric]
) -> tuple[Metric, ...]:
  """The metrics of all tables, each once, under their full labels."""
  names = [m.name for m in grid.metrics]
  names += [m.name for c in comparisons for m in c.grid.metrics]
  return tuple(describe(name, definitions) for name in dict.fromkeys(names))


def legend(grid: Grid) -> str:
  """How to read a table's marks, in plain sentences."""
  used = {metric.direction for metric in grid.metrics}
  signs = "; ".join(
    f"{SYMBOLS[key]} {text}" for key, text in DIRECTIONS.items() if key in used
  )
  text = "Mean ± standard deviation over seeds."
  if signs:
    text += f" {signs}."
  if any(cell.best for _, cells in grid.rows for cell in cells):
    text += (
      " Bold marks the best of the unlearning methods in its column; the "
      "original and the retrained model are there for comparison."
    )
  if grid.partial:
    text += " [a of b]: only a of b runs have a value."
  return text


def escape_markdown(text: str) -> str:
  """Text that Markdown shows as it stands, on one line."""
  text = " ".join(text.split())
  text = re.sub(r"([\\`*\[\]|~#])", r"\\\1", text)
  # An underscore within a word is no emphasis; `bad_teacher` stays readable.
  text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
  for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
    text = text.replace(sign, entity)
  return text


def _statistics(
  summary: Summary, request: str | None
) -> dict[str, Mapping[str, Statistic]]:
  if request is None:
    return dict(summary.overall)
  if request not in summary.requests:
    raise ValueError(
      f"Expected request to be one of {list(summary.requests)}, "
      f"got {request!r}."
    )
  return {
    method: summary.cells[method, request]
    for method in summary.methods
    if (method, request) in summary.cells
  }


def _column(
  stats: Mapping[str, Mapping[str, Statistic]], metric: Metric
) -> dict[str, Cell]:
  """Cells of one metric by method."""
  empty = Statistic(math.nan, math.nan, 0, 0, 0)
  found = {method: s.get(metric.name, empty) for method, s in stats.items()}
  # Whoever has nan in a model's parameters is not ranked.
  sound = {
    m: s
    for m, s in found.items()
    if not stats[m].get("is_finite", empty).mean < 1
  }
  best = _best_value(sound, metric) or ()
  decimals = column_decimals(metric, (s.mean for s in found.values()))
  show = lambda mean, std: format_mean(metric, mean, std, decimals)
  means = {m: show(s.mean, math.nan) for m, s in found.items()}
  winners = {means[m] for m, s in sound.items() if s.mean in best}
  cells = {}
  for method, s in found.items():
    text, why = show(s.mean, s.std), ""
    if method not in sound and s.total and not s.n:
      text, why = "diverged", "Its models have no finite numbers."
    elif 0 < s.rows < s.total:
      text += f" [{s.rows} of {s.total}]"
      why = f"Only {s.rows} of {s.total} runs have a value. "
    is_best = method in sound and means[method] in winners
    is_best = is_best and method not in REFERENCES
    if is_best:
      aim = means.get(RETRAINED, "")
      why += f"Best of the methods: {_BEST[metric.direction].format(aim)}."
    cells[method] = Cell(text, is_best, why, f"{s.mean * metric.scale:.6g}")
  return cells


def _best_value(
  found: Mapping[str, Statistic], metric: Metric
) -> set[float] | None:
  """The best means of the methods; None where nothing is to be marked."""
  means = [
    s.mean
    for method, s in found.items()
    if method not in REFERENCES and math.isfinite(s.mean)
  ]
  retrained = found[RETRAINED].mean if RETRAINED in found else math.nan
  if metric.direction == NEAREST and not math.isfinite(retrained):
    return None
  if len(means) < 2:
    return None

  def badness(mean: float) -> float:
    if metric.direction == NEAREST:
      return abs(mean - retrained)
    return mean if metric.direction == "lower" else -mean

  least = min(badness(mean) for mean in means)
  return {mean for mean in means if badness(mean) <= least + 1e-12}


def _reading_order(
  names: Sequence[str], order: Mapping[str, int]
) -> tuple[str, ...]:
  return tuple(sorted(names, key=lambda name: order.get(name, len(order))))
