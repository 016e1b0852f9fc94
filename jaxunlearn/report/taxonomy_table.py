"""The table of what methods claim and how deep their models have forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxunlearn.report.definitions import LOWER, NEITHER, Metric
from jaxunlearn.report.equivalence import Rule, Trial, diverged
from jaxunlearn.report.results import (
  ORIGINAL,
  REFERENCES,
  RETRAINED,
  RETRAINED_AGAIN,
)
from jaxunlearn.report.tables import Cell, Comparison, Grid
from jaxunlearn.report.taxonomy import (
  BLACK_BOX,
  FINE_TUNING,
  LEVELS,
  OUTPUT,
  SCHEMA,
  THREATS,
  THRESHOLD,
  WHITE_BOX,
  Card,
  Depth,
  Probe,
  judge,
  to_json,
)
from jaxunlearn.report.verdict import TRACE

_SHARE = (
  "Largest share of what the original model has beyond a retrained one that is "
  "there still, of the tests that {}. A dash: none of them was made."
)
DEPTH_COLUMNS: tuple[Metric, ...] = (
  Metric(
    "card_claim", "Claims", "What the method sets out to do.", "", 0, NEITHER
  ),
  Metric("card_goal", "By", "By what it forgets.", "", 0, NEITHER),
  Metric("card_level", "Changes", "What it changes.", "", 0, NEITHER),
  Metric("card_access", "Sees", "What it must have.", "", 0, NEITHER),
  Metric("card_guarantee", "Proves", "What its authors prove.", "", 0, NEITHER),
  *(
    Metric(f"left_{threat}", label, _SHARE.format(words), "%", 0, LOWER)
    for threat, label, words in (
      (OUTPUT, "Asked", "ask the model directly"),
      (BLACK_BOX, "Asked otherwise", "ask in other words or contexts"),
      (FINE_TUNING, "Trained", "train the model further"),
      (WHITE_BOX, "Looked into", "use its weights or its exact scores"),
    )
  ),
  Metric(
    "depth",
    "Found",
    "not_forgotten: the model still answers; surface: when it is asked otherwise; "
    "suppressed: training or its weights bring it back, or nobody tried; "
    "removed_empirically: no test found it.",
    "",
    0,
    NEITHER,
  ),
  Metric(
    "claim_met",
    "Claim met",
    "Whether what was found is what the method claims, or more.",
    "",
    0,
    NEITHER,
  ),
)

# What stands for the models that no method made.
_UNKNOWN = Card("data", access=())


def probes(trial: Trial, request: str, method: str) -> list[Probe]:
  """The tests for traces as probes, of means over seeds.

  A rule whose column is not where the original should have left it, above or
  below the retrained model's, says nothing.
  """
  return [
    _probe(trial, rule, request, method)
    for rule in trial.rules
    if rule.reference == RETRAINED
    and TRACE in (rule.above, rule.below, rule.above_original)
  ]


def _probe(trial: Trial, rule: Rule, request: str, method: str) -> Probe:
  score, gold, original = (
    _mean(trial, name, request, rule.metric)
    for name in (method, RETRAINED, ORIGINAL)
  )
  sign = -1 if rule.below == TRACE else 1
  if not sign * (original - gold) > 0:
    original = math.nan
  return Probe(rule.metric, rule.threat, score, gold, original, rule.margin)


def _mean(trial: Trial, method: str, request: str, metric: str) -> float:
  values = np.array(
    [
      row.get(metric, math.nan)
      for row in trial.rows
      if row["method"] == method
      and row["request"] == request
      and row.get("is_finite", 1)
    ],
    np.float64,
  )
  values = values[np.isfinite(values)]
  return float(values.mean()) if values.size else math.nan


def depths(
  trial: Trial, cards: Mapping[str, Card | None]
) -> dict[str, dict[str, Depth]]:
  """By request and method how deep it was forgotten; of what did not diverge."""
  summary = trial.summary
  names = (ORIGINAL, RETRAINED_AGAIN, *summary.candidates)
  found = {
    request: {
      name: judge(probes(trial, request, name), cards.get(name) or _UNKNOWN)
      for name in names
      if name in summary.methods and not diverged(trial, name)
    }
    for request in summary.requests
  }
  # Where nothing is tested there is nothing to say.
  return {
    r: of for r, of in found.items() if any(d.shares for d in of.values())
  }


def depth_account(
  trial: Trial, cards: Mapping[str, Card | None]
) -> dict[str, Any]:
  """Cards and verdicts as plain values, for the results.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import equivalence
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> from jaxunlearn.report import taxonomy_table
    >>> account = taxonomy_table.depth_account(trial, {"finetune": None})
    >>> account["gold"], sorted(account["depths"]["class 1"])
    ('retrained', ['finetune', 'original'])
  """
  return {
    "schema": SCHEMA,
    "threshold": THRESHOLD,
    "gold": RETRAINED,
    "cards": {
      name: {**card._asdict(), "access": list(card.access)}
      for name, card in cards.items()
      if card is not None
    },
    "depths": {
      request: {name: to_json(depth) for name, depth in of.items()}
      for request, of in depths(trial, cards).items()
    },
  }


def depth_table(
  trial: Trial, cards: Mapping[str, Card | None]
) -> Comparison | None:
  """Cards beside what was found, of several requests the worst.

  Returns:
    The table; None where nothing is tested and no method has a card.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import equivalence
    >>> found = {"original": 0.9, "retrained": 0.1, "finetune": 0.4}
    >>> rows = [
    ...   {"method": m, "request": "class 1", "seed": s, "forget_accuracy": a}
    ...   for m, a in found.items() for s in range(3)
    ... ]
    >>> rules = [equivalence.Rule("forget_accuracy", 0.05)]
    >>> trial = equivalence.Trial(rows, rules, report.METRICS)
    >>> from jaxunlearn.report import taxonomy_table
    >>> table = taxonomy_table.depth_table(trial, {"finetune": None})
    >>> table.title, [method for method, _ in table.grid.rows]
    ('Removed, or only no longer said', ['original', 'finetune'])
  """
  judged = depths(trial, cards)
  if not judged and not any(cards.values()):
    return None
  columns = DEPTH_COLUMNS if judged else DEPTH_COLUMNS[:5]
  rows = []
  for name in (*REFERENCES, *trial.summary.candidates):
    card = cards.get(name)
    own = [of[name] for of in judged.values() if name in of]
    if not own and (card is None or name not in trial.summary.methods):
      continue
    cells = [*_of_card(card), *(_of_depths(own, card) if judged else ())]
    rows.append((name, tuple(cells)))
  return Comparison(
    "Removed, or only no longer said",
    "What each method claims, and what the tests for traces found, in the order of "
    "who can make them (arXiv:2506.09227, arXiv:2501.04952); the worst of several "
    f"requests. More than {THRESHOLD:.0%} left counts as found; "
    f"{RETRAINED_AGAIN} shows how much is left by chance.",
    Grid(columns, tuple(rows), False),
  )


def _of_card(card: Card | None) -> list[Cell]:
  if card is None:
    return [Cell("–")] * 5
  seen = ", ".join(card.access) or "nothing"
  texts = (card.intention, card.goal, card.level, seen, card.guarantee)
  return [Cell(text) for text in texts]


def _of_depths(own: list[Depth], card: Card | None) -> list[Cell]:
  if not own:
    return [Cell("diverged")] * (len(THREATS) + 2)
  cells = []
  for threat in THREATS:
    left = [d.by_threat[threat] for d in own]
    known = [share for share in left if share is not None]
    text = f"{max(known):.0%}".removesuffix("%") if known else "–"
    cells.append(Cell(text, value=max(known, default=-1.0)))
  worst = min(own, key=lambda d: LEVELS.index(d.verdict))
  inside = [d.by_threat[t] for d in own for t in (FINE_TUNING, WHITE_BOX)]
  text, why = worst.verdict, ""
  if worst.worst is None:
    text, why = "–", "The original is no more than a retrained model here."
  elif text == "suppressed" and all(share is None for share in inside):
    text, why = (
      "suppressed, at least",
      "No test trained it or read its weights.",
    )
  missed = [t for t in THREATS if all(d.by_threat[t] is None for d in own)]
  if missed and not why:
    why = f"Not tried: {', '.join(missed)}."
  met = "–"
  if card is not None and worst.worst is not None:
    met = "yes" if all(d.intention_met for d in own) else "no"
  level = LEVELS.index(worst.verdict)
  return [*cells, Cell(text, why=why, value=level), Cell(met)]
