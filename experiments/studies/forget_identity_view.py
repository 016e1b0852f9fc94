"""The audit of a person as columns, tests and sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import attacks, identity, report
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from .. import bench
from ..bench import Case, Measure, Rule, table
from .forget_identity_models import MODELS

AUDIT = ("linear", "mlp", "gap", "rank_1", "mean_ap", "relearned")
GAP = ("linear", "mlp", "rank_1", "kept_rank_1")


def measure(case: Case) -> Mapping[str, Any]:
  """The audit; how others are recognised; and what the model itself says."""
  bed, who = case.bed, case.marks
  known, total, relearn_steps = bed.extra
  gallery, queries = bed.test["gallery"], bed.test["queries"]

  def seen(variables):
    views = (
      bed.model.gallery(variables, gallery),
      bed.model.view(variables, queries),
    )
    return views[0], gallery["label"], views[1], queries["label"]

  asked = queries["label"] == who
  over = lambda values, mask: jnp.where(mask, values, 0).sum() / mask.sum()
  recognised = lambda v: over(identity.retrieval(*seen(v))[0], asked)
  found = identity.audit_identity(
    *seen(case.variables), who, ju.derive(case.key, "probe"), num_ids=total
  )
  again = attacks.relearn(
    bed.model.task,
    case.variables,
    bed.data,
    case.forget,
    ju.derive(case.key, "relearn"),
    evaluate=recognised,
    target=recognised(case.original),
    num_steps=relearn_steps,
    optimizer=optax.adam(2e-3),
    batch_size=24,
  )
  rank_1, _, gap = identity.retrieval(*seen(case.variables))
  label = queries["label"]
  columns = {
    "is_finite": all_finite(seen(case.variables)),
    **found._asdict(),
    "relearned": attacks.relearn_area(again.curve),
    "unseen_gap": over(gap, label >= known),
    "kept_rank_1": over(rank_1, (label < known) & ~asked),
  }
  if bed.model.logits is not None:
    said = bed.model.logits(case.variables, queries)
    own = jax.nn.softmax(said).max(axis=-1)
    columns["own_confidence"] = over(own, asked)
  return columns


def _judged(evidence: bench.Evidence, name: str) -> Mapping[str, np.ndarray]:
  """The library's decision of each lane, beside the two retrained models of it.

  People differ between seeds by more than a model forgets: only how far two
  retrained models of one lane are apart is the spread, pooled over lanes.
  """
  ours, first, second = (
    evidence.found[m].values for m in (name, bench.RETRAINED, bench.AGAIN)
  )
  audit = lambda values: identity.IdentityAudit(
    *(jnp.asarray(values[k], jnp.float32) for k in AUDIT)
  )

  def standard(a: jax.Array, b: jax.Array) -> jax.Array:
    apart = jnp.concatenate([a - b, b - a]) / 2**0.5
    return (a + b)[:, None] / 2 + apart[None]

  theirs = jax.tree.map(standard, audit(first), audit(second))
  gone = np.asarray(jax.vmap(identity.decide)(audit(ours), theirs).is_gone)
  found = {"is_gone": gone}
  if "own_confidence" in ours:
    usual = (first["own_confidence"] + second["own_confidence"]) / 2
    found["is_concealed"] = (ours["own_confidence"] <= usual + 0.05) & ~gone
  return found


def _share(name: str, label: str, words: str, **more: Any) -> report.Metric:
  return report.Metric(name, label, words, "%", 1, **more)


def measures(plan: bench.Plan) -> list[Measure]:
  """Columns, and what is tested; a generator has no read-out of its own."""
  first = {"headline": True}
  own = _share(
    "own_confidence",
    "Own confidence",
    "How sure the model's own read-out is of who is on the queries.",
  )
  concealed = _share(
    "is_concealed",
    "Concealed",
    "Share of runs whose own confidence is that of retrained models, while the "
    "audit still finds the person.",
  )
  has_own = MODELS[plan.options.objective](2).logits is not None
  audit = Measure(
    (
      _share("linear", "Linear probe", "Of the queries a fresh ridge probe names.", **first),
      _share("mlp", "Network probe", "Of the queries a fresh network names.", **first),
      report.Metric("gap", "Verification gap", "Mean cosine to images of the person minus that to others.", "", 3),
      _share("rank_1", "Rank-1", "Of the queries whose nearest image is the person's.", **first),
      _share("mean_ap", "mAP", "Mean average precision of the queries."),
      _share("relearned", "Relearned", "Mean rank-1 over steps of training on the rows again."),
      report.Metric("unseen_gap", "Gap, unknown people", "The verification gap of people that no model saw.", "", 3),
      _share("kept_rank_1", "Rank-1, others", "Of the queries of the other known people.", **first),
      *((own,) if has_own else ()),
    ),
    measure,
    rules=(
      *(Rule(k, 0.1, TRACE, TELLTALE) for k in ("linear", "mlp", "rank_1", "mean_ap", "relearned")),
      Rule("gap", 0.1, TRACE, TELLTALE),
      Rule("kept_rank_1", 0.05, NOTHING, DAMAGE),
    ),
  )  # fmt: skip
  gone = _share(
    "is_gone",
    "Gone",
    "Share of runs in which no number of the audit is above what two models that "
    "never saw the person have, by more than such models differ.",
    direction=report.HIGHER,
    headline=True,
  )
  decision = Measure((gone, *((concealed,) if has_own else ())), after=_judged)
  return [
    audit,
    table.gap(
      GAP, "Over three ways to recognise the person, and how others are."
    ),
    decision,
  ]


def findings(evidence: bench.Evidence) -> list[str]:
  """By method in how many runs the person is gone, or merely concealed."""
  said = []
  for name in evidence.plan.methods:
    values = evidence.found[name].values
    gone, runs = int(values["is_gone"].sum()), len(values["is_gone"])
    words = f"{name}: by the audit the person is gone in {gone} of {runs} runs"
    if "is_concealed" in values:
      hidden = int(values["is_concealed"].sum())
      words += f", and concealed by the model's own read-out in {hidden}"
    said.append(f"{words}.")
  control = evidence.found[bench.ORIGINAL].values["is_gone"]
  said.append(
    f"Of the original model, which saw the person, the audit says so in "
    f"{int(control.sum())} of {len(control)} runs: it is not finer than that."
  )
  return said
