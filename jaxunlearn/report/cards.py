"""The card of every method; see `taxonomy.Card`.

Names are those of the factories and of the studies' methods; one without a card of
its own has that of the longest name that its own begins with, `npo_lora` that of
`npo`. What a method claims is what its authors set out to do, whatever is found.
"""

from __future__ import annotations

from collections.abc import Mapping

from jaxunlearn.report.taxonomy import Card

_FORGET, _RETAIN, _BOTH = ("forget",), ("retain",), ("forget", "retain")
_REFERENCE = (*_BOTH, "reference")
_CLASS = "class"


def _concept(goal: str, *access: str, level: str = "parameters") -> Card:
  return Card(goal, level, access, granularity="concept", sequential="single")


CARDS: Mapping[str, Card] = {
  # Baselines.
  "retrain": Card("data", access=_RETAIN, guarantee="exact"),
  "finetune": Card("data", access=_RETAIN),
  "l1_sparse": Card("data", access=_RETAIN),
  "gradient_ascent": Card("likelihood", access=_FORGET),
  "neggrad_plus": Card("likelihood"),
  "cf_k": Card("data", access=_RETAIN),
  "eu_k": Card("data", access=_RETAIN),
  "amnesiac": Card("edit", access=(*_BOTH, "training")),
  # Classifiers and regression.
  "random_label": Card("redirection"),
  "salun": Card("redirection"),
  "salun_sgd": Card("redirection"),
  "concept_poison": Card("redirection"),
  "boundary_shrink": Card("redirection", access=_FORGET, granularity=_CLASS),
  "boundary_expand": Card("redirection", access=_FORGET, granularity=_CLASS),
  "gaussian_amnesiac": Card("redirection"),
  "blindspot": Card("distillation", access=_REFERENCE),
  "bad_teacher": Card("distillation", access=_REFERENCE),
  "scrub": Card("distillation", access=_REFERENCE),
  "scrub_rewind": Card("distillation", access=(*_REFERENCE, "unseen")),
  "gkt": Card("distillation", access=("reference",), granularity=_CLASS),
  "zero_shot_noise": Card("likelihood", access=(), granularity=_CLASS),
  "unsir": Card("likelihood", access=_RETAIN, granularity=_CLASS),
  "laf": Card("representation", access=_REFERENCE),
  "dmm": Card(
    "distillation", access=(*_BOTH, "training"), guarantee="empirical"
  ),
  "oracle_matching": Card("distillation", access=(*_BOTH, "training")),
  "ssd": Card("edit"),
  "fisher_forgetting": Card("edit", access=_RETAIN),
  "influence": Card("edit"),
  "newton_step": Card("edit"),
  "iau": Card("edit"),
  # Identities.
  "uniform_teacher": Card("distillation", access=_REFERENCE),
  "anchor_to_class": Card("redirection"),
  "clipped_reversal": Card("likelihood"),
  # Exact systems, graphs, recommenders.
  "sisa": Card("data", access=("retain", "training"), guarantee="exact"),
  "s3t": Card("data", access=("training",), guarantee="exact"),
  "shards": Card("data", access=("retain", "training")),
  "receraser": Card("data", access=("retain", "training")),
  "partition": Card("data", access=("retain", "training")),
  "unlink": Card("data", "inputs", intention="suppression"),
  "popularity": Card("output", "outputs", _RETAIN, "suppression"),
  "descent_to_delete": Card("data", access=_RETAIN),
  "gnndelete": Card("representation", access=_REFERENCE),
  "d2dgn": Card("distillation", access=_REFERENCE),
  "mmrecun": Card("likelihood"),
  "scif": Card("edit"),
  "reverse_only": Card("likelihood", access=_FORGET),
  # Streams.
  "clu": Card("distillation", access=_BOTH, sequential="stream"),
  "acu": Card("edit", access=_FORGET, guarantee="exact", sequential="stream"),
  "tame": Card("data", access=_BOTH, sequential="stream"),
  # Diffusion.
  "esd": _concept("redirection", "reference"),
  "concept_ablation": _concept("redirection", "reference"),
  "forget_me_not": _concept("representation", "forget"),
  "uce": _concept("edit"),
  "sdd": _concept("distillation"),
  "safegen": _concept("redirection", "forget", "retain"),
  "sfd": _concept("distillation", "reference"),
  "adv_unlearn": _concept("redirection", "reference"),
  "doco": _concept("redirection", "reference"),
  "safe_guidance": Card("output", "outputs", ("inference",), "suppression"),
  # GANs.
  "adapt": Card("data", access=_BOTH, granularity=_CLASS),
  "extrapolate": Card("edit", access=_FORGET, granularity=_CLASS),
  "text_to_unlearn": _concept("redirection", "reference"),
  "prompt_ascent": _concept("likelihood"),
  # Language.
  "needle": _concept("edit"),
  "task_vector": Card("edit", access=_FORGET),
  "whp": Card("output", "outputs", ("forget", "inference"), "suppression"),
  "grad_diff": Card("likelihood"),
  "kl": Card("likelihood", access=_REFERENCE),
  "gradient_ascent_kl": Card("likelihood", access=_REFERENCE),
  "diverge": Card("likelihood", access=_REFERENCE),
  "npo": Card("likelihood", access=_REFERENCE),
  "simnpo": Card("likelihood"),
  "idk": Card("redirection", intention="suppression"),
  "dpo": Card("redirection", access=_REFERENCE, intention="suppression"),
  "wga": Card("likelihood"),
  "satimp": Card("likelihood"),
  "ceu": Card("likelihood"),
  "undial": Card("distillation", access=_REFERENCE),
  "flat": Card("redirection", access=_FORGET),
  "pdu": Card("likelihood"),
  "rmu": Card("representation", access=_REFERENCE, granularity="capability"),
  "inverted_hinge": Card("likelihood"),
  "ihl": Card("likelihood"),
  "loku": Card("likelihood"),
  "causal_isolation": Card("likelihood"),
  "rocr": _concept("representation", "reference"),
  "eco": Card("output", "inputs", (*_BOTH, "inference"), "suppression"),
  "guard": Card("output", "outputs", (*_BOTH, "inference"), "suppression"),
  "o3": Card(
    "redirection",
    access=("forget", "inference"),
    intention="suppression",
    sequential="stream",
  ),
  "dp2": Card("data", access=("retain", "training")),
  "protect": Card(
    "data", access=(*_BOTH, "training"), guarantee="epsilon_delta"
  ),
  # Images and texts.
  "ga": Card("likelihood", access=_FORGET),
  "gd": Card("likelihood"),
  "po": Card("redirection", intention="suppression"),
  "prompt_decoupling": Card("likelihood"),
  "siu": _concept("redirection", "reference"),
  "ce": _concept("redirection"),
  "ce_kl": _concept("redirection", "reference"),
  "erasure": Card("likelihood", access=_REFERENCE),
  "fact_erasure": Card("likelihood", access=_REFERENCE),
  "empty_response": Card(
    "redirection", access=_REFERENCE, intention="suppression"
  ),
  "head_projection": Card("representation", access=_REFERENCE),
  "head_and_erasure": Card("representation", access=_REFERENCE),
  "max_entropy": Card("representation", access=_REFERENCE),
  "input_rephrasing": Card("likelihood", access=_REFERENCE),
}


def find(name: str) -> Card | None:
  """The card of a method, by the longest name that its own begins with."""
  known = [key for key in CARDS if f"{name}_".startswith(f"{key}_")]
  return CARDS[max(known, key=len)] if known else None
