"""The types everything is made of: NamedTuples of pure functions and arrays."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp

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
    sizes: static; how many of these rows, on this device, are forget, retain
      and mixed ones; None outside of a phase.
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
  sizes: tuple[int, int, int] | None = dataclasses.field(
    default=None, metadata={"static": True}
  )

  def __getitem__(self, slot: Slot[T]) -> T:
    return read_slot(self.slots, slot)

  def _replace(self, **fields: Any) -> Self:
    """A copy with other fields, as the NamedTuples have it."""
    return dataclasses.replace(self, **fields)

  def cut(self, start: int, stop: int) -> Step:
    """The step with rows start .. stop - 1 only."""
    parts = (self.rows, self.weight, self.forget, self.row_id)
    parts = jax.tree.map(
      lambda leaf: leaf[start:stop], (*parts, self.place, self.epoch)
    )
    names = ("rows", "weight", "forget", "row_id", "place", "epoch")
    return self._replace(**dict(zip(names, parts)))

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
  """Rows [B, ...] of weight 1 as a step, to ask a loss outside of a phase.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> step = ju.core.as_step({"x": jnp.array([3.0, 5.0])})
    >>> step.rows["x"].tolist(), step.weight.tolist()
    ([3.0, 5.0], [1.0, 1.0])
  """
  n = checks.num_rows(rows, "rows")
  number = jnp.arange(n, dtype=jnp.int32)
  zero = jnp.zeros(n, jnp.int32)
  ones, nowhere = jnp.ones(n, jnp.float32), jnp.zeros(n, bool)
  return Step(rows, ones, nowhere, number, number, zero, slots=slots or {})


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
