"""Audit a model that is said to have forgotten a request.

Question: can what was forgotten still be found in the model, or brought back?
Attacks: LiRA (arXiv:2112.03570), RMIA (arXiv:2312.03262), U-LiRA
(arXiv:2403.01218) and the forgetting quality of the 2023 unlearning challenge,
relearning time and Anamnesis Index (arXiv:2201.05629), quantisation
(arXiv:2410.16454), linear probes.

    python -m experiments.audit --preset quick --out out/audit

trains MLPs on scikit-learn's digits, makes them forget class 3 in several ways,
attacks what comes out, and writes results.json, table.md, plots/ and report.html
with a verdict for each method. It takes two to three minutes on two CPU cores.

    python -m experiments.audit --checkpoint DIR --request index:rows.txt ...

attacks a model of your own beside models that are trained and retrained here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import attacks, report
from jaxunlearn.report import verdict as verdicts
from jaxunlearn.report.tables import Cell, Grid

from .. import bench, flags
from ..beds import (
  classifier_attacks,
  classifier_measures,
  classifier_methods,
  classifiers,
)
from ..bench import RETRAINED, Evidence, Measure, Method, table
from ..flags import described

SEEDS = {
  "smoke": {"digits": 4, "other": 4},
  "quick": {"digits": 16, "other": 4},
  "paper": {"digits": 64, "other": 16},
}
SHADOWS = {"smoke": 8, "quick": 64, "paper": 256}
MIN_SHADOWS = 4
GIVEN = "given"


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Attack a model that is said to have forgotten part of its training data."""

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint of the model to audit, unlearned by whatever means or "
      "merely trained; it is named given in the report. Without it only models "
      "that are trained and unlearned here are attacked.",
      "DIR",
    ),
  ] = None

  request: Annotated[
    str | None,
    described(
      "What is said to be forgotten, one request: class:3,5 (all rows of these "
      "classes), random:0.1 (a tenth of the rows), index:FILE (a row number a "
      "line, or an .npy of numbers or of bools), or group:COLUMN=VALUE; class:3 "
      "by default.",
      "TEXT",
    ),
  ] = None

  methods: Annotated[
    str,
    described(
      "Unlearning methods to audit as well, as in unsir,bad_teacher, or all. "
      "The model that is retrained again shows what an honest one looks like."
    ),
  ] = "finetune,gradient_ascent,unsir,salun,ssd_adaptive"

  seeds: Annotated[
    int | None,
    described(
      "How many models of each kind to train and to attack; the preset's number "
      "by default. U-LiRA wants four at least.",
      "INT",
    ),
  ] = None

  shadows: Annotated[
    int | None,
    described(
      "Shadow models for LiRA and RMIA; the preset's number by default.", "INT"
    ),
  ] = None

  out: flags.Out = "out/audit"


def num_shadows(options: Options) -> int:
  if options.shadows is not None and options.shadows < MIN_SHADOWS:
    raise ValueError(
      f"Expected --shadows >= {MIN_SHADOWS}, got {options.shadows}."
    )
  return options.shadows or SHADOWS[options.preset]


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """One split for all seeds: the audit is of one request to one data set."""
  num_shadows(options)
  if len(seeds) == 1:
    raise ValueError(
      "Expected --seeds >= 2, since differences need a spread, got 1."
    )
  if len(asks) != 1:
    raise ValueError(
      f"Expected --request to be one request, got {len(asks)} "
      f"({options.request!r})."
    )
  made = classifiers.beds(options, seeds, part, asks, one_split=True)
  # The model that was given is a method here; originals are trained as well.
  facts = {**made.facts, "has_given": made.given is not None}
  return made._replace(given=None, facts=facts)


def fit(plan: bench.Plan) -> bench.Plan:
  """As for all classifiers; a model that was given comes first."""
  plan = classifier_methods.fit(plan)
  if not plan.beds.facts["has_given"]:
    return plan._replace(methods=tuple(m for m in plan.methods if m != GIVEN))
  methods = (GIVEN, *(m for m in plan.methods if m != GIVEN))
  return plan._replace(
    methods=methods, settings={**plan.settings, GIVEN: {"of": plan.options}}
  )


def _given(bed: bench.Bed, setting: bench.Setting):
  del bed
  variables = classifiers.setup_of(setting["of"]).given
  return lambda original, data, forget, key: (
    jax.tree.map(jnp.asarray, variables),
    None,
  )


