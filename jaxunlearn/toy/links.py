"""The toy of a graph."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.types import Variables
from jaxunlearn.toy.problem import Problem


def graph() -> Problem:
  """Two triangles of nodes and an edge between them, which has to go.

  Returns:
    Data of `graph.link_data`, pairs [7, 2] whose last, (2, 3), is the request;
    a `GraphModel` of links on one-hot features [6, 2], 0 to 2 and 3 to 5 alike,
    of one layer z = (A + I) x "kernel" and logits <z[u], z[v]>. The kernel is
    half the identity [2, 2], which gives logits of 9/4 in a triangle and of 3/2
    between them; a new model draws it.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.graph()
    >>> model = problem.model.model
    >>> model.predict(problem.variables, problem.data["x"]).tolist()
    [2.25, 2.25, 2.25, 2.25, 2.25, 2.25, 1.5]
  """
  from jaxunlearn import graph as room
  from jaxunlearn.adapters.functions import from_functions

  edges = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3)]
  g = room.from_edges(np.repeat(np.eye(2, dtype=np.float32), 3, 0), edges)

  def apply(params, g):
    sent = g.edges[:, None] * g.nodes[g.senders]
    return g.nodes.at[g.receivers].add(sent) @ params["kernel"]

  init = lambda key, g: {"kernel": jax.random.normal(key, (2, 2)) / 2}
  network = from_functions(init, apply)
  state = {"edge_weight": room.edge_weight(g)}
  return Problem(
    room.from_network(network, g, on_edges=True),
    Variables({"kernel": jnp.eye(2) / 2}, state),
    room.link_data(g),
    jnp.arange(7) == 6,
    jax.random.key(0),
  )
