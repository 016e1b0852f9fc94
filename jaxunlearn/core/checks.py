"""Errors of the caller: one line that says what was found and what was wanted.

Shapes and dtypes are checked always (they are static under jit), numbers only
where they are concrete. Everything raises ValueError.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.kinds import dtype_of as dtype_of
from jaxunlearn.core.kinds import no_numbers


def is_concrete(x: Any) -> bool:
  """Whether the numbers of `x` can be looked at (not under jit or vmap)."""
  return not isinstance(x, jax.core.Tracer)


def _at_once(check: Callable[..., None]) -> Callable[..., None]:
  """Looks at numbers now, even under `jit`, which traces what it closes over."""

  @functools.wraps(check)
  def wrapped(*args: Any, **kwargs: Any) -> None:
    with jax.ensure_compile_time_eval():
      check(*args, **kwargs)

  return wrapped


def positive(**named: Any) -> None:
  _in_range("> 0", lambda value: value > 0, named)


def non_negative(**named: Any) -> None:
  _in_range(">= 0", lambda value: value >= 0, named)


def fraction(**named: Any) -> None:
  _in_range("in [0, 1]", lambda value: 0 <= value <= 1, named)


@_at_once
def _in_range(
  wanted: str, test: Callable[[Any], Any], named: Mapping[str, Any]
) -> None:
  for name, value in named.items():
    try:
      holds = not is_concrete(value) or bool(test(value))
    except TypeError:  # A text, None, or a list.
      holds = False
    if not holds:
      raise ValueError(f"Expected {name} {wanted}, got {name}={_shown(value)}.")


def count(least: int = 1, /, **named: Any) -> None:
  """Whole numbers >= `least`, of Python or NumPy; no bool, no 2.0, no tracer."""
  for name, value in named.items():
    if not (_is_whole(value) and operator.index(value) >= least):
      raise ValueError(
        f"Expected {name} to be a whole number >= {least}, got "
        f"{name}={_shown(value)}."
      )


def counts(**named: Any) -> None:
  """Whole numbers > 0, as `count` has them."""
  positive(**named)
  count(**named)


def _is_whole(value: Any) -> bool:
  if not is_concrete(value) or np.ndim(value) or isinstance(value, bool):
    return False
  return isinstance(value, int) or (
    hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.integer)
  )


def _shown(value: Any) -> str:
  """A value in a few words: texts in quotes, long things by type and name."""
  text = repr(value) if isinstance(value, str) else str(value)
  if len(text) <= 40 and not callable(value) and "\n" not in text:
    return text
  return f"{type(value).__name__} {getattr(value, '__name__', '')}".strip()


def one_of(choices: Sequence[Any], **named: Any) -> None:
  for name, value in named.items():
    if value not in choices:
      wanted = ", ".join(map(repr, choices))
      raise ValueError(f"Expected {name} to be one of {wanted}, got {value!r}.")


def typed_key(key: Any, name: str = "key", shape: tuple[int, ...] = ()) -> None:
  """A typed PRNG key, or an array of them: no seed, no raw uint32 words."""
  is_typed = isinstance(key, jax.Array) and jnp.issubdtype(
    key.dtype, jax.dtypes.prng_key
  )
  if not is_typed:
    found = (
      f"{key.dtype} of shape {np.shape(key)}"
      if hasattr(key, "dtype")
      else _shown(key)
    )
    raise ValueError(
      f"Expected {name} to be a typed PRNG key, jax.random.key(seed), got "
      f"{found}."
    )
  if key.shape != shape:
    raise ValueError(
      f"Expected {name} to be PRNG keys of shape {shape}, got {key.shape}."
    )


def optimizer(opt: Any, name: str = "optimizer") -> None:
  """An optax transformation; neither its name nor the function that makes it."""
  if not _has_functions(opt, "init", "update"):
    raise ValueError(
      f"Expected {name} to be an optax optimizer, such as optax.adam(1e-3), "
      f"got {_shown(opt)}."
    )


def functions(**named: Any) -> None:
  """What is to be called can be."""
  for name, value in named.items():
    if not callable(value):
      raise ValueError(
        f"Expected {name} to be a function, got {shown_type(value)}."
      )


def model(x: Any, name: str = "model") -> None:
  """A `Model`, or what has its functions; no Flax module."""
  # A linen module has functions of the same names, and other arguments.
  is_flax = any(c.__module__.startswith("flax.") for c in type(x).__mro__)
  if is_flax or not _has_functions(x, "init", "apply", "loss"):
    raise ValueError(
      f"Expected {name} to be a Model, as jaxunlearn.adapters.flax.from_module "
      f"makes one of a Flax module, got {shown_type(x)}."
    )


def transforms(links: Sequence[Any]) -> None:
  """Each is a made transform: no list of them, no factory left uncalled."""
  for link in links:
    if isinstance(link, type) or not _has_functions(link, "run", "expand"):
      raise ValueError(
        f"Expected a Transform, got {shown_type(link)}; a method is called "
        "with its settings first, and chain(a, b) takes links one by one."
      )


def columns(data: Any, *names: str) -> None:
  """Data is a dict that has these columns, whatever else it has."""
  wanted = " and ".join(map(repr, names))
  if not isinstance(data, Mapping):
    raise ValueError(
      f"Expected data to be a dict with {wanted}, got {shown_type(data)}."
    )
  if any(data.get(column) is None for column in names):
    found = ", ".join(map(repr, data)) or "nothing"
    raise ValueError(f"Expected data to have {wanted}, got {found}.")


def numbers(**named: Any) -> None:
  """Arrays of numbers or truth values, or what JAX makes such of."""
  for name, value in named.items():
    found = no_numbers(value)
    if found:
      raise ValueError(f"Expected {name} to be an array, got {found}.")


def _has_functions(x: Any, *names: str) -> bool:
  return all(callable(getattr(x, name, None)) for name in names)


def shown_type(x: Any) -> str:
  named = isinstance(x, str | type) or hasattr(x, "__name__")
  return _shown(x) if named else type(x).__name__


def num_rows(data: Any, name: str = "data") -> int:
  """Length of the leading axis that all leaves of `data` share.

  Raises:
    ValueError: no leaves, a scalar leaf, or leaves of different lengths.
  """
  leaves = jax.tree_util.tree_leaves_with_path(data)
  if not leaves:
    raise ValueError(f"Expected {name} to hold arrays, got an empty pytree.")
  lengths = {}
  for path, leaf in leaves:
    where = f"{name}{jax.tree_util.keystr(path)}"
    if np.ndim(leaf) == 0:
      raise ValueError(f"Expected {where} to have a row axis, got a scalar.")
    lengths[where] = np.shape(leaf)[0]
  if len(set(lengths.values())) > 1:
    found = ", ".join(f"{k}: {v}" for k, v in lengths.items())
    raise ValueError(f"Expected leaves of {name} of one length, got {found}.")
  return next(iter(lengths.values()))


def request(data: Any, forget_mask: Any, name: str = "forget_mask") -> None:
  """Shape and dtype of a request: bool [N] or float [N], N the rows of data."""
  n = num_rows(data)
  if isinstance(forget_mask, str | list | tuple):
    numbers(**{name: forget_mask})
  shape, dtype = np.shape(forget_mask), dtype_of(forget_mask)
  if shape != (n,):
    raise ValueError(
      f"Expected {name} of shape ({n},), a row of data each, got "
      f"{shape or _shown(forget_mask)}."
    )
  if dtype != jnp.bool_ and not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"Expected {name} of dtype bool (or float weights), got {dtype}."
    )


def hard_request(forget_mask: Any, name: str = "forget_mask") -> None:
  """A request that is bool: for methods in which a row goes or stays."""
  dtype = dtype_of(forget_mask)
  if dtype != jnp.bool_:
    raise ValueError(
      f"Expected {name} of dtype bool for this method, got {dtype}; soft "
      "requests are for phases that draw forget and retain rows apart."
    )


def request_values(
  forget_mask: Any, retain: Any = None, name: str = "forget_mask"
) -> None:
  """A concrete request must select some rows and leave some.

  Raises:
    ValueError: it is empty, covers everything, has weights outside [0, 1], or
      shares of a row that add up to more than 1.
  """
  if not is_concrete(forget_mask):
    return
  if retain is not None and is_concrete(retain):
    both = np.asarray(forget_mask, np.float32) + np.asarray(retain, np.float32)
    if (both > 1 + 1e-6).any():
      raise ValueError(
        f"Expected {name} and retain to share no row, got "
        f"{int((both > 1 + 1e-6).sum())} rows in both."
      )
  mask = np.asarray(forget_mask)
  if mask.dtype != np.bool_ and not (
    np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1
  ):
    raise ValueError(f"Expected {name} weights in [0, 1], got values outside.")
  if not (mask > 0).any():
    raise ValueError(
      f"Expected {name} to select rows, got an empty request (0 of "
      f"{mask.size} rows)."
    )
  if not (mask < 1).any():
    raise ValueError(
      f"Expected {name} to leave rows to retain, got a request that covers all "
      f"{mask.size} rows."
    )


def finite_rows(data: Any, seen: Any, name: str = "data") -> None:
  """Every concrete float leaf is finite in the rows that may be seen."""
  if not is_concrete(seen):
    return
  rows = np.flatnonzero(np.asarray(seen))
  everything = rows.size == np.shape(seen)[0]
  finite(data if everything else jax.tree.map(lambda x: x[rows], data), name)


@_at_once
def finite(tree: Any, name: str) -> None:
  """Every concrete float leaf is finite."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    if not is_concrete(leaf):
      continue
    if not jnp.issubdtype(dtype_of(leaf), jnp.inexact):
      continue
    bad = int((~_isfinite(leaf)).sum())
    if bad:
      raise ValueError(
        f"Expected {name}{jax.tree_util.keystr(path)} to be finite, got {bad} "
        "values that are nan or infinite."
      )


