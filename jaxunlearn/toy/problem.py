"""What a toy is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from jaxunlearn.core.types import PyTree, Variables


class Problem(NamedTuple):
  """A model, what it was fitted on, and what it has to forget.

  Attributes:
    model: a `Model`, or what its room has in place of one; has a `task`, but for
      a `Gan`.
    variables: its values.
    data: pytree of arrays [N, ...], the training rows.
    request: bool [N], True = forget; or what its room has in place of a mask.
    key: a typed PRNG key, for the method.
  """

  model: Any
  variables: Variables
  data: PyTree
  request: Any
  key: jax.Array

  @property
  def arguments(self) -> tuple[Variables, PyTree, Any, jax.Array]:
    """What a transform is called with: `unlearn(*problem.arguments)`."""
    return self[1:]
