"""When does a class that nobody showed the student come back?

Question: gated knowledge transfer (arXiv:2201.05629) drops every input in which
the teacher sees the forgotten class. Does its student stay ignorant, cycle after
cycle, with and without the gate, with and without the attention term?

    python -m experiments.zero_shot --preset quick --out out/zero_shot

trains an MLP on scikit-learn's digits, transfers it without class 0 in four ways
and by learned noise, and writes results.json, curves.json, table.md, plots/ and
report.html. It takes two to three minutes on two CPU cores.

Expected (quick, three seeds): with the gate and without attention the class stays
at 0 to 1 % while kept classes reach 95 %; with the attention term of the source
(beta 250) it is at 0 % after 100 cycles, 37 % after 150, 96 % after 400, in spite
of the gate; without the gate it is there from the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

import jaxunlearn as ju
from experiments import (
  common,
  data,
  flags,
  methods,
  models,
  requests,
  study,
)
from experiments.flags import described
from jaxunlearn import metrics, report
from jaxunlearn.methods import gated_transfer, zero_shot
from jaxunlearn.models.generator import default_generator, vector_generator
from jaxunlearn.report.files import plain, write_json


class Size(NamedTuple):
  """How much work a preset is."""

  cycles: int
  every: int
  batch_size: int
  z_dim: int
  seeds: int


class Variant(NamedTuple):
  """A way to transfer: weight of the attention term, and threshold."""

  attention: float
  gate: float


SIZES: Mapping[str, Size] = {
  "smoke": Size(6, 2, 32, 8, 2),
  "quick": Size(400, 10, 256, 32, 3),
  "paper": Size(4000, 50, 256, 128, 5),
}
VARIANTS: Mapping[str, Variant] = {
  "gkt": Variant(0.0, 0.01),
  "gkt_no_gate": Variant(0.0, 1.0),
  "gkt_attention": Variant(250.0, 0.01),
  "gkt_attention_no_gate": Variant(250.0, 1.0),
}
# The layers whose maps are compared; all of a model that is not listed.
FEATURES: Mapping[str, tuple[str, ...]] = {
  "mlp": ("hidden0", "hidden1"),
  "cnn": ("stage0", "stage1"),
}
NOISE = "zero_shot_noise"
HIGHEST = "forget_test_accuracy_highest"
DEFINITIONS = (
  *report.METRICS,
  report.Metric(
    HIGHEST,
    "Highest on the way, forgotten classes",
    "The test accuracy on the forgotten classes at the cycle where it was "
    "highest; what a method risks that stops at a bad time.",
    "%",
    1,
    report.LOWER,
  ),
)
_CAPTION = (
  "Four ways to transfer, over the cycles. Lines are means over requests and "
  "seeds, bands go from the lowest to the highest. The forgotten classes should "
  "stay at 0 % on the left while the kept ones rise in the middle. On the right, "
  "how many of the generator's inputs the student is taught."
)
_LEAD = (
  "Gated knowledge transfer teaches a fresh network all that a model knows but "
  "some classes, on inputs of a generator, without a row of data: inputs in which "
  "the model sees a forgotten class are dropped. Shown is how much of these "
  "classes the student learns all the same, from cycle to cycle, with the gate "
  "and without it, with the attention term of the source (beta 250) and without."
)
_NOTES = (
  "The original and the retrained model are trained on data; all others see the "
  "original model, the numbers of the classes and the shape of an input. Test "
  "rows serve to measure them.",
  "All four ways use the released scale of the losses, to which beta 250 belongs.",
  "Run time is that of one request and one seed: the time of the program that "
  "serves all of them divided by their number; that of the four ways is the same, "
  "since they are one program.",
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Follow zero-shot unlearning of classes from cycle to cycle."""

  data: Annotated[
    str,
    described(
      "Rows to train and test on: digits (ships with scikit-learn), cifar10, or "
      "npz:PATH. Unlearning sees none of them."
    ),
  ] = "digits"

  model: Annotated[
    str,
    described("Network: mlp, cnn, resnet, vit, or package.module:factory."),
  ] = "mlp"

  request: Annotated[
    str,
    described(
      "What to forget: class:0,8 (both at once), or each-class (every class by "
      "itself)."
    ),
  ] = "class:0"

  cycles: Annotated[
    int | None,
    described(
      "Rounds of generator and student; the preset's by default.", "INT"
    ),
  ] = None

  seeds: flags.Seeds = None

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/zero_shot"


class Plan(NamedTuple):
  """Options that were checked, and what they name."""

  options: Options
  size: Size
  kind: str
  requests: requests.Requests
  study: study.Study


