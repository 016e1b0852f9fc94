"""A `Model` from a Flax module, linen or nnx.

The two keep their values differently; here both become `Variables`: plain
nested dicts of parameters and of model state, without boxes, frozen dicts,
graph definitions or random keys. Randomness comes from the key of each call.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxunlearn.adapters.functions import Loss, default_loss, keywords
from jaxunlearn.core.types import Model, PyTree, Variables

# What modules call the argument that tells training from evaluation.
_TRAIN_NAMES = ("train", "training", "is_training")
_EVAL_NAMES = ("deterministic", "use_running_average")

NnxFactory = Callable[[nnx.Rngs], nnx.Module]


def from_module(
  module_or_factory: Any, *, loss: Loss | None = None, **options: Any
) -> Model:
  """Makes a `Model` from whatever Flax offers.

  Args:
    module_or_factory: a linen module; a function without required arguments
      (or a linen class) that makes one; or `(rngs: nnx.Rngs) -> nnx.Module`,
      such as an nnx class whose other arguments have defaults.
    loss: `(outputs, rows) -> [B]`; softmax cross entropy on
      `rows["label"]` if None.
    **options: passed on to `from_linen` or `from_nnx`.

  Raises:
    ValueError: for anything else; for an nnx module that already exists, whose
      `init` could not depend on the key.
  """
  given = module_or_factory
  if isinstance(given, nn.Module):
    return from_linen(given, loss=loss, **options)
  if not callable(given) or isinstance(given, nnx.Module):
    raise ValueError(
      "Expected a linen module or a function (rngs) -> nnx.Module, got "
      f"{type(given).__name__}; wrap an nnx module in a function that makes it."
    )
  if _rngs_argument(given) is not None:
    return from_nnx(given, loss=loss, **options)
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
  stream it is that key.

  Args:
    module: the module; called on one positional argument.
    loss: `(outputs, rows) -> [B]`; softmax cross entropy on
      `rows["label"]` if None.
    train_argument: the name of the argument of `__call__` that tells training
      from evaluation. "auto" looks for train, training, is_training (passed
      True in training) and deterministic, use_running_average (passed False).
      None, or "auto" where there is none: the module is called the same way in
      both modes.
    rng_collections: the random streams that training needs.
    features: True, `Model.features` has the output of every submodule and
      whatever the module sows into "intermediates"; a function
      `(module, method_name) -> bool` chooses among the outputs; False, None.
      Names are paths, `Block_0/Dense_1`; where a path was called several times
      each call is one, `Block_0/Dense_1/0`.

  Raises:
    ValueError: from `apply(train=True)` if the module draws random numbers and
      there is no key, or no such stream in `rng_collections`.
  """
  if not isinstance(module, nn.Module):
    raise ValueError(
      f"Expected module to be a linen module, got {type(module).__name__}."
    )
  names = _train_arguments(module, train_argument)

  def flags(train: bool) -> dict[str, Any]:
    return {n: train != (n in _EVAL_NAMES) for n in names}

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    rngs = {"params": key}
    for i, name in enumerate(rng_collections):
      rngs[name] = jax.random.fold_in(key, i)
    made = module.init(rngs, inputs, **flags(False))
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
    if not train:
      outputs: Any = module.apply(values, inputs, **flags(False))
      return outputs, state
    try:
      outputs, moved = module.apply(
        values,
        inputs,
        rngs=_streams(key, rng_collections),
        mutable=list(state),
        **flags(True),
      )
    except flax.errors.InvalidRngError as error:
      raise ValueError(_missing_stream(key, rng_collections)) from error
    return outputs, _like(_unfreeze(moved), state)

  def intermediates(
    variables: Variables, inputs: PyTree
  ) -> dict[str, jax.Array]:
    _, captured = module.apply(
      {"params": variables.params, **variables.model_state},
      inputs,
      capture_intermediates=features,
      mutable=["intermediates"],
      **flags(False),
    )
    return _by_path(_unfreeze(captured).get("intermediates", {}))

  return Model(
    init,
    apply,
    loss or default_loss,
    None if features is False else intermediates,
  )


