"""Rows of the methods on graphs."""

from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import graph
from jaxunlearn.methods.influence_unlearning import influence_released

FIT = ju.Fit(ADAM, 4, ju.ALL)

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
    ju.methods.retrain,
    lambda t: graph.retrain(t, optimizer=ADAM, num_steps=4),
    "edges",
    slow=True,
  ),
  row(
    worlds.nodes,
    ju.methods.retrain,
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
  # Of the library's methods, one of each way to use a task.
  row(
    worlds.edges,
    ju.methods.ssd,
    lambda t: ju.methods.ssd(t, alpha=1.0, dampening=0.5, batch_size=16),
    "edges",
  ),
  row(
    worlds.nodes,
    ju.methods.ssd,
    lambda t: ju.methods.ssd(t, alpha=1.0, dampening=0.5, batch_size=16),
    "nodes",
    keyless=True,
    slow=True,
  ),
  row(
    worlds.nodes,
    ju.methods.fisher_forgetting,
    lambda t: ju.methods.fisher_forgetting(t, num_classes=2, noise_scale=1e-4),
    "nodes",
    devices=False,  # Noise that is scaled by a small number's root.
    slow=True,
  ),
  row(
    worlds.edges,
    influence_released,
    lambda t: influence_released(t, num_samples=20),
    "edges",
    slow=True,
  ),
  row(
    worlds.edges,
    ju.methods.l1_sparse,
    lambda t: ju.methods.l1_sparse(t, FIT),
    "edges",
    slow=True,
  ),
  row(
    worlds.edges,
    ju.methods.neggrad_plus,
    lambda t: ju.methods.neggrad_plus(t, FIT),
    "edges",
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
    uses_retain=False,  # The graph is used, whichever of its nodes are rows.
    moves=False,
    keeps_state=False,
    soft_request=False,
    slow=True,
  ),
]
