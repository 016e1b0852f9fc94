"""A network of one's own as a `GraphModel`: whole, called on the graph.

Its layers cannot be called one by one, so that `gnndelete`, which acts between
them, is not for it; whatever needs only a loss, or embeddings of the last layer,
is.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.graph import structure
from jaxunlearn.graph.losses import inner_product
from jaxunlearn.graph.state import (
  weight_of,
)
from jaxunlearn.graph.tasks import (
  GraphModel,
  assemble,
)


def from_network(network: Model, graph: Any, *, on_edges: bool) -> GraphModel:
  """A graph model from a network that is called on the whole graph.

  Training draws dropout from the step's key and moves the statistics of
  BatchNorm; methods with teachers run in evaluation mode.

  Args:
    network: called on a `jraph.GraphsTuple` as `from_edges` makes it, nodes
      float [n, d], both directions of every edge, weights `edges` float32 [2 E].
      It returns a row a node, [n, D], or a graph with such nodes: of links the
      embeddings, whose inner products are the logits, of nodes the logits of D
      classes. An edge of weight 0 must be as good as none.
    graph: see `from_edges`; the training edges.
    on_edges: whether links are predicted; else classes of nodes.

  Raises:
    ValueError: the network returns no row a node.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> g = graph.from_edges(jnp.eye(3), [[0, 1], [1, 2]])
    >>> network = from_functions(
    ...   lambda key, g: jnp.float32(2), lambda scale, g: scale * g.nodes
    ... )
    >>> task = graph.from_network(network, g, on_edges=True)
    >>> variables = task.model.init(None, None)
    >>> task.model.predict(variables, jnp.array([[0, 0], [0, 1]])).tolist()
    [4.0, 0.0]
  """

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    del inputs  # The graph knows its sizes.
    made = network.init(key, graph)
    return _joined(made, made.model_state, structure.edge_weight(graph))

  def on(
    x: jax.Array, weight: jax.Array, pairs: jax.Array | None = None
  ) -> Any:
    found = graph._replace(nodes=x, edges=jnp.repeat(weight, 2))
    if pairs is None:
      return found
    ends = pairs.reshape(-1), pairs[:, ::-1].reshape(-1)
    return found._replace(senders=ends[0], receivers=ends[1])

  def convolve(variables, index, x, weight, pairs=None):
    del index  # There is one.
    return _rows(network.predict(_bare(variables), on(x, weight, pairs)))

  def forward(variables, key):
    weight = weight_of(variables)
    outputs, state = network.apply(
      _bare(variables), on(graph.nodes, weight), train=True, key=key
    )
    return _rows(outputs), _joined(variables, state, weight).model_state

  found = jax.eval_shape(
    lambda key: _rows(network.predict(network.init(key, graph), graph)),
    jax.random.key(0),
  )
  shape: tuple[int, ...] = getattr(found, "shape", ())
  if len(shape) != 2 or shape[0] != graph.nodes.shape[0]:
    raise ValueError(
      f"Expected a row a node, [{graph.nodes.shape[0]}, D], got {list(shape)}."
    )
  decode = inner_product if on_edges else lambda variables, z, nodes: z[nodes]
  made = assemble(graph, init, convolve, decode, shape[1:], on_edges=on_edges)
  return made._replace(forward=forward)


def _rows(outputs: Any) -> jax.Array:
  return getattr(outputs, "nodes", outputs)


def _bare(variables: Variables) -> Variables:
  """What the network knows: without the weights of the edges."""
  state = dict(variables.model_state)
  state.pop("edge_weight")
  return variables._replace(model_state=state)


def _joined(variables: Variables, state: PyTree, weight: jax.Array):
  return variables._replace(model_state={**state, "edge_weight": weight})
