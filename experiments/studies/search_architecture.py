"""Does forgetting change the architecture that a search finds?

Question: an architecture that was searched for depends on the rows it was searched
on. To forget some of them exactly, the search has to be run again; is what it
finds then another one, beyond what two searches with other random numbers differ
by? And does the search find better cells than chance?

    python -m experiments.search_architecture --out out/architecture
    python -m experiments.search_architecture --data clips --request subject:3

Every cell is cut out of its supernet and trained from new weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import nas
from jaxunlearn.core.types import Request

from .. import bench, flags, requests
from ..bench import Method, render, table
from ..bench.tune import Between
from ..datasets import expressions, splits
from ..flags import described
from .search_architecture_view import GAP, MEASURE, architectures, findings

# Steps of the search and of training, rows a step, channels, rows in all.
SIZES = {
  "smoke": (4, 8, 8, 2, 120),
  "quick": (300, 1000, 32, 8, None),
  "paper": (3000, 6000, 64, 16, None),
}
_SPACE = {
  "smoke": {"nodes": 1, "cells": ("reduce",)},
  "quick": {"nodes": 2, "cells": ("reduce",)},
  "paper": {"nodes": 4, "cells": ("normal", "reduce") * 2},
}
_ARCHITECTURE = optax.adam(0.02, b1=0.5)  # Few steps need long ones.
RATE = 2e-2  # Of training; at half of it 800 steps are too few for some cells.


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
  rate = optax.cosine_decay_schedule(RATE, train_steps)
  recipe = search, ju.Fit(optax.adam(rate), train_steps, batch), inner
  return bench.Beds(
    *splits.per_seed(made),
    lambda shared, own: bench.Bed(space, *own, recipe=recipe),
    [train for train, _ in made],
    {"rows": len(rows.x), "edges": len(space.edges), "space": str(space)},
    model=space,
  )


def of_share(text: str, rows: Mapping[str, Any]) -> tuple[np.ndarray, None]:
  count = requests.rows_of_share(text, len(rows["label"]))
  order = np.random.default_rng(7).permutation(len(rows["label"]))
  return order < count, None


def _of(column: str) -> bench.Kind:
  def rows_of(text: str, rows: Mapping[str, Any]):
    return requests.rows_numbered(rows[column], text, f"a {column}"), None

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
  fit = bed.recipe[1]._replace(
    optimizer=optax.adam(setting["rate"]), num_steps=setting["steps"]
  )
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
  "search_on": Method(_search_on, note="It goes on.", access=_RETAIN),
  "random_cell": Method(_random_cell, access=_RETAIN),
}
SETTINGS = {
  "network_only": {"rate": 3e-3, "steps": 50},
  "search_on": {"share": 0.2},
  "random_cell": {},
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
