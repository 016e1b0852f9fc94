"""The recursive form of `acu`: the inverse and the head, without sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks

_BLOCK = 256  # Rows of a Woodbury update: [k, k] is factorised.


class AcuRecursiveState(NamedTuple):
  """The recursive form: no sums, but what is solved for.

  Attributes:
    inverse: (Z'Z + l2 I)^-1, [D, D].
    kernel: the head [D, C].
    class_weight: as `AcuState`, floats [1, C].
  """

  inverse: jax.Array
  kernel: jax.Array
  class_weight: jax.Array


def woodbury(
  state: AcuRecursiveState, rows: tuple[jax.Array, ...], sign: int
) -> AcuRecursiveState:
  """Adds (sign 1) or removes (-1) rows, a block of them at a time.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import acu_recursive
    >>> one, zero = jnp.ones((1, 1)), jnp.zeros((1, 1))
    >>> state = acu_recursive.AcuRecursiveState(one, zero, zero)  # l2 = 1.
    >>> state = acu_recursive.woodbury(state, (one, one, one[0]), 1)
    >>> round(state.inverse.item(), 3), round(state.kernel.item(), 3)
    (0.5, 0.5)
    >>> state = acu_recursive.woodbury(state, (one, one, one[0]), -1)
    >>> round(state.inverse.item(), 3), abs(round(state.kernel.item(), 3))
    (1.0, 0.0)
  """
  highest = jax.lax.Precision.HIGHEST
  times = lambda a, b: jnp.matmul(a, b, precision=highest)
  n = rows[2].shape[0]
  size = min(_BLOCK, max(n, 1))
  blocks = -(-n // size)

  def cut(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, blocks * size - n)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(blocks, size, *x.shape[1:])

  def body(carry: AcuRecursiveState, block: tuple[jax.Array, ...]) -> Any:
    z, y, weight = block
    root = jnp.sqrt(weight)[:, None]
    count = jnp.where(y != 0, weight[:, None], 0).sum(0)[None, :]
    z, y = z * root, y * root
    inverse, kernel = carry.inverse, carry.kernel
    across = times(inverse, z.T)  # [D, k]
    inner = jnp.eye(size, dtype=z.dtype) + sign * times(z, across)
    factor = jnp.linalg.cholesky(inner)
    half = jax.scipy.linalg.solve_triangular(factor, across.T, lower=True)
    inverse = inverse - sign * times(half.T, half)
    inverse = (inverse + inverse.T) / 2
    residual = y - times(z, kernel)
    kernel = kernel + sign * times(times(inverse, z.T), residual)
    count = carry.class_weight + sign * count
    return AcuRecursiveState(inverse, kernel, count), None

  state, _ = jax.lax.scan(body, state, tuple(map(cut, rows)))
  return finite(state)


def finite(result: Any) -> Any:
  """Outside jit, numbers that are not finite raise.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual.acu_recursive import finite
    >>> finite(jnp.linalg.cholesky(-jnp.eye(2)))
    Traceback (most recent call last):
      ...
    ValueError: Expected a positive definite matrix, got one that is not in
    float32; raise l2, use float64, or form='exact'.
  """
  for leaf in jax.tree.leaves(result):
    is_known = checks.is_concrete(leaf)
    is_float = jnp.issubdtype(leaf.dtype, jnp.inexact)
    if is_known and is_float and not bool(jnp.isfinite(leaf).all()):
      raise ValueError(
        "Expected a positive definite matrix, got one that is not in "
        f"{leaf.dtype}; raise l2, use float64, or form='exact'."
      )
  return result