def measures(plan: bench.Plan) -> list[Measure]:
  """Accuracies and relearning as in the study of forgetting, and attacks."""
  return [
    *classifier_measures.measures(plan, classifier_attacks.RULES),
    classifier_attacks.measure(
      classifier_attacks.ATTACK_RULES,
      num_shadows(plan.options),
      (GIVEN,),
      plan.strategy,
    ),
  ]


def intervals(evidence: Evidence) -> list[report.Comparison]:
  """AUCs with their intervals."""
  columns, plan = ("lira_auc", "u_lira_auc"), evidence.plan
  bootstrap = jax.jit(
    functools.partial(
      attacks.bootstrap, statistic=attacks.auc, resample_rows=True
    )
  )
  forget, unseen = classifier_attacks.rows_of(evidence)
  rows = []
  for name, found in evidence.found.items():
    lira = _finite_seeds(_own(name, found.values["lira"]))[0]
    groups = [lira[:, part].astype(np.float32) for part in (forget, unseen)]
    texts = ["", ""]
    if len(lira) == 1:
      groups = [group[0] for group in groups]
    if len(lira):
      interval = bootstrap(jax.random.key(0), *groups)
      texts[0] = _interval_text(*map(float, interval))
    told = found.values.get("u_lira_auc")
    if told is not None and name != RETRAINED and np.isfinite(told).any():
      ends = verdicts.difference_interval(told, np.zeros(len(told)))
      texts[1] = _interval_text(float(np.nanmean(told)), *ends)
    rows.append((name, tuple(Cell(text) for text in texts)))
  known = table.definitions(plan)
  heads = tuple(report.describe(name, known) for name in columns)
  return [
    report.Comparison(
      "Membership attacks, 95 % intervals",
      "LiRA asks whether a row was trained on: bootstrap over models and rows, "
      "so that it holds for other rows of the kind. U-LiRA asks whether a model "
      "was unlearned or retrained, from these very rows: t interval over seeds. "
      "0.5 is to guess.",
      Grid(heads, tuple(rows), False),
    )
  ]


def figures(evidence: Evidence) -> dict[str, tuple[Any, str]]:
  """ROC curves, scores, and relearning."""
  forget, unseen = classifier_attacks.rows_of(evidence)
  train = len(evidence.plan.forget[0])
  retain = np.flatnonzero(~evidence.plan.forget[0])
  values = {name: found.values for name, found in evidence.found.items()}
  curve = lambda members, others: attacks.roc_curve(
    jnp.asarray(members, jnp.float32), jnp.asarray(others, jnp.float32)
  )[:2]
  lira = {
    name: [
      curve(row[forget], row[unseen])
      for row in _finite_seeds(_own(name, found["lira"]))[0]
    ]
    for name, found in values.items()
  }
  shown = {
    "roc_lira": (
      report.roc_curves(lira),
      "LiRA: forgotten rows that are found (up) against unseen rows taken for "
      "members (right), a band of seeds for each model. The dashed line is the "
      "retrained model, which never saw the rows; the diagonal is to guess.",
    )
  }
  told = {
    name: _finite_seeds(found["u_lira_members"], found["u_lira_others"])
    for name, found in values.items()
    if "u_lira_members" in found
  }
  if told:
    pooled = {
      name: [curve(*(scores.ravel() for scores in both))]
      for name, both in told.items()
    }
    shown["roc_u_lira"] = (
      report.roc_curves(pooled),
      "U-LiRA: unlearned models that are told by one forgotten row (up) against "
      "retrained models taken for unlearned ones (right), all seeds and rows "
      "together.",
    )
  shown["scores"] = (
    report.score_histograms(
      {
        name: {
          "forget": found["statistics"][:, forget],
          "retain": found["statistics"][:, :train][:, retain],
          "unseen": found["statistics"][:, unseen],
        }
        for name, found in values.items()
      },
      x_label="logit-scaled confidence",
    ),
    "How sure each model is of the label, for forgotten rows, rows kept and "
    "rows never seen. Where it forgot, forgotten and unseen rows look alike, as "
    "they do in the retrained model.",
  )
  curves = {name: found["relearn_curve"] for name, found in values.items()}
  shown["relearning"] = (
    report.curves(
      np.arange(next(iter(curves.values())).shape[1]),
      curves,
      x_label="training steps",
      y_label="knowledge of the rows",
    ),
    "What each model knows of the forgotten rows while it is trained on all rows "
    "again. A model that forgot learns as slowly as the retrained one.",
  )
  return shown