def from_nnx(
  factory: NnxFactory, *, loss: Loss | None = None, features: bool = True
) -> Model:
  """Makes a `Model` from a function that makes an nnx module.

  The factory runs abstractly once, here, for the graph of the module, and for
  real in `init`. Parameters are its `nnx.Param`s, model state all its other
  variables but random streams, as nested dicts by attribute; lists become
  dicts with integer keys. In training mode each random stream starts from the
  call's key folded with the stream's place in the graph.

  Args:
    factory: `(rngs: nnx.Rngs) -> nnx.Module`. It gets a fresh `nnx.Rngs(key)`
      and must take its randomness from there.
    loss: `(outputs, rows) -> [B]`; softmax cross entropy on
      `rows["label"]` if None.
    features: whether `Model.features` gives the outputs of all submodules and
      what they sow as `nnx.Intermediate`; names as in `from_linen`.

  Raises:
    ValueError: if the factory takes no rngs or returns something else; from
      `apply(train=True)` if the module has random streams and there is no key.
  """
  argument = _rngs_argument(factory)
  if argument is None:
    raise ValueError(
      "Expected factory to take nnx.Rngs, (rngs) -> nnx.Module, so that init "
      "depends on its key; got a function without such an argument."
    )
  call = lambda key: argument(nnx.Rngs(key))
  module = nnx.eval_shape(lambda: _checked(call(jax.random.key(0))))
  module.train()
  train_graph = nnx.graphdef(module)
  module.eval()
  eval_graph = nnx.graphdef(module)
  streams = nnx.to_pure_dict(nnx.state(module, nnx.RngState))
  own_state = _values(module).model_state
  is_random = bool(jax.tree.leaves(streams))

  def merged(variables: Variables, train: bool, key: jax.Array) -> nnx.Module:
    graph = train_graph if train else eval_graph
    # nnx writes in place: the state must have the dtypes that it computes in.
    state = _like(variables.model_state, own_state)
    parts = [variables.params, state, _seeded(streams, key)]
    return nnx.merge(graph, *[part for part in parts if part] or [{}])

  def init(key: jax.Array, inputs: PyTree) -> Variables:
    del inputs  # The factory knows its sizes.
    return _values(call(key))

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
    # Under capture without types, what modules sow goes nowhere.
    outputs: Any = nnx.capture(called)(inputs)
    if not train:
      return outputs, variables.model_state
    return outputs, _like(_values(called).model_state, variables.model_state)

  def intermediates(
    variables: Variables, inputs: PyTree
  ) -> dict[str, jax.Array]:
    called = merged(variables, False, jax.random.key(0))
    capture = nnx.capture(
      called, nnx.Intermediate, method_outputs=nnx.Intermediate
    )
    return _by_path(nnx.to_pure_dict(capture(inputs)[1]))

  return Model(
    init, apply, loss or default_loss, intermediates if features else None
  )


def _train_arguments(module: nn.Module, train_argument: str | None) -> list:
  if train_argument is None:
    return []
  call = type(module).__call__
  if train_argument != "auto":
    if not keywords(call, (train_argument,)):
      raise ValueError(
        "Expected train_argument to be an argument of "
        f"{type(module).__name__}.__call__, got {train_argument!r}."
      )
    return [train_argument]
  # By name only: a module that passes **kwargs on may reject the flag.
  parameters = inspect.signature(call).parameters
  return [n for n in (*_TRAIN_NAMES, *_EVAL_NAMES) if n in parameters]


def _streams(
  key: jax.Array | None, names: tuple[str, ...]
) -> dict[str, jax.Array]:
  if key is None or not names:
    return {}
  if len(names) == 1:
    return {names[0]: key}
  return dict(zip(names, jax.random.split(key, len(names))))


def _missing_stream(key: jax.Array | None, names: tuple[str, ...]) -> str:
  if key is None:
    return (
      "Expected a key for train=True, since the module draws random numbers; "
      "got key=None."
    )
  return (
    "Expected rng_collections with every random stream that the module draws "
    f"from, got {names}."
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
  """The factory as a function of rngs alone, or None if it takes none."""
  parameters = _parameters(factory)
  if any(p.name == "rngs" and p.kind != p.POSITIONAL_ONLY for p in parameters):
    return lambda rngs: factory(rngs=rngs)
  if isinstance(factory, type) and issubclass(factory, nn.Module):
    return None
  required = [
    p
    for p in parameters
    if p.default is p.empty
    and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  return factory if len(required) == 1 else None


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


def _values(module: nnx.Module) -> Variables:
  kinds = (nnx.Param, nnx.RngState, nnx.Intermediate)
  parts: Any = nnx.split(module, *kinds, ...)
  # The graph, then one state a kind, then the rest.
  return Variables(nnx.to_pure_dict(parts[1]), nnx.to_pure_dict(parts[-1]))


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