def _isfinite(leaf: Any) -> Any:
  """Where it lies; on the host by NumPy, which compiles nothing for a new shape."""
  on_device = isinstance(leaf, jax.Array) and not (
    jax.default_backend() == "cpu" and leaf.is_fully_addressable
  )
  if on_device:
    return jnp.isfinite(leaf)
  values = np.asarray(leaf)
  with np.errstate(over="ignore"):  # What float32 does not hold is infinite.
    values = values.astype(jax.dtypes.canonicalize_dtype(values.dtype))
  return np.isfinite(values)


def labels(
  values: Any,
  num_classes: int | None = None,
  name: str = "label",
  *,
  length: int | None = None,
) -> None:
  """Integer labels in 0 .. num_classes - 1.

  Args:
    values: integers; of NumPy they are judged with all their 64 bits.
    num_classes: None does not look at the values.
    name: what the message calls them.
    length: N where they must be [N], one per row; labels [N, 1] would
      broadcast against a mask [N]. Static, so it holds under `jit` too.
  """
  numbers(**{name: values})
  values = values if hasattr(values, "dtype") else np.asarray(values)
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise ValueError(f"Expected {name} of integer dtype, got {values.dtype}.")
  if length is not None and np.shape(values) != (length,):
    raise ValueError(
      f"Expected {name} of shape ({length},), one integer per row, got "
      f"{np.shape(values)}."
    )
  if num_classes is None or not is_concrete(values) or values.size == 0:
    return
  values = np.asarray(values)
  low, high = int(values.min()), int(values.max())
  if low < 0 or high >= num_classes:
    raise ValueError(
      f"Expected {name} in 0 .. {num_classes - 1}, got {low} .. {high}."
    )


