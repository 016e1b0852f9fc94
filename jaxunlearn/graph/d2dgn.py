"""D2DGN, Distill to Delete: keep by one teacher, forget by another.

Source: Sinha, Mandal and Kankanhalli (2023), "Distill to Delete: Unlearning in
Graph Networks with Knowledge Distillation", arXiv:2309.16173.
Class: heuristic. Labels are not read. Data access: the whole graph.
Cost: a step is one pass over the graph; the teachers run once a call.
Read before use: forgotten edges are pulled towards "undecided", below what a
retrained model gives them, which still finds them plausible. A high AUC of
retained over forgotten edges is therefore OVER-FORGETTING, not closeness to the
retrained model; plain `unlink` is closer to that.
Differences from the paper, of which only the abstract and an independent
implementation were at hand: the student starts as the original (or at random,
`student_init`), messages run over the retained graph (`student_graph`), retained
knowledge of a link predictor includes as many sampled non-edges as edges, drawn
afresh each step, and all losses are means, so that `retain_weight` has one
meaning. The defaults were chosen on Cora on other seeds than are reported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.types import ALL, Draw, Transform, Variables
from jaxunlearn.graph import structure
from jaxunlearn.graph.objectives import (
  embedding_kl,
  embedding_mse,
  weighted_mean,
)
from jaxunlearn.graph.tasks import GraphModel, Layers, weight_of, with_weight
from jaxunlearn.graph.training import unlink

_READS_ALL = Draw(mixed=ALL)


class Teachers(NamedTuple):
  """What the student is compared with; nothing here is differentiated.

  Attributes:
    preserver: the original's layers on the graph with the forget set.
    destroyer: those of a model that knows nothing of the forget set.
    variables: the original's values, for predictions from its layers.
    kept: the original's logits of every row.
    gone: the destroyer's.
    forget: float32 [N], the share of a row that goes.
    retain: float32 [N], the share that stays, 0 for padding.
    forget_nodes: float32 [n], 1 for the nodes to forget, or for the ends of the
      edges to forget; feature knowledge alone reads it.
    retain_nodes: float32 [n], 1 for the other real nodes.
    free: `NonEdges` of the graph with the forget set; None for nodes.
  """

  preserver: Layers
  destroyer: Layers
  variables: Variables
  kept: jax.Array
  gone: jax.Array
  forget: jax.Array
  retain: jax.Array
  forget_nodes: jax.Array
  retain_nodes: jax.Array
  free: Any


def d2dgn(
  task: GraphModel,
  *,
  num_steps: int = 40,
  learning_rate: float | jax.Array = 1e-2,
  retain_weight: float | jax.Array = 0.97,
  knowledge: str = "response",
  feature_loss: str = "mse",
  destroyer: str = "random",
  destroyer_steps: int = 100,
  student_init: str = "original",
  student_graph: str = "retain",
  optimizer: optax.GradientTransformation | None = None,
) -> Transform:
  """Distils from the original on the retain set, from ignorance on the forget set.

  Minimises a times a mean over retained rows plus 1 - a times one over forget
  rows, a = `retain_weight`, with Adam. Response knowledge: KL(teacher ||
  student) of the rows' predictions. Feature knowledge: the distance of
  embeddings, summed over layers, on the rows of nodes; for edges those are the
  ends of forget edges, and the other nodes.

  Args:
    task: see `link_prediction`, `node_classification`.
    num_steps: full-batch steps; static.
    learning_rate: of Adam; may be traced.
    retain_weight: a in [0, 1]; 1 only preserves. May be traced.
    knowledge: "response" or "feature".
    feature_loss: "mse", or "kl" of softmaxed embeddings.
    destroyer: "random", fresh params from the call's key; "non_edges", the same
      trained as a link predictor on as many random pairs in the place of edges.
    destroyer_steps: steps of that training, Adam of 1e-2.
    student_init: "original" or "random"; the latter is slow to be any good.
    student_graph: "retain", deleted edges carry no messages; "full", they do, and
      stay in the variables' graph.
    optimizer: None is Adam of `learning_rate`, which is not read otherwise.

  Returns:
    A `Transform` with info "distil". An empty request distils the model from
    itself: its gradient is 0 up to rounding, which Adam still turns into small
    steps.

  Raises:
    ValueError: an option outside its range; "non_edges" for nodes.
  """
  checks.fraction(retain_weight=retain_weight)
  checks.positive(learning_rate=learning_rate)
  checks.non_negative(destroyer_steps=destroyer_steps)
  checks.one_of(("response", "feature"), knowledge=knowledge)
  checks.one_of(("mse", "kl"), feature_loss=feature_loss)
  checks.one_of(("random", "non_edges"), destroyer=destroyer)
  checks.one_of(("original", "random"), student_init=student_init)
  checks.one_of(("retain", "full"), student_graph=student_graph)
  if destroyer == "non_edges" and not task.on_edges:
    raise ValueError("Expected destroyer 'random' for nodes, got 'non_edges'.")

  def teachers(carry, data, forget_mask, key):
    variables = carry.variables
    before = weight_of(variables)
    removed = task.removed(data, forget_mask)
    free = structure.non_edges(task.graph, before) if task.on_edges else None
    ignorant = init_variables(task.model, data, key, like=_bare(variables))
    ignorant = with_weight(ignorant, before)
    pairs = None
    if destroyer == "non_edges":
      ignorant, pairs = _train_on_noise(
        task, ignorant, free, key, destroyer_steps
      )
    forget = jnp.asarray(forget_mask).astype(jnp.float32)
    real = before > 0 if task.on_edges else jnp.ones(forget.shape, bool)
    if task.on_edges:
      # Padding, and what went before, is not forgotten now.
      nodes = structure.endpoints(task.graph, real & (removed > 0))
    else:
      nodes = jnp.zeros(task.graph.nodes.shape[0], bool)
      nodes = nodes.at[data["x"]].max(forget > 0)
    exists = jnp.arange(nodes.size) < structure.num_nodes(task.graph)
    preserver, ignorance = task.embed(variables), task.embed(ignorant, pairs)
    return jax.lax.stop_gradient(
      Teachers(
        preserver,
        ignorance,
        variables,
        task.logits(variables, preserver, data["x"]),
        task.logits(ignorant, ignorance, data["x"]),
        jnp.where(real, forget, 0),
        jnp.where(real, 1 - forget, 0),
        nodes.astype(jnp.float32),
        (exists & ~nodes).astype(jnp.float32),
        free,
      )
    )

  def rows(carry, data, forget_mask, key):
    return data["x"]

  def by_response(variables, batch, key):
    known, x = batch.context.extra["teachers"], batch.context.extra["rows"]
    layers = task.embed(variables)
    student = task.logits(variables, layers, x)
    keep_loss = task.divergence(student, known.kept)
    if task.on_edges:
      others = structure.draw_non_edges(known.free, key, x.shape[0])
      apart = task.divergence(
        task.logits(variables, layers, others),
        task.logits(known.variables, known.preserver, others),
      )
      keep_loss = (keep_loss + apart) / 2
    forget_loss = task.divergence(student, known.gone)
    return _mix(
      weighted_mean(keep_loss, known.retain),
      weighted_mean(forget_loss, known.forget),
    )

  def by_feature(variables, batch, key):
    del key
    known = batch.context.extra["teachers"]
    distance = {"mse": embedding_mse, "kl": embedding_kl}[feature_loss]
    layers = task.embed(variables)
    total = jnp.zeros((), jnp.float32)
    for z, kept, gone in zip(layers, known.preserver, known.destroyer):
      total += _mix(
        distance(z, kept, known.retain_nodes),
        distance(z, gone, known.forget_nodes),
      )
    return total

  def _mix(keep, forget):
    return jnp.atleast_1d(retain_weight * keep + (1 - retain_weight) * forget)

  def restart(variables, data, forget_mask, key):
    del forget_mask
    fresh = init_variables(task.model, data, key, like=_bare(variables))
    return variables._replace(params=fresh.params)

  links = [
    provide("teachers", teachers, needs=_READS_ALL),
    provide("rows", rows, needs=_READS_ALL),
  ]
  if student_init == "random":
    links.append(edit(restart, reads="shapes", name="restart"))
  if student_graph == "retain":
    links.append(unlink(task))
  objective = by_response if knowledge == "response" else by_feature
  optimizer = optimizer or optax.adam(learning_rate)
  fit = phase(objective, optimizer, num_steps, name="distil")
  return chain(*links, fit, name="d2dgn")


def _bare(variables: Variables) -> Variables:
  """The variables as the model makes them: without deletion operators."""
  return Variables(variables.params, {"edge_weight": weight_of(variables)})


def _train_on_noise(task, variables, free, key, num_steps):
  """A link predictor of random pairs, and these pairs in the place of edges."""
  pair_key, step_key = jax.random.split(jax.random.fold_in(key, 1))
  count = weight_of(variables).shape[0]
  pairs = structure.draw_non_edges(free, pair_key, count)
  optimizer = optax.adam(1e-2)

  def loss(params, key):
    current = variables._replace(params=params)
    layers = task.embed(current, pairs)
    others = structure.draw_non_edges(free, key, count)
    found = jax.nn.softplus(-task.logits(current, layers, pairs))
    wrong = jax.nn.softplus(task.logits(current, layers, others))
    return weighted_mean(found + wrong, weight_of(variables))

  def step(state, key):
    params, opt_state = state
    grads = jax.grad(loss)(params, key)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  start = variables.params, optimizer.init(variables.params)
  keys = jax.random.split(step_key, num_steps)
  (params, _), _ = jax.lax.scan(step, start, keys)
  return variables._replace(params=params), pairs
