"""Can a regression model forget a range of its target, or a group?

Question: deep regression unlearning (arXiv:2210.08196) wants the predictions on
what is forgotten to be those of a model that never saw it, and the others to
stay. How near do its two methods, blindspot and Gaussian amnesiac, come, beside
fine-tuning and gradient ascent?

    python -m experiments.forget_regression --out out/regression

forgets the patients with the least progression in scikit-learn's diabetes;

    python -m experiments.forget_regression --data california --data-dir DIR
    python -m experiments.forget_regression --data etth1 --data-dir DIR

the cheapest fifth of the districts of California, and then those inland; the
coldest fifth of a transformer's year, and then two months of it (forecasting
with a recurrent network);

    python -m experiments.forget_regression --data csv:sales.csv \\
      --request group:customer=4711

what one customer's rows taught a model of the user's own table.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import metrics, report
from jaxunlearn.attacks import anamnesis
from jaxunlearn.attacks.regression import regression_attack
from jaxunlearn.core import keys
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.losses.regression import on_targets
from jaxunlearn.methods.blindspot import blindspot
from jaxunlearn.methods.gaussian_amnesiac import gaussian_amnesiac
from jaxunlearn.metrics import regression
from jaxunlearn.report.taxonomy import WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, TELLTALE, TRACE

from .. import bench, flags
from ..beds import models
from ..bench import Case, Measure, Method, Rule, cautions, render, table
from ..bench.tune import Between
from ..datasets import regression as tables
from ..flags import described

REQUESTS = {
  "diabetes": "range:..90",
  "california": "lowest:0.2;group:ocean_proximity=INLAND",
  "etth1": "lowest:0.2;time:0.4..0.55",
}
# What the gap to retraining is a mean over.
ERRORS = ("forget_mae", "forget_test_mae", "retain_mae", "retain_test_mae")
BARS = ("forget_test_mae", "retain_test_mae", "wasserstein", "membership_share")
MARGIN = 0.05  # Of the relearn target, as in the source.
_SMOKE_ROWS = 240
_PARTS = {
  "forget": ("forget", "training rows to be forgotten"),
  "retain": ("retain", "training rows to be kept"),
  "forget_test": ("test, forgotten kind", "test rows of the forgotten kind"),
  "retain_test": ("test, kept kind", "test rows of the kind that is kept"),
  "test": ("test", "all test rows"),
}


@dataclasses.dataclass(frozen=True)
class Options(bench.TrainingOptions):
  """Forget a range of the target, a group or a time in regression."""

  data: Annotated[
    str,
    described(
      "Table: diabetes (ships with scikit-learn), california (houses, by "
      "district), etth1 (oil temperature, a day ahead), npz:PATH, a file with x "
      "[N, ...] and numbers y [N], perhaps x_test and y_test, any further array "
      "[N] being a column for requests, or csv:PATH or parquet:PATH, a table "
      "with a header and a column y, label or target."
    ),
  ] = "diabetes"

  model: Annotated[
    str | None,
    described(
      "package.module:factory, a function of yours that returns a Flax linen "
      "module or, given nnx.Rngs, an nnx module, of one number a row, [B, 1]; by "
      "default a network that suits the data.",
      "STR",
    ),
  ] = None

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint with the trained values of your --model, which takes x "
      "and y of npz:PATH as they are there; without it the model is trained here "
      "first, on standardised numbers.",
      "DIR",
    ),
  ] = None

  request: Annotated[
    str | None,
    described(
      "What to forget: lowest:SHARE or highest:SHARE of the targets, "
      "range:LOW..HIGH of them (an end may be missing), group:COLUMN=VALUE, "
      "index:FILE (rows of the table, from 0 on), "
      "time:FROM..TO as shares of the record (etth1); several with semicolons "
      "between. By default one or two that suit the data.",
      "TEXT",
    ),
  ] = None

  loss: Annotated[
    Literal["l1", "l2"],
    described("What all models minimise: absolute or squared error."),
  ] = "l1"

  out: flags.Out = "out/regression"


class Recipe(NamedTuple):
  """Of training and retraining; Adam throughout.

  Attributes:
    rate: at the start; falls to 0 with a cosine.
    steps: of it.
    batch_size: rows a step of everything.
    relearn_steps: limit of the relearning attack, at `rate` as in the source.
    relearn_rows: test rows of the forgotten kind that it is watched on, at most.
    loss: "l1" or "l2".
    layers: whose attention blindspot compares.
  """

  rate: float
  steps: int
  batch_size: int
  relearn_steps: int
  relearn_rows: int
  loss: str = "l1"
  layers: tuple[str, ...] = ()


RECIPES = {
  "diabetes": Recipe(2e-3, 600, 64, 300, 512),
  "california": Recipe(2e-3, 3000, 256, 200, 512),
  "etth1": Recipe(2e-3, 1500, 128, 100, 256),
}
# The methods' rate, a tenth of training's as in the source where there are rows
# enough, and steps; the rate of ascent; steps of the blindspot model.
_DEFAULTS = {
  "diabetes": (1e-3, 100, 2e-4, 200),
  "california": (2e-4, 300, 1e-4, 1000),
  "etth1": (2e-4, 100, 1e-4, 500),
}


def size_of(options: Options) -> str:
  """The row of tables of settings; of a user's data by how many there are."""
  if options.data in RECIPES:
    return options.data
  return "diabetes" if len(_source(options).y) < 2000 else "california"


