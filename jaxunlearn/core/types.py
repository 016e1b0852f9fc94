"""The types everything is made of: NamedTuples of pure functions and arrays."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import (
  Any,
  Generic,
  NamedTuple,
  Protocol,
  Self,
  TypedDict,
  TypeVar,
)

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks

PyTree = Any
Info = Any
T = TypeVar("T")

ALL = -1  # In a `Draw`: every row at every step, instead of a mini-batch.


class Variables(NamedTuple):
  """A model's values: what stands in the place of `params` everywhere.

  Attributes:
    params: pytree of float arrays; the only part that optimisers change.
    model_state: pytree of what the model carries beside them (BatchNorm's
      running statistics, ...); an empty dict where there is none.
    frozen: pytree that is read only (a base under adapters): never
      differentiated or averaged over devices; a transform returns it as it is.
  """

  params: PyTree
  model_state: PyTree = {}  # noqa: RUF012  never written to
  frozen: PyTree = {}  # noqa: RUF012  never written to


class Request(NamedTuple):
  """What must be forgotten, and what may be used to keep the rest.

  Rows in neither mask are invisible to every method: forgotten earlier, never
  trained on, or padding. A bare mask m stands for `Request(m, ~m)`.

  Attributes:
    forget: bool [N], or float [N] in [0, 1], the share of a row that must go;
      None for a request of a concept alone.
    retain: of the same kind, the share that may be used to keep the rest.
    concept: pytree of arrays of fixed shapes: prompts, anchors, classes, an
      identity; None where rows say it all.
  """

  forget: jax.Array = None  # type: ignore[assignment]
  retain: jax.Array = None  # type: ignore[assignment]
  concept: PyTree = None


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
  """

  optimizer: optax.GradientTransformation
  num_steps: int
  batch_size: int = 256
  microbatches: int = 1
  remat: bool = False


class FitFields(TypedDict, total=False):
  """The fields of `Fit` as keywords of a function."""

  optimizer: optax.GradientTransformation
  num_steps: int
  batch_size: int
  microbatches: int
  remat: bool


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
  return made


class ApplyFn(Protocol):
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
  """`model.apply` on a step's inputs; devices get dropout of their own."""
  if train:
    key = jax.random.fold_in(key, step.place[0]) if step.place.size else key
  return model.apply(variables, step.rows["x"], train=train, key=key)


class Losses(NamedTuple):
  """What an objective returns; a bare array [B] is `Losses(array)`.

  Attributes:
    value: [B], per row a sum over whatever `weight` counts.
    weight: [B] >= 0, how much there is to average over in a row: tokens,
      pixels, edges; None is 1. A phase divides the sum of the values by the sum
      of the weights. A row of weight 0 does not count.
    model_state: the model's new state; None leaves it alone.
  """

  value: jax.Array
  weight: jax.Array | None = None
  model_state: PyTree = None


class Slot(Generic[T]):
  """A typed name under which links of a chain leave something for later ones.

  Two slots are never the same, whatever their labels. As keys of a dict they
  are ordered by label and then by age, so that a program built alike in
  another process has its leaves in the same order.
  """

  _ages = itertools.count()

  def __init__(self, label: str):
    self.label = label
    self._age = next(Slot._ages)

  def __repr__(self) -> str:
    return self.label

  def __lt__(self, other: Slot) -> bool:
    return (self.label, self._age) < (other.label, other._age)


@jax.tree_util.register_pytree_node_class
class NoRows:
  """In the place of a step's rows where nothing is drawn."""

  def __getitem__(self, name: Any) -> Any:
    raise ValueError(
      f"Expected a draw of rows for an objective that reads {name!r}, got "
      "draw=Draw(), which draws nothing."
    )

  def tree_flatten(self) -> tuple[tuple[()], None]:
    return (), None

  @classmethod
  def tree_unflatten(cls, aux: None, children: tuple[()]) -> NoRows:
    del aux, children
    return cls()


