"""What GANs are made to forget on: images, and two classifiers of them.

Rows are divided in three: those that the GAN trains on, those that the judge
learns from, whose word decides every number of the report, and real ones to
compare samples with. In a report the judge's are those on which settings are
chosen; a selection divides these once more. The classifier that marks samples, a user's stand-in, and
whose features are the space of prompts, learns from the GAN's own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import gan, models
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.types import PyTree, Variables

from .. import bench, data
from ..datasets import splits


class Recipe(NamedTuple):
  """How much of everything.

  Attributes:
    fit: of the original and the retrained GAN.
    stage: steps of stage 1; times a setting those of stage 2 and of fine-tuning.
    classifier: steps of each classifier.
    mapper: steps of a latent mapper.
    text: steps of Text-to-Unlearn, times a setting.
    pool: samples that are marked; published: 32,000. Few, seen often, are learned
      by heart.
    measured: samples that everything is measured on; of 1000 the largest share
      over the smallest is 1.35 by chance alone where nine are equal.
    relearn: steps of training on all rows afterwards.
  """

  fit: gan.GanFit
  stage: int
  classifier: int
  mapper: int
  text: int
  pool: int
  measured: int
  relearn: int


def adam(rate: Any) -> optax.GradientTransformation:
  """As GANs have it: without momentum, and quick to forget."""
  return optax.adam(rate, b1=0.0, b2=0.99)


_SMALL = gan.GanFit(adam(1e-3), 12_000, 64, r1=1.0, ema=0.9995)
_LARGE = gan.GanFit(adam(1e-3), 60_000, 64, r1=1.0, ema=0.999)
RECIPES: Mapping[tuple[str, str], Recipe] = {
  ("digits", "smoke"): Recipe(
    _SMALL._replace(num_steps=30), 4, 60, 10, 10, 200, 150, 4
  ),
  ("digits", "quick"): Recipe(_SMALL, 300, 1500, 300, 300, 32_000, 5000, 50),
  ("digits", "paper"): Recipe(
    _SMALL._replace(num_steps=20_000), 1000, 2000, 1000, 1000, 32_000, 5000, 200
  ),
  ("cifar10", "paper"): Recipe(
    _LARGE, 4000, 10_000, 2000, 2000, 50_000, 10_000, 1000
  ),
}


class Eyes(NamedTuple):
  """A classifier of images and its variables.

  Attributes:
    model: with the features "features".
    variables: its own.
  """

  model: ju.Model
  variables: Variables

  def features(self, x: jax.Array) -> jax.Array:
    """[B, D] of images."""
    assert self.model.features is not None
    return self.model.features(self.variables, x)["features"]

  def names(self, x: jax.Array) -> jax.Array:
    """The class of each image, int [B]."""
    return self.model.predict(self.variables, x).argmax(axis=-1)


def load(
  source: str,
  preset: str,
  data_dir: str | None,
  seeds: Sequence[int],
  part: str,
) -> bench.Beds:
  """Rows, divided once per seed, and classifiers that were trained on them.

  Raises:
    ValueError: data that are not there; a preset that these data do not have.
  """
  if (source, preset) not in RECIPES:
    raise ValueError(
      f"Expected --preset paper with --data {source}, got {preset}."
    )
  recipe = RECIPES[source, preset]
  found = data.load(source, preset=preset, data_dir=data_dir)
  if source == "digits":
    assert found.pool is not None
    rows = {**found.pool.rows, "x": 2 * found.pool.rows["x"] - 1}
    model = gan.vector_gan(rows["x"].shape[1:])
    seeing, noisy = models.MLP(10, hidden=(256, 16)), 4
  else:
    # From a standard deviation of 1 to about the range of the others.
    parts = found.train, found.test
    rows = {k: np.concatenate([p[k] for p in parts]) for k in ("x", "label")}
    rows["x"] = rows["x"] / 2
    model = gan.image_gan(rows["x"].shape[1:], 128)
    seeing, noisy = models.CNN(10), 0
  classifier = from_linen(seeing)
  made, weights = [], []
  for seed in seeds:
    split = lambda part, seed=seed: splits.split_rows(
      len(rows["x"]), seed, part, test_share=0.25, select_share=0.25
    )
    (train, real), (_, judges) = split(part), split(splits.SELECT)
    if part == splits.SELECT:
      judges = np.random.default_rng((seed, 2)).permutation(judges)
      judges, real = np.split(judges, [2 * len(judges) // 3])
    take = lambda numbers: {k: v[numbers] for k, v in rows.items()}
    made.append((take(train), take(real)))
    number = np.arange(len(rows["x"]))
    weights += [np.isin(number, train), np.isin(number, judges)]
  of_seed = splits.per_seed(made)[1]
  # A judge that errs sees the class in a GAN that never had it.
  seen = _with_noise(rows, noisy)
  weights = np.tile(np.stack(weights), 1 + noisy)
  eyes = _classifiers(classifier, seen, weights, recipe)

  def make(shared: PyTree, own: PyTree) -> bench.Bed:
    (train, real), (marker, judge) = own
    seen = Eyes(classifier, marker), Eyes(classifier, judge)
    return bench.Bed(model, train, real, recipe, seen)

  return bench.Beds(
    None,
    (of_seed, eyes),
    make,
    [train["label"] for train, _ in made],
    {"rows": len(rows["x"]), "recipe": recipe._replace(fit=None)._asdict()},
    dataset=found,
    model=model,
  )


def _with_noise(rows: Mapping[str, Any], copies: int) -> dict[str, Any]:
  """The rows, and so many copies of all with noise on the pixels."""
  many = {k: np.concatenate([v] * (1 + copies)) for k, v in rows.items()}
  noise = np.random.default_rng(3).normal(0, 0.5, many["x"].shape)
  noise[: len(rows["x"])] = 0
  return {**many, "x": (many["x"] + noise).astype(np.float32)}


def _classifiers(model, rows, weights, recipe) -> tuple[Variables, Variables]:
  """Of each seed the one that marks and the one that judges, leaves [S, ...]."""
  fit = ju.Fit(optax.adam(2e-3), recipe.classifier, 64)
  keys = jax.random.split(jax.random.key(17), len(weights))
  many = jax.jit(
    lambda rows, weights, keys: ju.train_many(
      model, rows, weights, keys, fit, strategy="map"
    )[0]
  )
  found = jax.tree.map(np.asarray, many(rows, jnp.asarray(weights), keys))
  every = lambda start: jax.tree.map(lambda leaf: leaf[start::2], found)
  return every(0), every(1)