def _source(options: Options) -> tables.Source:
  return tables.load(
    options.data,
    data_dir=options.data_dir,
    as_given=options.checkpoint is not None,
  )


def recipe_of(options: Options) -> Recipe:
  recipe = RECIPES[size_of(options)]._replace(loss=options.loss)
  if options.preset == "smoke":
    small = {"steps": 60, "batch_size": 32, "relearn_steps": 6}
    recipe = recipe._replace(relearn_rows=32, **small)
  elif options.preset == "paper":
    recipe = recipe._replace(steps=5 * recipe.steps)
  names = {"train_steps": "steps", "learning_rate": "rate"}
  return recipe._replace(
    **bench.given(options, {**names, "batch_size": "batch_size"})
  )


# Of retraining's steps, as much as the source gives both parts of blindspot: 2 of
# 100 epochs for the blindspot model and one for the student.
_PUBLISHED = {"blind_steps": 0.02, "steps": 0.01}


def settings_of(options: Options) -> dict[str, bench.Setting]:
  size = size_of(options)
  rate, steps, ascent_rate, blind_steps = _DEFAULTS[size]
  ascent_steps = 20
  if options.preset == "smoke":
    steps, ascent_steps, blind_steps = 10, 4, 20
  elif options.preset == "paper":
    steps, blind_steps = 3 * steps, 5 * blind_steps
  short = {"rate": rate, "steps": steps}
  long = {"rate": RECIPES[size].rate, "steps": steps + blind_steps}
  return {
    "finetune": short,
    "finetune_long": long,
    "gradient_ascent": {"rate": ascent_rate, "steps": ascent_steps},
    "gaussian_amnesiac": short,
    "blindspot": {**short, "blind_steps": blind_steps, "attention": 3.0},
    "blindspot_published": {
      "rate": rate,
      "attention": 3.0,
      **{
        name: max(1, round(share * recipe_of(options).steps))
        for name, share in _PUBLISHED.items()
      },
    },
  }


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """Tables, split once per seed."""
  source = _source(options)
  is_quick = options.preset == "smoke" and source.name != "own"
  limit = _SMOKE_ROWS if is_quick else None
  pinned = tables.named(asks, source)
  found = [tables.split(source, s, part, limit, pinned) for s in seeds]
  x = found[0].train["x"]
  model, layers = network(options, x)
  recipe = recipe_of(options)._replace(layers=layers)
  arrays = [(t.train, t.test, (t.scale, t.shift)) for t in found]
  return bench.Beds(
    (),
    jax.tree.map(lambda *leaves: np.stack(leaves), *arrays),
    lambda shared, own: bench.Bed(model, *own[:2], recipe, own[2]),
    found,
    {
      "train_rows": len(found[0].train["label"]),
      "test_rows": len(found[0].test["label"]),
      "target": source.target,
      "unit": source.unit,
      "symbol": source.symbol,
      "recipe": recipe._asdict(),
    },
    _given(options, source, model, x),
    model=model,
  )


def _given(options: Options, source: tables.Source, model: ju.Model, x: Any):
  """The user's trained model, if there is one."""
  if options.checkpoint is None:
    return None
  if options.model is None or source.trained is None:
    raise ValueError(
      "Expected with --checkpoint a --model of yours and npz:PATH with x_test "
      "and y_test, rows that it was not trained on, got "
      f"--model {options.model} and --data {options.data}."
    )
  return models.load_checkpoint(options.checkpoint, model, x)


