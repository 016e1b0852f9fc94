"""Drawing rows under a mask inside jit: without replacement, static shapes.

The number of rows that may be drawn is known only at run time, so an epoch is
no static number of steps. Instead of shuffling, position p of an endless
stream is mapped to a row directly: epoch p // count, and within it the image of
p % count under a pseudo-random bijection of 0 .. count - 1. That costs a few
integer operations a row, needs one sort a call and none an epoch, and a batch
may straddle two epochs, so that no batch is ever short or padded.

The bijection is the swap-or-not shuffle (Hoang, Morris and Rogaway 2012): each
round pairs x with k - x modulo count, for a random k, and swaps the pair or
not by a hash of its larger member. Each round is its own inverse on every
domain size, and after r rounds a row's place is within 2^-r of uniform.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.sharding import placed_rows
from jaxunlearn.core.transform import Env
from jaxunlearn.core.types import ALL, Draw, NoRows, PyTree, Request, Step

_ROUNDS = 16
_AHEAD = 2**22  # Draws that are made before a loop, at most: 32 MB.
_FORGET, _RETAIN, _MIXED = range(3)  # The order of `Draw.sizes`.


class Pool(NamedTuple):
  """Rows of one kind, ready to be drawn.

  Attributes:
    order: int32 [N], the numbers of the eligible rows first.
    size: int32 [], how many rows are eligible.
    weight: float32 [N], positive where eligible.
    seed: uint32 [rounds, 2], the random numbers of the shuffle.
  """

  order: jax.Array
  size: jax.Array
  weight: jax.Array
  seed: jax.Array


def make_pool(weight: jax.Array, key: jax.Array) -> Pool:
  """Gathers the rows of positive weight [N] into a pool."""
  eligible = weight > 0
  order = jnp.argsort(~eligible, stable=True).astype(jnp.int32)
  count = eligible.sum(dtype=jnp.int32)
  return Pool(order, count, weight.astype(jnp.float32), pool_seed(key))


def pool_seed(key: jax.Array) -> jax.Array:
  """The random numbers of a pool's shuffle, uint32 [rounds, 2]."""
  return jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
  """A bijective hash of uint32: xor-shifts and odd multiplications."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def draw_rows(pool: Pool, position: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The rows at given positions of the pool's endless stream.

  Args:
    pool: see `Pool`.
    position: uint32 [B]; positions e * count .. (e + 1) * count - 1 hold every
      eligible row once, in an order of their own for each epoch e.

  Returns:
    Row numbers int32 [B] and epochs int32 [B]. Of an empty pool: row 0, whose
    weight is 0.
  """
  place, epoch = places(pool.seed, pool.size, position)
  return pool.order[place], epoch


