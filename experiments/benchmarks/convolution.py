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
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from rich.progress import Progress

from jaxunlearn.models import CNN, convolution
from jaxunlearn.models.conv import IMPLEMENTATIONS

from .. import common


@dataclasses.dataclass(frozen=True)
class Options:
  """Times each implementation of the convolution."""

  preset: Annotated[
    Literal["smoke", "quick"],
    tyro.conf.arg(help="smoke runs in seconds on tiny shapes."),
  ] = "quick"
  implementations: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Which to time; all by default.")
  ] = IMPLEMENTATIONS
  batch_size: Annotated[int, tyro.conf.arg(help="Images in a batch.")] = 64
  image_size: Annotated[int, tyro.conf.arg(help="Side of the CNN's.")] = 16
  num_models: Annotated[int, tyro.conf.arg(help="CNNs under vmap.")] = 8
  repeats: Annotated[int, tyro.conf.arg(help="The fastest run counts.")] = 3
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


def check(options: Options) -> None:
  """Raises a ValueError for options that cannot be run."""
  for name in options.implementations:
    if name not in IMPLEMENTATIONS:
      raise ValueError(
        f"Expected --implementations among {IMPLEMENTATIONS}, got {name!r}."
      )
  for name in ("batch_size", "image_size", "num_models", "repeats"):
    if (value := getattr(options, name)) < 1:
      flag = name.replace("_", "-")
      raise ValueError(f"Expected --{flag} > 0, got {value}.")


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


def weight_gradient(options: Options, implementation: str):
  """One descent step on a 3x3 convolution's weights, input 32x32x32."""
  size, channels = (8, 4) if options.preset == "smoke" else (32, 32)
  shape = (max(options.batch_size // 2, 1), size, size, channels)
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


def training_step(options: Options, implementation: str):
  """One Adam step of a small CNN."""
  side = options.image_size
  module = CNN(10, implementation=implementation)
  optimizer = optax.adam(1e-3)
  x = jax.random.normal(jax.random.key(0), (options.batch_size, side, side, 3))
  labels = jnp.arange(options.batch_size) % 10
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


def many_training_steps(options: Options, implementation: str):
  """One Adam step of each of `num_models` small CNNs, under vmap."""
  step, carry = training_step(options, implementation)
  stack = lambda leaf: jnp.stack([leaf] * options.num_models)
  return jax.vmap(step), jax.tree.map(stack, carry)


TASKS = {
  "weight gradient": weight_gradient,
  "CNN step": training_step,
  "CNN steps under vmap": many_training_steps,
}


def main(options: Options) -> list[dict[str, Any]]:
  with common.failing_on_bad_input():
    check(options)
  if options.preset == "smoke":
    options = dataclasses.replace(
      options, batch_size=4, image_size=8, num_models=2, repeats=1
    )
  rows = []
  with Progress(transient=True) as progress:
    total = len(TASKS) * len(options.implementations)
    bar = progress.add_task("timing", total=total)
    for task, make in TASKS.items():
      for name in options.implementations:
        progress.update(bar, description=f"{task}, {name}")
        times = compare(*make(options, name), options.repeats)
        rows.append({"task": task, "implementation": name, **times})
        progress.advance(bar)
  columns = {
    "task": "{task}",
    "implementation": "{implementation}",
    "outside ms": "{outside_ms:.2f}",
    "inside scan ms": "{inside_ms:.2f}",
    "ratio": "{ratio:.2f}",
  }
  return common.show_rows("convolution", columns, rows, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.convolution"))
