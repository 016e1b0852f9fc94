"""Tasks of `peers`: the same data, networks and recipes for both sides.

Data are scikit-learn's digits, sizes those of `Sizes`. Both sides get the same
rows, masks and initial weights, the same loss, optimiser, steps and batch size;
each draws its batches in its own way, without replacement within an epoch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.tasks import Model
from jaxunlearn.models import CNN, MLP

from .. import data

CLASSES = 10
LEARNING_RATE = 1e-3
# One model or request after the other in one program. On a CPU `vmap` is no
# faster and compiles longer.
STRATEGY = "map"


class Sizes(NamedTuple):
  """How much work there is; the defaults are the benchmark's.

  Attributes:
    rows: training rows of digits; the others are for testing.
    shadows: shadow models, trained on half of the rows each.
    mlp_hidden: width of the MLP's hidden layer.
    mlp_steps: training steps of an MLP.
    mlp_batch: its rows a step.
    cnn_channels: of the CNN's convolutions.
    cnn_hidden: width of its hidden layer.
    cnn_steps: training steps of a CNN.
    cnn_batch: its rows a step.
    scored: rows that LiRA scores.
    method_share: of the methods' numbers of steps.
    networks: "MLP", "CNN" or both, on which the methods run.
    requests: how many classes are asked for, one after the other.
    gradient_rows: rows whose gradients are taken.
    slack: factor of the differences in accuracy that count as agreement.
  """

  rows: int = 1500
  shadows: int = 64
  mlp_hidden: int = 128
  mlp_steps: int = 600
  mlp_batch: int = 128
  cnn_channels: tuple[int, ...] = (16, 32)
  cnn_hidden: int = 64
  cnn_steps: int = 500
  cnn_batch: int = 64
  scored: int = 20_000
  method_share: float = 1.0
  networks: tuple[str, ...] = ("MLP", "CNN")
  requests: tuple[int, ...] = (1, 10)
  gradient_rows: int = 6000
  slack: float = 1.0


SMOKE = Sizes(
  rows=300,
  shadows=4,
  mlp_hidden=16,
  mlp_steps=20,
  mlp_batch=32,
  cnn_channels=(4, 4),
  cnn_hidden=8,
  cnn_steps=10,
  cnn_batch=32,
  scored=50,
  method_share=0.1,
  networks=("MLP",),
  requests=(2,),
  gradient_rows=64,
  slack=20.0,
)


class Task(NamedTuple):
  """A model with its data and recipe.

  Attributes:
    kind: "MLP" or "CNN".
    name: with its sizes.
    model: of the library.
    train: {"x", "label"} to train on.
    test: the same, never trained on.
    steps: training steps.
    batch_size: rows a step.
    widths: what `peers_torch` builds its module from.
  """

  kind: str
  name: str
  model: Model
  train: data.Rows
  test: data.Rows
  steps: int
  batch_size: int
  widths: tuple[Any, ...]

  def module(self) -> Any:
    """The same network in PyTorch."""
    from . import peers_torch

    if self.kind == "MLP":
      return peers_torch.mlp(*self.widths)
    return peers_torch.cnn(*self.widths)

  def recipe(self) -> dict[str, Any]:
    return {
      "optimizer": optax.adam(LEARNING_RATE),
      "num_steps": self.steps,
      "batch_size": self.batch_size,
    }


def task(kind: str, sizes: Sizes) -> Task:
  """The MLP or the CNN on digits."""
  loaded = data.digits()
  rows = {
    name: np.concatenate([loaded.train[name], loaded.test[name]])
    for name in ("x", "label")
  }
  order = np.random.default_rng(0).permutation(len(rows["label"]))
  if kind == "MLP":
    rows["x"] = rows["x"].reshape(len(order), -1)
  part = lambda index: {name: leaf[index] for name, leaf in rows.items()}
  train, test = part(order[: sizes.rows]), part(order[sizes.rows :])
  if kind == "MLP":
    widths = (rows["x"].shape[1], sizes.mlp_hidden, CLASSES)
    name = "MLP " + "-".join(map(str, widths))
    model = from_linen(MLP(CLASSES, hidden=(sizes.mlp_hidden,)))
    recipe = (sizes.mlp_steps, sizes.mlp_batch)
    return Task(kind, name, model, train, test, *recipe, (widths,))
  channels, hidden = sizes.cnn_channels, sizes.cnn_hidden
  name = "CNN 8x8x1-" + "-".join(map(str, (*channels, hidden, CLASSES)))
  model = from_linen(CNN(CLASSES, channels=channels, hidden=hidden))
  recipe = (sizes.cnn_steps, sizes.cnn_batch)
  side, inputs = rows["x"].shape[2:]
  built = (side, inputs, channels, hidden, CLASSES)
  return Task(kind, name, model, train, test, *recipe, built)


class Tensors(NamedTuple):
  """A task's rows as PyTorch wants them."""

  x: Any
  label: Any
  test_x: Any


def tensors(given: Task) -> Tensors:
  import torch

  from .peers_torch import inputs_of

  label = torch.from_numpy(given.train["label"]).long()
  return Tensors(inputs_of(given.train["x"]), label, inputs_of(given.test["x"]))


def on_device(rows: data.Rows) -> dict[str, jax.Array]:
  return jax.tree.map(jnp.asarray, rows)


def accuracy(logits: Any, label: np.ndarray) -> float:
  """Of logits [..., N, C]."""
  return float((np.asarray(logits).argmax(-1) == label).mean())
