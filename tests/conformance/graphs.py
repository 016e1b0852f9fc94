"""Rows of the methods on graphs."""

from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import graph

GRAPHS = [
  row(
    worlds.edges,
    graph.unlink,
    graph.unlink,
    keyless=True,
    moves=False,
  ),
  row(
    worlds.edges,
    ju.retrain,
    lambda t: graph.retrain(t, optimizer=ADAM, num_steps=4),
    "edges",
    slow=True,
  ),
  row(
    worlds.nodes,
    ju.retrain,
    lambda t: graph.retrain(t, optimizer=ADAM, num_steps=4),
    "nodes",
    slow=True,
  ),
  row(
    worlds.edges,
    graph.gradient_ascent,
    lambda t: graph.gradient_ascent(t, num_steps=3),
    keyless=True,
  ),
  row(
    worlds.edges,
    graph.descent_to_delete,
    lambda t: graph.descent_to_delete(t, num_steps=3, noise_scale=0.01),
    slow=True,
  ),
  row(worlds.edges, graph.d2dgn, lambda t: graph.d2dgn(t, num_steps=4)),
  row(
    worlds.nodes,
    graph.d2dgn,
    lambda t: graph.d2dgn(t, num_steps=4),
    "nodes",
    slow=True,
  ),
  row(
    worlds.edges,
    graph.d2dgn,
    lambda t: graph.d2dgn(
      t, num_steps=4, knowledge="feature", student_init="random"
    ),
    "feature",
    slow=True,
  ),
  row(
    worlds.edges,
    graph.d2dgn,
    lambda t: graph.d2dgn(
      t,
      num_steps=4,
      knowledge="feature",
      feature_loss="kl",
      destroyer="non_edges",
      destroyer_steps=3,
    ),
    "non_edges",
    slow=True,
  ),
  row(
    worlds.edges,
    graph.gnndelete,
    lambda t: graph.gnndelete(t, num_steps=4),
    moves=False,
    keeps_state=False,
    soft_request=False,
  ),
  row(
    worlds.nodes,
    graph.gnndelete,
    lambda t: graph.gnndelete(t, num_steps=4),
    "nodes",
    moves=False,
    keeps_state=False,
    soft_request=False,
    slow=True,
  ),
]
