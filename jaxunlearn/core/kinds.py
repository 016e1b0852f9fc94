"""What a value is: its dtype, and whether an array can be made of it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def dtype_of(x: Any) -> Any:
  """The dtype of an array; of a list what NumPy makes of it."""
  found = getattr(x, "dtype", None)
  return np.asarray(x).dtype if found is None else found


def no_numbers(value: Any) -> str:
  """What a value is that JAX makes no array of, in a few words; "" of others."""
  if isinstance(value, jax.Array):
    return ""
  try:
    dtype = dtype_of(value)
  except ValueError:
    return f"a {type(value).__name__} of rows of different lengths"
  if getattr(dtype, "kind", "b") not in "OUSmM":
    return ""
  if value is None or isinstance(value, str):
    return repr(value)[:40]
  what = {"O": "objects", "m": "times", "M": "times"}.get(dtype.kind, "texts")
  name = type(value).__name__
  if not np.ndim(value) and not hasattr(value, "dtype"):
    return name
  return f"{'an array' if name == 'ndarray' else f'a {name}'} of {what}"
