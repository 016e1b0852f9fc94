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

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, masked
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree
from jaxunlearn.recsys.objectives import see, triples
from jaxunlearn.recsys.types import Recommender

SCHEDULES = ("joint", "alternate", "sequential")
UNLEARN = Fit(optax.adam(5e-3), 100, 2048)


def mmrecun(
  model: Recommender,
  fit: Fit | None = None,
  *,
  retain_weight: float | jax.Array = 0.9,
  schedule: str = "joint",
  reverse_steps: int | None = None,
  graph: str = "retain",
  weight_mask: PyTree | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Unlearns interactions by ranking them below items never seen.

  Minimises alpha L_forward(retain) + (1 - alpha) L_reverse(forget), with the
  model's own penalty and contrastive term on the retained rows. No negative is
  an item of the user's history, forgotten or not.

  Args:
    model: the recommender.
    fit: `UNLEARN` by default, Adam with a rate of 5e-3; its steps are those
      altogether, its batch is of each kind of interactions.
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
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`. An empty request is fine-tuning.

  Raises:
    ValueError: alpha outside [0, 1], an unknown schedule or graph, counts out of
      range; at the call, as `check_data`.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import recsys, toy
    >>> problem = toy.recommender()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=5, batch_size=33)
    >>> method = recsys.mmrecun(problem.model, fit, retain_weight=0.5)
    >>> after, info = method(*problem.arguments)
    >>> toy.mean_scores(problem, after)  # It was 0.97 and 0.86.
    (0.34, 1.25)
  """
  checks.fraction(retain_weight=retain_weight)
  checks.one_of(SCHEDULES, schedule=schedule)
  fit = as_fit(fit or UNLEARN, fields)
  total, batch_size = fit.num_steps, fit.batch_size
  if reverse_steps is None:
    reverse_steps = 3 * total // 8
  if not 0 <= reverse_steps <= total:
    raise ValueError(
      f"Expected reverse_steps in 0 .. {total}, got {reverse_steps}."
    )
  objective = triples(model)

  def in_turn(variables, step, key):
    losses = objective(variables, step, key)
    is_turn = step.forget == (step.index % 2 == 0)
    return losses._replace(value=jnp.where(is_turn, losses.value, 0.0))

  if schedule == "sequential":
    reverse = fit._replace(num_steps=reverse_steps)
    forward = fit._replace(num_steps=total - reverse_steps)
    links = [
      phase(objective, reverse, draw=Draw(forget=batch_size), name="reverse"),
      phase(objective, forward, draw=Draw(retain=batch_size), name="forward"),
    ]
  else:
    links = [
      phase(
        in_turn if schedule == "alternate" else objective,
        fit,
        draw=Draw(forget=batch_size, retain=batch_size),
        forget_weight=1.0 - retain_weight,
        retain_weight=retain_weight,
        name="unlearn",
      )
    ]
  if weight_mask is not None:
    links = [masked(link, weight_mask) for link in links]
  return chain(see(model, graph), *links, name="mmrecun")
