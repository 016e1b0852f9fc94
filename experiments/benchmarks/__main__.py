"""Every figure of the table in one run.

    python -m experiments.benchmarks [--preset cpu|gpu] [--only PART ...] --out DIR

Each part is a benchmark of this folder in a process of its own, so that none
inherits another's programs or memory; `python -m experiments.benchmarks.PART
--help` says what it asks. The folder gets results.json (all rows, with versions
and the machine's load before each part) and table.md, a page for the
documentation. A part that fails is named and leaves its rows empty. About half an
hour on two idle cores.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from jaxunlearn.report import write_json
from jaxunlearn.report.files import write_text

from .. import common

# Flags by preset; a part without a preset's flags is not for such a machine.
_SAME = {"cpu": (), "gpu": ()}
PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
  "peers": {"cpu": ()},  # PyTorch's side runs on the CPU.
  "end_to_end": {"cpu": ()},  # Likewise.
  "cold": _SAME,
  "first_result": _SAME,
  "requests": _SAME,
  "scoring": {"cpu": ()},  # Reads the process's resident memory.
  "memory": _SAME,
  "per_sample_memory": {"cpu": ()},  # Reads the process's resident memory.
  "text_losses": {"cpu": ()},  # Likewise.
  "valuation": _SAME,
  "convolution": {"cpu": ()},  # Compares two forms that are XLA:CPU's.
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Runs the benchmarks one after the other, and gathers their figures."""

  out: Annotated[str, tyro.conf.arg(help="Folder for results and the page.")]
  preset: Annotated[
    Literal["cpu", "gpu"], tyro.conf.arg(help="The kind of machine.")
  ] = "cpu"
  only: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Parts to run; all by default.")
  ] = tuple(PARTS)


def run(name: str, flags: tuple[str, ...]) -> dict[str, Any]:
  """What one part wrote, or why it did not, and its time and the load."""
  found: dict[str, Any] = {"load": os.getloadavg()[0], "rows": []}
  began = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder) / "out"
    module = f"{__package__}.{name}"
    command = [sys.executable, "-m", module, *flags, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    written = out / "results.json" if out.is_dir() else out
    if written.exists():
      found["rows"] = json.loads(written.read_text())["rows"]
    if done.returncode:
      lines = done.stderr.strip().splitlines() or ["no message"]
      found["failed"] = lines[-1]
  command_line = " ".join(["python", "-m", module, *flags])
  seconds = time.perf_counter() - began
  return {"command": command_line, "seconds": seconds, **found}


def flattened(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
  """One level: `{"library": {"seconds": 1}}` is `{"library seconds": 1}`."""
  flat: dict[str, Any] = {}
  for name, value in row.items():
    name = f"{before}{name}".replace("_", " ")
    if isinstance(value, Mapping) and set(value) == {"median", "low", "high"}:
      low, high = shown(value["low"]), shown(value["high"])
      flat[name] = f"{shown(value['median'])} ({low} to {high})"
    elif isinstance(value, Mapping):
      flat |= flattened(value, f"{name} ")
    elif isinstance(value, list):
      flat[name] = ", ".join(map(shown, value))
    else:
      flat[name] = value
  return flat


def shown(value: Any) -> str:
  if value is None:
    return ""
  if isinstance(value, float):
    # Thousands as they are, without an exponent.
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
  return f"{value:,}" if type(value) is int else str(value)


def markdown(rows: list[Mapping[str, Any]]) -> str:
  """The rows as a table, a column a figure; one that is always empty is none.

  Rows that say of which part they are get a table for each.
  """
  parts = dict.fromkeys(row.get("part") for row in rows)
  if len(parts) > 1:
    of = lambda part: [
      dict(row, part=None) for row in rows if row["part"] == part
    ]
    return "\n\n".join(
      f"### {part.capitalize()}\n\n{markdown(of(part))}" for part in parts
    )
  flat = [flattened(row) for row in rows]
  columns = dict.fromkeys(
    name for row in flat for name, value in row.items() if value is not None
  )
  lines = [list(columns), ["---"] * len(columns)]
  lines += [[shown(row.get(name)) for name in columns] for row in flat]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(parts: Mapping[str, Mapping[str, Any]], preset: str) -> str:
  """All parts as a page of the documentation."""
  versions = common.environment()
  pieces = [
    "# Benchmarks",
    f"`python -m experiments.benchmarks --preset {preset}`, JAX "
    f"{versions['jax']}, Python {versions['python']}, {common.device()}.",
  ]
  for name, part in parts.items():
    pieces += [
      f"## {name.replace('_', ' ').capitalize()}",
      f"`{part['command']}`: {part['seconds']:.0f} s, load {part['load']:.1f} "
      "before it.",
    ]
    if "failed" in part:
      pieces.append(f"Failed: {part['failed']}")
    if part["rows"]:
      pieces.append(markdown(part["rows"]))
  return "\n\n".join(pieces) + "\n"


def main(options: Options) -> None:
  console = Console()
  with common.failing_on_bad_input():
    for name in options.only:
      if options.preset not in PARTS.get(name, {}):
        able = ", ".join(n for n, at in PARTS.items() if options.preset in at)
        raise ValueError(f"Expected --only of {able}, got {name!r}.")
    with common.staged_output(options.out) as out:
      parts = {}
      for name in dict.fromkeys(options.only):
        with console.status(name):
          parts[name] = run(name, PARTS[name][options.preset])
        failed = parts[name].get("failed")
        console.print(
          f"{parts[name]['seconds']:7.1f} s  {name}"
          + (f" failed: {failed}" if failed else "")
        )
      result = {
        "benchmark": "all",
        "preset": options.preset,
        "device": common.device(),
        "environment": common.environment(),
        "parts": parts,
      }
      write_json(out / "results.json", result)
      write_text(out / "table.md", page(parts, options.preset))
  if any("failed" in part for part in parts.values()):
    raise SystemExit(1)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks"))
