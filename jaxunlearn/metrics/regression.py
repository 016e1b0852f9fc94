"""How well a regression model predicts, and how near it is to the retrained one.

Source: Deep Regression Unlearning, arXiv:2210.08196. On the forget set the aim
is the retrained model's error, not a large one, so that what is compared is how
predictions are DISTRIBUTED. All take the outputs of all rows, and `weights` that
say which count: `forget_mask` for the forget set, `~forget_mask` for the retain
set. The relearn time and anamnesis index of regression are those of
`attacks.relearn` with direction="lower" and the loss on held-out forget rows.

Difference from the released code: errors are means over rows, not means of
batches of which the last may be short.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import _rows


def mean_absolute_error(
  outputs: jax.Array, targets: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Mean of |output - target| over rows.

  Better: on retain and test rows, lower. On the forget set the aim is the
  retrained model's value (in expectation its error on unseen rows of the same
  kind); far above it is over-forgetting.

  Args:
    outputs: float [N, ...], or with one more axis of length 1.
    targets: float [N, ...]; the mean over an example's entries is taken.
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    [], >= 0, in the targets' unit; nan for an empty set.

  Raises:
    ValueError: shapes or dtypes do not match.

  Example:
    >>> forget_mask = jnp.array([True, True, False])
    >>> targets = jnp.array([1.0, 2.0, 3.0])
    >>> mean_absolute_error(jnp.zeros(3), targets, forget_mask)
    Array(1.5, dtype=float32)
  """
  return _rows.weighted_mean(
    _per_example(jnp.abs(_errors(outputs, targets))), weights
  )


def mean_squared_error(
  outputs: jax.Array, targets: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Mean of (output - target)^2 over rows; see `mean_absolute_error`.

  Args:
    outputs: see there.
    targets: see there.
    weights: see there.

  Returns:
    [], >= 0, in the square of the targets' unit; nan for an empty set.

  Raises:
    ValueError: shapes or dtypes do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> outputs, targets = jnp.array([[1.0], [5.0]]), jnp.array([3.0, 4.0])
    >>> float(metrics.mean_squared_error(outputs, targets))
    2.5
  """
  return _rows.weighted_mean(
    _per_example(jnp.square(_errors(outputs, targets))), weights
  )


def relative_difference(
  outputs: jax.Array, other_outputs: jax.Array, targets: jax.Array
) -> jax.Array:
  """|output - other output| / |target| of each entry.

  Better, with the retrained model second: lower; in expectation that of two
  retrained models with other seeds, which is not 0.

  Args:
    outputs: float [N, ...], or with one more axis of length 1.
    other_outputs: likewise.
    targets: float [N, ...].

  Returns:
    The shape of targets; inf where the target is 0 and the outputs differ, 0
    where they agree.

  Raises:
    ValueError: shapes or dtypes do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> outputs, retrained = jnp.array([3.0, 5.0]), jnp.array([2.0, 5.0])
    >>> targets = jnp.array([4.0, 0.0])
    >>> metrics.relative_difference(outputs, retrained, targets).tolist()
    [0.25, 0.0]
  """
  difference = jnp.abs(
    _like_targets(outputs, targets) - _like_targets(other_outputs, targets)
  )
  size = jnp.abs(_rows.widened(targets, "targets"))
  ratio = difference / jnp.where(size > 0, size, 1)
  at_zero = jnp.where(difference > 0, jnp.inf, difference)
  return jnp.where(size == 0, at_zero, ratio)


def wasserstein1(
  a: jax.Array,
  b: jax.Array,
  a_weights: jax.Array | None = None,
  b_weights: jax.Array | None = None,
) -> jax.Array:
  """How far one sample of numbers must be moved to become another: int |F - G|.

  Of equally many numbers it is the mean of |sorted a - sorted b|. Blind to WHICH
  row has which value. Differentiable.

  Better, between predictions on the forget set and those of the retrained model:
  lower; in expectation that of two retrained models with other seeds, which is
  not 0.

  Args:
    a: float [N].
    b: float [M].
    a_weights: bool or float [N] >= 0, scaled to sum 1; None counts every row
      once. Rows of weight 0 are not read.
    b_weights: likewise [M].

  Returns:
    [], >= 0, in the unit of the numbers; 0 for the same sample, exactly so under
    masks and up to rounding under float weights; nan if a side is empty or a
    counted number is not finite.

  Raises:
    ValueError: shapes or dtypes do not match.

  Example:
    >>> wasserstein1(jnp.array([0.0, 1.0]), jnp.array([3.0, 2.0]))
    Array(2., dtype=float32)
  """
  sides = []
  for name, values, weights in (("a", a, a_weights), ("b", b, b_weights)):
    shaped(f"{name} [N]", values)
    values = _rows.widened(values, "values")
    sides.append((values, _rows.weights_of(weights, values)))
  values, weights = (jnp.concatenate(part) for part in zip(*sides))
  counted = weights > 0
  unknown = (counted & ~jnp.isfinite(values)).any()
  # Below all others nothing has been added up yet, so that they add nothing.
  lowest = jnp.where(counted & ~unknown, values, jnp.inf).min(initial=jnp.inf)
  lowest = jnp.where(jnp.isfinite(lowest), lowest, 0)
  values = jnp.where(counted & ~unknown, values, lowest)
  order = jnp.argsort(values)
  steps = jnp.diff(values[order])
  is_a = jnp.arange(values.size) < sides[0][0].size
  shares = []
  for own in (is_a, ~is_a):
    total = jnp.where(own & counted, weights, 0)
    below = jnp.cumsum(total[order])[:-1]
    shares.append((below, total.sum()))
  (f, n), (g, m) = shares
  gap = jnp.abs(f / jnp.where(n > 0, n, 1) - g / jnp.where(m > 0, m, 1))
  # Exactly, where rounding may differ between the two divisions.
  gap = jnp.where((f == g) & (n == m), 0, gap)
  # Where values are equal their order must not matter, nor does it: the step
  # between them is 0.
  distance = (gap * steps).sum()
  return jnp.where(unknown | (n <= 0) | (m <= 0), jnp.nan, distance)


def _errors(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  outputs = _like_targets(outputs, targets)
  return outputs - jnp.asarray(targets).astype(outputs.dtype)


def _like_targets(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """Outputs in the shape of the targets, in at least float32."""
  outputs = _rows.widened(outputs, "outputs")
  targets = arrays("targets float [...]", targets)
  if outputs.shape == (*targets.shape, 1):
    outputs = outputs[..., 0]
  _rows.same_shape(targets, outputs, "targets", "outputs")
  if targets.ndim == 0:
    raise ValueError("Expected targets [N, ...], got a scalar.")
  return outputs


def _per_example(values: jax.Array) -> jax.Array:
  return values.mean(axis=tuple(range(1, values.ndim)))
