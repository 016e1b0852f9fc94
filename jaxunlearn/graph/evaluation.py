"""How far a graph was forgotten, and how near that is to retraining.

Every number is best where the retrained model has it. In particular a high
`df_auc` is over-forgetting: deleted edges remain plausible, retrained models
reach 0.5 to 0.7 only, and a method near 1 ranks them where no retrained model
would. Print the retrained model's value beside it.

Class: exact statistics of given scores, safe under `jit` and `vmap`.
Sources: GNNDelete, arXiv:2302.13406 (dt_auc, df_auc, membership); UtU,
arXiv:2402.10695 (distance to retraining). The ratio of membership before and
after is `attacks.membership_ratio`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import Variables
from jaxunlearn.graph import structure
from jaxunlearn.graph.objectives import weighted_mean
from jaxunlearn.graph.tasks import GraphModel
from jaxunlearn.metrics import js_divergence, separation_auc


def ranking_auc(
  high: jax.Array,
  low: jax.Array,
  high_weight: jax.Array | None = None,
  low_weight: jax.Array | None = None,
) -> jax.Array:
  """The chance that a score of `high` exceeds one of `low`, ties half.

  `metrics.separation_auc` under the names of a ranking.

  Args:
    high: float [N].
    low: float [M].
    high_weight: bool or float [N] >= 0; all rows by default.
    low_weight: bool or float [M] >= 0.

  Returns:
    In [0, 1]; nan if a side is empty or a counted score is nan.

  Raises:
    ValueError: shapes do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> high, low = jnp.array([3.0, 2.0]), jnp.array([2.0, 1.0])
    >>> float(graph.ranking_auc(high, low))  # Of four pairs three and a tie.
    0.875
  """
  return separation_auc(high, low, high_weight, low_weight)


def dt_auc(
  task: GraphModel, variables: Variables, edges: jax.Array, others: jax.Array
) -> jax.Array:
  """AUC of test edges over non-edges: the utility of a link predictor; [].

  Args:
    task: of `link_prediction`.
    variables: the model, with the graph that it answers on.
    edges: int [K, 2], edges that were never trained on.
    others: int [K, 2], pairs that no edge joins.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> edges, others = jnp.array([[0, 1], [2, 3]]), jnp.array([[0, 3], [2, 5]])
    >>> float(graph.dt_auc(problem.model, problem.variables, edges, others))
    1.0
  """
  pairs = jnp.concatenate([jnp.asarray(edges), jnp.asarray(others)])
  scores = task.model.predict(variables, pairs)
  return ranking_auc(scores[: len(edges)], scores[len(edges) :])


def df_auc(
  task: GraphModel, variables: Variables, forget_mask: jax.Array
) -> jax.Array:
  """AUC of ALL retained training edges over the forgotten ones; [].

  Not a utility: 0.5 cannot tell them apart, and near 1 is over-forgetting. nan
  for an empty request.

  Args:
    task: of `link_prediction`.
    variables: the model, with the graph that it answers on.
    forget_mask: bool [E], all edges that went so far; the rest is the retain set.

  Raises:
    ValueError: a mask of another length or dtype.

  Example:
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> float(graph.df_auc(problem.model, problem.variables, problem.request))
    1.0
  """
  pairs = structure.edge_rows(task.graph)
  checks.request({"x": pairs}, forget_mask)
  checks.hard_request(forget_mask)
  forget_mask = jnp.asarray(forget_mask)
  real = structure.edge_weight(task.graph) > 0
  scores = task.model.predict(variables, pairs)
  return ranking_auc(scores, scores, real & ~forget_mask, real & forget_mask)


class EdgeDistance(NamedTuple):
  """How far two link predictors are apart on some pairs, each float [].

  Attributes:
    js: mean Jensen-Shannon divergence of (p, 1 - p), nats in [0, ln 2]; lower is
      better, in expectation that of two retrained models of other seeds.
    delta: mean of p - p_retrained, in [-1, 1]; below 0 is over-forgetting.
    mean: mean p, in [0, 1].
  """

  js: jax.Array
  delta: jax.Array
  mean: jax.Array


def edge_distance(
  logits: jax.Array, retrained_logits: jax.Array, weight: jax.Array
) -> EdgeDistance:
  """Compares link probabilities with the retrained model's.

  Args:
    logits: float [E], of the unlearned model.
    retrained_logits: float [E].
    weight: bool or float [E], the pairs that count: forgotten edges for `js`,
      retained ones for UtU's Delta p.

  Returns:
    See `EdgeDistance`; nan where no pair counts.

  Raises:
    ValueError: shapes do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> logits, retrained = jnp.array([0.0]), jnp.array([2.0])
    >>> found = graph.edge_distance(logits, retrained, jnp.ones(1))
    >>> [round(float(value), 3) for value in found]  # js, delta, mean.
    [0.09, -0.381, 0.5]
  """
  shapes = {jnp.shape(a) for a in (logits, retrained_logits, weight)}
  if len(shapes) != 1 or len(next(iter(shapes))) != 1:
    raise ValueError(
      "Expected logits, retrained_logits and weight of one shape [E], got "
      f"{sorted(shapes)}."
    )
  widened = lambda x: jnp.asarray(x).astype(
    jnp.promote_types(jnp.float32, jnp.asarray(x).dtype)
  )
  logits, retrained_logits = widened(logits), widened(retrained_logits)
  weight = jnp.asarray(weight).astype(jnp.float32)
  p, q = jax.nn.sigmoid(logits), jax.nn.sigmoid(retrained_logits)
  # Both outcomes from their own tail: 1 - p would lose the digits of a sure p.
  both = lambda x: jax.nn.sigmoid(jnp.stack([x, -x], axis=-1))
  js = js_divergence(both(logits), both(retrained_logits))
  found = weight.sum() > 0
  mean = lambda x: jnp.where(found, weighted_mean(x, weight), jnp.nan)
  return EdgeDistance(mean(js), mean(p - q), mean(p))


class PresenceAttack(NamedTuple):
  """A logistic regression on `pair_features`.

  Attributes:
    shift: float [F], taken from the features.
    scale: float [F], what they are then divided by.
    weight: float [F].
    bias: float [].
  """

  shift: jax.Array
  scale: jax.Array
  weight: jax.Array
  bias: jax.Array


def pair_features(
  task: GraphModel, variables: Variables, pairs: jax.Array
) -> jax.Array:
  """What the attack sees of a pair, for shadow and target alike: float [B, 2].

  The link probability, and the cosine of the last layer's embeddings. Neither
  depends on the embeddings' basis, which differs between two trainings; and both
  are bounded, without which one sure pair decides a mean of ratios.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> pairs = jnp.array([[0, 1], [0, 5]])  # Of one triangle and of both.
    >>> seen = graph.pair_features(problem.model, problem.variables, pairs)
    >>> [[round(v, 2) for v in row] for row in seen.tolist()]
    [[0.9, 1.0], [0.5, 0.0]]
  """
  z = task.embed(variables)[-1].astype(jnp.float32)
  logit = task.logits(variables, (z,), pairs)
  length = jnp.sqrt((z**2).sum(axis=1) + 1e-12)[pairs]
  cosine = logit / (length[:, 0] * length[:, 1])
  return jnp.stack([jax.nn.sigmoid(logit), cosine], axis=1)


def fit_presence(
  present: jax.Array,
  absent: jax.Array,
  *,
  ridge: float | jax.Array = 0.1,
  num_steps: int = 20,
) -> PresenceAttack:
  """Learns on a shadow model to tell training edges from other pairs.

  Newton steps on a ridge-regularised logistic loss, both sides of equal weight.

  Args:
    present: float [K, F], `pair_features` of the shadow's training edges.
    absent: float [M, F], of pairs that it was not trained on.
    ridge: penalty on the squared weights of the standardised features, > 0, of
      which half is added to the mean loss. A small shadow model separates its
      edges perfectly: with little penalty the attack is sure of everything, and
      ratios of its probabilities have no finite size. May be traced.
    num_steps: Newton steps; static.

  Raises:
    ValueError: features of different widths, an empty side, ridge <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> present, absent = jnp.array([[0.9], [0.8]]), jnp.array([[0.2], [0.1]])
    >>> attack = graph.fit_presence(present, absent)
    >>> found = graph.presence(attack, jnp.array([[0.9], [0.5], [0.1]]))
    >>> [round(p, 2) for p in found.tolist()]
    [0.86, 0.5, 0.14]
  """
  checks.positive(ridge=ridge)
  present, absent = jnp.asarray(present), jnp.asarray(absent)
  for name, side in (("present", present), ("absent", absent)):
    shaped(f"{name} [K > 0, {present.shape[-1]}]", side)
  x = jnp.concatenate([present, absent]).astype(jnp.float32)
  shift, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
  x = jnp.pad((x - shift[None]) / scale[None], ((0, 0), (0, 1)))
  x = x.at[:, -1].set(1.0)
  is_present = jnp.arange(len(x)) < len(present)
  label = is_present.astype(jnp.float32)
  share = jnp.where(is_present, 0.5 / len(present), 0.5 / len(absent))
  # The bias is free; a hair of damping keeps the system regular all the same.
  penalty = jnp.full(x.shape[1], ridge, jnp.float32).at[-1].set(1e-6)

  def newton(theta, _):
    p = jax.nn.sigmoid(x @ theta)
    slope = x.T @ (share * (p - label)) + penalty * theta
    curve = (x * (share * p * (1 - p))[:, None]).T @ x
    curve += jnp.diag(penalty)
    return theta - jnp.linalg.solve(curve, slope), None

  theta, _ = jax.lax.scan(newton, jnp.zeros(x.shape[1]), length=num_steps)
  return PresenceAttack(shift, scale, theta[:-1], theta[-1])


def presence(attack: PresenceAttack, features: jax.Array) -> jax.Array:
  """The attack's probability that pairs were trained on, float [B] in [0, 1].

  Under the original and under the unlearned model these are what
  `attacks.membership_ratio` takes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> attack = graph.PresenceAttack(
    ...   shift=jnp.zeros(1), scale=jnp.ones(1), weight=jnp.ones(1), bias=0.0
    ... )
    >>> found = graph.presence(attack, jnp.array([[0.0], [2.0]]))
    >>> [round(p, 3) for p in found.tolist()]
    [0.5, 0.881]
  """
  x = (features - attack.shift[None]) / attack.scale[None]
  return jax.nn.sigmoid(x @ attack.weight + attack.bias)


def forward_flops(task: GraphModel, variables: Variables) -> float:
  """Floating-point operations of a forward pass.

  Of the embeddings of all nodes, by the compiler's count, and of deletion
  operators on the nodes of their zones (the program multiplies all nodes and
  drops the rest); nan where the backend does not say.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> plain = problem.variables
    >>> zones = (jnp.array([[True, True, True, False, False, False]]),)
    >>> deletion = {"operators": (jnp.eye(2)[None],), "zones": zones}
    >>> state = {**plain.model_state, "deletions": deletion}
    >>> grown = plain._replace(model_state=state)
    >>> flops = [graph.forward_flops(problem.model, v) for v in (plain, grown)]
    >>> flops[1] - flops[0]  # Three nodes times a matrix [2, 2].
    24.0
  """
  state = dict(variables.model_state)
  stack = state.pop("deletions", None)
  plain = variables._replace(model_state=state)
  cost: Any = jax.jit(task.embed).lower(plain).compile().cost_analysis()
  flops = float((cost or {}).get("flops", float("nan")))
  if stack is not None:
    flops += sum(
      2.0 * int(zone.sum()) * width**2
      for zone, width in zip(stack["zones"], task.widths)
    )
  return flops
