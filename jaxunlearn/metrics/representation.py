"""How alike two layers of numbers are.

Source: linear centred kernel alignment, Kornblith et al. (2019),
arXiv:1905.00414; used for unlearning by the Unlearning Comparator (2025),
arXiv:2508.12730.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.metrics import _rows


def linear_cka(
  x: jax.Array, y: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Linear centred kernel alignment of two sets of activations.

  |Y'X|^2 / (|X'X| |Y'Y|), columns centred, norms of Frobenius. Blind to
  rotations and to one scale of either side. Neither direction is better by
  itself: to the retrained model, 1 is the aim.

  Args:
    x: float [N, ...], flattened to [N, D].
    y: float [N, ...], of any other width.
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    [], in [0, 1]; nan where either side is the same for all rows.

  Raises:
    ValueError: the two have not as many rows, or the weights do not fit.

  Example:
    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    >>> bool(abs(linear_cka(x, 3 * x[:, ::-1]) - 1) < 1e-6)
    True
  """
  x, y = _rows.widened(x, "x"), _rows.widened(y, "y")
  x, y = (v.reshape(len(v), -1) for v in (x, y))
  if len(x) != len(y):
    raise ValueError(f"Expected y of {len(x)} rows as x, got {len(y)}.")
  weight = _rows.weights_of(weights, x)
  x, y = (_centred(v, weight) for v in (x, y))
  # By features or by rows, whichever matrix is smaller.
  if len(x) < max(x.shape[1], y.shape[1]):
    kernel_x, kernel_y = x @ x.T, y @ y.T
    parts = jnp.vdot(kernel_x, kernel_y), kernel_x, kernel_y
  else:
    parts = jnp.square(y.T @ x).sum(), x.T @ x, y.T @ y
  cross, own_x, own_y = parts
  found = cross / (jnp.linalg.norm(own_x) * jnp.linalg.norm(own_y))
  # Rounding may end beyond 1; what is no number stays none.
  return jnp.where(found > 1, 1.0, found)


def _centred(x: jax.Array, weight: jax.Array) -> jax.Array:
  """Rows less their mean, times the roots of their weights; scaled to 1.

  A layer that says the same of every row is all zero, whatever its rounding.
  """
  share = (weight / weight.sum())[:, None]
  mean = (share * jnp.where(share > 0, x, 0)).sum(0, keepdims=True)
  rest = jnp.where(share > 0, x - mean, 0) * jnp.sqrt(share)
  size = jnp.linalg.norm(rest)
  floor = 1e-6 * jnp.linalg.norm(mean)
  return jnp.where(size > floor, rest / size, jnp.where(size <= floor, 0, size))