class Draw(NamedTuple):
  """How many rows a step draws, and so what data a method needs.

  Rows are drawn without replacement within an epoch (a pass over the rows of
  that kind), uniformly at random. A count of `ALL` takes every row of that
  kind at every step. A draw of nothing means no access to data.

  Attributes:
    forget: rows of the forget set per step.
    retain: rows of the retain set per step.
    mixed: rows of both together, in their natural proportion.
    select: None, or `(data, request, key) -> bool [N]`, the rows that may be
      drawn at all (a method that sees a part of the retain set only).
    source: None, or the slot of a pytree of arrays [M, ...] to draw from
      instead of the data (generated images); all of its rows count as retain
      rows. Such a draw needs no data.
  """

  forget: int = 0
  retain: int = 0
  mixed: int = 0
  select: Callable[[PyTree, Request, jax.Array], jax.Array] | None = None
  source: Slot[PyTree] | None = None

  @property
  def sizes(self) -> tuple[int, int, int]:
    return self.forget, self.retain, self.mixed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
  """What an objective sees: first the forget rows, then retain, then mixed ones.

  `step[slot]` is what an earlier link left in a `Slot`.

  Attributes:
    rows: the data pytree, leaves [B, ...]; rows of weight 0 are zeros.
    weight: float32 [B], 0 marks padding; a soft request's share otherwise.
    forget: bool [B], whether the row is in the request.
    row_id: int32 [B], the row's place in the data.
    place: int32 [B], its place in the step's batch over all devices; folding it
      into the step's key gives randomness that does not depend on how many
      devices share the batch.
    epoch: int32 [B], how many passes over its kind came before.
    index: int32 [], the number of the step within its phase.
    original: the variables that the outermost transform was given.
    variables: the current variables.
    slots: what earlier links of a chain left, by slot.
  """

  rows: PyTree
  weight: jax.Array
  forget: jax.Array
  row_id: jax.Array
  place: jax.Array
  epoch: jax.Array
  index: Any = 0
  original: Any = None
  variables: Any = None
  slots: Mapping[Slot, PyTree] = dataclasses.field(default_factory=dict)

  def __getitem__(self, slot: Slot[T]) -> T:
    return read_slot(self.slots, slot)

  def _replace(self, **fields: Any) -> Self:
    """A copy with other fields, as the NamedTuples have it."""
    return dataclasses.replace(self, **fields)

  def keys(self, key: jax.Array) -> jax.Array:
    """A key per row, whatever device holds it: PRNG keys [B]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, self.place)


def read_slot(slots: Mapping[Slot, PyTree], slot: Slot[T]) -> T:
  """The entry of a slot.

  Raises:
    ValueError: no earlier link filled it.
  """
  if slot not in slots:
    raise ValueError(
      f"Expected an earlier link to provide {slot.label!r}, got "
      f"{sorted(s.label for s in slots)}."
    )
  return slots[slot]


def as_step(rows: PyTree, slots: Mapping[Slot, PyTree] | None = None) -> Step:
  """Rows [B, ...] of weight 1 as a step, to ask a loss outside of a phase."""
  n = checks.num_rows(rows, "rows")
  number = jnp.arange(n, dtype=jnp.int32)
  zero = jnp.zeros(n, jnp.int32)
  ones, nowhere = jnp.ones(n, jnp.float32), jnp.zeros(n, bool)
  return Step(rows, ones, nowhere, number, number, zero, slots=slots or {})


class LossFn(Protocol):
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


class Env(NamedTuple):
  """What surrounds a call and reaches every link of a chain.

  Attributes:
    axis_name: the mapped device axis over which gradients are averaged.
    sharded_rows: False, every device holds all rows and takes its share of each
      batch, so that the result is that of one device. True, each device holds
      rows of its own and draws its share of the batch from those.
    weight_masks: pytrees like `params`, or prefixes of it, entries in [0, 1];
      each multiplies the updates.
  """

  axis_name: str | None = None
  sharded_rows: bool = False
  weight_masks: tuple[PyTree, ...] = ()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Carry:
  """What flows from link to link of a chain; `carry[slot]` reads a slot."""

  variables: Variables
  original: Variables
  slots: dict[Slot, PyTree]

  def __getitem__(self, slot: Slot[T]) -> T:
    return read_slot(self.slots, slot)

  def _replace(self, **fields: Any) -> Self:
    """A copy with other fields, as the NamedTuples have it."""
    return dataclasses.replace(self, **fields)

  def put(self, slot: Slot[T], value: T) -> Carry:
    """The carry with something in a slot."""
    return self._replace(slots={**self.slots, slot: value})


class PhaseState(NamedTuple):
  """The state of a phase between two steps.

  Attributes:
    trained: the pytree that the optimiser changes; half-precision leaves are
      kept in float32, so that small steps add up.
    model_state: see `Variables`.
    opt_state: of the optax optimiser.
    step: int32 [], steps done.
    begin: int32 [], the step at which this stretch began; not 0 where a phase
      goes on in rounds.
    carry: what entered the phase; constant.
  """

  trained: PyTree
  model_state: PyTree
  opt_state: PyTree
  step: jax.Array
  begin: jax.Array
  carry: Carry

  def moving(self) -> tuple[PyTree, PyTree, PyTree, jax.Array]:
    """What changes from step to step."""
    return self.trained, self.model_state, self.opt_state, self.step

  def moved_to(self, moving: tuple[Any, ...]) -> PhaseState:
    """The state with another `moving` part."""
    trained, model_state, opt_state, step = moving
    return PhaseState(
      trained, model_state, opt_state, step, self.begin, self.carry
    )


class PhaseInfo(NamedTuple):
  """What a phase leaves behind.

  Attributes:
    loss: float32 [num_steps], the objective before each update.
    is_finite: bool [], whether every loss and every final parameter is finite.
    forget_count: int32 [], rows of the forget set that could be drawn.
    retain_count: int32 [], rows of the retain set that could be drawn.
    moved: float32 [], the share of the trained weights that differ from what
      the phase began with; 0 says that nothing happened.
  """

  loss: jax.Array
  is_finite: jax.Array
  forget_count: jax.Array
  retain_count: jax.Array
  moved: jax.Array


def _no_steps(*args: Any) -> Any:
  raise ValueError(
    "Expected a phase, got a transform without steps of its own; walk over "
    "`transform.expand(key)`."
  )


# A frozen dataclass and no NamedTuple because `jax.jit` keeps weak references to
# what it wraps, which no kind of tuple allows.
@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
  """An unlearning method: `(params, data, request, key) -> (params, info)`.

  Made by `phase`, `edit`, `provide` and the combinators; calling it is the
  method, one compiled loop per phase, safe under `jit`, `vmap` and `pmap`.

  Attributes:
    name: the key under which a chain files this link's info.
    run: `(carry, data, request, key, env) -> (carry, info)`.
    num_steps: optimisation steps altogether.
    needs: the largest draw of any of its steps.
    expand: `key -> [(link, key), ...]`, the primitive links in order with the
      keys that `run` would give them; what a host loop walks over.
    reads: of a one-shot link: "nothing" of the data, "shapes" only, or "rows".
    is_phase: whether it is one phase, with the functions below; an edit or a
      composition has none.
    init: `(carry, key, env) -> state`.
    step: `(state, batch, key, env) -> (state, loss)`.
    walk: `(state, data, request, key, env, plan=None) -> (state, info)`, all
      its steps, drawn by a plan that is there already or made for them.
    finish: `state -> carry`.
    info: `(state, losses, forget_count, retain_count) -> PhaseInfo`, at its end.
    memory: of a phase, the slot of the optimiser's state that it goes on from.
    count: likewise of the steps that it has done.
  """

  name: str
  run: Callable[[Carry, PyTree, Request, jax.Array, Env], tuple[Carry, Info]]
  num_steps: int
  needs: Draw
  expand: Callable[[jax.Array], list[tuple[Transform, jax.Array]]]
  reads: str = "nothing"
  is_phase: bool = False
  init: Callable[..., Any] = _no_steps
  step: Callable[..., Any] = _no_steps
  walk: Callable[..., Any] = _no_steps
  finish: Callable[..., Any] = _no_steps
  info: Callable[..., Any] = _no_steps
  memory: Slot[PyTree] | None = None
  count: Slot[jax.Array] | None = None

  @functools.cached_property
  def compiled(self) -> Callable[..., tuple[Any, Info]]:
    """The call under `jax.jit`; it lives as long as the transform."""
    return jax.jit(self.__call__)

  @functools.cached_property
  def compiled_step(self) -> Callable[..., tuple[Any, jax.Array]]:
    """`(moving, begin, carry, batch, key) -> (moving, loss)`, `moving` donated."""

    def step(moving, begin, carry, batch, key):
      state = PhaseState(*moving, begin, carry)
      state, loss = self.step(state, batch, key, Env())
      return state.moving(), loss

    return jax.jit(step, donate_argnums=0)

  def __call__(
    self,
    variables: Variables,
    data: PyTree,
    request: Request | jax.Array,
    key: jax.Array,
    *,
    axis_name: str | None = None,
    sharded_rows: bool = False,
  ) -> tuple[Variables, Info]:
    """Applies the method.

    Args:
      variables: the original model. `Variables`, or a bare params pytree, which
        comes back as one.
      data: pytree of arrays [N, ...], the training rows; None for a method that
        reads none.
      request: a `Request`, or a bare mask over the rows: bool [N], True =
        forget, or float weights in [0, 1] where the method allows a soft
        request.
      key: typed PRNG key, `jax.random.key(seed)`.
      axis_name: name of the `pmap` or `shard_map` axis over which the batch is
        shared and gradients are averaged.
      sharded_rows: see `Env`.

    Returns:
      The unlearned variables, same structure and dtypes, and the info: one per
      link, by name.
    """
    checks.typed_key(key)
    request = as_request(request, data)
    data = jax.tree.map(jnp.asarray, data)
    bare = not isinstance(variables, Variables)
    lifted = Variables(variables) if bare else variables
    env = Env(axis_name, sharded_rows)
    carry, info = self.run(Carry(lifted, lifted, {}), data, request, key, env)
    made = carry.variables._replace(frozen=lifted.frozen)
    return (made.params if bare else made), info


def as_request(value: Any, data: PyTree = None) -> Request:
  """A `Request`, or the one that a bare mask m stands for: m and the rest.

  Args:
    value: `Request`; or bool [N] or float [N], True = forget.
    data: None, or the rows [N, ...] that it has to fit.

  Raises:
    ValueError: a mask of another length or dtype; masks without data.
  """
  if not isinstance(value, Request):
    checks.request(data, value)
    forget = jnp.asarray(value)
    is_hard = forget.dtype == jnp.bool_
    return Request(forget, ~forget if is_hard else 1 - forget)
  if value.forget is None and value.retain is None:
    return value
  if value.forget is None or value.retain is None:
    raise ValueError(
      "Expected a Request with forget and retain, or with neither, got one."
    )
  checks.request(data, value.forget, "request.forget")
  checks.request(data, value.retain, "request.retain")
  forget, retain = jnp.asarray(value.forget), jnp.asarray(value.retain)
  return value._replace(forget=forget, retain=retain)