@_at_once
def weights(
  values: Any, name: str = "weights", *, length: int | None = None
) -> None:
  """Which rows to train on: bool, or floats in [0, 1]; some row counts.

  Args:
    values: [N].
    name: what the message calls them.
    length: N where it must be this one.

  Raises:
    ValueError: another shape or dtype; (concrete values) one that is nan or
      outside [0, 1], or no row above 0.
  """
  numbers(**{name: values})
  shape, dtype = np.shape(values), dtype_of(values)
  if len(shape) != 1 or (length is not None and shape != (length,)):
    wanted = "[N]" if length is None else f"({length},)"
    raise ValueError(f"Expected {name} of shape {wanted}, got {shape}.")
  if dtype != jnp.bool_ and not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"Expected {name} of dtype bool (or float weights), got {dtype}."
    )
  if not is_concrete(values):
    return
  values = np.asarray(values)
  if not ((values >= 0) & (values <= 1)).all():  # Also catches nan.
    raise ValueError(f"Expected {name} in [0, 1], got values outside.")
  if not (values > 0).any():
    raise ValueError(
      f"Expected {name} to select rows, got none of {values.size}."
    )


def same_structure(tree: Any, like: Any, name: str) -> None:
  """`tree` has the leaves of `like`: same paths, same shapes."""

  def describe(t: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(t)
    return {jax.tree_util.keystr(p): np.shape(leaf) for p, leaf in leaves}

  found, wanted = describe(tree), describe(like)
  for path in [*wanted, *(p for p in found if p not in wanted)]:
    got = found.get(path, "nothing")
    want = wanted.get(path, "nothing")
    if got != want:
      raise ValueError(f"Expected {name}{path} of shape {want}, got {got}.")
