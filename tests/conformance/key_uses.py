"""What a program does with its keys, read off its jaxpr; nothing is run."""

from collections import defaultdict
from typing import Any

from jax.extend import core

# With partitionable threefry `split(k)[i]`, `fold_in(k, i)` and the bits that k
# draws are the same numbers: of one key there may be one of the three.
_USES = {"random_bits": "draws", "random_split": "splits"}
# What is called on the operands in their order, the last ones where it has fewer.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call", "scan", "while", "cond"}
_SMALL = 2**16  # Tags of `derive` are hashes; what is smaller is a place.


def mixed_uses(closed: Any) -> list[str]:
  """Keys that are used in two ways which give the same numbers.

  Args:
    closed: a closed jaxpr, such as `jax.make_jaxpr` gives.

  Returns:
    A line for each; none where every key has one use.
  """
  uses: dict[Any, set[str]] = defaultdict(set)
  _walk(closed.jaxpr, {}, uses, ())
  return sorted(
    f"{key}: {' and '.join(sorted(ways))}"
    for key, ways in uses.items()
    if len(ways) > 1
  )


def _walk(jaxpr: Any, known: dict, uses: dict, path: tuple) -> None:
  """Follows each key by name: the variable and the call where it came to be."""

  def name(atom: Any) -> Any:
    if isinstance(atom, core.Literal):
      return atom
    return known.get(atom, (*path, atom))

  for place, equation in enumerate(jaxpr.eqns):
    kind = equation.primitive.name
    if kind in _USES:
      uses[name(equation.invars[0])].add(_USES[kind])
    elif kind == "random_fold_in":
      key, tag = map(name, equation.invars)
      if not isinstance(tag, core.Literal) or int(tag.val) < _SMALL:
        uses[key].add("folds")
    elif kind in ("convert_element_type", "broadcast_in_dim"):
      # A tag stays the number that it is.
      found = name(equation.invars[0])
      if isinstance(found, core.Literal):
        known = {**known, equation.outvars[0]: found}
    for inner, arguments in _inner(equation):
      own = dict(zip(inner.invars, map(name, arguments)))
      _walk(inner, own, uses, (*path, place, kind))


def _inner(equation: Any) -> list[tuple[Any, list[Any]]]:
  """The jaxprs of an equation, and what they are called on."""
  found = []
  for name, value in equation.params.items():
    for inner in value if isinstance(value, tuple | list) else (value,):
      inner = getattr(inner, "jaxpr", inner)
      if not hasattr(inner, "eqns"):
        continue
      arguments = list(equation.invars)
      if equation.primitive.name == "while":
        cut = equation.params["cond_nconsts"]
        more = equation.params["body_nconsts"]
        arguments = (
          arguments[:cut] + arguments[cut + more :]
          if name == "cond_jaxpr"
          else arguments[cut:]
        )
      # Of `cond` the first says which branch.
      arguments = arguments[len(arguments) - len(inner.invars) :]
      aligned = equation.primitive.name in _CALLS
      found.append((inner, arguments if aligned else []))
  return found
