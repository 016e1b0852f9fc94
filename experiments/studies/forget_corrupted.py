"""Can a model be cured when only some of the bad rows are known?

Question: corrective unlearning (arXiv:2402.14015). Somebody tampered with
training rows; a share of them is found out and is to be forgotten. The harm of
all of them should go, so that training again without the known ones is no
longer the answer. Which methods cure from how small a share?

    python -m experiments.forget_corrupted --out out/corrupted

poisons a tenth of scikit-learn's digits by a patch that stands for class 0;

    python -m experiments.forget_corrupted --damage swap --out out/swapped

exchanges the labels of 45 % of two classes, 3 and 8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import metrics, report
from jaxunlearn.methods.ssd import importance

from .. import bench, flags
from ..beds import classifier_methods, classifiers, recipes
from ..bench import Bed, Case, Evidence, Kind, Measure, Method
from ..datasets import classes, corrupted
from ..files import short
from ..flags import described
from ..requests import Ask

CLEAN = "clean"  # Trained without any bad row, known or not.
NAMES = ("finetune", "ssd", "scrub", "bad_teacher", "salun", "laf")
SHARES = ("0.1", "0.3", "0.5", "0.8", "1")
POISONED, SWAPPED, PAIR = 0.1, 0.45, "3,8"
# Of SSD: alpha in units of `_dampen`, and lambda over alpha.
SSD_GRID = {
  "alpha": (0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0, 1e3),
  "ratio": (0.1, 0.2, 0.5, 1.0, 5.0, 10.0),
}
SEEDS = {"smoke": 2, "quick": 5, "paper": 10}
CORRECTED, KEPT = "corrected_accuracy", "clean_accuracy"
SCORE = "selection_score"


_COLUMNS = (
  (
    CORRECTED,
    "Corrected accuracy",
    "Share of test rows that the damage acts on (images with the patch, or of the "
    "two classes) whose true class is told. What clean training has is the aim.",
    report.HIGHER,
    True,
  ),
  (
    KEPT,
    "Clean accuracy",
    "Share of right answers on test rows that the damage does not act on.",
    report.HIGHER,
    True,
  ),
  (
    "damaged_accuracy",
    "On the bad rows",
    "Share of all bad training rows, known or not, whose true class is told.",
    report.HIGHER,
    False,
  ),
  (
    "believed",
    "Bad labels believed",
    "Share of the known bad rows that still get the label they were given.",
    report.LOWER,
    False,
  ),
  (
    SCORE,
    "Score to choose by",
    "Mean of the bad labels believed and of the error on untouched test rows: "
    "what can be measured without knowing the other bad rows.",
    report.LOWER,
    False,
  ),
)


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Forget bad rows of which only a share is known, and see what is cured."""

  published: ClassVar[recipes.Published] = recipes.OF_CORRECTIVE

  request: Annotated[
    str | None,
    described(
      "The shares of the bad rows that are known, each a request: "
      "'identified:0.1;identified:1'; five from a tenth to all by default.",
      "TEXT",
    ),
  ] = None

  methods: Annotated[
    str, described("How to forget: all, or names as in ssd,scrub.")
  ] = "all"

  damage: Annotated[
    Literal["patch", "swap"],
    described(
      "What was done to rows: patch (a bright corner, labelled 0) or swap (two "
      "classes exchanged)."
    ),
  ] = "patch"

  swap: Annotated[
    str, described("The two classes that --damage swap exchanges.", "A,B")
  ] = PAIR

  out: flags.Out = "out/corrupted"


def pair_of(options: Options) -> tuple[int, int]:
  try:
    first, second = map(int, options.swap.split(","))
  except ValueError:
    raise ValueError(
      f"Expected --swap A,B, two classes, got {short(options.swap)!r}."
    ) from None
  return first, second


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Ask]
) -> bench.Beds:
  """Rows as `classifiers.beds` divides them, then tampered with."""
  dataset, model, given = classifiers.setup_of(options)
  recipe = classifiers.recipe_of(options)
  if given is not None:
    raise ValueError(
      "Expected no --checkpoint, since the bad rows have to be trained on, got "
      "one."
    )

  def damage(seed: int) -> corrupted.Corrupted:
    split = classes.split(dataset, seed, part)
    if options.damage == "patch":
      return corrupted.poison(split, seed, POISONED)
    return corrupted.swap(split, seed, SWAPPED, pair_of(options))

  found = [damage(seed) for seed in seeds]
  arrays = [(rows.train, rows.test, rows.aside, rows.truth) for rows in found]

  def make(shared: Any, own: Any) -> Bed:
    train, test, aside, truth = own
    extra = classifiers.Extra(dataset.num_classes, {**aside, "truth": truth})
    return Bed(model, train, test, recipe, extra)

  return bench.Beds(
    (),
    jax.tree.map(lambda *leaves: np.stack(leaves), *arrays),
    make,
    found,
    {
      "recipe": recipe._asdict(),
      "train_rows": len(found[0].truth),
      "test_rows": len(found[0].test["label"]),
      "bad_rows": int(found[0].damaged.sum()),
      "aside_rows": len(found[0].aside["label"]),
    },
    dataset=dataset,
    model=model,
  )


