"""How long the first request takes, beside the same algorithm as a script.

Question: does the library's one program for a whole method take more than three
times the time of a hand-written JAX script until the first result is there, and
which part of it is tracing, lowering and compiling?

    python -m experiments.benchmarks.cold [--models MLP] [--methods SSD] [--out FILE]

Every run starts with cleared caches and without the persistent one, so that all
programs are traced and compiled anew; sides take turns. The scripts
(`cold_scripts`) are jitted steps in Python loops. Times of tracing, lowering and
compiling are those that JAX reports, summed over all programs, which are
counted. "cpu" is CPU seconds, which other work on the machine moves less.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.transform import Transform
from jaxunlearn.models import MLP
from jaxunlearn.models.resnet import resnet18

from .. import common
from .cold_scripts import SCRIPTS, Work

CLASSES = 10
TARGET = 3.0  # Times the script's seconds, at most.
_EVENTS = {
  "/jax/core/compile/jaxpr_trace_duration": "trace",
  "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
  "/jax/core/compile/backend_compile_duration": "compile",
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Times the first request of four methods, here and in a script."""

  models: Annotated[
    tuple[str, ...], tyro.conf.arg(help="MLP, ResNet-18 or both.")
  ] = ("MLP", "ResNet-18")
  methods: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Of UNSIR, Bad Teacher, SCRUB, SSD.")
  ] = tuple(SCRIPTS)
  repeats: Annotated[int, tyro.conf.arg(help="Rounds; medians are shown.")] = 3
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


def work_of(name: str) -> Work:
  """Random rows for an MLP of digits' size, or a ResNet-18 on small images."""
  small = name == "ResNet-18"
  shape, n, batch = ((8, 8, 3), 32, 8) if small else ((64,), 640, 64)
  model = from_linen(resnet18(CLASSES) if small else MLP(CLASSES))
  rng = np.random.default_rng(0)
  label = (np.arange(n) % CLASSES).astype(np.int32)
  x = rng.normal(size=(n, *shape)).astype(np.float32)
  forget = label < 3 if small else label == 3
  original = jax.jit(model.init)(jax.random.key(0), x[:1])
  return Work(model, original, x, label, forget, 2 if small else 20, batch)


def method_of(name: str, work: Work) -> Transform:
  """The same in the library."""
  fit = lambda rate: ju.Fit(optax.adam(rate), work.steps, work.batch_size)
  if name == "UNSIR":
    return ju.methods.unsir(
      work.model,
      CLASSES,
      max_classes=1,
      noise=fit(0.1),
      impair=fit(0.02),
      repair=fit(0.01),
    )
  if name == "Bad Teacher":
    return ju.methods.bad_teacher(work.model, fit(1e-4), retain_fraction=1.0)
  if name == "SCRUB":
    return ju.methods.scrub(
      work.model,
      fit(1e-3),
      num_epochs=3,
      max_epochs=2,
      max_steps=work.steps,
      jitter=0.0,
    )
  return ju.methods.ssd(work.model, batch_size=work.batch_size)


def arguments(name: str, work: Work, seed: int) -> tuple[Any, ...]:
  """What a method is called with."""
  data = {"x": jnp.asarray(work.x), "label": jnp.asarray(work.label)}
  mask = work.forget
  if name == "UNSIR":  # One class, as `max_classes` says.
    mask = work.label == work.label[mask][0]
  return work.original, data, jnp.asarray(mask), jax.random.key(seed)


def library(name: str, work: Work, seed: int) -> Any:
  """From the factory to the unlearned params."""
  method = jax.jit(method_of(name, work))
  return method(*arguments(name, work, seed))[0].params


def cold(run: Callable[[], Any]) -> dict[str, float]:
  """Seconds of a run with nothing compiled, and where they went."""
  spent = dict.fromkeys(_EVENTS.values(), 0.0) | {"programs": 0.0}

  def listen(event: str, seconds: float, **_: Any) -> None:
    if event in _EVENTS:
      spent[_EVENTS[event]] += seconds
      spent["programs"] += _EVENTS[event] == "compile"

  jax.clear_caches()
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    began, used = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    return {"seconds": seconds, "cpu": cpu, **spent}
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def measure(model: str, method: str, repeats: int) -> dict[str, Any]:
  """Medians of both sides, and their ratio, for one method on one model."""
  work = work_of(model)
  sides: dict[str, Callable[[int], Any]] = {
    "library": lambda seed: library(method, work, seed),
    "script": lambda seed: SCRIPTS[method](work, seed),
  }
  runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
  for seed in range(repeats):
    for side, run in sides.items():
      runs[side].append(cold(lambda: run(seed)))  # noqa: B023
  row: dict[str, Any] = {"model": model, "method": method, "rounds": repeats}
  for side, found in runs.items():
    row[side] = {
      name: statistics.median(each[name] for each in found) for name in found[0]
    }
  ratio = lambda what: row["library"][what] / row["script"][what]
  row |= {"ratio": ratio("seconds"), "cpu_ratio": ratio("cpu")}
  return row | {"target": TARGET, "met": row["ratio"] <= TARGET}


def main(options: Options) -> list[dict[str, Any]]:
  jax.config.update("jax_enable_compilation_cache", False)
  rows = [
    measure(model, method, options.repeats)
    for model in options.models
    for method in options.methods
  ]
  ratios = ("ratio", "cpu_ratio")
  shown = [
    {**row, "side": side, **row[side]}
    | {name: f"{row[name]:.2f}" * (side == "library") for name in ratios}
    for row in rows
    for side in ("library", "script")
  ]
  words = {name: f"{{{name}}}" for name in ("model", "method", "side")}
  numbers = ("seconds", "cpu", "trace", "lower", "compile", "programs")
  columns = {**words, **{name: f"{{{name}:.2f}}" for name in numbers}}
  columns |= {"ratio": "{ratio}", "of CPU": "{cpu_ratio}"}
  return common.show_rows("cold", columns, rows, options.out, shown)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.cold"))
