"""What the numbers say, in sentences, computed from a summary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxunlearn.report.definitions import (
  METRICS,
  Metric,
  describe,
  format_mean,
  format_value,
)
from jaxunlearn.report.results import (
  ORIGINAL,
  RETRAINED,
  Statistic,
  Summary,
)

GAP = "retrained_gap"
FORGET = "forget_accuracy"
GAP_METRICS = (
  "forget_accuracy",
  "retain_accuracy",
  "test_accuracy",
  "membership_share",
)
RETAIN = "retain_accuracy"
TEST = "test_accuracy"
INDEX = "anamnesis_index"
FORGET_ROWS = "forget_rows"
CHANCE = "chance_accuracy"
# Differences in accuracy below one point are not worth a sentence, retain
# accuracy is called damaged from three points on, and where the retrained model
# is further than five from the original, the two are not of one kind.
DAMAGE = 0.03
MARGIN = 0.01
COMPARABLE = 0.05
FEW_ROWS = 3  # So few decide nothing: each is a third of the accuracy.
RELEARNS_EARLY = 0.8  # Of the retrained model's steps.
SHOWN_NAMES = 6


def findings(
  summary: Summary, definitions: Sequence[Metric] = METRICS
) -> list[str]:
  """The findings that the numbers carry, as plain sentences.

  Nearest to retraining is the method with the smallest `retrained_gap` (where
  rows have none, the mean absolute difference over the accuracies and
  `membership_share`). A method forgets too much or too little if its accuracy
  on the forget set is below or above the retrained model's by more than one
  point and by more than two standard errors over seeds. Damaged is one that
  lost accuracy on the rows to be kept, against the original or the retrained
  model. Where there are `doubts`, they come first and nothing is ranked.

  Args:
    summary: see `summarise`.
    definitions: how to show each metric.

  Returns:
    Sentences without markup; names stand as they are in the results.
  """
  if not summary.candidates:
    return ["There is no unlearning method in these results."]
  if RETRAINED not in summary.methods:
    return [
      "There is no retrained model in these results, so nothing can be said "
      "about how well a method forgot."
    ]
  sentences = doubts(summary)
  is_ranked = not sentences
  if is_ranked:
    sentences += _nearness(summary, definitions)
    sentences += _forgetting(summary)
  sentences += _damage(summary)
  if is_ranked:
    sentences += _cost(summary, definitions)
  sentences += _cautions(summary)
  return sentences


def doubts(summary: Summary) -> list[str]:
  """Why nearness to the retrained model says nothing in these results.

  - It differs from the original on the rows to be kept, which no forgetting
    explains: trained by another recipe, or in vain.
  - Neither of the two learned anything. What guessing reaches is the column
    `chance_accuracy`; without one, accuracies that agree with each other and
    with 1 / classes for some small number of classes are taken for guesses.
  - There are at most three rows to be forgotten, by the column `forget_rows`.

  Args:
    summary: see `summarise`.

  Returns:
    A sentence for each; none where the retrained model is a standard.
  """
  return [*_incomparable(summary), *_untrained(summary), *_too_few(summary)]


def _incomparable(summary: Summary) -> list[str]:
  ours, theirs = _of(summary, ORIGINAL, RETAIN), _of(summary, RETRAINED, RETAIN)
  if ours is None or theirs is None or not _sign(theirs, ours):
    return []
  if abs(ours.mean - theirs.mean) <= COMPARABLE:
    return []
  return [
    f"The retrained model is no standard here: it is right on "
    f"{_percent(theirs)} of the rows to be kept, the original model on "
    f"{_percent(ours)}. Their difference is not that of forgetting, so no method "
    "is recommended by its gap to the retrained model."
  ]


def _untrained(summary: Summary) -> list[str]:
  found = [
    _of(summary, method, name)
    for method in (ORIGINAL, RETRAINED)
    for name in (RETAIN, TEST)
  ]
  shares = [s.mean for s in found if s is not None]
  retain = [s.mean for s in found[::2] if s is not None]
  if len(retain) < 2:
    return []
  chance = _of(summary, RETRAINED, CHANCE)
  if chance is not None:
    guesses = max(retain) <= chance.mean + COMPARABLE
  else:
    level = sum(shares) / len(shares)
    nearest = 1 / max(round(1 / level), 2) if level else 0.0
    guesses = (
      max(abs(s - nearest) for s in shares) <= DAMAGE and len(shares) > 2
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


def _of(summary: Summary, method: str, name: str) -> Statistic | None:
  """A statistic that has a value, or None."""
  found = summary.overall.get(method, {}).get(name)
  return found if found is not None and found.n else None


def _percent(statistic: Statistic) -> str:
  return f"{100 * statistic.mean:.1f} %"


def drift_findings(
  summary: Summary, definitions: Sequence[Metric] = METRICS
) -> list[str]:
  """Which method drifts least and most over requests that follow each other.

  How far a method has drifted is its `retrained_gap` after the last request;
  one that never forgot anything has not drifted little, although its gap may
  not grow.

  Args:
    summary: see `summarise`; its requests are steps of a sequence, in order.
    definitions: how to show the gap.

  Returns:
    Sentences without markup; none with fewer than two steps, where no method
    has a gap at both ends, or where there are `doubts`.
  """
  if len(summary.requests) < 2 or doubts(summary):
    return []
  first, last = summary.requests[0], summary.requests[-1]
  ends = {}
  for method in summary.candidates:
    pair = [
      summary.cells.get((method, request), {}).get(GAP)
      for request in (first, last)
    ]
    if all(s is not None and s.n for s in pair):
      ends[method] = [s.mean for s in pair if s is not None]
  if not ends:
    return []
  metric = describe(GAP, definitions)

  def path(method: str) -> str:
    before, after = (format_value(metric, gap) for gap in ends[method])
    return f"{method} (from {before} to {after} {metric.unit})"

  ranked = sorted(ends, key=lambda m: ends[m][1])
  best, worst = ranked[0], ranked[-1]
  intro = (
    f"After {len(summary.requests)} requests, each served by what the one before "
    "left,"
  )
  if best == worst:
    return [f"{intro} the gap to retraining has moved for {path(best)}."]
  sentences = [
    f"{intro} {path(best)} has drifted least from retraining and {path(worst)} "
    "most; in brackets the gap after the first and after the last request."
  ]
  grown = max(ends, key=lambda m: ends[m][1] - ends[m][0])
  if grown != worst and ends[grown][1] - ends[grown][0] > MARGIN:
    sentences.append(f"The gap that grew most is that of {path(grown)}.")
  return sentences


def retrained_gaps(summary: Summary) -> dict[str, Statistic]:
  """The gap to the retrained model of every method, in [0, 1].

  Args:
    summary: see `summarise`.

  Returns:
    `retrained_gap` over requests, by method; where no method has one, the
    mean absolute difference of the means of each request, without a spread.
  """
  gaps = {
    method: stats[GAP]
    for method, stats in summary.overall.items()
    if GAP in stats and stats[GAP].n
  }
  if any(method in gaps for method in summary.candidates):
    return gaps
  names = [name for name in GAP_METRICS if name in summary.metrics]
  for method in summary.methods:
    per_request = []
    for request in summary.requests:
      ours = summary.cells.get((method, request), {})
      theirs = summary.cells.get((RETRAINED, request), {})
      both = [(ours[n], theirs[n]) for n in names if n in ours and n in theirs]
      # Without what the retrained model itself lacks, but with all the rest.
      differences = [abs(a.mean - b.mean) for a, b in both if b.n]
      if differences:
        per_request.append(sum(differences) / len(differences))
    if per_request and math.isfinite(sum(per_request)):
      count = len(per_request)
      gaps[method] = Statistic(
        sum(per_request) / count, math.nan, 1, count, count
      )
  return gaps


def _nearness(summary: Summary, definitions: Sequence[Metric]) -> list[str]:
  gaps = retrained_gaps(summary)
  metric = describe(GAP, definitions)

  def shown(method: str) -> str:
    gap = gaps[method]
    return f"{format_mean(metric, gap.mean, gap.std)} {metric.unit}".strip()

  ranked = sorted(
    (m for m in summary.candidates if m in gaps), key=lambda m: gaps[m].mean
  )
  if not ranked:
    return ["No method has numbers to compare with the retrained model's."]
  best = ranked[0]
  text = f"Nearest to retraining is {best}, with a gap of {shown(best)}"
  if ORIGINAL in gaps:
    text += f"; the original model, before unlearning, has {shown(ORIGINAL)}"
  early = [m for m in ranked if _relearns_early(summary, m)]
  if best in early:
    index = summary.overall[best][INDEX].mean
    text += (
      f". Yet it relearns what it forgot in {100 * index:.0f} % of the retrained "
      "model's steps: by that measure traces are left, and the two measures "
      "contradict each other"
    )
  sentences = [text + "."]
  others = [m for m in early if m != best]
  if others:
    sentences.append(
      f"Relearning finds traces, fewer steps than the retrained model's, in "
      f"{_join(others)}."
    )
  near = [
    m
    for m in ranked[1:]
    if gaps[m].mean - gaps[best].mean <= _noise(gaps[m], gaps[best])
  ]
  if near:
    sentences.append(
      f"Within the spread over seeds, {_join(near)} "
      f"{_verb(near, 'is', 'are')} as near."
    )
  if ORIGINAL in gaps:
    idle = [m for m in ranked if gaps[m].mean >= gaps[ORIGINAL].mean]
    if idle:
      sentences.append(
        f"No nearer to retraining than the unchanged original model: "
        f"{_join(idle)}."
      )
  return sentences


def _relearns_early(summary: Summary, method: str) -> bool:
  index = _of(summary, method, INDEX)
  if index is None:
    return False
  error = 2 * index.std / math.sqrt(index.n) if index.n > 1 else 0.0
  return index.mean < RELEARNS_EARLY and index.mean + error < 1


def _forgetting(summary: Summary) -> list[str]:
  """Who forgets more, less or as much as retraining does."""
  kinds: dict[str, list[str]] = {"more": [], "less": [], "same": [], "both": []}
  for method in summary.candidates:
    signs = {
      _sign(
        summary.cells.get((method, request), {}).get(FORGET),
        summary.cells.get((RETRAINED, request), {}).get(FORGET),
      )
      for request in summary.requests
    }
    if {-1, 1} <= signs:
      kinds["both"].append(method)
      continue
    sign = _sign(
      summary.overall[method].get(FORGET),
      summary.overall[RETRAINED].get(FORGET),
    )
    if sign is not None:
      kinds[{-1: "more", 1: "less", 0: "same"}[sign]].append(method)
  sentences = []
  if kinds["more"]:
    sentences.append(
      f"Over-forgetting, accuracy on the forgotten rows below the retrained "
      f"model's: {_join(kinds['more'])}."
    )
  if kinds["less"]:
    sentences.append(
      f"Under-forgetting, accuracy on the forgotten rows above the retrained "
      f"model's: {_join(kinds['less'])}."
    )
  if kinds["both"]:
    sentences.append(
      f"Over-forgetting on some requests and under-forgetting on others: "
      f"{_join(kinds['both'])}."
    )
  if kinds["same"]:
    sentences.append(
      f"Accuracy on the forgotten rows about that of the retrained model: "
      f"{_join(kinds['same'])}."
    )
  return sentences


def _damage(summary: Summary) -> list[str]:
  """Who paid for forgetting with the rows that were to be kept."""
  standards = {
    name: standard
    for name, standard in (
      ("the original model's", _of(summary, ORIGINAL, RETAIN)),
      ("the retrained model's", _of(summary, RETRAINED, RETAIN)),
    )
    if standard is not None
  }
  damaged = []
  for method in summary.candidates:
    ours = _of(summary, method, RETAIN)
    if ours is not None and any(
      _sign(ours, standard) == -1 and standard.mean - ours.mean > DAMAGE
      for standard in standards.values()
    ):
      damaged.append(method)
  if not damaged:
    return []
  return [
    f"Damaged, accuracy on the rows to be kept more than {100 * DAMAGE:.0f} "
    f"points below {' or '.join(standards)}: {_join(damaged)}."
  ]


def _cost(summary: Summary, definitions: Sequence[Metric]) -> list[str]:
  gaps = retrained_gaps(summary)
  ranked = sorted(
    (m for m in summary.candidates if m in gaps), key=lambda m: gaps[m].mean
  )
  times = {
    method: stats["seconds_run"].mean
    for method, stats in summary.overall.items()
    if "seconds_run" in stats and stats["seconds_run"].mean > 0
  }
  if not ranked or ranked[0] not in times or RETRAINED not in times:
    return []
  best, metric = ranked[0], describe("seconds_run", definitions)
  ours, theirs = (
    f"{format_mean(metric, times[m], math.nan)} {metric.unit}"
    for m in (best, RETRAINED)
  )
  ratio = times[RETRAINED] / times[best]
  if 0.95 < ratio < 1.05:
    end = f"about as long as retraining ({theirs})"
  elif ratio > 1:
    speed = f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"
    end = f"{speed} faster than retraining ({theirs})"
  else:
    end = f"longer than retraining ({theirs})"
  return [f"{best} took {ours}, {end}; compilation is not counted."]


def _cautions(summary: Summary) -> list[str]:
  sentences = []
  seeds = max(
    (s.n for stats in summary.overall.values() for s in stats.values()),
    default=0,
  )
  if seeds < 2:
    sentences.append(
      "Only one seed was run: differences between methods may be chance."
    )
  # What the retrained model has, a method should have; else it failed there.
  incomplete = [
    method
    for method in summary.candidates
    if any(
      name != GAP
      and _share(summary.overall[method][name])
      < _share(summary.overall[RETRAINED][name])
      for name in summary.metrics
    )
  ]
  if incomplete:
    sentences.append(
      f"Some runs gave no finite number, so that their means leave those out: "
      f"{_join(incomplete)}."
    )
  return sentences


def _share(statistic: Statistic) -> float:
  return statistic.rows / statistic.total if statistic.total else 0.0


def _sign(ours: Statistic | None, theirs: Statistic | None) -> int | None:
  """-1 below, 1 above, 0 about the same; None where a value is missing."""
  if ours is None or theirs is None or not (ours.n and theirs.n):
    return None
  difference = ours.mean - theirs.mean
  if abs(difference) <= max(MARGIN, _noise(ours, theirs)):
    return 0
  return 1 if difference > 0 else -1


def _noise(a: Statistic, b: Statistic) -> float:
  """Two standard errors of the difference of two means; 0 where unknown."""
  if a.n < 2 or b.n < 2:
    return 0.0
  return 2 * math.sqrt(a.std**2 / a.n + b.std**2 / b.n)


def _join(names: Sequence[str]) -> str:
  """ "a", "a and b", "a, b and c", "a, b, c and 4 more"."""
  if len(names) > SHOWN_NAMES + 1:
    rest = len(names) - SHOWN_NAMES
    names = [*names[:SHOWN_NAMES], f"{rest} more"]
  if len(names) < 2:
    return "".join(names)
  return f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: Sequence[str], one: str, many: str) -> str:
  return one if len(names) == 1 else many
