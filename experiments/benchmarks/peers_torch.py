"""The other side of `peers`: the same work in plain PyTorch.

Written as one writes it by hand: data as tensors, batches by indexing, no loader
and no synchronisation within a loop. Parameters come in as a list of tensors in
the order of `Module.parameters()`, see `parameters_of`.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Parameters = list[torch.Tensor]


def mlp(widths: Sequence[int]) -> nn.Module:
  """Dense layers with ReLU between, of the given widths from input to output."""
  layers: list[nn.Module] = [nn.Flatten()]
  for before, after in itertools.pairwise(widths):
    layers += [nn.Linear(before, after), nn.ReLU()]
  return nn.Sequential(*layers[:-1])


def cnn(
  side: int, inputs: int, channels: Sequence[int], hidden: int, classes: int
) -> nn.Module:
  """3x3 convolution, ReLU and 2x2 pooling in turn, then one hidden layer."""
  layers: list[nn.Module] = []
  for outputs in channels:
    layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    layers.append(nn.MaxPool2d(2))
    inputs, side = outputs, side // 2
  layers += [nn.Flatten(), nn.Linear(inputs * side**2, hidden), nn.ReLU()]
  return nn.Sequential(*layers, nn.Linear(hidden, classes))


def inputs_of(x: np.ndarray) -> torch.Tensor:
  """Channels-last images [N, H, W, C] as PyTorch wants them; others as is."""
  x = np.asarray(x)
  x = np.moveaxis(x, -1, 1) if x.ndim == 4 else x
  return torch.from_numpy(np.ascontiguousarray(x))


def parameters_of(params: Any) -> Parameters:
  """Parameters of `MLP` or `CNN` of the library, as PyTorch orders them.

  Args:
    params: Flax parameters; leaves may have a leading axis of models [M], which
      stays.
  """
  order = sorted(params, key=lambda name: (_rank(name), name))
  found, channels = [], 0
  for name in order:
    kernel = np.asarray(params[name]["kernel"])
    bias = np.asarray(params[name]["bias"])
    many = bias.shape[:-1]
    if name.startswith("conv"):
      kernel = np.moveaxis(kernel, (-1, -2), (-4, -3))
      channels = kernel.shape[-4]
    else:
      if name == "hidden":
        # Flattened from [H, W, C] there and from [C, H, W] here.
        kernel = kernel.reshape(*many, -1, channels, kernel.shape[-1])
        kernel = np.swapaxes(kernel, -3, -2)
        kernel = kernel.reshape(*many, -1, kernel.shape[-1])
      kernel = np.swapaxes(kernel, -1, -2)
    found += [torch.tensor(kernel), torch.tensor(bias)]
  return found


def _rank(name: str) -> int:
  return {"hidden": 1, "classifier": 2}.get(name, 0)


@torch.no_grad()
def load(module: nn.Module, parameters: Sequence[torch.Tensor]) -> None:
  for mine, new in zip(module.parameters(), parameters, strict=True):
    mine.copy_(new)


def saved(module: nn.Module) -> Parameters:
  return [p.detach().clone() for p in module.parameters()]


@torch.no_grad()
def predict(
  module: nn.Module, parameters: Sequence[torch.Tensor], x: torch.Tensor
) -> np.ndarray:
  """Logits [N, C]."""
  load(module, parameters)
  return module(x).numpy()


def batches(
  rows: torch.Tensor,
  steps: int,
  batch_size: int,
  generator: torch.Generator,
) -> torch.Tensor:
  """Row numbers [steps, batch_size], without replacement within an epoch.

  Epochs follow each other without a short batch between, as in the library.
  """
  epochs = -(-steps * batch_size // len(rows))
  shuffled = [
    rows[torch.randperm(len(rows), generator=generator)] for _ in range(epochs)
  ]
  stream = torch.cat(shuffled)[: steps * batch_size]
  return stream.view(steps, batch_size)


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
  optimizer.zero_grad(set_to_none=True)
  loss.backward()
  optimizer.step()


def fit(
  module: nn.Module,
  optimizer: torch.optim.Optimizer,
  x: torch.Tensor,
  label: torch.Tensor,
  order: torch.Tensor,
) -> None:
  """Cross-entropy steps on the given rows [steps, B]."""
  for rows in order:
    descend(optimizer, F.cross_entropy(module(x[rows]), label[rows]))


def shadow_models(
  module: nn.Module,
  starts: Sequence[torch.Tensor],
  x: torch.Tensor,
  label: torch.Tensor,
  masks: torch.Tensor,
  *,
  steps: int,
  batch_size: int,
  learning_rate: float,
  seed: int,
  fused: bool = False,
) -> list[Parameters]:
  """Trains one model after the other on the rows that its mask selects.

  Args:
    module: reused for all of them.
    starts: initial parameters, leaves [M, ...].
    x: inputs [N, ...].
    label: int64 [N].
    masks: bool [M, N].
    steps: of Adam, for each.
    batch_size: rows a step.
    learning_rate: of Adam.
    seed: of the order of rows.
    fused: Adam as one kernel.
  """
  generator = torch.Generator().manual_seed(seed)
  models = []
  for i, mask in enumerate(masks):
    load(module, [leaf[i] for leaf in starts])
    optimizer = torch.optim.Adam(
      module.parameters(), lr=learning_rate, fused=fused
    )
    rows = torch.nonzero(mask)[:, 0]
    order = batches(rows, steps, batch_size, generator)
    fit(module, optimizer, x, label, order)
    models.append(saved(module))
  return models


class Unsir(NamedTuple):
  """Counts of `unsir`, and its noise."""

  noise_steps: int
  noise_batch: int
  impair_steps: int
  repair_steps: int
  batch_size: int
  copies: int = 20
  penalty: float = 0.1


def unsir(
  module: nn.Module,
  original: Parameters,
  x: torch.Tensor,
  label: torch.Tensor,
  forget: torch.Tensor,
  generator: torch.Generator,
  counts: Unsir,
) -> Parameters:
  """UNSIR for one class: noise, impair, repair, as the authors' notebook."""
  noise_steps, noise_batch, impair_steps, repair_steps = counts[:4]
  batch_size, copies, penalty = counts[4:]
  load(module, original)
  retain, target = torch.nonzero(~forget)[:, 0], label[forget][0]
  noise = torch.randn(noise_batch, *x.shape[1:], generator=generator)
  noise.requires_grad_()
  noise_label = target.expand(noise_batch)
  module.requires_grad_(False)
  optimizer = torch.optim.Adam([noise], lr=0.1)
  for _ in range(noise_steps):
    error = F.cross_entropy(module(noise), noise_label)
    size = noise.flatten(1).square().sum(1).mean()
    descend(optimizer, penalty * size - error)
  module.requires_grad_(True)
  shown = noise.detach().repeat(copies, *[1] * (x.ndim - 1))
  mixed_x = torch.cat([x[retain], shown])
  mixed_label = torch.cat([label[retain], target.expand(len(shown))])
  everything = torch.arange(len(mixed_label))
  order = batches(everything, impair_steps, batch_size, generator)
  impair = torch.optim.Adam(module.parameters(), lr=0.02)
  fit(module, impair, mixed_x, mixed_label, order)
  order = batches(retain, repair_steps, batch_size, generator)
  repair = torch.optim.Adam(module.parameters(), lr=0.01)
  fit(module, repair, x, label, order)
  return saved(module)


