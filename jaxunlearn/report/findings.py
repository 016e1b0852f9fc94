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
from jaxunlearn.report.doubts import (
  MARGIN,
  RETAIN,
  doubts,
  noise,
  sign,
  statistic_of,
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
INDEX = "anamnesis_index"
# Retain accuracy is called damaged from three points on.
DAMAGE = 0.03
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

  Example:
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> summary = report.summarise(rows)
    >>> print(report.findings(summary)[0])
    Nearest to retraining is finetune, with a gap of 30.0 points.
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

  Example:
    >>> from jaxunlearn import report
    >>> rows = [
    ...   {"method": m, "request": f"step {step}", "seed": 0,
    ...    "retrained_gap": gap}
    ...   for m, gaps in (("finetune", (0.01, 0.05)), ("ascent", (0.02, 0.3)))
    ...   for step, gap in enumerate(gaps)
    ... ]
    >>> print(report.drift_findings(report.summarise(rows))[0])
    After 2 requests, each served by what the one before left, finetune (from
    1.0 to 5.0 points) has drifted least from retraining and ascent (from 2.0 to
    30.0 points) most; in brackets the gap after the first and after the last
    request.
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

  Example:
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> summary = report.summarise(rows)
    >>> gaps = report.retrained_gaps(summary)
    >>> round(gaps["finetune"].mean, 3)
    0.3
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
    if gaps[m].mean - gaps[best].mean <= noise(gaps[m], gaps[best])
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
  index = statistic_of(summary, method, INDEX)
  if index is None:
    return False
  error = 2 * index.std / math.sqrt(index.n) if index.n > 1 else 0.0
  return index.mean < RELEARNS_EARLY and index.mean + error < 1


def _forgetting(summary: Summary) -> list[str]:
  """Who forgets more, less or as much as retraining does."""
  kinds: dict[str, list[str]] = {"more": [], "less": [], "same": [], "both": []}
  for method in summary.candidates:
    signs = {
      sign(
        summary.cells.get((method, request), {}).get(FORGET),
        summary.cells.get((RETRAINED, request), {}).get(FORGET),
      )
      for request in summary.requests
    }
    if {-1, 1} <= signs:
      kinds["both"].append(method)
      continue
    side = sign(
      summary.overall[method].get(FORGET),
      summary.overall[RETRAINED].get(FORGET),
    )
    if side is not None:
      kinds[{-1: "more", 1: "less", 0: "same"}[side]].append(method)
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
      ("the original model's", statistic_of(summary, ORIGINAL, RETAIN)),
      ("the retrained model's", statistic_of(summary, RETRAINED, RETAIN)),
    )
    if standard is not None
  }
  damaged = []
  for method in summary.candidates:
    ours = statistic_of(summary, method, RETAIN)
    if ours is not None and any(
      sign(ours, standard) == -1 and standard.mean - ours.mean > DAMAGE
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
