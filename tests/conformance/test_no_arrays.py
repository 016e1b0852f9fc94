"""What is given where an array is wanted and is none: one line that says so.

The functions of losses, metrics, attacks and valuation are called as their examples
call them, but for one argument: a text, texts, None, rows of different lengths,
Python objects.
"""

import contextlib
import doctest
import functools
import importlib
import inspect
import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxunlearn as ju

ODD = {
  "text": "abc",
  "texts": ["a", "b"],
  "none": None,
  "ragged": [[1.0], [1.0, 2.0]],
  "objects": np.array([object(), object()]),
}
KINDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def functions(room):
  module = importlib.import_module(f"jaxunlearn.{room}")
  found = ((name, getattr(module, name)) for name in module.__all__)
  return {name: f for name, f in found if inspect.isfunction(f)}


def first_call(function):
  """The arguments of its first call in its example, or None."""
  calls = []

  @functools.wraps(function)
  def noted(*args, **kwargs):
    calls.append((args, kwargs))
    return function(*args, **kwargs)

  modules = [m for n, m in sys.modules.items() if n.startswith("jaxunlearn")]
  places = [
    (m, k) for m in modules for k, v in vars(m).items() if v is function
  ]
  home = sys.modules[function.__module__]
  finder = doctest.DocTestFinder(recurse=False)
  with contextlib.ExitStack() as stack:
    for module, name in places:
      stack.callback(setattr, module, name, function)
      setattr(module, name, noted)
    names = {**vars(home), "ju": ju}
    for example in finder.find(noted, function.__name__, home, names):
      with contextlib.redirect_stdout(io.StringIO()):
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
  return calls[0] if calls else None


def is_array(value):
  if isinstance(value, list):
    return bool(value) and all(isinstance(v, int | float | list) for v in value)
  return isinstance(value, jax.Array | np.ndarray) and not jnp.issubdtype(
    value.dtype, jax.dtypes.prng_key
  )


def complaint(function, bound):
  """What is wrong with how it takes an argument; None if it refuses it well."""
  try:
    function(*bound.args, **bound.kwargs)
  except ValueError as error:
    said = str(error)
    is_line = said.startswith("Expected") and "\n" not in said
    return None if is_line and "got" in said else said[:100]
  except Exception as error:
    return f"{type(error).__name__}: {str(error)[:100]}"
  return "no error"


@pytest.mark.slow
@pytest.mark.parametrize("room", ["losses", "metrics", "valuation", "attacks"])
def test_what_is_no_array_is_refused_in_one_line(room):
  found, seen = [], 0
  for name, function in functions(room).items():
    call, signature = first_call(function), inspect.signature(function)
    if call is None:
      continue
    given = signature.bind(*call[0], **call[1]).arguments
    for argument, value in given.items():
      parameter = signature.parameters[argument]
      if parameter.kind in KINDS or not is_array(value):
        continue
      for kind, odd in ODD.items():
        if odd is None and parameter.default is None:
          continue
        bound = signature.bind(*call[0], **call[1])
        bound.arguments[argument] = odd
        seen += 1
        if said := complaint(function, bound):
          found.append(f"{name}({argument}={kind}): {said}")
  assert seen > 100
  assert found == []
