"""Who is where: shards and slices, decided before a row is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Request, Variables


class RetrainRequired(RuntimeError):
  """Nothing that was trained is free of what was deleted: train anew."""


class Layout(NamedTuple):
  """Where each row is, by its number alone.

  Attributes:
    shard: int32 [N], in 0 .. num_shards - 1.
    slice: int32 [N], in 0 .. num_slices - 1.
    num_shards: M, static.
    num_slices: L, static.
  """

  shard: jax.Array
  slice: jax.Array
  num_shards: int
  num_slices: int


class System(NamedTuple):
  """A model that is ready for deletions; its state is a `Variables`.

  Save the state by `adapters.orbax.save`, as any other.

  Attributes:
    fit: `(data, key, kept=None) -> state`; of rows outside of the mask `kept`
      [N] nothing is read. For a rebuild give it `state.model_state["present"]`.
    delete: the transform that serves a request; its info is a `Deleted`.
    model: predicts with all that is valid. With nothing left it raises
      `RetrainRequired`; under `jit` its outputs are nan.
    left: `state -> float []`, deletions of a random row that it can serve on
      average until nothing is left; inf where it trains again by itself.
  """

  fit: Callable[..., Variables]
  delete: Transform
  model: Model
  left: Callable[[Variables], jax.Array]


class Deleted(NamedTuple):
  """What a deletion took.

  Attributes:
    steps: int32 [], steps of training.
    share: float32 [], the same in trainings of one shard.
  """

  steps: jax.Array
  share: jax.Array


def layout(
  num_rows: int, num_shards: int, num_slices: int, key: jax.Array
) -> Layout:
  """Deals rows to shards and slices at random, as evenly as possible.

  Args:
    num_rows: N, static.
    num_shards: M, static.
    num_slices: L in each shard, static.
    key: PRNG key; must not depend on the rows.

  Raises:
    ValueError: a count below 1, or fewer rows than slices.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import exact
    >>> where = exact.layout(
    ...   12, num_shards=2, num_slices=3, key=jax.random.key(0))
    >>> jnp.bincount(where.shard).tolist(), jnp.bincount(where.slice).tolist()
    ([6, 6], [4, 4, 4])
  """
  checks.count(num_rows=num_rows, num_shards=num_shards, num_slices=num_slices)
  checks.typed_key(key)
  cells = num_shards * num_slices
  if num_rows < cells:
    raise ValueError(
      f"Expected a row for each of {num_shards} x {num_slices} slices, got "
      f"{num_rows} rows."
    )
  place = jax.random.permutation(key, num_rows).astype(jnp.int32)
  return Layout(
    place % num_shards,
    place // num_shards % num_slices,
    num_shards,
    num_slices,
  )


def check_layout(where: Layout, data: PyTree) -> None:
  """The layout is one of these rows.

  Raises:
    ValueError: another number of rows.
  """
  rows = checks.num_rows(data)
  if where.shard.shape != (rows,):
    raise ValueError(
      f"Expected a layout of {rows} rows, got one of {where.shard.shape[0]}."
    )


def gone_rows(present: jax.Array, request: Request) -> jax.Array:
  """Rows present so far that a request does not leave, bool [N]."""
  checks.hard_request(request.forget)
  return present & ~(request.retain & ~request.forget)


def expected_deletions(
  num_shards: int, num_slices: int, num_sequences: int
) -> float:
  """Deletions of a random slice until nothing is left of cyclic sequences.

  Slices are hit uniformly, with replacement; nothing is left once the first
  slices of all sequences were: M L H(M min(B, L)), H the harmonic number.

  Example:
    >>> round(expected_deletions(3, 4, 4), 2)
    37.24
  """
  checks.count(
    num_shards=num_shards, num_slices=num_slices, num_sequences=num_sequences
  )
  firsts = num_shards * min(num_sequences, num_slices)
  return num_shards * num_slices * sum(1 / i for i in range(1, firsts + 1))


def expected_cost(num_slices: int) -> float:
  """Trainings of one shard that SISA needs for a random row: (2R + 1) / 3R.

  Example:
    >>> expected_cost(1)
    1.0
  """
  checks.count(num_slices=num_slices)
  return (2 * num_slices + 1) / (3 * num_slices)
