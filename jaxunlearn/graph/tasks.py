"""Models on a graph: link prediction and node classification.

`GraphModel.model` is an ordinary `Model` whose rows are edges or nodes: pairs
of nodes int32 [B, 2], or node numbers int32 [B]. Which edges carry messages is
part of its values, `model_state["edge_weight"]` float32 [E], so that an
unlearned model brings the graph that is left along, and every attack, metric
and driver of the library takes it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import Model, PyTree, Variables
from jaxunlearn.graph import structure
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.losses.distillation import kl_to_teacher

Layers = tuple[jax.Array, ...]


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
  """

  model: Model
  graph: Any
  on_edges: bool
  widths: tuple[int, ...]
  convolve: Callable[..., jax.Array]
  decode: Callable[[Variables, jax.Array, jax.Array], jax.Array]
  divergence: Callable[[jax.Array, jax.Array], jax.Array]

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
    if jnp.shape(data["x"]) != pairs.shape:
      raise ValueError(
        f"Expected data['x'] of shape {pairs.shape}, the graph's edges, got "
        f"{jnp.shape(data['x'])}."
      )
    if checks.is_concrete(share) and checks.is_concrete(data["x"]):
      _check_order(self.graph, np.asarray(data["x"]), np.asarray(share))
    return share


def weight_of(variables: Variables) -> jax.Array:
  """The edge weights that the variables carry, float32 [E].

  Raises:
    ValueError: they carry none (bare params).
  """
  state = variables.model_state
  if not isinstance(state, dict) or "edge_weight" not in state:
    raise ValueError(
      "Expected Variables whose model_state has an 'edge_weight' [E], got bare "
      "params."
    )
  return state["edge_weight"]


def with_weight(variables: Variables, weight: jax.Array) -> Variables:
  """The same model on the edges of the given weights."""
  return variables._replace(
    model_state={**variables.model_state, "edge_weight": weight}
  )


def apply_deletions(
  variables: Variables, index: int, z: jax.Array
) -> jax.Array:
  """A layer's output [n, d] after the deletion operators, oldest first."""
  for deletion in variables.model_state.get("deletions", ()):
    z = delete_rows(z, deletion["operators"][index], deletion["zones"][index])
  return z


def delete_rows(z: jax.Array, operator: jax.Array, zone: jax.Array):
  """Rows of `zone` bool [n] times the operator [d, d]; the others as they are."""
  return jnp.where(zone[:, None], z @ operator.astype(z.dtype), z)


def link_prediction(encoder: Any, graph: Any) -> GraphModel:
  """Whether an edge joins two nodes: the logit is <z[u], z[v]>.

  Args:
    encoder: a `layers.Encoder`, or a linen module with its three methods.
    graph: see `from_edges`; the training edges.
  """

  def decode(variables, z, pairs):
    del variables
    z = z.astype(jnp.promote_types(jnp.float32, z.dtype))
    ends = z[pairs]
    return (ends[..., 0, :] * ends[..., 1, :]).sum(axis=-1)

  return _task(encoder, graph, decode, link_loss, bernoulli_kl, on_edges=True)


def node_classification(encoder: Any, graph: Any) -> GraphModel:
  """The class of a node, by the encoder's head.

  Args:
    encoder: a `layers.Encoder` with `num_classes`.
    graph: see `from_edges`.

  Raises:
    ValueError: an encoder without a head.
  """
  if not encoder.num_classes:
    raise ValueError("Expected encoder.num_classes > 0, got 0.")

  def decode(variables, z, nodes):
    return encoder.apply(
      {"params": variables.params}, z[nodes], method="classify"
    )

  loss = lambda outputs, rows: cross_entropy(outputs, rows["label"])
  return _task(encoder, graph, decode, loss, kl_to_teacher, on_edges=False)


def link_data(graph: Any) -> PyTree:
  """The training edges as rows: {"x": int32 [E, 2], "label": ones [E]}."""
  pairs = structure.edge_rows(graph)
  return {"x": pairs, "label": jnp.ones(pairs.shape[0], jnp.int32)}


