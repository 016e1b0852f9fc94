"""From scores of synthetic tables to words and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxunlearn import report
from jaxunlearn.report import charts, draw
from jaxunlearn.report.certificate import hash_arrays

from ..bench import certify, render

Plan = Any  # Of the study, which imports this module.

GENUINE = "genuine rows"
# How the columns of a mode end.
MODES = {"fixed": "", "published": "_published"}
_WORDS = {
  "basic": "Means, deviations and medians of numbers, shares of categories.",
  "correlation": "Associations of all pairs of columns.",
  "efficacy": "What models trained on the synthetic rows achieve, beside "
  "models trained on the real ones.",
  "support": "Coverage of the real range and of all categories.",
  "distinguishability": "1 where logistic regression tells the tables apart "
  "as well as two samples of one law, less for a copy and for a bad table.",
}
COMPONENTS = tuple(_WORDS)
# What the claim of rising and then flattening is held to: the last third of a
# curve moves by at most this share of the whole rise.
_FLAT_SHARE = 0.25
_LEAST_RISE = 0.02
_REACH = 1.645  # Standard deviations on either side of the bands.


class Outcome(NamedTuple):
  """All that was found.

  Attributes:
    rows: of the results; the request is the table.
    curves: by table and generator scores at the checkpoints, [S, T].
  """

  rows: Sequence[Mapping[str, Any]]
  curves: Mapping[tuple[str, str], np.ndarray]

  def of(self, table: str, method: str, column: str) -> np.ndarray:
    """A column's values, one per seed."""
    return np.array([
      np.nan if row[column] is None else row[column]
      for row in self.rows
      if (row["request"], row["method"]) == (table, method)
    ])  # fmt: skip


def _score(name: str, label: str, words: str, headline: bool = False):
  return report.Metric(name, label, words, "", 3, report.HIGHER, headline)


def _spread(name: str, label: str):
  words = "Standard deviation of TabSynDex over resamples of the rows."
  return report.Metric(name, label, words, "", 3, report.NEAREST)


