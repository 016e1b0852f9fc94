"""Concepts that need no data of their own: where in an input something is."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import metrics

from ..bench import Bed, Setting

GRID = 4  # Blocks along each side of an image.


class Known(NamedTuple):
  """What a model knows, in terms of concepts.

  Attributes:
    bank: directions in its embeddings.
    bottleneck: classes from them.
    attributions: [C, K], see `metrics.class_attributions`.
  """

  bank: metrics.ConceptBank
  bottleneck: metrics.Bottleneck
  attributions: jax.Array


def has_ink(x: jax.Array) -> jax.Array:
  """[N, K], 1 where a block of the image has more ink than usual, else -1.

  Of rows that are no images, where a number is larger than usual.
  """
  if x.ndim == 4:
    sides = [size - size % GRID for size in x.shape[1:3]]
    x = x[:, : sides[0], : sides[1]].mean(axis=-1)
    parts = [side // GRID for side in sides]
    x = x.reshape(-1, GRID, parts[0], GRID, parts[1]).mean(axis=(2, 4))
  x = x.reshape(len(x), -1)
  return jnp.where(x > jnp.median(x, axis=0)[None], 1.0, -1.0)


def embeddings(bed: Bed, variables: Any, x: jax.Array) -> jax.Array:
  assert bed.model.features is not None
  return bed.model.features(variables, x)["features"].reshape(len(x), -1)


def infer(bed: Bed, variables: Any, num_classes: int) -> Known:
  """Concepts of a model, learned on the rows that it was trained on."""
  x, label = bed.data["x"], bed.data["label"]
  e = embeddings(bed, variables, x)
  bank = metrics.concept_bank(e, has_ink(x))
  margins = bank.margins(e)
  bottleneck = metrics.fit_bottleneck(margins, label, num_classes)
  found = metrics.class_attributions(bottleneck, margins, label)
  return Known(bank, bottleneck, found)


def main_class(label: jax.Array, forget: jax.Array, count: int) -> jax.Array:
  """The class that most of the rows to be forgotten have."""
  return jnp.zeros(count).at[label].add(forget).argmax()


def poison(bed: Bed, s: Setting, fit: ju.Fit, *, targeted: bool = True) -> Any:
  """Poisoning with the class that is nearest in concepts, or with any other."""
  count = bed.extra.num_classes

  def method(variables: Any, data: Any, forget: Any, key: jax.Array) -> Any:
    target = None
    if targeted:
      known = infer(bed, variables, count)
      gone = main_class(data["label"], forget, count)
      target = metrics.closest_class(known.attributions, gone)
    method = ju.methods.concept_poison(
      bed.model, fit, num_classes=count, target=target, share=s["share"]
    )
    return method(variables, data, forget, key)

  return method