def node_data(labels: Any, nodes: Any = None) -> PyTree:
  """Nodes as rows: {"x": int32 [N], "label": int32 [N]}.

  Args:
    labels: int [n], of all nodes.
    nodes: int [N], which of them are rows (those with a training label); all by
      default.

  Raises:
    ValueError: labels that are no integers; a node out of range.
  """
  labels = jnp.asarray(labels)
  if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"Expected labels int [n], got {labels.dtype}.")
  nodes = jnp.arange(labels.size) if nodes is None else jnp.asarray(nodes)
  checks.labels(nodes, labels.size, "nodes")
  nodes = nodes.astype(jnp.int32)
  return {"x": nodes, "label": labels[nodes].astype(jnp.int32)}


def link_loss(logits: jax.Array, rows: PyTree) -> jax.Array:
  """Binary cross entropy of each pair, rows["label"] in {0, 1}; nats [B]."""
  logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
  label = rows["label"].astype(logits.dtype)
  return jax.nn.softplus(logits) - label * logits


def bernoulli_kl(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
  """KL(Bern(sigmoid(teacher)) || Bern(sigmoid(logits))), nats [...].

  The gradient is sigmoid(logits) - sigmoid(teacher), exactly 0 for equal
  logits, and none flows into the teacher; there is no second derivative. Finite
  for any finite logits.
  """
  dtype = jnp.promote_types(jnp.float32, logits.dtype)
  s = logits.astype(dtype)
  t = jax.lax.stop_gradient(teacher_logits).astype(dtype)
  p = jax.nn.sigmoid(t)
  log_p = jax.nn.log_sigmoid
  fixed = jax.lax.stop_gradient(s)
  value = p * (log_p(t) - log_p(fixed))
  value += jax.nn.sigmoid(-t) * (log_p(-t) - log_p(-fixed))
  # The value that keeps its digits, with the gradient that is exact.
  slope = jax.nn.sigmoid(fixed) - p
  return value + slope * (s - fixed)


def _task(encoder, graph, decode, loss, divergence, *, on_edges) -> GraphModel:
  def init(key, inputs):
    del inputs  # The graph knows its sizes.
    made = encoder.init(
      key, graph.nodes, graph.senders, graph.receivers, graph.edges
    )
    params = made["params"]
    return Variables(params, {"edge_weight": structure.edge_weight(graph)})

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

  def apply(variables, inputs, *, train=False, key=None):
    del train, key  # Nothing is random.
    checks_rows(graph, inputs, on_edges)
    layers = task.embed(variables)
    return task.logits(variables, layers, inputs), variables.model_state

  def features(variables, inputs):
    checks_rows(graph, inputs, on_edges)
    return {
      f"layer{i}": z[inputs].reshape(len(inputs), -1)
      for i, z in enumerate(task.embed(variables))
    }

  task = GraphModel(
    Model(init, apply, loss, features),
    graph,
    on_edges,
    tuple(encoder.widths),
    convolve,
    decode,
    divergence,
  )
  return task


def _check_order(graph: Any, rows: np.ndarray, share: np.ndarray) -> None:
  """A mask over rows is one over edges: row e has to be edge e.

  What is forgotten is not looked at.

  Raises:
    ValueError: a row to retain is not its edge.
  """
  edges = np.asarray(graph.senders).reshape(-1, 2)
  kept = (np.asarray(graph.edges)[::2] > 0) & (share < 1)
  wrong = int(((rows != edges).any(axis=1) & kept).sum())
  if wrong:
    raise ValueError(
      f"Expected data['x'] to be the graph's edges in their order, got {wrong} "
      "rows that are others."
    )


def checks_rows(graph: Any, inputs: Any, on_edges: bool) -> None:
  """Rows are pairs [B, 2] or nodes [B], of nodes that exist.

  Raises:
    ValueError: another shape or dtype; (concrete) a number out of range.
  """
  shape = jnp.shape(inputs)
  wanted = "pairs [B, 2]" if on_edges else "nodes [B]"
  if len(shape) != 1 + on_edges or (on_edges and shape[1] != 2):
    raise ValueError(f"Expected rows to be {wanted}, got shape {shape}.")
  checks.labels(inputs, graph.nodes.shape[0], "node numbers")
