"""Forget a request with one or several methods, and see whether it worked.

Question: how near does each method come to a model that never saw the rows?
Methods: UNSIR (arXiv:2111.08947), Bad Teacher (arXiv:2205.08096), and baselines.

    python -m experiments.forget --preset quick --out out/demo

trains an MLP on scikit-learn's digits, forgets class 3 with six methods, and
writes results.json, table.md, plots/, params/ and report.html. It takes one to
two minutes on two CPU cores, most of it compilation, and less the second time.

    python -m experiments.forget --request each-class --sequence

forgets class 0, then class 1, then class 2, and so on, each method going on from
what it made of the model before, and shows how it drifts from retraining.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np

from .. import bench, flags
from ..beds import (
  classifier_measures,
  classifier_methods,
  classifiers,
)
from ..beds.classifier_methods import METHODS, USUAL
from ..datasets.classes import class_word
from ..flags import described
from ..requests import parts_of
from . import forget_view

SEEDS = {
  "smoke": {"digits": 2, "other": 2},
  "quick": {"digits": 5, "other": 2},
  "paper": {"digits": 10, "other": 5},
}


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Forget part of the training data, and compare with retraining without it."""

  methods: Annotated[
    str,
    described(
      "How to forget: usual (" + ", ".join(USUAL) + "), all, or names as in "
      "unsir,bad_teacher,finetune."
    ),
  ] = "usual"

  sequence: Annotated[
    bool,
    described(
      "Serve the requests one after the other, each by what the one before left "
      "of the model and of the rows, and see how far every method drifts from "
      "retraining. Wants several requests; each-class leaves the last class, so "
      "that something is left to keep."
    ),
  ] = False

  exact: Annotated[
    bool,
    described(
      "Serve deletions one by one by systems that forget exactly; the other "
      "flags are then those of experiments.forget_exact."
    ),
  ] = False

  out: flags.Out = "out/forget"


def tune_request(options: Options) -> str:
  """Requests of the same kinds as those asked for, and none of them.

  Pairs of classes for classes, and a larger random part for all else.
  """
  text = classifiers.spell(options, options.request or "class:3")
  dataset = classifiers.setup_of(options).dataset
  known = [class_word(dataset, c) for c in np.unique(dataset.train["label"])]
  kinds = {part.partition(":")[0].strip() for part in parts_of(text)}
  found = []
  if "class" in kinds and len(known) > 3:
    asked = {part.partition(":")[2].strip() for part in parts_of(text)}
    pairs = [f"{a},{b}" for a, b in zip(known, known[len(known) // 2 :])]
    found += [f"class:{p}" for p in pairs if p not in asked][:4]
  if kinds - {"class"} or not found:
    found.append("random:0.2" if "random:0.2" not in text else "random:0.15")
  return ";".join(found)


STUDY = bench.Study(
  name="forget",
  options=Options,
  beds=classifiers.beds,
  kinds=classifiers.kinds(),
  request=lambda options: "class:3",
  spell=classifiers.spell,
  train=classifiers.train,
  keep=classifiers.keep,
  methods=METHODS,
  groups={"usual": USUAL},
  settings=classifier_methods.settings_of,
  chosen=classifier_methods.CHOSEN,
  fit=classifier_methods.fit,
  measures=classifier_measures.measures,
  seeds=lambda options: SEEDS[options.preset].get(
    options.data, SEEDS[options.preset]["other"]
  ),
  tune_request=tune_request,
  title=forget_view.title,
  lead=forget_view.lead,
  notes=forget_view.notes,
  panels=forget_view.PANELS,
  findings=forget_view.findings,
  comparisons=forget_view.salun,
)
