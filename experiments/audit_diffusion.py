"""Unlearned or concealed? Diffusion models, audited by partial diffusion.

Question: a text-to-image model was made to forget a concept. Does it lack the
concept, or only the way to it from the prompt? The attack of arXiv 2409.05668
lets the original model begin an image and the unlearned one finish it. Any model
finishes a nearly clean image, also one retrained without the concept; only what
exceeds that one is called concealment here.

    python -m experiments.audit_diffusion --preset quick --out out/diffusion

trains a model of digits in six styles, retrains it without the digit three,
erases the digit with each method and writes results.json, curves.json, table.md,
plots/ (generations before, after and under attack; curves over the share of the
original's steps), params/ and report.html. Training and retraining take two to
three minutes on two CPU cores, the rest as much again; a later run that is given
these models,

    python -m experiments.audit_diffusion --load out/diffusion

is spared the first part. All methods take five minutes. For another concept,
which needs another retrained model:

    python -m experiments.audit_diffusion --concept style:ember
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import numpy as np
from rich.progress import Progress

from experiments import common, flags
from experiments import diffusion_beds as beds
from experiments import diffusion_methods as methods
from experiments import diffusion_output as output
from experiments import diffusion_prompts as prompts
from experiments import diffusion_study as study
from experiments.diffusion_measure import make_measure
from experiments.diffusion_models import load_trained
from experiments.files import checked_path
from experiments.flags import described
from jaxunlearn.core.types import PyTree


@dataclasses.dataclass(frozen=True)
class Options:
  """Erase a concept from a diffusion model; look for what is left of it.

  The models are trained first, two to three minutes on two CPU cores (quick),
  then erased from and attacked, as long again; all methods take five minutes.
  With --load, the folder of an earlier run, the first part is spared.
  """

  concept: Annotated[
    str,
    described(
      "What to forget: object:NAME or style:NAME, by word or number, as in "
      "object:three, object:3, style:ember."
    ),
  ] = beds.DEFAULT_CONCEPT

  methods: Annotated[
    str,
    described(
      "Methods: usual, all, or names with commas as in esd,uce. Of "
      + ", ".join(methods.METHODS)
      + "."
    ),
  ] = "usual"

  load: Annotated[
    str | None,
    described(
      "Folder of an earlier run, whose original and retrained model and "
      "classifier are taken instead of training them.",
      "DIR",
    ),
  ] = None

  attacked: Annotated[
    int | None,
    described(
      "Prompts attacked by adversarial tokens (UnlearnDiffAtk), beside as many "
      "random ones; 0 leaves it out, the preset's number by default.",
      "INT",
    ),
  ] = None

  twins: Annotated[
    int | None,
    described(
      "Models retrained without the concept; seeds take them in turn. The "
      "preset's number by default.",
      "INT",
    ),
  ] = None

  seeds: flags.Seeds = None

  first_seed: flags.FirstSeed = 100

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/diffusion"


class Plan(NamedTuple):
  """Options that were checked, and what they name.

  Attributes:
    options: as given.
    study: see `Study`.
    methods: names.
    loaded: None, or the models of an earlier run.
  """

  options: Options
  study: study.Study
  methods: tuple[str, ...]
  loaded: study.Trained | None


class Outcome(NamedTuple):
  """What was found, by name of a method, "original" and "retrained".

  Attributes:
    trained: see `Trained`.
    found: what `make_measure` measured, arrays [S, ...].
    prompted: what `prompts.make_attack` measured, likewise; {} without it.
    seconds: of compiling, and of running one seed.
    params: of the first seed.
  """

  trained: study.Trained
  found: dict[str, dict[str, np.ndarray]]
  prompted: dict[str, dict[str, np.ndarray]]
  seconds: dict[str, tuple[float, float]]
  params: dict[str, PyTree]


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  names = flags.chosen(
    options.methods, methods.METHODS, groups={"usual": methods.USUAL}
  )
  size = beds.SIZES[options.preset]
  for name in ("attacked", "twins"):
    value = getattr(options, name)
    if value is not None and value < (name == "twins"):
      wanted = ">= 0" if name == "attacked" else "> 0"
      raise ValueError(f"Expected --{name} {wanted}, got {value}.")
    if value is not None:
      size = size._replace(**{name: value})
  size = size._replace(seeds=options.seeds or size.seeds)
  if options.preset != "paper":
    # Before the data are read, and with their own words.
    beds.parse_concept(options.concept, beds.DIGIT_NAMES)
  bed = beds.load(options.preset, options.data_dir, size)
  this = study.Study(
    bed,
    size,
    beds.parse_concept(options.concept, bed.names),
    options.first_seed + np.arange(size.seeds),
    _strategy(options.preset),
  )
  loaded = None
  if options.load is not None:
    loaded = load_trained(
      this, checked_path(options.load, "--load"), options.preset
    )
    count = len(jax.tree.leaves(loaded.twins)[0])
    if options.twins not in (None, count):
      raise ValueError(
        f"Expected --twins {count}, as many as in --load, got {options.twins}."
      )
    this = this._replace(size=size._replace(twins=count))
  return Plan(options, this, names, loaded)


def _strategy(preset: str) -> str:
  """All seeds at once where models are small and there is a GPU."""
  is_small = preset != "paper" and jax.default_backend() != "cpu"
  return "vmap" if is_small else "map"


def run(plan: Plan, progress: Progress) -> Outcome:
  """Trains, unlearns, attacks and measures; writes nothing."""
  this, names = plan.study, plan.methods
  attacked = this.size.attacked > 0
  steps = 3 + 2 * len(names) + attacked * (2 + len(names))
  task = progress.add_task("training and retraining", total=steps)
  trained = plan.loaded or study.train(this)
  progress.update(task, advance=1, description="timing a piece of retraining")
  retraining = trained.seconds[1] or study.time_retraining(this)
  seconds = {
    "original": (trained.seconds[0], retraining),
    "retrained": (trained.seconds[0], retraining),
  }
  progress.update(task, advance=1, description="attacking the retrained model")
  measure = make_measure(this, trained)
  params = {
    "original": study.stacked(this, trained.original),
    "retrained": study.twin_of_each_seed(this, trained.twins),
  }
  makers: dict[str, study.Maker] = {}
  found = {name: measure(values) for name, values in params.items()}
  progress.advance(task)
  for name in names:
    progress.update(task, description=f"unlearning by {name}")
    method = methods.METHODS[name]
    asked = methods.Task(this.bed, this.concept, this.size.shrink)
    if method.make is None:
      params[name], seconds[name] = params["original"], (0.0, 0.0)
    else:
      concept = None if method.concept is None else method.concept(asked)
      made = study.unlearn(this, method.make(asked), trained.original, concept)
      params[name] = made.value
      each = made.seconds_run / len(this.seeds)
      seconds[name] = made.seconds_compile, each
    progress.update(task, advance=1, description=f"attacking {name}")
    if method.maker is not None:
      makers[name] = method.maker(asked)
    found[name] = measure(params[name], makers.get(name))
    progress.advance(task)
  prompted = {}
  if attacked:
    attack = prompts.make_attack(this, trained)
    for name, values in params.items():
      progress.update(task, description=f"attacking the prompts of {name}")
      # It samples with plain guidance only.
      if name not in makers:
        prompted[name] = attack(values)
      progress.advance(task)
  first = {
    name: jax.tree.map(lambda leaf: leaf[0], values)
    for name, values in params.items()
    if name in names and methods.METHODS[name].make is not None
  }
  return Outcome(trained, found, prompted, seconds, first)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.audit_diffusion", argv)
  plan, shown = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, *shown)


if __name__ == "__main__":
  main()
