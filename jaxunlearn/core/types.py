"""The types everything is made of: NamedTuples of pure functions and arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks

PyTree = Any
Info = Any

ALL = -1  # In a `Draw`: every row at every step, instead of a mini-batch.


class Variables(NamedTuple):
  """A model's values: what stands in the place of `params` everywhere.

  Attributes:
    params: pytree of float arrays; the only part that optimisers change.
    model_state: pytree of what the model carries beside them (BatchNorm's
      running statistics, ...); an empty dict where there is none.
  """

  params: PyTree
  model_state: PyTree = {}  # noqa: RUF012  never written to


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


class Draw(NamedTuple):
  """How many rows a step draws, and so what data a method needs.

  Rows are drawn without replacement within an epoch (a pass over the rows of
  that kind), uniformly at random. A count of `ALL` takes every row of that
  kind at every step. A draw of nothing means no access to data.

  Attributes:
    forget: rows of the forget set a step.
    retain: rows of the retain set a step.
    mixed: rows of both together, in their natural proportion.
    select: None, or `(data, forget_mask, key) -> bool [N]`, the rows that may
      be drawn at all (a method that sees a part of the retain set only).
  """

  forget: int = 0
  retain: int = 0
  mixed: int = 0
  select: Callable[[PyTree, jax.Array, jax.Array], jax.Array] | None = None

  @property
  def sizes(self) -> tuple[int, int, int]:
    return self.forget, self.retain, self.mixed


class Context(NamedTuple):
  """What a step may look at beside its rows.

  Attributes:
    original: the variables that the outermost transform was given (frozen).
    variables: the current variables (for phases that optimise something else).
    extra: what earlier links of a chain left by name: learned noise, a teacher.
    step: int32 [], the index of the step within its phase.
  """

  original: Variables
  variables: Variables
  extra: Mapping[str, PyTree]
  step: jax.Array


class Batch(NamedTuple):
  """The rows of one step: first the forget rows, then retain, then mixed ones.

  Attributes:
    rows: the data pytree, leaves [B, ...]; rows of weight 0 are zeros.
    weight: float32 [B], 0 marks padding; a soft request's share otherwise.
    forget: bool [B], whether the row is in the request.
    row_id: int32 [B], the row's place in the data.
    slot: int32 [B], its place in the step's batch over all devices; folding it
      into the step's key gives randomness that does not depend on how many
      devices share the batch.
    epoch: int32 [B], how many passes over its kind came before.
    context: see `Context`; filled in by the phase.
  """

  rows: PyTree
  weight: jax.Array
  forget: jax.Array
  row_id: jax.Array
  slot: jax.Array
  epoch: jax.Array
  context: Any = None


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


class Carry(NamedTuple):
  """What flows from link to link of a chain."""

  variables: Variables
  original: Variables
  extra: dict[str, PyTree]


class PhaseState(NamedTuple):
  """The state of a phase between two steps.

  Attributes:
    trained: the pytree that the optimiser changes.
    model_state: see `Variables`.
    opt_state: of the optax optimiser.
    step: int32 [], steps done.
    carry: what entered the phase; constant.
  """

  trained: PyTree
  model_state: PyTree
  opt_state: PyTree
  step: jax.Array
  carry: Carry

  def moving(self) -> tuple[PyTree, PyTree, PyTree, jax.Array]:
    """What changes from step to step: all but `carry`."""
    return self.trained, self.model_state, self.opt_state, self.step


class PhaseInfo(NamedTuple):
  """What a phase leaves behind.

  Attributes:
    loss: float32 [num_steps], the objective before each update.
    is_finite: bool [], whether every loss and every final parameter is finite.
    forget_count: int32 [], rows of the forget set that could be drawn.
    retain_count: int32 [], rows of the retain set that could be drawn.
  """

  loss: jax.Array
  is_finite: jax.Array
  forget_count: jax.Array
  retain_count: jax.Array


def _no_steps(*args: Any) -> Any:
  raise ValueError(
    "Expected a phase, got a transform without steps of its own; walk over "
    "`transform.expand(key)`."
  )


# A frozen dataclass and no NamedTuple because `jax.jit` keeps weak references to
# what it wraps, which no kind of tuple allows.
@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
  """An unlearning method: `(params, data, forget_mask, key) -> (params, info)`.

  Made by `phase`, `edit`, `provide` and the combinators; calling it is the
  method, one compiled loop per phase, safe under `jit`, `vmap` and `pmap`.

  Attributes:
    name: the key under which a chain files this link's info.
    run: `(carry, data, forget_mask, key, env) -> (carry, info)`.
    num_steps: optimisation steps altogether.
    needs: the largest draw of any of its steps.
    expand: `key -> [(link, key), ...]`, the primitive links in order with the
      keys that `run` would give them; what a host loop walks over.
    reads: of a one-shot link: "nothing" of the data, "shapes" only, or "rows".
    is_phase: whether it is one phase, with the three functions below; an edit or
      a composition has none.
    init: `(carry, key, env) -> state`.
    step: `(state, batch, key, env) -> (state, loss)`.
    finish: `state -> carry`.
  """

  name: str
  run: Callable[[Carry, PyTree, jax.Array, jax.Array, Env], tuple[Carry, Info]]
  num_steps: int
  needs: Draw
  expand: Callable[[jax.Array], list[tuple[Transform, jax.Array]]]
  reads: str = "nothing"
  is_phase: bool = False
  init: Callable[..., Any] = _no_steps
  step: Callable[..., Any] = _no_steps
  finish: Callable[..., Any] = _no_steps

  @functools.cached_property
  def compiled(self) -> Callable[..., tuple[Any, Info]]:
    """The call under `jax.jit`; it lives as long as the transform."""
    return jax.jit(self.__call__)

  @functools.cached_property
  def compiled_step(self) -> Callable[..., tuple[Any, jax.Array]]:
    """`(moving, carry, batch, key) -> (moving, loss)`, `moving` donated."""

    def step(moving, carry, batch, key):
      state, loss = self.step(PhaseState(*moving, carry), batch, key, Env())
      return state.moving(), loss

    return jax.jit(step, donate_argnums=0)

  def __call__(
    self,
    variables: Variables,
    data: PyTree,
    forget_mask: jax.Array,
    key: jax.Array,
    *,
    axis_name: str | None = None,
    sharded_rows: bool = False,
  ) -> tuple[Variables, Info]:
    """Applies the method.

    Args:
      variables: the original model. `Variables`, or a bare params pytree, which
        comes back as one.
      data: pytree of arrays [N, ...], the training rows.
      forget_mask: bool [N], True = forget; or float weights in [0, 1] where the
        method allows a soft request.
      key: typed PRNG key, `jax.random.key(seed)`.
      axis_name: name of the `pmap` or `shard_map` axis over which the batch is
        shared and gradients are averaged.
      sharded_rows: see `Env`.

    Returns:
      The unlearned variables, same structure and dtypes, and the info: one per
      link, by name.
    """
    checks.request(data, forget_mask)
    data = jax.tree.map(jnp.asarray, data)
    forget_mask = jnp.asarray(forget_mask)
    bare = not isinstance(variables, Variables)
    lifted = Variables(variables) if bare else variables
    carry = Carry(lifted, lifted, {})
    env = Env(axis_name, sharded_rows)
    carry, info = self.run(carry, data, forget_mask, key, env)
    return (carry.variables.params if bare else carry.variables), info
