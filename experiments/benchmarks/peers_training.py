"""Shadow models and gradients of single rows, here and in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import jaxunlearn as ju
from jaxunlearn.attacks.shadow import shadow_masks
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.types import Variables
from jaxunlearn.metrics.per_example import gradient_norms

from .peers_harness import Case, Peer, Scores
from .peers_tasks import (
  LEARNING_RATE,
  STRATEGY,
  Sizes,
  Task,
  accuracy,
  on_device,
  task,
  tensors,
)


def shadows(sizes: Sizes) -> Iterator[Case]:
  """Many models on random halves of the data."""
  for kind, target in (("MLP", 3.0), ("CNN", 2.0)):
    given = task(kind, sizes)
    yield shadow_case(given, sizes, target if sizes == Sizes() else None)


def train_shadows(given: Task) -> Callable[..., Variables]:
  """`(rows, masks, keys) -> variables` of all models, in one program."""

  def train(rows, masks, keys):
    # The largest number of devices that divides the models.
    devices = jax.devices()[: math.gcd(len(masks), jax.device_count())]
    trained, _ = ju.train_many(
      given.model,
      rows,
      masks,
      keys,
      strategy=STRATEGY,
      mesh=ju.core.make_mesh(devices, models=-1) if len(devices) > 1 else None,
      **given.recipe(),
    )
    return trained

  return train


def shadow_case(given: Task, sizes: Sizes, target: float | None) -> Case:
  """`train_many` and one model after the other in PyTorch."""
  import torch

  from . import peers_torch

  count, rows = sizes.shadows, on_device(given.train)
  masks = shadow_masks(jax.random.key(1), count, len(rows["label"]))
  keys_of = lambda seed: jax.random.split(jax.random.key(seed), count)

  def starts(seed: int) -> list[Any]:
    """The initial weights that `train` draws from these keys."""
    init = lambda key: init_variables(
      given.model, rows, jax.random.split(key)[0]
    )
    drawn = jax.jit(jax.vmap(init))(keys_of(seed))
    return peers_torch.parameters_of(jax.device_get(drawn.params))

  torch_rows, torch_masks = tensors(given), torch.tensor(np.array(masks))
  prepared: dict[int, list[Any]] = {}

  def args(seed: int) -> tuple[Any, ...]:
    prepared[seed] = starts(seed)
    return rows, masks, keys_of(seed)

  def loop(seed: int, models: int, steps: int, tuned: bool) -> list[Any]:
    module, x = given.module(), torch_rows.x
    if tuned and x.ndim == 4:
      module = module.to(memory_format=torch.channels_last)
      x = x.contiguous(memory_format=torch.channels_last)
    return peers_torch.shadow_models(
      module,
      prepared[seed] if seed in prepared else starts(seed),
      x,
      torch_rows.label,
      torch_masks[:models],
      steps=steps,
      batch_size=given.batch_size,
      learning_rate=LEARNING_RATE,
      seed=seed,
      fused=tuned,
    )

  def scores(trained: Variables) -> Scores:
    logits = jax.jit(jax.vmap(given.model.predict, in_axes=(0, None)))(
      trained, given.test["x"]
    )
    return {"test_accuracy": accuracy(logits, given.test["label"])}

  def torch_scores(models: list[Any]) -> Scores:
    module = given.module()
    logits = [peers_torch.predict(module, m, torch_rows.test_x) for m in models]
    return {"test_accuracy": accuracy(logits, given.test["label"])}

  def peer(name: str, tuned: bool, target: float | None) -> Peer:
    run = lambda seed: loop(seed, count, given.steps, tuned)
    probe = lambda: loop(0, 1, max(given.steps // 4, 1), tuned)
    return Peer(name, run, torch_scores, probe, target)

  tuning = "fused Adam" + (", channels last" if given.kind == "CNN" else "")
  work = (
    f"{count} shadow models, {given.name}, {given.steps} steps of "
    f"{given.batch_size}"
  )
  return Case(
    "shadows",
    work,
    train_shadows(given),
    args,
    scores,
    (
      peer("PyTorch loop", False, target),
      peer(f"PyTorch loop, {tuning}", True, None),
    ),
    {"test_accuracy": 0.01 * sizes.slack},
  )


def gradients(sizes: Sizes) -> Iterator[Case]:
  """The norm of every row's gradient."""
  for kind in ("MLP", "CNN"):
    yield gradient_case(task(kind, sizes), sizes.gradient_rows)


def gradient_case(given: Task, num_rows: int) -> Case:
  from . import peers_torch

  index = np.arange(num_rows) % len(given.train["label"])
  given = given._replace(
    train={name: leaf[index] for name, leaf in given.train.items()}
  )
  rows, torch_rows = on_device(given.train), tensors(given)
  variables = init_variables(given.model, rows, jax.random.key(0))
  module = given.module()
  params = jax.device_get(variables.params)
  peers_torch.load(module, peers_torch.parameters_of(params))

  def peer(name: str, chunk_size: int | None) -> Peer:
    def run(count: int) -> np.ndarray:
      x, label = torch_rows.x[:count], torch_rows.label[:count]
      return peers_torch.gradient_norms(module, x, label, chunk_size).numpy()

    probe = lambda: run(min(512, num_rows))
    return Peer(name, lambda seed: run(num_rows), _norm_scores, probe)

  return Case(
    "gradients",
    f"gradient norms of {num_rows:,} rows, {given.name}",
    lambda variables, rows: gradient_norms(given.model, variables, rows),
    lambda seed: (variables, rows),
    _norm_scores,
    (
      peer("torch.func, chunks of 128", 128),
      peer("torch.func, all at once", None),
    ),
    {"mean_norm": 1e-3, "largest_norm": 1e-3},
  )


def _norm_scores(norms: Any) -> Scores:
  norms = np.asarray(norms, np.float64)
  return {"mean_norm": float(norms.mean()), "largest_norm": float(norms.max())}