def places(
  seed: jax.Array, size: jax.Array, position: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """As `draw_rows`, the place of each row among the `size` eligible ones."""
  count = jnp.maximum(size, 1).astype(jnp.uint32)
  epoch, x = position // count, position % count
  tag = _mix(epoch + jnp.uint32(0x9E3779B9))

  def swap_or_not(x: jax.Array, round_seed: jax.Array) -> tuple[Any, None]:
    # 24 random bits give a float in [0, 1) exactly.
    unit = (_mix(round_seed[0] ^ tag) >> 8).astype(jnp.float32) * 2.0**-24
    k = jnp.floor(unit * count.astype(jnp.float32)).astype(jnp.uint32)
    k = jnp.minimum(k, count - 1)
    partner = jnp.where(x <= k, k - x, k + (count - x))
    swap = _mix(jnp.maximum(x, partner) ^ round_seed[1] ^ tag) >> 31
    return jnp.where(swap == 1, partner, x), None

  # A loop and not sixteen copies, which would be half of a phase's program.
  x, _ = jax.lax.scan(swap_or_not, x, seed)
  return x.astype(jnp.int32), epoch.astype(jnp.int32)


class Plan(NamedTuple):
  """What the batches of a phase are drawn from; a pytree of arrays.

  Attributes:
    forget: float32 [N], the share of each row in the request.
    pools: a `Pool` for each kind of row, None for a kind that is not drawn.
    forget_count: int32 [], eligible forget rows (over all devices).
    retain_count: int32 [], eligible retain rows (over all devices).
  """

  forget: jax.Array
  pools: tuple[Pool | None, ...]
  forget_count: jax.Array
  retain_count: jax.Array


def make_plan(
  data: PyTree,
  request: Request,
  draw: Draw,
  key: jax.Array,
  env: Env | None = None,
) -> Plan:
  """Prepares the draws of a phase, at the cost of a sort for each kind of row.

  Args:
    data: pytree of arrays [N, ...], for `draw.select`.
    request: masks over them; of bools if mixed rows are drawn, which are
      either forgotten or not. Rows in neither mask are never drawn.
    draw: what a step draws.
    key: PRNG key; one key, one stream of rows.
    env: devices that share a batch.

  Raises:
    ValueError: a float mask for a draw of mixed rows; a draw without rows to
      draw from.
  """
  env = Env() if env is None else env
  if request.forget is None or request.retain is None:
    if draw.sizes != (0, 0, 0):
      raise ValueError(
        "Expected data and a request over its rows for a draw of "
        f"{draw.sizes}, got a request of a concept alone."
      )
    none = jnp.zeros(0)
    request = request._replace(forget=none, retain=none)
  if draw.mixed:
    checks.hard_request(request.forget)
  select_key, *pool_keys = jax.random.split(key, 4)
  forget = request.forget.astype(jnp.float32)
  retain = request.retain.astype(jnp.float32)
  shards = env.axis_name is not None and env.sharded_rows
  if shards:
    device = jax.lax.axis_index(env.axis_name)
    pool_keys = [jax.random.fold_in(k, device) for k in pool_keys]
  weights = [forget, retain, jnp.maximum(forget, retain)]
  if draw.select is not None:
    kept = draw.select(data, request, select_key)
    weights = [jnp.where(kept, w, 0.0) for w in weights]
  pools = tuple(
    make_pool(weight, pool_key) if size else None
    for size, weight, pool_key in zip(draw.sizes, weights, pool_keys)
  )

  def total(weight: jax.Array) -> jax.Array:
    count = (weight > 0).sum(dtype=jnp.int32)
    return jax.lax.psum(count, env.axis_name) if shards else count

  return Plan(forget, pools, total(weights[_FORGET]), total(weights[_RETAIN]))


Drawn = tuple[tuple[jax.Array, jax.Array] | None, ...]


def draw_ahead(
  plan: Plan, draw: Draw, steps: jax.Array, env: Env | None = None
) -> Drawn | None:
  """The draws of many steps at once, leaves [T, B]; None if they are too many.

  Outside of the loop over the steps they cost next to nothing.
  """
  env = Env() if env is None else env
  sizes = [size for size in draw.sizes if size != ALL]
  if not 0 < math.prod((steps.shape[0], sum(sizes))) <= _AHEAD:
    return None
  return jax.vmap(lambda step: _drawn(plan, draw, step, env))(steps)


def _drawn(plan: Plan, draw: Draw, step: jax.Array, env: Env) -> Drawn:
  """Row numbers and epochs of one step for each kind that is a mini-batch."""
  devices, device = _devices(env)
  made: list[tuple[jax.Array, jax.Array] | None] = []
  for size, pool in zip(draw.sizes, plan.pools):
    if pool is None or size == ALL:
      made.append(None)
      continue
    if size % devices:
      raise ValueError(
        f"Expected a batch that {devices} devices can share, got {size} rows."
      )
    share = size // devices
    within = jnp.arange(share, dtype=jnp.int32)
    # Of rows of its own a device takes its share, of common ones its places.
    if env.sharded_rows:
      position = step * share + within
    else:
      position = step * size + within + device * share
    made.append(draw_rows(pool, position.astype(jnp.uint32)))
  return tuple(made)


def _devices(env: Env) -> tuple[Any, Any]:
  if env.axis_name is None:
    return 1, jnp.int32(0)
  index = jax.lax.axis_index(env.axis_name)
  return jax.lax.axis_size(env.axis_name), jnp.int32(index)


def row_numbers(
  plan: Plan,
  draw: Draw,
  step: jax.Array,
  env: Env | None = None,
  drawn: Drawn | None = None,
) -> Step:
  """The batch of a step as row numbers, without the rows.

  Args:
    plan: see `make_plan`.
    draw: the one it was made for; its sizes are static.
    step: int32 [].
    env: devices that share the batch; each gets its share.
    drawn: None, or this step's draws, made by `draw_ahead`.

  Raises:
    ValueError: a draw size that the number of devices does not divide.
  """
  env = Env() if env is None else env
  step = jnp.asarray(step, jnp.int32)
  drawn = _drawn(plan, draw, step, env) if drawn is None else drawn
  n = plan.forget.shape[0]
  _, device = _devices(env)
  kinds, offset = [], 0
  for kind, (size, pool, found) in enumerate(
    zip(draw.sizes, plan.pools, drawn)
  ):
    if pool is None:
      continue
    if found is None:  # Every row.
      row_id = place = jnp.arange(n, dtype=jnp.int32)
      epoch = jnp.broadcast_to(step, (n,))
    else:
      row_id, epoch = found
      share = row_id.shape[0]
      place = jnp.arange(share, dtype=jnp.int32) + device * share
    if kind == _MIXED:
      is_forget = plan.forget[row_id] > 0
    else:
      is_forget = jnp.full(row_id.shape, kind == _FORGET)
    weight = pool.weight[row_id]
    kinds.append((weight, is_forget, row_id, place + offset, epoch))
    offset += n if size == ALL else size
  if not kinds:
    return empty_batch()
  weight, forget, row_id, place, epoch = map(jnp.concatenate, zip(*kinds))
  return Step(NoRows(), weight, forget, row_id, place, epoch)


def empty_batch() -> Step:
  """The batch of a step that draws nothing."""
  none = jnp.zeros(0, jnp.int32)
  return Step(
    NoRows(), none.astype(jnp.float32), none.astype(bool), none, none, none
  )


def draw_batch(
  data: PyTree,
  plan: Plan,
  draw: Draw,
  step: jax.Array,
  env: Env | None = None,
  drawn: Drawn | None = None,
) -> Step:
  """The batch of a step with its rows, see `row_numbers`."""
  batch = row_numbers(plan, draw, step, env, drawn)
  if draw.sizes == (0, 0, 0):
    return batch
  rows = take_rows(data, batch.row_id, batch.weight)
  return batch._replace(rows=rows)


def take_rows(data: PyTree, row_id: jax.Array, weight: jax.Array) -> PyTree:
  """Rows of `data` by number; zeros where the weight is zero."""
  rows = jax.tree.map(
    lambda leaf: leaf.at[row_id].get(mode="promise_in_bounds"), data
  )
  return placed_rows(blank_rows(rows, weight))


def blank_rows(rows: PyTree, weight: jax.Array) -> PyTree:
  """Zeros in rows of weight 0: a nan there must not reach the gradient."""

  def blank(leaf: jax.Array) -> jax.Array:
    live = (weight > 0).reshape(weight.shape + (1,) * (leaf.ndim - 1))
    return jnp.where(live, leaf, jnp.zeros((), leaf.dtype))

  return jax.tree.map(blank, rows)
