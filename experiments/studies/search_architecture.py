"""Does forgetting change the architecture that a search finds?

Question: an architecture that was searched for depends on the rows it was searched
on. To forget some of them exactly, the search has to be run again; is what it
finds then another one, beyond what two searches with other random numbers differ
by? And does the search find better cells than chance?

    python -m experiments.search_architecture --out out/architecture
    python -m experiments.search_architecture --data clips --request subject:3

"original" searched on all rows and "retrained" without the forgotten ones; every
cell is cut out of its supernet and trained from new weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import metrics, nas, report
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.types import Request
from jaxunlearn.report.verdict import (
  DAMAGE,
  NOTHING,
  TELLTALE,
  TRACE,
  difference_interval,
)

from .. import bench, flags, requests
from ..bench import Case, Measure, Method, Rule, render, table
from ..bench.tune import Between
from ..datasets import expressions, splits
from ..flags import described

# Steps of the search and of training, rows a step, channels, rows in all.
SIZES = {
  "smoke": (4, 8, 8, 2, 120),
  "quick": (120, 200, 32, 8, None),
  "paper": (3000, 6000, 64, 16, None),
}
_SPACE = {
  "smoke": {"nodes": 1, "cells": ("reduce",)},
  "quick": {"nodes": 2, "cells": ("reduce",)},
  "paper": {"nodes": 4, "cells": ("normal", "reduce") * 2},
}
_ARCHITECTURE = optax.adam(0.02, b1=0.5)  # Few steps need long ones.
GAP = ("forget_accuracy", "retain_accuracy", "test_accuracy")


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Search an architecture without some rows, and compare."""

  data: Annotated[
    Literal["digits", "clips"],
    described(
      "Digits, or the way in which a digit moves, from its dynamic image."
    ),
  ] = "digits"

  order: Annotated[
    Literal["first", "second"], described("Of the architecture's gradient.")
  ] = "first"

  out: flags.Out = "out/architecture"


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """Rows, split once per seed; half of those that train validate the search."""
  steps, train_steps, batch, channels, limit = SIZES[options.preset]
  rows = expressions.load(options.data, limit)
  space = nas.Space(
    rows.num_classes, channels=channels, **_SPACE[options.preset]
  )
  made = []
  for seed in seeds:
    train, test = splits.split_rows(len(rows.x), seed, part, test_share=0.25)
    take = lambda own: {
      "x": rows.x[own], "label": rows.label[own], "subject": rows.subject[own]
    }  # fmt: skip
    fold = np.random.default_rng((seed, 2)).permutation(len(train)) % 2 == 0
    made.append(({**take(train), "fold": fold}, take(test)))
  search = ju.Fit(nas.weights_sgd(steps, 0.1), steps, batch)
  inner = 0.1 if options.order == "second" else 0.0
  recipe = search, _fit(train_steps, batch), inner
  return bench.Beds(
    *splits.per_seed(made),
    lambda shared, own: bench.Bed(space, *own, recipe=recipe),
    [train for train, _ in made],
    {"rows": len(rows.x), "edges": len(space.edges), "space": str(space)},
    model=space,
  )


def _fit(steps: int, batch: int) -> ju.Fit:
  rate = optax.cosine_decay_schedule(1e-2, steps)
  return ju.Fit(optax.adam(rate), steps, batch)


def of_share(text: str, rows: Mapping[str, Any]) -> tuple[np.ndarray, None]:
  count = max(1, round(requests.share(text) * len(rows["label"])))
  order = np.random.default_rng(7).permutation(len(rows["label"]))
  return order < count, None


def _of(column: str) -> bench.Kind:
  def rows_of(text: str, rows: Mapping[str, Any]):
    known = rows[column]
    if not text.isdecimal() or int(text) not in known:
      raise ValueError(f"Expected a {column} 0 .. {known.max()}, got {text!r}.")
    return known == int(text), None

  name = {"label": "class"}.get(column, column)
  return bench.Kind(f"{name}:NUMBER", rows_of)


def train(bed: bench.Bed, weights: Any, key: Any):
  """Search, cut out, train: all on the rows of a mask."""
  search, fit, inner = bed.recipe
  start = nas.network_model(bed.model).init(key, bed.data["x"][:1])
  method = nas.emonas(
    bed.model, search, fit, architecture=_ARCHITECTURE, inner_rate=inner
  )
  return method(start, bed.data, Request(~weights, weights), key)


