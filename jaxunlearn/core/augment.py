"""Augmentations: pure functions of keys and rows, for `Fit.augment_rows`.

    changes = augment.chain(augment.crops(4), augment.flips())
    Fit(optax.sgd(schedule), 30_000, 256, augment_rows=changes)

Every row has a key of its own, by the step and its place in the batch, so that the
same run draws the same however many devices or microbatches share a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.types import PyTree, Step

# `(keys [B], rows) -> rows`, leaves [B, ...] of the same shapes and dtypes.
Augment = Callable[[jax.Array, PyTree], PyTree]


def flips(rate: float | jax.Array = 0.5, *, column: str = "x") -> Augment:
  """Mirrors images left to right.

  Args:
    rate: the probability, in [0, 1]; may be traced.
    column: static; the rows' images, [B, H, W, ...].

  Returns:
    An `Augment`, which raises a ValueError where there are no such images.
  """
  checks.fraction(rate=rate)

  def flip(key, image):
    return jnp.where(jax.random.bernoulli(key, rate), image[:, ::-1], image)

  return _each(flip, column)


def crops(padding: int = 4, *, column: str = "x") -> Augment:
  """Moves images by up to `padding` pixels each way; what comes in is zeros.

  The random crop of an image that is padded with zeros.

  Args:
    padding: static, >= 0; every one of (2 padding + 1)^2 places is as likely.
    column: see `flips`.

  Returns:
    See `flips`.
  """
  checks.count(0, padding=padding)

  def crop(key, image):
    start = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    sides = [(padding, padding)] * 2 + [(0, 0)] * (image.ndim - 2)
    starts = (*start, *[jnp.zeros((), start.dtype)] * (image.ndim - 2))
    return jax.lax.dynamic_slice(jnp.pad(image, sides), starts, image.shape)

  return _each(crop, column)


def chain(*augments: Augment) -> Augment:
  """One augmentation after the other, each with keys of its own."""
  for place, augment in enumerate(augments):
    checks.functions(**{f"augments[{place}]": augment})

  def run(keys, rows):
    for place, augment in enumerate(augments):
      rows = augment(derive(keys, f"augment {place}"), rows)
    return rows

  return run


def applied(augment: Augment | None, step: Step, key: jax.Array) -> Step:
  """The step with rows that a function changed, by its key; None leaves them.

  Raises:
    ValueError: it returned rows of other shapes or dtypes.
  """
  if augment is None or not step.weight.size:
    return step
  rows = augment(step.keys(derive(key, "augment")), step.rows)
  checks.same_structure(rows, step.rows, "augment_rows to return rows")
  same = jax.tree.map(lambda a, b: a.dtype == b.dtype, rows, step.rows)
  if not all(jax.tree.leaves(same)):
    raise ValueError(
      "Expected augment_rows to return rows of the dtypes that it was given, got "
      "others."
    )
  return step._replace(rows=rows)


def _each(change: Callable[[jax.Array, jax.Array], jax.Array], column: str):
  """`change` of each row's image by its key."""

  def augment(keys: jax.Array, rows: PyTree) -> PyTree:
    checks.columns(rows, column)
    shape = jnp.shape(rows[column])
    if len(shape) < 3:
      raise ValueError(
        f"Expected images [B, H, W, ...] under {column!r}, got shape {shape}."
      )
    return {**rows, column: jax.vmap(change)(keys, rows[column])}

  return augment
