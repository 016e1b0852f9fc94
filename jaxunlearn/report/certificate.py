"""One page for whoever has to answer a deletion request.

What was asked, by which method it was served, every test with its result
against models that were trained without the rows, the sentence that can be said
and those that cannot, and a digest of it all that can be signed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.report import page
from jaxunlearn.report.files import plain
from jaxunlearn.report.limits import LIMITS, LIMITS_UNSEEN
from jaxunlearn.report.verdict import (
  ABSENT,
  BLIND,
  FOUND,
  WEAK,
  WORSE,
  Check,
  Verdict,
)

_CAN = {
  "passed": "In {tests} tests over {seeds} seeds the model could not be told from "
  "models that were trained without the rows, within the margins below.",
  "unclear": "No test found a difference to models that were trained without the "
  "rows, but {open} of {tests} were too weak to exclude one: forgetting is "
  "neither shown nor refuted.",
  "damaged": "No test found a trace of the rows, but the model is worse on what "
  "was to be kept than the margins allow.",
  "telltale": "No test found a trace of the rows, but the model can be told from "
  "one that never saw them: it shows that something was removed.",
  "traces": "The rows were NOT forgotten: {found} of {tests} tests found traces "
  "of them.",
}
# Where no model was trained without the rows: what is known are rows of their kind
# that no model was trained on, and the model as it was.
_CAN_UNSEEN = {
  "passed": "In {tests} tests the model treats the rows as it treats rows of their "
  "kind that it was never trained on, within the margins below.",
  "unclear": "No test found that the model treats the rows otherwise than rows of "
  "their kind that it was never trained on, but {open} of {tests} were too weak to "
  "exclude it: forgetting is neither shown nor refuted.",
  "damaged": "No test found that the model treats the rows otherwise than rows of "
  "their kind that it was never trained on, but it is worse on what was to be kept "
  "than the margins allow.",
  "telltale": "The model treats the rows worse than rows of their kind that it was "
  "never trained on: it shows that something was removed.",
  "traces": "The rows were NOT forgotten: {found} of {tests} tests found traces "
  "of them.",
}
_CANNOT_UNSEEN = (
  "That the model is as if it had been trained without the rows: no such model "
  "was trained to hold it against.",
)
_CANNOT = (
  "That nothing of the rows is left: the tests below are those that were run, "
  "and a stronger one may find more.",
  "That the rows are gone elsewhere: copies, backups, logs, and models or "
  "features derived from the original model were not looked at.",
)


class Certificate(NamedTuple):
  """What one says of a request; everything is signed by `digest`.

  Attributes:
    request: as it was asked.
    rows: how many rows were asked for.
    method: that served it.
    access: the data that the method had, in words.
    settings: of the method.
    verdict: what all tests say together.
    checks: the tests.
    seeds: how many models each side of a test had.
    hashes: SHA-256 by name: of the rows' numbers, data, checkpoint, model.
    provenance: command, versions, device, date.
    is_retrained: whether the tests hold the model against retrained ones; else
      against rows that no model was trained on.
  """

  request: str
  rows: int
  method: str
  access: str
  settings: Mapping[str, Any]
  verdict: Verdict
  checks: Sequence[Check]
  seeds: int
  hashes: Mapping[str, str]
  provenance: Mapping[str, str]
  is_retrained: bool = True

  @property
  def claims(self) -> tuple[str, tuple[str, ...]]:
    """The sentence that can be said, and those that cannot."""
    outcomes = [check.outcome for check in self.checks]
    decided = outcomes.count(FOUND) + outcomes.count(ABSENT)
    can = _CAN if self.is_retrained else _CAN_UNSEEN
    sentence = can[self.verdict.outcome].format(
      tests=len(outcomes),
      seeds=self.seeds,
      open=len(outcomes) - decided,
      found=outcomes.count(FOUND),
    )
    judged = self.verdict.sentence
    if judged.startswith("Cannot be judged."):
      sentence = judged
    else:
      sentence += "".join(t for t in (WEAK, WORSE, BLIND) if t in judged)
    if self.is_retrained:
      return sentence, _CANNOT
    return sentence, (*_CANNOT_UNSEEN, *_CANNOT)

  def to_json(self) -> dict[str, Any]:
    """Plain values, with the digest of all the others."""
    can, cannot = self.claims
    checks = [
      {**check._asdict(), "outcome": check.outcome, "finding": check.finding}
      for check in self.checks
    ]
    content = plain(
      {
        **self._asdict(),
        "checks": checks,
        "can_be_claimed": can,
        "cannot_be_claimed": cannot,
      }
    )
    return {**content, "digest": digest(content)}


def digest(content: Any) -> str:
  """SHA-256 of JSON with sorted keys and no spaces, in hexadecimal."""
  text = json.dumps(
    content, sort_keys=True, separators=(",", ":"), ensure_ascii=False
  )
  return hashlib.sha256(text.encode()).hexdigest()


def hash_arrays(tree: Any) -> str:
  """SHA-256 of a tree of arrays: of each leaf its path, dtype, shape, bytes."""
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.ascontiguousarray(leaf)
    head = f"{jax.tree_util.keystr(path)};{array.dtype};{array.shape};"
    found.update(head.encode())
    found.update(array.tobytes())
  return found.hexdigest()


def certificate_html(certificate: Certificate) -> str:
  """The page; one file, no scripts, everything escaped."""
  content = certificate.to_json()
  can, cannot = certificate.claims
  words = {ABSENT: "no difference", FOUND: "difference"}
  retrained = certificate.is_retrained
  limits = LIMITS if retrained else LIMITS_UNSEEN
  return page.render(
    "certificate.html.j2",
    title=f"Deletion request: {certificate.request}",
    can=can,
    cannot=[*cannot, *(f"{head}. {text}" for head, text in limits)],
    facts=[
      ("Request", certificate.request),
      ("Rows", certificate.rows),
      ("Method", certificate.method),
      ("Data it had access to", certificate.access or "see the report"),
      ("Settings", json.dumps(content["settings"], ensure_ascii=False)),
    ],
    heads=(
      *("Test", "model", "without the rows" if retrained else "what is known"),
      *("95 % interval", "margin", "result"),
    ),
    against=(
      "models that were trained without the rows, over seeds"
      if retrained
      else "what is known, over rows"
    ),
    tests=[
      (
        check.measure,
        _number(check.value),
        _number(check.reference),
        f"{_number(check.low)} to {_number(check.high)}",
        f"{check.margin:g}",
        check.finding or words.get(check.outcome, "undecided"),
      )
      for check in certificate.checks
    ],
    hashes=[
      *certificate.hashes.items(),
      ("this certificate", content["digest"]),
    ],
    provenance=list(certificate.provenance.items()),
  )


def _number(value: float) -> str:
  return f"{value:.3g}" if math.isfinite(value) else "–"
