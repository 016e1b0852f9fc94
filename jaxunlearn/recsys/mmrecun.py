"""MMRecUN: reverse BPR on what is forgotten, forward BPR on what is kept.

Source: Sinha, Mandal and Kankanhalli (2024), "Multi-Modal Recommendation
Unlearning", arXiv:2405.15328. Read from its abstract and from follow-up work:
how the two losses are joined, the schedule, the graph and the negatives are our
reading, each an argument.
Class: heuristic.
Data access: forgotten and retained interactions.
Model state: none.
Cost: num_steps gradient passes over twice the batch; retraining costs as many
steps as the original training, of one batch each.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, masked
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import Draw, PyTree, Transform
from jaxunlearn.recsys.objectives import triples, with_graph, with_history
from jaxunlearn.recsys.types import Recommender

SCHEDULES = ("joint", "alternate", "sequential")


def mmrecun(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 100,
  batch_size: int = 2048,
  retain_weight: float | jax.Array = 0.9,
  schedule: str = "joint",
  reverse_steps: int | None = None,
  graph: str = "retain",
  weight_mask: PyTree | None = None,
) -> Transform:
  """Unlearns interactions by ranking them below items never seen.

  Minimises alpha L_forward(retain) + (1 - alpha) L_reverse(forget), with the
  model's own penalty and contrastive term on the retained rows. No negative is
  an item of the user's history, forgotten or not.

  Args:
    model: the recommender.
    optimizer: starts fresh; None is Adam with a rate of 5e-3.
    num_steps: static, optimisation steps altogether.
    batch_size: static, interactions of each kind a step.
    retain_weight: alpha in [0, 1]; 1 is fine-tuning. May be traced. A
      sequential schedule does not use it.
    schedule: static; "joint" adds the two losses at every step, "alternate"
      takes the reverse one at even and the forward one at odd steps,
      "sequential" first the reverse one alone, then the forward one alone.
    reverse_steps: static, of the sequential schedule; None is three eighths of
      all.
    graph: "retain" rebuilds the interaction graph without the request before
      unlearning, "full" keeps it; serve the result on the same.
    weight_mask: None, or what may move, a prefix of the params; see `masked`.

  Returns:
    A `Transform`. An empty request is fine-tuning.

  Raises:
    ValueError: alpha outside [0, 1], an unknown schedule or graph, counts out of
      range; at the call, as `check_data`.
  """
  checks.fraction(retain_weight=retain_weight)
  checks.one_of(SCHEDULES, schedule=schedule)
  checks.non_negative(num_steps=num_steps)
  checks.positive(batch_size=batch_size)
  if reverse_steps is None:
    reverse_steps = 3 * num_steps // 8
  if not 0 <= reverse_steps <= num_steps:
    raise ValueError(
      f"Expected reverse_steps in 0 .. {num_steps}, got {reverse_steps}."
    )
  optimizer = optax.adam(5e-3) if optimizer is None else optimizer
  objective = triples(model)

  def in_turn(variables, batch, key):
    losses = objective(variables, batch, key)
    is_reverse = batch.context.step % 2 == 0
    return jnp.where(batch.forget == is_reverse, losses, 0.0)

  if schedule == "sequential":
    links = [
      phase(
        objective,
        optimizer,
        reverse_steps,
        draw=Draw(forget=batch_size),
        name="reverse",
      ),
      phase(
        objective,
        optimizer,
        num_steps - reverse_steps,
        draw=Draw(retain=batch_size),
        name="forward",
      ),
    ]
  else:
    links = [
      phase(
        in_turn if schedule == "alternate" else objective,
        optimizer,
        num_steps,
        draw=Draw(forget=batch_size, retain=batch_size),
        forget_weight=1.0 - retain_weight,
        retain_weight=retain_weight,
        name="unlearn",
      )
    ]
  if weight_mask is not None:
    links = [masked(link, weight_mask) for link in links]
  return chain(
    with_graph(model, graph), with_history(model), *links, name="mmrecun"
  )
