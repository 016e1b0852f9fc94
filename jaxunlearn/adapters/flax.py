"""A `Model` from a Flax module, linen or nnx.

The two keep their values differently; here both become `Variables`: plain
nested dicts of parameters and of model state, without boxes, frozen dicts,
graph definitions or random keys. Randomness comes from the key of each call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxunlearn.adapters.functions import (
  FLAG_SIGNS,
  Loss,
  default_loss,
  keywords,
)
from jaxunlearn.core import checks
from jaxunlearn.core.types import Model, PyTree, Variables

# Of arguments with such names a bool is no sign of training.
_OTHER_NAMES = ("return", "output", "capture")

NnxFactory = Callable[[nnx.Rngs], nnx.Module]


def from_module(
  module_or_factory: Any, *, loss: Loss | None = None, **options: Any
) -> Model:
  """Makes a `Model` from whatever Flax offers.

  Args:
    module_or_factory: a linen module; a function without required arguments
      (or a linen class) that makes one; `(rngs: nnx.Rngs) -> nnx.Module`, such
      as an nnx class whose other arguments have defaults; or an nnx module,
      see `from_nnx`. Arguments are filled in by `functools.partial`.
    loss: `(outputs, rows) -> [B]`; softmax cross entropy on
      `rows["label"]` if None.
    **options: passed on to `from_linen` or `from_nnx`.

  Raises:
    ValueError: for anything else; for a function that wants more arguments.
  """
  given = module_or_factory
  if isinstance(given, nn.Module):
    return from_linen(given, loss=loss, **options)
  if isinstance(given, nnx.Module):
    return from_nnx(given, loss=loss, **options)
  if not callable(given):
    raise ValueError(
      "Expected a linen module, an nnx module or a function (rngs) -> "
      f"nnx.Module, got {type(given).__name__}."
    )
  if _rngs_argument(given) is not None:
    return from_nnx(given, loss=loss, **options)
  _refuse_unfilled(given, ())
  made: list[Any] = []
  # Abstractly, so that a large model costs nothing here.
  jax.eval_shape(lambda: made.append(given()))
  if isinstance(made[0], nn.Module):
    return from_linen(given(), loss=loss, **options)
  raise ValueError(
    "Expected a function () -> linen module or (rngs) -> nnx.Module, got one "
    f"without arguments that returns {type(made[0]).__name__}."
  )


def from_linen(
  module: nn.Module,
  *,
  loss: Loss | None = None,
  train_argument: str | None = "auto",
  rng_collections: tuple[str, ...] = ("dropout",),
  features: bool | Callable[[nn.Module, str], bool] = True,
) -> Model:
  """Makes a `Model` from a linen module.

  `init(key, inputs)` gives the parameters of `module.init(key, inputs)` in
  evaluation mode. In training mode all collections of the model state are
  mutable and random streams are seeded from the call's key; with a single
  stream it is that key. Streams that are not named draw from one of their own.

  Args:
    module: the module; called on one positional argument.
    loss: `(outputs, rows) -> [B]`; softmax cross entropy on
      `rows["label"]` if None.
    train_argument: the name of the argument of `__call__`, or of the module's
      field, that is True in training and False in evaluation; "not NAME" is
      the other way round. "auto" knows the usual names, such as train, is_training (True
      in training) and deterministic, use_running_average (False). None: the
      module is called the same way in both modes.
    rng_collections: random streams with keys of their own, whatever others
      there are.
    features: True, `Model.features` has the output of every submodule and
      whatever the module sows into "intermediates"; a function
      `(module, method_name) -> bool` chooses among the outputs; False, None.
      Names are paths, `Block_0/Dense_1`; where a path was called several times
      each call is one, `Block_0/Dense_1/0`.

  Raises:
    ValueError: if `__call__` wants arguments beside inputs and flag, or has a
      flag that "auto" does not know; from `apply(train=True)` if the module
      draws random numbers and there is no key, or if its dropout and BatchNorm
      sleep in training because "auto" found no flag; from `apply` if it draws
      numbers or moves state in evaluation mode.
  """
  if not isinstance(module, nn.Module):
    raise ValueError(
      f"Expected module to be a linen module, got {type(module).__name__}."
    )
  checks.functions(loss=loss or default_loss)
  call = type(module).__call__
  flags = _flags(call, train_argument, type(module).__name__, _fields(module))
  in_mode = {
    train: module.clone(**flags.fields(train)) for train in (True, False)
  }

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    rngs = {"params": key}
    for i, name in enumerate(rng_collections):
      rngs[name] = jax.random.fold_in(key, i)
    made = in_mode[False].init(rngs, inputs, **flags.arguments(False))
    state = dict(nn.unbox(_unfreeze(made)))
    state.pop("intermediates", None)
    return Variables(state.pop("params", {}), state)

  def apply(
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]:
    state = variables.model_state
    values = {"params": variables.params, **state}
    arguments, layers = flags.arguments(train), _Layers()
    look = nn.intercept_methods(layers) if train and flags.guessed else None
    try:
      if not train:
        outputs: Any = in_mode[False].apply(values, inputs, **arguments)
        return outputs, state
      with look or contextlib.nullcontext():
        outputs, moved = in_mode[True].apply(
          values,
          inputs,
          rngs=_streams(key, rng_collections),
          mutable=list(state),
          **arguments,
        )
    except flax.errors.InvalidRngError as error:
      raise ValueError(_no_stream(train, module)) from error
    except flax.errors.ModifyScopeVariableError as error:
      if train:
        raise
      raise ValueError(_no_stream(False, module)) from error
    if layers.asleep and not layers.awake:
      raise ValueError(_asleep(type(module).__name__, layers.asleep))
    return outputs, _like(_unfreeze(moved), state)

  def intermediates(
    variables: Variables, inputs: PyTree
  ) -> dict[str, jax.Array]:
    _, captured = in_mode[False].apply(
      {"params": variables.params, **variables.model_state},
      inputs,
      capture_intermediates=features,
      mutable=["intermediates"],
      **flags.arguments(False),
    )
    return _by_path(_unfreeze(captured).get("intermediates", {}))

  return Model(
    init,
    apply,
    loss or default_loss,
    None if features is False else intermediates,
  )


def from_nnx(
  factory: NnxFactory | nnx.Module,
  *,
  loss: Loss | None = None,
  train_argument: str | None = "auto",
  features: bool = True,
) -> Model:
  """Makes a `Model` from a function that makes an nnx module.

  The factory runs abstractly once, here, for the graph of the module, and for
  real in `init`. Parameters are its `nnx.Param`s, model state all its other
  variables but random streams, as nested dicts by attribute; lists become
  dicts with integer keys. In training mode each random stream starts from the
  call's key folded with the stream's place in the graph.

  Args:
    factory: `(rngs: nnx.Rngs) -> nnx.Module`. It gets a fresh `nnx.Rngs(key)`
      and must take its randomness from there. Or a module, trained or not: its
      values are `variables_of(module)`, and `with_variables` puts others into a
      copy; its `init` fails, since nothing makes it anew for retraining.
    loss: `(outputs, rows) -> [B]`; softmax cross entropy on
      `rows["label"]` if None.
    train_argument: as of `from_linen`, for an argument of `__call__` beside
      what `nnx.Module.train` and `eval` set.
    features: whether `Model.features` gives the outputs of all submodules and
      what they sow as `nnx.Intermediate`; names as in `from_linen`.

  Raises:
    ValueError: if the factory takes no rngs, wants more arguments or returns
      something else; as `from_linen` for a flag that is not known; from
      `apply(train=True)` if the module has random streams and there is no key.

  Example:
    >>> import functools
    >>> from flax import nnx
    >>> model = from_nnx(functools.partial(nnx.Linear, 4, 3))
  """
  checks.functions(loss=loss or default_loss)
  call = None
  if isinstance(factory, nnx.Module):
    module = nnx.clone(factory)
  else:
    checks.functions(factory=factory)
    argument = _rngs_argument(factory)
    if argument is None:
      raise ValueError(
        "Expected factory to take nnx.Rngs, (rngs) -> nnx.Module, so that init "
        "depends on its key; got a function without such an argument."
      )
    call = lambda key: argument(nnx.Rngs(key))
    module = nnx.eval_shape(lambda: _checked(call(jax.random.key(0))))
  name = type(module).__name__
  flags = _flags(type(module).__call__, train_argument, name, ())
  graphs = {}
  for train in (True, False):
    _set_mode(module, train)
    graphs[train] = nnx.graphdef(module)
  streams = nnx.to_pure_dict(nnx.state(module, nnx.RngState))
  own_state = variables_of(module).model_state
  is_random = bool(jax.tree.leaves(streams))
  sleepers = _sleepers(module)

  def merged(variables: Variables, train: bool, key: jax.Array) -> nnx.Module:
    # nnx writes in place: the state must have the dtypes that it computes in.
    state = _like(variables.model_state, own_state)
    parts = [variables.params, state, _seeded(streams, key)]
    return nnx.merge(graphs[train], *[part for part in parts if part] or [{}])

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    del inputs  # The factory knows its sizes.
    if call is None:
      raise ValueError(
        f"Expected a function (rngs) -> {name} to initialise anew, got the "
        "module itself; variables_of(module) are its values."
      )
    return variables_of(call(key))

  def apply(
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]:
    if train and is_random and key is None:
      raise ValueError(
        "Expected a key for train=True, since the module has random streams; "
        "got key=None."
      )
    # Evaluation draws nothing; the graph wants a key in its place all the same.
    seed = key if train and key is not None else jax.random.key(0)
    called = merged(variables, train, seed)
    before = jax.tree.leaves(nnx.state(called, nnx.Not(nnx.Param)))
    # Under capture without types, what modules sow goes nowhere.
    outputs: Any = nnx.capture(called)(inputs, **flags.arguments(train))
    if not train:
      return outputs, variables.model_state
    after = jax.tree.leaves(nnx.state(called, nnx.Not(nnx.Param)))
    # What draws or moves puts another array in the place of the old one.
    if (
      sleepers and flags.guessed and all(a is b for a, b in zip(before, after))
    ):
      raise ValueError(_asleep(name, sleepers))
    state = variables_of(called).model_state
    return outputs, _like(state, variables.model_state)

  def intermediates(
    variables: Variables, inputs: PyTree
  ) -> dict[str, jax.Array]:
    called = merged(variables, False, jax.random.key(0))
    capture = nnx.capture(
      called, nnx.Intermediate, method_outputs=nnx.Intermediate
    )
    made = capture(inputs, **flags.arguments(False))[1]
    return _by_path(nnx.to_pure_dict(made))

  return Model(
    init, apply, loss or default_loss, intermediates if features else None
  )


def variables_of(module: nnx.Module | nnx.State) -> Variables:
  """The values of an nnx module, as a `Model` of `from_nnx` takes them.

  Args:
    module: the module, or its `nnx.state`.
  """
  state = nnx.state(module) if isinstance(module, nnx.Module) else module
  if not isinstance(state, nnx.State):
    raise ValueError(
      f"Expected module to be an nnx module, got {type(module).__name__}."
    )
  kinds = (nnx.Param, nnx.RngState, nnx.Intermediate)
  parts: Any = nnx.split_state(state, *kinds, ...)
  # One state a kind, then the rest.
  return Variables(nnx.to_pure_dict(parts[0]), nnx.to_pure_dict(parts[-1]))


def with_variables(module: nnx.Module, variables: Variables) -> nnx.Module:
  """A copy of an nnx module with other values: the way back from unlearning.

  Raises:
    ValueError: variables of another structure, or of other shapes.
  """
  checks.same_structure(variables, variables_of(module), "variables")
  copy = nnx.clone(module)
  state = nnx.state(copy)
  for part in variables:
    nnx.replace_by_pure_dict(state, part)
  nnx.update(copy, state)
  return copy


class _Flags(NamedTuple):
  """How a module is told training from evaluation.

  Attributes:
    of_call: arguments of `__call__`, by name: True in training (or False).
    of_module: fields of the module, likewise.
    guessed: whether nobody said that there is no flag, and none was found.
  """

  of_call: Mapping[str, bool]
  of_module: Mapping[str, bool]
  guessed: bool

  def arguments(self, train: bool) -> dict[str, Any]:
    return {n: train == sign for n, sign in self.of_call.items()}

  def fields(self, train: bool) -> dict[str, Any]:
    return {n: train == sign for n, sign in self.of_module.items()}


def _set_mode(module: nnx.Module, train: bool) -> None:
  """As `nnx.Module.train` and `eval`, for flags by other names as well."""
  (module.train if train else module.eval)()
  for _, part in nnx.iter_modules(module):
    for name, sign in FLAG_SIGNS.items():
      if isinstance(vars(part).get(name), bool):
        setattr(part, name, train == sign)


def _flags(
  call: Callable[..., Any],
  train_argument: str | None,
  name: str,
  fields: Collection[str],
) -> _Flags:
  """Finds the flag among the arguments of `call` and the module's fields.

  Raises:
    ValueError: there is none of that name; one argument more is required, or
      has a bool as default, and might be the flag.
  """
  parameters = inspect.signature(call).parameters
  if train_argument in (None, "auto"):
    known = FLAG_SIGNS if train_argument else {}
    # By name only: a module that passes **kwargs on may reject the flag.
    of_call = {n: sign for n, sign in known.items() if n in parameters}
    of_module = {n: known[n] for n in fields if n in known and not of_call}
  else:
    word = str(train_argument).removeprefix("not ")
    sign = word == train_argument and FLAG_SIGNS.get(word, True)
    in_call = keywords(call, (word,))
    if not in_call and word not in fields:
      raise ValueError(
        f"Expected train_argument to be an argument of {name}.__call__ or a "
        f"field, got {train_argument!r}."
      )
    of_call, of_module = ({word: sign}, {}) if in_call else ({}, {word: sign})
  guessed = train_argument == "auto" and not (of_call or of_module)
  # The first two are the module and the inputs.
  for n, p in list(parameters.items())[2:]:
    is_open = n not in of_call and p.kind not in (
      p.VAR_KEYWORD,
      p.VAR_POSITIONAL,
    )
    is_flag = isinstance(p.default, bool) and not n.startswith(_OTHER_NAMES)
    if is_open and (p.default is p.empty or (guessed and is_flag)):
      raise ValueError(
        f"Expected train_argument to say what {n!r} of {name}.__call__ is: "
        f"train_argument={n!r} if it is True in training, 'not {n}' if it is "
        "False in training, None if it tells neither and has a default."
      )
  return _Flags(of_call, of_module, guessed)


def _fields(module: nn.Module) -> list[str]:
  """Fields of the module that may be a flag."""
  made = [f.name for f in dataclasses.fields(module)]
  return [n for n in made if isinstance(getattr(module, n), bool | None)]


class _Layers:
  """Notes which layers that behave otherwise in training do so."""

  def __init__(self) -> None:
    self.awake: list[str] = []
    self.asleep: list[str] = []

  def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    name = _FLAG_OF.get(type(layer))
    if name and context.method_name == "__call__" and _matters(layer):
      given = (*args[1:2], kwargs.get(name), getattr(layer, name, None))
      flag = next((f for f in given if f is not None), None)
      (self.asleep if flag else self.awake).append(type(layer).__name__)
    return call(*args, **kwargs)


_FLAG_OF = {nn.Dropout: "deterministic", nn.BatchNorm: "use_running_average"}


def _matters(layer: Any) -> bool:
  return getattr(layer, "rate", 1.0) != 0.0


def _sleepers(module: nnx.Module) -> list[str]:
  """The layers of an nnx module that behave otherwise in training."""
  kinds = (nnx.Dropout, nnx.BatchNorm)
  return [
    type(layer).__name__
    for _, layer in nnx.iter_modules(module)
    if isinstance(layer, kinds) and _matters(layer)
  ]


def _asleep(name: str, layers: Iterable[str]) -> str:
  found = " and ".join(sorted(set(layers)))
  return (
    f"Expected train_argument to name the argument of {name} that is True in "
    f"training: none is known, and with train=True its {found} did nothing. "
    "None says that it shall be so."
  )


def _streams(
  key: jax.Array | None, names: tuple[str, ...]
) -> dict[str, jax.Array]:
  """A key for each stream; "params" is where linen draws for all others."""
  if key is None:
    return {}
  named = [key] if len(names) == 1 else jax.random.split(key, len(names) or 1)
  others = jax.random.fold_in(key, 0x7374726D)
  return {"params": others, **dict(zip(names, named))}


def _no_stream(train: bool, module: nn.Module) -> str:
  if train:
    return (
      "Expected a key for train=True, since the module draws random numbers; "
      "got key=None."
    )
  return (
    f"Expected {type(module).__name__} to draw nothing and to move no state in "
    "evaluation mode; train_argument names the argument that tells it."
  )


def _unfreeze(tree: Any) -> Any:
  if isinstance(tree, Mapping):
    return {name: _unfreeze(value) for name, value in tree.items()}
  return tree


def _like(state: PyTree, given: PyTree) -> PyTree:
  """The state in the dtypes of the one given: a scan's carry may not change."""
  return jax.tree.map(lambda new, old: new.astype(old.dtype), state, given)


