"""Influence functions: what removing rows would change, without retraining.

Source: Koh and Liang (2017), arXiv:1703.04730; for groups of rows Koh, Ang, Teo
and Liang (2019), arXiv:1905.13289.
Class: a first-order estimate around the given params; exact to first order in
the weight of the removed rows where these params minimise the objective

    sum_i w_i loss_i / sum_i w_i + damping / 2 * |params|^2,

and heuristic elsewhere (a network not at a minimum, large requests, early
stopping). `damping` is the weight decay of the training objective where it had
one; for networks a larger value keeps the inverse bounded.
Access: all training rows. Model state: frozen, evaluation mode.
Cost: one pass over the data for each step of conjugate gradients
(`jax.scipy.sparse.linalg.cg`), in chunks of rows; no matrix is ever formed.
Difference from the source: the curvature is the Gauss-Newton matrix by default,
which is positive semi-definite, as conjugate gradients need; for losses convex
in the outputs of a linear model the two are equal. Pass
`curvature=hessian_vector_product` for the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, per_example
from jaxunlearn.core.sampling import blank_rows
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import _rows
from jaxunlearn.metrics import per_example as rows_of_model

Product = Callable[..., PyTree]


class Solve(NamedTuple):
  """How well a linear system was solved.

  Attributes:
    residual: float [], |A x - b| / |b|, recomputed from the solution; 0 where b
      is zero.
    is_converged: bool [], whether it is finite and within twice the tolerance
      (rounding moves it away from what the iteration believes).
  """

  residual: jax.Array
  is_converged: jax.Array


def hessian_vector_product(
  model: Model,
  variables: Variables,
  data: PyTree,
  vector: PyTree,
  *,
  weights: jax.Array | None = None,
  damping: float | jax.Array = 0.0,
  chunk_size: int = 256,
) -> PyTree:
  """The Hessian of the mean loss, plus damping, times a vector.

  Args:
    model: its `loss` is taken, in evaluation mode.
    variables: where the Hessian is taken.
    data: pytree of arrays [N, ...] with the inputs under "x".
    vector: pytree like the params.
    weights: None, or bool or float [N]: the mean over rows by these weights;
      rows of weight 0 are not read.
    damping: >= 0, added to the diagonal. May be traced.
    chunk_size: static; rows at a time.

  Returns:
    Pytree like the params, float32 or wider; damping * vector for no rows.

  Raises:
    ValueError: chunk_size < 1, damping < 0, weights or a vector that do not
      fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> metrics.hessian_vector_product(line, jnp.zeros(1), data, jnp.ones(1))
    Array([5.], dtype=float32)
  """
  losses, params = rows_of_model.losses_of(model, variables)

  def of_chunk(rows: PyTree, weight: jax.Array, v: PyTree) -> PyTree:
    total = lambda p: _weighted(losses(p, rows), weight)
    return jax.jvp(jax.grad(total), (params,), (v,))[1]

  return _damped(of_chunk, params, data, vector, weights, damping, chunk_size)


def gauss_newton_vector_product(
  model: Model,
  variables: Variables,
  data: PyTree,
  vector: PyTree,
  *,
  weights: jax.Array | None = None,
  damping: float | jax.Array = 0.0,
  chunk_size: int = 256,
) -> PyTree:
  """The Gauss-Newton matrix of the mean loss, plus damping, times a vector.

  J^T H J, averaged over rows, with J the Jacobian of the outputs and H the
  Hessian of a row's loss in its outputs: the Hessian without the curvature of
  the model, positive semi-definite where the loss is convex in the outputs.

  Args:
    model: see `hessian_vector_product`.
    variables: see `hessian_vector_product`.
    data: see `hessian_vector_product`.
    vector: see `hessian_vector_product`.
    weights: see `hessian_vector_product`.
    damping: see `hessian_vector_product`.
    chunk_size: see `hessian_vector_product`.

  Returns:
    As `hessian_vector_product`.

  Raises:
    ValueError: as `hessian_vector_product`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> metrics.gauss_newton_vector_product(
    ...   line, jnp.zeros(1), data, jnp.ones(1), damping=0.5).tolist()
    [5.5]
  """
  lifted = (
    variables if isinstance(variables, Variables) else Variables(variables)
  )
  _, params = rows_of_model.losses_of(model, lifted)

  def of_chunk(rows: PyTree, weight: jax.Array, v: PyTree) -> PyTree:
    outputs_at = lambda p: _rows.widened(
      rows_of_model.outputs_of(model, lifted, p, rows)
    )
    total = lambda outputs: _weighted(model.loss(outputs, rows), weight)
    outputs, change = jax.jvp(outputs_at, (params,), (v,))
    _, curved = jax.jvp(jax.grad(total), (outputs,), (change,))
    _, pull_back = jax.vjp(outputs_at, params)
    return pull_back(curved)[0]

  return _damped(of_chunk, params, data, vector, weights, damping, chunk_size)


def solve_curvature(
  model: Model,
  variables: Variables,
  data: PyTree,
  vector: PyTree,
  *,
  damping: float | jax.Array,
  weights: jax.Array | None = None,
  curvature: Product = gauss_newton_vector_product,
  tol: float = 1e-5,
  max_steps: int = 100,
  chunk_size: int = 256,
) -> tuple[PyTree, Solve]:
  """Solves (curvature + damping I) x = vector by conjugate gradients.

  Args:
    model: see `hessian_vector_product`.
    variables: see `hessian_vector_product`.
    data: see `hessian_vector_product`.
    vector: pytree like the params.
    damping: see `hessian_vector_product`; > 0 unless the curvature is positive
      definite by itself.
    weights: see `hessian_vector_product`.
    curvature: `gauss_newton_vector_product`, `hessian_vector_product`, or
      another function of their signature. Conjugate gradients are right for
      positive definite matrices only: a network's Hessian needs a damping above
      its most negative eigenvalue.
    tol: > 0, the relative residual to stop at.
    max_steps: static; steps at most, a pass over the data each.
    chunk_size: see `hessian_vector_product`.

  Returns:
    x, a pytree like the params in float32 or wider, and a `Solve`. A solve
    that fails raises nothing; look at `is_converged`.

  Raises:
    ValueError: as `hessian_vector_product`; tol or max_steps not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> found, solve = metrics.solve_curvature(
    ...   line, jnp.zeros(1), data, jnp.array([11.0]), damping=0.5)
    >>> found.round(3).tolist(), bool(solve.is_converged)
    ([2.0], True)
  """
  checks.counts(max_steps=max_steps)
  checks.positive(tol=tol)
  _, params = rows_of_model.losses_of(model, variables)
  vector = rows_of_model.like_params(vector, params, "vector")

  def product(v: PyTree) -> PyTree:
    return curvature(
      model,
      variables,
      data,
      v,
      weights=weights,
      damping=damping,
      chunk_size=chunk_size,
    )

  x, _ = jax.scipy.sparse.linalg.cg(product, vector, tol=tol, maxiter=max_steps)
  left = _norm(jax.tree.map(lambda a, b: a - b, product(x), vector))
  scale = _norm(vector)
  residual = jnp.where(scale > 0, left / jnp.where(scale > 0, scale, 1), left)
  return x, Solve(residual, residual <= 2 * tol)


def influence_of_request(
  model: Model,
  variables: Variables,
  data: PyTree,
  forget_mask: jax.Array,
  *,
  damping: float | jax.Array,
  weights: jax.Array | None = None,
  **solver: Any,
) -> tuple[PyTree, Solve]:
  """The change of the params that removing a request is predicted to make.

      (curvature + damping I)^-1 sum_(i in request) w_i grad loss_i / sum_i w_i

  Args:
    model: see `hessian_vector_product`.
    variables: the original model, trained on `data` under `weights`.
    data: see `hessian_vector_product`.
    forget_mask: bool [N], or float [N] in [0, 1], the share of each row to
      remove.
    damping: see `solve_curvature`; the weight decay of the objective.
    weights: see `hessian_vector_product`; how much each row counted in
      training.
    **solver: `curvature`, `tol`, `max_steps`, `chunk_size` of
      `solve_curvature`.

  Returns:
    The change, a pytree like the params in float32 or wider
    (`optax.apply_updates(params, change)` is the predicted model), zeros for an
    empty request; and a `Solve`.

  Raises:
    ValueError: as `solve_curvature`; a mask of a wrong shape or dtype.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> model = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda mean, x: x - mean[None],
    ...   loss=lambda outputs, rows: outputs[:, 0] ** 2 / 2)
    >>> data = {"x": jnp.array([[0.0], [1.0], [5.0]])}
    >>> change, _ = metrics.influence_of_request(
    ...   model, jnp.array([2.0]), data, jnp.array([False, False, True]),
    ...   damping=0.0)
    >>> change.round(3).tolist()  # To first order; retraining gives -1.5.
    [-1.0]
  """
  checks.request(data, forget_mask)
  gradient = _mean_gradient(
    model,
    variables,
    data,
    _weights(data, weights),
    solver.get("chunk_size", 256),
    share=jnp.asarray(forget_mask),
  )
  return solve_curvature(
    model, variables, data, gradient, damping=damping, weights=weights, **solver
  )


def influence_scores(
  model: Model,
  variables: Variables,
  data: PyTree,
  query: PyTree,
  *,
  damping: float | jax.Array,
  weights: jax.Array | None = None,
  query_weights: jax.Array | None = None,
  **solver: Any,
) -> tuple[jax.Array, Solve]:
  """What removing each training row would add to the mean loss of a query.

      w_i / sum w * grad loss_i . (curvature + damping I)^-1 grad loss_query

  Positive: the row helped, the query's loss is predicted to rise without it.
  One solve for all rows, then one forward-mode pass. The scores of a request's
  rows add up to the change predicted for the whole request. Several queries:
  `map_many` over stacked queries, each a pytree of rows.

  Args:
    model: see `hessian_vector_product`.
    variables: the original model, trained on `data` under `weights`.
    data: see `hessian_vector_product`.
    query: like `data`, leaves [M, ...]; the mean of its losses is explained.
    damping: see `solve_curvature`.
    weights: see `influence_of_request`.
    query_weights: None, or bool or float [M].
    **solver: `curvature`, `tol`, `max_steps`, `chunk_size` of
      `solve_curvature`.

  Returns:
    [N], float32 or wider, in the unit of the loss; 0 for rows of weight 0. And a
    `Solve`.

  Raises:
    ValueError: as `solve_curvature`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> model = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda mean, x: x - mean[None],
    ...   loss=lambda outputs, rows: outputs[:, 0] ** 2 / 2)
    >>> data = {"x": jnp.array([[0.0], [1.0], [5.0]])}
    >>> scores, _ = metrics.influence_scores(
    ...   model, jnp.array([2.0]), data, {"x": jnp.array([[3.0]])}, damping=0.0)
    >>> [round(score, 2) for score in scores.tolist()]
    [-0.67, -0.33, 1.0]
  """
  weight = _weights(data, weights)
  query_weight = _weights(query, query_weights, "query_weights")
  chunk_size = solver.get("chunk_size", 256)
  gradient = _mean_gradient(model, variables, query, query_weight, chunk_size)
  direction, info = solve_curvature(
    model, variables, data, gradient, damping=damping, weights=weights, **solver
  )
  dots = rows_of_model.gradient_dots(
    model, variables, data, direction, weights=weights, chunk_size=chunk_size
  )
  return dots / _count(weight).astype(dots.dtype), info


def _damped(
  of_chunk: Callable[[PyTree, jax.Array, PyTree], PyTree],
  params: PyTree,
  data: PyTree,
  vector: PyTree,
  weights: jax.Array | None,
  damping: float | jax.Array,
  chunk_size: int,
) -> PyTree:
  """Mean over rows of `of_chunk(rows, weight, vector)`, plus damping."""
  checks.non_negative(damping=damping)
  vector = rows_of_model.like_params(vector, params, "vector")
  weight = _weights(data, weights)
  total = per_example.sum_chunks(
    lambda rows, w: of_chunk(rows, w, vector),
    data,
    weight,
    chunk_size=chunk_size,
  )
  count = _count(weight)
  return jax.tree.map(
    lambda t, v: (t / count.astype(t.dtype) + damping * v).astype(v.dtype),
    total,
    vector,
  )


def _mean_gradient(
  model: Model,
  variables: Variables,
  data: PyTree,
  weight: jax.Array,
  chunk_size: int,
  share: jax.Array | None = None,
) -> PyTree:
  """Gradient of sum_i w_i share_i loss_i / sum_i w_i, shares being 1 if None."""
  losses, params = rows_of_model.losses_of(model, variables)

  def of_chunk(args: tuple[PyTree, jax.Array | None], w: jax.Array) -> PyTree:
    rows, part = args
    if part is not None:
      w = w * _rows.widened(part, "part")
      rows = blank_rows(rows, w)
    return jax.grad(lambda p: _weighted(losses(p, rows), w))(params)

  total = per_example.sum_chunks(
    of_chunk, (data, share), weight, chunk_size=chunk_size
  )
  return jax.tree.map(lambda t: t / _count(weight).astype(t.dtype), total)


def _weights(
  data: PyTree, weights: jax.Array | None, name: str = "weights"
) -> jax.Array:
  """Weights [N], bool or float as they came; None is 1 for every row."""
  if weights is None:
    return jnp.ones(checks.num_rows(data), jnp.float32)
  checks.request(data, weights, name=name)
  return jnp.asarray(weights)


def _weighted(losses: jax.Array, weight: jax.Array) -> jax.Array:
  return jnp.where(
    weight > 0, weight * _rows.widened(losses, "losses"), 0
  ).sum()


def _count(weight: jax.Array) -> jax.Array:
  """The sum of the weights, 1 where it is zero; float32 or wider."""
  count = _rows.widened(weight, "weight").sum()
  return jnp.where(count > 0, count, jnp.ones((), count.dtype))


def _norm(tree: PyTree) -> jax.Array:
  return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))
