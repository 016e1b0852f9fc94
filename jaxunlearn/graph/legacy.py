"""The `learning_rate` of release 0.1, which factories still take for one release."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import optax

F = TypeVar("F", bound=Callable[..., Any])


def old_rate(factory: F) -> F:
  """Lets a factory take `learning_rate=r` for `optimizer=optax.adam(r)`.

  Example:
    >>> import warnings
    >>> from jaxunlearn.graph import legacy
    >>> make = legacy.old_rate(lambda *, optimizer: list(optimizer._fields))
    >>> with warnings.catch_warnings(action="ignore"):
    ...   make(learning_rate=0.1)  # As optimizer=optax.adam(0.1).
    ['init', 'update']
  """

  @functools.wraps(factory)
  def call(*args: Any, **kwargs: Any) -> Any:
    if "learning_rate" in kwargs:
      warnings.warn(
        f"{factory.__name__} takes optimizer=optax.adam(...) in the place of "
        "learning_rate.",
        DeprecationWarning,
        stacklevel=2,
      )
      kwargs["optimizer"] = optax.adam(kwargs.pop("learning_rate"))
    return factory(*args, **kwargs)

  return call  # type: ignore[return-value]
