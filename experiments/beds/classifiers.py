"""Classifiers: the flags, rows, models and requests that studies of them share."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import jax
import numpy as np

import jaxunlearn as ju
from jaxunlearn import requests
from jaxunlearn.core.keys import derive
from jaxunlearn.core.types import PyTree

from .. import bench, data
from ..bench import cautions
from ..datasets import classes, splits
from ..datasets import superclasses as groups
from ..flags import described
from ..requests import Ask
from . import models
from .recipes import PUBLISHED, RECIPES, Published, Recipe


@dataclasses.dataclass(frozen=True)
class Options(bench.TrainingOptions):
  """The flags of a study of classifiers; each adds to them.

  Attributes:
    published: recipes of the paper that the study is about.
  """

  published: ClassVar[Published] = PUBLISHED

  data: Annotated[
    str,
    described(
      "Rows to train and test on: digits and breast-cancer (ship with "
      "scikit-learn), cifar10, adult, mufac, mucac, faces:DIR (a folder of faces "
      "with identities.csv) or npz:PATH, a file with x [N, ...] and "
      "integer classes y [N], and perhaps x_test and y_test; any further array "
      "[N] is a column for group requests. csv:PATH and parquet:PATH: a table "
      "with a header and a column y, label or target."
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

  superclasses: Annotated[
    str | None,
    described(
      "Groups of classes, which the model then tells in their place, as in "
      "'round=0,6,8,9;straight=1,4,7;open=2,3,5'; or a .csv with the columns class "
      "and superclass, or a column of the data with every row's.",
      "TEXT",
    ),
  ] = None

  request: Annotated[
    str | None,
    described(
      "What to forget: class:3,5 (all rows of these classes), superclass:NAME "
      "and subclass:3,5 (with --superclasses), random:0.1 (a "
      "tenth of the rows), index:FILE (a row number a line, or an .npy of "
      "numbers or of bools), group:COLUMN=VALUE, worst:0.1 or easiest:0.1 (the "
      "tenth that is hardest or easiest to forget, of groups by "
      "worst:COLUMN=0.1), or each-class (every class by "
      "itself). Several with semicolons between, in quotes: "
      "'class:0;class:1;random:0.1'; class:3 by default.",
      "TEXT",
    ),
  ] = None


# Steps of the upper level of a search for the worst rows.
WORST_STEPS = {"smoke": 3, "quick": 12, "paper": 20}


class Extra(NamedTuple):
  """What else methods are built from, in `Bed.extra`.

  Attributes:
    num_classes: C.
    aside: rows {"x", "label"} that are neither trained nor tested on.
  """

  num_classes: int
  aside: PyTree


class Setup(NamedTuple):
  """A data set and a model that fits it."""

  dataset: data.Dataset
  model: ju.Model
  given: ju.Variables | None


@functools.lru_cache(maxsize=2)
def set_up(
  source: str,
  name: str,
  checkpoint: str | None,
  count: int | None,
  preset: str,
  data_dir: str | None,
  superclasses: str | None,
  stamps: tuple[int, ...],
) -> Setup:
  """Loads and checks what `Options` names; `stamps` are when files were made.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  del stamps
  dataset = data.load(
    source, preset=preset, data_dir=data_dir, empty_classes=True
  )
  if superclasses is not None:
    dataset = groups.grouped(dataset, superclasses)
  if name in models.NAMES:
    dataset = data.with_floats(dataset)
    if count is not None:
      dataset = data.with_classes(dataset, count, "--classes")
    elif checkpoint is None:
      data.check_every_class(dataset, source)
    model = models.load(name, dataset, preset)
  else:
    if count is not None:
      raise ValueError(
        f"Expected --classes with --model {', '.join(models.NAMES)} alone, got "
        f"{name!r}, which says how many it tells."
      )
    model = models.load(name, dataset, preset)
    outputs = models.num_outputs(model, dataset)
    dataset = data.with_classes(dataset, outputs, "--model")
  given = None
  if checkpoint is not None:
    if dataset.is_split_here:
      raise ValueError(
        "Expected x_test and y_test in the data of a model that was trained "
        "elsewhere (--checkpoint), got neither: rows of x are no test of it."
      )
    given = models.load_checkpoint(checkpoint, model, dataset.train["x"])
  return Setup(dataset, model, given)


def setup_of(options: Options) -> Setup:
  return set_up(
    options.data,
    options.model,
    options.checkpoint,
    options.classes,
    options.preset,
    options.data_dir,
    options.superclasses,
    tuple(
      map(
        _stamp,
        (
          options.data.partition(":")[2],
          options.checkpoint,
          options.superclasses,
        ),
      )
    ),
  )


def _stamp(path: str | None) -> int:
  with contextlib.suppress(OSError, ValueError):
    return Path(path or "nowhere").stat().st_mtime_ns
  return 0


