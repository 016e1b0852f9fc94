"""What single rows are to a model: their loss, their gradient's size and dots.

Models are read in evaluation mode, so that a row's loss depends on that row
alone. Rows are taken in chunks inside one program: beside the data and the
result, memory holds what `chunk_size` rows need, whatever N is
(`jaxunlearn.core.devices.rows_for_budget` finds the chunk size for a budget).
Sums are taken in at least float32, whatever the dtype of the params.

With `weights` the results are those of the weighted losses w_i * loss_i: a row
of weight 0 is not read, and its result is 0. These are descriptions, so no
direction is better; a method is judged by how near they come to those of the
retrained model. Dots use forward-mode derivatives, which a model whose
operations define a reverse rule only (`jax.custom_vjp`) does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, per_example
from jaxunlearn.core.sampling import blank_rows
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model, as_task
from jaxunlearn.core.types import PyTree, Variables, as_step
from jaxunlearn.metrics import _rows

Losses = Callable[[PyTree, PyTree], jax.Array]


def per_example_loss(
  model: Model,
  variables: Variables,
  data: PyTree,
  *,
  weights: jax.Array | None = None,
  chunk_size: int = 1024,
) -> jax.Array:
  """The task's loss of every row, in evaluation mode.

  Args:
    model: a model or a `Task`; its `loss` is taken.
    variables: its variables; bare params will do for a model without state.
    data: pytree of arrays [N, ...] with the inputs under "x".
    weights: None, or bool or float [N], see the module.
    chunk_size: static; rows at a time.

  Returns:
    [N], float32 or wider, in the unit of the loss (nats for cross entropy).

  Raises:
    ValueError: chunk_size < 1, weights of a wrong shape or dtype, a loss that
      is not one number a row.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> metrics.per_example_loss(line, jnp.zeros(1), data).tolist()
    [2.0, 8.0]
  """
  losses, params = losses_of(model, variables)
  return _map(lambda rows: losses(params, rows), data, weights, chunk_size)


def gradient_norms(
  model: Model,
  variables: Variables,
  data: PyTree,
  *,
  weights: jax.Array | None = None,
  per_layer: bool = False,
  chunk_size: int = 128,
) -> Any:
  """The Euclidean norm of every row's gradient with respect to the params.

  Args:
    model: see `per_example_loss`.
    variables: see `per_example_loss`.
    data: see `per_example_loss`.
    weights: see `per_example_loss`.
    per_layer: static; also the norms of every array of parameters by itself.
    chunk_size: static; rows at a time, whose gradients memory holds.

  Returns:
    [N], float32 or wider; with `per_layer` a pair of it and a dict from paths
    like "Dense_0/kernel" to [N].

  Raises:
    ValueError: as `per_example_loss`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> metrics.gradient_norms(line, jnp.zeros(1), data).tolist()
    [2.0, 12.0]
  """
  losses, params = losses_of(model, variables)

  def norms(rows: PyTree) -> Any:
    flat = jax.tree_util.tree_leaves_with_path(
      row_gradients(losses, params, rows)
    )
    squares = {
      _path(path): jnp.square(leaf).reshape(leaf.shape[0], -1).sum(axis=1)
      for path, leaf in flat
    }
    total = jnp.sqrt(jnp.stack(list(squares.values())).sum(axis=0))
    return (total, jax.tree.map(jnp.sqrt, squares)) if per_layer else total

  return _map(norms, data, weights, chunk_size)


def gradient_dots(
  model: Model,
  variables: Variables,
  data: PyTree,
  direction: PyTree,
  *,
  weights: jax.Array | None = None,
  chunk_size: int = 1024,
) -> jax.Array:
  """The dot product of every row's gradient with one direction.

  One forward-mode derivative a chunk: no gradient is ever formed, the cost is
  about that of two predictions.

  Args:
    model: see `per_example_loss`.
    variables: see `per_example_loss`.
    data: see `per_example_loss`.
    direction: pytree like the params; the gradient of a request's loss, say.
    weights: see `per_example_loss`.
    chunk_size: static; rows at a time.

  Returns:
    [N], float32 or wider: d loss_i / d params . direction.

  Raises:
    ValueError: as `per_example_loss`, and a direction unlike the params.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> direction = jnp.array([0.5])
    >>> metrics.gradient_dots(line, jnp.zeros(1), data, direction).tolist()
    [-1.0, -6.0]
  """
  losses, params = losses_of(model, variables)
  direction = like_params(direction, params, "direction")

  def dots(rows: PyTree) -> jax.Array:
    of_params = lambda p: losses(p, rows)
    return jax.jvp(of_params, (params,), (direction,))[1]

  return _map(dots, data, weights, chunk_size)


def gradient_gram(
  model: Model,
  variables: Variables,
  data: PyTree,
  others: PyTree,
  *,
  weights: jax.Array | None = None,
  chunk_size: int = 128,
  others_chunk_size: int = 16,
) -> jax.Array:
  """The dot products of every row's gradient with those of other rows.

  Args:
    model: see `per_example_loss`.
    variables: see `per_example_loss`.
    data: see `per_example_loss`.
    others: like `data`, leaves [M, ...]; a few rows to compare with, or the
      data itself for the whole Gram matrix.
    weights: see `per_example_loss`; of `data`.
    chunk_size: static; rows of `data` at a time.
    others_chunk_size: static; rows of `others` at a time. The gradients of the
      data are computed once for each such chunk; memory holds the gradients of
      chunk_size + others_chunk_size rows, and the result.

  Returns:
    [N, M], float32 or wider.

  Raises:
    ValueError: as `per_example_loss`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> line = from_functions(
    ...   lambda key, x: jnp.zeros(1), lambda w, x: x @ w,
    ...   loss=lambda outputs, rows: (outputs - rows["y"]) ** 2 / 2)
    >>> data = {"x": jnp.array([[1.0], [3.0]]), "y": jnp.array([2.0, 4.0])}
    >>> metrics.gradient_gram(line, jnp.zeros(1), data, data).tolist()
    [[4.0, 24.0], [24.0, 144.0]]
  """
  checks.counts(others_chunk_size=others_chunk_size)
  losses, params = losses_of(model, variables)

  def block(few: PyTree) -> jax.Array:
    right = jax.tree.leaves(row_gradients(losses, params, few))

    def dots(rows: PyTree) -> jax.Array:
      left = jax.tree.leaves(row_gradients(losses, params, rows))
      return jnp.stack(
        [
          jnp.einsum(
            "np,mp->nm",
            a.reshape(a.shape[0], -1),
            b.reshape(b.shape[0], -1),
            precision=jax.lax.Precision.HIGHEST,
          )
          for a, b in zip(left, right)
        ]
      ).sum(axis=0)

    return _map(dots, data, weights, chunk_size).T

  return per_example.map_chunks(block, others, chunk_size=others_chunk_size).T


def losses_of(task: Any, variables: Variables) -> tuple[Losses, PyTree]:
  """A task's losses as a function of float32 params, and those params.

  The model computes in its own dtype; derivatives come out in float32 or wider.
  What a loss draws it draws from one key, so that equal rows have equal losses.

  Returns:
    `(params, rows [B]) -> losses [B]` in evaluation mode, and the params.
  """
  lifted = (
    variables if isinstance(variables, Variables) else Variables(variables)
  )

  task, key = as_task(task), jax.random.key(0)

  def losses(params: PyTree, rows: PyTree) -> jax.Array:
    own = _cast(params, lifted.params)
    found = task.loss(lifted._replace(params=own), as_step(rows), key).value
    wanted = checks.num_rows(rows)
    shaped(f"the task to return a loss of each row, [{wanted}]", found)
    return _rows.widened(found, "found")

  return losses, jax.tree.map(_rows.widened, lifted.params)


def outputs_of(
  model: Model, variables: Variables, params: PyTree, rows: PyTree
) -> jax.Array:
  """Outputs [B, ...] with other params, cast to the dtypes of the model's own."""
  own = _cast(params, variables.params)
  return model.predict(variables._replace(params=own), rows["x"])


