"""What is fitted, and how: models, their losses, recipes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.types import ALL, Losses, PyTree, Step, Variables

if TYPE_CHECKING:
  from jaxunlearn.core.transform import Transform


class Fit(NamedTuple):
  """How something is fitted: the recipe of a training or of a phase.

  Attributes:
    optimizer: any optax optimiser; starts fresh.
    num_steps: static, >= 0.
    batch_size: static; rows per step, or `ALL`.
    microbatches: static; the rows of a step are taken in so many parts, one
      after the other, and their gradients added up: the same update for less
      memory. Must divide the rows of each kind.
    remat: static; whether activations are computed again for the gradient
      instead of kept.
    augment_rows: None, or a pure function `(keys [B], rows) -> rows` by which each
      step's rows are changed before the loss sees them; see `core.augment`.
  """

  optimizer: optax.GradientTransformation
  num_steps: int
  batch_size: int = 256
  microbatches: int = 1
  remat: bool = False
  augment_rows: Callable[[jax.Array, PyTree], PyTree] | None = None


class FitFields(TypedDict, total=False):
  """The fields of `Fit` as keywords of a function."""

  optimizer: optax.GradientTransformation
  num_steps: int
  batch_size: int
  microbatches: int
  remat: bool
  augment_rows: Callable[[jax.Array, PyTree], PyTree] | None


def as_fit(fit: Fit | None, fields: FitFields) -> Fit:
  """One `Fit`, however the caller wrote it.

  Args:
    fit: a `Fit`, or None.
    fields: its fields by keyword; beside a `fit` they replace those of it.

  Raises:
    ValueError: no optimizer or no num_steps; something else in the place of a
      `Fit` or of an optimiser; a count that is no whole number or too small.
  """
  unknown = set(fields) - set(Fit._fields)
  if unknown:
    raise TypeError(f"Got unexpected keyword arguments {sorted(unknown)}.")
  if fit is None:
    missing = {"optimizer", "num_steps"} - set(fields)
    if missing:
      raise ValueError(
        f"Expected a Fit, or {' and '.join(sorted(missing))} by keyword, got "
        "neither."
      )
    made = Fit(**fields)  # type: ignore[typeddict-item]
  elif isinstance(fit, Fit):
    made = fit._replace(**fields)
  else:
    raise ValueError(f"Expected fit to be a Fit, got {type(fit).__name__}.")
  checks.optimizer(made.optimizer)
  checks.count(0, num_steps=made.num_steps)
  if made.batch_size != ALL:
    checks.count(1, batch_size=made.batch_size)
  checks.count(1, microbatches=made.microbatches)
  if made.augment_rows is not None:
    checks.functions(augment_rows=made.augment_rows)
  return made


def with_extra_arguments(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """The optimiser, which is told of the extra arguments those that it takes.

  `optax.with_extra_args_support` hands all of them on to what says that it takes
  some; SAM for one takes none of `batch`, `value`, `grad` and `value_fn`.
  """
  if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
    return optax.with_extra_args_support(optimizer)
  known = inspect.signature(optimizer.update).parameters
  takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())

  def update(
    updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
  ) -> tuple[PyTree, PyTree]:
    taken = {n: v for n, v in extra.items() if takes_all or n in known}
    return optimizer.update(updates, state, params, **taken)

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


class ApplyFn(Protocol):
  """The type of `Model.apply`."""

  def __call__(
    self,
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]: ...


class Model(NamedTuple):
  """A model as pure functions; `jaxunlearn.adapters` makes one from Flax.

  Attributes:
    init: `(key, inputs) -> Variables`; `inputs` is a batch of any size [B, ...]
      of which only shape and dtype matter.
    apply: `(variables, inputs, *, train=False, key=None) -> (outputs [B, ...],
      model_state)`. With `train=False` the returned state is the one given and
      nothing is random. With `train=True` dropout draws from `key` and
      BatchNorm uses, and moves, its statistics.
    loss: `(outputs, rows) -> [B]`, the task's loss of each row; `rows` is a
      batch of the data pytree, such as `{"x": [B, ...], "label": [B]}`.
    features: None, or `(variables, inputs) -> {name: [B, ...]}`, intermediate
      activations in evaluation mode.
  """

  init: Callable[[jax.Array, PyTree], Variables]
  apply: ApplyFn
  loss: Callable[[jax.Array, PyTree], jax.Array]
  features: Callable[[Variables, PyTree], dict[str, jax.Array]] | None = None

  def predict(self, variables: Variables, inputs: PyTree) -> jax.Array:
    """Outputs in evaluation mode: `apply` without the state. Shape [B, ...]."""
    return self.apply(variables, inputs)[0]

  @property
  def task(self) -> Task:
    """The model as methods see it that need only a loss."""

    def init(key: jax.Array, data: PyTree) -> Variables:
      checks.columns(data, "x")
      zero = lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype)
      return self.init(key, jax.tree.map(zero, data["x"]))

    def loss(
      variables: Variables, step: Step, key: jax.Array, *, train: bool = False
    ) -> Losses:
      outputs, state = apply_rows(self, variables, step, key, train=train)
      return Losses(self.loss(outputs, step.rows), None, state)

    return Task(init, loss, self.predict, self.features)


def apply_rows(
  model: Model, variables: Variables, step: Step, key: jax.Array, *, train: bool
) -> tuple[jax.Array, PyTree]:
  """`model.apply` on a step's inputs; devices get dropout of their own.

  Args:
    model: a `Model`.
    variables: its variables.
    step: its rows have the inputs under "x".
    key: of dropout, in training mode.
    train: static; training mode.

  Returns:
    The outputs [B, ...] and the new model state.

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.core.types import as_step
    >>> model, variables, data, _, key = toy.classifier()
    >>> step = as_step(data)  # Objectives are given one of their batch.
    >>> logits, state = ju.core.apply_rows(
    ...   model, variables, step, key, train=True)
    >>> logits.shape, state
    ((60, 4), {})
  """
  if train:
    key = jax.random.fold_in(key, step.place[0]) if step.place.size else key
  return model.apply(variables, step.rows["x"], train=train, key=key)


class LossFn(Protocol):
  """The type of `Task.loss`."""

  def __call__(
    self,
    variables: Variables,
    step: Step,
    key: jax.Array,
    *,
    train: bool = False,
  ) -> Losses: ...


class Task(NamedTuple):
  """What is fitted, as far as methods need to know that need only a loss.

  Every kind of model has one: `model.task` of a `Model`, a graph, a recommender
  or a diffusion model.

  Attributes:
    init: `(key, data) -> Variables`; of the data only shapes and dtypes matter.
    loss: `(variables, step, key, *, train=False) -> Losses`, one per row of the
      step. With `train=True` dropout draws from the key and BatchNorm uses, and
      moves, its statistics.
    predict: None, or `(variables, inputs) -> outputs [B, ...]`.
    features: None, or `(variables, inputs) -> {name: [B, ...]}`.
    prepare: None, or a link that brings a model up to date with a request
      before it is fitted: takes edges out of a graph, builds the graph of the
      retained interactions.
  """

  init: Callable[[jax.Array, PyTree], Variables]
  loss: LossFn
  predict: Callable[[Variables, PyTree], jax.Array] | None = None
  features: Callable[[Variables, PyTree], dict[str, jax.Array]] | None = None
  prepare: Transform | None = None


def as_task(task: Any) -> Task:
  """A `Task`, or the one of a model of any room.

  Raises:
    ValueError: it is neither.
  """
  found = task if isinstance(task, Task) else getattr(task, "task", None)
  if not isinstance(found, Task):
    raise ValueError(
      f"Expected a Task or a model with one, got {type(task).__name__}; "
      "jaxunlearn.adapters makes a Model of a Flax module."
    )
  return found
