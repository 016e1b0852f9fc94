"""Errors of the caller: one line that says what was found and what was wanted.

Shapes and dtypes are checked always (they are static under jit), numbers only
where they are concrete. Everything raises ValueError.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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


@_at_once
def positive(**named: Any) -> None:
  for name, value in named.items():
    if is_concrete(value) and not value > 0:
      raise ValueError(f"Expected {name} > 0, got {name}={value}.")


@_at_once
def non_negative(**named: Any) -> None:
  for name, value in named.items():
    if is_concrete(value) and not value >= 0:
      raise ValueError(f"Expected {name} >= 0, got {name}={value}.")


@_at_once
def fraction(**named: Any) -> None:
  for name, value in named.items():
    if is_concrete(value) and not 0 <= value <= 1:
      raise ValueError(f"Expected {name} in [0, 1], got {name}={value}.")


def one_of(choices: Sequence[Any], **named: Any) -> None:
  for name, value in named.items():
    if value not in choices:
      wanted = ", ".join(map(repr, choices))
      raise ValueError(f"Expected {name} to be one of {wanted}, got {value!r}.")


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
  shape, dtype = np.shape(forget_mask), jnp.asarray(forget_mask).dtype
  if shape != (n,):
    raise ValueError(
      f"Expected {name} of shape ({n},), a row of data each, got {shape}."
    )
  if dtype != jnp.bool_ and not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"Expected {name} of dtype bool (or float weights), got {dtype}."
    )


def hard_request(forget_mask: Any, name: str = "forget_mask") -> None:
  """A request that is bool: for methods in which a row goes or stays."""
  dtype = jnp.asarray(forget_mask).dtype
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
    leaf = jnp.asarray(leaf)  # Counted where it lies, on the device.
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      continue
    bad = int((~jnp.isfinite(leaf)).sum())
    if bad:
      raise ValueError(
        f"Expected {name}{jax.tree_util.keystr(path)} to be finite, got {bad} "
        "values that are nan or infinite."
      )


def labels(values: Any, num_classes: int | None = None, name: str = "label", *, length: int | None = None) -> None:
  """Integer labels in 0 .. num_classes - 1."""
  values = values if hasattr(values, "dtype") else np.asarray(values)
  if length is not None and np.shape(values) != (length,):
    raise ValueError(f"Expected {name} of shape ({length},), got {np.shape(values)}.")
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise ValueError(f"Expected {name} of integer dtype, got {values.dtype}.")
  if num_classes is None or not is_concrete(values) or values.size == 0:
    return
  values = np.asarray(values)
  low, high = int(values.min()), int(values.max())
  if low < 0 or high >= num_classes:
    raise ValueError(
      f"Expected {name} in 0 .. {num_classes - 1}, got {low} .. {high}."
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


def weight_mask(mask: Any, params: Any) -> None:
  """A mask is a prefix of `params` whose entries broadcast to theirs."""

  def fits(path: Any, entry: Any, subtree: Any) -> None:
    shape = np.shape(entry)
    for leaf in jax.tree.leaves(subtree):
      wanted = np.shape(leaf)
      if len(shape) > len(wanted) or any(
        a not in (1, b) for a, b in zip(shape[::-1], wanted[::-1])
      ):
        raise ValueError(
          f"Expected weight_mask{jax.tree_util.keystr(path)} of shape {wanted} "
          f"or (), got {shape}."
        )

  structure: Any = jax.tree_util.tree_structure(mask)
  try:
    rest = structure.flatten_up_to(params)
  except ValueError as error:
    raise ValueError(
      f"Expected weight_mask to be a prefix of the params, got another tree: "
      f"{str(error).splitlines()[0]}"
    ) from error
  entries = jax.tree_util.tree_leaves_with_path(mask)
  for (path, entry), subtree in zip(entries, rest):
    fits(path, entry, subtree)


# Errors of the caller that would otherwise surface as somebody else's.


def optimizer(value: Any, name: str = "optimizer") -> None:
  """An optax transformation, with `init` and `update`."""
  if not (
    callable(getattr(value, "init", None))
    and callable(getattr(value, "update", None))
  ):
    raise ValueError(
      f"Expected {name} to be an optax optimiser such as optax.adam(1e-3), got "
      f"{value!r}."
    )


def count(least: int, **named: Any) -> None:
  """Whole numbers of at least `least`."""
  for name, value in named.items():
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(
      value, (bool, np.bool_)
    )
    if not is_whole or value < least:
      raise ValueError(
        f"Expected {name} to be a whole number >= {least}, got {name}="
        f"{value!r}."
      )


def typed_key(key: Any, name: str = "key") -> None:
  """One typed PRNG key."""
  dtype = getattr(key, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
    found = type(key).__name__ if dtype is None else f"an array of {dtype}"
    raise ValueError(
      f"Expected {name} to be a typed PRNG key, jax.random.key(seed), got "
      f"{found}."
    )


def transforms(links: Any) -> None:
  """Links are transforms."""
  for link in links:
    if not (hasattr(link, "run") and hasattr(link, "expand")):
      raise ValueError(
        f"Expected a Transform, got {type(link).__name__}; chain(a, b) takes "
        "transforms one by one."
      )


def columns(data: Any, *names: str) -> None:
  """Data is a dict with these columns."""
  found = sorted(data) if isinstance(data, dict) else type(data).__name__
  missing = [n for n in names if not isinstance(data, dict) or n not in data]
  if missing:
    raise ValueError(f"Expected data with {missing}, got {found}.")


def weights(values: Any, name: str = "weights") -> None:
  """Concrete weights of rows are in [0, 1], and some row has one."""
  if not is_concrete(values):
    return
  found = np.asarray(values)
  if not ((found >= 0) & (found <= 1)).all():  # Also catches nan.
    raise ValueError(f"Expected {name} in [0, 1], got values outside.")
  if not found.any():
    raise ValueError(f"Expected {name} to select rows, got none.")