class Outcome(NamedTuple):
  """What was found.

  Attributes:
    rows: as `report.Results` has them.
    curves: variant -> name -> [R, S, T], accuracies in [0, 1] and the share of
      inputs that passed the gate, at the cycles of `at`.
    at: int [T].
  """

  rows: list[dict[str, Any]]
  curves: dict[str, dict[str, np.ndarray]]
  at: np.ndarray


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  for name in ("cycles", "seeds"):
    value = getattr(options, name)
    if value is not None and value < 1:
      raise ValueError(f"Expected --{name} > 0, got {value}.")
  size = SIZES[options.preset]
  given = {"cycles": options.cycles, "seeds": options.seeds}
  size = size._replace(**{k: v for k, v in given.items() if v is not None})
  size = size._replace(every=min(size.every, size.cycles))
  dataset = data.with_floats(
    data.load(options.data, preset=options.preset, data_dir=options.data_dir)
  )
  model = models.load(options.model, dataset, options.preset)
  dataset = data.with_classes(
    dataset, models.num_outputs(model, dataset), "--model"
  )
  asked = requests.parse(options.request, dataset)
  if None in asked.classes:
    raise ValueError(
      "Expected --request class:0,8 or each-class, since these methods forget "
      f"whole classes, got {options.request!r}."
    )
  kind = options.model
  if kind not in methods.RECIPES:
    kind = "mlp" if dataset.train["x"].ndim == 2 else "cnn"
  this = study.make(
    model,
    dataset,
    asked,
    methods.RECIPES[kind][options.preset],
    num_seeds=size.seeds,
    strategy="map" if jax.default_backend() == "cpu" else "vmap",
  )
  return Plan(options, size, kind, asked, this)


def run(plan: Plan, progress: Progress) -> Outcome:
  """Trains, transfers and measures; writes nothing."""
  task = progress.add_task("training the original model", total=4)
  this, size = plan.study, plan.size
  original = study.train_original(this, with_ledger=False)
  progress.update(task, advance=1, description="retraining")
  retrained = study.train_retrained(this)
  progress.update(task, advance=1, description="transferring in four ways")
  transferred = _transfer(plan, original)
  progress.update(task, advance=1, description="learning noise")
  noise = _learn_noise(plan, original)
  start = jax.tree.map(lambda leaf: leaf[this.lane_seed], original.variables)
  found = {
    "original": (_measure(this, start), _seconds(original)),
    "retrained": (_measure(this, retrained.variables), _seconds(retrained)),
  }
  variables, curve = transferred.value
  lanes = this.num_lanes
  shape = (len(VARIANTS), len(this.masks), this.num_seeds, -1)
  curves: dict[str, dict[str, np.ndarray]] = {}
  for i, variant in enumerate(VARIANTS):
    part = slice(i * lanes, (i + 1) * lanes)
    values = _measure(this, jax.tree.map(lambda v, p=part: v[p], variables))
    curves[variant] = {
      name: np.asarray(line, np.float64).reshape(shape)[i]
      for name, line in curve.items()
    }
    forgotten = curves[variant]["forget_test_accuracy"]
    values[HIGHEST] = forgotten.max(axis=-1).ravel()
    found[variant] = values, _seconds(transferred, lanes * len(VARIANTS))
  found[NOISE] = _measure(this, noise.value), _seconds(noise, lanes)
  progress.advance(task)
  at = np.arange(size.every, size.cycles + 1, size.every)
  return Outcome(_rows(plan, found), curves, at)


def write(folder: Path, plan: Plan, outcome: Outcome) -> report.Summary:
  """Writes results, curves, tables, the plot and the report into a folder."""
  options, this = plan.options, plan.study
  config = {
    **dataclasses.asdict(options),
    "size": plan.size._asdict(),
    "variants": {name: v._asdict() for name, v in VARIANTS.items()},
    "training": this.access.recipe._asdict(),
    "environment": common.environment(),
  }
  results = report.Results(
    "zero_shot",
    options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    outcome.rows,
  )
  lines = {"cycle": outcome.at, "curves": outcome.curves}
  write_json(folder / "curves.json", {"requests": plan.requests.names, **lines})
  report.write_report(
    folder,
    results,
    figures={"curves": (_figure(plan, outcome), _CAPTION)},
    title=f"Forgetting {options.request} of {options.data} without data",
    lead=_LEAD,
    notes=_NOTES,
    definitions=DEFINITIONS,
  )
  return report.summarise(outcome.rows)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.zero_shot", argv)
  _, summary = common.run_program(asked, prepare, run, write)
  console = common.wide_console()
  console.print(report.rich_table(summary, definitions=DEFINITIONS))
  console.print(f"Report: {Path(asked.out) / 'report.html'}", soft_wrap=True)


