"""Utilities of learners that need no training loop: thousands a second.

Ridge regression of one-hot labels, logistic regression by Newton's method, and
kernel ridge. All sum losses over rows (not mean), as scikit-learn does, so that
l2 means the same whatever the number of rows, and all penalise the intercept, a
constant feature, as well: then a subset of one class, or of one row, has one
finite solution. Standardise the features.

Cost a set, N rows of d features (the intercept is one): ridge and logistic
regression build matrices [d, d] from a table of products of features, one matrix
product for all sets of a chunk; with more classes than two a Newton step is
solved by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.valuation.types import Utility
from jaxunlearn.valuation.utility import (
  SCORES,
  empty_value_of,
  validation_labels,
)

_TABLE_ENTRIES = 2**22  # Of products of features, in floats (16 MiB).
_STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.0)


def ridge_utility(
  data: PyTree,
  validation: PyTree,
  *,
  num_classes: int,
  l2: float | jax.Array = 1.0,
  score: str = "squared_error",
  empty_value: float | jax.Array | None = None,
) -> Utility:
  """Ridge regression of one-hot labels: (X'MX + l2 I)^-1 X'MY, by Cholesky.

  Args:
    data: {"x": [N, ...], "label": int [N]}; x is flattened.
    validation: the same of V >= 1 rows.
    num_classes: C; static.
    l2: > 0, scikit-learn's `Ridge(alpha)`; may be traced. With one far below
      float32's rounding of the sums, utilities are nan.
    score: "squared_error" (minus the mean squared distance to one-hot labels)
      or "accuracy".
    empty_value: of no rows; by default -1 for the squared error (outputs of
      zero), the share of the largest validation class for the accuracy.

  Returns:
    The utility, deterministic.

  Raises:
    ValueError: no validation rows, labels out of range, other shapes of x, l2
      <= 0, an unknown score.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> data = {"x": jnp.array([[-1.0], [1.0]]), "label": jnp.array([0, 1])}
    >>> utility = valuation.ridge_utility(data, data, num_classes=2)
    >>> round(float(utility.value(jnp.array([True, True]))), 3)
    -0.111
  """
  checks.one_of(("squared_error", "accuracy"), score=score)
  problem = _problem(data, validation, num_classes, l2, score, empty_value)
  x, xv = _with_constant(problem.x), _with_constant(problem.validation_x)
  target = jax.nn.one_hot(problem.label, num_classes, dtype=jnp.float32)
  gram = _gram(x)
  ridge = jnp.asarray(l2, jnp.float32) * jnp.eye(x.shape[1])

  def value(mask: jax.Array) -> jax.Array:
    m = mask.astype(jnp.float32)
    weights = _solve(gram(m) + ridge, _dot(x.T, m[:, None] * target))
    return problem.score(_dot(xv, weights))

  return problem.utility(value)


def kernel_ridge_utility(
  data: PyTree,
  validation: PyTree,
  *,
  num_classes: int,
  kernel: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  l2: float | jax.Array = 1.0,
  score: str = "squared_error",
  empty_value: float | jax.Array | None = None,
) -> Utility:
  """Kernel ridge regression of one-hot labels, by Cholesky; no intercept.

  Holds the kernel [N, N] once, and one such matrix a set: bound those by a
  chunk, `strategy=k`.

  Args:
    data: see `ridge_utility`.
    validation: see `ridge_utility`.
    num_classes: C; static.
    kernel: `(a [A, d], b [B, d]) -> [A, B]`, positive semi-definite; by default
      exp(-|a - b|^2 / d).
    l2: > 0, scikit-learn's `KernelRidge(alpha)`; may be traced.
    score: see `ridge_utility`.
    empty_value: see `ridge_utility`.

  Returns:
    The utility, deterministic.

  Raises:
    ValueError: see `ridge_utility`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> data = {"x": jnp.array([[-1.0], [1.0]]), "label": jnp.array([0, 1])}
    >>> utility = valuation.kernel_ridge_utility(
    ...   data, data, num_classes=2, score="accuracy")
    >>> float(utility.value(jnp.array([True, True])))
    1.0
  """
  checks.one_of(("squared_error", "accuracy"), score=score)
  problem = _problem(data, validation, num_classes, l2, score, empty_value)
  kernel = _gaussian if kernel is None else kernel
  square = kernel(problem.x, problem.x)
  across = kernel(problem.validation_x, problem.x)
  target = jax.nn.one_hot(problem.label, num_classes, dtype=jnp.float32)
  ridge = jnp.asarray(l2, jnp.float32) * jnp.eye(square.shape[0])

  def value(mask: jax.Array) -> jax.Array:
    # Rows that are out have an equation of their own, with solution 0.
    inside = jnp.where(mask[:, None] & mask[None, :], square, 0)
    dual = _solve(inside + ridge, jnp.where(mask[:, None], target, 0))
    return problem.score(_dot(across, dual))

  return problem.utility(value)


def logistic_utility(
  data: PyTree,
  validation: PyTree,
  *,
  num_classes: int,
  l2: float | jax.Array = 1.0,
  score: str = "log_likelihood",
  empty_value: float | jax.Array | None = None,
  num_steps: int = 8,
  num_cg_steps: int = 16,
  is_damped: bool = True,
) -> Utility:
  """Logistic regression from zero by a fixed number of Newton steps.

  Minimises the sum of cross-entropies + l2 / 2 |W|^2, W [d] for two classes
  (scikit-learn's C = 1 / l2), [d, C] for more. Two classes take exact steps by
  Cholesky; more take steps by preconditioned conjugate gradients.

  Args:
    data: {"x": [N, ...], "label": int [N]}; x is flattened.
    validation: the same of V >= 1 rows.
    num_classes: C >= 2; static.
    l2: > 0; may be traced.
    score: "log_likelihood" (mean, nats) or "accuracy".
    empty_value: of no rows; by default -log C, or the share of the largest
      validation class.
    num_steps: Newton steps; static.
    num_cg_steps: of each of them, with more than two classes; static.
    is_damped: static; each step takes the largest of a few step sizes that does
      not raise the loss, so that large features or a small l2 cannot make it
      diverge. False always takes the whole step, a little faster.

  Returns:
    The utility, deterministic. With the defaults and standardised features the
    weights are those of the minimum to about float32's precision.

  Raises:
    ValueError: as `ridge_utility` and `logistic_fit`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> data = {"x": jnp.array([[-1.0], [1.0]]), "label": jnp.array([0, 1])}
    >>> utility = valuation.logistic_utility(
    ...   data, data, num_classes=2, score="accuracy")
    >>> utility.many(jnp.array([[True, True], [True, False]])).tolist()
    [1.0, 0.5]
  """
  checks.one_of(("log_likelihood", "accuracy"), score=score)
  problem = _problem(data, validation, num_classes, l2, score, empty_value)
  fit = logistic_fit(
    problem.x,
    problem.label,
    num_classes=num_classes,
    l2=l2,
    num_steps=num_steps,
    num_cg_steps=num_cg_steps,
    is_damped=is_damped,
  )
  return problem.utility(
    lambda mask: problem.score(fit(mask)(problem.validation_x))
  )


def logistic_fit(
  x: jax.Array,
  label: jax.Array,
  *,
  num_classes: int,
  l2: float | jax.Array = 1.0,
  num_steps: int = 8,
  num_cg_steps: int = 16,
  is_damped: bool = True,
) -> Callable[[jax.Array], Callable[[jax.Array], jax.Array]]:
  """The model of `logistic_utility`, for weighted rows.

  Args:
    x: float [N, ...].
    label: int [N], in 0 .. C - 1.
    num_classes: see `logistic_utility`, also for those that follow.
    l2: > 0.
    num_steps: >= 1.
    num_cg_steps: >= 1.
    is_damped: or not.

  Returns:
    `weights [N] -> (x [M, ...] -> logits [M, C])`; weights are a mask, or numbers
    >= 0, such as how often a row was drawn.

  Raises:
    ValueError: C < 2, counts < 1, l2 <= 0, labels out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> fit = valuation.logistic_fit(
    ...   jnp.array([[-1.0], [1.0]]), jnp.array([0, 1]), num_classes=2)
    >>> predict = fit(jnp.ones(2))
    >>> predict(jnp.array([[-3.0], [3.0]])).argmax(axis=1).tolist()
    [0, 1]
  """
  checks.counts(num_steps=num_steps, num_cg_steps=num_cg_steps)
  checks.positive(l2=l2)
  if num_classes < 2:
    raise ValueError(f"Expected num_classes >= 2, got {num_classes}.")
  checks.labels(label, num_classes, "label", length=len(x))
  x, label = _with_constant(_flat(x)), jnp.asarray(label)
  l2 = jnp.asarray(l2, jnp.float32)
  is_binary = num_classes == 2
  make_step = _binary if is_binary else _multinomial
  newton = make_step(x, label, num_classes, l2, num_cg_steps)
  losses = _binary_losses if is_binary else _multinomial_losses
  shape = (x.shape[1],) if is_binary else (x.shape[1], num_classes)

  def fit(row_weights: jax.Array) -> Callable[[jax.Array], jax.Array]:
    shaped(f"weights [{len(label)}]", row_weights)
    m = row_weights.astype(jnp.float32)
    direction = newton(m)

    def step(weights: jax.Array, _: None) -> tuple[jax.Array, None]:
      outputs = _dot(x, weights)
      change = direction(weights, outputs)
      if not is_damped:
        return weights + change, None
      moved = _dot(x, change)

      def loss(size: jax.Array) -> jax.Array:
        penalty = l2 / 2 * ((weights + size * change) ** 2).sum()
        return m @ losses(outputs + size * moved, label) + penalty

      sizes = jnp.asarray(_STEP_SIZES, jnp.float32)
      found = jax.vmap(loss)(sizes)
      # Size 0 is the last; near the minimum rounding must not stop a step.
      works = found <= found[-1] + 1e-5 * jnp.abs(found[-1])
      return weights + sizes[jnp.argmax(works)] * change, None

    weights, _ = jax.lax.scan(step, jnp.zeros(shape), None, length=num_steps)

    def logits(x: jax.Array) -> jax.Array:
      outputs = _dot(_with_constant(_flat(x)), weights)
      if is_binary:
        outputs = jnp.stack([jnp.zeros_like(outputs), outputs], axis=-1)
      return outputs

    return logits

  return fit


class _Problem(NamedTuple):
  """What the three learners share: checked inputs, the score, the utility."""

  x: jax.Array
  label: jax.Array
  validation_x: jax.Array
  score: Callable[[jax.Array], jax.Array]
  utility: Callable[[Callable[[jax.Array], jax.Array]], Utility]


def _problem(data, validation, num_classes, l2, score, empty_value) -> _Problem:
  checks.positive(l2=l2)
  labels = validation_labels(data, validation, num_classes)
  x, validation_x = _flat(data["x"]), _flat(validation["x"])
  shaped("data['x'] [N, D] and validation['x'] [M, D]", x, validation_x)
  n = checks.num_rows(data)
  empty_value = empty_value_of(score, labels, num_classes, empty_value)
  return _Problem(
    x,
    jnp.asarray(data["label"]),
    validation_x,
    lambda outputs: SCORES[score](outputs, labels),
    lambda value: Utility(value, n, empty_value),
  )


def _binary(x, label, num_classes, l2, num_cg_steps):
  """`mask -> (weights, outputs) -> step`, exact."""
  del num_classes, num_cg_steps
  gram, target = _gram(x), label.astype(jnp.float32)
  ridge = l2 * jnp.eye(x.shape[1])

  def of_mask(m):
    def direction(weights, outputs):
      p = jax.nn.sigmoid(outputs)
      gradient = _dot(x.T, m * (p - target)) + l2 * weights
      hessian = gram(m * p * (1 - p)) + ridge
      return -_solve(hessian, gradient[:, None])[:, 0]

    return direction

  return of_mask


def _multinomial(x, label, num_classes, l2, num_cg_steps):
  """`mask -> (weights, outputs) -> step`, by conjugate gradients."""
  gram = _gram(x)
  target = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
  ridge = l2 * jnp.eye(x.shape[1])

  def of_mask(m):
    def direction(weights, outputs):
      p = jax.nn.softmax(outputs)
      gradient = _dot(x.T, m[:, None] * (p - target)) + l2 * weights
      # One matrix for all classes, of the mean curvature of a row.
      curvature = m * (p * (1 - p)).mean(axis=1)
      factor = jnp.linalg.cholesky(gram(curvature) + ridge)

      def hessian(v):
        pv = p * _dot(x, v)
        rows = pv - p * pv.sum(axis=1, keepdims=True)
        return _dot(x.T, m[:, None] * rows) + l2 * v

      precondition = lambda r: jax.scipy.linalg.cho_solve((factor, True), r)
      return -_conjugate_gradients(
        hessian, gradient, precondition, num_cg_steps
      )

    return direction

  return of_mask


def _binary_losses(outputs, label):
  sign = 1 - 2 * label.astype(outputs.dtype)
  return jax.nn.softplus(sign * outputs)


def _multinomial_losses(outputs, label):
  chosen = jnp.take_along_axis(outputs, label[:, None], axis=1)[:, 0]
  return jax.nn.logsumexp(outputs, axis=1) - chosen


def _conjugate_gradients(product, b, precondition, num_steps):
  """Solves A x = b; a residual of zero stays where it is."""

  def ratio(a, b):
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

  def step(carry, _):
    x, residual, direction, size = carry
    image = product(direction)
    length = ratio(size, (direction * image).sum())
    x, residual = x + length * direction, residual - length * image
    z = precondition(residual)
    new = (residual * z).sum()
    return (x, residual, z + ratio(new, size) * direction, new), None

  z = precondition(b)
  start = (jnp.zeros_like(b), b, z, (b * z).sum())
  (x, *_), _ = jax.lax.scan(step, start, None, length=num_steps)
  return x


def _gram(x: jax.Array) -> Callable[[jax.Array], jax.Array]:
  """`weights [N] -> X' diag(weights) X`, under vmap one matrix product."""
  n, d = x.shape
  if n * d * (d + 1) // 2 > _TABLE_ENTRIES:
    return lambda w: _dot((x * w[:, None]).T, x)
  first, second = np.triu_indices(d)
  table = x[:, first] * x[:, second]
  place = np.zeros((d, d), np.int32)
  place[first, second] = place[second, first] = np.arange(len(first))
  return lambda w: _dot(w, table)[place]


def _solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  factor = jnp.linalg.cholesky(matrix)
  return jax.scipy.linalg.cho_solve((factor, True), right)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  # Accelerators would otherwise round the factors to bfloat16 or tf32.
  return jnp.matmul(a, b, precision="highest")


def _gaussian(a: jax.Array, b: jax.Array) -> jax.Array:
  squares = lambda x: (x**2).sum(axis=1)
  distance = squares(a)[:, None] + squares(b)[None, :] - 2 * _dot(a, b.T)
  return jnp.exp(-jnp.maximum(distance, 0) / a.shape[1])


def _flat(x: jax.Array) -> jax.Array:
  x = jnp.asarray(x, jnp.float32)
  return x.reshape(x.shape[0], -1)


def _with_constant(x: jax.Array) -> jax.Array:
  return jnp.concatenate([x, jnp.ones((x.shape[0], 1), x.dtype)], axis=1)
