"""D2DGN, Distill to Delete: keep by one teacher, forget by another.

Source: Sinha, Mandal and Kankanhalli (2023), "Distill to Delete: Unlearning in
Graph Networks with Knowledge Distillation", arXiv:2309.16173.
Class: heuristic. Labels are not read. Data access: the whole graph.
Cost: a step is one pass over the graph; the teachers run once per call.
Read before use: forgotten edges are pulled towards "undecided", below what a
retrained model gives them, which still finds them plausible. A high AUC of
retained over forgotten edges is therefore OVER-FORGETTING, not closeness to the
retrained model; plain `unlink` is closer to that.
Differences from the paper, of which only the abstract and an independent
implementation were at hand: the student starts as the original (or at random,
`student_init`), messages run over the retained graph (`student_graph`), retained
knowledge of a link predictor includes as many sampled non-edges as edges, drawn
afresh each step, and all losses are means, so that `retain_weight` has one
meaning. The defaults were chosen on Planetoid's Cora (2,708 nodes), not the
larger one of CitationFull, on other seeds than are reported.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, sampling
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.keys import derive
from jaxunlearn.core.links import edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, Slot, Variables
from jaxunlearn.graph import structure
from jaxunlearn.graph.legacy import old_rate
from jaxunlearn.graph.objectives import (
  embedding_kl,
  embedding_mse,
  weighted_mean,
)
from jaxunlearn.graph.state import (
  weight_of,
  with_weight,
)
from jaxunlearn.graph.tasks import (
  GraphModel,
  Layers,
  unlink,
)

DISTIL = Fit(optax.adam(1e-2), 40, ALL)


class Teachers(NamedTuple):
  """What the student is compared with; nothing here is differentiated.

  Attributes:
    preserver: the original's layers on the graph with the forget set.
    destroyer: those of a model that knows nothing of the forget set.
    variables: the original's values, for predictions from its layers.
    kept: the original's logits of every row.
    gone: the destroyer's.
    x: the rows, those in neither mask blank.
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
  x: jax.Array
  forget: jax.Array
  retain: jax.Array
  forget_nodes: jax.Array
  retain_nodes: jax.Array
  free: Any


class Ignorant(NamedTuple):
  """The destroyer before the teachers run.

  Attributes:
    free: `NonEdges` of the graph with the forget set; None for nodes.
    pairs: int32 [E, 2], what it takes for edges; None for the graph's own.
  """

  free: Any
  pairs: jax.Array | None


TEACHERS: Slot[Teachers] = Slot("teachers")


