"""What a phase of the library costs beside the same steps written by hand.

Question: does the library's own machinery (sampling without replacement under a
mask, weights, the info) cost more than five per cent of a training step?

    python -m experiments.benchmarks.phase

Both sides are one jitted `lax.scan` of the same model, loss and optimiser. The
hand-written side draws retained rows with replacement, by one sort of the mask
before the loop and `order[floor(u * count)]` in it, and nothing else. Runs are
interleaved; the ratio is that of the medians.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.models import CNN, MLP

from .. import common


@dataclasses.dataclass(frozen=True)
class Options:
  """Times a phase of the library against the same steps by hand."""

  repeats: Annotated[int, tyro.conf.arg(help="Runs of each side.")] = 15
  steps: Annotated[int, tyro.conf.arg(help="Steps a run.")] = 200
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


def by_hand(model, optimizer, num_steps, batch_size):
  """A masked training loop as one would write it in a script."""

  def run(variables, data, forget_mask, key):
    order = jnp.argsort(forget_mask, stable=True)
    count = (~forget_mask).sum()

    def step(carry, step_key):
      params, opt_state = carry
      u = jax.random.uniform(step_key, (batch_size,))
      index = order[jnp.floor(u * count).astype(jnp.int32)]
      rows = jax.tree.map(lambda leaf: leaf[index], data)

      def loss_fn(params):
        logits, _ = model.apply(ju.Variables(params), rows["x"])
        return model.loss(logits, rows).mean()

      loss, grads = jax.value_and_grad(loss_fn)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), opt_state), loss

    start = (variables.params, optimizer.init(variables.params))
    keys = jax.random.split(key, num_steps)
    (params, _), losses = jax.lax.scan(step, start, keys)
    return ju.Variables(params), losses

  return run


def measure(name, module, shape, batch_size, options):
  """Medians in milliseconds a step of both sides, and their ratio."""
  model = from_linen(module)
  rng = np.random.default_rng(0)
  data = {
    "x": jnp.asarray(rng.normal(size=(2000, *shape)), jnp.float32),
    "label": jnp.asarray(rng.integers(0, 10, 2000), jnp.int32),
  }
  mask = data["label"] == 3
  variables = model.init(jax.random.key(0), data["x"][:1])
  optimizer = optax.adam(1e-3)
  library = ju.methods.finetune(
    model,
    optimizer=optimizer,
    num_steps=options.steps,
    batch_size=batch_size,
    train_mode=False,
  )
  sides = {
    "library": jax.jit(library),
    "by hand": jax.jit(by_hand(model, optimizer, options.steps, batch_size)),
  }
  args = (variables, data, mask, jax.random.key(1))
  for run in sides.values():
    jax.block_until_ready(run(*args))
  calls = {side: partial(run, *args) for side, run in sides.items()}
  seconds = common.interleaved_medians(calls, options.repeats)
  medians = {side: 1e3 * t / options.steps for side, t in seconds.items()}
  ratio = medians["library"] / medians["by hand"]
  return {"model": name, "batch_size": batch_size, **medians, "ratio": ratio}


def main(options: Options) -> list[dict]:
  common.use_compilation_cache()
  cases = [
    ("MLP 64-128-128-10", MLP(num_classes=10), (64,), 128),
    ("MLP 784-512-512-10", MLP(10, hidden=(512, 512)), (784,), 128),
    ("CNN 8x8x1", CNN(num_classes=10), (8, 8, 1), 64),
    ("CNN 32x32x3", CNN(num_classes=10), (32, 32, 3), 32),
  ]
  rows = [measure(*case, options) for case in cases]
  columns = {
    "model": "{model}",
    "batch": "{batch_size}",
    "library ms": "{library:.3f}",
    "by hand ms": "{by hand:.3f}",
    "ratio": "{ratio:.3f}",
  }
  return common.show_rows("phase", columns, rows, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options))
