"""Request builders: what must be forgotten, as a mask over the rows.

Every builder returns bool [N], True = forget. A mask has one shape whatever it
selects, so one compiled program serves every request, and a stack of masks
[R, N] is a batch of requests for `jax.vmap`.

What is concrete is compared on the host: 64-bit numbers keep their digits, and
a request of another size compiles nothing. Traced numbers are of JAX's width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, given, integers
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.worst_case import Search as Search
from jaxunlearn.core.worst_case import worst_case as worst_case


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
  labels = _column(labels, "labels")
  wanted = integers.as_given(forget, "classes").reshape(-1)
  if wanted.size == 0:
    raise ValueError("Expected at least one class, got none.")
  if not (checks.is_concrete(labels) and checks.is_concrete(wanted)):
    integers.narrowed({"labels": labels, "classes": wanted}, "request")
    labels, wanted = jnp.asarray(labels), jnp.asarray(wanted)
    return (labels[:, None] == wanted[None, :]).any(axis=1)
  known = np.unique(labels)
  absent = np.setdiff1d(wanted, known)
  if absent.size:
    found = f"{known[0]} .. {known[-1]}" if known.size else "none"
    raise ValueError(
      f"Expected a class that has rows ({found}), got {absent[0]}."
    )
  return jnp.asarray(np.isin(labels, wanted))


def each_class(labels: jax.Array, num_classes: int) -> jax.Array:
  """One request per class, stacked: bool [num_classes, N]."""
  checks.count(num_classes=num_classes)
  labels = _column(labels, "labels")
  return jnp.asarray(np.arange(num_classes)[:, None] == labels[None, :])


def indices(num_rows: int, rows: Sequence[int] | jax.Array) -> jax.Array:
  """Requests rows by number; -1 is padding and selects nothing.

  Args:
    num_rows: N.
    rows: int [K], each in -1 .. N - 1; duplicates count once; may be traced.

  Raises:
    ValueError: (concrete values) a row number outside that range; a mask, bool
      or of 0 and 1, in place of row numbers.
  """
  checks.count(num_rows=num_rows)
  numbers = integers.as_given(rows, "row numbers").reshape(-1)
  if not checks.is_concrete(numbers):
    slots = jnp.where(numbers < 0, num_rows, numbers)
    return jnp.zeros(num_rows, bool).at[slots].set(True, mode="drop")
  if numbers.size:
    low, high = int(numbers.min()), int(numbers.max())
    if low < -1 or high >= num_rows:
      bad = low if low < -1 else high
      raise ValueError(
        f"Expected row numbers in 0 .. {num_rows - 1}, got {bad}."
      )
    # As row numbers it would name two rows over and over.
    if numbers.size == num_rows > 2 and low == 0 and high <= 1:
      raise ValueError(
        f"Expected row numbers, got {num_rows} values of 0 and 1, which is a "
        "mask; as bool it is a request already."
      )
  mask = np.zeros(num_rows + 1, bool)
  mask[numbers] = True  # Padding marks the last place, which is no row's.
  return jnp.asarray(mask[:-1])


def predicate(data: Any, condition: Callable[[Any], jax.Array]) -> jax.Array:
  """Requests the rows for which `condition(row)` holds (vmapped over rows).

  Args:
    data: pytree of arrays [N, ...] of numbers. Concrete ones of 64 bits are
      compared as such, ids and times of NumPy with all their digits.
    condition: `row -> bool []`, of JAX functions.

  Raises:
    ValueError: columns that are no numbers; a condition that does not return
      one bool, or compares with a number that its column cannot hold.
  """
  checks.functions(condition=condition)
  n = checks.num_rows(data)
  for path, leaf in jax.tree_util.tree_leaves_with_path(data):
    if getattr(leaf, "dtype", np.asarray(leaf).dtype).kind in "OSUMm":
      raise ValueError(
        f"Expected data{jax.tree_util.keystr(path)} of numbers, got "
        f"{np.asarray(leaf).dtype}; `groups` selects by names."
      )
  is_wide = any(
    not isinstance(leaf, jax.Array) and np.asarray(leaf).dtype.itemsize == 8
    for leaf in jax.tree.leaves(data)
  )
  wide: Any = contextlib.nullcontext()
  if is_wide and checks.is_concrete(jnp.zeros(())):
    wide = jax.enable_x64(True)
  else:  # A program that is being traced has one width throughout.
    integers.narrowed(data, "data")
  try:
    with wide:
      mask = jax.vmap(condition)(data)
  except jax.errors.TracerBoolConversionError as error:
    raise ValueError(
      "Expected condition of JAX functions, such as & and |, got one that asks "
      "whether a row's number is true."
    ) from error
  except OverflowError as error:
    raise ValueError(
      "Expected condition to compare with numbers that the columns can hold, "
      "got a larger one."
    ) from error
  if jnp.shape(mask) != (n,) or mask.dtype != jnp.bool_:
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
  given.numbers(ends, "low and high")
  is_concrete = all(map(checks.is_concrete, [values, *ends]))
  # On the host, where 64 bits stay 64 bits.
  xp: Any = np if is_concrete else jnp
  integers.narrowed([] if is_concrete else [values, *ends], "value_range")
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
    ValueError: fraction outside [0, 1], or a key that is not typed.
  """
  checks.typed_key(key)
  checks.count(num_rows=num_rows)
  checks.fraction(fraction=fraction)
  count = jnp.round(fraction * num_rows).astype(jnp.int32)
  return jax.random.permutation(key, num_rows) < count


