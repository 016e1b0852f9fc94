"""MUSE's other two ways: the size of a request, and requests in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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


def growth(evidence: bench.Evidence) -> Mapping[str, Any]:
  """Of the first seed: checkpoints, sizes and requests in turn, by method.

  Larger requests are further documents of those that are trained on, in order.
  """
  plan = evidence.plan
  bed = plan.beds.make(plan.beds.shared, lanes.at(plan.beds.of_seed, 0))
  source = plan.beds.sources[0]
  owner = source.document[source.train]
  first = plan.requests.forget[0, 0]
  # The request's own documents come first.
  names = list(dict.fromkeys([*owner[first], *owner]))
  count = min(plan.beds.facts["sizes"], len(names) - 2)
  singly = np.stack([owner == name for name in names[:count]])
  grown = np.asarray(nested(singly))
  original = jax.tree.map(jnp.asarray, evidence.found[bench.ORIGINAL].first)
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
  case = bench.Case(
    bed, jnp.asarray(first), jnp.asarray(first), marks,
    *(original,) * 3, key,
  )  # fmt: skip
  asked = bool(len(source.about))

  def known(variables: ju.Variables) -> dict[str, jax.Array]:
    look = knowledge if asked else verbatim
    kind = "_asked" if asked else ""
    return {
      "knowledge": look(case, variables, f"forget{kind}"),
      "utility": look(case, variables, f"retain{kind}"),
    }

  found: dict[str, Any] = {"documents": names[:count], "asked": asked}
  found["before"] = _plain(jax.jit(known)(original))
  retrained = jax.tree.map(jnp.asarray, evidence.found[bench.RETRAINED].first)
  found["retrained"] = _plain(jax.jit(known)(retrained))
  masks = np.concatenate([grown, np.stack([first] * len(_SHARES))])
  shares = np.concatenate([np.ones(len(grown)), _SHARES])
  for name in plan.methods:
    method = plan.study.methods[name]
    build = lambda share, method=method, name=name: method.build(
      bed, {**plan.settings[name], "share": share}
    )

    @jax.jit
    def sizes(masks: jax.Array, shares: jax.Array, build: Any = build) -> Any:
      one = lambda lane: known(
        build(lane[1])(original, bed.data, lane[0], key)[0]
      )
      return jax.lax.map(one, (masks, shares))

    @jax.jit
    def in_turn(masks: jax.Array, each: jax.Array, build: Any = build) -> Any:
      served, _ = ju.unlearn_sequence(
        build(1.0), original, bed.data, masks, each
      )
      return jax.lax.map(known, served)

    own = _plain(sizes(masks, shares))
    cut = lambda part, own=own: {k: v[part] for k, v in own.items()}
    early, full = cut(slice(count, None)), cut(slice(0, count))
    chosen = int(
      scores.first_under(
        np.array(early["knowledge"]), found["retrained"]["knowledge"]
      )
    )
    none = min(early["knowledge"]) > found["retrained"]["knowledge"]
    found[name] = {
      "sizes": full,
      "checkpoints": early,
      "selected": 1.0 if none else _SHARES[chosen],
    }
    if name not in _ONCE:
      many = jax.random.split(key, count)
      found[name]["in_turn"] = _plain(in_turn(singly, many))
  return {"growth": found}


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
  return {k: np.asarray(v).astype(float).tolist() for k, v in found.items()}


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
