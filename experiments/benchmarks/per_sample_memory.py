"""What the per-sample kernels need beside the data, for few rows and for many.

Question: is the memory of per-example losses, gradient norms, gradient dots, a
Gram matrix with a few queries, a curvature product and influence scores the same
for 1,000 and for 50,000 rows, and what would it be without chunks?

    python -m experiments.benchmarks.per_sample_memory

Every cell is a process of its own. "reserved" is what the compiled program
reserves beside its arguments and results (`memory_analysis`); "peak" is how far
the process's resident memory rises above its level just before the call, when
data and program are there already, less the size of the results; it holds the
threads and buffers that a process's first call sets up, up to 10 MiB. "all at
once" is reserved memory with a single chunk of all rows, which is compiled and
not run. One to three minutes on two CPU cores; needs Linux.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.metrics import influence, per_example
from jaxunlearn.models import MLP

from .. import common

DIM, QUERIES = 64, 4
KERNELS = ("losses", "norms", "dots", "gram", "curvature", "influence")
MIB = 2.0**20


@dataclasses.dataclass(frozen=True)
class Options:
  """Measures the memory of the per-sample kernels."""

  rows: Annotated[
    tuple[int, ...], tyro.conf.arg(help="Numbers of rows to compare.")
  ] = (1_000, 50_000)
  chunk: Annotated[int, tyro.conf.arg(help="Rows at a time.")] = 100
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None
  cell: Annotated[
    str | None,
    tyro.conf.arg(help="KERNEL:ROWS:CHUNK, one cell alone, as JSON."),
  ] = None


def kernel(name: str, chunk_size: int):
  """`(variables, data, query) -> results` of one kernel, and its variables."""
  model = from_linen(MLP(num_classes=10, hidden=(128, 128)))
  variables = model.init(jax.random.key(0), jnp.zeros((1, DIM)))
  size = {"chunk_size": chunk_size}

  def run(variables, data, query):
    args = (model, variables, data)
    if name == "losses":
      return per_example.per_example_loss(*args, **size)
    if name == "norms":
      return per_example.gradient_norms(*args, **size)
    if name == "dots":
      return per_example.gradient_dots(*args, variables, **size)
    if name == "gram":
      return per_example.gradient_gram(*args, query, **size)
    if name == "curvature":
      return influence.gauss_newton_vector_product(
        *args, variables.params, damping=0.1, **size
      )
    return influence.influence_scores(
      *args, query, damping=0.1, max_steps=5, **size
    )

  return run, variables


def rows_like(n: int) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    "x": jax.ShapeDtypeStruct((n, DIM), jnp.float32),
    "label": jax.ShapeDtypeStruct((n,), jnp.int32),
  }


def reserved(name: str, n: int, chunk_size: int) -> int:
  """Bytes of temporaries of the compiled program."""
  run, variables = kernel(name, chunk_size)
  shapes = (rows_like(n), rows_like(QUERIES))
  compiled = jax.jit(run).lower(variables, *shapes).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def resident(field: str) -> int:
  """A field of the process's memory, VmRSS or VmHWM, in bytes (Linux)."""
  for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(field):
      return int(line.split()[1]) * 1024
  raise RuntimeError(f"no {field} in /proc/self/status")


def measure(name: str, n: int, chunk_size: int) -> dict[str, Any]:
  """One cell, in a process of its own: reserved and peak bytes."""
  run, variables = kernel(name, chunk_size)
  make = jax.jit(
    lambda: jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), rows_like(n))
  )
  data = jax.block_until_ready(make())
  query = jax.tree.map(lambda leaf: leaf[:QUERIES], data)
  compiled = jax.jit(run).lower(variables, data, query).compile()
  stats = compiled.memory_analysis()
  Path("/proc/self/clear_refs").write_text("5")  # The peak counts from here.
  before = resident("VmRSS")
  result = jax.block_until_ready(compiled(variables, data, query))
  results = sum(leaf.nbytes for leaf in jax.tree.leaves(result))
  return {
    "kernel": name,
    "rows": n,
    "reserved": stats.temp_size_in_bytes,
    "peak": max(resident("VmHWM") - before - results, 0),
  }


def in_own_process(name: str, n: int, chunk_size: int) -> dict[str, Any]:
  """`measure` in a fresh interpreter, so that no cell sees another's peak."""
  command = [sys.executable, "-m", "experiments.benchmarks.per_sample_memory"]
  command += ["--cell", f"{name}:{n}:{chunk_size}"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise RuntimeError(done.stderr[-2000:])
  return json.loads(done.stdout)


def main(options: Options) -> list[dict[str, Any]]:
  common.use_compilation_cache()
  if options.cell is not None:
    name, n, chunk_size = options.cell.split(":")
    print(json.dumps(measure(name, int(n), int(chunk_size))))
    return []
  found = []
  for name in KERNELS:
    for n in options.rows:
      row = in_own_process(name, n, options.chunk)
      row["all_at_once"] = reserved(name, n, n)
      found.append(row)
  columns = {
    "kernel": "{kernel}",
    "rows": "{rows:,}",
    **{f"{name} MiB": f"{{{name}_mib:.3f}}" for name in ("reserved", "peak")},
    "all at once MiB": "{all_at_once_mib:.1f}",
  }
  sizes = ("reserved", "peak", "all_at_once")
  shown = [r | {f"{n}_mib": r[n] / MIB for n in sizes} for r in found]
  chunk = {"chunk_size": options.chunk}
  name = "per_sample_memory"
  return common.show_rows(name, columns, found, options.out, shown, **chunk)


if __name__ == "__main__":
  main(tyro.cli(Options))
