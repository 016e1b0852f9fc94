"""Any two models side by side: original, retrained, unlearned, of other seeds.

Question: where do a model that was made to forget and the retrained one differ,
by class, by row, by layer, and to an attacker? An equivalent of the Unlearning
Comparator (arXiv:2508.12730).

    python -m experiments.compare --out out/compare

trains an MLP on scikit-learn's digits, forgets class 3 with seven methods, and
writes compare.html, one file that opens offline, beside the usual report.

    python -m experiments.compare --runs out/demo,out/other

sets the models that earlier runs on the same rows have left beside them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import attacks, metrics, report
from jaxunlearn.adapters import orbax
from jaxunlearn.report.comparator import MAX_ROWS

from .. import bench, common, files, flags
from ..beds import (
  classifier_attacks,
  classifier_measures,
  classifier_methods,
  classifiers,
  models,
  recipes,
)
from ..bench import RETRAINED, Case, Evidence, Measure, Method, certify, render
from ..flags import described

SEEDS = {"smoke": 2, "quick": 4, "paper": 8}
SHADOWS = {"smoke": 4, "quick": 16, "paper": 64}
MAX_MODELS = 20
PRIVACY = report.Metric(
  "privacy_score",
  "Privacy score",
  "1 less the score of the best of four attackers who tell the model from the "
  "retrained one by a threshold on one number a forget row (arXiv:2508.12730); "
  "for two retrained models it is below 1 by chance alone.",
  "",
  2,
  report.HIGHER,
  headline=True,
)
_RECORD = jax.tree.structure(
  attacks.ModelRecord(
    *[metrics.ClassOutcomes(0, 0)] * 2,
    *[0] * 6,
    attacks.PrivacyScore(0, attacks.ThresholdCurve(*[0] * 5), 0),
  )
)
_LEAVES = tuple(f"record {i}" for i in range(_RECORD.num_leaves))


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Set models that were to forget the same rows side by side."""

  published: ClassVar[recipes.Published] = recipes.OF_COMPARATOR

  methods: Annotated[
    str, described("How to forget: all, or names with commas between.")
  ] = "finetune,gradient_ascent,random_label,salun,ssd,unsir,bad_teacher"

  rows: Annotated[
    int,
    described(
      f"How many training rows are shown one by one, at most {MAX_ROWS}; half of "
      "them of the request where it has so many.",
      "INT",
    ),
  ] = 1000

  runs: Annotated[
    str | None,
    described(
      "Folders of earlier runs with the same --data, --model and --request, with "
      "commas between: the models in their params/ join.",
      "DIR,DIR",
    ),
  ] = None

  out: flags.Out = "out/compare"


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """One split for all seeds, so that models of several share their rows."""
  if len(asks) != 1:
    raise ValueError(f"Expected --request to be one request, got {len(asks)}.")
  if not 2 <= options.rows <= MAX_ROWS:
    raise ValueError(f"Expected --rows in 2 .. {MAX_ROWS}, got {options.rows}.")
  return classifiers.beds(options, seeds, part, asks, one_split=True)


def fit(plan: bench.Plan) -> bench.Plan:
  """As for all classifiers, and with the models of earlier runs."""
  plan = classifier_methods.fit(plan)
  found: dict[str, Method] = {}
  runs = plan.options.runs
  for folder in [] if runs is None else runs.split(","):
    found |= _earlier(plan, files.checked_path(folder.strip(), "--runs"))
  methods = {**plan.study.methods, **found}
  study = dataclasses.replace(plan.study, methods=methods, single=tuple(found))
  settings = {**plan.settings, **{name: {} for name in found}}
  return plan._replace(
    study=study, methods=(*plan.methods, *found), settings=settings
  )


def _earlier(plan: bench.Plan, folder: Path) -> dict[str, Method]:
  """The models that a run has left, as methods that bring them along.

  Raises:
    ValueError: there are none, or they were asked to forget other rows.
  """
  places = sorted(p for p in (folder / "params").glob("*") if p.is_dir())
  if not places:
    raise ValueError(f"Expected --runs to have params/, got {folder}.")
  x = plan.dataset.train["x"]
  like = models.abstract_variables(plan.model, x)
  found = {}
  for place in places:
    saved = orbax.load(place, like)
    if saved.forget_mask is None:
      raise ValueError(f"Expected --runs with requests, got none in {place}.")
    mask = np.asarray(saved.forget_mask)
    if not np.array_equal(mask, plan.forget[0]):
      raise ValueError(
        f"Expected --runs of the same rows and request, got {place}, which is "
        f"of {int(mask.sum())} of {len(mask)} rows."
      )

    def build(bed, setting, variables=saved.variables):
      del bed, setting
      return lambda original, data, forget, key: (variables, None)

    note = f"taken from {folder}, version {saved.version}: {saved.config}"
    found[f"{folder.name}/{place.name}"] = Method(build, note=note)
  return found