def _network_only(bed: bench.Bed, setting: bench.Setting):
  steps, batch = setting["steps"], bed.recipe[1].batch_size
  fit = ju.Fit(optax.adam(setting["rate"]), steps, batch)
  return nas.tune_network(bed.model, fit)


def _search_on(bed: bench.Bed, setting: bench.Setting):
  search, fit, inner = bed.recipe
  steps = max(1, round(setting["share"] * search.num_steps))
  search = search._replace(
    num_steps=steps, optimizer=nas.weights_sgd(steps, 0.1)
  )
  return ju.chain(
    nas.darts(bed.model, search, architecture=_ARCHITECTURE, inner_rate=inner),
    nas.train_network(bed.model, fit),
  )


def _random_cell(bed: bench.Bed, setting: bench.Setting):
  draw = lambda variables, data, request, key: variables._replace(
    params={
      **variables.params,
      "architecture": nas.random_architecture(bed.model, key),
    }
  )
  return ju.chain(
    ju.edit(draw, reads="nothing", name="random"),
    nas.train_network(bed.model, bed.recipe[1]),
  )


_RETAIN = "retain rows"
METHODS = {
  "network_only": Method(
    _network_only,
    {"rate": Between(1e-4, 3e-2)},
    "The architecture stays that of all rows.",
    _RETAIN,
  ),
  "search_on": Method(
    _search_on,
    note="A fifth of the search, from where it ended.",
    access=_RETAIN,
  ),
  "random_cell": Method(
    _random_cell, note="An architecture drawn at random.", access=_RETAIN
  ),
}
SETTINGS = {
  "network_only": {"rate": 3e-3, "steps": 50},
  "search_on": {"share": 0.2},
  "random_cell": {},
}


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
  share = jnp.concatenate([*nas.mixture(ours).values()])
  gates = jnp.concatenate([*nas.discretise(space, ours).values()])
  return {
    "is_finite": all_finite((logits, share)),
    "forget_accuracy": right(case.forget),
    "retain_accuracy": right(~case.forget),
    "test_accuracy": metrics.accuracy(tested, test["label"]),
    "uf1": metrics.unweighted_f1(counts),
    "supernet_accuracy": metrics.accuracy(
      answer(supernet, test), test["label"]
    ),
    "architecture_distance": nas.architecture_distance(ours, theirs),
    "agreement": nas.agreement(space, ours, theirs),
    "entropy": -(share * jnp.log(share)).sum(axis=1).mean(),
    "skip_share": gates[:, nas.supernet.SKIP].sum() / gates.sum(),
    "table": jnp.stack([ours[kind] for kind in sorted(ours)]),
  }


def _metric(name: str, label: str, words: str, unit: str = "", **more: Any):
  return report.Metric(name, label, words, unit, 1 if unit else 3, **more)


MEASURE = Measure(
  (
    *(table.shared(n, headline=True) for n in GAP),
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
  if "random_cell" in evidence.found:
    ours = values(bench.RETRAINED, "test_accuracy")
    low, high = difference_interval(
      ours, values("random_cell", "test_accuracy")
    )
    better = "better" if low > 0 else "not shown to be better"
    said.append(
      f"The cells found are {better} than random ones on test rows: difference "
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


STUDY = bench.Study(
  name="search_architecture",
  options=Options,
  beds=beds,
  kinds={
    "class": _of("label"),
    "subject": _of("subject"),
    "random": bench.Kind("random:SHARE", of_share),
  },
  request=lambda options: (
    "class:3" if options.data == "digits" else "subject:3"
  ),
  train=train,
  methods=METHODS,
  settings=lambda options: SETTINGS,
  measures=lambda plan: [MEASURE, table.gap(GAP, "Over three accuracies.")],
  tune_request=lambda options: "random:0.1",
  seeds=lambda options: {"smoke": 2, "quick": 5, "paper": 20}[options.preset],
  unranked=("random_cell",),
  title=lambda plan: f"Searching an architecture for {plan.options.data}",
  lead=lambda plan: (
    "A cell was searched for by gradients, cut out of its supernet and trained "
    "anew: once on all rows, and again without those to be forgotten."
  ),
  panels=(render.bars(GAP, "means and deviations over seeds."),),
  findings=findings,
  extra=lambda evidence: {"architectures": architectures(evidence)},
)