def _clean(bed: Bed, setting: bench.Setting):
  """What everybody would like to have: trained on what nobody touched."""

  def method(variables: Any, data: Any, forget: Any, key: jax.Array):
    return classifiers.train(bed, ~bed.marks, key)

  return method


def _dampen(bed: Bed, data: Any, forget: Any, variables: Any):
  """SSD with the importances of the kept rows alone, as in the source.

  Of all rows they have a share of the known rows' own, and no weight stands out
  more than these are few. Both numbers are in units of how much the known rows'
  importances sum to, over the others': squared gradients fall with the squared
  loss, which of a few learned rows is by chance a thousand times one or another.
  """
  own, rest = (
    importance(bed.model, variables, data, rows) for rows in (forget, ~forget)
  )
  unit = optax.tree.sum(own) / optax.tree.sum(rest)

  def edit(alpha: Any, dampening: Any, key: jax.Array):
    numbers = {"alpha": alpha * unit, "dampening": dampening * unit}
    ssd = ju.methods.ssd(bed.model, importance_full=rest, **numbers)
    return ssd(variables, data, forget, key)

  return edit


def _ssd_default(bed: Bed, s: bench.Setting):
  """SSD with one setting for all requests, as every other method has."""

  def method(variables: Any, data: Any, forget: Any, key: jax.Array):
    edit = _dampen(bed, data, forget, variables)
    return edit(s["alpha"], s["dampening"], key)

  return method


def _ssd(bed: Bed, setting: bench.Setting):
  """SSD with the best of `SSD_GRID` for the request, as the source chooses it.

  By bad labels believed on the known rows, and by accuracy on rows set aside:
  the importances are the same for all, and so the choice costs little.
  """
  alpha, ratio = jnp.meshgrid(*map(jnp.asarray, SSD_GRID.values()))
  aside = bed.extra.aside

  def method(variables: Any, data: Any, forget: Any, key: jax.Array):
    edit = _dampen(bed, data, forget, variables)

    def one(alpha: jax.Array, ratio: jax.Array):
      made, _ = edit(alpha, alpha * ratio, key)
      own = ju.predict(bed.model, made, data["x"])
      kept = ju.predict(bed.model, made, aside["x"])
      believed = metrics.accuracy(own, data["label"], forget)
      return made, believed - metrics.accuracy(kept, aside["label"])

    made, score = jax.vmap(one)(alpha.ravel(), ratio.ravel())
    best = jnp.argmin(jnp.where(jnp.isnan(score), jnp.inf, score))
    return jax.tree.map(lambda leaf: leaf[best], made), score[best]

  return method


METHODS = {
  CLEAN: Method(_clean, note="is trained without any bad row, known or not."),
  **{name: classifier_methods.METHODS[name] for name in NAMES},
  "ssd": Method(
    _ssd,
    access="forget and retain rows, clean rows set aside",
    note="chooses its two numbers for each request, by the known rows and by "
    "rows that are neither trained nor tested on.",
  ),
  "ssd_default": Method(
    _ssd_default,
    classifier_methods.METHODS["ssd"].space,
    access=classifier_methods.METHODS["ssd"].access,
    note="has one setting for all requests, as the other methods have.",
  ),
}


def settings_of(options: Options) -> dict[str, bench.Setting]:
  settings = classifier_methods.settings_of(options)
  known = {name: settings[name] for name in NAMES}
  return {CLEAN: {}, **known, "ssd": {}, "ssd_default": settings["ssd"]}


def measures(plan: bench.Plan) -> list[Measure]:
  """Accuracies by true labels, and what somebody could choose settings by."""

  def run(case: Case) -> dict[str, Any]:
    bed, test = case.bed, case.bed.test
    logits = ju.predict(bed.model, case.variables, test["x"])
    touched = ju.predict(bed.model, case.variables, test["touched"])
    own = ju.predict(bed.model, case.variables, bed.data["x"])
    right = metrics.accuracy
    believed = right(own, bed.data["label"], case.forget)
    clean = right(logits, test["label"], test["spared"])
    return {
      "is_finite": jnp.isfinite(logits).all() & jnp.isfinite(own).all(),
      CORRECTED: right(touched, test["label"], test["affected"]),
      KEPT: clean,
      "damaged_accuracy": right(own, bed.extra.aside["truth"], case.marks),
      "believed": believed,
      SCORE: (believed + 1 - right(logits, test["label"])) / 2,
    }

  columns = (
    report.Metric(name, label, definition, "%", 1, direction, headline=headline)
    for name, label, definition, direction, headline in _COLUMNS
  )
  return [Measure((*columns,), run)]


