"""What the caller hands in, a model and its data, before JAX takes it over."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.integers import narrowed


def path(
  value: Any, name: str = "directory", *, is_missing_below_files: bool = False
) -> pathlib.Path:
  """A path of this machine, absolute and with `~` resolved.

  Args:
    value: as it was given.
    name: what an error calls it.
    is_missing_below_files: whether a path below a file is one that is not there
      yet, and no error.

  Raises:
    ValueError: none, an empty one, which would name the working folder, or one
      that cannot exist.
  """
  if not isinstance(value, str | os.PathLike) or not str(value).strip():
    raise ValueError(f"Expected {name} to be a path, got {value!r}.")
  try:
    found = pathlib.Path(value).expanduser().absolute()
    allowed = (NotADirectoryError,) if is_missing_below_files else ()
    with contextlib.suppress(FileNotFoundError, *allowed):
      found.lstat()
  except (OSError, RuntimeError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise ValueError(
      f"Expected {name} to be a path that can exist here, got "
      f"{str(value)[:60]!r} ({reason})."
    ) from error
  return found


def rows(tree: Any, name: str = "data") -> None:
  """Numbers, none of which loses digits when JAX narrows it.

  Raises:
    ValueError: texts, times, Python objects; an integer beyond 32 bits.
  """
  numbers(tree, name)
  narrowed(tree, name)


def numbers(tree: Any, name: str = "data") -> None:
  """Arrays of numbers or truth values."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    dtype = checks.dtype_of(leaf)
    if getattr(dtype, "kind", "") in "OUSmM":
      raise ValueError(
        f"Expected {name}{jax.tree_util.keystr(path)} to be numbers, got {dtype}."
      )


@contextlib.contextmanager
def named_columns(data: Any) -> Iterator[None]:
  """Says what the data have where a function looks for "x" or "label" in vain."""
  try:
    yield
  except (KeyError, TypeError) as error:
    said = str(error.args[0]) if error.args else ""
    if isinstance(data, Mapping):
      is_missing = isinstance(error, KeyError) and said in ("x", "label")
      found = f"{', '.join(map(repr, data)) or 'nothing'}"
    else:
      is_missing = "indices must be integers" in said
      said, found = "x", type(data).__name__
    if is_missing and said not in data:
      raise ValueError(
        f"Expected data to be a dict with {said!r}, got {found}."
      ) from error
    raise


def variables(tree: Any, name: str = "variables") -> None:
  """A model: `Variables` or bare params, arrays in a pytree."""
  leaves = jax.tree.leaves(tree)
  is_bare = not hasattr(tree, "model_state")
  if (is_bare and not leaves) or not all(hasattr(x, "dtype") for x in leaves):
    raise ValueError(
      f"Expected {name} to be Variables, or params, a pytree of arrays, got "
      f"{checks.shown_type(tree)}."
    )