def network(
  options: Options, x: np.ndarray
) -> tuple[ju.Model, tuple[str, ...]]:
  """The network of a table, and the layers whose attention is compared."""
  if options.model is not None:
    loss = on_targets(options.loss)
    return models.load_regressor(options.model, loss, x), ()
  if options.data not in RECIPES and (x.ndim != 2 or x.dtype.kind != "f"):
    raise ValueError(
      "Expected x to be floats [N, D] without a --model of yours, got "
      f"{x.dtype} {list(x.shape)}."
    )
  from jaxunlearn.adapters.flax import from_module
  from jaxunlearn.models.mlp import MLP
  from jaxunlearn.models.recurrent import LSTMRegressor

  big = options.preset == "paper"
  hidden = (256, 256, 256) if big else (64, 64)
  module: Any = MLP(num_classes=1, hidden=hidden)
  names = tuple(f"hidden{i}" for i in range(len(hidden)))
  if options.data == "etth1":
    module = LSTMRegressor(width=64 if big else 32)
    names = ("hidden", "features")
  return from_module(module, loss=on_targets(options.loss)), names


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  return ju.train(
    bed.model,
    bed.data,
    weights,
    key,
    ju.Fit(
      _falling(bed.recipe.rate, bed.recipe.steps),
      bed.recipe.steps,
      bed.recipe.batch_size,
    ),
  )


def _falling(rate: float, steps: int) -> optax.GradientTransformation:
  # At a constant rate two retrained models differ more by where they stopped
  # than a method differs from them.
  return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _fit(bed: bench.Bed, setting: bench.Setting) -> ju.Fit:
  adam = optax.adam(setting["rate"])
  return ju.Fit(adam, setting["steps"], bed.recipe.batch_size)


def _blindspot(bed: bench.Bed, setting: bench.Setting) -> ju.Transform:
  steps = setting["blind_steps"]
  falling = _falling(bed.recipe.rate, steps)
  return blindspot(
    bed.model,
    _fit(bed, setting),
    blind_fit=ju.Fit(falling, steps, bed.recipe.batch_size),
    output_loss=bed.recipe.loss,
    # Of a user's model nothing says which layers have attention to compare.
    attention=setting["attention"] if bed.recipe.layers else 0,
    attention_features=bed.recipe.layers,
  )


_RATE = {"rate": Between(1e-5, 1e-2)}
METHODS = {
  "finetune": Method(
    lambda bed, setting: ju.methods.finetune(bed.model, _fit(bed, setting)),
    _RATE,
    note="as many steps as blindspot's student.",
  ),
  "finetune_long": Method(
    lambda bed, setting: ju.methods.finetune(bed.model, _fit(bed, setting)),
    _RATE,
    note="all steps that blindspot has, those of the blindspot model included, "
    "at the rate of training.",
  ),
  "gradient_ascent": Method(
    lambda bed, setting: ju.methods.gradient_ascent(
      bed.model, _fit(bed, setting)
    ),
    _RATE,
  ),
  "gaussian_amnesiac": Method(
    lambda bed, setting: gaussian_amnesiac(bed.model, _fit(bed, setting)),
    _RATE,
  ),
  "blindspot": Method(
    _blindspot,
    {**_RATE, "attention": Between(0.1, 100.0)},
    note="each request and seed has a blindspot model of its own.",
  ),
  "blindspot_published": Method(
    _blindspot,
    {**_RATE, "attention": Between(0.1, 100.0)},
    note="with the published budget, 3 % of retraining's steps.",
  ),
}
_ACCESS = {
  "finetune": "retain rows",
  "finetune_long": "retain rows",
  "gradient_ascent": "forget rows",
  "gaussian_amnesiac": "retain and forget rows, of whose targets mean and spread",
  "blindspot": "retain rows, forget rows without their targets",
  "blindspot_published": "retain rows, forget rows without their targets",
}
METHODS = {
  name: method._replace(access=_ACCESS[name])
  for name, method in METHODS.items()
}


