"""The model under study: one of the library's, or the user's own."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import Model, Variables, models
from jaxunlearn.adapters.flax import from_module
from jaxunlearn.core import checks

from ..data import Dataset
from ..files import checked_path, short

NAMES = ("mlp", "cnn", "resnet", "vit")


def load(name: str, dataset: Dataset, preset: str) -> Model:
  """Makes a model and checks that it fits the data.

  Args:
    name: "mlp", "cnn", "resnet", "vit", or "package.module:factory" with a
      function that returns a linen module or, given `nnx.Rngs`, an nnx module.
    dataset: decides the sizes.
    preset: "paper" has larger networks.

  Raises:
    ValueError: no such model, or one that does not turn a batch of the data
      into logits [B, C] of all classes, or takes no training step.
  """
  if name in NAMES:
    model = from_module(_module(name, dataset, preset))
  elif ":" in name:
    model = user_model(name)
  else:
    raise ValueError(
      f"Expected --model to be one of {', '.join(NAMES)} or "
      f"package.module:factory, got {name!r}."
    )
  _check_output(model, name, dataset)
  return model


def load_regressor(name: str, loss: Any, x: np.ndarray) -> Model:
  """A user's own model of one number a row, checked on inputs x [N, ...].

  Args:
    name: "package.module:factory"; see `load`.
    loss: see `jaxunlearn.Model`.
    x: a few rows.

  Raises:
    ValueError: no such model, one that does not turn a batch into [B, 1], or
      takes no training step.
  """
  model = user_model(name, loss=loss)
  like = _two(x)
  variables, shape = _outputs(model, name, like)
  if shape != (2, 1):
    raise ValueError(
      f"Expected --model {name} to return one number a row, [B, 1], got "
      f"{_shown(shape)}."
    )
  _check_step(model, name, variables, like, jnp.float32)
  return model


def load_checkpoint(directory: str, model: Model, x: np.ndarray) -> Variables:
  """Trained variables for the model from an Orbax checkpoint.

  Args:
    directory: of the checkpoint.
    model: as `load` made it.
    x: a few rows of inputs.

  Raises:
    ValueError: there is none, it does not fit the model, or it has nan.
  """
  return joined(directory, abstract_variables(model, x))


def joined(directory: str, like: Variables) -> Variables:
  """The same for variables of these shapes and dtypes."""
  from jaxunlearn.adapters import orbax

  try:
    path = checked_path(directory, "--checkpoint")
    variables = orbax.load_params(path, like)
  except ValueError as error:
    raise ValueError(f"--checkpoint {short(directory)}: {error}") from error
  checks.finite(variables, "--checkpoint ")
  return variables


def abstract_variables(model: Model, x: np.ndarray) -> Variables:
  """Shapes and dtypes of the model's variables, given rows of inputs."""
  return jax.eval_shape(model.init, jax.random.key(0), x[:1])


def _module(name: str, dataset: Dataset, preset: str) -> Any:
  shape, classes = dataset.train["x"].shape[1:], dataset.num_classes
  if name == "mlp":
    return models.MLP(classes)
  if len(shape) != 3:
    raise ValueError(
      f"Expected images [N, H, W, C] for --model {name}, got x of shape "
      f"[N, {', '.join(map(str, shape))}]."
    )
  if shape[0] in (1, 3) and min(shape[1:]) >= 8:
    raise ValueError(
      f"Expected images [N, H, W, C] for --model {name}, got x of shape [N, "
      f"{', '.join(map(str, shape))}], whose channels come first; transpose it "
      "by (0, 2, 3, 1)."
    )
  if name == "cnn":
    if preset == "paper":
      return models.CNN(classes, channels=(64, 128, 256), hidden=256)
    return models.CNN(classes, channels=(16, 32), hidden=64)
  if name == "resnet":
    if preset == "paper":
      return models.resnet18(classes)
    return models.ResNet(classes, (1, 1, 1), 16)
  side = next(s for s in (4, 2, 1) if not (shape[0] % s or shape[1] % s))
  side = side if min(shape[:2]) > 8 else min(side, 2)
  if preset == "paper":
    return models.ViT(classes, side, hidden_size=192, depth=6, num_heads=6)
  return models.ViT(classes, side, hidden_size=32, depth=2)


