"""Ten requests from the start of a process to their numbers, here and in PyTorch.

Question: who must train a model, forget each of ten classes, retrain without each
and print the accuracies, how long does the whole script take?

    python -m experiments.benchmarks.end_to_end [--networks CNN] [--out FILE]

Every cell is a process of its own that imports, reads digits, trains, unlearns,
retrains, tests and ends. Ours is timed with nothing compiled before and with the
persistent compilation cache of an earlier process, which all experiments use.
The other side are the same algorithms in plain PyTorch (`peers_torch`), one
request after the other as in the papers' repositories, but with the rows as
tensors in memory where those read them through a DataLoader; needs the extra
`benchmarks`. Sides take turns; both must reach the same accuracies.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from .. import common
from .peers_harness import agree, spread

TARGET = 3.0  # Times faster, with the cache.
SIDES = ("cold", "cached", "pytorch")
TOLERANCE = {"forget": 0.1, "kept": 0.05}


@dataclasses.dataclass(frozen=True)
class Options:
  """Times ten requests, process and all, on both sides."""

  preset: Annotated[
    str, tyro.conf.arg(help="quick, or smoke: tiny, and says nothing.")
  ] = "quick"
  networks: Annotated[
    tuple[str, ...], tyro.conf.arg(help="MLP, CNN or both.")
  ] = ("MLP", "CNN")
  methods: Annotated[
    tuple[str, ...], tyro.conf.arg(help="Of UNSIR, Bad Teacher, SCRUB.")
  ] = ("UNSIR", "Bad Teacher", "SCRUB")
  threads: Annotated[
    tuple[int, ...], tyro.conf.arg(help="Of PyTorch; the faster counts.")
  ] = (1, 2)
  repeats: Annotated[int, tyro.conf.arg(help="Rounds; medians are shown.")] = 3
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None
  cell: Annotated[
    str | None,
    tyro.conf.arg(help="SIDE:PRESET:NETWORK:METHODS:THREADS, as JSON."),
  ] = None


def given_task(preset: str, network: str) -> tuple[Any, Any]:
  from . import peers_tasks

  sizes = peers_tasks.SMOKE if preset == "smoke" else peers_tasks.Sizes()
  return peers_tasks.task(network, sizes), sizes


def scores(logits: Any, given: Any, classes: np.ndarray) -> dict[str, float]:
  """Accuracies of logits [R, N, C], a model a class, on test rows."""
  label = given.test["label"]
  right = np.asarray(logits).argmax(-1) == label
  gone = label == classes[:, None]
  return {
    "forget": float(right[gone].mean()),
    "kept": float(right[~gone].mean()),
  }


def ours(preset: str, network: str, methods: list[str]) -> dict[str, Any]:
  """Trains, unlearns and retrains with the library."""
  import jax
  import jax.numpy as jnp

  import jaxunlearn as ju
  from jaxunlearn.core.training import init_variables

  from . import peers_methods, peers_tasks

  common.use_compilation_cache()
  given, sizes = given_task(preset, network)
  rows = peers_tasks.on_device(given.train)
  classes = np.arange(peers_tasks.CLASSES)
  masks = ju.requests.each_class(rows["label"], len(classes))
  key, fresh_key, *keys = jax.random.split(jax.random.key(0), 2 + len(methods))
  # The first is the original, the others are the standard.
  kept = jnp.concatenate([jnp.ones_like(masks[:1]), ~masks])
  train = jax.jit(
    lambda kept, keys: ju.train_many(
      given.model,
      rows,
      kept,
      keys,
      strategy=peers_tasks.STRATEGY,
      **given.recipe(),
    )[0]
  )
  trained = train(kept, jax.random.split(key, len(kept)))
  original, retrained = (
    jax.tree.map(lambda leaf, at=at: leaf[at], trained)
    for at in (0, slice(1, None))
  )
  untrained = jax.jit(
    jax.vmap(lambda key: init_variables(given.model, rows, key))
  )(jax.random.split(fresh_key, len(classes)))
  predict = jax.jit(jax.vmap(given.model.predict, in_axes=(0, None)))
  test_x = jnp.asarray(given.test["x"])
  found = {"retrained": scores(predict(retrained, test_x), given, classes)}
  scaled = lambda steps: max(round(steps * sizes.method_share), 1)
  for name, key in zip(methods, keys, strict=True):
    method, _ = peers_methods.METHODS[name](given, scaled)
    run = jax.jit(
      lambda masks, keys, fresh, method=method: ju.map_many(
        lambda m, k, f: method(f)(original, rows, m, k)[0],
        masks,
        keys,
        fresh,
        strategy=peers_tasks.STRATEGY,
      )
    )
    unlearned = run(masks, jax.random.split(key, len(classes)), untrained)
    found[name] = scores(predict(unlearned, test_x), given, classes)
  return found


def pytorch(
  preset: str, network: str, methods: list[str], threads: int
) -> dict[str, Any]:
  """The same, one model after the other."""
  import torch

  from . import peers_methods, peers_tasks, peers_torch

  torch.set_num_threads(threads)
  torch.manual_seed(0)
  given, sizes = given_task(preset, network)
  tensors = peers_tasks.tensors(given)
  classes = np.arange(peers_tasks.CLASSES)
  gone = tensors.label == torch.arange(len(classes))[:, None]
  fresh = lambda: peers_torch.saved(given.module())
  kept = torch.cat([torch.ones_like(gone[:1]), ~gone])
  starts = [torch.stack(leaves) for leaves in zip(*(fresh() for _ in kept))]
  original, *retrained = peers_torch.shadow_models(
    given.module(),
    starts,
    tensors.x,
    tensors.label,
    kept,
    steps=given.steps,
    batch_size=given.batch_size,
    learning_rate=peers_tasks.LEARNING_RATE,
    seed=0,
  )
  module = given.module()
  tested = lambda models: scores(
    [peers_torch.predict(module, m, tensors.test_x) for m in models],
    given,
    classes,
  )
  found = {"retrained": tested(retrained)}
  scaled = lambda steps: max(round(steps * sizes.method_share), 1)
  generator = torch.Generator().manual_seed(0)
  for name in methods:
    _, by_hand = peers_methods.METHODS[name](given, scaled)
    found[name] = tested(
      [
        by_hand(module, original, fresh(), tensors, forget, generator)
        for forget in gone
      ]
    )
  return found


def process(
  side: str, options: Options, network: str, cache: str, threads: int
):
  """A cell: its seconds from start to end, and what it achieved."""
  cell = f"{side}:{options.preset}:{network}:{','.join(options.methods)}"
  env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
  began = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-m", __spec__.name, "--cell", f"{cell}:{threads}"],
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    lines = done.stderr.strip().splitlines() or ["no message"]
    raise RuntimeError(f"The process of {side} failed: {lines[-1]}")
  return time.perf_counter() - began, json.loads(done.stdout)


def measure(options: Options, network: str) -> dict[str, Any]:
  """Medians and spreads over rounds in which the sides take turns."""
  seconds: dict[str, list[float]] = {side: [] for side in SIDES}
  with tempfile.TemporaryDirectory() as made:
    kept = str(Path(made) / "cache")
    process("cached", options, network, kept, 1)
    trial = {
      n: process("pytorch", options, network, kept, n)[0]
      for n in options.threads
    }
    threads = min(trial, key=lambda n: trial[n])
    for _ in range(options.repeats):
      for side in SIDES:
        cache = kept if side != "cold" else tempfile.mkdtemp(dir=made)
        took, found = process(side, options, network, cache, threads)
        seconds[side].append(took)
        if side == "cached":
          mine = found
        elif side == "pytorch":
          theirs = found
  ratio = lambda side: spread(
    [p / t for p, t in zip(seconds["pytorch"], seconds[side], strict=True)]
  )._asdict()
  return {
    "network": network,
    "methods": list(options.methods),
    "rounds": options.repeats,
    "threads": threads,
    "seconds": {side: spread(all_)._asdict() for side, all_ in seconds.items()},
    "ratio_cold": ratio("cold"),
    "ratio_cached": ratio("cached"),
    "target": TARGET,
    "scores": mine,
    "peer_scores": theirs,
    "agrees": all(agree(mine[n], theirs[n], TOLERANCE) for n in mine),
  }


def main(options: Options) -> list[dict[str, Any]]:
  if options.cell is not None:
    side, preset, network, names, threads = options.cell.split(":")
    given = preset, network, names.split(",")
    found = pytorch(*given, int(threads)) if side == "pytorch" else ours(*given)
    print(json.dumps(found))
    return []
  if importlib.util.find_spec("torch") is None:
    common.fail(
      "Expected PyTorch, got none: pip install "
      "'jaxunlearn[experiments,benchmarks]'."
    )
  rows = [measure(options, network) for network in options.networks]
  columns = {
    "network": "{network}",
    **{f"{side} s": f"{{seconds[{side}][median]:.1f}}" for side in SIDES},
    "times faster, cold": "{ratio_cold[median]:.2f}",
    "cached": "{ratio_cached[median]:.2f}",
    "agrees": "{agrees}",
  }
  return common.show_rows("end_to_end", columns, rows, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.end_to_end"))
