"""What a method is, and what flows through it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, given
from jaxunlearn.core.types import (
  Draw,
  Info,
  PyTree,
  Request,
  Slot,
  T,
  Variables,
  as_request,
  read_slot,
)

# `(value_and_grad, trained, key) -> (value, gradient)`.
ForgetGradient = Callable[..., tuple[jax.Array, PyTree]]


class Term(NamedTuple):
  """What is minimised besides; see `with_term`."""

  loss: Callable[..., Any]
  weight: float | jax.Array
  of: str


class Env(NamedTuple):
  """What surrounds a call and reaches every link of a chain.

  Attributes:
    axis_name: the mapped device axis over which gradients are averaged.
    sharded_rows: False, every device holds all rows and takes its share of each
      batch, so that the result is that of one device. True, each device holds
      rows of its own and draws its share of the batch from those.
    weight_masks: pytrees like `params`, or prefixes of it, entries in [0, 1];
      each multiplies the updates.
    forget_gradient: None, or what phases take for the gradient of the forget
      rows, see `by_forget_gradient`.
    terms: further terms of the objective of each phase, see `with_term`.
  """

  axis_name: str | None = None
  sharded_rows: bool = False
  weight_masks: tuple[PyTree, ...] = ()
  forget_gradient: ForgetGradient | None = None
  terms: tuple[Term, ...] = ()

  def with_term(self, *fields: Any) -> Env:
    return self._replace(terms=(*self.terms, Term(*fields)))


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
    on: of a phase, what it trains.
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
  on: str | Slot = ""
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
    given.variables(variables)
    request = as_request(request, data)
    given.rows(data)
    data = jax.tree.map(jnp.asarray, data)
    bare = not isinstance(variables, Variables)
    lifted = Variables(variables) if bare else variables
    env = Env(axis_name, sharded_rows)
    start = Carry(lifted, lifted, {})
    with given.named_columns(data):
      carry, info = self.run(start, data, request, key, env)
    made = carry.variables._replace(frozen=lifted.frozen)
    return (made.params if bare else made), info
