"""Request builders: what must be forgotten, as a mask over the rows.

Every builder returns bool [N], True = forget. A mask has one shape whatever it
selects, so one compiled program serves every request, and a stack of masks
[R, N] is a batch of requests for `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks


def classes(labels: jax.Array, forget: Sequence[int] | jax.Array) -> jax.Array:
  """Requests whole classes.

  Args:
    labels: int [N].
    forget: the classes; may be traced.

  Returns:
    bool [N].

  Raises:
    ValueError: labels are not integers, or (concrete values) a class has no
      row.

  Example:
    >>> import jax.numpy as jnp
    >>> classes(jnp.array([0, 3, 1, 3]), [3]).tolist()
    [False, True, False, True]
  """
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"Expected labels of integer dtype, got {labels.dtype}.")
  wanted = jnp.atleast_1d(jnp.asarray(forget))
  if not jnp.issubdtype(wanted.dtype, jnp.integer):
    raise ValueError(f"Expected classes to be integers, got {forget!r}.")
  if checks.is_concrete(labels) and checks.is_concrete(wanted):
    known = np.unique(np.asarray(labels))
    for c in np.asarray(wanted):
      if c not in known:
        found = f"{known[0]} .. {known[-1]}" if known.size else "none"
        raise ValueError(f"Expected a class that has rows ({found}), got {c}.")
  return (labels[:, None] == wanted[None, :]).any(axis=1)


def each_class(labels: jax.Array, num_classes: int) -> jax.Array:
  """One request per class, stacked: bool [num_classes, N]."""
  checks.positive(num_classes=num_classes)
  return jnp.arange(num_classes)[:, None] == jnp.asarray(labels)[None, :]


def indices(num_rows: int, rows: Sequence[int] | jax.Array) -> jax.Array:
  """Requests rows by number; -1 is padding and selects nothing.

  Args:
    num_rows: N.
    rows: int [K], each in -1 .. N - 1; duplicates count once; may be traced.

  Raises:
    ValueError: (concrete values) a row number outside that range.
  """
  rows = jnp.atleast_1d(jnp.asarray(rows))
  if rows.size == 0:
    return jnp.zeros(num_rows, bool)
  if not jnp.issubdtype(rows.dtype, jnp.integer):
    raise ValueError(f"Expected row numbers to be integers, got {rows.dtype}.")
  if checks.is_concrete(rows):
    low, high = int(rows.min()), int(rows.max())
    if low < -1 or high >= num_rows:
      bad = low if low < -1 else high
      raise ValueError(
        f"Expected row numbers in 0 .. {num_rows - 1}, got {bad}."
      )
  slots = jnp.where(rows < 0, num_rows, rows)
  return jnp.zeros(num_rows, bool).at[slots].set(True, mode="drop")


def predicate(data: Any, condition: Callable[[Any], jax.Array]) -> jax.Array:
  """Requests the rows for which `condition(row)` holds (vmapped over rows)."""
  mask = jax.vmap(condition)(data)
  if mask.shape != (checks.num_rows(data),) or mask.dtype != jnp.bool_:
    raise ValueError(
      "Expected condition to return one bool a row, got "
      f"shape {mask.shape[1:]} of dtype {mask.dtype}."
    )
  return mask


def value_range(
  values: jax.Array,
  low: float | jax.Array | None = None,
  high: float | jax.Array | None = None,
) -> jax.Array:
  """Requests the rows whose value lies in a range, its ends included.

  Of the target, a time or any other number: the request of regression.

  Args:
    values: numbers [N]; nan is in no range. As a NumPy array they keep all
      their digits, as a time has, unless something is traced.
    low: the lower end, or None for no end; may be traced.
    high: the upper end, likewise.

  Returns:
    bool [N].

  Raises:
    ValueError: values that are no vector of numbers; no end at all; (concrete
      values) low > high, or a range without a row.

  Example:
    >>> import jax.numpy as jnp
    >>> value_range(jnp.array([0.5, 2.0, 3.0]), high=2.0).tolist()
    [True, True, False]
  """
  ends = [end for end in (low, high) if end is not None]
  is_concrete = all(map(checks.is_concrete, [values, *ends]))
  # On the host, where 64 bits stay 64 bits.
  xp: Any = np if is_concrete else jnp
  values = xp.asarray(values)
  if values.ndim != 1 or not jnp.issubdtype(values.dtype, jnp.number):
    raise ValueError(
      f"Expected values [N] that are numbers, got shape {values.shape} of "
      f"{values.dtype}."
    )
  if not ends:
    raise ValueError("Expected low or high or both, got neither.")
  # An end that is a value stays one when it is rounded as the values are.
  is_float = jnp.issubdtype(values.dtype, jnp.floating)
  rounded = lambda end: xp.asarray(end, values.dtype) if is_float else end
  known = ~xp.isnan(values)
  mask = known
  if low is not None:
    mask = mask & (values >= rounded(low))
  if high is not None:
    mask = mask & (values <= rounded(high))
  if is_concrete:
    if len(ends) == 2 and not np.asarray(low) <= np.asarray(high):
      raise ValueError(f"Expected low <= high, got low={low}, high={high}.")
    if not mask.any():
      some = values[known]
      found = f"{some.min():g} .. {some.max():g}" if some.size else "none"
      raise ValueError(
        f"Expected a range that has rows (values {found}), got "
        f"low={low}, high={high}."
      )
  return jnp.asarray(mask)


def random_fraction(
  key: jax.Array, num_rows: int, fraction: float | jax.Array
) -> jax.Array:
  """Requests `round(fraction * N)` rows chosen uniformly; fraction may be traced.

  Raises:
    ValueError: fraction outside [0, 1].
  """
  checks.fraction(fraction=fraction)
  count = jnp.round(fraction * num_rows).astype(jnp.int32)
  return jax.random.permutation(key, num_rows) < count


def groups(column: Any, values: Sequence[Any] | Any) -> jax.Array:
  """Requests every row whose entry in `column` is one of `values`.

  Args:
    column: array or sequence [N] on the host, of numbers or of strings.
    values: one value or several.

  Raises:
    ValueError: a value that no row has, with the values that exist.
  """
  column = np.asarray(column)
  single = isinstance(values, str) or np.ndim(values) == 0
  wanted = [values] if single else list(values)
  for value in wanted:
    if not (column == value).any():
      known = ", ".join(map(repr, np.unique(column)[:10].tolist()))
      raise ValueError(f"Expected a group among {known}, got {value!r}.")
  return jnp.asarray(np.isin(column, np.asarray(wanted)))
