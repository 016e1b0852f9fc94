"""The answer to "may I say it is deleted?", and the reason behind every mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxunlearn.report.doubts import doubts
from jaxunlearn.report.equivalence import (
  Trial,
  checks,
  diverged,
  verdicts,
)
from jaxunlearn.report.results import (
  IDENTITY,
  ORIGINAL,
  REFERENCES,
  RETRAINED,
)
from jaxunlearn.report.trial_words import verdict_sentences
from jaxunlearn.report.verdict import TRACE

# From the best outcome to the worst.
RANK = {
  name: i
  for i, name in enumerate(
    ("passed", "unclear", "damaged", "telltale", "traces", "diverged")
  )
}


class Brief(NamedTuple):
  """What comes first.

  Attributes:
    kind: "yes", "open" or "no".
    answer: in one sentence.
    facts: term and text: whether it worked, how sure that is, what to do next.
  """

  kind: str
  answer: str
  facts: tuple[tuple[str, str], ...]


# What stands there where no study has words of its own.
UNTESTED = (
  "This page cannot say: nothing here looked for what is left of the rows."
)


def marks(trial: Trial) -> dict[str, tuple[str, str]]:
  """By method its worst outcome over requests, and why."""
  found: dict[str, tuple[str, str]] = {}
  judged = verdicts(trial)
  for request, of in judged.items():
    for method, verdict in of.items():
      reasons = " ".join(verdict.reasons)
      text = f"{request}: {verdict.sentence} {reasons}".strip()
      word, told = found.get(method, ("passed", ""))
      worst = max(word, verdict.outcome, key=RANK.__getitem__)
      found[method] = worst, f"{told} {text}".strip()
  for method in trial.summary.methods if judged else ():
    if count := diverged(trial, method):
      found[method] = "diverged", f"{count} runs have no finite numbers."
  return found


def twins(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Methods whose numbers are, times apart, those of one before them."""
  numbers: dict[str, list[Any]] = {}
  for row in rows:
    kept = {
      k: repr(v)
      for k, v in row.items()
      if k != "method" and not k.startswith("seconds") and k != "speedup"
    }
    if len(kept) >= len(IDENTITY):
      numbers.setdefault(row["method"], []).append(sorted(kept.items()))
  found: dict[str, str] = {}
  first: dict[str, str] = {}
  for method, own in numbers.items():
    other = first.setdefault(repr(own), method)
    if other != method and method not in REFERENCES:
      found[method] = (
        f"the same as {other} in every number that was measured here"
      )
  return found


def brief(trial: Trial, rows: Sequence[Mapping[str, Any]]) -> Brief | None:
  """The answer; None where no trace is tested for."""
  judged, worst = verdicts(trial), marks(trial)
  methods = [m for m in trial.summary.candidates if m in worst]
  if not judged or not methods:
    return None
  if not any(TRACE in (rule.above, rule.below) for rule in trial.rules):
    return None  # Nothing looked for what is left of the rows.
  of = lambda word: [m for m in methods if worst[m][0] == word]
  passed, unclear, doubted = of("passed"), of("unclear"), doubts(trial.summary)
  seen = [r for r in judged if judged[r][ORIGINAL].outcome == "traces"] if all(
    ORIGINAL in found for found in judged.values()
  ) else []  # fmt: skip
  if doubted:
    kind = "open"
    answer = f"No: it cannot be judged here. {' '.join(doubted)}"
    then = "Mend what is said above first; else retrain without the rows."
  elif passed and len(seen) == len(judged):
    kind = "yes"
    answer = (
      f"Yes, within the margins of the tests, of the models of {_join(passed)}: "
      "in every test they agree with models that never saw the rows."
    )
    then = (
      f"Serve the model of {passed[0]}, write its certificate, and delete the "
      "rows wherever else they are: copies, backups, logs, derived models."
    )
  elif passed or unclear:
    kind = "open"
    some = passed or unclear
    why = (
      "but the tests find no trace in the original model either, so that passing "
      "them proves little"
      if passed
      else "but some tests were too weak to exclude one"
    )
    answer = f"Not yet: no difference to retraining was found in {_join(some)}, {why}."  # fmt: skip
    then = (
      "Run more seeds, so that the tests can decide, and ask for requests of "
      "more rows; until then, retrain without the rows."
    )
  else:
    kind = "no"
    answer = (
      "No: every method left traces, can be told from retraining, harmed what "
      "was to be kept, or diverged."
    )
    then = (
      "Do not claim deletion. Choose settings for these data, try other methods, "
      "or serve a model that was retrained without the rows."
    )
  request = next(iter(judged))
  tests = len(checks(trial, request, methods[0]))
  seeds = len({row["seed"] for row in rows if row["method"] == RETRAINED})
  sure = (
    f"{tests} equivalence tests per request with 95 % intervals over {seeds} "
    f"seeds; the same tests find traces in the original model, which forgot "
    f"nothing, for {len(seen)} of {len(judged)} requests. It is evidence for these "
    "rows, data and attacks, and no guarantee."
  )
  worked = " ".join(verdict_sentences(trial))
  return Brief(
    kind,
    answer,
    (("Did it work", worked), ("How sure", sure), ("What to do next", then)),
  )


def _join(names: Sequence[str]) -> str:
  head, last = names[:-1], names[-1]
  return f"{', '.join(head)} and {last}" if head else last
