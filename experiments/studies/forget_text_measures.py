"""What is measured of a language model that was to forget; see `forget_text`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import language, metrics, report
from jaxunlearn.attacks import language as membership
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.language.types import Text
from jaxunlearn.metrics import text as scores
from jaxunlearn.report.taxonomy import FINE_TUNING, WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, TELLTALE, TRACE

from .. import bench
from ..beds.text_measures import (
  decoded,
  disturbed,
  exact_match,
  look,
  mean,
  relearned,
  rounded,
  rows_of,
  say,
)
from ..bench import Case, Measure, Rule, table

_MOST_SHARE = 0.4  # Min-k: of the tokens, as in MUSE.


_DISTURBED = {
  "pruned": ("Pruned", "the smallest tenth of each array's weights cut off"),
  "noised": (
    "With noise",
    "at most over three draws of a thousandth of theirs",
  ),
  "nearer": (
    "Towards the original",
    "at most where weights go back by .05, .1 or .25 of the way",
  ),
}
_KINDS = {
  "forget": "rows to be forgotten",
  "retain": "rows to be kept",
  "held": "rows that nobody was trained on",
}


def measures(plan: bench.Plan) -> list[Measure]:
  """What is still known, of what, and what brings it back."""
  column = lambda name, label, words, unit="%", **more: report.Metric(
    name, label, words, unit, 1 if unit == "%" else 2, **more
  )
  of_kinds = [
    column(
      f"{kind}_{name}",
      f"{label}, {kind}",
      f"{words} Of {rows}.",
      direction=report.NEAREST if kind == "forget" else report.HIGHER,
    )
    for name, label, words in (
      ("em", "Exact match", "Share of the answer's tokens that come first."),
      ("probability", "Probability", "p(answer)^(1 / tokens), a mean."),
    )
    for kind, rows in _KINDS.items()
  ]
  rouge = [
    column(
      f"{kind}_rouge",
      f"ROUGE-L, {kind}",
      f"Recall of the answer in what the model says itself. Of {rows}.",
      headline=kind == "retain",
      direction=report.NEAREST if kind == "forget" else report.HIGHER,
    )
    for kind, rows in _KINDS.items()
  ]
  facts = plan.dataset.facts
  of_facts = [
    column(
      f"{kind}_{name}",
      f"{label}, {kind}",
      f"{words} Of TOFU's further questions ({kind}), as in its utility.",
      direction=report.HIGHER,
    )
    for kind in facts
    for name, label, words in (
      ("probability", "Probability", "Of the right among all answers."),
      ("truth", "Truth ratio", "Mean of max(0, 1 - R)."),
      ("rouge", "ROUGE-L", "Recall of the answer in what is said."),
    )
  ]
  single = [
    column(
      "forget_extraction",
      "Extraction strength",
      "Share of the answer, from its end, that follows word by word.",
    ),
    column(
      "forget_truth",
      "Truth ratio, forget",
      "Mean of min(R, 1/R), R the probability of wrong answers over that of the "
      "right one in other words.",
    ),
    column(
      "retain_truth",
      "Truth ratio, retain",
      "Mean of max(0, 1 - R); higher prefers the truth.",
      direction=report.HIGHER,
    ),
    column(
      "membership_auc",
      "Membership AUC",
      "Chance that a row to be forgotten has a higher min-40% score than one that "
      "nobody was trained on.",
      headline=True,
    ),
  ]
  later = [
    column(
      "utility",
      "Utility",
      "Harmonic mean of probability, ROUGE-L and truth ratio of rows to be kept"
      + (", real authors and world facts." if facts else "."),
      headline=True,
      direction=report.HIGHER,
    ),
    column(
      "forget_quality",
      "Forget quality",
      "log10 p of a Kolmogorov-Smirnov test of truth ratios against the retrained "
      f"model's, of at most {plan.beds.facts['recipe']['sample']} rows; that of "
      "retrained_again is its floor. A destroyed model may pass.",
      "log10 p",
      headline=True,
      direction=report.HIGHER,
    ),
    column(
      "privleak",
      "PrivLeak",
      "How far the AUC of held-out against forget rows is from the retrained "
      "model's, relative; negative: still known.",
    ),
  ]
  attacks = [
    column(
      "relearned_em",
      "After relearning",
      "Exact match on rows to be forgotten after some steps of training on the "
      "other half of them, at the worse of two rates, three times apart.",
      headline=True,
    ),
    column(
      "int8_em", "At 8 bits", "Exact match, forget, weights rounded to 8 bits."
    ),
    column(
      "nf4_em",
      "At 4 bits",
      "Exact match, forget, weights rounded to the 16 values of NF4.",
      headline=True,
    ),
    *(
      column(f"{name}_em", label, f"Exact match, forget, {words}.")
      for name, (label, words) in _DISTURBED.items()
    ),
    column(
      "bare_em",
      "Bare weights",
      "Exact match on rows to be forgotten of the weights alone, without what may "
      "stand in front of them; attacks begin from these too.",
    ),
  ]
  return [
    Measure(
      (*of_kinds, *single, *rouge),
      _scores,
      ("ratios", "said", "said_length"),
      _rouge,
      (
        Rule("forget_em", 0.05, above=TRACE, below=TELLTALE),
        Rule(
          "membership_auc", 0.1, above=TRACE, below=TELLTALE, threat=WHITE_BOX
        ),
        Rule("retain_rouge", 0.05, below=DAMAGE, above=""),
        Rule("retain_em", 0.05, below=DAMAGE, above=""),
      ),
    ),
    *(
      [Measure(tuple(of_facts), _facts, _said(facts), _fact_rouge)]
      * bool(facts)
    ),
    Measure(tuple(later), after=_against_retrained),
    Measure(
      tuple(attacks),
      _brought_back,
      rules=(
        Rule("bare_em", 0.05, above=TRACE, threat=WHITE_BOX),
        Rule("relearned_em", 0.1, above=TRACE, threat=FINE_TUNING),
        *(
          Rule(f"{name}_em", 0.1, above=TRACE, threat=WHITE_BOX)
          for name in ("nf4", *_DISTURBED)
        ),
      ),
      costly=True,
    ),
    table.gap(
      ("forget_em", "retain_em", "forget_rouge", "retain_rouge"),
      "Mean over exact match and ROUGE-L, of rows forgotten and kept, of how far "
      "they are from the retrained model's.",
      unit="%",
    ),
  ]


def _scores(case: Case) -> dict[str, Any]:
  bed, found = case.bed, {}
  looked, low = {}, {}
  for kind, (x, there, _) in rows_of(case).items():
    own = looked[kind] = look(case, case.variables, x)
    em = scores.exact_memorisation(own.is_top, own.mask)
    found[f"{kind}_em"] = mean(em, there)
    p = scores.probability(own.log_prob, own.mask)
    found[f"{kind}_probability"] = mean(p, there)
    low[kind] = membership.lowest_mean(own.log_prob, own.mask, k=_MOST_SHARE)
  for kind, summary in (
    ("forget", scores.indifference),
    ("retain", scores.preference),
  ):
    rows, there = case.marks[kind]
    others = jax.tree.map(lambda leaf, r=rows: leaf[r], bed.extra["others"])
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), others)
    own = look(case, case.variables, flat)
    means = scores.mean_log_prob(own.log_prob, own.mask)
    means = means.reshape(others.length.shape)
    ratio = scores.log_truth_ratio(means[:, 0], means[:, 1:])
    found[f"{kind}_truth"] = mean(summary(ratio), there)
    if kind == "forget":
      found["ratios"] = ratio
  own, there = looked["forget"], case.marks["forget"][1]
  strength = scores.extraction_strength(own.is_top, own.mask)
  found["forget_extraction"] = mean(strength, there)
  held = case.marks["held"][1]
  found["membership_auc"] = metrics.separation_auc(
    low["forget"], low["held"], there, held
  )
  every = [x for x, _, _ in rows_of(case).values()]
  x = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *every)
  width = bed.extra["longest_prompt"]
  x = Text(x.tokens[:, :width], jnp.minimum(x.length, width), x.prompt)
  said = say(case, x)
  found |= {"said": said.tokens, "said_length": said.length}
  found["is_finite"] = all_finite([s.log_prob for s in looked.values()])
  return found


def _said(facts: Any) -> tuple[str, ...]:
  return tuple(f"{k}_{n}" for k in facts for n in ("said", "said_length"))


def _facts(case: Case) -> dict[str, Any]:
  """What the weights knew before anything was trained in."""
  found: dict[str, Any] = {}
  for kind, every in case.bed.extra["facts"].items():
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), every)
    own = look(case, case.variables, flat)
    means = scores.mean_log_prob(own.log_prob, own.mask)
    means = means.reshape(every.length.shape)
    right, wrong = means[:, 0], means[:, 1:]
    chosen = scores.choice_probability(right, wrong)
    truth = scores.preference(scores.log_truth_ratio(right, wrong))
    said = say(case, jax.tree.map(lambda leaf: leaf[:, 0], every))
    found |= {
      f"{kind}_probability": chosen.mean(),
      f"{kind}_truth": truth.mean(),
      f"{kind}_said": said.tokens,
      f"{kind}_said_length": said.length,
    }
  return found


def _fact_rouge(evidence: bench.Evidence, method: str) -> dict[str, Any]:
  corpus, values = evidence.plan.dataset, evidence.found[method].values
  return {
    f"{kind}_rouge": [
      scores.rouge_l_of_texts(
        decoded(corpus.tokenizer, tokens, lengths), pairs.answers
      ).mean()
      for tokens, lengths in zip(
        values[f"{kind}_said"], values[f"{kind}_said_length"]
      )
    ]
    for kind, pairs in corpus.facts.items()
  }


def _brought_back(case: Case) -> dict[str, Any]:
  """Exact match of the bare weights: as they are, trained on, and rounded."""
  x, there, places = rows_of(case)["forget"]
  case = case._replace(variables=language.bare(case.variables))
  found = {
    "bare_em": exact_match(case, case.variables, x, there),
    "relearned_em": relearned(
      case,
      lambda again, seen: exact_match(case, again, x, there & ~seen[places]),
    ),
  }
  for name, variables in rounded(case.variables).items():
    found[f"{name}_em"] = exact_match(case, variables, x, there)
  again = disturbed(case, lambda v: exact_match(case, v, x, there))
  return found | {f"{name}_em": value for name, value in again.items()}


def _rouge(evidence: bench.Evidence, method: str) -> dict[str, Any]:
  """ROUGE-L recall of what was said, by the words of the texts."""
  plan, values = evidence.plan, evidence.found[method].values
  corpus = plan.dataset
  found: dict[str, list[float]] = {f"{kind}_rouge": [] for kind in _KINDS}
  for lane, (request, seed) in enumerate(zip(*plan.lanes)):
    tokens, lengths = values["said"][lane], values["said_length"][lane]
    said = decoded(corpus.tokenizer, tokens, lengths)
    source, first = plan.beds.sources[seed], 0
    for kind in sorted(_KINDS):  # As the marks come out of the program.
      places, there = (m[request, seed] for m in plan.requests.marks[kind])
      rows = (source.held if kind == "held" else source.train)[places]
      recall = scores.rouge_l_of_texts(
        said[first : first + len(rows)],
        [corpus.pairs.answers[row] for row in rows],
      )
      found[f"{kind}_rouge"].append(recall[there].mean())
      first += len(rows)
  return found


def _against_retrained(evidence: bench.Evidence, method: str) -> dict[str, Any]:
  plan = evidence.plan
  ours, theirs = (evidence.found[m].values for m in (method, bench.RETRAINED))
  quality = []
  for lane, (request, seed) in enumerate(zip(*plan.lanes)):
    there = plan.requests.marks["forget"][1][request, seed]
    test = scores.forget_quality(
      ours["ratios"][lane][there], theirs["ratios"][lane][there]
    )
    quality.append(test.log10_p)
  parts = [
    ours[f"{kind}_{name}"]
    for kind in ("retain", *plan.dataset.facts)
    for name in ("probability", "rouge", "truth")
  ]
  leak = membership.privleak(
    1 - ours["membership_auc"], np.maximum(1 - theirs["membership_auc"], 1e-3)
  )
  return {
    "forget_quality": quality,
    "utility": np.asarray(scores.model_utility(np.stack(parts, axis=-1))),
    "privleak": np.asarray(leak) / 100,
  }
