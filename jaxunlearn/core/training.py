"""Training under a mask, one model or many: the primitive of the library.

Retraining, shadow models, leave-one-out, Shapley utilities and shards are all
the same function of a mask, mapped over a stack of masks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import (
  Draw,
  Model,
  PhaseInfo,
  PyTree,
  Transform,
  Variables,
)


def train(
  model: Model,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
  axis_name: str | None = None,
  sharded_rows: bool = False,
) -> tuple[Variables, PhaseInfo]:
  """Trains a fresh model on the rows that a mask selects.

  Args:
    model: what to train.
    data: pytree of arrays [N, ...] with the inputs under "x".
    weights: bool [N], True = train on the row; or float weights in [0, 1].
    key: decides the initial params and the order of rows. The same key and an
      all-True mask give the same bits whatever the request was.
    optimizer: any optax optimiser.
    num_steps: static; the same for every mask, so a model of fewer rows sees
      each of them more often.
    batch_size: static; rows a step, drawn without replacement within an epoch.
    train_mode: static; dropout active and BatchNorm's statistics moving.
    axis_name: devices that share the batch; see `Transform`.
    sharded_rows: see `Env`.

  Returns:
    The trained variables and the `PhaseInfo` of the run.

  Raises:
    ValueError: weights of a wrong shape or dtype, a count that is not positive.
  """
  checks.positive(batch_size=batch_size)
  checks.request(data, weights, name="weights")
  init_key, fit_key = jax.random.split(key)
  variables = init_variables(model, data, init_key)
  fit = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    train_mode=train_mode,
  )
  left_out = ~weights if weights.dtype == jnp.bool_ else 1 - weights
  return fit(
    variables,
    data,
    left_out,
    fit_key,
    axis_name=axis_name,
    sharded_rows=sharded_rows,
  )


def fitting(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
  select: Callable[..., jax.Array] | None = None,
  name: str = "fit",
) -> Transform:
  """The phase that fits the task's loss on the retain rows (see `Draw`)."""
  return phase(
    supervised(model, train=train_mode),
    optimizer,
    num_steps,
    draw=Draw(retain=batch_size, select=select),
    name=name,
  )


def init_variables(
  model: Model, data: PyTree, key: jax.Array, like: Variables | None = None
) -> Variables:
  """Fresh variables, of the dtypes of `like`; of the data only shapes are used."""
  inputs = jax.tree.map(
    lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), data["x"]
  )
  fresh = model.init(key, inputs)
  if like is None:
    return fresh
  return jax.tree.map(lambda new, old: new.astype(old.dtype), fresh, like)


def map_many(
  fn: Callable[..., Any],
  *stacked: PyTree,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Any:
  """Maps a pure function over the leading axis of its arguments.

  Args:
    fn: what to map, of one slice of each argument.
    *stacked: pytrees, leaves [M, ...].
    strategy: "vmap", all M at once; "map", one after the other; an int k, in
      chunks of k, which bounds memory. The results are the same.
    mesh: a mesh of one axis to spread the M over; M must be a multiple of its
      size.

  Returns:
    What `fn` returns, leaves [M, ...].

  Raises:
    ValueError: an unknown strategy, or an M that the mesh does not divide.
  """
  many = checks.num_rows(stacked, name="stacked arguments")

  def mapped(*args: PyTree) -> Any:
    if strategy == "vmap":
      return jax.vmap(fn)(*args)
    size = None if strategy == "map" else int(strategy)
    return jax.lax.map(lambda a: fn(*a), args, batch_size=size)

  if isinstance(strategy, int) and not isinstance(strategy, bool):
    checks.positive(strategy=strategy)
  else:
    checks.one_of(("vmap", "map"), strategy=strategy)
  if mesh is None:
    return mapped(*stacked)
  if len(mesh.axis_names) != 1 or many % mesh.size:
    raise ValueError(
      f"Expected a mesh of one axis whose size divides {many}, got "
      f"{dict(mesh.shape)}."
    )
  spec = jax.sharding.PartitionSpec(mesh.axis_names[0])
  # The lanes do not talk to each other, so nothing needs checking.
  spread = jax.shard_map(
    mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
  )
  return spread(*stacked)


def train_many(
  model: Model,
  data: PyTree,
  weights: jax.Array,
  keys: jax.Array,
  *,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  **recipe: Any,
) -> tuple[Variables, PhaseInfo]:
  """Trains a model for every mask of a stack, in one program.

  Args:
    model: what to train.
    data: pytree of arrays [N, ...], shared by all.
    weights: bool or float [M, N], a mask a model.
    keys: PRNG keys [M]; equal keys give models that differ by their mask only.
    strategy: see `map_many`.
    mesh: see `map_many`.
    **recipe: the keyword arguments of `train`.

  Returns:
    Variables and infos with a leading axis [M].
  """
  return map_many(
    lambda mask, key: train(model, data, mask, key, **recipe),
    weights,
    keys,
    strategy=strategy,
    mesh=mesh,
  )
