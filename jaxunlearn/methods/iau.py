"""Influence approximation (IAU): forgetting as learning of the opposite gradient.

Source: arXiv:2507.23257, and its released code.
Class: heuristic. A one-shot edit and, for those who still train the original, a
penalty on gradients that makes later edits do less harm. Data access: all rows
with labels. Model state: not touched, everything in evaluation mode. Cost: two
gradients over all rows, no Hessian; the penalty: a training step two to three
times.
Differences: the released code takes one step of Adam, which is the sign of the
gradient whatever the request (`update="adam"`); the paper's plain step has no
scale of its own; the default is a step of a length that the caller says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.links import edit
from jaxunlearn.core.phase import Objective
from jaxunlearn.core.tasks import Task, as_task
from jaxunlearn.core.training import prepared
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  ALL,
  Draw,
  Losses,
  PyTree,
  Step,
  Variables,
)
from jaxunlearn.methods import _rows

_ADAM_EPSILON = 1e-8
UPDATES: dict[str, Callable[[PyTree], PyTree]] = {
  "plain": lambda g: g,
  "sign": lambda g: jax.tree.map(jnp.sign, g),
  # Adam's first step: its bias corrections leave g and the root of g^2.
  "adam": lambda g: jax.tree.map(lambda x: x / (abs(x) + _ADAM_EPSILON), g),
  "normalized": lambda g: jax.tree.map(lambda x: x * _inverse_norm(g), g),
}


def iau(
  task: Task | Any,
  *,
  step_size: float | jax.Array = 0.5,
  update: str = "normalized",
  retain_weight: float | jax.Array = 1.0,
  reduction: str = "mean",
  chunk_size: int = 256,
) -> Transform:
  """Adds `step_size * update(forget gradient - retain_weight * retain gradient)`.

  The gradients are those of the loss on the forget set, which the step ascends,
  and on the retain set, which corrects for a model that is not at its optimum.

  Args:
    task: a `Task`, or a model of any room.
    step_size: >= 0; 0 changes nothing. May be traced.
    update: of the direction g: "plain", g; "sign"; "adam", g / (|g| + 1e-8);
      "normalized", g / |g|, so that the step is `step_size` long.
    retain_weight: >= 0. May be traced.
    reduction: of the losses over each set, "mean" or "sum".
    chunk_size: static; rows at a time.

  Returns:
    A `Transform` of no steps, info the float32 length of the direction g. A
    parameter of gradient 0 keeps its bits.

  Raises:
    ValueError: an option outside its range.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.iau(problem.model, step_size=1.0)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.9)
  """
  checks.non_negative(step_size=step_size, retain_weight=retain_weight)
  checks.one_of(tuple(UPDATES), update=update)
  checks.one_of(("mean", "sum"), reduction=reduction)
  checks.count(1, chunk_size=chunk_size)
  task = as_task(task)

  def apply(variables, data, request, key):
    visible = _rows.seen(request)
    losses, rows = _rows.original_loss(task, variables, data, visible, key)
    loss = lambda params, some: _rows.row_means(losses(params, some))

    def gradient(mask: jax.Array) -> PyTree:
      weights = mask.astype(jnp.float32)
      if reduction == "mean":
        weights = weights / jnp.maximum(weights.sum(), 1.0)
      return _rows.summed_gradient(
        loss, variables.params, rows, weights, chunk_size=chunk_size
      )

    direction = jax.tree.map(
      lambda f, r: f - retain_weight * r,
      gradient(request.forget),
      gradient(request.retain),
    )
    params = jax.tree.map(
      lambda p, s: p + (step_size * s).astype(p.dtype),
      variables.params,
      UPDATES[update](direction),
    )
    return variables._replace(params=params), optax.tree.norm(direction)

  needs = Draw(forget=ALL, retain=ALL)
  return prepared(task, edit(apply, needs=needs, name="iau"), after=True)


def gradient_restriction(
  objective: Objective | Any,
  strength: float | jax.Array,
  *,
  norm: str = "tensor",
  epsilon: float = 1e-12,
) -> Any:
  """An objective, or a task's loss, plus `strength` times the gradient's norm.

      task = restricted(model, 0.005)
      variables, info = train(task, data, mask, key, fit)

  The gradient is that of the batch's mean loss (of a microbatch's, and of a
  device's share where devices share a batch).

  Args:
    objective: `(variables, step, key, ...) -> losses`.
    strength: >= 0; 0 gives the same bits as without. May be traced.
    norm: "tensor", the sum of the norms of all leaves, as released; or "global".
    epsilon: added under the roots, which have no gradient at 0.

  Returns:
    A function like `objective`.

  Raises:
    ValueError: an option outside its range.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> square = lambda variables, step, key: (
    ...   0.5 * (variables.params["w"] - step.rows["x"]) ** 2)
    >>> steep = ju.methods.gradient_restriction(square, strength=0.5)
    >>> variables = ju.Variables({"w": jnp.float32(3)})
    >>> step = ju.core.as_step({"x": jnp.array([1.0])})  # Loss 2, gradient 2.
    >>> losses = steep(variables, step, jax.random.key(0))
    >>> losses.value.tolist()  # 2 + 0.5 * 2.
    [3.0]
  """
  checks.non_negative(strength=strength)
  checks.one_of(("tensor", "global"), norm=norm)

  def restricted(variables: Variables, step: Step, key: jax.Array, **options):
    def mean(params: PyTree) -> tuple[jax.Array, Losses]:
      out = objective(variables._replace(params=params), step, key, **options)
      out = out if isinstance(out, Losses) else Losses(out)
      return _mean(out, step.weight), out

    slopes, out = jax.grad(mean, has_aux=True)(variables.params)
    squares = [
      (g.astype(jnp.float32) ** 2).sum() for g in jax.tree.leaves(slopes)
    ]
    parts = squares if norm == "tensor" else [sum(squares)]
    size = sum(jnp.sqrt(s + epsilon) for s in parts)
    each = 1.0 if out.weight is None else out.weight
    return out._replace(value=out.value + strength * size * each)

  return restricted


def restricted(
  task: Task | Any,
  strength: float | jax.Array,
  *,
  norm: str = "tensor",
) -> Task:
  """The task with `gradient_restriction` on its loss: any training may wear it.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> task = ju.methods.restricted(problem.model, 0.005)
    >>> variables, info = ju.train(
    ...   task, problem.data, ~problem.request, problem.key,
    ...   ju.Fit(optax.adam(0.05), num_steps=40, batch_size=16))
    >>> toy.accuracies(problem, variables)
    (0.0, 1.0)
  """
  task = as_task(task)
  return task._replace(
    loss=gradient_restriction(task.loss, strength, norm=norm)
  )


def _mean(out: Losses, weight: jax.Array) -> jax.Array:
  counted = weight if out.weight is None else weight * out.weight
  total = jnp.where(counted > 0, weight * out.value, 0.0).sum()
  return total / jnp.where(counted.sum() > 0, counted.sum(), 1.0)


def _inverse_norm(tree: PyTree) -> jax.Array:
  norm = optax.tree.norm(tree)
  return jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1.0), 0.0)