def _own(name: str, values: np.ndarray) -> np.ndarray:
  return values[:1] if name == GIVEN else values


def _finite_seeds(*groups: np.ndarray) -> list[np.ndarray]:
  """Groups [L, ...] without the seeds of which a number is not finite."""
  kept = np.logical_and.reduce([np.isfinite(g).all(axis=1) for g in groups])
  return [group[kept] for group in groups]


def _interval_text(estimate: float, low: float, high: float) -> str:
  return f"{estimate:.3f} ({low:.3f} to {high:.3f})"


def lead(plan: bench.Plan) -> str:
  options, rows = plan.options, int(plan.forget[0].sum())
  given = (
    f" The model of {options.checkpoint} was attacked beside them."
    if plan.beds.facts["has_given"]
    else ""
  )
  return (
    f"{len(plan.seeds)} models ({options.model}) were trained on "
    f"{len(plan.forget[0])} rows of {options.data}, of which {rows} "
    f"({plan.requests.names[0]}) were then to be forgotten; as many were "
    f"retrained without these rows, and {num_shadows(options)} shadow models were "
    f"trained on random parts of the data to attack with.{given}\n\n"
    "Each number is compared with that of the retrained models. A difference "
    "counts if its 95 % interval lies beyond a margin, it is excluded if the "
    "interval lies within, and otherwise the test was too weak to tell. The "
    "original model, which forgot nothing, must be found out, and the control "
    "retrained_again, with other random numbers, must pass; if not, the tests "
    "say little about the others."
  )


def notes(plan: bench.Plan) -> list[str]:
  found = [
    "What the verdict does not prove: that nothing is left. It speaks of the "
    "attacks that were run, on the models that were trained, with the margins "
    "below; a stronger attack may find more. Copies, logs and models derived "
    "from the original one are not looked at.",
    "Each test of a model stands by itself at 95 %, and there are several: with "
    "few seeds one of them may find by chance what is not there. How often that "
    "happens, the control retrained_again shows.",
    "All seeds have the same rows, so that U-LiRA sees every forgotten row in "
    "many models; seeds repeat the training.",
    "Relearning: Adam, rate 0.001, on batches of all training rows, "
    f"{classifier_measures.relearn_limit(plan)} steps.",
    "LiRA and RMIA: forgotten rows against unseen ones, by shadow models that "
    "were trained on random parts of training and test rows, as large a part as "
    "the training rows are; one variance for all rows. RMIA's population are "
    "rows that no model was trained on.",
    "U-LiRA: for each forgotten row two normal distributions are fitted to the "
    "models of every other seed, unlearned and retrained, and tried on the other "
    f"seeds. It wants {classifier_attacks.MIN_MODELS} models a method that did not "
    "diverge.",
  ]
  if plan.beds.facts["has_given"]:
    found.append(
      "The model that was given is one model: it is compared with the spread of "
      "single retrained models, trained by the recipe in the configuration, "
      "which may not be its own, and U-LiRA, which wants many models made in the "
      "same way, is left out."
    )
  return found


STUDY = bench.Study(
  name="audit",
  options=Options,
  beds=beds,
  kinds=classifiers.kinds(),
  request=lambda options: "class:3",
  spell=classifiers.spell,
  train=classifiers.train,
  keep=classifiers.keep,
  methods={
    **classifier_methods.METHODS,
    GIVEN: Method(_given, access="unknown: it was made elsewhere"),
  },
  groups={"all": tuple(classifier_methods.METHODS)},
  smoke=("finetune", "unsir"),
  settings=classifier_methods.settings_of,
  chosen=classifier_methods.CHOSEN,
  fit=fit,
  single=(GIVEN,),
  measures=measures,
  seeds=lambda options: SEEDS[options.preset].get(
    options.data, SEEDS[options.preset]["other"]
  ),
  title=lambda plan: (
    f"Audit: was {plan.requests.names[0]} of {plan.options.data} forgotten?"
  ),
  lead=lead,
  notes=notes,
  panels=(figures,),
  comparisons=intervals,
  findings=lambda evidence: list(evidence.plan.notes),
)
