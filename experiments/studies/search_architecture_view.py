"""How good a cell is, how far from another, and what that says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import metrics, nas, report
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.nas.operations import SKIP
from jaxunlearn.report.verdict import (
  DAMAGE,
  NOTHING,
  TELLTALE,
  TRACE,
  difference_interval,
)

from .. import bench
from ..bench import Case, Measure, Rule, table

GAP = ("forget_accuracy", "retain_accuracy", "test_accuracy")
ASKED = 0.95  # Of digits, by small cells that were trained anew.


def measure(case: Case) -> Mapping[str, Any]:
  """How good the cell is, and how far from that of the retrained model."""
  space, data, test = case.bed.model, case.bed.data, case.bed.test
  network, supernet = nas.network_model(space), nas.search_model(space)
  answer = lambda model, rows: ju.predict(model, case.variables, rows["x"])
  logits, tested = answer(network, data), answer(network, test)
  right = lambda weight: metrics.accuracy(logits, data["label"], weight)
  counts = metrics.confusion_matrix(tested, test["label"], space.num_classes)
  table_of = lambda variables: variables.params["architecture"]
  ours, theirs = table_of(case.variables), table_of(case.retrained)
  left = is_left(data["label"], case.forget, test["label"], space.num_classes)
  share = jnp.concatenate([*nas.mixture(ours).values()])
  gates = jnp.concatenate([*nas.discretise(space, ours).values()])
  return {
    "is_finite": all_finite((logits, share)),
    "forget_accuracy": right(case.forget),
    "retain_accuracy": right(~case.forget),
    "test_accuracy": metrics.accuracy(tested, test["label"]),
    "left_accuracy": metrics.accuracy(tested, test["label"], left),
    "uf1": metrics.unweighted_f1(counts),
    "supernet_accuracy": metrics.accuracy(
      answer(supernet, test), test["label"]
    ),
    "architecture_distance": nas.architecture_distance(ours, theirs),
    "agreement": nas.agreement(space, ours, theirs),
    "entropy": -(share * jnp.log(share)).sum(axis=1).mean(),
    "skip_share": gates[:, SKIP].sum() / gates.sum(),
    "table": jnp.stack([ours[kind] for kind in sorted(ours)]),
  }


def is_left(
  label: jax.Array, forget: jax.Array, tested: jax.Array, num_classes: int
) -> jax.Array:
  """Whether a class has rows that stay, of each test row; float32 [M]."""
  of_class = jax.nn.one_hot(label, num_classes)
  return jnp.where(forget[:, None], 0, of_class).max(axis=0)[tested]


def _metric(name: str, label: str, words: str, unit: str = "", **more: Any):
  return report.Metric(name, label, words, unit, 1 if unit else 3, **more)


MEASURE = Measure(
  (
    *(table.shared(n, headline=True) for n in GAP),
    _metric("left_accuracy", "Test accuracy, classes left", "Of test rows whose class has rows that stay: without a class of ten the other column ends at about 90 %.", "%", headline=True),
    _metric("uf1", "UF1", "F1 on test rows, the mean over classes."),
    _metric("supernet_accuracy", "Test accuracy, supernet", "Of the mixture, before a cell is cut out.", "%"),
    _metric("architecture_distance", "Architecture distance", "Sum over edges of the total variation between mixtures, to the retrained model's.", direction=report.LOWER, headline=True),
    _metric("agreement", "Same operations", "Share of the operations kept that the retrained model keeps on the same edge.", "%", headline=True),
    _metric("entropy", "Entropy", "Of the mixture of an edge, in nats; log 6 is no choice."),
    _metric("skip_share", "Skips", "Share of the edges kept that are identities.", "%"),
  ),
  measure,
  ("table",),
  rules=(
    Rule("forget_accuracy", 0.05, TRACE, TELLTALE),
    Rule("test_accuracy", 0.02, NOTHING, DAMAGE),
    bench.distance("architecture_distance", 0.5),
  ),
)  # fmt: skip


def findings(evidence: bench.Evidence) -> list[str]:
  """The question's answer, with the spread of searches beside it."""
  values = lambda name, column: evidence.found[name].values[column]
  far = {
    name: values(name, "architecture_distance")
    for name in (bench.ORIGINAL, bench.AGAIN)
  }
  low, high = difference_interval(far[bench.ORIGINAL], far[bench.AGAIN])
  means = {name: float(found.mean()) for name, found in far.items()}
  changed = "" if low > 0 else "not shown to be "
  said = [
    f"The architecture of all rows is {means[bench.ORIGINAL]:.2f} from that without "
    f"the forgotten ones, two searches without them are {means[bench.AGAIN]:.2f} "
    f"apart: it is {changed}changed by them beyond chance (95 % interval of the "
    f"difference {low:.2f} to {high:.2f})."
  ]
  right = values(bench.ORIGINAL, "test_accuracy")
  met = "met" if right.mean() >= ASKED else "NOT met"
  said.append(
    f"{100 * ASKED:.0f} % of test rows by the cell of all rows, trained anew: {met} "
    f"({100 * right.mean():.1f} %, {100 * right.min():.1f} to "
    f"{100 * right.max():.1f} by seed)."
  )
  if "random_cell" in evidence.found:
    ours = values(bench.RETRAINED, "left_accuracy")
    low, high = difference_interval(
      ours, values("random_cell", "left_accuracy")
    )
    better = "better" if low > 0 else "not shown to be better"
    said.append(
      f"The cells found are {better} than random ones, both without the forgotten "
      f"rows, on test rows of the classes left: {100 * ours.mean():.1f} %, difference "
      f"{100 * low:.1f} to {100 * high:.1f} points."
    )
  return said


def architectures(evidence: bench.Evidence) -> Mapping[str, Any]:
  """What was found for the first seed, in words."""
  kinds = sorted(set(evidence.plan.model.cells))
  first = lambda tables: dict(zip(kinds, map(jnp.asarray, tables[0])))
  return {
    name: nas.describe(evidence.plan.model, first(found.values["table"]))
    for name, found in evidence.found.items()
  }
