"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxunlearn.report.definitions import METRICS, SYMBOLS, Metric
from jaxunlearn.report.results import ORIGINAL, REFERENCES, Summary
from jaxunlearn.report.tables import make_grid, split_columns

if TYPE_CHECKING:
  from rich.table import Table


def rich_table(
  summary: Summary,
  metrics: Sequence[str] | None = None,
  *,
  request: str | None = None,
  definitions: Sequence[Metric] = METRICS,
  title: str | None = None,
) -> Table:
  """A table for the terminal.

  Args:
    summary: see `summarise`.
    metrics: the columns; None takes those of the main table.
    request: the request to show; None shows the mean over requests.
    definitions: how to show each metric.
    title: above the table.

  Returns:
    A `rich.table.Table`; names are never read as markup.

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
    >>> table = report.rich_table(summary, ["forget_accuracy"])
    >>> table.row_count, table.columns[0].header
    (2, 'method')
  """
  from rich.cells import cell_len
  from rich.table import Table
  from rich.text import Text

  if metrics is None:
    metrics = split_columns(summary, definitions)[0]
  grid = make_grid(summary, metrics, request=request, definitions=definitions)
  table = Table(title=None if title is None else Text(title))
  table.add_column("method", no_wrap=True)
  for i, metric in enumerate(grid.metrics):
    heading = f"{metric.heading} {SYMBOLS[metric.direction]}"
    # Headings break between words; numbers never do, and nothing is cut.
    widest = [*heading.split(), *(cells[i].text for _, cells in grid.rows)]
    table.add_column(
      Text(heading), justify="right", width=max(map(cell_len, widest))
    )
  for i, (method, cells) in enumerate(grid.rows):
    baseline = method in REFERENCES
    following = grid.rows[i + 1 : i + 2]
    table.add_row(
      Text(method),
      *(Text(c.text, style="bold" if c.best else "") for c in cells),
      style="dim" if method == ORIGINAL else "",
      end_section=baseline
      and any(name not in REFERENCES for name, _ in following),
    )
  return table
