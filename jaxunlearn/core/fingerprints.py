"""What a run is, in a few characters that another process finds again.

Of arrays the bytes, of functions the program that they trace to: its primitives,
their parameters and its constants, learning rates among them. No name, address
or counter of this process goes in.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxunlearn.core.types import PyTree

# Of a larger array some rows stand for all: it may lie on a disk.
_WHOLE = 1 << 26  # Bytes.
_ROWS = 4096

Digest = Any  # Of `hashlib`, which has no public type for it.


def checksum(tree: PyTree) -> str:
  """Of the structure and the values of a tree of arrays.

  Of an array above 64 MiB, 4096 rows evenly spread are read; all of others.
  """
  digest = _new()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    _note(digest, jax.tree_util.keystr(path))
    _array(digest, leaf)
  return digest.hexdigest()


def program(fn: Callable[..., PyTree], *args: PyTree) -> tuple[str, PyTree]:
  """Of what a function computes, and the shapes that it returns.

  Args:
    fn: traced, not run.
    *args: arrays or `ShapeDtypeStruct`s; their values do not count.
  """
  jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(*args)
  digest = _new()
  _parameter(digest, jaxpr)
  return digest.hexdigest(), shapes


def _new() -> Digest:
  return hashlib.blake2b(digest_size=12)


def _note(digest: Digest, *words: Any) -> None:
  for word in words:
    digest.update(f"{word};".encode())


def _array(digest: Digest, leaf: Any) -> None:
  if hasattr(leaf, "dtype") and jax.dtypes.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  ):
    _note(digest, leaf.dtype)
    leaf = jax.random.key_data(leaf)
  if not isinstance(leaf, jax.Array):
    leaf = np.asanyarray(leaf)  # Numbers of Python; a map of a disk stays one.
  _note(digest, leaf.dtype, np.shape(leaf))
  if leaf.nbytes > _WHOLE and len(leaf) > _ROWS:
    leaf = leaf[np.linspace(0, len(leaf) - 1, _ROWS).astype(int)]
  digest.update(np.ascontiguousarray(leaf).tobytes())


def _jaxpr(digest: Digest, jaxpr: core.Jaxpr) -> None:
  """Variables by the order of their first use, whatever they are called."""
  number: dict[Any, int] = {}

  def variable(atom: Any) -> None:
    if isinstance(atom, core.Literal):
      _array(digest, atom.val)
      _note(digest, atom.aval)
    else:
      _note(digest, number.setdefault(atom, len(number)), atom.aval)

  atom: Any
  for atom in (*jaxpr.constvars, *jaxpr.invars):
    variable(atom)
  for equation in jaxpr.eqns:
    _note(digest, equation.primitive.name)
    for atom in equation.invars:
      variable(atom)
    for name, value in sorted(equation.params.items()):
      _note(digest, name)
      _parameter(digest, value)
    for atom in equation.outvars:
      variable(atom)
  for atom in jaxpr.outvars:
    variable(atom)


def _parameter(digest: Digest, value: Any) -> None:
  if isinstance(value, core.ClosedJaxpr):
    _parameter(digest, value.consts)
    _jaxpr(digest, value.jaxpr)
  elif isinstance(value, core.Jaxpr):
    _jaxpr(digest, value)
  elif isinstance(value, Mapping):
    for name in sorted(value, key=str):
      _note(digest, name)
      _parameter(digest, value[name])
  elif isinstance(value, tuple | list):
    _note(digest, type(value).__name__, len(value))
    for entry in value:
      _parameter(digest, entry)
  elif isinstance(value, np.ndarray | np.generic | jax.Array):
    _array(digest, value)
  elif value is None or isinstance(
    value, bool | int | float | str | np.dtype | enum.Enum
  ):
    _note(digest, repr(value))
  else:  # A function, a place, a set: what it does is in the equations.
    _note(digest, type(value).__name__)
