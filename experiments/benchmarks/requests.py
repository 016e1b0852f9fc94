"""What a stack of requests costs in one program, beside one after the other.

Question: is it worth serving requests together, and what does a new request cost
on a warm program?

    python -m experiments.benchmarks.requests

Ten one-class requests of digits: UNSIR and retraining (a) in one program by
`vmap`, (b) in one program by `lax.map`, (c) ten calls of a warm jitted program,
(d) for retraining also ten calls that each compile anew, as a script does that
builds its data by boolean indexing, so that every request has a shape of its own.
Interleaved, medians, with the number of compilations.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import tyro

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.methods.unsir import PAPER
from jaxunlearn.models import MLP

from .. import common, data


@dataclasses.dataclass(frozen=True)
class Options:
  """Times ten requests together and apart."""

  repeats: Annotated[int, tyro.conf.arg(help="Runs of each side.")] = 5
  steps: Annotated[int, tyro.conf.arg(help="Training steps.")] = 600
  out: Annotated[str | None, tyro.conf.arg(help="File for the figures.")] = None


def boolean_indexing(model, rows, masks, key, recipe):
  """Retraining as scripts do it: a data set of its own for each request."""
  done = []
  for mask in masks:
    kept = jax.tree.map(lambda leaf, m=mask: leaf[~m], rows)
    everything = jnp.ones(len(kept["label"]), bool)
    fit = jax.jit(lambda d, w: ju.train(model, d, w, key, **recipe)[0])
    done.append(fit(kept, everything))
  return done


def main(options: Options) -> list[dict[str, Any]]:
  dataset = data.load("digits", preset="quick", data_dir=None)
  rows = jax.tree.map(jnp.asarray, dataset.train)
  model = from_linen(MLP(num_classes=10))
  recipe: dict[str, Any] = {
    "optimizer": optax.adam(1e-3),
    "num_steps": options.steps,
    "batch_size": 128,
  }
  key = jax.random.key(0)
  masks = ju.requests.each_class(rows["label"], 10)
  everything = jnp.ones(len(rows["label"]), bool)
  original, _ = ju.train(model, rows, everything, key, **recipe)
  method = ju.methods.unsir(
    model,
    num_classes=10,
    max_classes=1,
    noise=PAPER["noise"]._replace(batch_size=128),
    impair=PAPER["impair"]._replace(batch_size=128),
    repair=PAPER["repair"]._replace(batch_size=128),
  )
  unlearn = lambda mask: method(original, rows, mask, key)[0]
  retrain = lambda mask: ju.train(model, rows, ~mask, key, **recipe)[0]
  found = []
  for work, one in [("unsir", unlearn), ("retrain", retrain)]:
    single = jax.jit(one)
    sides = {
      "vmap": jax.jit(jax.vmap(one)),
      "lax.map": jax.jit(lambda m, f=one: ju.map_many(f, m, strategy="map")),
      "ten warm calls": lambda m, f=single: [f(mask) for mask in m],
    }
    for run in sides.values():
      jax.block_until_ready(run(masks))
    if work == "retrain":
      sides["ten data sets, each compiled"] = lambda m: boolean_indexing(
        model, rows, m, key, recipe
      )
    calls = {side: partial(run, masks) for side, run in sides.items()}
    medians = common.interleaved_medians(calls, options.repeats)
    found += [
      {"work": work, "side": side, "seconds": seconds}
      | {"ratio": seconds / medians["vmap"]}
      for side, seconds in medians.items()
    ]
  columns = {
    "work": "{work}",
    "ten requests by": "{side}",
    "seconds": "{seconds:.3f}",
    "against vmap": "{ratio:.2f}",
  }
  return common.show_rows("requests", columns, found, options.out)


if __name__ == "__main__":
  main(tyro.cli(Options))