def measures(plan: bench.Plan) -> list[Measure]:
  """Errors, distances, membership, relearning, and what follows from them."""
  beds, unit = plan.beds, plan.beds.facts["symbol"]
  # A twentieth of the targets' standard deviation is of no interest.
  spread = [t.scale * t.train["label"].std() for t in beds.sources]
  near = 0.05 * float(np.mean(spread))
  errors = [
    report.Metric(
      f"{part}_{kind}",
      f"{kind.upper()}, {label}",
      f"Mean {words} error on {rows}."
      + (" The aim is the retrained model's." if "forget" in part else ""),
      unit if kind == "mae" else f"{unit}²",
      2,
      headline=kind == "mae" and part not in ("retain", "test"),
    )
    for kind, words in (("mae", "absolute"), ("mse", "squared"))
    for part, (label, rows) in _PARTS.items()
  ]
  distances = (
    report.Metric(
      "wasserstein",
      "W1 to retrained",
      "How far the predictions on the rows to be forgotten would have to be moved "
      "to be distributed like those of the retrained model of the same seed "
      "(Wasserstein-1).",
      unit,
      2,
      report.LOWER,
      headline=True,
    ),
    report.Metric(
      "relative_difference",
      "Relative difference",
      "Median over the rows to be forgotten of the difference between the "
      "prediction and the retrained model's, over the target's size.",
      "%",
      1,
      report.LOWER,
    ),
  )
  steps = table.shared(
    "relearn_steps",
    explanation="Training steps on all rows until the loss on test rows of the "
    "forgotten kind is within 5 % of the original model's, at least 1. The limit "
    "where it did not get there.",
  )
  membership = table.shared("membership_auc"), table.shared("membership_share")
  return [
    Measure(
      (*errors, *distances, *membership),
      _predictions,
      ("errors", "test_errors", "outputs"),
      _called_members,
      (
        Rule("forget_mae", near, above=TELLTALE, below=TRACE),
        Rule("forget_test_mae", near, above=TELLTALE, below=TRACE),
        Rule("retain_test_mae", near, above=DAMAGE),
        Rule(
          "membership_share", 0.1, above=TRACE, below=TELLTALE, threat=WHITE_BOX
        ),
        bench.distance("wasserstein", near),
        bench.distance("relative_difference", 0.05),
      ),
    ),
    Measure(
      (steps, table.shared("relearn_reached"), table.shared("anamnesis_index")),
      _relearn,
      ("relearn_target", "relearn_finite"),
      _anamnesis,
    ),
    table.gap(
      ERRORS,
      "Mean over four errors (training and test rows, forgotten and kept) of how "
      "far they are from the retrained model's, in shares of those.",
      relative=True,
      unit="%",
    ),
  ]


def _predictions(case: Case) -> dict[str, Any]:
  """Errors, distances to the retrained model, and how rows stand out."""
  bed, forget, forget_test = case.bed, case.forget, case.marks
  scale, shift = bed.extra
  unit = lambda v: (v * scale + shift).astype(jnp.float32)
  predict = lambda v, part: ju.predict(bed.model, v, part["x"])[:, 0]
  outputs, other = (
    predict(v, bed.data) for v in (case.variables, case.retrained)
  )
  test_outputs = predict(case.variables, bed.test)
  y, test_y = bed.data["label"], bed.test["label"]
  found = {"is_finite": all_finite((outputs, test_outputs))}
  for name, part, mask in (
    ("forget", (outputs, y), forget),
    ("retain", (outputs, y), ~forget),
    ("forget_test", (test_outputs, test_y), forget_test),
    ("retain_test", (test_outputs, test_y), ~forget_test),
    ("test", (test_outputs, test_y), jnp.ones_like(forget_test)),
  ):
    found[f"{name}_mae"] = scale * regression.mean_absolute_error(*part, mask)
    found[f"{name}_mse"] = scale**2 * regression.mean_squared_error(*part, mask)
  relative = regression.relative_difference(unit(outputs), unit(other), unit(y))
  moved = regression.wasserstein1(outputs, other, forget, forget)
  errors, test_errors = jnp.abs(outputs - y), jnp.abs(test_outputs - test_y)
  return {
    **found,
    "wasserstein": scale * moved,
    "relative_difference": jnp.nanmedian(jnp.where(forget, relative, jnp.nan)),
    "membership_auc": metrics.separation_auc(
      -errors, -test_errors, forget, forget_test
    ),
    "errors": errors,
    "test_errors": test_errors,
    "outputs": unit(outputs),
  }


def _relearn(case: Case) -> dict[str, Any]:
  bed, recipe = case.bed, case.bed.recipe
  # Test rows of the forgotten kind, at random; of a few, all.
  count = min(recipe.relearn_rows, case.marks.size)
  order = jax.random.uniform(keys.derive(case.key, "rows"), case.marks.shape)
  rows = jnp.argsort(jnp.where(case.marks, order, jnp.inf))[:count]
  few, weights = jax.tree.map(lambda leaf: leaf[rows], (bed.test, case.marks))

  def evaluate(variables):
    losses = bed.model.loss(bed.model.predict(variables, few["x"]), few)
    return (weights * losses).sum() / weights.sum()

  again = anamnesis.relearn(
    bed.model,
    case.variables,
    bed.data,
    jnp.ones_like(case.forget),
    case.key,
    evaluate=evaluate,
    target=anamnesis.relearn_target(
      evaluate(case.original), MARGIN, direction="lower"
    ),
    num_steps=recipe.relearn_steps,
    optimizer=optax.adam(recipe.rate),
    batch_size=recipe.batch_size,
    direction="lower",
    count_from_zero=False,
  )
  return {
    "relearn_steps": again.steps,
    "relearn_reached": again.reached,
    "relearn_target": again.target,
    "relearn_finite": again.is_finite,
  }


