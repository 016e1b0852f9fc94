"""How fast is a convolution inside a loop and under vmap over its weights?

Question: what do the implementations of `jaxunlearn.models.convolution` cost
outside and inside `lax.scan`, for one weight gradient, one training step of a
small CNN, and one step of eight small CNNs under `vmap`?

  python -m experiments.benchmarks.convolution [--preset smoke] [--out FILE]

About three minutes on two CPU cores, most of it "lax" inside the scan. All
implementations are timed in turn in one run, since only ratios carry over to
another machine. `ratio` is inside over outside.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from jaxunlearn.models import CNN, convolution
from jaxunlearn.models.conv import IMPLEMENTATIONS


@dataclasses.dataclass(frozen=True)
class Config:
  """Times each implementation of the convolution.

  Attributes:
    preset: smoke runs in seconds on tiny shapes; quick is the real thing.
    implementations: which to time; all of them by default.
    batch_size: images in a batch.
    image_size: side of the images of the CNN.
    num_models: small CNNs under vmap.
    repeats: the fastest of so many runs is reported.
    out: a JSON file to write.
  """

  preset: Literal["smoke", "quick"] = "quick"
  implementations: tuple[str, ...] = IMPLEMENTATIONS
  batch_size: int = 64
  image_size: int = 16
  num_models: int = 8
  repeats: int = 3
  out: pathlib.Path | None = None

  def __post_init__(self):
    for name in self.implementations:
      if name not in IMPLEMENTATIONS:
        raise ValueError(
          f"Expected implementations among {IMPLEMENTATIONS}, got {name!r}."
        )
    for name in ("batch_size", "image_size", "num_models", "repeats"):
      if getattr(self, name) < 1:
        raise ValueError(f"Expected {name} > 0, got {getattr(self, name)}.")


def measure(function: Callable[..., Any], *args: Any, repeats: int) -> float:
  """Seconds of the fastest of `repeats` runs, after compilation."""
  run = jax.jit(function)
  jax.block_until_ready(run(*args))
  fastest = float("inf")
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    fastest = min(fastest, time.perf_counter() - start)
  return fastest


def compare(step, carry, repeats: int, length: int = 3) -> dict[str, float]:
  """Times `step(carry) -> carry` by itself and as the body of a scan."""
  loop = lambda carry: jax.lax.scan(
    lambda carry, _: (step(carry), None), carry, None, length=length
  )[0]
  outside = measure(step, carry, repeats=repeats)
  inside = measure(loop, carry, repeats=repeats) / length
  return {
    "outside_ms": 1e3 * outside,
    "inside_ms": 1e3 * inside,
    "ratio": inside / outside,
  }


def weight_gradient(config: Config, implementation: str):
  """One descent step on a 3x3 convolution's weights, input 32x32x32."""
  size, channels = (8, 4) if config.preset == "smoke" else (32, 32)
  shape = (max(config.batch_size // 2, 1), size, size, channels)
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, 2 * channels))
  target = jax.random.normal(jax.random.key(2), (*shape[:-1], 2 * channels))

  def step(carry):
    # The loss is linear in the kernel: its gradient is the weight gradient and
    # nothing else. One entry of x changes, so that no step can be hoisted.
    x, target, kernel = carry
    output = lambda kernel: jnp.vdot(
      target, convolution(x, kernel, implementation=implementation)
    )
    kernel = kernel - 1e-6 * jax.grad(output)(kernel)
    return x.at[0, 0, 0, 0].set(kernel[0, 0, 0, 0]), target, kernel

  return step, (x, target, kernel)


def training_step(config: Config, implementation: str):
  """One Adam step of a small CNN."""
  side = config.image_size
  module = CNN(10, implementation=implementation)
  optimizer = optax.adam(1e-3)
  x = jax.random.normal(jax.random.key(0), (config.batch_size, side, side, 3))
  labels = jnp.arange(config.batch_size) % 10
  params = module.init(jax.random.key(1), x)

  def loss(params, x):
    logits = module.apply(params, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()

  def step(carry):
    params, state, x = carry
    updates, state = optimizer.update(jax.grad(loss)(params, x), state)
    return optax.apply_updates(params, updates), state, x

  return step, (params, optimizer.init(params), x)


def many_training_steps(config: Config, implementation: str):
  """One Adam step of each of `num_models` small CNNs, under vmap."""
  step, carry = training_step(config, implementation)
  stack = lambda leaf: jnp.stack([leaf] * config.num_models)
  return jax.vmap(step), jax.tree.map(stack, carry)


TASKS = {
  "weight gradient": weight_gradient,
  "CNN step": training_step,
  "CNN steps under vmap": many_training_steps,
}


def run(config: Config, console: Console) -> dict[str, Any]:
  """Times everything, shows a table, writes the JSON file if asked to."""
  if config.preset == "smoke":
    config = dataclasses.replace(
      config, batch_size=4, image_size=8, num_models=2, repeats=1
    )
  rows = []
  with Progress(console=console, transient=True) as progress:
    total = len(TASKS) * len(config.implementations)
    bar = progress.add_task("timing", total=total)
    for task, make in TASKS.items():
      for name in config.implementations:
        progress.update(bar, description=f"{task}, {name}")
        times = compare(*make(config, name), config.repeats)
        rows.append({"task": task, "implementation": name, **times})
        progress.advance(bar)
  table = Table(title="Milliseconds a step, the fastest run")
  for column in ("task", "implementation", "outside", "inside scan", "ratio"):
    table.add_column(
      column,
      justify="left" if column in ("task", "implementation") else "right",
    )
  for row in rows:
    table.add_row(
      row["task"],
      row["implementation"],
      f"{row['outside_ms']:.2f}",
      f"{row['inside_ms']:.2f}",
      f"{row['ratio']:.2f}",
    )
  console.print(table)
  settings = dataclasses.asdict(config)
  settings["out"] = str(config.out) if config.out else None
  result = {
    "experiment": "benchmarks.convolution",
    "preset": config.preset,
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "config": settings,
    "rows": rows,
  }
  if config.out:
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=2) + "\n")
  return result


def main() -> None:
  console = Console()
  try:
    config = tyro.cli(
      Config, prog="python -m experiments.benchmarks.convolution"
    )
  except ValueError as error:
    Console(stderr=True).print(str(error), markup=False)
    raise SystemExit(2) from None
  run(config, console)


if __name__ == "__main__":
  main()
