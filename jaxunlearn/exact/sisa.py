"""SISA: shards that are learned slice after slice, and checkpoints of each.

Source: Bourtoule et al., "Machine Unlearning", IEEE S&P 2021, arXiv:1912.03817.
Class: exact. With one key a deletion gives what training without the row would
have given: bit for bit, in one program on a deterministic device.
Data access: the rows left of the touched shards, from the deleted slice on.
Cost: of a random row (2R + 1) / (3R) trainings of its shard on average.
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
from jaxunlearn.core.types import ALL, Draw, PyTree, Request, Variables
from jaxunlearn.exact.layout import (
  Deleted,
  Layout,
  RetrainRequired,
  System,
  check_layout,
  gone_rows,
)
from jaxunlearn.exact.stages import train_stage

_FLOOR = 1e-6  # Of a share of votes, whose logarithm is the output.


def stage_steps(num_steps: int, num_slices: int) -> np.ndarray:
  """Steps of each stage [R], in proportion to its rows, `num_steps` in all.

  Stage k sees k of R slices for as many epochs as every other, so that the work
  is that of the same epochs on the whole shard.

  Example:
    >>> stage_steps(60, 3).tolist()
    [10, 20, 30]
  """
  checks.count(num_slices=num_slices)
  checks.count(0, num_steps=num_steps)
  done = np.arange(num_slices + 1)
  ends = num_steps * done * (done + 1) / (num_slices * (num_slices + 1))
  return np.diff(np.round(ends)).astype(np.int32)


def sisa(
  model: Model,
  where: Layout,
  fit: Fit,
  *,
  vote: bool = True,
  strategy: str | int = "map",
) -> System:
  """A model per shard, trained in stages, each on one slice more.

  Args:
    model: of each shard, a classifier.
    where: the rows' shards and slices.
    fit: of a shard; stages share its steps.
    vote: whether shards vote, where a tie goes to the lowest class; their
      probabilities are averaged else. Outputs are logarithms of the shares.
    strategy: how shards are mapped; see `map_many`. One after the other, only
      those that a deletion touches cost anything.

  Returns:
    A `System`; its state has params and model state [M, R + 1, ...], what each
    stage began with and, last, what predicts.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import exact, toy
    >>> model, _, data, _, key = toy.classifier()
    >>> where = exact.layout(60, num_shards=2, num_slices=2, key=key)
    >>> system = exact.sisa(model, where, ju.Fit(optax.adam(0.05), 40, 8))
    >>> state = jax.jit(system.fit)(data, key)
    >>> logits = system.model.predict(state, data["x"])
    >>> round(float((logits.argmax(-1) == data["label"]).mean()), 1)
    1.0
  """
  checks.model(model)
  retrain = _retrainer(model, where, fit, strategy)

  def start(data: PyTree, key: jax.Array, kept: Any = None) -> Variables:
    checks.typed_key(key)
    check_layout(where, data)
    data = jax.tree.map(jnp.asarray, data)
    present = jnp.ones(where.shard.shape, bool)
    present = present if kept is None else present & kept
    keys = jax.random.split(derive(key, "init"), where.num_shards)
    fresh = map_many(
      lambda k: model.task.init(k, data), keys, strategy=strategy
    )
    stages = jax.tree.map(
      lambda x: jnp.repeat(x[:, None], where.num_slices + 1, axis=1),
      (fresh.params, fresh.model_state),
    )
    first = jnp.zeros(where.num_shards, jnp.int32)
    params, inner = retrain(stages, data, present, first, key)
    state = {"inner": inner, "present": present}
    return Variables(params, state, {"key": jax.random.key_data(key)})

  def apply(variables, inputs, *, train=False, key=None):
    del train, key
    last = jax.tree.map(
      lambda x: x[:, -1], (variables.params, variables.model_state["inner"])
    )
    present = variables.model_state["present"]
    alive = jnp.zeros(where.num_shards, bool).at[where.shard].max(present)
    check_alive(alive)
    logits = map_many(
      lambda v: model.predict(Variables(*v), inputs), last, strategy=strategy
    )
    count = logits.shape[-1]
    shares = jax.nn.softmax(logits)
    if vote:
      ballot = jax.nn.one_hot(logits.argmax(-1), count, dtype=shares.dtype)
      shares = jnp.where(jnp.isnan(shares), shares, ballot)
    mean = mean_alive(shares, alive)
    return jnp.log(jnp.maximum(mean, _FLOOR)), variables.model_state

  return System(
    start,
    sisa_delete(model, where, fit, strategy=strategy),
    Model(no_init, apply, model.loss),
    lambda variables: jnp.asarray(jnp.inf),
  )


def sisa_delete(
  model: Model, where: Layout, fit: Fit, *, strategy: str | int = "map"
) -> Transform:
  """Trains the touched shards again from the first slice that a request hits.

  The key of the call is not used: the stages' own are those of the training.

  Args:
    model: see `sisa`, as all others.
    where: see there.
    fit: see there.
    strategy: see there.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import exact, toy
    >>> model, _, data, _, key = toy.classifier()
    >>> where = exact.layout(60, num_shards=2, num_slices=2, key=key)
    >>> fit = ju.Fit(optax.adam(0.05), 4, 8)
    >>> state = jax.jit(exact.sisa(model, where, fit).fit)(data, key)
    >>> delete = exact.sisa_delete(model, where, fit)  # That of the system.
    >>> state, found = delete(state, data, jnp.arange(60) == 7, key)
    >>> int(found.steps)
    4
  """
  retrain = _retrainer(model, where, fit, strategy)

  def run(
    variables: Variables, data: PyTree, request: Request, key: jax.Array
  ) -> tuple[Variables, Deleted]:
    del key
    check_layout(where, data)
    state = variables.model_state
    total = stage_steps(fit.num_steps, where.num_slices)
    gone = gone_rows(state["present"], request)
    present = state["present"] & ~gone
    first = jnp.full(where.num_shards, where.num_slices, jnp.int32)
    hit = jnp.where(gone, where.slice, where.num_slices)
    first = first.at[where.shard].min(hit)
    own = jax.random.wrap_key_data(variables.frozen["key"])
    params, inner = retrain(
      (variables.params, state["inner"]), data, present, first, own
    )
    after = jnp.asarray(np.append(total[::-1].cumsum()[::-1], 0))[first]
    steps = after.sum(dtype=jnp.int32)
    share = steps / jnp.float32(max(int(total.sum()), 1))
    made = {"inner": inner, "present": present}
    return variables._replace(params=params, model_state=made), Deleted(
      steps, share
    )

  return edit(run, needs=Draw(retain=ALL), name="sisa_delete")


def no_init(key: jax.Array, inputs: PyTree) -> Variables:
  """In the place of a fresh state, which only `fit` makes."""
  raise ValueError("Expected a state made by fit of the system, got none.")


def check_alive(alive: jax.Array) -> None:
  """Raises `RetrainRequired` where it is certain that nothing is left."""
  if checks.is_concrete(alive) and not np.asarray(alive).any():
    raise RetrainRequired(
      "Expected a shard that is free of all that was deleted, got none; fit "
      'again with kept=state.model_state["present"].'
    )


def mean_alive(values: jax.Array, alive: jax.Array) -> jax.Array:
  """Mean over shards [M, ...] that are alive; nan where none is."""
  at = alive.reshape(-1, *[1] * (values.ndim - 1))
  total = jnp.where(at, values, 0).sum(axis=0)
  return total / alive.sum().astype(values.dtype)


def _retrainer(
  model: Model, where: Layout, fit: Fit, strategy: str | int
) -> Any:
  """`(stages, data, present, first [M], key) -> stages` from `first` on."""
  steps = jnp.asarray(stage_steps(fit.num_steps, where.num_slices))
  shape = (where.num_shards, where.num_slices)

  def retrain(stages, data, present, first, key):
    keys = jax.random.split(derive(key, "stages"), shape)

    def shard(number, stages, first, keys):
      own = present & (where.shard == number)

      def stage(k, stages):
        before = jax.tree.map(lambda x: x[k], stages)
        member = own & (where.slice <= k)
        after = train_stage(
          *(model.task, fit, Variables(*before), data, member),
          *(keys[k], steps[k]),
        )
        put = lambda x, new: x.at[k + 1].set(new)
        return jax.tree.map(put, stages, (after.params, after.model_state))

      return jax.lax.fori_loop(first, where.num_slices, stage, stages)

    numbers = jnp.arange(where.num_shards)
    return map_many(shard, numbers, stages, first, keys, strategy=strategy)

  return retrain
