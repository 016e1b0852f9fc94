"""What a model believes of facts that were corrupted; see `restore_facts`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import report
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.language.types import Text
from jaxunlearn.metrics import restoration
from jaxunlearn.metrics import text as scores
from jaxunlearn.report.taxonomy import FINE_TUNING, WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, TRACE

from .. import bench
from ..beds.text_measures import look, mean, relearned, rounded
from ..bench import Case, Measure, Rule, table


def alike(*rows: Text) -> list[Text]:
  """Of one width, the widest's."""
  width = max(x.tokens.shape[-1] for x in rows)

  def padded(x: Text) -> Text:
    rest = [(0, 0)] * (x.tokens.ndim - 1) + [(0, width - x.tokens.shape[-1])]
    return x._replace(tokens=jnp.pad(x.tokens, rest))

  return [padded(x) for x in rows]


def _beliefs(case: Case, params: Any) -> restoration.Beliefs:
  """Right: the answer and its paraphrase; corrupted: what was told; others."""
  places, _ = case.marks["facts"]
  others = jax.tree.map(lambda leaf: leaf[places], case.bed.extra["others"])
  clean = jax.tree.map(lambda leaf: leaf[places], case.bed.extra["clean"])
  clean, others = alike(clean, others)
  every = jax.tree.map(
    lambda a, b: jnp.concatenate([a[:, None], b], axis=1), clean, others
  )
  count = every.length.shape[1]
  flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), every)
  own = look(case, case.variables._replace(params=params), flat)
  means = scores.mean_log_prob(own.log_prob, own.mask).reshape(-1, count)
  size = max(2, count - 3)
  fill = lambda part: jnp.pad(part, ((0, 0), (0, size - part.shape[1])))
  kinds = (means[:, :2], means[:, 2:3], means[:, 3:])
  there = np.zeros((3, size), bool)
  for i, part in enumerate(kinds):
    there[i, : part.shape[1]] = True
  table = jnp.stack([fill(part) for part in kinds], axis=1)
  return restoration.beliefs(table, jnp.broadcast_to(there, table.shape))


def _restored(case: Case) -> dict[str, Any]:
  models = (
    case.original.model_state["clean"],
    case.original.params,
    case.variables.params,
  )
  clean, corrupted, own = (_beliefs(case, params) for params in models)
  found = restoration.restoration(clean, corrupted, own)
  places, kept = case.marks["retain"]
  x = jax.tree.map(lambda leaf: leaf[places], case.bed.data["x"])
  looked = look(case, case.variables, x)
  em = scores.exact_memorisation(looked.is_top, looked.mask)
  return {
    **found._asdict(),
    "retain_em": mean(em, kept),
    "is_finite": all_finite([looked.log_prob]),
  }


def _told(case: Case, variables: Any) -> jax.Array:
  return (_beliefs(case, variables.params).kind == restoration.CORRUPTED).mean()


def _brought_back(case: Case) -> dict[str, Any]:
  return {
    "relearned_corrupted": relearned(
      case, lambda again, seen: _told(case, again)
    ),
    "nf4_corrupted": _told(case, rounded(case.variables)["nf4"]),
  }


def measures(plan: bench.Plan) -> list[Measure]:
  """What is right and what is false, and what brings the latter back."""
  column = lambda name, label, words, way=report.NEAREST, unit="%": (
    report.Metric(name, label, words, unit, 1, way, headline=True)
  )
  high = report.HIGHER
  known = (
    column("accuracy", "Right", "Facts of which it finds what is right likeliest.", high),
    column("corrupted", "False", "Facts of which it finds what it was told likeliest."),
    column("recovery", "Recovery", "Of what corruption cost: 100 all is back, 0 nothing, below it was harm.", high),
    column("forgetting", "Forgetting", "Share of false beliefs that are gone.", high),
    column("restored_margin", "Restored margin", "As recovery, of log p of what is right over what is false.", high),
    column("retain_em", "Exact match, kept", "Tokens of rows to be kept that come first.", high),
  )  # fmt: skip
  attacks = (
    column("relearned_corrupted", "False, relearned", "False facts after some steps on half of the request."),
    column("nf4_corrupted", "False, at 4 bits", "False facts with weights rounded to 4 bits."),
  )  # fmt: skip
  return [
    Measure(
      known,
      _restored,
      rules=(
        Rule("corrupted", 0.1, above=TRACE),
        Rule("accuracy", 0.1, above="", below=DAMAGE),
        Rule("retain_em", 0.05, above="", below=DAMAGE),
      ),
    ),
    Measure(
      attacks,
      _brought_back,
      rules=(
        Rule("relearned_corrupted", 0.1, above=TRACE, threat=FINE_TUNING),
        Rule("nf4_corrupted", 0.1, above=TRACE, threat=WHITE_BOX),
      ),
      costly=True,
    ),
    table.gap(
      ("accuracy", "corrupted", "retain_em"),
      "Mean over right, false and kept of how far they are from the retrained "
      "model's, which saw no false row.",
      unit="%",
    ),
  ]
