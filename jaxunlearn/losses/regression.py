"""Losses of a regression model against real targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks, sampling
from jaxunlearn.core.shaped import arrays, shaped

KINDS = ("l1", "l2")


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """|output - target| of each example, the mean over its entries.

  Args:
    outputs: float [B, ...].
    targets: float of that shape; or without its last axis where that has length
      1, so that a network's [B, 1] meets targets [B].

  Returns:
    [B], in the targets' unit, >= 0, in at least float32; gradient 0 where both
    are equal.

  Raises:
    ValueError: other shapes (nothing is broadcast); targets that are no floats,
      such as classes.

  Example:
    >>> absolute_error(jnp.array([[1.0], [5.0]]), jnp.array([3.0, 4.0]))
    Array([2., 1.], dtype=float32)
  """
  difference = _difference(outputs, targets)
  # The gradient of `abs` is 1 at 0, that of this 0.
  return _per_example(difference * jnp.sign(difference))


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  """(output - target)^2 of each example, the mean over its entries.

  Args:
    outputs: see `absolute_error`.
    targets: see there.

  Returns:
    [B], in the square of the targets' unit, >= 0, in at least float32.

  Raises:
    ValueError: as `absolute_error`.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> outputs, targets = jnp.array([[1.0], [5.0]]), jnp.array([3.0, 4.0])
    >>> ju.losses.squared_error(outputs, targets).tolist()
    [4.0, 1.0]
  """
  return _per_example(optax.losses.squared_error(_difference(outputs, targets)))


def quantile_loss(
  outputs: jax.Array,
  targets: jax.Array,
  quantiles: Sequence[float] | jax.Array,
) -> jax.Array:
  """The pinball loss of predicted quantiles, summed over quantiles.

  max((q - 1) e, q e) with e = target - output, as in the temporal fusion
  transformer; the mean over an example's entries.

  Args:
    outputs: float [B, ..., Q], a prediction for each quantile.
    targets: float [B, ...].
    quantiles: [Q], in (0, 1); may be traced.

  Returns:
    [B], in the targets' unit, >= 0, in at least float32.

  Raises:
    ValueError: shapes do not match; targets that are no floats; (concrete
      values) a quantile outside (0, 1).

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> outputs = jnp.array([[0.0], [4.0]])  # Two too low and two too high.
    >>> ju.losses.quantile_loss(outputs, jnp.full(2, 2.0), [0.75]).tolist()
    [1.5, 0.5]
  """
  outputs, targets = _floats(outputs, targets)
  wanted = "outputs [..., Q], targets [...] and quantiles [Q]"
  shaped(wanted, outputs, targets, quantiles)
  levels = jnp.asarray(quantiles, outputs.dtype)
  if checks.is_concrete(levels):
    values = np.asarray(levels)
    if not ((values > 0) & (values < 1)).all():
      raise ValueError(f"Expected quantiles in (0, 1), got {values.tolist()}.")
  error = targets[..., None] - outputs
  levels = levels.reshape((1,) * targets.ndim + (-1,))
  losses = jnp.maximum((levels - 1) * error, levels * error)
  return _per_example(losses.sum(axis=-1))


def on_targets(
  kind: str = "l2", *, quantiles: Sequence[float] | None = None
) -> Callable[[jax.Array, Any], jax.Array]:
  """A regression loss in the form that `Model.loss` has.

      model = adapters.flax.from_module(module, loss=on_targets("l1"))

  Args:
    kind: "l1", "l2" (the squared error, not halved) or "quantile".
    quantiles: of "quantile".

  Returns:
    `(outputs, rows) -> [B]` on `rows["label"]`, the targets.

  Raises:
    ValueError: an unknown kind; quantiles missing, or given to another kind.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> rows = {"label": jnp.array([3.0, 4.0])}
    >>> ju.losses.on_targets("l1")(jnp.array([1.0, 4.0]), rows).tolist()
    [2.0, 0.0]
    >>> ju.losses.on_targets("l2")(jnp.array([1.0, 4.0]), rows).tolist()
    [4.0, 0.0]
  """
  checks.one_of((*KINDS, "quantile"), kind=kind)
  if (quantiles is None) == (kind == "quantile"):
    raise ValueError(
      "Expected quantiles for kind='quantile' and no other, got "
      f"kind={kind!r} with quantiles={quantiles!r}."
    )
  if quantiles is not None:
    levels = tuple(quantiles)
    return lambda outputs, rows: quantile_loss(outputs, rows["label"], levels)
  error = error_of(kind)
  return lambda outputs, rows: error(outputs, rows["label"])


def error_of(kind: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """`absolute_error` of "l1", `squared_error` of "l2"."""
  checks.one_of(KINDS, kind=kind)
  return absolute_error if kind == "l1" else squared_error


def check_targets(rows: Any, retain: Any = None) -> None:
  """Raises a ValueError unless rows["label"] holds real targets.

  Args:
    rows: data or a batch.
    retain: None looks at the dtype only. Bool or float [N]: the targets of
      these rows also have to be finite, where their values are concrete.
  """
  label = rows["label"]
  dtype = getattr(label, "dtype", None) or jnp.asarray(label).dtype
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"Expected data['label'] of a floating dtype, real targets, got {dtype}."
    )
  if retain is None or isinstance(label, jax.ShapeDtypeStruct):
    return
  if checks.is_concrete(label) and checks.is_concrete(retain):
    kept = jnp.asarray(retain).astype(jnp.float32)
    checks.finite({"label": sampling.blank_rows(label, kept)}, "data")


def _floats(outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
  """Both in at least float32."""
  outputs = arrays("outputs [...]", outputs)
  targets = arrays("targets [...]", targets)
  shaped("targets float [...]", targets)
  if outputs.ndim == 0 or targets.ndim == 0:
    raise ValueError(
      "Expected outputs and targets with a row axis, got shapes "
      f"{outputs.shape} and {targets.shape}."
    )
  dtype = jnp.promote_types(jnp.float32, outputs.dtype)
  return outputs.astype(dtype), targets.astype(dtype)


def _difference(outputs: jax.Array, targets: jax.Array) -> jax.Array:
  outputs, targets = _floats(outputs, targets)
  if outputs.shape == (*targets.shape, 1):
    outputs = outputs[..., 0]
  if outputs.shape != targets.shape:
    raise ValueError(
      "Expected outputs of the shape of targets, or with one more axis of "
      f"length 1, got {outputs.shape} and {targets.shape}."
    )
  return outputs - targets


def _per_example(losses: jax.Array) -> jax.Array:
  return losses.mean(axis=tuple(range(1, losses.ndim)))
