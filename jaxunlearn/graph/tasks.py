"""Models on a graph: link prediction and node classification.

`GraphModel.model` is an ordinary `Model` whose rows are edges or nodes: pairs
of nodes int32 [B, 2], or node numbers int32 [B]. Which edges carry messages is
part of its values, `model_state["edge_weight"]` float32 [E], so that an
unlearned model brings the graph that is left along, and every attack, metric
and driver of the library takes it as it is.

`GraphModel.task` is what the methods take that need only a loss. Its `prepare`
is `unlink` (UtU, "Unlink to Unlearn", Tan et al. (2024), arXiv:2402.10695).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.keys import derive
from jaxunlearn.core.links import provide
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model, Task
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  ALL,
  Draw,
  Losses,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.graph import structure
from jaxunlearn.graph.losses import bernoulli_kl, inner_product, link_loss
from jaxunlearn.graph.rows import check_order, check_rows
from jaxunlearn.graph.state import (
  apply_deletions,
  no_deletions,
  weight_of,
  with_weight,
)
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.losses.distillation import kl_to_teacher

Layers = tuple[jax.Array, ...]
# The pairs that no edge joins, in the graph that is left.
NON_EDGES: Slot[structure.NonEdges] = Slot("non_edges")


class GraphModel(NamedTuple):
  """A `Model` on one graph, and the parts of it that graph methods use.

  Attributes:
    model: the model; its rows are edges or nodes. `features` gives the rows of
      each layer, of a pair both ends side by side.
    graph: see `structure.from_edges`.
    on_edges: whether rows, and so requests, are edges; else nodes.
    widths: outputs of each layer.
    convolve: `(variables, index, x [n, d], weight [E], pairs) -> [n, width]`,
      one layer; `pairs` int32 [E, 2] in the place of the graph's edges, or None.
    decode: `(variables, z [n, d], x) -> logits`, [B] for pairs, [B, C] for
      nodes, from the last layer's output.
    divergence: `(logits, teacher_logits) -> [B]`, KL(teacher || student).
    max_deletions: places for requests of `gnndelete` in the model state.
    forward: `(variables, key) -> (z [n, d], model_state)`, the last layer in
      training mode; None where training is as evaluation.
  """

  model: Model
  graph: Any
  on_edges: bool
  widths: tuple[int, ...]
  convolve: Callable[..., jax.Array]
  decode: Callable[[Variables, jax.Array, jax.Array], jax.Array]
  divergence: Callable[[jax.Array, jax.Array], jax.Array]
  max_deletions: int = 0
  forward: Callable[..., tuple[jax.Array, PyTree]] | None = None

  @property
  def task(self) -> Task:
    """What methods fit that need only a loss.

    A row's loss is its cross entropy; to that of an edge to retain comes that of
    a pair that no edge joins, drawn afresh each step. Weight 0 have padding and
    edges to retain that the variables do not hold: they went with an earlier
    request. Messages run over the whole graph at every step, whatever the batch.
    """

    def loss(
      variables: Variables, step: Step, key: jax.Array, *, train: bool = False
    ) -> Losses:
      x, state = step.rows["x"], None
      if train and self.forward is not None:
        z, state = self.forward(variables, derive(key, "forward"))
        layers: Layers = (z,)
      else:
        layers = self.embed(variables)
      found = self.logits(variables, layers, x)
      if not self.on_edges:
        return Losses(self.model.loss(found, step.rows), None, state)
      free: Any = step.slots.get(NON_EDGES)
      if free is None:
        free = structure.non_edges(self.graph, weight_of(variables))
      others = structure.draw_non_edges(free, key, x.shape[0])
      wrong = jax.nn.softplus(self.logits(variables, layers, others))
      value = jax.nn.softplus(-found) + jnp.where(step.forget, 0.0, wrong)
      there = step.forget | structure.are_joined(free, x)
      there &= x[:, 0] != x[:, 1]  # Only padding joins a node with itself.
      return Losses(value, there.astype(value.dtype), state)

    init = lambda key, data: self.model.init(key, None)
    model, prepare = self.model, unlink(self)
    if self.on_edges:
      prepare = chain(prepare, provide_non_edges(self), name="prepare")
    return Task(init, loss, model.predict, model.features, prepare)

  def embed(
    self, variables: Variables, pairs: jax.Array | None = None
  ) -> Layers:
    """The output of every layer, before its ReLU: a tuple of [n, width].

    Deletion operators of the model state (see `gnndelete`) are applied.
    """
    x, outputs = self.graph.nodes, []
    for index in range(len(self.widths)):
      z = self.convolve(variables, index, x, weight_of(variables), pairs)
      z = apply_deletions(variables, index, z)
      outputs.append(z)
      x = jax.nn.relu(z)
    return tuple(outputs)

  def logits(
    self, variables: Variables, layers: Layers, x: jax.Array
  ) -> jax.Array:
    """`model.predict` from embeddings that are there already."""
    return self.decode(variables, layers[-1], x)

  def fresh(self, key: jax.Array, like: Variables) -> Variables:
    """New params in the dtypes of `like`, on its graph, nothing deleted."""
    made = self.model.init(key, None)
    params = jax.tree.map(
      lambda new, old: new.astype(old.dtype), made.params, like.params
    )
    return with_weight(made._replace(params=params), weight_of(like))

  def of_edges(self, data: PyTree, request: Request) -> Request:
    """A request over rows as one over edges, float32 [E].

    Of rows in neither mask, an edge goes and stays in no part, while a node's
    edges are left alone: what it took along went with its own request.

    Raises:
      ValueError: as `removed`.
    """
    forget, retain = map(jnp.asarray, request[:2])
    if self.on_edges:
      left = 1.0 - self.removed(data, 1.0 - retain)
      return Request(forget.astype(jnp.float32), left)
    gone = self.removed(data, forget)
    return Request(gone, 1.0 - gone)

  def removed(self, data: PyTree, forget_mask: jax.Array) -> jax.Array:
    """The share of each edge that a request takes away, float32 [E].

    Of nodes, every incident edge goes.

    Raises:
      ValueError: not as many rows as the graph has edges, or (concrete) rows to
        retain that are others, as after a shuffle; a node out of range.
    """
    share = jnp.asarray(forget_mask).astype(jnp.float32)
    pairs = structure.edge_rows(self.graph)
    if not self.on_edges:
      checks.labels(data["x"], self.graph.nodes.shape[0], "data['x']")
      nodes = jnp.zeros(self.graph.nodes.shape[0]).at[data["x"]].max(share)
      return nodes[pairs].max(axis=1)
    shaped(f"data['x'] {list(pairs.shape)}", data["x"])
    if checks.is_concrete(share) and checks.is_concrete(data["x"]):
      check_order(self.graph, np.asarray(data["x"]), np.asarray(share))
    return share


def unlink(task: GraphModel) -> Transform:
  """Takes the edges of a request out of the graph and changes no parameter.

  The cheapest baseline, and hard to beat in fidelity to the retrained model.
  Requests add up: an edge that is gone stays gone. A soft request leaves its
  complement of an edge's weight.

  Args:
    task: see `link_prediction`, `node_classification`.

  Returns:
    A `Transform` of no steps. The identity for an empty request.

  Example:
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> without, _ = graph.unlink(problem.model)(*problem.arguments)
    >>> graph.weight_of(without).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]
  """
  slot: Slot[jax.Array] = Slot("unlink")

  # Of the original's graph: fresh params know nothing of earlier requests.
  def left(carry, data, request, key):
    return weight_of(carry.original) * task.of_edges(data, request).retain

  weigh = provide(slot, left, needs=Draw(mixed=ALL))

  def run(carry, data, request, key, env):
    found, _ = weigh.run(carry, data, request, key, env)
    variables = with_weight(carry.variables, found[slot])
    return carry._replace(variables=variables), None

  this = dataclasses.replace(weigh, run=run, expand=lambda key: [(this, key)])
  return this


def provide_non_edges(task: GraphModel) -> Transform:
  """The link that prepares the draw of pairs that no edge joins.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.graph import tasks
    >>> link = tasks.provide_non_edges(toy.graph().model)
    >>> link.name, link.num_steps
    ('non_edges', 0)
  """
  return provide(
    NON_EDGES,
    lambda carry, data, request, key: structure.non_edges(
      task.graph, weight_of(carry.variables)
    ),
    reads="nothing",
  )


def link_prediction(
  encoder: Any, graph: Any, *, max_deletions: int = 0
) -> GraphModel:
  """Whether an edge joins two nodes: the logit is <z[u], z[v]>.

  Args:
    encoder: a `layers.Encoder`, or a linen module with its three methods.
    graph: see `from_edges`; the training edges.
    max_deletions: static; see `gnndelete`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> from jaxunlearn.graph.layers import GCN, Encoder
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> task = graph.link_prediction(Encoder(GCN, widths=(4, 2)), g)
    >>> variables = task.model.init(jax.random.key(0), None)
    >>> task.model.predict(variables, jnp.array([[0, 1], [0, 2]])).shape
    (2,)
  """

  return _task(encoder, graph, inner_product, True, max_deletions)


def node_classification(
  encoder: Any, graph: Any, *, max_deletions: int = 0
) -> GraphModel:
  """The class of a node, by the encoder's head.

  Args:
    encoder: a `layers.Encoder` with `num_classes`.
    graph: see `from_edges`.
    max_deletions: static; see `gnndelete`.

  Raises:
    ValueError: an encoder without a head.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> from jaxunlearn.graph.layers import GCN, Encoder
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> task = graph.node_classification(Encoder(GCN, (2,), num_classes=5), g)
    >>> variables = task.model.init(jax.random.key(0), None)
    >>> task.model.predict(variables, jnp.array([0, 2])).shape
    (2, 5)
  """
  if not encoder.num_classes:
    raise ValueError("Expected encoder.num_classes > 0, got 0.")

  def decode(variables, z, nodes):
    return encoder.apply(
      {"params": variables.params}, z[nodes], method="classify"
    )

  return _task(encoder, graph, decode, False, max_deletions)


def _task(encoder, graph, decode, on_edges, max_deletions) -> GraphModel:
  checks.count(0, max_deletions=max_deletions)

  def init(key, inputs):
    del inputs  # The graph knows its sizes.
    made = encoder.init(
      key, graph.nodes, graph.senders, graph.receivers, graph.edges
    )
    fresh = Variables(made["params"])
    state = {"edge_weight": structure.edge_weight(graph)}
    if max_deletions:
      state["deletions"] = no_deletions(task, max_deletions, fresh)
    return fresh._replace(model_state=state)

  def convolve(variables, index, x, weight, pairs=None):
    senders, receivers = graph.senders, graph.receivers
    if pairs is not None:
      senders, receivers = pairs.reshape(-1), pairs[:, ::-1].reshape(-1)
    return encoder.apply(
      {"params": variables.params},
      index,
      x,
      senders,
      receivers,
      jnp.repeat(weight, 2),
      method="convolve",
    )

  task = assemble(
    graph, init, convolve, decode, tuple(encoder.widths), on_edges=on_edges
  )._replace(max_deletions=max_deletions)
  return task


def assemble(
  graph: Any,
  init: Callable[..., Variables],
  convolve: Callable[..., jax.Array],
  decode: Callable[..., jax.Array],
  widths: tuple[int, ...],
  *,
  on_edges: bool,
) -> GraphModel:
  """A `GraphModel` of its parts: the rows, losses and features follow.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.graph import losses, tasks
    >>> problem = toy.graph()
    >>> task = tasks.assemble(
    ...   problem.model.graph,
    ...   problem.model.model.init,
    ...   lambda variables, index, x, weight, pairs: 2 * x,  # No messages.
    ...   losses.inner_product,
    ...   widths=(2,),
    ...   on_edges=True,
    ... )
    >>> task.model.predict(problem.variables, problem.data["x"][-2:]).tolist()
    [4.0, 0.0]
  """

  def apply(variables, inputs, *, train=False, key=None):
    del train, key  # A step is that of `GraphModel.task`.
    check_rows(graph, inputs, on_edges)
    layers = task.embed(variables)
    return task.logits(variables, layers, inputs), variables.model_state

  def features(variables, inputs):
    check_rows(graph, inputs, on_edges)
    return {
      f"layer{i}": z[inputs].reshape(len(inputs), -1)
      for i, z in enumerate(task.embed(variables))
    }

  of_nodes = lambda outputs, rows: cross_entropy(outputs, rows["label"])
  loss = link_loss if on_edges else of_nodes
  divergence = bernoulli_kl if on_edges else kl_to_teacher
  model = Model(init, apply, loss, features)
  task = GraphModel(
    model, graph, on_edges, widths, convolve, decode, divergence
  )
  return task