def _by_path(tree: Mapping[Any, Any]) -> dict[str, jax.Array]:
  """Flattens captured activations; the module's own output is left out."""
  named: dict[str, jax.Array] = {}

  def walk(node: Any, path: tuple[str, ...]) -> None:
    if isinstance(node, Mapping):
      for name, value in node.items():
        walk(value, path if name == "__call__" else (*path, str(name)))
    elif isinstance(node, tuple | list):
      for i, value in enumerate(node):
        walk(value, path if len(node) == 1 else (*path, str(i)))
    elif node is not None and path:
      named["/".join(path)] = node

  walk({n: v for n, v in tree.items() if n != "__call__"}, ())
  return named


def _rngs_argument(factory: Callable) -> Callable[[nnx.Rngs], Any] | None:
  """The factory as a function of rngs alone, or None if it takes none.

  Raises:
    ValueError: it wants other arguments beside them.
  """
  parameters = _parameters(factory)
  if any(p.name == "rngs" and p.kind != p.POSITIONAL_ONLY for p in parameters):
    _refuse_unfilled(factory, ("rngs",))
    return lambda rngs: factory(rngs=rngs)
  if isinstance(factory, type) and issubclass(factory, nn.Module):
    return None
  return factory if len(_required(factory)) == 1 else None


