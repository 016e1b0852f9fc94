"""Keywords of the release before that are still taken, for one release."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxunlearn.core.tasks import Fit, as_fit

F = TypeVar("F", bound=Callable[..., Any])
_PARTS = ("optimizer", "num_steps", "batch_size")


def old_fits(**groups: tuple[str, str, str]) -> Callable[[F], F]:
  """Lets a factory take `noise_steps=40` for `noise=Fit(..., num_steps=40)`.

      @old_fits(noise=("noise_optimizer", "noise_steps", "noise_batch"))
      def unsir(model, *, noise: Fit = NOISE): ...

  Args:
    **groups: by the name of an argument that takes a `Fit`, the old keywords
      of its optimiser, steps and batch; "" where there was none. What is not
      given is that of the argument's default.
  """

  def decorate(factory: F) -> F:
    defaults = inspect.signature(factory).parameters

    @functools.wraps(factory)
    def call(*args: Any, **kwargs: Any) -> Any:
      old = {n for names in groups.values() for n in names} & set(kwargs)
      if not old:
        return factory(*args, **kwargs)
      warnings.warn(
        f"{factory.__name__} takes {', '.join(sorted(old))} as fields of a Fit: "
        f"{', '.join(groups)}.",
        DeprecationWarning,
        stacklevel=2,
      )
      for group, names in groups.items():
        given: Any = {p: kwargs[n] for p, n in zip(_PARTS, names) if n in old}
        base = kwargs.get(group, defaults[group].default)
        if given:
          kwargs[group] = as_fit(base if isinstance(base, Fit) else None, given)
      return factory(*args, **{k: v for k, v in kwargs.items() if k not in old})

    return call  # type: ignore[return-value]

  return decorate


def renamed(**names: str) -> Callable[[F], F]:
  """Lets a function take `chunk=8` for `chunk_size=8`.

      @renamed(chunk_size="chunk")
      def token_scores(lm, variables, x, *, chunk_size=None): ...

  Args:
    **names: by the keyword of now the old one.
  """
  now = {old: new for new, old in names.items()}

  def decorate(function: F) -> F:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
      for old in now.keys() & kwargs.keys():
        new = now[old]
        if new in kwargs:
          raise TypeError(f"Got both {new} and {old}, its name in 0.2.")
        warnings.warn(
          f"{function.__name__} takes {new} in the place of {old}.",
          DeprecationWarning,
          stacklevel=2,
        )
        kwargs[new] = kwargs.pop(old)
      return function(*args, **kwargs)

    return call  # type: ignore[return-value]

  return decorate


def old_fields(**groups: Mapping[str, str] | type) -> Callable[[F], F]:
  """Lets a function take `outer_steps=5` for `search=Search(outer_steps=5)`.

      @old_fields(search={"outer_steps": "outer_steps"})
      def attack(model, *, search: Search = Search()): ...

  Args:
    **groups: by the name of an argument that takes a NamedTuple, the field of
      each old keyword; or its class, where these have the fields' names and the
      argument may have no default. Where that argument is None, they say nothing.
  """

  def decorate(function: F) -> F:
    defaults = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
      for group, asked in groups.items():
        names = getattr(asked, "_fields", ())
        fields = (
          asked if isinstance(asked, Mapping) else dict(zip(names, names))
        )
        given = {n: kwargs.pop(n) for n in fields if n in kwargs}
        if not given:
          continue
        warnings.warn(
          f"{function.__name__} takes {', '.join(sorted(given))} as fields of "
          f"{group}.",
          DeprecationWarning,
          stacklevel=2,
        )
        base = kwargs.get(group, defaults[group].default)
        new = {fields[n]: value for n, value in given.items()}
        if base is inspect.Parameter.empty and isinstance(asked, type):
          kwargs[group] = asked(**new)
        elif base is not None:
          kwargs[group] = base._replace(**new)
      return function(*args, **kwargs)

    return call  # type: ignore[return-value]

  return decorate
