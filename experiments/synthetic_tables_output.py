"""From scores of synthetic tables to files, figures and the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

from experiments import common
from experiments.synthetic_tables_plots import (
  COMPONENTS,
  all_figures,
  seed_mean,
  shown_generators,
  training_curves,
)
from jaxunlearn import report
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from experiments.synthetic_tables import Outcome, Plan

# What the claim of rising and then flattening is held to: the last third of a
# curve moves by at most this share of the whole rise.
_FLAT_SHARE = 0.25
_LEAST_RISE = 0.02


def _score(name, label, explanation, **more):
  return report.Metric(name, label, explanation, "", 3, report.HIGHER, **more)


def _definitions() -> tuple[report.Metric, ...]:
  words = {
    "basic": "Means, deviations and medians of numbers, shares of categories.",
    "correlation": "Associations of all pairs of columns.",
    "efficacy": "What models trained on the synthetic rows achieve, beside "
    "models trained on the real ones.",
    "support": "Coverage of the real range and of all categories.",
    "distinguishability": "1 where logistic regression tells the tables apart "
    "as well as two samples of one law, less for a copy and for a bad table.",
  }
  found = [
    _score(
      "tabsyndex",
      "TabSynDex",
      "Mean of five scores, defects mended.",
      headline=True,
    ),
    report.Metric(
      "tabsyndex_std",
      "Its spread",
      "Standard deviation of TabSynDex over resamples of the rows.",
      "",
      3,
      report.NEAREST,
    ),
    *(
      _score(name, name.capitalize(), words[name], headline=True)
      for name in COMPONENTS
    ),
    _score(
      "tabsyndex_published",
      "Published",
      "TabSynDex as the authors' code has it; 0.967 for an exact copy. Its "
      "efficacy is that of estimators in JAX.",
      headline=True,
    ),
    *(
      _score(
        f"{name}_published", f"{name.capitalize()}, published", words[name]
      )
      for name in COMPONENTS
    ),
    _score(
      "tabsyndex_all_rows",
      "With the request",
      "TabSynDex of the generator fitted to all rows, by the split of rows of "
      "the next column.",
    ),
    _score(
      "tabsyndex_without",
      "Without the request",
      "TabSynDex of the generator fitted without the request.",
    ),
    *(
      report.Metric(
        f"{rows}_distance_{how}",
        f"{rows.capitalize()} rows, {'with' if how == 'with' else 'without'}",
        f"Mean distance of the {rows} rows to the nearest synthetic row, the "
        f"generator fitted {how} the request: mean over columns of difference "
        "over range, or 0 and 1 for categories.",
        "",
        4,
        report.NEAREST,
      )
      for rows in ("forgotten", "kept")
      for how in ("with", "without")
    ),
  ]
  return (*report.METRICS, *found)


DEFINITIONS = _definitions()
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
)


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, plots and report into a folder."""
  results = _results(plan, outcome)
  summary = report.summarise(results.rows)
  notes = [table.note for table in plan.tables if table.note]
  found = _findings(plan, outcome)
  report.write_report(
    folder,
    results,
    figures=all_figures(plan, outcome),
    title="How good are synthetic tables?",
    lead=(
      " ".join([*notes, ""])
      + f"Generators learnt from rows of {_listed(t.name for t in plan.tables)} "
      f"({plan.num_seeds} seeds, each with other rows) and drew as many. "
      "TabSynDex says how much these are like the real rows, in five scores and "
      "their mean; then each generator learnt without the rows to be forgotten."
    ),
    notes=(*notes, *_NOTES),
    general_findings=False,
    more_findings=found,
    definitions=DEFINITIONS,
  )
  return summary


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """The scores of every generator, and where the rest is."""
  columns = ["tabsyndex", *COMPONENTS, "tabsyndex_published"]
  console.print(report.rich_table(summary, columns, definitions=DEFINITIONS))
  for table in plan.tables:
    if table.note:
      console.print(f"- {table.note}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def _listed(names: Iterable[str]) -> str:
  return " and of ".join(names)


def _results(plan: Plan, outcome: Outcome) -> report.Results:
  from experiments.synthetic_tables import GENUINE

  rows: list[dict[str, Any]] = []
  for (table, name, seed), scored in outcome.scored.items():
    fixed, published = (
      scored.bands[mode].score for mode in ("fixed", "published")
    )
    row = {
      "method": name,
      "request": table,
      "seed": seed,
      "seconds_compile": scored.seconds[0],
      "seconds_run": scored.seconds[1],
      "tabsyndex": fixed.total,
      "tabsyndex_std": scored.bands["fixed"].std.total,
      **{c: getattr(fixed, c) for c in COMPONENTS},
      "tabsyndex_published": published.total,
      **{f"{c}_published": getattr(published, c) for c in COMPONENTS},
    }
    (forgot, forgot_without), (kept, kept_without) = scored.distances
    row |= {"forgotten_distance_with": forgot, "kept_distance_with": kept}
    if name != GENUINE:
      row |= {
        "tabsyndex_all_rows": scored.within.total,
        "tabsyndex_without": scored.without.total,
        "forgotten_distance_without": forgot_without,
        "kept_distance_without": kept_without,
      }
    rows.append({k: plain(v) for k, v in row.items()})
  config = {
    **dataclasses.asdict(plan.options),
    "seeds": plan.num_seeds,
    "size": plan.size._asdict(),
    "tables": [table.name for table in plan.tables],
    "notes": [table.note for table in plan.tables if table.note],
    "curves": _curve_values(plan, outcome),
    "environment": common.environment(),
  }
  return report.Results(
    "synthetic_tables",
    plan.options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    rows,
  )


def _curve_values(plan: Plan, outcome: Outcome) -> dict[str, Any]:
  return {
    f"{table}, {name}": values.tolist()
    for (table, name), values in training_curves(plan, outcome).items()
  }


def _findings(plan: Plan, outcome: Outcome) -> list[str]:
  """What the numbers say of the three questions."""
  found = []
  for table in plan.tables:
    found += _ranking(plan, outcome, table.name)
  for (table, name), values in training_curves(plan, outcome).items():
    if values.shape[1] > 2 and np.isfinite(values).all():
      found.append(f"{table}, {name}: {claim_words(values.mean(axis=0))}")
  found += _distance_findings(plan, outcome)
  return found


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


def _ranking(plan: Plan, outcome: Outcome, table: str) -> list[str]:
  orders = []
  for mode in ("fixed", "published"):
    pick = lambda s, mode=mode: s.bands[mode].score.total
    means = {
      name: seed_mean(plan, outcome, table, name, pick)
      for name in shown_generators(plan)
    }
    order = sorted(means, key=lambda name: -means[name])
    orders.append(", ".join(f"{name} {means[name]:.3f}" for name in order))
  return [
    f"{table}: from the best to the worst {orders[0]}; as published "
    f"{orders[1]}."
  ]


def _distance_findings(plan: Plan, outcome: Outcome) -> list[str]:
  found = []
  for table in plan.tables:
    words = []
    for name in plan.generators:
      scored = [
        outcome.scored[table.name, name, seed] for seed in range(plan.num_seeds)
      ]
      # Over seeds, of the change against that of rows that are kept.
      change = np.array(
        [s.distances[:, 1] / s.distances[:, 0] - 1 for s in scored]
      )
      if not np.isfinite(change).all():
        gap = np.mean([s.distances[0, 1] for s in scored])
        words.append(f"{name} from 0 to {gap:.3f}")
        continue
      forgot, kept = 100 * change.mean(axis=0)
      words.append(f"{name} {forgot:+.1f} % (kept rows {kept:+.1f} %)")
    if words:
      found.append(
        f"{table.name}: distance of the forgotten rows to the nearest synthetic "
        f"row when they are left out: {'; '.join(words)}."
      )
  return found