def bad_teacher(
  module: nn.Module,
  original: Parameters,
  incompetent: Parameters,
  x: torch.Tensor,
  forget: torch.Tensor,
  generator: torch.Generator,
  *,
  steps: int,
  batch_size: int,
  learning_rate: float,
  retain_fraction: float = 0.3,
) -> Parameters:
  """Distils from an untrained network on forget rows, the original on others."""
  load(module, original)
  competent, untrained = copy.deepcopy(module), copy.deepcopy(module)
  load(untrained, incompetent)
  retain = torch.nonzero(~forget)[:, 0]
  share = round(retain_fraction * len(retain))
  used = retain[torch.randperm(len(retain), generator=generator)[:share]]
  pool = torch.cat([torch.nonzero(forget)[:, 0], used])
  optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
  for rows in batches(pool, steps, batch_size, generator):
    inputs = x[rows]
    with torch.no_grad():
      teacher = torch.where(
        forget[rows][:, None], untrained(inputs), competent(inputs)
      )
    descend(optimizer, divergence(module(inputs), teacher))
  return saved(module)


class Scrub(NamedTuple):
  """Counts of `scrub`, its rate and its loss."""

  epochs: int
  max_epochs: int
  max_steps: int
  min_steps: int
  batch_size: int
  learning_rate: float
  temperature: float = 2.0
  distillation_weight: float = 0.5
  jitter: float = 0.01


