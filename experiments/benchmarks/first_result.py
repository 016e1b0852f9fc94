"""When a new process has its first unlearned model: cold, and with what was kept.

Question: how long does a process take from its start to its first result, with
nothing compiled before; with the persistent compilation cache of another; and
with the program itself too, as `jax.export` wrote it, so that nothing is traced?

    python -m experiments.benchmarks.first_result [--methods UNSIR] [--out FILE]

Every cell is a process of its own that imports, builds the method, serves one
request and ends. `jax.export` wants the extra `export`; without it there is no
third column.
"""

from __future__ import annotations

import dataclasses
import importlib.util
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
import numpy as np
import tyro

from .. import common
from .cold import arguments, library, method_of, work_of
from .cold_scripts import SCRIPTS, Work

WAYS = ("cold", "cached", "exported")
if importlib.util.find_spec("flatbuffers") is None:
  WAYS = WAYS[:2]


@dataclasses.dataclass(frozen=True)
class Options:
  """Times the first result of a new process, each way."""

  model: Annotated[str, tyro.conf.arg(help="MLP or ResNet-18.")] = "MLP"
  methods: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Of UNSIR, Bad Teacher, SCRUB, SSD.")
  ] = tuple(SCRIPTS)
  repeats: Annotated[int, tyro.conf.arg(help="Rounds; medians are shown.")] = 3
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None
  cell: Annotated[
    str | None,
    tyro.conf.arg(help="MODEL:METHOD[:PROGRAM], one process, as JSON."),
  ] = None


def from_file(name: str, work: Work, path: Path) -> Any:
  """The first result of an exported program, which is written if missing."""
  from jax import export

  *rest, key = arguments(name, work, 0)
  args = (*rest, jax.random.key_data(key))
  if not path.exists():
    method = method_of(name, work)

    def run(*leaves):
      *rest, data = jax.tree.unflatten(jax.tree.structure(args), leaves)
      return method(*rest, jax.random.wrap_key_data(data))[0].params

    program = export.export(jax.jit(run))(*jax.tree.leaves(args))
    path.write_bytes(program.serialize())
  program = export.deserialize(bytearray(path.read_bytes()))
  return jax.jit(program.call)(*jax.tree.leaves(args))


def serve(model: str, name: str, path: str = "") -> dict[str, float]:
  """Serves one request in this process; the seconds of it alone."""
  work = work_of(model)
  began = time.perf_counter()
  first = jax.block_until_ready(
    from_file(name, work, Path(path)) if path else library(name, work, 0)
  )
  seconds = time.perf_counter() - began
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first)):
    raise ValueError(f"Expected finite params of {name}, got others.")
  return {"request": seconds}


def process(model: str, name: str, way: str, folder: Path) -> dict[str, float]:
  """The seconds of a process of its own, imports included."""
  cache = tempfile.mkdtemp(dir=folder) if way == "cold" else folder / "cache"
  env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
  cell = f"{model}:{name}"
  cell += f":{folder / 'program'}" if way == "exported" else ""
  began = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-m", __spec__.name, "--cell", cell],
    env=env,
    capture_output=True,
    text=True,
    check=True,
  )
  seconds = time.perf_counter() - began
  return {"seconds": seconds, **json.loads(done.stdout)}


def measure(model: str, name: str, repeats: int) -> dict[str, Any]:
  """Medians of all ways, taking turns."""
  row: dict[str, Any] = {"model": model, "method": name}
  with tempfile.TemporaryDirectory() as made:
    folder = Path(made)
    for way in WAYS[1:]:  # Fills the cache, writes the program.
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
    common.use_compilation_cache()
    print(json.dumps(serve(*options.cell.split(":"))))
    return []
  rows = [
    measure(options.model, name, options.repeats) for name in options.methods
  ]
  columns = {
    "method": "{method}",
    **{f"{way} s": f"{{{way}_seconds:.2f}}" for way in WAYS},
    "of it the request": ", ".join(f"{{{way}_request:.2f}}" for way in WAYS),
  }
  return common.show_rows("first_result", columns, rows, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.first_result"))
