"""S3T: adapters learned in several orders of slices, turned off to delete.

Source: Chowdhury et al., "Towards Scalable Exact Machine Unlearning Using
Parameter-Efficient Fine-Tuning", ICLR 2025, arXiv:2406.16257.
Class: exact, given a backbone that saw none of the rows.
Data access: none to delete.
Cost: none to delete, until nothing is left; then a training of all.

A stage is trained on all slices of its sequence so far, as in the released code;
the paper's text has disjoint ones, `cumulative=False`. Both are exact.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.training import map_many
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Request, Variables
from jaxunlearn.exact.layout import (
  Deleted,
  Layout,
  System,
  check_layout,
  gone_rows,
)
from jaxunlearn.exact.lora import low_rank
from jaxunlearn.exact.sisa import check_alive, mean_alive, no_init
from jaxunlearn.exact.stages import train_stage


def s3t(
  model: Model,
  base: Variables,
  where: Layout,
  orders: np.ndarray,
  fit: Fit,
  *,
  rank: int = 4,
  cumulative: bool = True,
  strategy: str | int = "map",
) -> System:
  """In each shard a set of adapters per sequence and stage, on one backbone.

  Stage i of a sequence trains the i-th block of adapters from the top, and the
  head, on the first i slices of its order; what the stages before it trained is
  frozen. So what it leaves depends on these slices alone.

  Args:
    model: a classifier; its last layer is the head.
    base: the backbone's variables, from rows that are never deleted.
    where: the rows' shards and slices.
    orders: int [B, L], see `sequences`; chosen before any request is seen.
    fit: of a stage.
    rank: of the adapters, static.
    cumulative: static; whether a stage sees the slices before its own too.
    strategy: how shards and sequences are mapped in training; see `map_many`.

  Returns:
    A `System`; its state has params [M, B, L, ...], and how many stages of each
    sequence are valid, int32 [M, B].

  Raises:
    ValueError: orders that are not permutations of the slices.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import exact, toy
    >>> model, base, data, _, key = toy.classifier()
    >>> where = exact.layout(60, num_shards=1, num_slices=2, key=key)
    >>> orders = exact.sequences(num_slices=2, count=2)
    >>> system = exact.s3t(
    ...   model, base, where, orders, ju.Fit(optax.adam(0.02), 4, 8), rank=2)
    >>> state = jax.jit(system.fit)(data, key)
    >>> float(system.left(state)), system.model.predict(state, data["x"]).shape
    (3.0, (60, 4))
    >>> state, _ = system.delete(state, data, jnp.arange(60) == 7, key)
    >>> float(system.left(state))
    2.0
  """
  checks.model(model)
  place = positions(orders, where.num_slices)
  shape = (where.num_shards, *place.shape)

  def adapted(data: PyTree, backbone: Variables) -> Any:
    one = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), data
    )
    return low_rank(model, backbone, one, rank)

  def start(data: PyTree, key: jax.Array, kept: Any = None) -> Variables:
    checks.typed_key(key)
    check_layout(where, data)
    data = jax.tree.map(jnp.asarray, data)
    present = jnp.ones(where.shard.shape, bool)
    present = present if kept is None else present & kept
    change = adapted(data["x"], base)
    stage_keys = jax.random.split(derive(key, "stages"), shape)
    init_keys = jax.random.split(derive(key, "init"), shape[:2])

    def sequence(number, place, init_key, keys):
      own = present & (where.shard == number)
      turn = place[where.slice]  # In which stage a row is first seen.
      first = change.model.init(init_key, data["x"])

      def stage(params, inputs):
        i, stage_key = inputs
        member = own & ((turn <= i) if cumulative else (turn == i))
        after = train_stage(
          *(change.model.task, fit, first._replace(params=params), data),
          *(member, stage_key, fit.num_steps),
          (change.block(i, where.num_slices),),
        )
        return after.params, after.params

      stages = jnp.arange(where.num_slices), keys
      return jax.lax.scan(stage, first.params, stages)[1]

    flat = lambda x: x.reshape(-1, *x.shape[2:])
    lanes = np.indices(shape[:2]).reshape(2, -1)
    made = map_many(
      sequence,
      jnp.asarray(lanes[0]),
      jnp.asarray(place)[lanes[1]],
      flat(init_keys),
      flat(stage_keys),
      strategy=strategy,
    )
    params = jax.tree.map(lambda x: x.reshape(*shape[:2], *x.shape[1:]), made)
    length = jnp.full(shape[:2], where.num_slices, jnp.int32)
    frozen = {
      "backbone": {"params": base.params, "model_state": base.model_state},
      "key": jax.random.key_data(key),
    }
    return Variables(params, {"length": length, "present": present}, frozen)

  def apply(variables, inputs, *, train=False, key=None):
    del train, key
    length = variables.model_state["length"]
    best = length.argmax(axis=1)
    longest = length.max(axis=1)
    check_alive(longest > 0)
    backbone = variables.frozen["backbone"]
    change = low_rank(model, Variables(**backbone), inputs, rank)

    def shard(params, sequence, length):
      # A gather: what was cut off, nan or not, is not looked at.
      own = jax.tree.map(
        lambda x: x[sequence, jnp.maximum(length - 1, 0)], params
      )
      return change.model.predict(Variables(own, {}, backbone), inputs)

    logits = jax.vmap(shard)(variables.params, best, longest)
    return mean_alive(logits, longest > 0), variables.model_state

  def left(variables: Variables) -> jax.Array:
    alive = variables.model_state["length"] > 0
    is_first = jnp.asarray(place == 0)  # [B, L]
    firsts = (alive[:, :, None] & is_first[None]).any(axis=1).sum()
    cells = where.num_shards * where.num_slices
    harmonic = np.append(0, np.cumsum(1 / np.arange(1, cells + 1)))
    return cells * jnp.asarray(harmonic, jnp.float32)[firsts]

  return System(
    start,
    s3t_delete(where, orders),
    Model(no_init, apply, model.loss),
    left,
  )


def s3t_delete(where: Layout, orders: np.ndarray) -> Transform:
  """Cuts every sequence before the first slice that a request hits.

  Nothing is trained and no row is read. A second deletion from a slice that is
  gone changes nothing, and the order of deletions does not matter.

  Args:
    where: see `s3t`.
    orders: see `s3t`.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import exact, toy
    >>> model, base, data, _, key = toy.classifier()
    >>> where = exact.layout(60, num_shards=1, num_slices=2, key=key)
    >>> orders = exact.sequences(num_slices=2, count=2)
    >>> system = exact.s3t(
    ...   model, base, where, orders, ju.Fit(optax.adam(0.02), 4, 8), rank=2)
    >>> state = jax.jit(system.fit)(data, key)
    >>> delete = exact.s3t_delete(where, orders)  # That of the system.
    >>> state, found = delete(state, data, jnp.arange(60) == 7, key)
    >>> int(found.steps)  # Nothing is trained.
    0
  """
  place = jnp.asarray(positions(orders, where.num_slices))

  def run(
    variables: Variables, data: PyTree, request: Request, key: jax.Array
  ) -> tuple[Variables, Deleted]:
    del data, key
    state = variables.model_state
    gone = gone_rows(state["present"], request)
    hit = jnp.zeros((where.num_shards, where.num_slices), bool)
    hit = hit.at[where.shard, where.slice].max(gone)
    made = {
      "length": shorten(state["length"], hit, place),
      "present": state["present"] & ~gone,
    }
    nothing = Deleted(jnp.int32(0), jnp.float32(0))
    return variables._replace(model_state=made), nothing

  return edit(run, needs=Draw(), reads="shapes", name="s3t_delete")


def shorten(length: jax.Array, hit: jax.Array, place: jax.Array) -> jax.Array:
  """How much is valid of each sequence after slices were hit.

  Args:
    length: int [M, B], before.
    hit: bool [M, L].
    place: int [B, L], where each slice is in each sequence.

  Returns:
    int [M, B], never more than before.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import exact
    >>> place = jnp.array([[0, 1, 2], [1, 2, 0]])  # Of slices, in two orders.
    >>> hit = jnp.array([[True, False, False]])  # The first slice.
    >>> exact.shorten(jnp.array([[3, 3]]), hit, place).tolist()
    [[0, 1]]
  """
  count = hit.shape[-1]
  first = jnp.where(hit[:, None, :], place[None], count).min(axis=-1)
  return jnp.minimum(length, first.astype(length.dtype))


def positions(orders: np.ndarray, num_slices: int) -> np.ndarray:
  """Where each slice is in each order, int32 [B, L].

  Raises:
    ValueError: a row that is no permutation of the slices.
  """
  orders = np.asarray(orders)
  wanted = np.arange(num_slices)
  if (
    orders.ndim != 2
    or orders.shape[1:] != (num_slices,)
    or orders.shape[0] == 0
    or not (np.sort(orders, axis=1) == wanted).all()
  ):
    raise ValueError(
      f"Expected orders [B, {num_slices}], each a permutation of the slices, "
      f"got shape {orders.shape}."
    )
  return np.argsort(orders, axis=1).astype(np.int32)
