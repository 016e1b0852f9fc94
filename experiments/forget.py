"""Forget a request with one or several methods, and see whether it worked.

Question: how near does each method come to a model that never saw the rows?
Methods: UNSIR (arXiv:2111.08947), Bad Teacher (arXiv:2205.08096), and baselines.

    python -m experiments.forget --preset quick --out out/demo

trains an MLP on scikit-learn's digits, forgets class 3 with every method, and
writes results.json, table.md, plots/, params/ and report.html. It takes one to
two minutes on two CPU cores, most of it compilation, and less the second time.

    python -m experiments.forget --request each-class --sequence

forgets class 0, then class 1, then class 2, and so on, each method going on from
what it made of the model before, and shows how it drifts from retraining.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import tyro
from rich.console import Console
from rich.progress import Progress

from experiments import (
  common,
  data,
  methods,
  models,
  output,
  requests,
  sequence,
  study,
)
from jaxunlearn import Model, Variables

DEFAULT_SEEDS = {
  "smoke": {"digits": 2, "other": 2},
  "quick": {"digits": 5, "other": 2},
  "paper": {"digits": 10, "other": 5},
}


def _help(text: str, metavar: str | None = None):
  return tyro.conf.arg(help=text, metavar=metavar)


@dataclasses.dataclass(frozen=True)
class Options:
  """Forget part of the training data, and compare with retraining without it."""

  data: Annotated[
    str,
    _help(
      "Rows to train and test on: digits (ships with scikit-learn), cifar10, "
      "or npz:PATH, a file with x [N, ...] and integer classes y [N], and "
      "perhaps x_test and y_test; any further array [N] is a column for group "
      "requests."
    ),
  ] = "digits"

  model: Annotated[
    str,
    _help(
      "Network: mlp, cnn, resnet, vit, or package.module:factory, a function "
      "of yours that returns a Flax linen module or, given nnx.Rngs, an nnx "
      "module."
    ),
  ] = "mlp"

  checkpoint: Annotated[
    str | None,
    _help(
      "Orbax checkpoint with the trained values of your model; without it the "
      "model is trained here first.",
      "DIR",
    ),
  ] = None

  request: Annotated[
    str,
    _help(
      "What to forget: class:3,5 (all rows of these classes), random:0.1 (a "
      "tenth of the rows), index:FILE (a row number a line, or an .npy of "
      "numbers or of bools), group:COLUMN=VALUE, or each-class (every class by "
      "itself). Several with semicolons between, in quotes: "
      "'class:0;class:1;random:0.1'; each is asked of the original model, unless "
      "--sequence is given."
    ),
  ] = "class:3"

  sequence: Annotated[
    bool,
    _help(
      "Serve the requests one after the other, each by what the one before left "
      "of the model and of the rows, and see how far every method drifts from "
      "retraining. Wants several requests; each-class leaves the last class, so "
      "that something is left to keep."
    ),
  ] = False

  methods: Annotated[
    str, _help("How to forget: all, or names as in unsir,bad_teacher,finetune.")
  ] = "all"

  seeds: Annotated[
    int | None,
    _help(
      "How often to repeat everything with other random numbers; the preset's "
      "number by default.",
      "INT",
    ),
  ] = None

  preset: Annotated[
    Literal["smoke", "quick", "paper"],
    _help(
      "Size: smoke takes seconds and proves little, quick fits two CPU cores, "
      "paper wants a GPU."
    ),
  ] = "quick"

  data_dir: Annotated[
    str | None,
    _help(
      "Folder with cifar10_train.npz and cifar10_test.npz; the environment "
      "variable JAXUNLEARN_DATA by default.",
      "DIR",
    ),
  ] = None

  out: Annotated[str, _help("Folder for the results.", "DIR")] = "out/forget"

  train_steps: Annotated[
    int | None,
    _help("Steps of training and retraining; the preset's by default.", "INT"),
  ] = None

  learning_rate: Annotated[
    float | None,
    _help(
      "Adam's, for training and retraining; the preset's by default.", "FLOAT"
    ),
  ] = None

  batch_size: Annotated[
    int | None,
    _help(
      "Rows a step, for training and for every method; the preset's by default.",
      "INT",
    ),
  ] = None

  strategy: Annotated[
    str | None,
    _help(
      "How requests and seeds share the device: vmap (all at once), map (one "
      "after the other) or so many at a time; chosen by device by default.",
      "vmap|map|INT",
    ),
  ] = None


class Plan(NamedTuple):
  """Options that were checked, and what they name."""

  options: Options
  dataset: data.Dataset
  model: Model
  variables: Variables | None
  requests: requests.Requests
  recipe: methods.Recipe
  settings: dict[str, dict[str, Any]]
  num_seeds: int
  strategy: str | int


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  _check_numbers(options)
  has_ledger = options.checkpoint is None
  chosen = methods.choose(options.methods, has_ledger=has_ledger)
  strategy = _strategy(options)
  dataset = data.load(
    options.data, preset=options.preset, data_dir=options.data_dir
  )
  asked = requests.parse(options.request, dataset, sequence=options.sequence)
  model = models.load(options.model, dataset, options.preset)
  variables = None
  if options.checkpoint is not None:
    if dataset.is_split_here:
      raise ValueError(
        "Expected x_test and y_test in the data of a model that was trained "
        "elsewhere (--checkpoint), got neither: rows of x are no test of it."
      )
    variables = models.load_checkpoint(options.checkpoint, model, dataset)
  kind = options.model
  if kind not in methods.RECIPES:
    kind = "mlp" if dataset.train["x"].ndim == 2 else "cnn"
  recipe = methods.RECIPES[kind][options.preset]
  given: dict[str, Any] = {
    "num_steps": options.train_steps,
    "learning_rate": options.learning_rate,
    "batch_size": options.batch_size,
  }
  recipe = recipe._replace(**{k: v for k, v in given.items() if v is not None})
  seeds = DEFAULT_SEEDS[options.preset]
  return Plan(
    options,
    dataset,
    model,
    variables,
    asked,
    recipe,
    {n: methods.settings_for(n, kind, options.preset) for n in chosen},
    options.seeds or seeds.get(options.data, seeds["other"]),
    strategy,
  )


def run(plan: Plan, progress: Progress) -> output.Outcome:
  """Trains, unlearns and measures; writes nothing."""
  task = progress.add_task("starting", total=4 + len(plan.settings))

  def begin(text: str) -> None:
    progress.update(task, description=text)

  this = study.make(
    plan.model,
    plan.dataset,
    plan.requests,
    plan.recipe,
    num_seeds=plan.num_seeds,
    strategy=plan.strategy,
  )
  begin("training the original model")
  if plan.variables is not None:
    original = study.given_original(this, plan.variables)
  else:
    needed = any(methods.METHODS[n].needs_ledger for n in plan.settings)
    original = study.train_original(this, with_ledger=needed)
  progress.advance(task)
  begin("retraining without the forgotten rows")
  trained = {"retrained": study.train_retrained(this)}
  progress.advance(task)
  serve = sequence.unlearn if plan.requests.is_sequence else study.unlearn
  for name, settings in plan.settings.items():
    begin(f"unlearning with {name}")
    trained[name] = serve(this, name, settings, original)
    progress.advance(task)
  begin("measuring")
  audit = study.make_audit(this, original, trained["retrained"])
  lanes = jax.tree.map(lambda leaf: leaf[this.lane_seed], original.variables)
  trained = {"original": original._replace(variables=lanes), **trained}
  progress.advance(task)
  inner = progress.add_task("", total=len(trained))
  audits = {}
  for name, made in trained.items():
    progress.update(inner, description=f"measuring {name}")
    audits[name] = audit(made.variables)
    progress.advance(inner)
  study.add_gaps(audits, "retrained")
  progress.advance(task)
  return output.Outcome(this, trained, audits)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  options = tyro.cli(Options, prog="python -m experiments.forget", args=argv)
  common.use_compilation_cache()
  with contextlib.ExitStack() as stack:
    with common.failing_on_bad_input():
      plan = prepare(options)
      folder = stack.enter_context(common.staged_output(options.out))
    with common.progress() as progress:
      outcome = run(plan, progress)
      task = progress.add_task("writing the report", total=None)
      summary = output.write(folder, plan, outcome)
      progress.remove_task(task)
  # Files and pipes have no width; the table wants some.
  console = Console()
  console = console if console.is_terminal else Console(width=120)
  output.show(console, plan, summary)


def _check_numbers(options: Options) -> None:
  for name in ("seeds", "train_steps", "batch_size", "learning_rate"):
    value = getattr(options, name)
    if value is not None and not 0 < value < float("inf"):
      flag = name.replace("_", "-")
      raise ValueError(f"Expected --{flag} > 0, got {value}.")


def _strategy(options: Options) -> str | int:
  """As `map_many` takes it."""
  text = options.strategy
  if text is None:
    if jax.default_backend() == "cpu":
      return "map"  # The cores are busy with one model.
    return "vmap" if options.model == "mlp" else 4
  if text in ("vmap", "map"):
    return text
  if text.isdecimal() and int(text) > 0:
    return int(text)
  raise ValueError(
    f"Expected --strategy vmap, map or a positive integer, got {text!r}."
  )


if __name__ == "__main__":
  main()
