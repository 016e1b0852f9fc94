"""From what a study of recommenders found to files, figures and the terminal."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import jax
from rich.console import Console

from experiments import common
from experiments import forget_recommendations_plots as plots
from experiments.forget_recommendations_methods import MMRECUN, POPULARITY
from experiments.forget_recommendations_study import MEASURES, Outcome, Study
from jaxunlearn import report
from jaxunlearn.adapters import orbax
from jaxunlearn.core.types import Variables
from jaxunlearn.report.files import plain

if TYPE_CHECKING:
  from experiments.forget_recommendations import Plan

_TITLES = {
  "recall": "Recall",
  "ndcg": "NDCG",
  "precision": "Precision",
  "map": "MAP",
}
# Requests of which a retrained model recalls next to nothing.
_WHOLE = ("users", "items", "group")


def definitions(k: int) -> tuple[report.Metric, ...]:
  """How to show each number, for lists of length k."""
  known = {
    "recall": "Share of a user's {} that are among the first {} recommended, "
    "mean over users.",
    "ndcg": "Like recall, for {}; hits at the top of the list of {} count more.",
    "precision": "Share of {} among the first {} recommended.",
    "map": "Mean precision at the places of {} in the list of {}.",
  }
  found = []
  for name in MEASURES:
    for part, what, direction in (
      ("test", "held-out interactions", report.HIGHER),
      ("forget", "forgotten interactions", report.NEAREST),
    ):
      extra = (
        " A recommender that never saw them recalls some all the same."
        if part == "forget"
        else ""
      )
      found.append(
        report.Metric(
          f"{part}_{name}",
          f"{part.capitalize()} {_TITLES[name]}@{k}",
          known[name].format(what, k) + extra,
          "",
          3,
          direction,
          headline=name == "recall",
        )
      )
  found += [
    report.Metric(
      f"{part}_gap",
      f"{part.capitalize()} gap",
      f"Distance of the {part} recall to that of the model retrained on the "
      "same request and seed.",
      "",
      3,
      report.LOWER,
    )
    for part in ("test", "forget")
  ]
  return (
    *(
      m
      for m in report.METRICS
      if m.name not in ("retrained_gap", "membership_auc")
    ),
    *found,
    report.Metric(
      "retrained_gap",
      "Gap to retrained",
      "Mean of the distances of test and of forget recall to those of the "
      "retrained model; 0 means that both agree.",
      "",
      3,
      report.LOWER,
      headline=True,
    ),
    report.Metric(
      "membership_auc",
      "Membership AUC",
      "How often a forgotten interaction scores higher, among the items of its "
      "user, than a held-out one that the request would have covered: 0.5 is "
      "guessing, below it the forgotten ones stand out by low scores.",
      headline=True,
    ),
    report.Metric(
      "speed_up",
      "Speed-up",
      "Time of retraining divided by the time of the method, side by side.",
      "x",
      1,
      report.HIGHER,
      headline=True,
    ),
  )


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, tables, plots, report and params into a folder."""
  study = plan.study
  results = report.Results(
    "forget_recommendations",
    plan.options.preset,
    jax.__version__,
    common.device(),
    _config(plan),
    outcome.rows,
  )
  summary = report.summarise(outcome.rows)
  report.write_report(
    folder,
    results,
    figures=plots.figures(study, outcome, summary, definitions(study.k)),
    title=f"Forgetting in a recommender ({plan.options.model})",
    lead=_lead(plan),
    notes=_notes(study),
    more_findings=bounds(study, summary),
    definitions=definitions(study.k),
  )
  if study.sweep:
    names = [request.name for request in study.requests]
    found = {"requests": names, "alpha": study.sweep, "recall": outcome.sweep}
    report.write_json(folder / "sweep.json", plain(found))
  _save_params(folder / "params", plan, outcome)
  return summary


def show(console: Console, plan: Plan, summary: report.Summary) -> None:
  """A table for each request, what they say, and where the rest lies."""
  known = definitions(plan.study.k)
  columns = [
    "test_recall",
    "forget_recall",
    "retrained_gap",
    "membership_auc",
    "seconds_run",
    "speed_up",
  ]
  for request in summary.requests:
    table = report.rich_table(
      summary, columns, request=request, definitions=known, title=request
    )
    console.print(table)
  for sentence in bounds(plan.study, summary):
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(plan.options.out) / 'report.html'}",
    markup=False,
    soft_wrap=True,
  )