def _transfer(plan: Plan, original: study.Trained) -> common.Timed:
  """All variants on every lane; of the data only the test rows are here."""
  this, size = plan.study, plan.size
  access, shape = this.access, this.train["x"].shape[1:]
  make = vector_generator if plan.kind == "mlp" else default_generator

  def program(classes, keys, originals, test, test_masks, grid):
    table = {"label": jnp.arange(access.num_classes)}

    def one(request, seed, attention, gate):
      def evaluate(variables):
        return _test_accuracies(access, variables, test, test_masks, request)

      method = ju.gkt(
        access.model,
        num_classes=access.num_classes,
        cycles=size.cycles,
        learn=gated_transfer.LEARN._replace(batch_size=size.batch_size),
        z_dim=size.z_dim,
        gate=gate,
        attention=attention,
        attention_features=FEATURES.get(plan.options.model),
        reduction="released",
        generator=make,
        evaluate=evaluate,
        evaluate_every=size.every,
        input_shape=shape,
      )
      start = study.at(originals, seed)
      out, info = method(start, table, classes[request], keys[seed])
      cycles = info["cycles"]
      share = cycles["kept"][size.every - 1 :: size.every]
      return out, {**cycles["curve"], "kept": share}

    return ju.map_many(one, *grid, strategy=this.strategy)

  many = len(VARIANTS)
  grid = (
    jnp.tile(this.lane_request, many),
    jnp.tile(this.lane_seed, many),
    *(
      jnp.repeat(jnp.array(values, jnp.float32), this.num_lanes)
      for values in zip(*VARIANTS.values())
    ),
  )
  return common.timed(
    program,
    _class_masks(plan),
    this.unlearn_keys,
    original.variables,
    this.test,
    this.test_masks,
    grid,
  )


def _learn_noise(plan: Plan, original: study.Trained) -> common.Timed:
  """Learned noise on every lane."""
  this, size = plan.study, plan.size.batch_size
  count = this.access.num_classes
  method = ju.zero_shot_noise(
    this.access.model,
    num_classes=count,
    impair=zero_shot.DIGITS_IMPAIR._replace(batch_size=size),
    repair=zero_shot.DIGITS_REPAIR._replace(batch_size=size),
    input_shape=this.train["x"].shape[1:],
  )

  def program(classes, keys, originals, lanes):
    table = {"label": jnp.arange(count)}

    def one(request, seed):
      start = study.at(originals, seed)
      return method(start, table, classes[request], keys[seed])[0]

    return ju.map_many(one, *lanes, strategy=this.strategy)

  lanes = (this.lane_request, this.lane_seed)
  return common.timed(
    program, _class_masks(plan), this.unlearn_keys, original.variables, lanes
  )


def _class_masks(plan: Plan) -> jax.Array:
  """The requests as what these methods get to see: bool [R, C]."""
  numbers = range(plan.study.access.num_classes)
  asked = plan.requests.classes
  return jnp.array(
    [[c in (classes or ()) for c in numbers] for classes in asked]
  )


def _test_accuracies(access, variables, test, test_masks, request):
  logits = ju.predict(access.model, variables, test["x"])
  return {
    f"{kind}_test_accuracy": metrics.accuracy(
      logits, test["label"], test_masks[i, request]
    )
    for i, kind in enumerate(("forget", "retain"))
  }


def _measure(this: study.Study, variables: Any) -> dict[str, np.ndarray]:
  """Accuracies of every lane, on training and on test rows."""

  def program(variables, train, test, masks, test_masks, lanes):
    def one(variables, request):
      logits = ju.predict(this.access.model, variables, train["x"])
      correct = lambda mask: metrics.accuracy(logits, train["label"], mask)
      all_test = ju.predict(this.access.model, variables, test["x"])
      return {
        "forget_accuracy": correct(masks[request]),
        "retain_accuracy": correct(~masks[request]),
        "test_accuracy": metrics.accuracy(all_test, test["label"]),
        **_test_accuracies(this.access, variables, test, test_masks, request),
      }

    return ju.map_many(one, variables, lanes, strategy=this.strategy)

  rows = (this.train, this.test, this.masks, this.test_masks)
  found = jax.jit(program)(variables, *rows, this.lane_request)
  return {name: np.asarray(v, np.float64) for name, v in found.items()}


def _seconds(made: Any, count: int = 1) -> tuple[float, float]:
  """Of compiling the program, and of running one lane."""
  return made.seconds_compile, made.seconds_run / count


def _rows(plan: Plan, found: Mapping[str, Any]) -> list[dict[str, Any]]:
  this = plan.study
  return [
    {
      "method": method,
      "request": plan.requests.names[int(request)],
      "seed": int(seed),
      "seconds_compile": seconds[0],
      "seconds_run": seconds[1],
      **{name: v[lane] for name, v in values.items()},
    }
    for method, (values, seconds) in found.items()
    for lane, (request, seed) in enumerate(
      zip(np.asarray(this.lane_request), np.asarray(this.lane_seed))
    )
  ]


def _figure(plan: Plan, outcome: Outcome):
  """Accuracies over cycles, requests and seeds together, and the gate."""

  def lines(name: str):
    flat = (-1, len(outcome.at))
    return {
      variant: 100 * curve[name].reshape(flat)
      for variant, curve in outcome.curves.items()
    }

  panels = {
    "Test accuracy, forgotten classes (%)": lines("forget_test_accuracy"),
    "Test accuracy, kept classes (%)": lines("retain_test_accuracy"),
    "Inputs that pass the gate (%)": lines("kept"),
  }
  return report.curve_panels(outcome.at, panels, x_label="cycle")


if __name__ == "__main__":
  main()