def _cast(params: PyTree, like: PyTree) -> PyTree:
  return jax.tree.map(lambda p, v: p.astype(v.dtype), params, like)


def row_gradients(losses: Losses, params: PyTree, rows: PyTree) -> PyTree:
  """Every row's own gradient; leaves [B, ...] of the params."""

  def of_row(row: PyTree) -> PyTree:
    alone = jax.tree.map(lambda x: x[None], row)
    return jax.grad(lambda p: losses(p, alone)[0])(params)

  return jax.vmap(of_row)(rows)


def like_params(tree: PyTree, params: PyTree, name: str) -> PyTree:
  """`tree` in the dtypes of `params`; `Variables` count by their params.

  Raises:
    ValueError: the structure or a shape is another.
  """
  tree = tree.params if isinstance(tree, Variables) else tree
  checks.same_structure(tree, params, name)
  return jax.tree.map(
    lambda p, leaf: jnp.asarray(leaf).astype(p.dtype), params, tree
  )


def _path(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _map(
  fn: Callable[[PyTree], Any],
  data: PyTree,
  weights: jax.Array | None,
  chunk_size: int,
) -> Any:
  """`fn` over chunks of the data, its results times the rows' weights."""
  if weights is None:
    return per_example.map_chunks(fn, data, chunk_size=chunk_size)
  checks.request(data, weights, name="weights")

  def weighted(args: tuple[PyTree, jax.Array]) -> Any:
    rows, weight = args

    def scale(v: jax.Array) -> jax.Array:
      w = weight.reshape(weight.shape + (1,) * (v.ndim - 1))
      return jnp.where(w > 0, w * v, 0)

    return jax.tree.map(scale, fn(blank_rows(rows, weight)))

  return per_example.map_chunks(
    weighted, (data, jnp.asarray(weights)), chunk_size=chunk_size
  )
