"""UNSIR, Bad Teacher and SCRUB, here and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Variables
from jaxunlearn.methods.unsir import PAPER

from .peers_harness import Case, Peer, Scores
from .peers_tasks import (
  CLASSES,
  LEARNING_RATE,
  STRATEGY,
  Sizes,
  Task,
  on_device,
  task,
  tensors,
)

# The library's method, of the untrained network that only Bad Teacher uses, and
# the same by hand.
Sides = tuple[Callable[[Variables], Transform], Callable[..., Any]]
Prepare = Callable[[Task, Callable[[int], int]], Sides]


def methods(sizes: Sizes) -> Iterator[Case]:
  """Forgetting whole classes: one request, and each of ten."""
  for kind in sizes.networks:
    given = task(kind, sizes)
    rows = on_device(given.train)
    everything = jnp.ones(len(rows["label"]), bool)
    original, _ = jax.jit(
      lambda key, given=given, rows=rows, everything=everything: ju.train(
        given.model, rows, everything, key, **given.recipe()
      )
    )(jax.random.key(0))
    for name, prepare in METHODS.items():
      for count in sizes.requests:
        classes = tuple(range(count))
        yield method_case(given, original, name, classes, sizes, prepare)


def method_case(
  given: Task,
  original: Variables,
  name: str,
  classes: tuple[int, ...],
  sizes: Sizes,
  prepare: Prepare,
) -> Case:
  """A method of the library and the same steps in PyTorch."""
  import torch

  from . import peers_torch

  rows, torch_rows = on_device(given.train), tensors(given)
  masks = jnp.stack([rows["label"] == c for c in classes])
  torch_masks = torch.tensor(np.array(masks))
  start = peers_torch.parameters_of(jax.device_get(original.params))
  scaled = lambda steps: max(round(steps * sizes.method_share), 1)
  method, by_hand = prepare(given, scaled)
  keys_of = lambda seed: jax.random.split(jax.random.key(seed), len(classes))

  def library(original, rows, masks, keys, untrained):
    one = lambda mask, key, fresh: method(fresh)(original, rows, mask, key)[0]
    return ju.map_many(one, masks, keys, untrained, strategy=STRATEGY)

  untrained: dict[int, list[Any]] = {}

  def args(seed: int) -> tuple[Any, ...]:
    # Untrained networks, drawn here for both sides.
    init = lambda key: init_variables(given.model, rows, key)
    drawn = jax.vmap(init)(keys_of(1000 + seed))
    untrained[seed] = peers_torch.parameters_of(jax.device_get(drawn.params))
    return original, rows, masks, keys_of(seed), drawn

  def run(seed: int, count: int = len(classes)) -> list[Any]:
    module = given.module()
    generator = torch.Generator().manual_seed(seed)
    return [
      by_hand(
        module,
        start,
        [leaf[i] for leaf in untrained[seed]],
        torch_rows,
        torch_masks[i],
        generator,
      )
      for i in range(count)
    ]

  def probe() -> Any:
    if 0 not in untrained:
      args(0)
    return run(0, 1)

  label = given.train["label"]

  def summary(logits: Any, test_logits: Any) -> Scores:
    right = np.asarray(logits).argmax(-1) == label
    test_right = np.asarray(test_logits).argmax(-1) == given.test["label"]
    wanted = np.array(classes)[:, None]
    forget, kept = wanted == label, wanted != given.test["label"]
    return {
      "forget_accuracy": float(right[forget].mean()),
      "retain_test_accuracy": float(test_right[kept].mean()),
    }

  def scores(unlearned: Variables) -> Scores:
    predict = jax.jit(jax.vmap(given.model.predict, in_axes=(0, None)))
    inputs = given.train["x"], given.test["x"]
    return summary(*(predict(unlearned, x) for x in inputs))

  def torch_scores(models: list[Any]) -> Scores:
    module = given.module()
    inputs = torch_rows.x, torch_rows.test_x
    return summary(
      *([peers_torch.predict(module, m, x) for m in models] for x in inputs)
    )

  requests = "one request" if len(classes) == 1 else f"{len(classes)} requests"
  return Case(
    "methods",
    f"{name}, {requests}, {given.name}",
    library,
    args,
    scores,
    (Peer("PyTorch", run, torch_scores, probe),),
    {
      "forget_accuracy": 0.15 * sizes.slack,
      "retain_test_accuracy": 0.05 * sizes.slack,
    },
  )


def _unsir(given: Task, scaled: Callable[[int], int]) -> Sides:
  from . import peers_torch

  size = given.batch_size
  counts = peers_torch.Unsir(scaled(40), size, scaled(72), scaled(32), size)

  def part(fit: ju.Fit, steps: int) -> ju.Fit:
    return fit._replace(num_steps=steps, batch_size=size)

  method = ju.methods.unsir(
    given.model,
    num_classes=CLASSES,
    max_classes=1,
    noise=part(PAPER["noise"], counts.noise_steps),
    impair=part(PAPER["impair"], counts.impair_steps),
    repair=part(PAPER["repair"], counts.repair_steps),
  )

  def by_hand(module, start, untrained, rows, forget, generator):
    return peers_torch.unsir(
      module, start, rows.x, rows.label, forget, generator, counts
    )

  return lambda fresh: method, by_hand


def _bad_teacher(given: Task, scaled: Callable[[int], int]) -> Sides:
  from . import peers_torch

  steps, batch_size = scaled(120), given.batch_size
  fit = ju.Fit(optax.adam(LEARNING_RATE), steps, batch_size)
  method = lambda fresh: ju.methods.bad_teacher(
    given.model, fit, incompetent=fresh
  )

  def by_hand(module, start, untrained, rows, forget, generator):
    return peers_torch.bad_teacher(
      module,
      start,
      untrained,
      rows.x,
      forget,
      generator,
      steps=steps,
      batch_size=batch_size,
      learning_rate=LEARNING_RATE,
    )

  return method, by_hand


def _scrub(given: Task, scaled: Callable[[int], int]) -> Sides:
  from . import peers_torch

  # At a lower rate some classes stay: the disobeying steps start from a tie.
  rate = 3 * LEARNING_RATE
  counts = peers_torch.Scrub(
    6, 3, scaled(5), scaled(20), given.batch_size, rate
  )
  method = ju.methods.scrub(
    given.model,
    ju.Fit(optax.adam(rate), counts.min_steps, given.batch_size),
    num_epochs=counts.epochs,
    max_epochs=counts.max_epochs,
    max_steps=counts.max_steps,
  )

  def by_hand(module, start, untrained, rows, forget, generator):
    return peers_torch.scrub(
      module, start, rows.x, rows.label, forget, generator, counts
    )

  return lambda fresh: method, by_hand


METHODS: dict[str, Prepare] = {
  "UNSIR": _unsir,
  "Bad Teacher": _bad_teacher,
  "SCRUB": _scrub,
}
