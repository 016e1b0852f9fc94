"""Whether the retrained model is a standard at all, told from a summary."""

from __future__ import annotations

import math

from jaxunlearn.report.results import (
  ORIGINAL,
  RETRAINED,
  Statistic,
  Summary,
)

RETAIN = "retain_accuracy"
TEST = "test_accuracy"
FORGET_ROWS = "forget_rows"
CHANCE = "chance_accuracy"
# Differences in accuracy below one point are not worth a sentence; where the
# retrained model is further than five from the original, the two are not of one
# kind; and guesses that agree do so within three.
MARGIN = 0.01
GUESSING = 0.03
COMPARABLE = 0.05
# The first of these that there is tells whether two models are of one kind.
_KEPT = {
  RETAIN: ("accuracy on rows to be kept", False),
  "retain_mae": ("error on rows to be kept", True),
  "test_auc": ("AUC on test edges", False),
  "test_recall": ("recall of test interactions", False),
}
FEW_ROWS = 3  # So few decide nothing: each is a third of the accuracy.


def doubts(summary: Summary) -> list[str]:
  """Why nearness to the retrained model says nothing in these results.

  - It differs from the original on the rows to be kept (of links and
    recommendations, to be tested on), which no forgetting explains: trained by
    another recipe, or in vain.
  - Neither of the two learned anything. What guessing reaches is the column
    `chance_accuracy`; without one, accuracies that agree with each other and
    with 1 / classes for some small number of classes are taken for guesses.
  - There are at most three rows to be forgotten, by the column `forget_rows`.

  Args:
    summary: see `summarise`.

  Returns:
    A sentence for each; none where the retrained model is a standard.

  Example:
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> summary = report.summarise(rows)
    >>> report.doubts(summary)
    []
  """
  return [*_incomparable(summary), *_untrained(summary), *_too_few(summary)]


def _incomparable(summary: Summary) -> list[str]:
  for name, (words, is_error) in _KEPT.items():
    ours, theirs = (
      statistic_of(summary, method, name) for method in (ORIGINAL, RETRAINED)
    )
    if ours is None or theirs is None:
      continue
    # Of an error a quarter; accuracies and ranks have one scale.
    limit = 5 * COMPARABLE * ours.mean if is_error else COMPARABLE
    if abs(ours.mean - theirs.mean) <= max(limit, noise(ours, theirs)):
      return []
    both = (
      f"its {words} is {theirs.mean:.3g}, the original model's {ours.mean:.3g}"
    )
    if name == RETAIN:
      both = (
        f"it is right on {_percent(theirs)} of the rows to be kept, the original "
        f"model on {_percent(ours)}"
      )
    return [
      f"The retrained model is no standard here: {both}. Their difference is not "
      "that of forgetting, so no method is recommended by its gap to the "
      "retrained model."
    ]
  return []


def _untrained(summary: Summary) -> list[str]:
  found = [
    statistic_of(summary, method, name)
    for method in (ORIGINAL, RETRAINED)
    for name in (RETAIN, TEST)
  ]
  shares = [s.mean for s in found if s is not None]
  retain = [s.mean for s in found[::2] if s is not None]
  if len(retain) < 2:
    return []
  chance = statistic_of(summary, RETRAINED, CHANCE)
  if chance is not None:
    guesses = max(retain) <= chance.mean + COMPARABLE
  else:
    level = sum(shares) / len(shares)
    nearest = 1 / max(round(1 / level), 2) if level else 0.0
    guesses = (
      max(abs(s - nearest) for s in shares) <= GUESSING and len(shares) > 2
    )
  if not guesses:
    return []
  return [
    f"The original and the retrained model are right on {100 * retain[0]:.1f} % "
    f"and {100 * retain[1]:.1f} % of the rows to be kept, about as often as "
    "guessing would be: neither has learned anything, and that they agree, or "
    "that a method agrees with them, says nothing of forgetting."
  ]


def _too_few(summary: Summary) -> list[str]:
  counts = [
    summary.cells.get((RETRAINED, request), {}).get(FORGET_ROWS)
    for request in summary.requests
  ]
  known = [s.mean for s in counts if s is not None and s.n]
  total = round(sum(known))  # 0 where nothing is known.
  if not 1 <= total <= FEW_ROWS:
    return []
  rows = "1 row is" if total == 1 else f"{total} rows are"
  return [
    f"Only {rows} to be forgotten, so that each counts for {100 / total:.0f} "
    "points of the accuracy on them: so few rows decide nothing, and the methods "
    "are not ranked. An audit of more requests would."
  ]


def statistic_of(summary: Summary, method: str, name: str) -> Statistic | None:
  """A statistic that has a value, or None."""
  found = summary.overall.get(method, {}).get(name)
  return found if found is not None and found.n else None


def _percent(statistic: Statistic) -> str:
  return f"{100 * statistic.mean:.1f} %"


def sign(ours: Statistic | None, theirs: Statistic | None) -> int | None:
  """-1 below, 1 above, 0 about the same; None where a value is missing."""
  if ours is None or theirs is None or not (ours.n and theirs.n):
    return None
  difference = ours.mean - theirs.mean
  if abs(difference) <= max(MARGIN, noise(ours, theirs)):
    return 0
  return 1 if difference > 0 else -1


def noise(a: Statistic, b: Statistic) -> float:
  """Two standard errors of the difference of two means; 0 where unknown."""
  if a.n < 2 or b.n < 2:
    return 0.0
  return 2 * math.sqrt(a.std**2 / a.n + b.std**2 / b.n)