def identified(
  key: jax.Array, damaged: jax.Array, share: float | jax.Array
) -> jax.Array:
  """Requests a part of the damaged rows: corrective unlearning's, of which only
  some are found out.

  Args:
    key: typed PRNG key; with the same key a larger share holds a smaller one.
    damaged: bool [N], all rows that were tampered with.
    share: of them, in [0, 1]; may be traced.

  Returns:
    bool [N], round(share * damaged rows).

  Raises:
    ValueError: a share outside [0, 1], a mask that is not bool [N], or
      (concrete values) one without a row.

  Example:
    >>> damaged = jnp.array([True, False, True, False])
    >>> int(identified(jax.random.key(0), damaged, 0.5).sum())
    1
  """
  checks.typed_key(key)
  checks.fraction(share=share)
  damaged = arrays("damaged bool [N]", damaged)
  if checks.is_concrete(damaged) and not bool(damaged.any()):
    raise ValueError("Expected a damaged row, got none.")
  order = jax.random.permutation(key, damaged.shape[0])
  rank = jnp.zeros_like(order).at[order].set(jnp.cumsum(damaged[order]))
  return damaged & (rank <= jnp.round(share * damaged.sum()))


def groups(column: Any, values: Sequence[Any] | Any) -> jax.Array:
  """Requests every row whose entry in `column` is one of `values`.

  Args:
    column: array or sequence [N] on the host, of numbers or of strings.
    values: one value or several.

  Raises:
    ValueError: a value that no row has, with the values that exist.
  """
  column = np.asarray(column)
  if column.ndim != 1:
    raise ValueError(f"Expected column [N], got shape {column.shape}.")
  single = isinstance(values, str) or np.ndim(values) == 0
  if not single and not len(values):
    raise ValueError("Expected at least one value of a group, got none.")
  mask = np.zeros(column.shape, bool)
  # One by one: together, two kinds of integers would be compared as floats.
  for value in [values] if single else list(values):
    found = np.asarray(column == value)
    if not found.any():
      known = ", ".join(map(repr, np.unique(column)[:10].tolist()))
      raise ValueError(f"Expected a group among {known}, got {value!r}.")
    mask |= found
  return jnp.asarray(mask)


def nested(masks: jax.Array) -> jax.Array:
  """Requests that grow: the first, the first two, and so on.

  Args:
    masks: bool [R, N], requests that share no row, as a sequence serves them.

  Returns:
    bool [R, N]; each has the rows of the one before it, and more.

  Raises:
    ValueError: another shape or dtype; (concrete) an empty request, or a row in
      two of them.
  """
  masks = arrays("masks bool [R, N]", masks)
  if checks.is_concrete(masks):
    named = np.asarray(masks)
    if not named.any(axis=1).all():
      empty = int(np.flatnonzero(~named.any(axis=1))[0])
      raise ValueError(f"Expected masks with rows, got none in {empty}.")
    if named.sum(axis=0).max() > 1:
      row = int(named.sum(axis=0).argmax())
      raise ValueError(f"Expected masks that share no row, got {row} in two.")
  return jnp.cumsum(masks, axis=0) > 0


def _column(labels: Any, name: str) -> Any:
  """Integers [N], one per row; [N, 1] would stand against every other row."""
  n = np.shape(labels)[0] if np.ndim(labels) else 1
  labels = integers.as_given(labels, name)
  checks.labels(labels, name=name, length=n)
  return labels
