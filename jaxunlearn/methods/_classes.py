"""The classes that a request touches, and the labels and inputs of its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.links import provide
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Request, Slot


def class_labels(data: Any, num_classes: int) -> jax.Array:
  """`data["label"]`, int [N].

  Raises:
    ValueError: there is none, it is not int [N] or (concrete values) it has
      entries outside 0 .. num_classes - 1.
  """
  checks.columns(data, "label")
  label = jnp.asarray(data["label"])
  length = checks.num_rows(data)
  checks.labels(label, num_classes, "data['label']", length=length)
  return label


def requested_classes(
  label: jax.Array, forget: jax.Array, num_classes: int
) -> jax.Array:
  """Classes with a row to forget; bool [num_classes]."""
  asked = jnp.where(forget, label, num_classes)
  return jnp.zeros(num_classes, bool).at[asked].set(True, mode="drop")


def provide_classes(slot: Slot[jax.Array], num_classes: int) -> Transform:
  """Provides the classes that the request touches, bool [num_classes].

  Of the data it reads the labels of rows to forget alone.

  Raises:
    ValueError: on a call with a soft request, labels that are not int [N] or
      (concrete values) out of range, a request of no class or of every class.
  """
  checks.count(1, num_classes=num_classes)

  def find(carry: Any, data: Any, request: Request, key: jax.Array):
    checks.hard_request(request.forget)
    label = class_labels(data, num_classes)
    found = requested_classes(label, request.forget, num_classes)
    if checks.is_concrete(found) and not 0 < found.sum() < num_classes:
      raise ValueError(
        f"Expected forget_mask to request 1 .. {num_classes - 1} classes of "
        f"{num_classes}, got {int(found.sum())}."
      )
    return found

  return provide(slot, find)


def input_shape(
  data: Any, given: Sequence[int] | None = None
) -> tuple[int, ...]:
  """The shape of one input: as given, or else that of `data["x"]`.

  Raises:
    ValueError: inputs of integers, which cannot be learned; no shape is given
      and the data has no "x".
  """
  if "x" in data and not jnp.issubdtype(data["x"].dtype, jnp.floating):
    raise ValueError(
      "Expected data['x'] of a float dtype, since inputs are to be learned, "
      f"got {data['x'].dtype}."
    )
  if given is not None:
    return tuple(given)
  if "x" not in data:
    raise ValueError(
      "Expected input_shape, or data with inputs under 'x', got neither."
    )
  return tuple(data["x"].shape[1:])