def _required(function: Callable) -> list[str]:
  return [
    p.name
    for p in _parameters(function)
    if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
  ]


def _refuse_unfilled(function: Callable, filled: Collection[str]) -> None:
  left = [name for name in _required(function) if name not in filled]
  if left:
    name = getattr(function, "__name__", type(function).__name__)
    raise ValueError(
      f"Expected a function whose arguments are filled in, got {name}, which "
      f"wants {', '.join(left)}; functools.partial({name}, ...) fills them in."
    )


def _parameters(function: Callable) -> list[inspect.Parameter]:
  """What a caller may pass; the metaclass of nnx hides it from `signature`."""
  if isinstance(function, functools.partial):
    inner = _parameters(function.func)[len(function.args) :]
    return [p for p in inner if p.name not in function.keywords]
  if isinstance(function, type):
    init = function.__init__  # type: ignore[misc]
    return list(inspect.signature(init).parameters.values())[1:]
  return list(inspect.signature(function).parameters.values())


def _checked(module: Any) -> nnx.Module:
  if not isinstance(module, nnx.Module):
    raise ValueError(
      f"Expected factory to return an nnx.Module, got {type(module).__name__}."
    )
  return module


def _seeded(streams: PyTree, key: jax.Array) -> PyTree:
  """Random streams anew: a key of its own for each, counters at zero."""
  leaves, structure = jax.tree.flatten(streams)
  seeded = []
  for i, leaf in enumerate(leaves):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      stream = jax.random.fold_in(key, i)
      split = jax.random.split(stream, leaf.shape) if leaf.shape else stream
      seeded.append(split)
    else:
      seeded.append(jnp.zeros(leaf.shape, leaf.dtype))
  return jax.tree.unflatten(structure, seeded)
