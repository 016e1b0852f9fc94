"""nnx modules as models, and their values back into modules."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxunlearn.adapters.flags import FLAG_SIGNS, asleep, find_flags
from jaxunlearn.adapters.functions import Loss, default_loss
from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables

NnxFactory = Callable[[nnx.Rngs], nnx.Module]


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
    argument = rngs_argument(factory)
    if argument is None:
      raise ValueError(
        "Expected factory to take nnx.Rngs, (rngs) -> nnx.Module, so that init "
        "depends on its key; got a function without such an argument."
      )
    call = lambda key: argument(nnx.Rngs(key))
    module = nnx.eval_shape(lambda: _checked(call(jax.random.key(0))))
  name = type(module).__name__
  flags = find_flags(type(module).__call__, train_argument, name, ())
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
    state = like(variables.model_state, own_state)
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
      raise ValueError(asleep(name, sleepers))
    state = variables_of(called).model_state
    return outputs, like(state, variables.model_state)

  def intermediates(
    variables: Variables, inputs: PyTree
  ) -> dict[str, jax.Array]:
    called = merged(variables, False, jax.random.key(0))
    capture = nnx.capture(
      called, nnx.Intermediate, method_outputs=nnx.Intermediate
    )
    made = capture(inputs, **flags.arguments(False))[1]
    return by_path(nnx.to_pure_dict(made))

  return Model(
    init, apply, loss or default_loss, intermediates if features else None
  )


def variables_of(module: nnx.Module | nnx.State) -> Variables:
  """The values of an nnx module, as a `Model` of `from_nnx` takes them.

  Args:
    module: the module, or its `nnx.state`.

  Example:
    >>> import jax
    >>> from flax import nnx
    >>> from jaxunlearn.adapters import flax
    >>> variables = flax.variables_of(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    >>> jax.tree.map(lambda leaf: leaf.shape, variables.params)
    {'bias': (3,), 'kernel': (4, 3)}
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

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxunlearn.adapters import flax
    >>> module = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    >>> ones = jax.tree.map(jnp.ones_like, flax.variables_of(module))
    >>> changed = flax.with_variables(module, ones)
    >>> changed(jnp.ones((1, 4))).tolist()  # Four, and a bias.
    [[5.0, 5.0, 5.0]]
  """
  checks.same_structure(variables, variables_of(module), "variables")
  copy = nnx.clone(module)
  state = nnx.state(copy)
  for part in variables:
    nnx.replace_by_pure_dict(state, part)
  nnx.update(copy, state)
  return copy


def _set_mode(module: nnx.Module, train: bool) -> None:
  """As `nnx.Module.train` and `eval`, for flags by other names as well."""
  (module.train if train else module.eval)()
  for _, part in nnx.iter_modules(module):
    for name, sign in FLAG_SIGNS.items():
      if isinstance(vars(part).get(name), bool):
        setattr(part, name, train == sign)


def matters(layer: Any) -> bool:
  """Not a dropout that drops nothing.

  Example:
    >>> from flax import nnx
    >>> from jaxunlearn.adapters import nnx_modules
    >>> layers = [nnx.Dropout(rate, rngs=nnx.Rngs(0)) for rate in (0.0, 0.5)]
    >>> [nnx_modules.matters(layer) for layer in layers]
    [False, True]
  """
  return getattr(layer, "rate", 1.0) != 0.0


def _sleepers(module: nnx.Module) -> list[str]:
  """The layers of an nnx module that behave otherwise in training."""
  kinds = (nnx.Dropout, nnx.BatchNorm)
  return [
    type(layer).__name__
    for _, layer in nnx.iter_modules(module)
    if isinstance(layer, kinds) and matters(layer)
  ]


def like(state: PyTree, given: PyTree) -> PyTree:
  """The state in the dtypes of the one given: a scan's carry may not change.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.adapters import nnx_modules
    >>> moved = {"mean": jnp.ones(2)}
    >>> before = {"mean": jnp.zeros(2, jnp.bfloat16)}
    >>> str(nnx_modules.like(moved, before)["mean"].dtype)
    'bfloat16'
  """
  return jax.tree.map(lambda new, old: new.astype(old.dtype), state, given)


def by_path(tree: Mapping[Any, Any]) -> dict[str, jax.Array]:
  """Flattens captured activations; the module's own output is left out.

  Example:
    >>> from jaxunlearn.adapters import nnx_modules
    >>> captured = {
    ...   "dense": {"__call__": (1.0,)}, "twice": {"__call__": (2.0, 3.0)}}
    >>> nnx_modules.by_path(captured)
    {'dense': 1.0, 'twice/0': 2.0, 'twice/1': 3.0}
  """
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


def rngs_argument(factory: Callable) -> Callable[[nnx.Rngs], Any] | None:
  """The factory as a function of rngs alone, or None if it takes none.

  Raises:
    ValueError: it wants other arguments beside them.

  Example:
    >>> import functools
    >>> from flax import nnx
    >>> from jaxunlearn.adapters import nnx_modules
    >>> make = nnx_modules.rngs_argument(functools.partial(nnx.Linear, 4, 3))
    >>> make(nnx.Rngs(0)).kernel.shape
    (4, 3)
  """
  parameters = _parameters(factory)
  if any(p.name == "rngs" and p.kind != p.POSITIONAL_ONLY for p in parameters):
    refuse_unfilled(factory, ("rngs",))
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


def refuse_unfilled(function: Callable, filled: Collection[str]) -> None:
  """Raises a ValueError for arguments that nobody fills in.

  Example:
    >>> from jaxunlearn.adapters import nnx_modules
    >>> def net(width, depth=2):
    ...   return width * depth
    >>> nnx_modules.refuse_unfilled(net, ["width"])
    >>> nnx_modules.refuse_unfilled(net, [])
    Traceback (most recent call last):
      ...
    ValueError: Expected a function whose arguments are filled in, got net,
    which wants width; functools.partial(net, ...) fills them in.
  """
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
