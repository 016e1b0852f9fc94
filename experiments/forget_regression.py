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
with a recurrent network). Writes results.json, table.md, plots/ and report.html.
On two idle CPU cores one to three minutes.

Expected (quick, seeds 0 to 4; settings were chosen on seeds 100 to 103), cheapest
fifth of California: the retrained model is off by 50.7 thousand dollars on test
rows of that kind, the original by 20.4, blindspot by 49.7, at 0.15 times the
original's distance W1 to the retrained predictions and with the kept rows' error
unchanged (38.8). Fine-tuning for as many steps as blindspot's student is off by
36.5; for as many as blindspot has in all, at the rate of training
(`finetune_long`), by 46.6 at 0.19 times the distance: on this request it serves
nearly as well. The SVC calls 13 % of the forget set members after retraining, 72 %
before, 26 % after blindspot, 33 and 20 % after the two. Attention made no
difference. Inland districts are another matter: there two retrained models are 9.5
apart, half as far as the original from them; blindspot's error is 11 % off, and no
method halves the distance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import numpy as np
from rich.progress import Progress

from experiments import common, flags, regression_data, regression_study
from experiments import regression_output as output
from experiments.flags import described
from experiments.regression_study import METHODS, Measured, Recipe, Study

DEFAULT_SEEDS = {"smoke": 2, "quick": 5, "paper": 5}
_SMOKE_ROWS = 240
HIDDEN: Mapping[str, tuple[int, ...]] = {
  "diabetes": (64, 64),
  "california": (64, 64),
}
_PAPER_HIDDEN = (256, 256, 256)
RECIPES: Mapping[str, Recipe] = {
  "diabetes": Recipe(
    rate=2e-3,
    steps=600,
    batch_size=64,
    tune_rate=1e-3,
    tune_steps=100,
    ascent_rate=2e-4,
    ascent_steps=20,
    blind_steps=200,
    attention=3.0,
    relearn_steps=300,
    relearn_rows=512,
  ),
  "california": Recipe(
    rate=2e-3,
    steps=3000,
    batch_size=256,
    tune_rate=2e-4,
    tune_steps=300,
    ascent_rate=1e-4,
    ascent_steps=20,
    blind_steps=1000,
    attention=3.0,
    relearn_steps=200,
    relearn_rows=512,
  ),
  "etth1": Recipe(
    rate=2e-3,
    steps=1500,
    batch_size=128,
    tune_rate=2e-4,
    tune_steps=100,
    ascent_rate=1e-4,
    ascent_steps=20,
    blind_steps=500,
    attention=3.0,
    relearn_steps=100,
    relearn_rows=256,
  ),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Forget a range of the target, a group or a time in regression."""

  data: Annotated[
    Literal["diabetes", "california", "etth1"],
    described(
      "Table: diabetes (ships with scikit-learn), california (houses, by "
      "district) or etth1 (oil temperature, a day ahead)."
    ),
  ] = "diabetes"

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

  methods: Annotated[
    str, described("Methods: all, or names as in finetune,blindspot.")
  ] = "all"

  loss: Annotated[
    Literal["l1", "l2"],
    described("What all models minimise: absolute or squared error."),
  ] = "l1"

  seeds: flags.Seeds = None

  first_seed: flags.FirstSeed = 0

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/regression"


class Plan(NamedTuple):
  """Options that were checked, and what they name."""

  options: Options
  study: Study
  methods: tuple[str, ...]


class Outcome(NamedTuple):
  """What was found, by name of a method, "original" and "retrained".

  Attributes:
    measured: see `regression_study.Measured`.
    seconds: of compiling, and of running one lane.
    noise: float [R], W1 between retrained models of other seeds.
  """

  measured: dict[str, Measured]
  seconds: dict[str, tuple[float, float]]
  noise: np.ndarray


def recipe_of(data: str, preset: str) -> Recipe:
  """Steps and rates of a table under a preset."""
  recipe = RECIPES[data]
  if preset == "smoke":
    return recipe._replace(
      steps=60,
      batch_size=32,
      tune_steps=10,
      ascent_steps=4,
      blind_steps=20,
      relearn_steps=6,
      relearn_rows=32,
    )
  if preset == "paper":
    more = {"steps": 5, "tune_steps": 3, "blind_steps": 5}
    return recipe._replace(
      **{name: getattr(recipe, name) * k for name, k in more.items()}
    )
  return recipe


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  names = flags.chosen(options.methods, METHODS)
  table = regression_data.load(
    options.data,
    data_dir=options.data_dir,
    rows=_SMOKE_ROWS if options.preset == "smoke" else None,
  )
  text = options.request
  if text is None:
    text = regression_data.DEFAULT_REQUESTS[options.data]
  requests = regression_data.parse(text, table)
  seeds = options.seeds or DEFAULT_SEEDS[options.preset]
  model, features = _network(options)
  study = Study(
    model,
    features,
    options.loss,
    recipe_of(options.data, options.preset),
    table,
    requests,
    options.first_seed + np.arange(seeds),
    "map" if jax.default_backend() == "cpu" else "vmap",
  )
  return Plan(options, study, names)


def run(plan: Plan, progress: Progress) -> Outcome:
  """Trains, unlearns and measures; writes nothing."""
  study, names = plan.study, plan.methods
  total = 3 + 2 * len(names)
  task = progress.add_task("training the original model", total=total)
  original = regression_study.train(study)
  progress.update(task, advance=1, description="retraining")
  retrained = regression_study.retrain(study)
  progress.update(task, advance=1, description="measuring both")
  measure = regression_study.make_measure(
    study, original.value, retrained.value
  )
  of_seed = study.lanes[1]
  start = jax.tree.map(lambda leaf: leaf[of_seed], original.value)
  measured = {
    "original": measure(start),
    "retrained": measure(retrained.value),
  }
  lanes = len(of_seed)
  seconds = {
    "original": _seconds(original, len(study.seeds)),
    "retrained": _seconds(retrained, lanes),
  }
  progress.advance(task)
  for name in names:
    progress.update(task, description=f"unlearning by {name}")
    made = regression_study.unlearn(study, name, original.value)
    progress.update(task, advance=1, description=f"measuring {name}")
    measured[name] = measure(made.value)
    seconds[name] = _seconds(made, lanes)
    progress.advance(task)
  noise = regression_study.seed_noise(study, measured["retrained"].outputs)
  return Outcome(measured, seconds, noise)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.forget_regression", argv)
  plan, summary = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, summary)


def _network(options: Options):
  """The network of a table, and the layers whose attention is compared."""
  big = options.preset == "paper"
  if options.data == "etth1":
    from jaxunlearn.models.recurrent import LSTMRegressor

    module = LSTMRegressor(width=64 if big else 32)
    names: tuple[str, ...] = ("hidden", "features")
  else:
    from jaxunlearn.models.mlp import MLP

    hidden = _PAPER_HIDDEN if big else HIDDEN[options.data]
    module = MLP(num_classes=1, hidden=hidden)
    names = tuple(f"hidden{i}" for i in range(len(hidden)))
  return regression_study.model_of(options.loss, module), names


def _seconds(made: common.Timed, count: int) -> tuple[float, float]:
  return made.seconds_compile, made.seconds_run / count


if __name__ == "__main__":
  main()
