"""Training on a graph under a mask, and what every method starts with: unlink.

Class: `train` and `retrain` are exact; `unlink` is heuristic (UtU, "Unlink to
Unlearn", Tan et al. (2024), arXiv:2402.10695).
Cost: a step is one pass over the whole graph. Negative pairs of link prediction
are drawn afresh each step, as many as rows, among the pairs that no edge that is
left joins: the retrained model does not know what was deleted.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import (
  ALL,
  Draw,
  PyTree,
  Transform,
  Variables,
)
from jaxunlearn.graph import structure
from jaxunlearn.graph.tasks import GraphModel, weight_of, with_weight


def unlink(task: GraphModel) -> Transform:
  """Takes the edges of a request out of the graph and changes no parameter.

  The cheapest baseline, and hard to beat in fidelity to the retrained model.
  Requests add up: an edge that is gone stays gone. A soft request leaves its
  complement of an edge's weight.

  Args:
    task: see `link_prediction`, `node_classification`.

  Returns:
    A `Transform` of no steps. The identity for an empty request.
  """

  def fn(variables, data, forget_mask, key):
    del key
    left = 1.0 - task.removed(data, forget_mask)
    return with_weight(variables, weight_of(variables) * left)

  return edit(fn, needs=Draw(mixed=ALL), name="unlink")


def fitting(
  task: GraphModel,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  name: str = "fit",
) -> Transform:
  """Fits the task's loss on the rows to retain, full batch.

  Link prediction: mean over rows of BCE(edge) + BCE(a fresh non-edge). Node
  classification: cross entropy. Messages run over the edges that the variables
  carry; put `unlink` before it. An edge that these no longer hold is not fitted.

  Args:
    task: what to fit.
    optimizer: starts fresh.
    num_steps: static, >= 0.
    name: the key of the phase's info in a chain.
  """
  draw = Draw(retain=ALL, select=real_rows(task))
  if not task.on_edges:

    def classify(variables, batch, key):
      del key
      rows = batch.rows
      return task.model.loss(
        task.model.predict(variables, rows["x"]), rows
      ), variables.model_state

    return phase(classify, optimizer, num_steps, draw=draw, name=name)

  free_name = f"{name}_non_edges"

  def free(carry, data, forget_mask, key):
    del data, forget_mask, key
    return structure.non_edges(task.graph, weight_of(carry.variables))

  def link(variables, batch, key):
    pairs = batch.rows["x"]
    free = batch.context.extra[free_name]
    others = structure.draw_non_edges(free, key, pairs.shape[0])
    layers = task.embed(variables)
    found = task.logits(variables, layers, pairs)
    wrong = task.logits(variables, layers, others)
    losses = jax.nn.softplus(-found) + jax.nn.softplus(wrong)
    # Rows whose edges went with an earlier request are in the data still.
    there = weight_of(variables)[batch.row_id] > 0
    count = jnp.where(there, batch.weight, 0).sum()
    scale = batch.weight.sum() / jnp.where(count > 0, count, 1)
    return jnp.where(there, scale * losses, 0)

  return chain(
    provide(free_name, free, reads="nothing"),
    phase(link, optimizer, num_steps, draw=draw, name=name),
    name=name,
  )


def real_rows(task: GraphModel) -> Any:
  """The rows that are no padding, for `Draw.select`."""
  if not task.on_edges:
    return None
  weight = structure.edge_weight(task.graph)
  return lambda data, forget_mask, key: weight > 0


def train(
  task: GraphModel,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
) -> tuple[Variables, Any]:
  """Trains a fresh model on the part of the graph that a mask selects.

  The original (all True) and any retrained model are the same function of the
  mask; under `vmap` it is shards and shadow models too.

  Args:
    task: see `link_prediction`, `node_classification`.
    data: `link_data` or `node_data`.
    weights: bool [N], True = train on the row; a node that is out takes its
      edges along. Or float weights in [0, 1].
    key: decides the initial params and the non-edges. The same key, the same
      initial params whatever the mask.
    optimizer: any optax optimiser.
    num_steps: static.

  Returns:
    The variables, and the info by link.

  Raises:
    ValueError: weights of a wrong shape or dtype, a count that is not positive.
  """
  checks.positive(num_steps=num_steps)
  checks.request(data, weights, name="weights")
  weights = jnp.asarray(weights)
  left_out = ~weights if weights.dtype == jnp.bool_ else 1 - weights
  method = retrain(task, optimizer=optimizer, num_steps=num_steps)
  # The shapes alone: `retrain` makes the params.
  blank = jax.eval_shape(task.model.init, key, None)
  blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), blank)
  weight = structure.edge_weight(task.graph)
  return method(with_weight(blank, weight), data, left_out, key)


def retrain(
  task: GraphModel,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
) -> Transform:
  """Trains from scratch on what a request leaves: the gold standard.

  The original params are not read. With an empty request and the key of the
  original training it gives back the original's bits.

  Args:
    task: see `link_prediction`, `node_classification`.
    optimizer: that of the original training.
    num_steps: that of the original training.
  """

  def fresh(variables, data, forget_mask, key):
    del data, forget_mask
    made = task.model.init(key, None)
    params = jax.tree.map(
      lambda new, old: new.astype(old.dtype), made.params, variables.params
    )
    # The edges of earlier requests stay gone; deletion operators do not.
    return Variables(params, {"edge_weight": weight_of(variables)})

  return chain(
    edit(fresh, reads="shapes", name="init"),
    unlink(task),
    fitting(task, optimizer=optimizer, num_steps=num_steps),
    name="retrain",
  )