COLUMNS = (
  _score(
    "tabsyndex", "TabSynDex", "Mean of five scores, defects mended.", True
  ),
  _spread("tabsyndex_std", "Its spread"),
  *(_score(n, n.capitalize(), words, True) for n, words in _WORDS.items()),
  _score(
    "tabsyndex_published",
    "Published",
    "TabSynDex as the authors' code has it; 0.967 for an exact copy. Its "
    "efficacy is that of estimators in JAX.",
    True,
  ),
  _spread("tabsyndex_published_std", "Spread, published"),
  *(
    _score(f"{n}_published", f"{n.capitalize()}, published", words)
    for n, words in _WORDS.items()
  ),
  _score(
    "tabsyndex_all_rows",
    "With the request",
    "TabSynDex of the generator fitted to all rows, by the split of rows of the "
    "next column.",
  ),
  _score(
    "tabsyndex_without",
    "Without the request",
    "TabSynDex of the generator fitted without the request.",
  ),
  *(
    report.Metric(
      f"{rows}_distance_{how}",
      f"{rows.capitalize()} rows, {how}",
      f"Mean distance of the {rows} rows to the nearest synthetic row, the "
      f"generator fitted {how} the request: mean over columns of difference over "
      "range, or 0 and 1 for categories.",
      *("", 4, report.NEAREST),
    )
    for rows in ("forgotten", "kept")
    for how in ("with", "without")
  ),
  report.describe("seconds_run"),
  report.describe("seconds_compile"),
)
_NOTES = (
  "genuine rows: further rows of the same table, what a perfect generator would "
  "draw. copy: the rows that were learnt from, drawn with replacement. Both are "
  "there to read the others by.",
  "A score of 1 is not what a perfect generator has: genuine rows differ by "
  "chance too. An exact copy has 0.967 as published, because its rows are easier "
  "to fit than a sample's, which costs it a sixth of the distinguishability.",
  "Bands are 1.645 standard deviations of Poisson resamples of both tables.",
  "The efficacy is measured with small estimators in JAX in both modes, so that "
  "resamples are one program; the authors use scikit-learn's forests and others "
  "(tabsyndex with efficacy='sklearn').",
  "Settings are the same for all tables. The GAN's learning rate was chosen "
  "among 0.001, 0.0005 and 0.0002 on California housing, on another seed than "
  "those of a run; the others were not chosen by scores.",
  "The first stop of a training curve comes after a first share of the steps, "
  "so that a rise before it is not seen.",
  "Run time is that of one seed, fitted with the request and without it.",
)


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, plots and report into a folder."""
  names, notes = _tables(plan), [t.note for t in plan.tables if t.note]
  config = {
    **dataclasses.asdict(plan.options),
    "seeds": plan.seeds,
    "size": plan.size._asdict(),
    "tables": names,
    "notes": notes,
    "curves": {", ".join(k): v.tolist() for k, v in outcome.curves.items()},
  }
  contents = report.Contents(
    "How good are synthetic tables?",
    " ".join([*notes, ""])
    + f"Generators learnt from rows of {' and of '.join(names)} "
    f"({len(plan.seeds)} seeds, each with other rows) and drew as many. "
    "TabSynDex says how much these are like the real rows, in five scores and "
    "their mean; then each generator learnt without the rows to be forgotten.",
    notes=(*notes, *_NOTES),
    more_findings=_findings(plan, outcome),
    definitions=COLUMNS,
    provenance={
      "command": certify.command_of("synthetic_tables", plan.options),
      "Date (UTC)": certify.date(),
      **{
        f"SHA-256, rows of {table.name}": hash_arrays(table.values)
        for table in plan.tables
      },
    },
    unanswered="Nothing was to be deleted from a model that is served: tables are "
    "made in the place of rows, and the report says how much they give away.",
  )
  made = render.results("synthetic_tables", plan.options, config, outcome.rows)
  render.render(folder, made, contents, _figures(plan, outcome))
  return report.summarise(outcome.rows)


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """The scores of every generator, and where the rest is."""
  columns = ["tabsyndex", *COMPONENTS, "tabsyndex_published"]
  render.show(console, summary, columns, COLUMNS, plan.options.out)


def _tables(plan: Plan) -> list[str]:
  return [table.name for table in plan.tables]


def _findings(plan: Plan, outcome: Outcome) -> list[str]:
  """What the numbers say of the three questions."""
  ranked, moved = [], []
  for table in _tables(plan):
    orders = []
    for tail in MODES.values():
      means = {
        name: outcome.of(table, name, f"tabsyndex{tail}").mean()
        for name in (GENUINE, *plan.generators)
      }
      order = sorted(means, key=lambda name: -means[name])
      orders.append(", ".join(f"{name} {means[name]:.3f}" for name in order))
    ranked.append(
      f"{table}: from the best to the worst {orders[0]}; as published "
      f"{orders[1]}."
    )
    words = [_moved(outcome, table, name) for name in plan.generators]
    moved.append(
      f"{table}: distance of the forgotten rows to the nearest synthetic row when "
      f"they are left out: {'; '.join(words)}."
    )
  claims = [
    f"{table}, {name}: {claim_words(values.mean(axis=0))}"
    for (table, name), values in outcome.curves.items()
    if values.shape[1] > 2 and np.isfinite(values).all()
  ]
  return [*ranked, *claims, *moved]


def claim_words(curve: np.ndarray) -> str:
  """Whether a curve of scores rises and then flattens, in words."""
  rise = curve[-1] - curve[0]
  last = curve[2 * (len(curve) - 1) // 3 :]
  moved = last[-1] - last[0]
  numbers = f"{curve[0]:.3f} at the first and {curve[-1]:.3f} at the last stop"
  if rise < _LEAST_RISE:
    return f"TabSynDex does not rise during training ({numbers})."
  if abs(moved) > _FLAT_SHARE * rise:
    way = "rises" if moved > 0 else "falls"
    return (
      f"TabSynDex rises during training ({numbers}) and has not flattened: it "
      f"{way} by {abs(moved):.3f} in the last third."
    )
  return (
    f"TabSynDex rises during training and then flattens ({numbers}; "
    f"{moved:+.3f} in the last third), as the paper claims."
  )


def _moved(outcome: Outcome, table: str, name: str) -> str:
  """The change over seeds, against that of rows that are kept."""
  at = lambda rows, how: outcome.of(table, name, f"{rows}_distance_{how}")
  with np.errstate(divide="ignore", invalid="ignore"):
    forgot, kept = (
      (at(rows, "without") / at(rows, "with") - 1) * 100
      for rows in ("forgotten", "kept")
    )
  if not np.isfinite([forgot, kept]).all():
    return f"{name} from 0 to {at('forgotten', 'without').mean():.3f}"
  return f"{name} {forgot.mean():+.1f} % (kept rows {kept.mean():+.1f} %)"


def _figures(
  plan: Plan, outcome: Outcome
) -> dict[str, tuple[report.Chart, str]]:
  names = (GENUINE, *plan.generators)

  def score(tail: str):
    def value(table: str, name: str):
      mean, std = (
        outcome.of(table, name, f"tabsyndex{tail}{end}") for end in ("", "_std")
      )
      low = np.maximum(mean - _REACH * std, 0)
      return mean.mean(), low.mean(), (mean + _REACH * std).mean()

    return value

  def distance(how: str):
    def value(table: str, name: str):
      found = outcome.of(table, name, f"forgotten_distance_{how}")
      return found.mean(), found.min(), found.max()

    return value

  figures = {
    "components": (
      _scores(plan, outcome),
      "The five scores of every generator, mean over seeds, defects mended "
      "(fixed) and as published; 1 is best.",
    ),
    "bands": (
      _dots(plan, names, {m: score(t) for m, t in MODES.items()}, "TabSynDex"),
      "TabSynDex with bands of 1.645 standard deviations over resamples of the "
      "rows, mean over seeds, with defects mended and as published.",
    ),
  }
  if outcome.curves:
    panels: dict[str, dict[str, np.ndarray]] = {}
    for (table, name), values in outcome.curves.items():
      panels.setdefault(f"TabSynDex, {table}", {})[name] = values
    stops = values.shape[1]
    figures["curves"] = (
      report.curve_panels(
        np.arange(1, stops + 1) * 100 / stops,
        panels,
        x_label="training done (%)",
      ),
      "TabSynDex, defects mended, of rows drawn on the way through the training "
      "of the VAE and of the GAN. Bands go from the lowest to the highest seed.",
    )
  series = {
    "without the request": distance("without"),
    "all rows": distance("with"),
  }
  figures["distances"] = (
    _dots(
      plan,
      plan.generators,
      series,
      "distance to the nearest synthetic row",
      lambda table: distance("with")(table, GENUINE)[0],
    ),
    "Mean distance of the forgotten rows to the nearest synthetic row, the "
    "generator fitted to all rows and without them; the dashed line is the distance to as many genuine rows.",
  )
  return figures


def _scores(plan: Plan, outcome: Outcome) -> report.Chart:
  """Generators down, the five scores across; a panel a table and mode."""
  names = (GENUINE, *plan.generators)
  panels = tuple(
    draw.heat(
      [
        [outcome.of(table, name, c + tail).mean() for c in COMPONENTS]
        for name in names
      ],
      *(names, COMPONENTS, f"{table}, {mode}"),
      **{"ends": (0, 1), "decimals": 2, "cell": (34, 20)},
    )
    for mode, tail in MODES.items()
    for table in _tables(plan)
  )
  return report.Chart(panels, len(plan.tables))


def _dots(
  plan: Plan,
  names: Sequence[str],
  series: Any,
  label: str,
  aim: Any = None,
) -> report.Chart:
  """A panel a table: a line a name, a mark with its band a series."""
  styles = {
    title: (charts.ORANGE if i else charts.BLUE, [1, 0])
    for i, title in enumerate(series)
  }
  panels = []
  for table in _tables(plan):
    rows = []
    for title, value in series.items():
      for name in names:
        middle, low, high = value(table, name)
        words = f"{name}: {label} {middle:.3f}, {title}"
        rows.append({
          **{"name": name, "method": title, "label": words},
          **{"value": middle, "low": low, "high": high},
        })  # fmt: skip
    place = {
      "y": charts.names("name", names),
      "yOffset": charts.names("method", list(series)),
      "color": charts.coloured(styles)["color"],
    }
    x = charts.number("value", label, scale={"zero": False})
    ends = {"x": {**x, "field": "low"}, "x2": {"field": "high"}}
    layers = [
      charts.layer("rule", rows, **place, **ends),
      charts.layer({"type": "point", "filled": True}, rows, **place, x=x),
    ]
    if aim is not None:
      at = aim(table)
      layers.append(charts.level("x", at, f"{GENUINE}: {at:.3f}", label))
    panels.append(charts.panel(table, *layers, width=200, height={"step": 13}))
  return report.Chart((*panels, charts.legend(styles)), len(plan.tables) + 1)
