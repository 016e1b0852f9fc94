"""A graph, its splits and its requests, as what all programs share.

A lane is a request and a seed; each program serves all of them. A seed has a
split of its own, so that graphs differ between lanes while their shapes do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import graph_data
from experiments.graph_data import Ask, GraphData, Split
from jaxunlearn import graph
from jaxunlearn.graph.layers import GAT, GCN, GIN, Encoder

LAYERS: Mapping[str, Any] = {"gcn": GCN, "gat": GAT, "gin": GIN}


class Recipe(NamedTuple):
  """Sizes, steps and rates; all optimisers are Adam, all steps full batch.

  Attributes:
    widths: of the encoder's layers.
    rate: of training, retraining and shards.
    steps: of them.
    ascent_steps: of gradient ascent, at 1e-3 as in GNNDelete's code.
    descent_steps: of descent on the rest, at 1e-3.
    delete_steps: of GNNDelete, at 1e-3 as in its code.
    distil_steps: of D2DGN, at 1e-2.
    shards: of the partition.
  """

  widths: tuple[int, ...]
  rate: float
  steps: int
  ascent_steps: int
  descent_steps: int
  delete_steps: int
  distil_steps: int
  shards: int


class Study(NamedTuple):
  """What all programs share.

  Attributes:
    task: "links" or "nodes".
    layer: a name of `LAYERS`.
    recipe: see `Recipe`.
    data: the graph.
    asks: the requests.
    seeds: int [S].
    strategy: how lanes are mapped.
    splits: leaves [S, ...].
    masks: bool [R, S, N], the rows to forget.
    gone: bool [R, S, n], the nodes to forget.
    template: a graph whose arrays a lane replaces by its own.
  """

  task: str
  layer: str
  recipe: Recipe
  data: GraphData
  asks: tuple[Ask, ...]
  seeds: np.ndarray
  strategy: str | int
  splits: Split
  masks: np.ndarray
  gone: np.ndarray
  template: Any

  @property
  def lanes(self) -> tuple[np.ndarray, np.ndarray]:
    """Request and place of the seed of each lane, int [R * S] each."""
    count = len(self.seeds)
    grid = np.divmod(np.arange(len(self.asks) * count), count)
    return grid[0], grid[1]

  @property
  def train_keys(self) -> jax.Array:
    return jnp.stack([jax.random.key(int(s)) for s in self.seeds])

  @property
  def unlearn_keys(self) -> jax.Array:
    return jax.vmap(lambda k: jax.random.fold_in(k, 1))(self.train_keys)


def make(
  data: GraphData,
  asks: Sequence[Ask],
  *,
  task: str,
  layer: str,
  recipe: Recipe,
  seeds: np.ndarray,
  strategy: str | int,
) -> Study:
  """Splits the graph once a seed and turns requests into masks.

  Raises:
    ValueError: a request that is empty, covers everything or asks for more than
      there is; classes that the data lack; a graph too small to split.
  """
  if task == "nodes" and data.label is None:
    raise ValueError("Expected data with classes for --task nodes, got none.")
  if len(data.edges) < 20:
    raise ValueError(
      f"Expected --data with 20 edges or more, got {len(data.edges)}."
    )
  on_links = task == "links"
  split_of = graph_data.split_links if on_links else graph_data.split_nodes
  mask_of = graph_data.mask_links if on_links else graph_data.mask_nodes
  splits = [split_of(data, int(seed), asks) for seed in seeds]
  found = [
    [mask_of(ask, data, split, int(s)) for split, s in zip(splits, seeds)]
    for ask in asks
  ]
  masks, gone = (
    np.stack([[pair[i] for pair in line] for line in found]) for i in range(2)
  )
  return Study(
    task,
    layer,
    recipe,
    data,
    tuple(asks),
    seeds,
    strategy,
    jax.tree.map(lambda *leaves: np.stack(leaves), *splits),
    masks,
    gone,
    graph.from_edges(data.features, splits[0].edges),
  )


def training(study: Study) -> dict[str, Any]:
  recipe = study.recipe
  return {"optimizer": optax.adam(recipe.rate), "num_steps": recipe.steps}


def at(tree: Any, index: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf[index], tree)


def make_task(
  study: Study, features: jax.Array, edges: jax.Array
) -> graph.GraphModel:
  """The task on a lane's own graph."""
  g = study.template._replace(
    nodes=features,
    edges=jnp.ones(2 * len(edges)),
    senders=edges.reshape(-1),
    receivers=edges[:, ::-1].reshape(-1),
  )
  return task_on(study, g)


def task_on(study: Study, g: Any) -> graph.GraphModel:
  layer, widths = LAYERS[study.layer], study.recipe.widths
  if study.task == "links":
    return graph.link_prediction(Encoder(layer, widths), g)
  classes = len(study.data.class_names)
  return graph.node_classification(Encoder(layer, widths, classes), g)


def rows_of(study: Study, task: graph.GraphModel, split: Split) -> Any:
  if study.task == "links":
    return graph.link_data(task.graph)
  return graph.node_data(study.data.label, split.rows)