def shares_of(plan: bench.Plan) -> np.ndarray:
  return np.array(
    [float(name.partition(":")[2]) for name in plan.requests.names]
  )


def by_share(evidence: Evidence, name: str, column: str) -> np.ndarray:
  """A column [S, R], the shares in rising order."""
  plan = evidence.plan
  table = evidence.found[name].values[column].reshape(-1, len(plan.seeds))
  return table[np.argsort(shares_of(plan))].T


def curves(evidence: Evidence) -> dict[str, tuple[Any, str]]:
  """Both accuracies over the share that is known."""
  panels = {
    f"{heading} (%)": {
      name: 100 * by_share(evidence, name, column) for name in evidence.found
    }
    for heading, column in (
      ("Corrected accuracy", CORRECTED),
      ("Clean accuracy", KEPT),
    )
  }
  at = 100 * np.sort(shares_of(evidence.plan))
  return {
    "shares": (
      report.curve_panels(at, panels, x_label="bad rows known (%)"),
      "On the left what is cured, on the right what that costs, over the share "
      "of the bad rows that is known. Lines are means over seeds, bands go from "
      "the lowest to the highest.",
    )
  }


def findings(evidence: Evidence) -> list[str]:
  """From how small a share each method comes within 10 points of clean training."""
  if CLEAN not in evidence.found:
    return []
  at = np.sort(shares_of(evidence.plan))
  aim = by_share(evidence, CLEAN, CORRECTED).mean(axis=0)
  found = []
  for name in evidence.found:
    if name == CLEAN:
      continue
    cured = by_share(evidence, name, CORRECTED).mean(axis=0)
    near = cured >= aim - 0.1
    # From there on for every larger share too.
    from_here = np.logical_and.accumulate(near[::-1])[::-1]
    if from_here.any():
      least = at[from_here.argmax()]
      text = f"is within 10 points of it from {100 * least:.0f} % known on"
    else:
      text = f"never comes within 10 points of it ({100 * cured.max():.1f} %)"
    found.append(f"{name} {text}.")
  head = (
    f"Corrected accuracy of clean training: {100 * aim.mean():.1f} %. "
    "In the mean over seeds, "
  )
  return [head + found[0], *found[1:]] if found else []


def notes(plan: bench.Plan) -> list[str]:
  """Of the data, and that SSD is given more than the others are."""
  if "ssd" not in plan.methods:
    return list(plan.dataset.notes)
  count = np.prod([len(values) for values in SSD_GRID.values()])
  return [
    *plan.dataset.notes,
    *classifiers.recipe_of(plan.options).notes,
    f"ssd takes, for every request anew, the best of {count} settings by the "
    f"known rows and {plan.beds.facts['aside_rows']} clean rows set aside, as its "
    "source does; every other method has one setting for all requests and sees "
    "none of these rows. ssd_default is SSD without that choice.",
  ]


def tune_request(options: Options) -> str:
  """Shares a tenth smaller than those that are asked for."""
  text = options.request or STUDY.request(options)
  asked = [part.partition(":")[2] for part in text.split(";")]
  return ";".join(f"identified:{0.9 * float(share):g}" for share in asked)


STUDY = bench.Study(
  name="forget_corrupted",
  options=Options,
  beds=beds,
  kinds={"identified": Kind("identified:SHARE", corrupted.mask)},
  request=lambda options: ";".join(f"identified:{s}" for s in SHARES),
  train=classifiers.train,
  methods=METHODS,
  smoke=("clean", "finetune", "ssd", "ssd_default"),
  unanswered=(
    "This page cannot say: rows were bad, and only some of them are known; it "
    "asks whether the harm that they did is cured, and looks for no traces."
  ),
  settings=settings_of,
  measures=measures,
  unranked=(CLEAN,),
  gap=SCORE,
  is_gap=False,
  seeds=lambda options: SEEDS[options.preset],
  tune_request=tune_request,
  title=lambda plan: (
    f"Curing {plan.options.data} of "
    + (
      "a poisoned patch"
      if plan.options.damage == "patch"
      else "swapped classes"
    )
  ),
  lead=lambda plan: (
    f"Of {plan.beds.facts['train_rows']} training rows somebody tampered with "
    f"{plan.beds.facts['bad_rows']}. A share of these is known and forgotten; "
    "the others stay among the rows to keep, and every method may train on "
    "them. Retraining is without the known rows only, and so no longer what is "
    "aimed at: that is clean training, without any bad row."
  ),
  notes=notes,
  panels=(curves,),
  findings=findings,
)
