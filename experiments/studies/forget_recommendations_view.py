"""Words and figures of the study of recommenders."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from jaxunlearn import report

from .. import bench
from ..bench import (
  ORIGINAL,
  RETRAINED,
  Evidence,
  Plan,
  render,
  table,
)

MMRECUN, POPULARITY = "mmrecun", "popularity"
RANKING = {
  "recall": "Share of a user's {} that are among the first {} recommended, mean "
  "over users.",
  "ndcg": "Like recall, for {}; hits at the top of the list of {} count more.",
  "precision": "Share of {} among the first {} recommended.",
  "map": "Mean precision at the places of {} in the list of {}.",
}
MEMBERSHIP = report.Metric(
  "membership_auc",
  "Membership AUC",
  "How often a forgotten interaction scores higher, among the items of its "
  "user, than a test one that the request would have covered: 0.5 is guessing, "
  "below it the forgotten ones stand out by low scores.",
  headline=True,
)
DISTANCE = report.Metric(
  "score_distance",
  "Score distance",
  "Root mean square over forgotten interactions of the difference to the "
  "retrained model's score, in standard deviations over the items of the user.",
  direction=report.LOWER,
)
# Requests of which a retrained model recalls next to nothing.
_WHOLE = ("users", "items", "group")


def ranking(k: int) -> list[report.Metric]:
  """How to show each ranking metric, for lists of length k."""
  title = lambda name: name.upper() if len(name) < 5 else name.capitalize()
  return [
    report.Metric(
      f"{part}_{name}",
      f"{part.capitalize()} {title(name)}@{k}",
      words.format(f"{what} interactions", k),
      direction=direction,
      headline=name == "recall",
    )
    for name, words in RANKING.items()
    for part, what, direction in (
      ("test", "test", report.HIGHER),
      ("forget", "forgotten", report.NEAREST),
    )
  ]


def lead(plan: Plan) -> str:
  """What was done and why."""
  facts, seeds = plan.beds.facts, len(plan.seeds)
  rows = (
    f"{plan.forget.shape[-1]} interactions of {facts['users']} users with "
    f"{facts['items']} items ({facts['words']})"
  )
  return (
    f"A recommender ({plan.options.model}) was {bench.origin(plan, rows)} and then made to forget "
    f"{'; '.join(plan.requests.names)}, with {seeds} "
    f"seed{'s' if seeds > 1 else ''}, each with a split, a request and models of "
    "its own. A good method ends where the retrained model is, in less time; "
    "recommending a forgotten item less often than that is a flaw as well, since "
    "it gives the request away."
  )


def notes(plan: Plan) -> tuple[str, ...]:
  tests = (
    "Of each user's interactions a tenth is for the test, drawn per seed, and a "
    "tenth, the same for all seeds, for --tune alone."
  )
  if plan.dataset.trained is not None:
    tests = (
      "Tested on are the interactions of users_test and items_test, but for a "
      "fifth of them, which is for --tune alone."
    )
  return (
    tests,
    *bench.of_given(plan),
    "Means over requests mix kinds: a method that forgets too little of users and "
    "too much of interactions looks good there. The tables of single requests and "
    "the gap, which is taken request by request, do not.",
    "All models but the original one are served on the graph without the "
    "forgotten interactions; unlink does only that. It and popularity train "
    "nothing: how much faster they are says nothing.",
    "Every item is a candidate except those that the user has in the training "
    "interactions; forgotten ones are candidates where it is asked whether they "
    "come back. Test numbers leave out users and items that are forgotten "
    "altogether. Equal scores rank by the number of the item.",
    "The weight of the kept interactions in MMRecUN is one for each kind of "
    "request, chosen on MovieLens-100k with other seeds. The other methods' "
    "settings are first guesses, with as many steps and the learning rate of "
    "training; --tune chooses all alike.",
    "MMRecUN follows the paper's abstract: how it joins the two losses is a "
    "reconstruction. A request of few rows, such as a preference, is drawn so "
    "often in its steps that it is forgotten too well.",
    "What the numbers do not prove: that the params hold no trace. Recall and "
    "one attack on scores are looked at, no attacker who trains models of his "
    "own.",
  )


def findings(evidence: Evidence) -> list[str]:
  """What was asked of MMRecUN on MovieLens-100k, and whether it holds here."""
  plan, found = evidence.plan, list(evidence.plan.notes)
  summary, at = report.summarise(evidence.rows), f"Recall@{plan.options.k}"
  if POPULARITY in plan.methods:
    ours, theirs = (
      summary.overall[m]["test_recall"].mean for m in (ORIGINAL, POPULARITY)
    )
    found.append(
      f"The trained recommender's test {at} is {ours:.3f}, popularity's "
      f"{theirs:.3f}: {100 * (ours / theirs - 1):+.0f} % (asked on "
      "MovieLens-100k: +20 %)."
    )
  if MMRECUN in plan.methods:
    found += [_bounds(summary, r, at) for r in plan.requests.names]
  return found


def _bounds(summary: report.Summary, request: str, at: str) -> str:
  mean = lambda m, name: summary.cells[m, request][name].mean
  forget, wanted, test, reference = (
    mean(m, f"{part}_recall")
    for part in ("forget", "test")
    for m in (MMRECUN, RETRAINED)
  )
  spread = summary.cells[RETRAINED, request]["forget_recall"].std
  spread, faster = float(np.nan_to_num(spread)), mean(MMRECUN, "speedup")
  text = (
    f"{request}: mmrecun's forget {at} is {forget:.3f}, the retrained model's "
    f"{wanted:.3f} ± {spread:.3f}; its test {at} {test:.3f} against "
    f"{reference:.3f} ({100 * (test / reference - 1):+.1f} %); {faster:.1f} "
    "times faster than retraining."
  )
  if request.partition(":")[0] not in _WHOLE:
    return text + (
      " A retrained model recalls much of this all the same, so the aim is its "
      f"value and not 0: the distance is {mean(MMRECUN, 'forget_gap'):.3f}, that "
      f"of the original model {mean(ORIGINAL, 'forget_gap'):.3f}."
    )
  holds = forget <= wanted + spread, test >= 0.97 * reference, faster >= 1.3
  return text + (
    " Forget recall at most the retrained model's plus its spread: {}; test "
    "recall within 3 %: {}; 1.3 times faster: {}."
  ).format(*("yes" if h else "no" for h in holds))


def panels(evidence: Evidence) -> dict[str, tuple[Any, str]]:
  """What is kept against what is forgotten, by request; bars; the sweep."""
  plan, known = evidence.plan, table.definitions(evidence.plan)
  found = {}
  for request in plan.requests.names:
    # Popularity lies so far to the left that the others would be one spot.
    rows = [
      row
      for row in evidence.rows
      if row["request"] == request and row["method"] != POPULARITY
    ]
    slug = re.sub(r"[^A-Za-z0-9]+", "_", request).strip("_")
    found[f"recall_{slug}"[:100]] = (
      report.trade_off(
        report.summarise(rows),
        *("test_recall", "forget_recall"),
        definitions=known,
      ),
      f"{request}: to the right are better recommendations, upwards more of what "
      "should be forgotten is still recommended. The dashed lines cross at the "
      "retrained model, the aim. Popularity is in the tables.",
    )
  bars = render.bars(
    ("test_recall", "forget_recall", "membership_auc"),
    "means over seeds. The dashed line is the retrained model.",
  )
  found |= bars(evidence)
  summary = report.summarise(evidence.rows)
  found["distance"] = (
    report.distance_plot(summary, definitions=known),
    "How far each method ends from the retrained model, and how long it takes, "
    "means over requests. Down is nearer, left is faster.",
  )
  if evidence.swept:
    found["alpha"] = _sweep(evidence)
  return found


def _swept(evidence: Evidence) -> dict[str, Any]:
  """The weights [A], and by column recalls [R, S, A]."""
  swept = evidence.swept[MMRECUN]
  shape = -1, len(evidence.plan.seeds), len(swept)
  values = evidence.plan.study.sweeps(evidence.plan)[MMRECUN]["retain_weight"]
  recall = {
    name: np.stack([f.values[name] for f in swept], -1).reshape(shape)
    for name in ("test_recall", "forget_recall")
  }
  return {"alpha": values, "recall": recall}


def _sweep(evidence: Evidence) -> tuple[Any, str]:
  swept, names = _swept(evidence), evidence.plan.requests.names
  shown = {}
  for name, values in swept["recall"].items():
    aim = evidence.found[RETRAINED].values[name].reshape(*values.shape[:2], 1)
    label = f"{name.replace('_', ' ').capitalize()}, less the retrained model's"
    shown[label] = dict(zip(names, values - aim))
  return (
    report.curve_panels(swept["alpha"], shown, x_label="alpha"),
    "MMRecUN with other weights alpha of the kept interactions, on the seeds "
    "reported; 0 is the retrained model. At 1 it is fine-tuning. Bands go from "
    "the lowest to the highest seed.",
  )


def files(evidence: Evidence) -> dict[str, Any]:
  """The sweep as numbers."""
  if not evidence.swept:
    return {}
  names = evidence.plan.requests.names
  return {"sweep.json": {"requests": names, **_swept(evidence)}}