@old_rate
def d2dgn(
  task: GraphModel,
  fit: Fit | None = None,
  *,
  retain_weight: float | jax.Array = 0.97,
  knowledge: str = "response",
  feature_loss: str = "mse",
  destroyer: str = "random",
  destroyer_steps: int = 100,
  student_init: str = "original",
  student_graph: str = "retain",
  **fields: Unpack[FitFields],
) -> Transform:
  """Distils from the original on the retain set, from ignorance on the forget set.

  Minimises a times a mean over retained rows plus 1 - a times one over forget
  rows, a = `retain_weight`. Response knowledge: KL(teacher || student) of the
  rows' predictions. Feature knowledge: the distance of embeddings, summed over
  layers, on the rows of nodes; for edges those are the ends of forget edges, and
  the other nodes.

  Args:
    task: see `link_prediction`, `node_classification`.
    fit: `DISTIL` by default, 40 steps of Adam; each is full batch.
    retain_weight: a in [0, 1]; 1 only preserves. May be traced.
    knowledge: "response" or "feature".
    feature_loss: "mse", or "kl" of softmaxed embeddings.
    destroyer: "random", fresh params from the call's key; "non_edges", the same
      trained as a link predictor on as many random pairs in the place of edges.
    destroyer_steps: steps of that training, Adam of 1e-2.
    student_init: "original" or "random"; the latter is slow to be any good.
    student_graph: "retain", deleted edges carry no messages; "full", they do, and
      stay in the variables' graph.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` with info "distil". An empty request distils the model from
    itself: its gradient is 0 up to rounding, which Adam still turns into small
    steps.

  Raises:
    ValueError: an option outside its range; "non_edges" for nodes.

  Example:
    >>> import optax
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> method = graph.d2dgn(
    ...   problem.model, optimizer=optax.sgd(0.1), num_steps=2
    ... )
    >>> unlearned, _ = method.compiled(*problem.arguments)
    >>> pairs = problem.data["x"][-2:]  # The last of them has to go.
    >>> logits = problem.model.model.predict(unlearned, pairs)
    >>> [round(logit, 2) for logit in logits.tolist()]
    [2.26, 0.3]
  """
  fit = as_fit(fit or DISTIL, fields)
  checks.fraction(retain_weight=retain_weight)
  checks.count(0, destroyer_steps=destroyer_steps)
  checks.one_of(("response", "feature"), knowledge=knowledge)
  checks.one_of(("mse", "kl"), feature_loss=feature_loss)
  checks.one_of(("random", "non_edges"), destroyer=destroyer)
  checks.one_of(("original", "random"), student_init=student_init)
  checks.one_of(("retain", "full"), student_graph=student_graph)
  on_noise = destroyer == "non_edges"
  if on_noise and not task.on_edges:
    raise ValueError("Expected destroyer 'random' for nodes, got 'non_edges'.")
  ignorance: Slot[Variables] = Slot("destroyer")
  blank: Slot[Ignorant] = Slot("ignorant")

  def visible(carry, data, request):
    """The original on the edges that it may see."""
    edges = task.of_edges(data, request)
    seen = weight_of(carry.variables) * (edges.forget + edges.retain)
    return with_weight(carry.variables, seen), edges

  # Under a name of its own the key is no training's, nor are these the params
  # that the original began with.
  def ignorant(carry, data, request, key):
    known, _ = visible(carry, data, request)
    return task.fresh(derive(key, "destroyer"), known)

  def random_pairs(carry, data, request, key):
    if not task.on_edges:
      return Ignorant(None, None)
    weight = weight_of(carry[ignorance])
    free = structure.non_edges(task.graph, weight)
    draw = lambda: structure.draw_non_edges(free, key, weight.shape[0])
    return Ignorant(free, draw() if on_noise else None)

  def noise_loss(variables, step, key):
    weight = weight_of(variables)
    free, pairs = step[blank]
    layers = task.embed(variables, pairs)
    others = structure.draw_non_edges(free, key, weight.shape[0])
    found = jax.nn.softplus(-task.logits(variables, layers, pairs))
    wrong = jax.nn.softplus(task.logits(variables, layers, others))
    return weighted_mean(found + wrong, weight)[None]

  def teachers(carry, data, request, key):
    variables, edges = visible(carry, data, request)
    unknowing, (free, pairs) = carry[ignorance], carry[blank]
    forget, retain = (
      jnp.asarray(mask).astype(jnp.float32)
      for mask in (request.forget, request.retain)
    )
    x = sampling.blank_rows(data["x"], forget + retain)
    if task.on_edges:
      # Padding, and what went before, is not forgotten now.
      real = weight_of(variables) > 0
      forget, retain = jnp.where(real, forget, 0), jnp.where(real, retain, 0)
      nodes = structure.endpoints(task.graph, real & (edges.forget > 0))
    else:
      nodes = jnp.zeros(task.graph.nodes.shape[0], bool).at[x].max(forget > 0)
    exists = jnp.arange(nodes.size) < structure.num_nodes(task.graph)
    preserver, nothing = task.embed(variables), task.embed(unknowing, pairs)
    return jax.lax.stop_gradient(
      Teachers(
        preserver,
        nothing,
        variables,
        task.logits(variables, preserver, x),
        task.logits(unknowing, nothing, x),
        x,
        forget,
        retain,
        nodes.astype(jnp.float32),
        (exists & ~nodes).astype(jnp.float32),
        free,
      )
    )

  def by_response(variables, step, key):
    known = step[TEACHERS]
    layers = task.embed(variables)
    student = task.logits(variables, layers, known.x)
    keep_loss = task.divergence(student, known.kept)
    if task.on_edges:
      others = structure.draw_non_edges(known.free, key, known.x.shape[0])
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

  def by_feature(variables, step, key):
    del key
    known = step[TEACHERS]
    distance = {"mse": embedding_mse, "kl": embedding_kl}[feature_loss]
    layers = task.embed(variables)
    total = jnp.zeros((), jnp.float32)
    for z, kept, gone in zip(layers, known.preserver, known.destroyer):
      total += _mix(
        distance(z, kept, known.retain_nodes),
        distance(z, gone, known.forget_nodes),
      )
    return total[None]

  def _mix(keep, forget):
    return retain_weight * keep + (1 - retain_weight) * forget

  def restart(variables, data, request, key):
    del data, request
    return variables._replace(params=task.fresh(key, variables).params)

  reads_all = Draw(mixed=ALL)
  links = [
    provide(ignorance, ignorant, needs=reads_all),
    provide(blank, random_pairs, reads="nothing"),
  ]
  if on_noise:
    recipe = Fit(optax.adam(1e-2), destroyer_steps, ALL)
    links.append(phase(noise_loss, recipe, on=ignorance, name="destroyer"))
  links.append(provide(TEACHERS, teachers, needs=reads_all))
  if student_init == "random":
    links.append(edit(restart, reads="nothing", name="restart"))
  if student_graph == "retain":
    links.append(unlink(task))
  objective = by_response if knowledge == "response" else by_feature
  return chain(*links, phase(objective, fit, name="distil"), name="d2dgn")
