"""The supernet of a differentiable search: every operation on every edge.

Source: DARTS, Liu et al. (2019), arXiv:1806.09055, which EmoNAS
(arXiv:2303.13653, ABSTRACT ONLY: neither its space nor its settings are public)
is a member of the family of. The space here is our definition.
Model state: none. Cost: the three convolutions of all edges that leave a node
are one product, of 25 shifted slices, so that models under `vmap` stay fast.
Departures from DARTS: a separable convolution is applied once; normalisation is
over an image, without statistics of a batch, so that no row's output depends on
another row and nothing has to be estimated again when an architecture is cut
out; at stride 2 an identity is a mean of 2x2 pixels.

An architecture is a table [edges, operations] for each kind of cell; the same
program runs the mixture (`softmax`), and one operation an edge
(`architecture.discretise`), whichever it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.types import PyTree
from jaxunlearn.models.layers import check_images
from jaxunlearn.nas.operations import (
  OPERATIONS,
  SIZE,
  averaged,
  mixed,
  normalised,
  windows,
)

NORMAL, REDUCE = "normal", "reduce"


class Space(NamedTuple):
  """What is searched in; static.

  Attributes:
    num_classes: outputs.
    channels: of the first cell; each reduction doubles them and halves the side.
    nodes: intermediate nodes of a cell, >= 1.
    cells: the kind of each cell.
    in_channels: of images.
  """

  num_classes: int
  channels: int = 8
  nodes: int = 2
  cells: tuple[str, ...] = (NORMAL, REDUCE)
  in_channels: int = 1

  @property
  def edges(self) -> tuple[tuple[int, int], ...]:
    """(from, to) of each edge; 0 and 1 are the cell's inputs."""
    return tuple((j, i) for i in range(2, self.nodes + 2) for j in range(i))


def init_architecture(space: Space, key: jax.Array) -> dict[str, jax.Array]:
  """Nearly equal logits of operations, [edges, operations] a kind of cell."""
  shape = len(space.edges), len(OPERATIONS)
  return {
    kind: 1e-3 * jax.random.normal(derive(key, kind), shape)
    for kind in sorted({NORMAL, REDUCE} & set(space.cells))
  }


def init_weights(space: Space, key: jax.Array) -> PyTree:
  """Weights of every operation of every edge of every cell."""
  checks.count(1, nodes=space.nodes, channels=space.channels)
  for kind in space.cells:
    checks.one_of((NORMAL, REDUCE), cell=kind)

  def draw(name: str, *shape: int, fan_in: int) -> jax.Array:
    noise = jax.random.normal(derive(key, name), shape)
    return noise * (2 / fan_in) ** 0.5

  width = space.channels
  weights: dict[str, Any] = {
    "stem": draw("stem", 3, 3, space.in_channels, width, fan_in=9)
  }
  before, last, edges = width, width, len(space.edges)
  for i, kind in enumerate(space.cells):
    width *= 2 if kind == REDUCE else 1
    weights[f"cell{i}"] = {
      "first": draw(f"{i} first", before, width, fan_in=before),
      "second": draw(f"{i} second", last, width, fan_in=last),
      "depth": draw(f"{i} depth", edges, 3, SIZE**2, width, fan_in=9),
      "point": draw(f"{i} point", edges, 3, width, width, fan_in=width),
    }
    before, last = last, space.nodes * width
  head = draw("head", last, space.num_classes, fan_in=2 * last)
  return {**weights, "head": {"kernel": head, "bias": jnp.zeros(head.shape[1])}}


def operation_costs(space: Space) -> jax.Array:
  """Weights that each operation has in the first cell, [operations]."""
  taps = jnp.array([0.0, 0.0, 0.0, 9.0, 25.0, 9.0])
  return (taps + space.channels * (taps > 0)) * space.channels


def apply(
  space: Space, weights: PyTree, gates: dict[str, jax.Array], x: jax.Array
) -> jax.Array:
  """Logits [B, num_classes] of images [B, H, W, C].

  Args:
    space: static.
    weights: of `init_weights`.
    gates: by kind of cell, what each operation of each edge is multiplied by,
      [edges, operations].
    x: images; each reduction needs an even side.
  """
  check_images(x)
  stem = weights["stem"]
  flat = windows(x, 3, 1).reshape(*x.shape[:3], -1)
  before = last = normalised(flat @ stem.reshape(-1, stem.shape[-1]))
  for i, kind in enumerate(space.cells):
    own = weights[f"cell{i}"]
    before, last = last, _cell(space, own, gates[kind], before, last, kind)
  head = weights["head"]
  return last.mean(axis=(1, 2)) @ head["kernel"] + head["bias"][None]


def _cell(space, weights, gates, before, last, kind):
  """The nodes of a cell side by side, [B, H, W, nodes * channels]."""
  if before.shape[1] != last.shape[1]:
    before = averaged(before, 2, 2)
  states = [
    normalised(nn.relu(s) @ weights[name])
    for s, name in ((before, "first"), (last, "second"))
  ]
  number = {edge: e for e, edge in enumerate(space.edges)}
  count, stride = space.nodes, 2 if kind == REDUCE else 1

  def leaving(j: int, first: int) -> list[jax.Array]:
    """Gates and weights of the edges from j to the nodes after `first`."""
    own = [number[j, i + 2] for i in range(first, count)]
    every = gates, weights["depth"], weights["point"]
    # Slices: the gradient of an index array is a slow loop.
    return [jnp.stack([part[e] for e in own]) for part in every]

  # Both inputs at once, then each node to those after it.
  both = (jnp.stack(pair) for pair in zip(leaving(0, 0), leaving(1, 0)))
  sends = jax.vmap(lambda *parts: mixed(*parts, stride))
  nodes = list(sends(jnp.stack(states), *both).sum(axis=0))
  for j in range(count - 1):
    sent = mixed(nodes[j], *leaving(j + 2, j + 1), 1)
    for i, more in enumerate(sent, j + 1):
      nodes[i] += more
  return jnp.concatenate(nodes, axis=-1)