def kind_of(options: Options) -> str:
  """The row of tables of settings."""
  if options.model in RECIPES:
    return options.model
  return "mlp" if setup_of(options).dataset.train["x"].ndim == 2 else "cnn"


def recipe_of(options: Options) -> Recipe:
  """How the models of these options are trained.

  Raises:
    ValueError: a flag that is not positive.
  """
  bench.given(options, {"classes": "classes"})
  names = {"train_steps": "num_steps", "learning_rate": "learning_rate"}
  given = bench.given(options, {**names, "batch_size": "batch_size"})
  at = options.data, options.model, options.preset
  usual = RECIPES[kind_of(options)][options.preset]
  recipe = options.published.get(at, usual)
  return recipe._replace(**given)


def beds(
  options: Options,
  seeds: Sequence[int],
  part: str,
  asks: Sequence[Ask],
  *,
  one_split: bool = False,
  public: float | None = None,
) -> bench.Beds:
  """Rows, divided once per seed; of own test rows, once and for all.

  With `one_split` all seeds have the rows of the first; with `public` a share of
  them is never deleted and standardises the others.
  """
  dataset, model, given = setup_of(options)
  recipe, pinned = recipe_of(options), classes.pinned(asks, dataset)
  search = requests.Search(
    WORST_STEPS[options.preset], batch_size=recipe.batch_size
  )
  stay = None if public is None else classes.public_rows(dataset, public)
  found = []
  for seed in seeds:
    own = seeds[0] if one_split else seed
    rows = classes.split(dataset, own, part, pinned, stay)
    probe = functools.partial(
      _extreme, model, recipe, search, given, rows.train, seed
    )
    found.append(rows._replace(probe=probe))
  arrays = [(split.train, split.test, split.aside) for split in found]

  def make(shared: PyTree, own: PyTree) -> bench.Bed:
    train, test, aside = own if shared is None else shared
    extra = Extra(dataset.num_classes, aside)
    return bench.Bed(model, train, test, recipe, extra)

  return bench.Beds(
    *splits.per_seed(arrays, one_split or dataset.pool is None),
    make,
    found,
    {
      "recipe": recipe._asdict(),
      "train_rows": len(found[0].train["label"]),
      "test_rows": len(found[0].test["label"]),
    },
    given,
    dataset,
    model,
  )


def _extreme(
  model: ju.Model,
  recipe: Recipe,
  search: requests.Search,
  given: ju.Variables | None,
  train: data.Rows,
  seed: int,
  share: float,
  easiest: bool,
  unit: np.ndarray | None,
) -> np.ndarray:
  """See `classes.Split.probe`: by a model of its own, unless one was given."""
  rows = len(train["label"])
  unit = np.arange(rows) if unit is None else unit
  size = int(unit.max()) + 1
  if size < 2:
    raise ValueError(f"Expected several groups to choose from, got {size}.")
  count = min(max(1, round(share * size)), size - 1)
  key = derive(jax.random.key(seed), "worst case")
  found = _searched(
    *(model, recipe, search, size, given, train, unit),
    *(np.int32(count), np.bool_(easiest), key),
  )
  return np.asarray(found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _searched(
  model, recipe, search, size, given, train, unit, count, easiest, key
):
  """Training and search in one program, whatever the share and the side."""
  variables = given
  if variables is None:
    everything = np.ones(len(unit), bool)
    train_key = derive(key, "train")
    variables = ju.train(model, train, everything, train_key, recipe.fit)[0]
  return requests.worst_case(
    *(model, variables, train, count, derive(key, "search"), search),
    easiest=easiest,
    units=unit,
    num_units=size,
  ).mask


def kinds() -> dict[str, bench.Kind]:
  """What can be asked of rows with classes; marks are test rows, see `mask`."""
  return {
    kind: bench.Kind(form, functools.partial(classes.mask, kind))
    for kind, form in classes.FORMS.items()
  }


def spell(options: Options, text: str) -> str:
  """See `classes.spell`."""
  in_sequence = getattr(options, "sequence", False)
  return classes.spell(text, setup_of(options).dataset, in_sequence)


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  return ju.train(bed.model, bed.data, weights, key, bed.recipe.fit)


def keep(bed: bench.Bed, forget: jax.Array, key: jax.Array):
  """Training that keeps what amnesiac unlearning takes back."""
  return ju.methods.train_logged(
    bed.model, bed.data, forget, key, bed.recipe.fit
  )


def touched(plan: bench.Plan, masks: np.ndarray) -> int:
  """The most classes of which any of some masks [R, S, N] has a row."""
  return max(
    len(np.unique(split.train["label"][mask]))
    for of_seed in masks
    for split, mask in zip(plan.beds.sources, of_seed)
  )


def notes(plan: bench.Plan) -> tuple[str, ...]:
  """What the user should know of data and requests."""
  return (
    *setup_of(plan.options).dataset.notes,
    *cautions.of_few(plan.requests),
  )
