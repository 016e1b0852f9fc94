"""What arrays a function takes, in the words of its docstring, and a check of it."""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.kinds import dtype_of, no_numbers

_ARRAY = re.compile(
  r"(?P<name>.+?) (?:(?P<kind>bool|int|float) )?"
  r"(?P<axes>\[[^]]*\](?: or \[[^]]*\])*)(?:, | and |$)"
)
_KINDS = {"bool": jnp.bool_, "int": jnp.integer, "float": jnp.floating}


class _Array(NamedTuple):
  """The kind of its numbers, "" for any, and its axes: one list of them or more."""

  kind: str
  axes: tuple[tuple[str, ...], ...]


def shaped(wanted: str, *values: Any) -> None:
  """Checks kinds and axes of arrays, which are static under `jit`.

  Args:
    wanted: for each array what it is called, perhaps bool, int or float, and its
      axes, "scores [N] and mask bool [N]". A name is one length wherever it stands,
      a number that length, "N > 1" more than that, "..." any axes, the same wherever
      they stand; "[N] or [N, D]" is either.
    *values: the arrays, or what NumPy makes arrays of.

  Raises:
    ValueError: they are others, or no numbers at all: None, a text, a list of
      texts or of rows of different lengths, Python objects.

  Example:
    >>> shaped("x [N, 2] and mask bool [N]", np.ones((3, 2)), np.ones(3))
    Traceback (most recent call last):
    ValueError: Expected x [N, 2] and mask bool [N], got float64 (3, 2) and float64 (3,).
    >>> shaped("scores [N]", [1.0, "2"])
    Traceback (most recent call last):
    ValueError: Expected scores [N], got a list of texts.
  """
  odd = [no_numbers(value) for value in values]
  if any(odd):
    told = [
      text or f"{dtype_of(v)} {np.shape(v)}" for v, text in zip(values, odd)
    ]
    raise ValueError(f"Expected {wanted}, got {' and '.join(told)}.")
  arrays, shapes = _parsed(wanted), [np.shape(value) for value in values]
  fits = all(
    not array.kind or jnp.issubdtype(dtype_of(value), _KINDS[array.kind])
    for array, value in zip(arrays, values, strict=True)
  )
  choices = itertools.product(*(array.axes for array in arrays))
  if fits and any(_fit(choice, shapes) for choice in choices):
    return
  told = list(map(str, shapes))
  if any(array.kind for array in arrays):
    told = [f"{dtype_of(v)} {text}" for v, text in zip(values, told)]
  elif len(told) == 1:
    told = [f"shape {told[0]}"]
  raise ValueError(f"Expected {wanted}, got {' and '.join(told)}.")


def arrays(wanted: str, *values: Any) -> Any:
  """`shaped`, and the values as arrays of JAX: one, or a tuple of several.

  Example:
    >>> scores, mask = arrays("scores [N] and mask bool [N]", [1, 2], [True, False])
    >>> scores.shape, mask.dtype
    ((2,), dtype('bool'))
  """
  shaped(wanted, *values)
  found = tuple(map(jnp.asarray, values))
  return found if len(found) > 1 else found[0]


@functools.lru_cache(maxsize=1024)
def _parsed(wanted: str) -> tuple[_Array, ...]:
  found = []
  for match in _ARRAY.finditer(wanted):
    axes = match["axes"][1:-1].split("] or [")
    names = (tuple(each.split(", ")) if each else () for each in axes)
    found.append(_Array(match["kind"] or "", tuple(names)))
  return tuple(found)


def _fit(axes: tuple[tuple[str, ...], ...], shapes: list[Any]) -> bool:
  """Whether shapes are these axes, each name of one length throughout."""
  known: dict[str, Any] = {}
  for names, shape in zip(axes, shapes):
    if "..." in names:
      at = names.index("...")
      end = len(shape) - (len(names) - at - 1)
      if end < at or known.setdefault("...", shape[at:end]) != shape[at:end]:
        return False
      names, shape = names[:at] + names[at + 1 :], shape[:at] + shape[end:]
    if len(names) != len(shape):
      return False
    for name, length in zip(names, shape):
      name, _, least = name.partition(" > ")
      if (least and length <= int(least)) or length != (
        int(name) if name.isdigit() else known.setdefault(name, length)
      ):
        return False
  return True
