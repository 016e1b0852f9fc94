"""Four of MUSE's six ways (arXiv:2407.06460), of one request at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import metrics, report
from jaxunlearn.attacks import language as membership
from jaxunlearn.core import keys
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.language.generation import generate
from jaxunlearn.language.types import Text
from jaxunlearn.metrics import text as scores
from jaxunlearn.report.taxonomy import BLACK_BOX, FINE_TUNING, WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, TELLTALE, TRACE

from .. import bench
from ..beds.text_measures import (
  exact_match,
  look,
  mean,
  relearned,
  rounded,
)
from ..bench import Case, Measure, Rule, table

_LEAST = 0.4  # Min-k: of the tokens.


def measures(plan: bench.Plan) -> list[Measure]:
  """What is still known, in the order of MUSE."""
  column = lambda name, label, words, unit="%", **more: report.Metric(
    name, label, words, unit, 1, **more
  )
  half = "ROUGE-L F1 of the second half of a piece, given the first."
  asked = "ROUGE-L F1 of the answer and what the model says to the question."
  main = (
    column(
      "forget_verbatim",
      "Verbatim memory, forget",
      half,
      headline=True,
    ),
    column("forget_knowledge", "Knowledge, forget", asked, headline=True),
    column(
      "utility",
      "Utility",
      f"{asked} Of documents to be kept.",
      headline=True,
      direction=report.HIGHER,
    ),
    column(
      "retain_verbatim",
      "Verbatim memory, retain",
      f"{half} Of documents to be kept.",
      direction=report.HIGHER,
    ),
    column(
      "membership_auc",
      "Membership AUC",
      "Chance that a piece to be forgotten has a higher min-40% score than one "
      "that nobody was trained on.",
    ),
  )
  leak = column(
    "privleak",
    "PrivLeak",
    "100 (AUC - the retrained model's) / the retrained model's, of the chance that "
    "held-out pieces score higher: -100 all is known, above 0 it is conspicuous.",
    "",
    headline=True,
  )
  attacks = (
    column("forget_em", "Exact match", "Tokens of a piece that come first."),
    column(
      "relearned_em",
      "After relearning",
      "Exact match of pieces to be forgotten after some steps on the others of "
      "them, at the worse of two rates.",
      headline=True,
    ),
    column("int8_em", "At 8 bits", "Exact match, weights rounded to 8 bits."),
    column(
      "nf4_em",
      "At 4 bits",
      "Exact match, weights rounded to the 16 values of NF4.",
      headline=True,
    ),
  )
  known = bool(plan.beds.facts["questions"])
  rules = [
    Rule("forget_verbatim", 0.05, above=TRACE, below=TELLTALE),
    Rule("membership_auc", 0.1, TRACE, TELLTALE, threat=WHITE_BOX),
    Rule("retain_verbatim", 0.05, below=DAMAGE, above=""),
  ]
  if known:
    rules += [
      Rule("forget_knowledge", 0.05, TRACE, TELLTALE, threat=BLACK_BOX),
      Rule("utility", 0.05, below=DAMAGE, above=""),
    ]
  gap = ["forget_verbatim", "retain_verbatim", "membership_auc"]
  gap += ["forget_knowledge", "utility"] if known else []
  return [
    Measure(main, _six, rules=tuple(rules)),
    Measure((leak,), after=_leak),
    Measure(
      attacks,
      _brought_back,
      rules=(
        Rule("relearned_em", 0.1, above=TRACE, threat=FINE_TUNING),
        Rule("nf4_em", 0.1, above=TRACE, threat=WHITE_BOX),
      ),
      costly=True,
    ),
    table.gap(
      gap,
      "Mean over verbatim memory, knowledge, utility and the membership AUC of how "
      "far they are from the retrained model's.",
      unit="%",
    ),
  ]


def _some(case: Case, kind: str) -> tuple[Text, jax.Array]:
  places, there = case.marks[kind]
  own = case.bed.test if kind == "held" else case.bed.data
  x = case.bed.extra["ask"] if kind.endswith("asked") else own["x"]
  return jax.tree.map(lambda leaf: leaf[places], x), there


def _memory(case: Case, variables: Any, x: Text, there: Any) -> jax.Array:
  """Mean F1 of what stands after the prompts and what the model says there."""
  new = case.bed.recipe.max_new
  said = generate(
    case.bed.model,
    variables,
    x,
    keys.derive(case.key, "say"),
    max_new=new,
    stop=case.bed.extra["stop"],
  )
  size = jnp.minimum(x.length - x.prompt, new)
  place = jnp.minimum(
    x.prompt[:, None] + jnp.arange(new)[None], x.tokens.shape[1] - 1
  )
  truth = jnp.take_along_axis(x.tokens, place, axis=1)
  stop = case.bed.extra["stop"]
  if stop is not None:  # It is no word of what is said.
    last = jnp.take_along_axis(
      truth, jnp.maximum(size - 1, 0)[:, None], axis=1
    )[:, 0]
    size = size - (last == stop)
  found = scores.rouge_l_f1(said.tokens, said.length, truth, size)
  return mean(found, there & (size > 0))


def _halved(x: Text) -> Text:
  return x._replace(prompt=jnp.maximum(x.length // 2, 1))


def knowledge(case: Case, variables: Any, kind: str) -> jax.Array:
  """Mean F1 of answers to questions of a kind."""
  x, there = _some(case, kind)
  return _memory(case, variables, x, there)


def verbatim(case: Case, variables: Any, kind: str) -> jax.Array:
  """Mean F1 of second halves of pieces of a kind."""
  x, there = _some(case, kind)
  return _memory(case, variables, _halved(x), there & (x.length > 3))


def _six(case: Case) -> dict[str, Any]:
  low, found = {}, {}
  for kind in ("forget", "held"):
    x, there = _some(case, kind)
    own = look(case, case.variables, x)
    low[kind] = (
      membership.lowest_mean(own.log_prob, own.mask, k=_LEAST),
      there,
    )
    found[kind] = own.log_prob
  (ours, there), (others, held) = low["forget"], low["held"]
  model = case.variables
  return {
    "forget_verbatim": verbatim(case, model, "forget"),
    "retain_verbatim": verbatim(case, model, "retain"),
    "forget_knowledge": knowledge(case, model, "forget_asked"),
    "utility": knowledge(case, model, "retain_asked"),
    "membership_auc": metrics.separation_auc(ours, others, there, held),
    "is_finite": all_finite(list(found.values())),
  }


def _leak(evidence: bench.Evidence, method: str) -> Mapping[str, Any]:
  ours, theirs = (
    1 - evidence.found[m].values["membership_auc"]
    for m in (method, bench.RETRAINED)
  )
  # Nothing is a share of none.
  found = membership.privleak(ours, np.where(theirs > 0, theirs, np.nan))
  return {"privleak": np.asarray(found)}


def _brought_back(case: Case) -> dict[str, Any]:
  x, there = _some(case, "forget")
  places = case.marks["forget"][0]
  found = {
    "forget_em": exact_match(case, case.variables, x, there),
    "relearned_em": relearned(
      case,
      lambda again, seen: exact_match(case, again, x, there & ~seen[places]),
    ),
  }
  for name, variables in rounded(case.variables).items():
    found[f"{name}_em"] = exact_match(case, variables, x, there)
  return found
