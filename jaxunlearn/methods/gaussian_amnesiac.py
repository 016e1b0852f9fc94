"""Gaussian amnesiac: fit the forget set to targets drawn at random.

Source: Tarun, Chundawat, Mandal and Kankanhalli (2023), "Deep Regression
Unlearning", arXiv:2210.08196: the counterpart of random labels in regression.
Class: heuristic. Data access: all rows; the targets of forget rows enter the
mean and the standard deviation alone, and not even there where both are given.
Model state: `train_mode` moves it, from all drawn rows.
Cost: one gradient a step.
Differences from the released code: none but the random numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import Draw, Model, Transform
from jaxunlearn.losses.regression import check_targets


def gaussian_amnesiac(
  model: Model,
  *,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 100,
  batch_size: int = 256,
  mean: float | jax.Array | None = None,
  std: float | jax.Array | None = None,
  train_mode: bool = True,
) -> Transform:
  """Draws new targets for the forget set, once, and fine-tunes on all rows.

  The targets come from a normal distribution with the mean and the standard
  deviation of all training targets, those to forget included.

  Args:
    model: a regression model; its rows have float targets under "label", [N] or
      [N, ...] (then each entry has moments of its own).
    optimizer: Adam of 1e-3 by default.
    num_steps: steps.
    batch_size: rows of both kinds a step, in their natural proportion.
    mean: of the distribution, with `std`; that of the targets by default. May be
      traced.
    std: >= 0; 0 regresses every forget row to the mean. May be traced.
    train_mode: static; dropout active and BatchNorm's statistics moving.

  Returns:
    A `Transform` with info "relabel". An empty request is fine-tuning on all
    rows; a full one makes a model of nothing but the mean.

  Raises:
    ValueError: an option outside its range; one of mean and std without the
      other; targets that are no floats; (concrete values) targets that are not
      finite where they are read; a soft request.
  """
  checks.positive(batch_size=batch_size)
  if (mean is None) != (std is None):
    raise ValueError(
      f"Expected both mean and std or neither, got mean={mean}, std={std}."
    )
  if std is not None:
    checks.non_negative(std=std)
  plain = supervised(model, train=train_mode)

  def moments(carry, data, forget_mask, key):
    if mean is not None:
      if data is not None:  # A stream may do without.
        check_targets(data, forget_mask)
      return jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return target_moments(data["label"])

  def objective(variables, batch, key):
    check_targets(batch.rows)
    label = batch.rows["label"]
    extra = batch.context.extra
    drawing = jax.random.wrap_key_data(
      extra["target_key"], impl=jax.random.key_impl(key)
    )
    # By row, so that a row keeps its target in every epoch.
    normal = jax.vmap(
      lambda i: jax.random.normal(
        jax.random.fold_in(drawing, i), label.shape[1:]
      )
    )(batch.row_id)
    targets = replace_targets(
      label, batch.forget, normal, *extra["target_moments"]
    )
    rows = {**batch.rows, "label": targets}
    return plain(variables, batch._replace(rows=rows), key)

  reads = "rows" if mean is None else "nothing"
  return chain(
    provide("target_moments", moments, reads=reads),
    provide(
      "target_key",
      lambda carry, data, forget_mask, key: jax.random.key_data(key),
      reads="nothing",
    ),
    phase(
      objective,
      optimizer or optax.adam(1e-3),
      num_steps,
      draw=Draw(mixed=batch_size),
      name="relabel",
    ),
    name="gaussian_amnesiac",
  )


def target_moments(targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and standard deviation over rows, with N - 1 in the denominator.

  Args:
    targets: float [N, ...].

  Returns:
    Two arrays [...], in at least float32; a deviation of 0 for one row.

  Raises:
    ValueError: no rows, no floats, or (concrete values) some are not finite.
  """
  targets = jnp.asarray(targets)
  check_targets({"label": targets})
  if targets.shape[0] == 0:
    raise ValueError("Expected targets of some rows, got 0.")
  checks.finite({"label": targets}, "data")
  targets = targets.astype(jnp.promote_types(jnp.float32, targets.dtype))
  mean = targets.mean(axis=0)
  squares = jnp.square(targets - mean[None]).sum(axis=0)
  return mean, jnp.sqrt(squares / max(targets.shape[0] - 1, 1))


def replace_targets(
  targets: jax.Array,
  forget: jax.Array,
  normal: jax.Array,
  mean: jax.Array,
  std: jax.Array,
) -> jax.Array:
  """mean + std * normal where `forget`, the targets elsewhere, bit for bit.

  Args:
    targets: float [B, ...].
    forget: bool [B].
    normal: float [B, ...], standard normal draws.
    mean: float [] or [...].
    std: float [] or [...].

  Returns:
    [B, ...], of the dtype of `targets`.
  """
  entry = targets.shape[1:]
  mean, std = (jnp.broadcast_to(v, entry)[None] for v in (mean, std))
  drawn = (mean + std * normal).astype(targets.dtype)
  where = forget.reshape(forget.shape + (1,) * len(entry))
  return jnp.where(where, drawn, targets)
