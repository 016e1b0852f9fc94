"""What a method holds on the device beside its arguments, in sizes of the params.

Question: how many copies of the params does a program of each method need beside
the original that it is given, and can they be told beforehand?

    python -m experiments.benchmarks.memory [--methods NAME,NAME] [--devices 8]

Each method of `ju.methods.defaults` is compiled for two widths of an MLP, and not
run. "beside" is what the program reserves for temporaries and results
(`memory_analysis`), as the slope over the size P of the params, so that rows and
activations, which do not grow with it, are left out. With `--devices` the params
lie on so many in equal shares, and "beside" is what each device reserves. On a CPU
XLA_FLAGS=--xla_force_host_platform_device_count=8 makes the devices.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import tyro

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.devices import program_bytes
from jaxunlearn.core.sharding import sharded
from jaxunlearn.models import MLP

from .. import common

CLASSES, ROWS, DIM, BATCH = 10, 64, 32, 8
WIDTHS = (384, 768)
FLOAT = 4  # Bytes of a parameter.


@dataclasses.dataclass(frozen=True)
class Options:
  """Measures the memory of every method, in copies of the params."""

  methods: Annotated[
    str, tyro.conf.arg(help="Names between commas, or all.")
  ] = "all"
  devices: Annotated[
    int, tyro.conf.arg(help="Over how many the params are split.")
  ] = 1
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


def program(name: str, width: int, devices: int = 1) -> tuple[int, int]:
  """Bytes of the params, and of what the method's program needs beside them."""
  model = from_linen(MLP(CLASSES, hidden=(width, width)))
  data = {
    "x": jax.ShapeDtypeStruct((ROWS, DIM), jnp.float32),
    "label": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
  }
  variables = jax.eval_shape(
    lambda key: model.init(key, jnp.zeros((1, DIM))), jax.random.key(0)
  )
  recipe = ju.Fit(optax.adam(1e-3), 60, BATCH)
  method = ju.methods.defaults(model, CLASSES, recipe)[name]
  mask = jax.ShapeDtypeStruct((ROWS,), jnp.bool_)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = FLOAT * sum(leaf.size for leaf in jax.tree.leaves(variables.params))
  run: Any = method
  if devices > 1:
    mesh = ju.core.make_mesh(jax.devices()[:devices], fsdp=devices)
    run = sharded(method, mesh, variables)
  return params, program_bytes(run, variables, data, mask, key)


def measure(name: str, devices: int = 1) -> dict[str, Any]:
  """A row: copies of the params beside the original, on each device."""
  (small, less), (large, more) = (program(name, w, devices) for w in WIDTHS)
  beside = (more - less) / (large - small)
  return {"method": name, "devices": devices, "beside": beside}


def main(options: Options) -> list[dict[str, Any]]:
  common.use_compilation_cache()
  model = from_linen(MLP(CLASSES))
  known = ju.methods.defaults(model, CLASSES, ju.Fit(optax.adam(1e-3), 60, 8))
  wanted = (
    tuple(known) if options.methods == "all" else options.methods.split(",")
  )
  with common.failing_on_bad_input():
    here = len(jax.devices())
    if not 1 <= options.devices <= here:
      raise ValueError(
        f"Expected --devices in 1 .. {here}, got {options.devices}."
      )
    for name in wanted:
      ju.core.checks.one_of(tuple(known), methods=name)
  rows = [measure(name, options.devices) for name in wanted]
  columns = {
    "method": "{method}",
    "copies of the params beside the original": "{beside:.2f}",
  }
  return common.show_rows("memory", columns, rows, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.memory"))
