"""The flags that every study has."""

from __future__ import annotations

import dataclasses
from typing import Annotated

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