def scrub(
  module: nn.Module,
  original: Parameters,
  x: torch.Tensor,
  label: torch.Tensor,
  forget: torch.Tensor,
  generator: torch.Generator,
  given: Scrub,
) -> Parameters:
  """Leaves the original's outputs on forget rows, keeps them on the others."""
  load(module, original)
  teacher = copy.deepcopy(module)
  with torch.no_grad():
    for p in module.parameters():
      scale = given.jitter * p.square().mean().sqrt()
      p += scale * torch.randn(p.shape, generator=generator)
  optimizer = torch.optim.Adam(module.parameters(), lr=given.learning_rate)
  forgotten, retain = torch.nonzero(forget)[:, 0], torch.nonzero(~forget)[:, 0]

  def distance(logits: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
      wanted = teacher(inputs)
    return given.temperature**2 * divergence(logits, wanted, given.temperature)

  for epoch in range(given.epochs):
    if epoch < given.max_epochs:
      order = batches(forgotten, given.max_steps, given.batch_size, generator)
      for rows in order:
        inputs = x[rows]
        descend(optimizer, -distance(module(inputs), inputs))
    for rows in batches(retain, given.min_steps, given.batch_size, generator):
      inputs = x[rows]
      logits = module(inputs)
      task = F.cross_entropy(logits, label[rows])
      kept = distance(logits, inputs)
      descend(optimizer, task + given.distillation_weight * kept)
  return saved(module)


def divergence(
  student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
  """Mean over rows of KL(softmax(teacher / T) || softmax(student / T))."""
  return F.kl_div(
    F.log_softmax(student / temperature, dim=1),
    F.log_softmax(teacher / temperature, dim=1),
    reduction="batchmean",
    log_target=True,
  )


def gradient_norms(
  module: nn.Module,
  x: torch.Tensor,
  label: torch.Tensor,
  chunk_size: int | None,
) -> torch.Tensor:
  """Norm of every row's gradient, by `torch.func`; [N]."""
  values = {name: p.detach() for name, p in module.named_parameters()}

  def loss(values, row, row_label):
    logits = torch.func.functional_call(module, values, (row[None],))
    return F.cross_entropy(logits, row_label[None])

  def squared_norm(values, row, row_label):
    grads = torch.func.grad(loss)(values, row, row_label)
    return sum(g.square().sum() for g in grads.values())

  each = torch.func.vmap(
    squared_norm, in_dims=(None, 0, 0), chunk_size=chunk_size
  )
  return each(values, x, label).sqrt()


def lira(
  target: torch.Tensor, statistics: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
  """Online LiRA of balanced masks, all rows at once; [N].

  Args:
    target: [N, A].
    statistics: [S, N, A].
    masks: bool [S, N]; every row is a member of as many models.
  """
  members = int(masks[:, 0].sum())
  order = torch.argsort(masks.int(), dim=0, descending=True)[..., None]
  grouped = torch.take_along_dim(statistics, order, dim=0)

  def log_density(group: torch.Tensor) -> torch.Tensor:
    ranked = group.sort(dim=0).values
    middle = (ranked[(len(group) - 1) // 2] + ranked[len(group) // 2]) / 2
    std = group.std(dim=0, unbiased=False)
    return -0.5 * ((target - middle) / std).square() - std.log()

  ratio = log_density(grouped[:members]) - log_density(grouped[members:])
  return ratio.mean(dim=1)