def shown(plan: bench.Plan) -> np.ndarray:
  """Numbers of the rows that are shown, by class and evenly spread."""
  forget, label = plan.forget[0], plan.beds.sources[0].train["label"]
  taken, room = [], plan.options.rows
  for group, most in ((forget, room // 2), (~forget, room)):
    rows = np.flatnonzero(group)
    rows = rows[np.argsort(label[rows], kind="stable")]
    count = min(most, room - sum(map(len, taken)), len(rows))
    taken.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
  return np.sort(np.concatenate(taken))


def measures(plan: bench.Plan) -> list[Measure]:
  """Those of forgetting, the record of each model, and our own attacks."""
  rows = jnp.asarray(shown(plan))

  def run(case: Case) -> Mapping[str, Any]:
    record = attacks.model_record(
      case.bed.model,
      case.variables,
      (case.retrained, case.original),
      case.bed.data,
      case.bed.test,
      case.forget,
      rows,
      num_classes=case.bed.extra.num_classes,
    )
    leaves = dict(zip(_LEAVES, jax.tree.leaves(record)))
    return {"privacy_score": record.privacy.value, **leaves}

  return [
    *classifier_measures.measures(plan, classifier_attacks.RULES),
    Measure((PRIVACY,), run, _LEAVES),
    classifier_attacks.measure(
      classifier_attacks.ATTACK_RULES,
      SHADOWS[plan.options.preset],
      plan.study.single,
      plan.strategy,
    ),
  ]


def _record(evidence: Evidence, name: str, lane: int) -> attacks.ModelRecord:
  """A record; of another seed its attack is on the first retrained model too."""
  of = lambda n, i: jax.tree.unflatten(
    _RECORD, [evidence.found[n].values[leaf][i] for leaf in _LEAVES]
  )
  record = of(name, lane)
  if lane == 0:
    return record
  forget = evidence.plan.forget[0][shown(evidence.plan)]
  both = (r.signals.astype(np.float32) for r in (record, of(RETRAINED, 0)))
  privacy = jax.jit(attacks.privacy_score)(*both, forget)
  return record._replace(privacy=jax.tree.map(np.asarray, privacy))


def _rocs(evidence: Evidence, name: str, lane: int) -> dict[str, Any]:
  """LiRA's curve of this model, and U-LiRA's of all seeds of its method."""
  values = evidence.found[name].values
  forget, unseen = classifier_attacks.rows_of(evidence)
  groups = {
    "LiRA": (values["lira"][lane, forget], values["lira"][lane, unseen])
  }
  if "u_lira_members" in values:
    told = (values[f"u_lira_{side}"].ravel() for side in ("members", "others"))
    groups["U-LiRA, all seeds"] = tuple(v[np.isfinite(v)] for v in told)
  return {
    attack: attacks.roc_curve(*(jnp.asarray(v, jnp.float32) for v in both))[:2]
    for attack, both in groups.items()
    if all(np.size(v) and np.isfinite(v).all() for v in both)
  }


def compared(evidence: Evidence) -> list[report.Compared]:
  """Every method's model of the first seed, then those of others, 20 in all."""
  plan = evidence.plan
  trial = render.trial_of(evidence)
  verdicts = report.verdicts(trial)[plan.requests.names[0]]
  cards = {n: plan.study.methods[n].card_of(n) for n in plan.methods}
  depth = report.depth_table(trial, cards)
  depths = (
    {}
    if depth is None
    else {
      name: {m.heading: c.text for m, c in zip(depth.grid.metrics, cells)}
      for name, cells in depth.grid.rows
    }
  )
  lanes = [(n, 0) for n in evidence.found]
  more = [(n, s) for s in range(1, len(plan.seeds)) for n in evidence.found]
  lanes += [(n, s) for n, s in more if n not in plan.study.single]
  columns = ("retrained_gap", "lira_auc", "u_lira_auc", "seconds_run")
  found = []
  for name, lane in lanes[:MAX_MODELS]:
    if not evidence.found[name].is_finite[lane]:
      continue
    row = next(
      r
      for r in evidence.rows
      if (r["method"], r["seed"]) == (name, plan.seeds[lane])
    )
    method, told = plan.study.methods.get(name), verdicts.get(name)
    found.append(
      report.Compared(
        name if lane == 0 else f"{name}, seed {plan.seeds[lane]}",
        _record(evidence, name, lane),
        {c: row[c] for c in columns if c in row},
        {
          "Tests": told.outcome if told else "reference",
          **depths.get(name, {}),
        },
        {
          "command": certify.command(plan),
          "seed": str(plan.seeds[lane]),
          "settings": str(dict(plan.settings.get(name, {}))),
          "chosen": str(plan.origins.get(name, "by hand")),
          **({"tests": told.sentence} if told else {}),
          **(
            {"data access": method.access} if method and method.access else {}
          ),
          **({"note": method.note} if method and method.note else {}),
          **{f"version of {k}": v for k, v in common.environment().items()},
          "device": common.device(),
          "date (UTC)": certify.date(),
        },
        _rocs(evidence, name, lane),
      )
    )
  return found


def write(evidence: Evidence, path: Path) -> None:
  """The page of all models."""
  plan, rows = evidence.plan, shown(evidence.plan)
  source, forget = plan.beds.sources[0], plan.forget[0]
  x, label = np.asarray(source.train["x"]), np.asarray(source.train["label"])
  is_image = x.ndim == 4 and x.shape[-1] in (1, 3)
  images = None
  if is_image:
    images = (x[rows] - x.min()) / max(float(np.ptp(x)), 1e-9)
  gone = [c for c in np.unique(label) if forget[label == c].all()]
  report.compare(
    compared(evidence),
    report.ComparedRows(
      label[rows],
      forget[rows],
      np.asarray(source.row_id)[rows],
      images,
      {n: np.asarray(v)[rows] for n, v in source.columns.items()},
    ),
    classes=plan.dataset.class_names,
    forgotten=gone,
    layers=attacks.layer_names(plan.model, jax.tree.map(lambda v: v[:1], x)),
    title=f"Side by side: {plan.requests.names[0]} of {plan.options.data} forgotten",
    lead=lead(plan),
    definitions=bench.table.definitions(plan),
    path=path,
  )


def lead(plan: bench.Plan) -> str:
  rows = int(plan.forget[0].sum())
  return (
    f"A model ({plan.options.model}) was trained on {len(plan.forget[0])} rows of "
    f"{plan.options.data} and made to forget {rows} of them "
    f"({plan.requests.names[0]}) by {len(plan.methods)} methods. The standard is "
    "the retrained model, which never saw those rows."
  )


def findings(evidence: Evidence) -> list[str]:
  """Whom accuracy calls retrained and an attacker does not."""
  summary = report.summarise(evidence.rows).overall
  floor = summary[bench.AGAIN]["privacy_score"].mean
  aim = summary[RETRAINED]["forget_accuracy"].mean
  hidden = [
    f"{name} (forget accuracy {100 * own['forget_accuracy'].mean:.1f} %, privacy "
    f"score {own['privacy_score'].mean:.2f})"
    for name in evidence.plan.methods
    for own in [summary[name]]
    if abs(own["forget_accuracy"].mean - aim) < 0.02
    and own["privacy_score"].mean < floor / 2
  ]
  told = ", ".join(hidden) if hidden else "no method"
  return [
    f"As accurate on the forget rows as the retrained model ({100 * aim:.1f} %), "
    f"and yet told from it with less than half of the floor's privacy score "
    f"({floor:.2f}): {told}."
  ]


STUDY = bench.Study(
  name="compare",
  options=Options,
  beds=beds,
  kinds=classifiers.kinds(),
  request=lambda options: "class:3",
  spell=classifiers.spell,
  train=classifiers.train,
  keep=classifiers.keep,
  methods=classifier_methods.METHODS,
  smoke=("finetune", "unsir", "ssd"),
  settings=classifier_methods.settings_of,
  chosen=classifier_methods.CHOSEN,
  fit=fit,
  measures=measures,
  seeds=lambda options: SEEDS[options.preset],
  title=lambda plan: f"Comparing models that forget {plan.requests.names[0]}",
  lead=lead,
  notes=lambda plan: [
    *classifiers.recipe_of(plan.options).notes,
    "Side by side: compare.html. All seeds have the same rows; the attack of the "
    "Comparator is on the rows shown there.",
    "A model of another seed has the layers of the retrained model of its own "
    "seed beside it, and is attacked beside the retrained model of the first.",
  ],
  panels=(
    render.bars(
      ("forget_accuracy", "test_accuracy", "privacy_score"),
      "means and deviations over seeds; the dashed line is the retrained model.",
    ),
  ),
  findings=findings,
  files=lambda evidence: {"compare.html": functools.partial(write, evidence)},
)
