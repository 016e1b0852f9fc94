"""What all metrics share: rows under weights instead of subsets of rows."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped

BASES = ("e", "2")


def widened(x: jax.Array, name: str = "an array") -> jax.Array:
  """`x` in at least float32.

  Raises:
    ValueError: it is no array, and nothing that one is made of.
  """
  x = arrays(f"{name} [...]", x)
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def rows_of(values: jax.Array, name: str) -> jax.Array:
  """`values` [N, C] in at least float32.

  Raises:
    ValueError: it is no matrix.
  """
  shaped(f"{name} [N, C]", values)
  return widened(values, "values")


def same_shape(a: jax.Array, b: jax.Array, name_a: str, name_b: str) -> None:
  shaped(f"{name_a} [...] and {name_b} [...]", a, b)


def one_shape(**named: jax.Array) -> None:
  """Numbers go with arrays, and arrays with those of their own shape.

  Raises:
    ValueError: two would broadcast, [N] against [N, 1] to [N, N].
  """
  for name, x in named.items():
    shaped(f"{name} [...]", x)
  shapes = {name: jnp.shape(x) for name, x in named.items() if jnp.ndim(x)}
  if len(set(shapes.values())) > 1:
    found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    raise ValueError(f"Expected arrays of one shape, got {found}.")


def labels_of(labels: jax.Array, logits: jax.Array) -> jax.Array:
  """`labels`, int, one for each row of logits [..., C].

  Raises:
    ValueError: their shape or dtype is another, or one is out of range.
  """
  shaped("logits [..., C] and labels [...]", logits, labels)
  labels = arrays("labels [...]", labels)
  checks.labels(labels, logits.shape[-1], "labels")
  return labels


def is_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """1.0 where the largest logit is the label's, else 0.0; nan where none can be.

  A model that diverged, to nan or to +inf, answers nothing: without this its
  answer would be class 0. Also nan where there is no such class.

  Args:
    logits: float [..., C].
    labels: int [...].

  Returns:
    [...], in at least float32.
  """
  logits = widened(logits, "logits")
  is_answer = (logits < jnp.inf).all(axis=-1)  # False for nan, too.
  known = (labels >= 0) & (labels < logits.shape[-1])
  hit = (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)
  return jnp.where(is_answer & known, hit, jnp.nan)


def at_label(values: jax.Array, labels: jax.Array) -> jax.Array:
  """values[..., label], nan where there is no such class."""
  taken = jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]
  # Indexing would let -1 mean the last class.
  known = (labels >= 0) & (labels < values.shape[-1])
  return jnp.where(known, taken, jnp.nan)


def weights_of(weights: jax.Array | None, like: jax.Array) -> jax.Array:
  """Weights [N] in the dtype of `like` [N, ...]; None is 1 for every row.

  Raises:
    ValueError: their shape is another, or they are neither bool nor float (on
      0/1 integers `~` is not "not", so that a mask of them is a mistake).
  """
  if weights is None:
    return jnp.ones(like.shape[:1], like.dtype)
  weights = arrays(f"weights [{len(like)}]", weights)
  is_float = jnp.issubdtype(weights.dtype, jnp.floating)
  if weights.dtype != jnp.bool_ and not is_float:
    raise ValueError(
      f"Expected weights of dtype bool or float, got {weights.dtype}."
    )
  return weights.astype(like.dtype)


def weighted_mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
  """Mean of values [N] under weights [N] >= 0; nan where none is positive.

  Rows of weight 0 are not read: nan or inf there changes nothing.
  """
  weights = weights_of(weights, values)
  counted = weights > 0
  total = jnp.where(counted, weights, 0).sum()
  summed = jnp.where(counted, weights * values, 0).sum()
  return jnp.where(total > 0, summed / jnp.where(total > 0, total, 1), jnp.nan)


def in_base(nats: jax.Array, base: str) -> jax.Array:
  """A quantity in nats, in nats ("e") or bits ("2")."""
  checks.one_of(BASES, base=base)
  return nats if base == "e" else nats / math.log(2)
