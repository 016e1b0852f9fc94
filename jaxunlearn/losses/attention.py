"""Losses that compare where two networks look: attention maps of activations.

Source: Zagoruyko and Komodakis (2017), arXiv:1612.03928, as zero-shot
unlearning (arXiv:2201.05629) and deep regression unlearning (arXiv:2210.08196)
use it. A map is the mean over channels of the squared activation, of unit
length for each example.

Differences from the released code: channels come last; and vectors, which that
code averages to the single number 1, keep a position for each unit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays

_FLOOR = 1e-12  # Of a map's length, so that an inactive layer gives a map of 0.


def attention_map(activations: jax.Array) -> jax.Array:
  """mean_c(A^2) / ||mean_c(A^2)||_2 of each example, flattened.

  Does not change when an example's activations are multiplied by a number.

  Args:
    activations: float [B, ..., channels], at least one axis between; or [B, D],
      where each unit is a position of its own.

  Returns:
    [B, P] for P positions, >= 0, rows of length 1 (of 0s for an example that is
    0 everywhere), in at least float32.

  Raises:
    ValueError: fewer than two axes.

  Example:
    >>> attention_map(jnp.array([[[0.0, 0.0], [5.0, -5.0]], [[2.0, 0.0]] * 2]))
    Array([[0.        , 1.        ],
           [0.70710677, 0.70710677]], dtype=float32)
  """
  activations = arrays("activations [B, ..., D]", activations)
  dtype = jnp.promote_types(jnp.float32, activations.dtype)
  energy = jnp.square(activations.astype(dtype))
  if energy.ndim > 2:
    energy = energy.mean(axis=-1)
  energy = energy.reshape(energy.shape[0], -1)
  return energy / optax.safe_norm(energy, _FLOOR, axis=1, keepdims=True)


def attention_difference(
  attention: jax.Array, other: jax.Array, *, norm: str = "squared"
) -> jax.Array:
  """How far two attention maps of each example are apart.

  Args:
    attention: float [B, P], from `attention_map`.
    other: float [B, P].
    norm: "squared", the mean over positions of the squared difference, as
      released; in [0, 2 / P]. "plain", the length of the difference, as the
      paper writes it; in [0, sqrt(2)], with gradient 0 at 0.

  Returns:
    [B], in at least float32.

  Raises:
    ValueError: shapes differ, as for layers of other sizes; unknown norm.

  Example:
    >>> maps = jnp.eye(2)
    >>> attention_difference(maps, maps[::-1])
    Array([1., 1.], dtype=float32)
  """
  checks.one_of(("squared", "plain"), norm=norm)
  attention, other = arrays(
    "attention [B, P] and other [B, P]", attention, other
  )
  dtype = jnp.promote_types(attention.dtype, other.dtype)
  dtype = jnp.promote_types(jnp.float32, dtype)
  gap = attention.astype(dtype) - other.astype(dtype)
  if norm == "squared":
    return jnp.square(gap).mean(axis=1)
  return optax.safe_norm(gap, 0.0, axis=1)
