"""How quickly does a model relearn what it was made to forget?

Source: the anamnesis index and relearn time of Chundawat et al. (2022), "Zero-
Shot Machine Unlearning", arXiv:2201.05629. The area under the relearning curve
is a summary beside it that no step limit can cut off.

Class: heuristic. Relearning slowly proves nothing; relearning faster than
retrained models of several seeds is evidence of knowledge left.
Model state: BatchNorm's statistics move as in training, unless `train_mode` is
off.
Data access: the rows of the relearn mask, and what `evaluate` reads.
Cost: a gradient and an evaluation a step.

Differences from the released code of the anamnesis index: it evaluates after
updates only, so that a model already at the target takes one step and not none
(`count_from_zero=False` counts so); it takes the step limit for the relearn time
where the target was not reached, which is flagged here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.attacks.knowledge_recovery import Evaluate, scalar
from jaxunlearn.core import checks, sampling
from jaxunlearn.core.phase import phase, sample_key, supervised
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.transform import Carry, Env, PhaseState, Transform
from jaxunlearn.core.types import Draw, PyTree, Variables, as_request
from jaxunlearn.metrics import _rows

DIRECTIONS = ("higher", "lower")


class Relearned(NamedTuple):
  """How a model relearned.

  Attributes:
    steps: int32 [], updates until the target was reached; where it was not, the
      number of updates made, which is then no relearn time but a lower bound.
    reached: bool [], whether it was.
    curve: float32 [num_steps + 1], the metric after 0, 1, ... updates.
    target: float32 [], the target.
    loss: float32 [num_steps], the training loss before each update.
    is_finite: bool [], whether losses and final parameters are finite.
  """

  steps: jax.Array
  reached: jax.Array
  curve: jax.Array
  target: jax.Array
  loss: jax.Array
  is_finite: jax.Array


class AnamnesisIndex(NamedTuple):
  """Relearn time of the unlearned model over that of the retrained one.

  Attributes:
    value: float32 [], >= 0.
    is_lower_bound: bool [], the index is at least `value`: it did not get there.
    is_defined: bool [], whether there is a `value`; else it is nan.
  """

  value: jax.Array
  is_lower_bound: jax.Array
  is_defined: jax.Array


def relearn_target(
  original_metric: float | jax.Array,
  margin: float | jax.Array = 0.05,
  *,
  direction: str = "higher",
) -> jax.Array:
  """The metric at which a model counts as having relearned.

  Args:
    original_metric: [...], >= 0, the original model's metric.
    margin: share of it that may be missing, in [0, 1).
    direction: static; "higher", more is better: (1 - margin) * metric; "lower",
      for losses and errors: (1 + margin) * metric.

  Returns:
    float32 [...].

  Raises:
    ValueError: a margin outside [0, 1), a negative metric, unknown direction.

  Example:
    >>> from jaxunlearn import attacks
    >>> round(float(attacks.relearn_target(0.9, margin=0.1)), 3)
    0.81
  """
  checks.one_of(DIRECTIONS, direction=direction)
  if checks.is_concrete(margin) and not 0 <= margin < 1:
    raise ValueError(f"Expected margin in [0, 1), got margin={margin}.")
  metric = _rows.widened(jnp.asarray(original_metric))
  if checks.is_concrete(metric) and (np.asarray(metric) < 0).any():
    raise ValueError(f"Expected original_metric >= 0, got {metric}.")
  return metric * (1 - margin if direction == "higher" else 1 + margin)


def steps_to_target(
  curve: jax.Array,
  target: float | jax.Array,
  *,
  direction: str = "higher",
  count_from_zero: bool = True,
) -> tuple[jax.Array, jax.Array]:
  """The first entry of a curve that is as good as the target.

  Args:
    curve: float [..., T + 1], the metric after 0, 1, ..., T updates. nan reaches
      no target: put one before a curve that begins after the first update.
    target: float [] or [...].
    direction: static; "higher", reached when curve >= target; "lower", when
      curve <= target.
    count_from_zero: static; False passes over entry 0, as the released code
      does, and the least is 1.

  Returns:
    steps, int32 [...], T where the target was not reached; and reached, bool
    [...].

  Raises:
    ValueError: a curve without entries, unknown direction.

  Example:
    >>> steps, reached = steps_to_target(jnp.array([0.1, 0.5, 0.9]), 0.5)
    >>> int(steps), bool(reached)
    (1, True)
  """
  checks.one_of(DIRECTIONS, direction=direction)
  curve = _curve(curve)
  wanted = jnp.broadcast_to(jnp.asarray(target), curve.shape[:-1])[..., None]
  hits = curve >= wanted if direction == "higher" else curve <= wanted
  if not count_from_zero:
    hits = hits.at[..., 0].set(False)
  reached = hits.any(axis=-1)
  first = jnp.argmax(hits, axis=-1)
  steps = jnp.where(reached, first, curve.shape[-1] - 1)
  return steps.astype(jnp.int32), reached


def random_subset(
  mask: jax.Array, count: int | jax.Array, key: jax.Array
) -> jax.Array:
  """`count` rows of a mask, uniformly at random: a few-shot relearn set.

  Args:
    mask: bool [N], the rows to choose from, such as the forget mask.
    count: >= 0; may be traced. All rows of the mask if it has no more.
    key: PRNG key.

  Returns:
    bool [N].

  Raises:
    ValueError: a mask that is not bool [N], a negative count.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget_mask = jnp.array([True, True, True, False, False])
    >>> few = attacks.random_subset(forget_mask, 2, jax.random.key(0))
    >>> few.shape, int(few.sum()), int((few & forget_mask).sum())
    ((5,), 2, 2)
  """
  if jnp.ndim(mask) != 1:
    raise ValueError(f"Expected mask bool [N], got shape {jnp.shape(mask)}.")
  checks.hard_request(mask, "mask")
  checks.non_negative(count=count)
  order = jax.random.permutation(key, mask.shape[0])
  # Rows of the mask first, in random order.
  order = order[jnp.argsort(~mask[order], stable=True)]
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(mask.shape[0]))
  return mask & (rank < count)


def relearning(
  model: Task | Any,
  *,
  num_steps: int,
  batch_size: int = 256,
  optimizer: optax.GradientTransformation | None = None,
  train_mode: bool = True,
) -> Transform:
  """The phase that trains on the rows that the mask SELECTS: plain fine-tuning.

  Args:
    model: a `Task`, or a model of any room; its loss is minimised.
    num_steps: static, >= 0.
    batch_size: static; rows a step, without replacement within an epoch. Of a
      relearn set that is smaller, each row comes several times a batch.
    optimizer: starts fresh; None is Adam with rate 1e-3.
    train_mode: static; dropout active and BatchNorm's statistics moving.

  Returns:
    A `Transform` that takes the relearn set where others take the forget mask.

  Raises:
    ValueError: num_steps < 0, batch_size <= 0.

  Example:
    >>> import optax
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> attack = attacks.relearning(
    ...   problem.model, num_steps=20, batch_size=8, optimizer=optax.adam(0.1))
    >>> fresh = problem.model.init(problem.key, problem.data["x"])
    >>> relearned, _ = attack(fresh, problem.data, problem.request, problem.key)
    >>> toy.accuracies(problem, relearned)[0]
    1.0
  """
  checks.counts(batch_size=batch_size)
  return phase(
    supervised(model, train=train_mode),
    optax.adam(1e-3) if optimizer is None else optimizer,
    num_steps,
    draw=Draw(forget=batch_size),
    name="relearning",
  )


def relearn(
  model: Task | Any,
  variables: Variables,
  data: PyTree,
  relearn_mask: jax.Array,
  key: jax.Array,
  *,
  evaluate: Evaluate,
  target: float | jax.Array,
  direction: str = "higher",
  count_from_zero: bool = True,
  **attack: Any,
) -> Relearned:
  """Trains a model on a relearn set and evaluates it after every update.

  One `lax.scan` over a fixed number of steps; it goes on after the target was
  reached, so that lanes of a `vmap` over models, keys or rates stay together.

  Args:
    model: what to train: a `Task`, or a model of any room.
    variables: `Variables` or bare params of the model under audit.
    data: pytree of arrays [N, ...].
    relearn_mask: bool [N], or float weights: the rows to train on. The forget
      mask; `random_subset` of it; all rows, as the released code takes (of a
      class by itself even an untrained network soon learns to say nothing
      else); or the retain rows: what they bring back was merely suppressed.
    key: PRNG key; models that are compared take the same one.
    evaluate: `variables -> []`, such as the accuracy on held-out forget rows in
      evaluation mode; it gets variables of the form given.
    target: see `relearn_target`; may be traced.
    direction: static; whether "higher" or "lower" values of the metric are
      better.
    count_from_zero: static; see `steps_to_target`.
    **attack: the keyword arguments of `relearning`; `num_steps` is needed, and
      the optimiser starts fresh.

  Returns:
    `Relearned`. Better: the relearn time of the retrained model, neither less
    (it still knows) nor much more (it is damaged, and stands out). Under jit an
    empty relearn set gives gradients of zero.

  Raises:
    ValueError: a mask of wrong shape or dtype or (concrete) without rows,
      (concrete) parameters or a target that are not finite, a metric that is no
      scalar, counts out of range, unknown direction.

  Example:
    >>> import optax
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> fresh = problem.model.init(problem.key, problem.data["x"])
    >>> found = attacks.relearn(
    ...   problem.model, fresh, problem.data, problem.request, problem.key,
    ...   evaluate=lambda v: v.params["output"]["bias"][1],
    ...   target=0.25, num_steps=4, batch_size=8, optimizer=optax.sgd(1.0))
    >>> found.curve.shape, float(found.curve[0]), bool(found.reached)
    ((5,), 0.0, True)
  """
  checks.one_of(DIRECTIONS, direction=direction)
  checks.request(data, relearn_mask, "relearn_mask")
  _some_rows(relearn_mask, "relearn_mask")
  checks.finite((variables, target), "(variables, target)")
  wanted = _rows.widened(jnp.asarray(target))
  relearns = relearning(model, **attack)
  bare = not isinstance(variables, Variables)
  lifted = Variables(variables) if bare else variables
  data = jax.tree.map(jnp.asarray, data)
  draw, env = relearns.needs, Env()
  request = as_request(relearn_mask, data)
  plan = sampling.make_plan(data, request, draw, sample_key(key), env)
  start = relearns.init(Carry(lifted, lifted, {}), key, env)

  def measure(state: PhaseState) -> jax.Array:
    current = relearns.finish(state).variables
    return scalar(evaluate(current.params if bare else current))

  # As in a phase, what is constant stays outside the scan's carry.
  def body(moving, step):
    batch = sampling.draw_batch(data, plan, draw, step, env)
    state, loss = relearns.step(start.moved_to(moving), batch, key, env)
    return state.moving(), (loss, measure(state))

  moving, (loss, values) = jax.lax.scan(
    body, start.moving(), jnp.arange(attack["num_steps"], dtype=jnp.int32)
  )
  curve = jnp.concatenate([measure(start)[None], values])
  steps, reached = steps_to_target(
    curve, wanted, direction=direction, count_from_zero=count_from_zero
  )
  finite = all_finite((loss, moving[0]))
  return Relearned(steps, reached, curve, wanted, loss, finite)


def anamnesis_index(
  unlearned: Relearned, retrained: Relearned
) -> AnamnesisIndex:
  """AIN: relearn time of the unlearned model over that of the retrained one.

  Better: 1, which is also what a model gives against itself with the same key;
  a second retrained model scatters about it. Near 0 the knowledge is still
  there; far above 1 the model is damaged or the forget set stands out.

  Args:
    unlearned: fields [...]; see `relearn`.
    retrained: fields [...], relearned towards the same target (that of the
      original model) from the same rows.

  Returns:
    `AnamnesisIndex` [...], never computed silently from a step limit: nan where
    the retrained model did not reach the target, a flagged lower bound where
    only the unlearned one did not. A model already at the target has relearn
    time 0: 0 / 0 is 1 (neither had anything to relearn), k / 0 is inf. Counted
    from 1 instead, no time is 0. An unlearned model that diverged before it got
    there has nan and no bound: that is no forgetting.

  Raises:
    ValueError: (concrete) the targets differ.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> def relearned(steps):
    ...   yes, zeros = jnp.array(True), jnp.zeros(9)
    ...   return attacks.Relearned(
    ...     jnp.array(steps), yes, zeros, jnp.array(0.9), zeros[1:], yes)
    >>> float(attacks.anamnesis_index(relearned(2), relearned(8)).value)
    0.25
  """
  targets = unlearned.target, retrained.target
  if all(map(checks.is_concrete, targets)):
    pair = np.broadcast_arrays(*map(np.asarray, targets))
    # nan, of an original model that diverged, is a target nobody reaches.
    if not np.array_equal(pair[0], pair[1], equal_nan=True):
      raise ValueError(
        "Expected both models to be relearned towards one target, got "
        f"{pair[0].tolist()} (unlearned) and {pair[1].tolist()} (retrained)."
      )
  ours, ours_reached, theirs, theirs_reached = jnp.broadcast_arrays(
    unlearned.steps, unlearned.reached, retrained.steps, retrained.reached
  )
  at_zero = jnp.where((ours == 0) & ours_reached, 1.0, jnp.inf)
  ratio = ours / jnp.where(theirs == 0, 1, theirs)
  value = jnp.where(theirs == 0, at_zero, ratio)
  known = theirs_reached & (ours_reached | unlearned.is_finite)
  return AnamnesisIndex(
    jnp.where(known, value, jnp.nan).astype(jnp.float32),
    known & ~ours_reached,
    known,
  )


def relearn_area(
  curve: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """The weighted mean of a relearning curve: its area over its length.

  Better: that of the retrained model; the difference is the relearn gap, which
  no step limit cuts off. Where more is better, a larger area is knowledge left.

  Args:
    curve: float [..., T + 1], see `Relearned.curve`.
    weights: float [T + 1] >= 0, scaled to sum 1; None is equal weights. Steps
      of weight 0 are not read: 1 at steps 0, 1, 2, 4, 8, ... stresses the first.

  Returns:
    float32 [...], in the metric's unit; nan if all weights are 0 or the metric
    is nan where one is not.

  Raises:
    ValueError: a curve without entries, weights of another length, (concrete)
      a negative one.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> curve = jnp.array([0.0, 0.5, 1.0])
    >>> float(attacks.relearn_area(curve))
    0.5
    >>> float(attacks.relearn_area(curve, jnp.array([1.0, 1.0, 0.0])))
    0.25
  """
  curve = _curve(curve)
  if weights is None:
    return curve.mean(axis=-1)
  shaped("weights [T] and curve [..., T]", weights, curve)
  weights = _rows.widened(weights, "weights")
  if checks.is_concrete(weights) and (np.asarray(weights) < 0).any():
    raise ValueError("Expected weights >= 0, got some that are negative.")
  shares = jnp.broadcast_to(weights / weights.sum(), curve.shape)
  return jnp.where(shares == 0, 0, shares * curve).sum(axis=-1)


def _curve(curve: jax.Array) -> jax.Array:
  shaped("a curve [..., T > 0]", curve)
  curve = _rows.widened(curve, "curve")
  return curve


def _some_rows(mask: Any, name: str) -> None:
  """A concrete mask selects rows."""
  if checks.is_concrete(mask) and not (np.asarray(mask) > 0).any():
    raise ValueError(
      f"Expected {name} to select rows, got 0 of {np.size(mask)}."
    )