def user_model(name: str, **options: Any) -> Model:
  factory = factory_of(name)
  try:
    return from_module(factory, **options)
  except (Exception, SystemExit) as error:
    said = brief(error)
    if not said.startswith("Expected"):
      said = f"Expected a function that returns a module, got {said}"
    raise ValueError(f"--model {name}: {said}") from error


def factory_of(name: str) -> Any:
  """What "package.module:factory" names.

  Raises:
    ValueError: in one line, what cannot be imported or is not there.
  """
  place, _, attribute = name.partition(":")
  try:
    module = importlib.import_module(place)
  except ModuleNotFoundError as error:
    raise ValueError(
      f"Expected --model {name} to name a module that can be imported from "
      f"here, got no module {error.name!r}."
    ) from error
  except (Exception, SystemExit) as error:  # Whatever the module raises.
    raise ValueError(
      f"Expected --model {name} to name a module that can be imported, got "
      f"{type(error).__name__}: {error}"
    ) from error
  factory = getattr(module, attribute, None)
  if factory is None:
    raise ValueError(
      f"Expected module {place} to have {attribute!r} (--model), got none."
    )
  return factory


def num_outputs(model: Model, dataset: Dataset) -> int:
  """How many classes a model tells, C."""
  x = dataset.train["x"]
  variables = abstract_variables(model, x)
  return jax.eval_shape(model.predict, variables, x[:1]).shape[-1]


def _check_output(model: Model, name: str, dataset: Dataset) -> None:
  like = _two(dataset.train["x"])
  variables, shape = _outputs(model, name, like)
  fits = shape is not None and len(shape) == 2 and shape[0] == 2
  if not fits or shape[1] < dataset.num_classes:
    known = dataset.train["label"]
    raise ValueError(
      f"Expected --model {name} to return logits of shape [B, "
      f"{dataset.num_classes}] or wider, a column a class (labels are "
      f"{known.min()} .. {known.max()} and count from 0), got {_shown(shape)}."
    )
  _check_step(model, name, variables, like, jnp.int32)


def _two(x: np.ndarray) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)


def _rows_of(like: jax.ShapeDtypeStruct) -> str:
  return f"{like.dtype} x of shape [B, {', '.join(map(str, like.shape[1:]))}]"


def _shown(shape: tuple[int, ...] | None) -> str:
  return "no array" if shape is None else f"{list(shape)} for B = 2"


def _outputs(
  model: Model, name: str, like: jax.ShapeDtypeStruct
) -> tuple[Variables, tuple[int, ...] | None]:
  """Shapes of the variables and of the outputs for two rows."""
  try:
    variables = jax.eval_shape(model.init, jax.random.key(0), like)
    outputs = jax.eval_shape(model.predict, variables, like)
  except (Exception, SystemExit) as error:
    raise ValueError(
      f"Expected --model {name} to take {_rows_of(like)}, got {brief(error)}"
    ) from error
  if not jax.tree.leaves(variables.params):
    raise ValueError(f"Expected --model {name} to have parameters, got none.")
  dtype = getattr(outputs, "dtype", np.float32)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"Expected --model {name} to return floats, got {dtype}, of which there is "
      "no gradient."
    )
  return variables, getattr(outputs, "shape", None)


def _check_step(
  model: Model,
  name: str,
  variables: Variables,
  like: jax.ShapeDtypeStruct,
  label: Any,
) -> None:
  try:
    jax.eval_shape(
      lambda *arguments: _training_step(model, *arguments),
      variables,
      {"x": like, "label": jax.ShapeDtypeStruct((2,), label)},
      jax.random.key(0),
    )
  except Exception as error:
    raise ValueError(
      f"Expected --model {name} to take a training step on {_rows_of(like)}, "
      f"got {brief(error)}"
    ) from error


def _training_step(model: Model, variables: Variables, rows: Any, key: Any):
  """The gradient and the model state of a step, for their shapes alone."""

  def loss(params: Any):
    start = Variables(params, variables.model_state)
    outputs, state = model.apply(start, rows["x"], train=True, key=key)
    return model.loss(outputs, rows).mean(), state

  return jax.grad(loss, has_aux=True)(variables.params)


def brief(error: Exception) -> str:
  """A foreign error in one line of bearable length."""
  text = " ".join(str(error).split())
  text = text if len(text) <= 200 else text[:197] + "..."
  return (
    text if text.startswith("Expected") else f"{type(error).__name__}: {text}"
  )
