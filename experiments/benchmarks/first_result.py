"""When a new process has its first unlearned model: cold, cached and exported.

Question: how long does a process take from its start to its first result, with
nothing compiled before, with the persistent compilation cache, and with a program
that another process traced and exported, and the cache beside it?

    python -m experiments.benchmarks.first_result [--methods UNSIR] [--out FILE]

Every cell is a process of its own that imports, builds the method, serves one
request and ends. "exported" reads the StableHLO that `jax.export` wrote: nothing
is traced, but what is not in the cache is compiled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from jaxunlearn.report import write_json

from .. import common
from .cold import method_of, work_of
from .cold_scripts import SCRIPTS

WAYS = ("cold", "cached", "exported")


@dataclasses.dataclass(frozen=True)
class Options:
  """Times the first result of a new process, three ways."""

  model: Annotated[str, tyro.conf.arg(help="MLP or ResNet-18.")] = "MLP"
  methods: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Of UNSIR, Bad Teacher, SCRUB, SSD.")
  ] = tuple(SCRIPTS)
  repeats: Annotated[int, tyro.conf.arg(help="Rounds; medians are shown.")] = 3
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None
  cell: Annotated[
    str | None,
    tyro.conf.arg(help="MODEL:METHOD:WAY:FOLDER, one process, as JSON."),
  ] = None


def serve(model: str, name: str, way: str, folder: Path) -> dict[str, float]:
  """One request in this process, and the seconds from before its import."""
  work = work_of(model)
  method = method_of(name, work)
  data = {"x": jnp.asarray(work.x), "label": jnp.asarray(work.label)}
  mask = data["label"] == 3
  args = (work.original, data, mask)
  leaves, tree = jax.tree.flatten(args)

  # Arrays alone cross a file: structures are the reader's.
  def flat(seed: jax.Array, *leaves: jax.Array) -> list[jax.Array]:
    variables, data, mask = tree.unflatten(leaves)
    unlearned, _ = method(variables, data, mask, jax.random.key(seed))
    return jax.tree.leaves(unlearned.params)

  kept = folder / "program.stablehlo"
  seed = jnp.int32(0)
  if way == "write":
    made = jax.export.export(jax.jit(flat))(seed, *leaves)
    kept.write_bytes(made.serialize())
  run = jax.jit(flat)
  if way in ("exported", "write"):
    run = jax.jit(jax.export.deserialize(bytearray(kept.read_bytes())).call)
  began = time.perf_counter()
  first = jax.block_until_ready(run(seed, *leaves))
  served = time.perf_counter()
  assert all(np.isfinite(leaf).all() for leaf in first)
  return {"request": served - began}


def process(model: str, name: str, way: str, folder: Path) -> dict[str, float]:
  """The seconds of a process of its own, imports included."""
  cache = tempfile.mkdtemp(dir=folder) if way == "cold" else folder / "cache"
  env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
  command = [sys.executable, "-m", __spec__.name, "--cell"]
  began = time.perf_counter()
  done = subprocess.run(
    [*command, f"{model}:{name}:{way}:{folder}"],
    env=env,
    capture_output=True,
    text=True,
    check=True,
  )
  seconds = time.perf_counter() - began
  return {"seconds": seconds, **json.loads(done.stdout)}


def measure(model: str, name: str, repeats: int) -> dict[str, Any]:
  """Medians of the three ways, taking turns."""
  row: dict[str, Any] = {"model": model, "method": name}
  with tempfile.TemporaryDirectory() as made:
    folder = Path(made)
    for way in ("cached", "write"):  # Fill the cache and the file.
      process(model, name, way, folder)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
      for way in WAYS:
        found[way].append(process(model, name, way, folder))
  for way, runs in found.items():
    for what in ("seconds", "request"):
      row[f"{way}_{what}"] = statistics.median(each[what] for each in runs)
  return row


def main(options: Options) -> list[dict[str, Any]]:
  if options.cell is not None:
    model, name, way, folder = options.cell.split(":", 3)
    common.use_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    print(json.dumps(serve(model, name, way, Path(folder))))
    return []
  rows = [
    measure(options.model, name, options.repeats) for name in options.methods
  ]
  table = Table("method", *(f"{way} s" for way in WAYS), "of it the request")
  for row in rows:
    table.add_row(
      row["method"],
      *(f"{row[f'{way}_seconds']:.2f}" for way in WAYS),
      ", ".join(f"{row[f'{way}_request']:.2f}" for way in WAYS),
    )
  Console().print(table)
  if options.out is not None:
    write_json(
      options.out,
      {"benchmark": "first_result", "device": common.device(), "rows": rows},
    )
  return rows


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.first_result"))
