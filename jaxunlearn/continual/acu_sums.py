"""Sums of products that rows join and leave without a trace, in float32 too.

A float sum forgets its rows up to rounding only: (a + b) - b is not a, and what
stays behind is divided by the ridge. Integers have no rounding. So a number is
put on a grid of fixed step (24 bits for float32, 54 for float64), cut into three
limbs of few bits, and the products of limbs are added up by ordinary matrix
products of floats, which are exact as long as every partial sum fits the
significand; the sums of a chunk of rows then go to an integer of two machine
words. Addition of such integers is associative and undone by subtraction, bit
for bit, whatever the order of rows and the cut into blocks; even one that has
overflowed comes back when rows leave.

Limbs of b bits with products of 2b - 2 bits and chunks of 2^10 rows: b = 8 in
float32 (2b - 2 + 10 = 24) and b = 18 in float64 (44 of 53).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_CHUNK = 1024  # Rows of which limb products add up exactly.
_LIMBS = 3


class ExactSum(NamedTuple):
  """An integer of two words, two's complement, in units of 2^-(6 b - 2).

  Attributes:
    high: uint32 or uint64 [...].
    low: the same.
  """

  high: jax.Array
  low: jax.Array


def _limb_bits(dtype: Any) -> int:
  return 18 if jnp.dtype(dtype).itemsize == 8 else 8


def _words(dtype: Any) -> tuple[Any, Any, int]:
  """Unsigned and signed word, and their bits, that go with a float dtype."""
  if jnp.dtype(dtype).itemsize == 8:
    return jnp.uint64, jnp.int64, 64
  return jnp.uint32, jnp.int32, 32


def capacity(dtype: Any) -> int:
  """How many rows at the end of the scale a sum can hold, at least.

  Example:
    >>> from jaxunlearn.continual import acu_sums
    >>> acu_sums.capacity("float32"), acu_sums.capacity("float64")
    (131071, 2097151)
  """
  return 2 ** (2 * _words(dtype)[2] - 1 - (6 * _limb_bits(dtype) - 2)) - 1


def zeros(shape: tuple[int, ...], dtype: Any) -> ExactSum:
  """The sum of no rows, for floats of a dtype.

  Example:
    >>> from jaxunlearn.continual import acu_sums
    >>> total = acu_sums.zeros((2,), "float32")
    >>> total.high.tolist(), total.low.dtype.name
    ([0, 0], 'uint32')
  """
  word = _words(dtype)[0]
  return ExactSum(jnp.zeros(shape, word), jnp.zeros(shape, word))


def add(a: ExactSum, b: ExactSum) -> ExactSum:
  low = a.low + b.low
  carry = (low < a.low).astype(low.dtype)
  return ExactSum(a.high + b.high + carry, low)


def negative(a: ExactSum) -> ExactSum:
  low = ~a.low + jnp.ones((), a.low.dtype)
  carry = (low == 0).astype(low.dtype)
  return ExactSum(~a.high + carry, low)


def products(left: jax.Array, right: jax.Array | None = None) -> ExactSum:
  """The sum over rows of left[n, i] * right[n, j], exactly, on the grid.

  Args:
    left: float32 or float64 [N, D], in [-1, 1]; what lies outside is cut.
    right: the same [N, C]; None is `left`, at two thirds of the cost.

  Returns:
    The sum, [D, C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import acu_sums
    >>> total = acu_sums.products(jnp.array([[0.5, 1.0], [0.5, -1.0]]))
    >>> acu_sums.value(total, "float32").tolist()
    [[0.5, 0.0], [0.0, 2.0]]
  """
  n, dtype = left.shape[0], left.dtype
  width = left.shape[1] if right is None else right.shape[1]
  size = min(_CHUNK, max(n, 1))
  chunks = -(-n // size)

  def cut(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, ((0, chunks * size - n), (0, 0)))
    return x.reshape(chunks, size, x.shape[1])

  def body(total: ExactSum, rows: tuple[jax.Array, ...]) -> tuple[Any, None]:
    limbs = [_split(x) for x in rows]
    return add(total, _chunk(limbs[0], limbs[-1], len(rows) == 1)), None

  rows = (cut(left),) if right is None else (cut(left), cut(right))
  total, _ = jax.lax.scan(body, zeros((left.shape[1], width), dtype), rows)
  return total


def value(total: ExactSum, dtype: Any) -> jax.Array:
  """The sum as floats, to about one unit in the last place.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual import acu_sums
    >>> total = acu_sums.products(jnp.array([[0.25], [0.5]]))
    >>> acu_sums.value(total, "float32").tolist()  # 1/16 and 1/4.
    [[0.3125]]
  """
  word, signed, bits = _words(dtype)
  is_negative = jax.lax.bitcast_convert_type(total.high, signed) < 0
  opposite = negative(total)
  pick = lambda a, b: jnp.where(is_negative, a, b)
  magnitude = jax.tree.map(pick, opposite, total)
  half = bits // 2
  lower = jnp.asarray(2**half - 1, word)
  unit = -(6 * _limb_bits(dtype) - 2)
  # Halves of words fit a significand; from the smallest to the largest.
  result = jnp.zeros((), dtype)
  for place, part in enumerate((magnitude.low, magnitude.high)):
    for offset, piece in enumerate((part & lower, part >> half)):
      power = unit + bits * place + half * offset
      result = result + piece.astype(dtype) * 2.0**power
  return jnp.where(is_negative, -result, result)


def _split(x: jax.Array) -> list[jax.Array]:
  """Integers l0, l1, l2 as floats: x = l0 2^(1-b) + l1 2^(1-2b) + l2 2^(1-3b).

  Each is at most 2^(b-1) in size; differences and scalings are exact.
  """
  b = _limb_bits(x.dtype)
  rest = jnp.clip(x, -1, 1) * 2.0 ** (b - 1)
  limbs = []
  for _ in range(_LIMBS):
    limbs.append(jnp.round(rest))
    rest = (rest - limbs[-1]) * 2.0**b
  return limbs


def _chunk(
  left: list[jax.Array], right: list[jax.Array], is_square: bool
) -> ExactSum:
  """The sum of one chunk from its limbs."""
  dtype = left[0].dtype
  b = _limb_bits(dtype)
  _, signed, bits = _words(dtype)

  def times(i: int, j: int) -> jax.Array:
    exact = jnp.matmul(left[i].T, right[j], precision=jax.lax.Precision.HIGHEST)
    return exact.astype(signed)

  total = zeros((left[0].shape[1], right[0].shape[1]), dtype)
  for order in range(2 * _LIMBS - 1):
    pairs = [(i, order - i) for i in range(_LIMBS) if 0 <= order - i < _LIMBS]
    if is_square:
      lower = [times(i, j) for i, j in pairs if i < j]
      terms = [t for p in lower for t in (p, p.T)]
      terms += [times(i, j) for i, j in pairs if i == j]
    else:
      terms = [times(i, j) for i, j in pairs]
    summed = terms[0]
    for term in terms[1:]:
      summed = summed + term
    total = add(total, _shifted(summed, b * (2 * _LIMBS - 2 - order), bits))
  return total


def _shifted(x: jax.Array, shift: int, bits: int) -> ExactSum:
  """A signed word times 2^shift, as two words."""
  word = jnp.uint64 if bits == 64 else jnp.uint32
  cast = lambda v: jax.lax.bitcast_convert_type(v, word)
  if shift >= bits:
    high = jnp.left_shift(x, shift - bits)
    return ExactSum(cast(high), jnp.zeros(x.shape, word))
  # A shift by all bits is undefined; the sign fills the upper word.
  high = jnp.right_shift(x, min(bits - shift, bits - 1))
  return ExactSum(cast(high), cast(jnp.left_shift(x, shift)))
