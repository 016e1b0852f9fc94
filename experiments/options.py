"""Options that the experiments share, checked and turned into what they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax

from experiments import cautions, data, flags, methods, models, requests
from experiments.flags import described
from jaxunlearn import Model, Variables


@dataclasses.dataclass(frozen=True)
class Options:
  """What can be asked of an experiment; each adds to it or words it anew."""

  data: Annotated[
    str,
    described(
      "Rows to train and test on: digits and breast-cancer (ship with "
      "scikit-learn), cifar10, adult, or npz:PATH, a file with x [N, ...] and "
      "integer classes y [N], and perhaps x_test and y_test; any further array "
      "[N] is a column for group requests."
    ),
  ] = "digits"

  model: Annotated[
    str,
    described(
      "Network: mlp, cnn, resnet, vit, or package.module:factory, a function "
      "of yours that returns a Flax linen module or, given nnx.Rngs, an nnx "
      "module."
    ),
  ] = "mlp"

  checkpoint: Annotated[
    str | None,
    described(
      "Orbax checkpoint with the trained values of your model; without it the "
      "model is trained here first.",
      "DIR",
    ),
  ] = None

  classes: Annotated[
    int | None,
    described(
      "Classes that mlp, cnn, resnet or vit tells, where the rows lack some; by "
      "default as many as the labels have.",
      "INT",
    ),
  ] = None

  request: Annotated[
    str,
    described(
      "What to forget: class:3,5 (all rows of these classes), random:0.1 (a "
      "tenth of the rows), index:FILE (a row number a line, or an .npy of "
      "numbers or of bools), group:COLUMN=VALUE, or each-class (every class by "
      "itself). Several with semicolons between, in quotes: "
      "'class:0;class:1;random:0.1'; each is asked of the original model, unless "
      "--sequence is given."
    ),
  ] = "class:3"

  methods: Annotated[
    str,
    described(
      "How to forget: usual (" + ", ".join(methods.USUAL) + "), all, or names "
      "as in unsir,bad_teacher,finetune."
    ),
  ] = "usual"

  seeds: flags.Seeds = None

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/forget"

  train_steps: Annotated[
    int | None,
    described(
      "Steps of training and retraining; the preset's by default.", "INT"
    ),
  ] = None

  learning_rate: Annotated[
    float | None,
    described(
      "Adam's, for training and retraining; the preset's by default.", "FLOAT"
    ),
  ] = None

  batch_size: Annotated[
    int | None,
    described(
      "Rows a step, for training and for every method; the preset's by default.",
      "INT",
    ),
  ] = None

  strategy: Annotated[
    str | None,
    described(
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
  notes: tuple[str, ...] = ()

  @property
  def needs_ledger(self) -> bool:
    """Whether a method needs what is kept while the original is trained."""
    return any(methods.METHODS[name].needs_ledger for name in self.settings)


def prepare(
  options: Options,
  seeds: Mapping[str, Mapping[str, int]],
  *,
  trains_original: bool = True,
  sequence: bool = False,
) -> Plan:
  """Checks everything that can be checked before training.

  Args:
    options: of the experiment.
    seeds: how many by preset, for "digits" and for any "other" data.
    trains_original: whether the original model is trained here, so that what
      some methods want kept meanwhile is to be had.
    sequence: whether the requests are served one after the other.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check(options)
  _check_numbers(options)
  # First without the data, which may be large.
  methods.choose(options.methods, has_ledger=trains_original)
  strategy = _strategy(options)
  dataset = data.load(
    options.data,
    preset=options.preset,
    data_dir=options.data_dir,
    empty_classes=True,
  )
  dataset, model = _fitted(options, dataset)
  asked = requests.parse(options.request, dataset, sequence=sequence)
  chosen = methods.choose(
    options.methods,
    has_ledger=trains_original,
    leaves_classes=asked.num_touched < dataset.num_classes,
    takes_floats=dataset.train["x"].dtype.kind == "f",
  )
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
  usual = seeds[options.preset]
  return Plan(
    options,
    dataset,
    model,
    variables,
    asked,
    recipe,
    {n: methods.settings_for(n, kind, options.preset) for n in chosen},
    options.seeds or usual.get(options.data, usual["other"]),
    strategy,
    (*dataset.notes, *cautions.cautions(dataset, asked)),
  )


def _fitted(
  options: Options, dataset: data.Dataset
) -> tuple[data.Dataset, Model]:
  """Data and model, with as many classes as the model tells."""
  if options.model in models.NAMES:
    dataset = data.with_floats(dataset)
    if options.classes is not None:
      dataset = data.with_classes(dataset, options.classes, "--classes")
    elif options.checkpoint is None:
      data.check_every_class(dataset, options.data)
    return dataset, models.load(options.model, dataset, options.preset)
  if options.classes is not None:
    raise ValueError(
      f"Expected --classes with --model {', '.join(models.NAMES)} alone, got "
      f"{options.model!r}, which says how many it tells."
    )
  model = models.load(options.model, dataset, options.preset)
  count = models.num_outputs(model, dataset)
  return data.with_classes(dataset, count, "--model"), model


def _check_numbers(options: Options) -> None:
  for name in (
    "seeds",
    "train_steps",
    "batch_size",
    "learning_rate",
    "classes",
  ):
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
  if text.isdecimal() and 0 < len(text) < 10 and int(text) > 0:
    return int(text)
  raise ValueError(
    f"Expected --strategy vmap, map or a positive integer, got {text!r}."
  )
