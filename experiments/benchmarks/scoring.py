"""LiRA scores of many rows under many shadow models: seconds and memory.

Question: is scoring as fast as vectorised NumPy, at what memory, and do a million
rows under 256 shadows fit 4 GiB?

    python -m experiments.benchmarks.scoring [--rows 50000 1000000] [--out FILE]

Every cell is a process of its own: it makes the statistics, scores one target and
reads its peak memory, imports and statistics included. "beside" is how much a warm
run held beside what was there before it, "compiling" what the program cost once.
Sides take turns; seconds are medians of warm runs. Both sides must give the same
scores to 1e-3. Peaks are Linux's, which lets a process begin a new one.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from jaxunlearn.attacks.lira import lira_scores
from jaxunlearn.report import write_json

from .. import common
from .peers_scoring import lira_in_numpy

SIDES = ("library", "numpy")
_GIB = 2**20  # In the KiB that `getrusage` counts.


@dataclasses.dataclass(frozen=True)
class Options:
  """Scores rows by LiRA, here and in NumPy."""

  rows: Annotated[tuple[int, ...], tyro.conf.arg(help="How many rows.")] = (
    50_000,
    1_000_000,
  )
  shadows: Annotated[int, tyro.conf.arg(help="Shadow models.")] = 256
  numpy_rows: Annotated[
    int, tyro.conf.arg(help="Above so many NumPy is not run.")
  ] = 200_000
  repeats: Annotated[int, tyro.conf.arg(help="Processes a side.")] = 3
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None
  cell: Annotated[
    str | None, tyro.conf.arg(help="SIDE:ROWS, one process, as JSON.")
  ] = None


def peak() -> float:
  """GiB that this process has held at most."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _GIB


def growth(work: Callable[[], Any]) -> tuple[Any, float]:
  """What the work gives, and the GiB that it held at most beside those held."""
  Path("/proc/self/clear_refs").write_text("5")  # A new peak begins here.

  def held(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / _GIB

  before = held("VmRSS")
  found = work()
  return found, held("VmHWM") - before


def serve(side: str, rows: int, shadows: int) -> dict[str, Any]:
  """Scores the rows in this process, warm; half of the shadows saw each."""
  rng = np.random.default_rng(0)
  shadow = rng.standard_normal((shadows, rows, 1), np.float32)
  target = rng.standard_normal((rows, 1), np.float32)
  masks = np.empty((shadows, rows), bool)
  first = rng.random(rows, np.float32) < 0.5
  for number in range(shadows):  # Balanced, without an order of random numbers.
    masks[number] = first if number % 2 else ~first
  score: Any = lira_in_numpy
  arrays: tuple[Any, ...] = (target, shadow, masks)
  compiling = 0.0
  if side == "library":
    arrays = jax.block_until_ready(tuple(map(jnp.asarray, arrays)))
    del shadow, masks
    score, compiling = growth(jax.jit(lira_scores).lower(*arrays).compile)

  def run() -> np.ndarray:
    return np.asarray(jax.block_until_ready(score(*arrays)))

  _, beside = growth(run)
  began = time.perf_counter()
  found = run()
  return {
    "seconds": time.perf_counter() - began,
    "peak_gib": peak(),
    "beside_gib": beside,
    "compiling_gib": compiling,
    "some": found[:: rows // 100].tolist(),
  }


def measure(rows: int, options: Options) -> list[dict[str, Any]]:
  """A row a side; medians of processes that take turns."""
  sides = SIDES if rows <= options.numpy_rows else SIDES[:1]
  found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
  command = [sys.executable, "-m", __spec__.name, "--cell"]
  for _ in range(options.repeats):
    for side in sides:
      cell = [f"{side}:{rows}", "--shadows", str(options.shadows)]
      done = subprocess.run(
        [*command, *cell], capture_output=True, text=True, check=True
      )
      found[side].append(json.loads(done.stdout))
  wanted = np.asarray(found["library"][0]["some"])
  made = []
  for side, runs in found.items():
    error = np.abs(np.asarray(runs[0]["some"]) - wanted) / (1 + np.abs(wanted))
    if error.max() > 1e-3:
      raise ValueError(
        f"Expected equal scores, got {side} off by {error.max()}."
      )
    names = ("seconds", "peak_gib", "beside_gib", "compiling_gib")
    medians = {n: statistics.median(run[n] for run in runs) for n in names}
    made.append(
      {"rows": rows, "shadows": options.shadows, "side": side} | medians
    )
  ours = made[0]["seconds"]
  return [row | {"over_library": row["seconds"] / ours} for row in made]


def main(options: Options) -> list[dict[str, Any]]:
  if options.cell is not None:
    common.use_compilation_cache()
    side, rows = options.cell.split(":")
    print(json.dumps(serve(side, int(rows), options.shadows)))
    return []
  rows = [row for count in options.rows for row in measure(count, options)]
  names = "seconds", "over_library", "peak_gib", "beside_gib", "compiling_gib"
  table = Table("rows", "side", *(name.replace("_", " ") for name in names))
  for row in rows:
    figures = [f"{row[name]:.3f}" for name in names]
    table.add_row(f"{row['rows']:,}", row["side"], *figures)
  Console().print(table)
  if options.out is not None:
    write_json(
      options.out,
      {"benchmark": "scoring", "device": common.device(), "rows": rows},
    )
  return rows


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.scoring"))
