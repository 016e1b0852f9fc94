"""What `--help` says, beside the flags: methods, requests, presets.

    python -m experiments.manual

writes the help of all programs into `manuals.json`, from which they answer
without importing JAX. Written for other sources it is not used.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any
from unittest import mock

from . import launch

WIDTH = 80
# Of methods by name, or by the first words of it; baselines without one are not
# here.
SOURCES = {
  "acu": "2505.12239",
  "adv_unlearn": "2405.15234",
  "amnesiac": "AAAI 2021",
  "bad_teacher": "2205.08096",
  "banzhaf": "2205.15466",
  "beta_shapley": "2110.14049",
  "blindspot": "2210.08196",
  "boundary": "2303.11570",
  "causal_isolation": "2504.12996",
  "ceu": "2503.01224",
  "cf_k": "2201.06640",
  "clu": "2408.11374",
  "concept_ablation": "2303.13516",
  "concept_poison": "2405.15662",
  "d2dgn": "2309.16173",
  "data_oob": "2304.07718",
  "derpp": "2004.07211",
  "distributional_shapley": "2002.12334",
  "dmm": "2410.23232",
  "doco": "2405.15304",
  "dp2": "2504.13774",
  "diverge": "2411.00204",
  "dpo": "2305.18290",
  "eco": "2406.07933",
  "ecoval": "2402.09288",
  "esd": "2303.07345",
  "eu_k": "2201.06640",
  "ewc": "1612.00796",
  "experience_replay": "1902.10486",
  "fisher_forgetting": "1911.04933",
  "flat": "2410.11143",
  "forget_me_not": "2303.17591",
  "gaussian_amnesiac": "2210.08196",
  "gkt": "2201.05629",
  "gnndelete": "2302.13406",
  "guard": "2505.13312",
  "iau": "2507.23257",
  "idk": "2401.06121",
  "ihl": "2408.06621",
  "influence_unlearning": "1703.04730",
  "kl": "2401.06121",
  "knn_shapley": "1908.08619",
  "l1_sparse": "2304.04934",
  "laf": "2404.00506",
  "loku": "2408.06621",
  "lwf": "1606.09282",
  "mmrecun": "2405.15328",
  "neggrad_plus": "2302.09880",
  "newton_step": "1703.04730",
  "npo": "2404.05868",
  "o3": "2407.10223",
  "oracle_matching": "2410.23232",
  "pdu": "2506.05314",
  "random_label": "2310.12508",
  "rmu": "2403.03218",
  "s3t": "2406.16257",
  "safe_guidance": "2211.05105",
  "safegen": "2404.06666",
  "salun": "2310.12508",
  "satimp": "2505.11953",
  "scrub": "2302.09880",
  "sdd": "2307.05977",
  "sfd": "2409.11219",
  "simnpo": "2410.07163",
  "sisa": "1912.03817",
  "ssd": "2308.07707",
  "ssd_adaptive": "2402.10098",
  "tame": "2210.03869",
  "tmc_shapley": "1904.02868",
  "uce": "2308.14761",
  "undial": "2402.10052",
  "unsir": "2111.08947",
  "wga": "2502.19301",
  "zero_shot_noise": "2201.05629",
}
_PROGRAM = re.compile(r"^main, __getattr__ = program\(", re.M)


def write() -> None:
  """Writes the help of every program."""
  found = {"sources": launch.sources()}
  for path in sorted(launch.ROOT.glob("*.py")):
    if _PROGRAM.search(path.read_text()):
      found[path.stem] = text(path.stem)
  launch.MANUALS.write_text(json.dumps(found, indent=1) + "\n")


def text(name: str) -> str:
  """The help of a program, as it is printed; at most 80 columns wide."""
  module = importlib.import_module(f"{__package__}.studies.{name}")
  study = getattr(module, "STUDY", None)
  parts = [
    *map(_wrapped, (module.__doc__ or "").strip().split("\n\n")),
    _flags(module.Options, name),
    *([] if study is None else _sections(study)),
  ]
  return "\n\n".join(parts)


def _wrapped(paragraph: str) -> str:
  """Prose in the width of the help; commands stay as they are."""
  if paragraph.startswith(" "):
    return paragraph
  return textwrap.fill(" ".join(paragraph.split()), WIDTH)


def _flags(options: type, name: str) -> str:
  """What tyro says of the flags."""
  from . import flags

  said = io.StringIO()
  plain = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
  with (
    contextlib.suppress(SystemExit),
    contextlib.redirect_stdout(said),
    mock.patch.dict(os.environ, plain),
  ):
    flags.parse(options, f"python -m experiments.{name}", ["--help"])
  # A program of few flags names them all in a line.
  lines = (
    textwrap.fill(line, WIDTH, subsequent_indent="  ")
    if line.startswith("usage:")
    else line.rstrip()
    for line in said.getvalue().splitlines()
  )
  return "\n".join(lines)


def _sections(study: Any) -> Iterator[str]:
  width = max(map(len, study.methods)) + 2
  lines = []
  for name, method in study.methods.items():
    source = _source(name.partition(":")[0])
    head = f"  {name:{width}}{source:12}"
    lines += textwrap.wrap(
      f"{head}{method.access}".rstrip() or head,
      WIDTH,
      subsequent_indent=" " * len(head),
      drop_whitespace=True,
    )
  yield "\n".join(
    ["methods, their source (arXiv) and the data they read:", *lines]
  )
  if study.kinds:
    forms = ", ".join(kind.form for kind in study.kinds.values())
    yield textwrap.fill(f"requests: {forms}", WIDTH, subsequent_indent="  ")
  said = f"presets: {', '.join(_presets(study))}"
  yield textwrap.fill(said, WIDTH, subsequent_indent="  ")


def _presets(study: Any) -> Iterator[str]:
  hints = typing.get_type_hints(study.options)
  for preset in typing.get_args(hints["preset"]):
    options = study.options(preset=preset)
    few = study.smoke if preset == "smoke" else None
    methods = f"; {', '.join(few)}" if few else ""
    yield f"{preset} ({study.seeds(options)} seeds{methods})"


def _source(name: str) -> str:
  """The paper of a method, by the longest name that its own begins with."""
  known = [key for key in SOURCES if f"{name}_".startswith(f"{key}_")]
  return SOURCES[max(known, key=len)] if known else ""


if __name__ == "__main__":
  write()