def _anamnesis(evidence: bench.Evidence, method: str) -> dict[str, Any]:
  ours, theirs = (
    anamnesis.Relearned(
      *(found["relearn_steps"], found["relearn_reached"], None),
      *(found["relearn_target"], None, found["relearn_finite"]),
    )
    for found in (evidence.found[m].values for m in (method, bench.RETRAINED))
  )
  return {"anamnesis_index": anamnesis.anamnesis_index(ours, theirs).value}


def _called_members(evidence: bench.Evidence, method: str) -> dict[str, Any]:
  """Shares of forget rows that an SVC on absolute errors takes for members."""
  plan, found = evidence.plan, evidence.found[method]
  shares = np.full(len(found.is_finite), np.nan)
  for lane in np.flatnonzero(found.is_finite):
    errors = found.values["errors"][lane]
    shares[lane] = regression_attack(
      errors,
      found.values["test_errors"][lane],
      errors[plan.forget[lane]],
      seed=plan.seeds[plan.lanes[1][lane]],
    ).forget
  return {"membership_share": shares}


def densities(evidence: bench.Evidence) -> dict[str, tuple[Any, str]]:
  """Per request how the predictions of each method are spread."""
  plan, figures = evidence.plan, {}
  targets = np.stack([t.columns["target"] for t in plan.beds.sources])
  spread = {n: found.values["outputs"] for n, found in evidence.found.items()}
  for i, request in enumerate(plan.requests.names):
    lanes = plan.lanes[0] == i
    mask = plan.forget[lanes]
    figures[f"densities_{i}"] = (
      report.density_panels(
        {name: values[lanes][mask] for name, values in spread.items()},
        targets[mask],
        f"prediction ({plan.beds.facts['symbol']})",
      ),
      f"{request}: predictions on the rows to be forgotten, all seeds together. "
      "A method should carry its line from the dashed one (the original, before) "
      "onto the grey area (the retrained model). Dotted, the true targets.",
    )
  return figures


def _budgets(plan: bench.Plan) -> dict[str, float]:
  """Of each method, its steps as a share of retraining's."""
  whole = recipe_of(plan.options).steps
  settings = {name: plan.settings[name] for name in plan.methods}
  return {
    name: (s["steps"] + s.get("blind_steps", 0)) / whole
    for name, s in settings.items()
  }


STUDY = bench.Study(
  name="forget_regression",
  options=Options,
  beds=beds,
  kinds={
    kind: bench.Kind(form, functools.partial(tables.masks, kind))
    for kind, form in tables.FORMS.items()
  },
  request=lambda options: REQUESTS.get(options.data, "lowest:0.2"),
  train=train,
  methods=METHODS,
  settings=settings_of,
  fit=lambda plan: plan._replace(notes=tuple(cautions.of_few(plan.requests))),
  measures=measures,
  findings=lambda evidence: list(evidence.plan.notes),
  tune_request=lambda options: "highest:0.2",
  seeds=lambda options: {"smoke": 2, "quick": 5, "paper": 5}[options.preset],
  title=lambda plan: f"Forgetting a part of {plan.options.data} in regression",
  lead=lambda plan: (
    f"Predicted is the {plan.beds.facts['target']}, in "
    f"{plan.beds.facts['unit']}. Each method is asked to forget the rows of a "
    "request; a good one predicts them as a model does that was trained without "
    "them, which is worse than before but not as badly as possible, and the other "
    "rows as well as ever."
  ),
  notes=lambda plan: (
    "Steps of each, as a share of retraining's: "
    + ", ".join(
      f"{name} {100 * share:.0f} %" for name, share in _budgets(plan).items()
    )
    + ".",
    *bench.of_given(plan),
    "Called members: an SVC on absolute errors that learned from training and "
    "test rows (arXiv:2210.08196). Rows of a forgotten range are unlike the test "
    "rows that it learned from; compare with the retrained model, not with a "
    "half. The membership AUC compares them with test rows of their own kind.",
  ),
  columns=lambda plan: (*BARS, "retrained_gap", "seconds_run"),
  panels=(
    densities,
    render.bars(
      BARS,
      "means and standard deviations over seeds. On the forgotten kind the "
      "retrained model's error is the aim, no larger one.",
      # Four panels side by side have no room for long titles.
      forget_test_mae="Test error, forgotten",
      retain_test_mae="Test error, kept",
    ),
  ),
)