def bounds(study: Study, summary: report.Summary) -> list[str]:
  """What was asked of MMRecUN on MovieLens-100k, and whether it holds here."""
  found, at = [], f"Recall@{study.k}"
  if POPULARITY in summary.methods:
    ours, theirs = (
      summary.overall[m]["test_recall"].mean for m in ("original", POPULARITY)
    )
    found.append(
      f"The trained recommender's test {at} is {ours:.3f}, popularity's "
      f"{theirs:.3f}: {100 * (ours / theirs - 1):+.0f} % (asked on "
      f"MovieLens-100k: +20 %)."
    )
  if MMRECUN not in summary.methods:
    return found
  for request in study.requests:
    cell = lambda m, name, r=request.name: summary.cells[m, r][name]
    forget, wanted = (cell(m, "forget_recall") for m in (MMRECUN, "retrained"))
    test, reference = (
      cell(m, "test_recall").mean for m in (MMRECUN, "retrained")
    )
    spread = wanted.std if math.isfinite(wanted.std) else 0.0
    text = (
      f"{request.name}: mmrecun's forget {at} is {forget.mean:.3f}, the "
      f"retrained model's {wanted.mean:.3f} ± {spread:.3f}; its test {at} "
      f"{test:.3f} against {reference:.3f} "
      f"({100 * (test / reference - 1):+.1f} %)"
    )
    if "gradient_ascent" in summary.methods:
      ascent = cell("gradient_ascent", "test_recall").mean
      text += f" and {ascent:.3f} after gradient ascent"
    faster = cell(MMRECUN, "speed_up").mean
    text += f"; {faster:.1f} times faster than retraining."
    if request.kind in _WHOLE:
      holds = forget.mean <= wanted.mean + spread
      near = test >= 0.97 * reference
      text += (
        " Forget recall at most the retrained model's plus its spread: "
        f"{_yes(holds)}; test recall within 3 %: {_yes(near)}; 1.3 times "
        f"faster: {_yes(faster >= 1.3)}."
      )
    else:
      gap = cell(MMRECUN, "forget_gap").mean
      text += (
        " A retrained model recalls much of this all the same, so the aim is "
        f"its value and not 0: the distance is {gap:.3f}, that of the original "
        f"model {cell('original', 'forget_gap').mean:.3f}."
      )
    found.append(text)
  return found


def _yes(holds: bool) -> str:
  return "yes" if holds else "no"


def _config(plan: Plan) -> dict:
  study = plan.study
  data = study.source.data
  sizes = {
    "users": data.num_users,
    "items": data.num_items,
    **{
      name: len(part["x"])
      for name, part in zip(("train", "validation", "test"), data)
    },
    "forget": {
      request.name: [int(drawn.forget.sum()) for drawn in of_seed]
      for request, of_seed in zip(study.requests, study.drawn)
    },
  }
  return plain(
    {
      **dataclasses.asdict(plan.options),
      "data": study.source.words,
      "seeds": list(study.seeds),
      "recipe": study.recipe._asdict(),
      "alphas": {r.name: a for r, a in zip(study.requests, study.alphas)},
      "sizes": sizes,
      "environment": common.environment(),
    }
  )


def _lead(plan: Plan) -> str:
  study, data = plan.study, plan.study.source.data
  asked = "; ".join(request.words for request in study.requests)
  seeds = len(study.seeds)
  times = "once" if seeds == 1 else f"{seeds} times, each time drawn anew"
  return (
    f"A recommender ({plan.options.model}) was trained on "
    f"{len(data.train['x'])} interactions of {data.num_users} users with "
    f"{data.num_items} items ({study.source.words}) and then made to forget, "
    f"{times}: {asked}. The measure of success is the model in the row retrained, "
    "which was trained in the same way and never saw them. A good method ends "
    "where it ends, in less time; recommending a forgotten item less often than "
    "the retrained model does is a flaw as well, since it gives the request away."
  )


def _notes(study: Study) -> list[str]:
  alphas = ", ".join(
    f"{r.name}: {a:g}" for r, a in zip(study.requests, study.alphas)
  )
  return [
    "popularity is no unlearning method: it shows everybody the items with the "
    "most kept interactions, and is there as a yardstick.",
    "Means over requests mix kinds: a method that forgets too little of users and "
    "too much of interactions looks good there. The tables of single requests and "
    "the gap, which is taken request by request, do not.",
    "All models but the original one are served on the graph without the "
    "forgotten interactions; unlink does only that.",
    "Every item is a candidate except those that the user has in the kept "
    "training interactions. Test numbers leave out users and items that are "
    "forgotten altogether. Equal scores rank by the number of the item.",
    "shards (RecEraser): one model for each of "
    f"{study.recipe.num_shards} groups of similar users, joined by attention; a "
    "request retrains the groups that it touches. Users drawn at random touch "
    "nearly all. Its first training is not counted.",
    "Run time is that of one request and one seed. Methods take turns on each "
    "request, so that they meet the same load of the machine. Compile time is "
    "that of the whole program, and short where the compilation cache had it.",
    f"The weight alpha of the kept interactions in MMRecUN ({alphas}) was chosen "
    "on MovieLens-100k with other seeds and another split (--first-seed 100). "
    "The other methods' settings are first guesses, with as many steps as "
    "MMRecUN and the learning rate of training.",
    "A request of few rows, such as a preference, is drawn so often in MMRecUN's "
    "steps that any weight below 1 that was tried drives its recall to 0 on "
    "MovieLens-100k, below the retrained model's.",
    "MMRecUN follows the paper's abstract: how it joins the two losses is a "
    "reconstruction.",
    "What the numbers do not prove: that the params hold no trace. Recall and "
    "one attack on scores are looked at, no attacker who trains models of his "
    "own.",
  ]


def _save_params(folder: Path, plan: Plan, outcome: Outcome) -> None:
  """The models of the first request and seed, one a method."""
  study = plan.study
  request = study.requests[0]
  shared = {
    "data": study.source.words,
    "model": plan.options.model,
    "request": request.name,
    "seed": study.seeds[0],
    "recipe": study.recipe._asdict(),
    "alpha": study.alphas[0],
  }
  for name, made in outcome.params.items():
    if not isinstance(made, Variables):  # With the shard of each interaction.
      variables, shard = made
      made = Variables({**variables.params, "shard": shard})
    orbax.save(
      folder / name,
      made,
      forget_mask=jax.numpy.asarray(study.drawn[0][0].forget),
      config=plain({**shared, "method": name}),
    )
