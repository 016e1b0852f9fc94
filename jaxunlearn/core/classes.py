"""What a method that sees no input has to know: the classes, and a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import provide
from jaxunlearn.core.types import Transform


def requested_classes(
  label: jax.Array, forget_mask: jax.Array, num_classes: int
) -> jax.Array:
  """Classes with a row in the request; bool [num_classes]."""
  asked = jnp.where(forget_mask, label, num_classes)
  return jnp.zeros(num_classes, bool).at[asked].set(True, mode="drop")


def provide_classes(num_classes: int) -> Transform:
  """Provides "classes", bool [num_classes], those that the request touches.

  Of the data it reads `data["label"]` alone.

  Raises:
    ValueError: on a call with a soft request, labels that are no integers or,
      where values are concrete, out of range; or with a request of no class or
      of every class.
  """
  checks.positive(num_classes=num_classes)

  def find(carry, data, forget_mask, key):
    checks.hard_request(forget_mask)
    checks.labels(data["label"], num_classes, "data['label']")
    found = requested_classes(data["label"], forget_mask, num_classes)
    if checks.is_concrete(found):
      count = int(found.sum())
      if count == 0 or count == num_classes:
        raise ValueError(
          f"Expected forget_mask to request 1 .. {num_classes - 1} classes of "
          f"{num_classes}, got {count}."
        )
    return found

  return provide("classes", find)


def input_shape(
  data: Any, given: Sequence[int] | None = None
) -> tuple[int, ...]:
  """The shape of one input: as given, else that of `data["x"]`.

  Raises:
    ValueError: no shape is given, and the data has no "x", or one of integers.
  """
  if given is not None:
    return tuple(given)
  if "x" not in data:
    raise ValueError(
      "Expected input_shape, or data with inputs under 'x', got neither."
    )
  dtype = data["x"].dtype
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      "Expected data['x'] of a float dtype, since inputs are to be learned, or "
      f"input_shape, got {dtype}."
    )
  return tuple(data["x"].shape[1:])
