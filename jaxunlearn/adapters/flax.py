"""A `Model` from a Flax module, linen or nnx.

The two keep their values differently; here both become `Variables`: plain
nested dicts of parameters and of model state, without boxes, frozen dicts,
graph definitions or random keys. Randomness comes from the key of each call.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import jax
from flax import linen as nn
from flax import nnx

from jaxunlearn.adapters.flags import asleep, find_flags
from jaxunlearn.adapters.functions import Loss, default_loss
from jaxunlearn.adapters.nnx_modules import (
  by_path,
  from_nnx,
  like,
  matters,
  refuse_unfilled,
  rngs_argument,
  variables_of,
  with_variables,
)
from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables

__all__ = [
  "from_linen",
  "from_module",
  "from_nnx",
  "variables_of",
  "with_variables",
]


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

  Example:
    >>> import functools
    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxunlearn.adapters import flax
    >>> from jaxunlearn.models import MLP
    >>> x = jnp.ones((2, 4))
    >>> for module in (MLP(num_classes=3), functools.partial(nnx.Linear, 4, 3)):
    ...   model = flax.from_module(module)
    ...   variables = model.init(jax.random.key(0), x)
    ...   print(model.predict(variables, x).shape, len(variables.params))
    (2, 3) 3
    (2, 3) 2
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
  if rngs_argument(given) is not None:
    return from_nnx(given, loss=loss, **options)
  refuse_unfilled(given, ())
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

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn.adapters import flax
    >>> from jaxunlearn.models import MLP
    >>> model = flax.from_linen(MLP(num_classes=3, hidden=(8,)))
    >>> x = jnp.ones((2, 4))
    >>> variables = model.init(jax.random.key(0), x)
    >>> model.predict(variables, x).shape
    (2, 3)
    >>> sorted(model.features(variables, x))
    ['Dense_0', 'Dense_1', 'Dropout_0', 'features', 'hidden0']
  """
  if not isinstance(module, nn.Module):
    raise ValueError(
      f"Expected module to be a linen module, got {type(module).__name__}."
    )
  checks.functions(loss=loss or default_loss)
  call = type(module).__call__
  flags = find_flags(
    call, train_argument, type(module).__name__, _fields(module)
  )
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
      raise ValueError(asleep(type(module).__name__, layers.asleep))
    return outputs, like(_unfreeze(moved), state)

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
    return by_path(_unfreeze(captured).get("intermediates", {}))

  return Model(
    init,
    apply,
    loss or default_loss,
    None if features is False else intermediates,
  )


def _fields(module: nn.Module) -> list[str]:
  """Fields of the module that may be a flag."""
  made = [f.name for f in dataclasses.fields(module)]
  return [n for n in made if isinstance(getattr(module, n), bool | None)]


_FLAG_OF = {nn.Dropout: "deterministic", nn.BatchNorm: "use_running_average"}


class _Layers:
  """Notes which layers that behave otherwise in training do so."""

  def __init__(self) -> None:
    self.awake: list[str] = []
    self.asleep: list[str] = []

  def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    name = _FLAG_OF.get(type(layer))
    if name and context.method_name == "__call__" and matters(layer):
      given = (*args[1:2], kwargs.get(name), getattr(layer, name, None))
      flag = next((f for f in given if f is not None), None)
      (self.asleep if flag else self.awake).append(type(layer).__name__)
    return call(*args, **kwargs)


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
