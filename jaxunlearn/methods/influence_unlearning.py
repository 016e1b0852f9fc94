"""Influence unlearning: one Newton-like step from all rows to the retain set.

Source: Koh and Liang (2017), arXiv:1703.04730, as the baseline IU of Jia et al.
(2023), arXiv:2304.04934, and SalUn, arXiv:2310.12508. Those invert the Hessian by
WoodFisher, arXiv:2004.14340.
Class: heuristic (exact for least squares with the curvature and no damping). A
one-shot edit. Data access: all rows with labels. Model state: not touched,
everything in evaluation mode. Cost: two gradients over all rows, and for each
iteration of the solver a forward and a backward pass over the retain set;
the released one: one gradient per sample.
Difference from the sources: their recursion is not WoodFisher's inverse (the
vector it subtracts stays a multiple of the first sample's gradient). It is
`influence_released`; `influence_unlearning` solves the damped system.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg

from jaxunlearn.core import checks, per_example, sampling
from jaxunlearn.core.keys import derive
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Model, Task, as_task
from jaxunlearn.core.training import prepared
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, PyTree, Variables
from jaxunlearn.methods import _rows

_NEEDS = Draw(forget=ALL, retain=ALL)


class InfluenceInfo(NamedTuple):
  """How well the system was solved.

  Attributes:
    residual: float32 [], |H step - v| / |v|; 0 for an empty request.
  """

  residual: jax.Array


def influence_unlearning(
  model: Model,
  *,
  scale: float | jax.Array = 1.0,
  damping: float | jax.Array = 1e-3,
  max_iterations: int = 50,
  tolerance: float = 1e-5,
  chunk_size: int = 256,
) -> Transform:
  """Adds `scale * H^-1 v` to the params.

  v = gradient of the mean loss over all rows - that over the retain set, which
  at an optimum is the sum of the forget rows' gradients over the number of
  retain rows. H is the Gauss-Newton matrix of the mean retain loss (for a
  softmax the Fisher information) plus `damping` on its diagonal.

  Args:
    model: its loss must be convex in the outputs.
    scale: 1 is the step that the theory asks for; 0 changes nothing. May be
      traced.
    damping: >= 0; larger steps away less. May be traced.
    max_iterations: static; of conjugate gradients.
    tolerance: relative residual at which they stop.
    chunk_size: static; rows at a time.

  Returns:
    A `Transform` of no steps, info `InfluenceInfo`. An empty request changes
    nothing.

  Raises:
    ValueError: damping < 0, a count < 1; something that is no `Model`, whose
      loss is a function of its outputs.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.influence_unlearning(problem.model, damping=0.1)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.9)
  """
  checks.non_negative(damping=damping)
  checks.positive(tolerance=tolerance)
  checks.count(1, max_iterations=max_iterations, chunk_size=chunk_size)
  if not isinstance(model, Model):
    raise ValueError(
      "Expected a Model, whose loss is a function of its outputs, got "
      f"{type(model).__name__}."
    )

  def apply(variables, data, request, key):
    _, _, v = _difference(model.task, variables, data, request, key, chunk_size)
    retain = request.retain.astype(jnp.float32)
    count = jnp.maximum(retain.sum(), 1.0)

    def product(direction: PyTree) -> PyTree:
      total = per_example.sum_chunks(
        lambda rows, weight: _curvature(
          model, variables, direction, rows, weight
        ),
        data,
        retain,
        chunk_size=chunk_size,
      )
      return jax.tree.map(
        lambda t, d: t / count + damping * d, total, direction
      )

    step, _ = cg(product, v, tol=tolerance, maxiter=max_iterations)
    left, size = optax.tree.sub(product(step), v), optax.tree.norm(v)
    residual = optax.tree.norm(left) / jnp.where(size > 0, size, 1.0)
    return _stepped(variables, step, scale), InfluenceInfo(residual)

  return edit(apply, needs=_NEEDS, name="influence_unlearning")


def influence_released(
  task: Task | Any,
  *,
  scale: float | jax.Array = 1.0,
  num_samples: int = 1000,
  chunk_size: int = 256,
) -> Transform:
  """The published recursion in the place of `H^-1 v`; it takes no damping.

  Args:
    task: a `Task`, or a model of any room.
    scale: see `influence_unlearning`.
    num_samples: static; its N, of `N + 2` retain rows. Published: 1000.
    chunk_size: static; rows at a time.

  Returns:
    A `Transform` of no steps. An empty request changes nothing.

  Raises:
    ValueError: a count < 1.
  """
  checks.count(1, num_samples=num_samples, chunk_size=chunk_size)
  task = as_task(task)

  def apply(variables, data, request, key):
    loss_key = derive(key, "loss")  # The pool has the key itself.
    loss, rows, v = _difference(
      task, variables, data, request, loss_key, chunk_size
    )
    pool = sampling.make_pool(request.retain, key)
    # It stops once its index, from 0, is beyond N.
    positions = jnp.arange(num_samples + 2, dtype=jnp.uint32)
    row_id, _ = sampling.draw_rows(pool, positions)

    def sample(row: jax.Array) -> PyTree:
      one = jax.tree.map(lambda leaf: leaf[row][None], rows)
      return jax.grad(lambda params: loss(params, one)[0])(variables.params)

    def body(carry: tuple[PyTree, PyTree], row: jax.Array):
      v, u = carry
      g = sample(row)
      s = _dot(u, g)
      factor = _dot(v, g) / (num_samples + s)
      v = jax.tree.map(lambda a, b: a - factor * b, v, u)
      u = jax.tree.map(lambda b: b * (1.0 - s / (num_samples + s)), u)
      return (v, u), None

    first = jax.tree.map(lambda a, g: g.astype(a.dtype), v, sample(row_id[0]))
    (step, _), _ = jax.lax.scan(body, (v, first), row_id[1:])
    return _stepped(variables, step, scale)

  released = edit(apply, needs=_NEEDS, name="influence_released")
  return prepared(task, released, after=True)


def _difference(task, variables, data, request, key, chunk_size):
  """The loss of rows, all rows, and v."""
  visible = _rows.seen(request)
  losses, rows = _rows.original_loss(task, variables, data, visible, key)
  loss = lambda params, some: _rows.row_means(losses(params, some))
  forget = request.forget.astype(jnp.float32)
  retain = request.retain.astype(jnp.float32)
  forget_count, retain_count = forget.sum(), jnp.maximum(retain.sum(), 1.0)
  count = jnp.maximum(forget_count + retain.sum(), 1.0)
  share = forget_count / (count * retain_count)
  gradient = lambda weights: _rows.summed_gradient(
    loss, variables.params, rows, weights, chunk_size=chunk_size
  )
  v = jax.tree.map(
    lambda f, r: f / count - share * r, gradient(forget), gradient(retain)
  )
  return loss, rows, v


def _stepped(
  variables: Variables, step: PyTree, scale: float | jax.Array
) -> Variables:
  params = jax.tree.map(
    lambda p, s: p + (scale * s).astype(p.dtype), variables.params, step
  )
  return variables._replace(params=params)


def _curvature(model, variables, direction, rows, weight):
  """The Gauss-Newton matrix of the weighted sum of losses, times a vector."""
  direction = jax.tree.map(
    lambda d, p: d.astype(p.dtype), direction, variables.params
  )

  def outputs_of(params):
    return model.predict(variables._replace(params=params), rows["x"])

  def slope(outputs):
    def total(o):
      value = model.loss(o, rows)
      return jnp.where(weight > 0, weight * value, 0.0).sum()

    return jax.grad(total)(outputs)

  outputs, pushed = jax.jvp(outputs_of, (variables.params,), (direction,))
  _, curved = jax.jvp(slope, (outputs,), (pushed,))
  _, pull = jax.vjp(outputs_of, variables.params)
  return pull(curved)[0]


def _dot(a: PyTree, b: PyTree) -> jax.Array:
  products = jax.tree.map(
    lambda x, y: jnp.vdot(x, y.astype(x.dtype)).astype(jnp.float32), a, b
  )
  return sum(jax.tree.leaves(products), start=jnp.zeros(()))
