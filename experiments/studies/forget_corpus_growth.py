"""MUSE's other two ways: the size of a request, and requests in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import report
from jaxunlearn.core import keys
from jaxunlearn.core.requests import nested
from jaxunlearn.metrics import text as scores

from .. import bench
from ..bench import lanes
from .forget_corpus_measures import knowledge, verbatim

_SHARES = (0.25, 0.5, 0.75)  # Of the steps: checkpoints before the last.
# What makes a guard of another shape cannot be asked again by the same program.
_ONCE = ("whp", "eco", "guard")


class Lanes(NamedTuple):
  """Requests to one method, leaves [K, ...].

  Attributes:
    forget: bool [K, N].
    retain: bool [K, N].
    share: of the steps.
    key: of the method.
    goes_on: whether it begins with what the lane before it left.
  """

  forget: Any
  retain: Any
  share: Any
  key: Any
  goes_on: Any


def growth(evidence: bench.Evidence) -> Mapping[str, Any]:
  """Of the first seed: checkpoints, sizes and requests in turn, by method.

  Larger requests are further documents of those that are trained on, in order.
  One program looks at every model, and one a method serves all its requests.
  """
  plan = evidence.plan
  source = plan.beds.sources[0]
  owner = source.document[source.train]
  first = plan.requests.forget[0, 0]
  # The request's own documents come first.
  names = list(dict.fromkeys([*owner[first], *owner]))
  count = min(plan.beds.facts["sizes"], len(names) - 2)
  singly = np.stack([owner == name for name in names[:count]])
  original, retrained = (
    jax.tree.map(jnp.asarray, evidence.found[name].first)
    for name in (bench.ORIGINAL, bench.RETRAINED)
  )
  marks = jax.tree.map(lambda m: m[0, 0], plan.requests.marks)
  key = keys.derive(jax.random.key(plan.seeds[0]), "growth")
  kept = np.isin(owner, names[count:])
  some = np.flatnonzero(np.isin(source.about, names[count:]))
  wide = plan.beds.facts["recipe"]["sample"]
  places = np.resize(some, wide) if len(some) else np.zeros(wide, int)
  there = np.arange(wide) < len(some)
  marks = {**marks, "retain_asked": (places, there)}
  rows = np.resize(np.flatnonzero(kept), wide)
  marks["retain"] = (rows, np.arange(wide) < kept.sum())
  parts = plan.beds.shared, lanes.at(plan.beds.of_seed, 0)
  arrays = jax.tree.map(jnp.asarray, (parts, first, marks, key))
  asked = bool(len(source.about))

  @jax.jit
  def look(variables: ju.Variables, arrays: Any) -> dict[str, jax.Array]:
    parts, first, marks, key = arrays
    bed = plan.beds.make(*parts)
    case = bench.Case(bed, first, first, marks, *(variables,) * 3, key)
    of = knowledge if asked else verbatim
    kind = "_asked" if asked else ""
    return {
      "knowledge": of(case, variables, f"forget{kind}"),
      "utility": of(case, variables, f"retain{kind}"),
    }

  known = lambda model: _plain(look(model, arrays))
  found: dict[str, Any] = {"documents": names[:count], "asked": asked}
  found |= {"before": known(original), "retrained": known(retrained)}
  every = _lanes(singly, first, key)
  for name in plan.methods:
    is_guard = name in _ONCE
    of = jax.tree.map(lambda leaf: leaf[:-count], every) if is_guard else every
    made = jax.jit(functools.partial(_served, plan, name, is_guard))(
      original, parts, of
    )
    each = [known(lanes.at(made, i)) for i in range(len(of.share))]
    own = {k: [one[k] for one in each] for k in each[0]}
    cut = lambda *part, own=own: {k: v[slice(*part)] for k, v in own.items()}
    early = cut(count, count + len(_SHARES))
    aim = found["retrained"]["knowledge"]
    chosen = int(scores.first_under(np.array(early["knowledge"]), aim))
    none = min(early["knowledge"]) > aim
    found[name] = {
      "sizes": cut(0, count),
      "checkpoints": early,
      "selected": 1.0 if none else _SHARES[chosen],
    }
    if not is_guard:
      found[name]["in_turn"] = cut(-count, None)
  return {"growth": found}


def _lanes(singly: np.ndarray, first: np.ndarray, key: jax.Array) -> Lanes:
  """Larger and larger requests, some of fewer steps, and requests in turn."""
  count, shares = len(singly), len(_SHARES)
  grown = np.asarray(nested(singly))
  forget = np.concatenate([grown, np.stack([first] * shares), singly])
  gone = np.zeros_like(forget)  # By the requests before it, in turn.
  gone[count + shares + 1 :] = grown[:-1]
  turns = jax.random.split(keys.derive(key, "in turn"), count)
  alone = count + shares
  return Lanes(
    jnp.asarray(forget & ~gone),
    jnp.asarray(~forget & ~gone),
    jnp.array([1.0] * count + [*_SHARES] + [1.0] * count),
    jnp.concatenate([jnp.stack([key] * alone), turns]),
    jnp.arange(len(forget)) > alone,
  )


def _served(
  plan: bench.Plan,
  name: str,
  is_guard: bool,
  original: ju.Variables,
  parts: Any,
  of: Lanes,
) -> ju.Variables:
  """What a method makes of every lane, leaves [K, ...]; a guard only once."""
  bed, method = plan.beds.make(*parts), plan.study.methods[name]

  def serve(start: ju.Variables, lane: Lanes) -> ju.Variables:
    made = method.build(bed, {**plan.settings[name], "share": lane.share})
    asked = ju.Request(lane.forget, lane.retain)
    return made(start, bed.data, asked, lane.key)[0]

  if is_guard:
    return jax.lax.map(lambda lane: serve(original, lane), of)

  def then(before: ju.Variables, lane: Lanes) -> Any:
    start = jax.tree.map(
      lambda now, old: jnp.where(lane.goes_on, now, old), before, original
    )
    made = serve(start, lane)
    return made, made

  return jax.lax.scan(then, original, of)[1]


def _plain(found: Mapping[str, Any]) -> dict[str, float]:
  return {k: float(v) for k, v in found.items()}


def growth_tables(evidence: bench.Evidence) -> list[report.Comparison]:
  """Utility by size and by the number of requests; the checkpoint of MUSE."""
  found = evidence.extra["growth"]
  count = len(found["documents"])
  head = lambda name, label, words: report.Metric(
    name, label, words, "%", 1, report.HIGHER
  )
  what = "Utility" if found["asked"] else "Verbatim memory of documents kept"
  sized = [
    head(f"size_{i}", f"{i} documents", f"{what} after a request of so many.")
    for i in range(1, count + 1)
  ]
  turned = [
    head(f"turn_{i}", f"{i} in turn", f"{what} after so many requests of one.")
    for i in range(1, count + 1)
  ]
  picked = report.Metric(
    "selected",
    "Checkpoint",
    "Share of the steps after which it knows no more of the request than the "
    "retrained model, the first of a quarter, a half and three; 100: not before "
    "the last.",
    "%",
    0,
    report.NEITHER,
  )
  cell = lambda value: report.Cell(
    "–" if value is None or not np.isfinite(value) else f"{100 * value:.1f}",
    value=np.nan if value is None else value,
  )
  flat = (found["before"]["utility"],) * (2 * count)
  rows = [(bench.ORIGINAL, (*map(cell, flat), cell(None)))]
  for name in evidence.plan.methods:
    own = found[name]
    turn = own.get("in_turn", {}).get("utility", [None] * count)
    values = (*own["sizes"]["utility"], *turn)
    rows.append((name, (*map(cell, values), cell(own["selected"]))))
  return [
    report.Comparison(
      "Scalability and sustainability",
      f"{what} of the documents outside of all these requests, first seed: one "
      "request of a document and more, and as many requests of one, each served by "
      "what the one before left. Settings are those of the main table. A guard that "
      "adds a model cannot be asked twice.",
      report.Grid((*sized, *turned, picked), tuple(rows), False),
    )
  ]
