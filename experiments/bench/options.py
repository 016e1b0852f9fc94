"""The flags that every study has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from .. import flags
from ..flags import described


@dataclasses.dataclass(frozen=True)
class CommonOptions:
  """What can be asked of any study; each adds its own, or words one anew."""

  request: Annotated[
    str | None,
    described("What to forget; several with semicolons between.", "TEXT"),
  ] = None

  methods: Annotated[
    str, described("Methods: all, or names with commas between.")
  ] = "all"

  seeds: flags.Seeds = None

  first_seed: flags.FirstSeed = 0

  preset: flags.Preset = "quick"

  strategy: Annotated[
    str | None,
    described(
      "How requests and seeds share the device: vmap (all at once), map (one "
      "after the other) or so many at a time; chosen by device by default.",
      "vmap|map|INT",
    ),
  ] = None

  tune: Annotated[
    int | None,
    described(
      "Choose the methods' settings first, of so many each, on rows, requests "
      "and seeds that are not reported; by default they have those of the study.",
      "INT",
    ),
  ] = None

  write_settings: Annotated[
    str | None,
    described(
      "With --tune: add the chosen settings to this JSON file, from which the "
      "study can take its defaults, and do nothing else.",
      "FILE",
    ),
  ] = None

  certificate: Annotated[
    str | None,
    described(
      "Write certificate.html and .json, one page that answers the request, for "
      "the model of this method.",
      "METHOD",
    ),
  ] = None

  retrain: Annotated[
    bool,
    described(
      "Without it, and with --checkpoint and --certificate, no model is trained "
      "without the rows, where that is impossible: the certificate says what can "
      "be said from rows that were never trained on."
    ),
  ] = True

  data_dir: flags.DataDir = None

  out: flags.Out = "out"


@dataclasses.dataclass(frozen=True)
class RecipeOptions(CommonOptions):
  """Those of a study whose models are trained as the user says, full batch."""

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


@dataclasses.dataclass(frozen=True)
class TrainingOptions(RecipeOptions):
  """The same in batches."""

  batch_size: Annotated[
    int | None,
    described(
      "Rows a step, for training and for every method; the preset's by default.",
      "INT",
    ),
  ] = None


def given(options: Any, names: Mapping[str, str]) -> dict[str, Any]:
  """The flags that were given, under other names.

  Args:
    options: dataclass of flags.
    names: by flag what the result calls it.

  Raises:
    ValueError: one that is not above 0, or infinite.
  """
  found = {}
  for flag, name in names.items():
    value = getattr(options, flag)
    if value is None:
      continue
    if not 0 < value < float("inf"):
      raise ValueError(f"Expected --{flag.replace('_', '-')} > 0, got {value}.")
    found[name] = value
  return found
