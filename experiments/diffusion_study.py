"""Training, unlearning and generating: all seeds in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments import common
from experiments.diffusion_beds import (
  Bed,
  Concept,
  Size,
)
from experiments.diffusion_testbed import denoising
from jaxunlearn import diffusion
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Variables

GUIDANCE = 4.0
# A stretch of retraining whose time stands for all of it.
_TIMED_SHARE = 20


class Maker(NamedTuple):
  """How images are made.

  Attributes:
    predictor: `(params, tokens [B, L]) -> Predictor`, what a sampler asks for the
      noise; None where there is no sampler, and so no attack on its steps.
    images: `(params, tokens [B, L], keys [B]) -> images`, then.
  """

  predictor: Callable[[PyTree, jax.Array], diffusion.Predictor] | None
  images: Callable[[PyTree, jax.Array, jax.Array], jax.Array] | None = None


class Trained(NamedTuple):
  """The models that everything starts from.

  Attributes:
    original: params.
    twins: params of models retrained without the concept, leaves [T, ...].
    judge: variables of the classifier.
    seconds: of compiling and of running one training; (0, 0) if loaded.
  """

  original: PyTree
  twins: PyTree
  judge: Variables
  seconds: tuple[float, float]


class Study(NamedTuple):
  """What all methods share.

  Attributes:
    bed: see `Bed`.
    size: see `Size`.
    concept: see `Concept`.
    seeds: int [S].
    strategy: see `map_many`.
  """

  bed: Bed
  size: Size
  concept: Concept
  seeds: np.ndarray
  strategy: str

  @property
  def forget_mask(self) -> jax.Array:
    """The training rows that show the concept, bool [N]."""
    return jnp.asarray(
      self.bed.train[self.concept.domain] == self.concept.index
    )

  @property
  def data(self) -> dict[str, jax.Array]:
    """The training rows that a method gets to see."""
    return {k: jnp.asarray(self.bed.train[k]) for k in ("x", "tokens")}

  def keys(self, purpose: int) -> jax.Array:
    """A key for each seed, [S]."""
    one = lambda seed: jax.random.fold_in(jax.random.key(seed), purpose)
    return jax.vmap(one)(jnp.asarray(self.seeds))


def train(study: Study) -> Trained:
  """The original model and its twins in one program; and the classifier."""
  bed, size = study.bed, study.size
  seed = jax.random.key(int(study.seeds[0]))
  judge = bed.train_judge(jax.random.fold_in(seed, 1))
  gone = study.forget_mask
  masks = jnp.stack([jnp.ones_like(gone), *[~gone] * size.twins])
  # The first twin begins as the original model does and differs by its rows.
  numbers = jnp.array([0, *range(size.twins)])
  keys = jax.vmap(lambda i: jax.random.fold_in(seed, 2 + i))(numbers)
  made = common.timed(
    lambda data, masks, keys: (
      ju.train_many(
        denoising(bed.model),
        data,
        masks,
        keys,
        size.recipe.fit,
        strategy=study.strategy,
      )[0].params
    ),
    study.data,
    masks,
    keys,
  )
  at = lambda part: jax.tree.map(lambda leaf: leaf[part], made.value)
  seconds = made.seconds_compile, made.seconds_run / (1 + size.twins)
  return Trained(at(0), at(slice(1, None)), judge, seconds)


def time_retraining(study: Study) -> float:
  """Seconds of retraining one model, from a stretch of it, run just now."""
  recipe = study.size.recipe
  short = max(recipe.num_steps // _TIMED_SHARE, 1)
  task, fit = denoising(study.bed.model), recipe.fit._replace(num_steps=short)
  run = lambda data, mask, key: ju.train(task, data, mask, key, fit)[0].params
  made = common.timed(run, study.data, ~study.forget_mask, jax.random.key(0))
  return made.seconds_run * recipe.num_steps / short


def unlearn(
  study: Study,
  transform: Transform,
  original: PyTree,
  concept: ju.Request | None = None,
) -> common.Timed:
  """A method's params for every seed, leaves [S, ...], in one program.

  Args:
    study: gives the rows of the request.
    transform: the method.
    original: params.
    concept: None, or what the method is told of the concept beside the rows.
  """
  forget = study.forget_mask
  request = (concept or ju.Request())._replace(forget=forget, retain=~forget)

  def program(params, data, request, keys):
    one = lambda key: transform(Variables(params), data, request, key)[0].params
    return ju.map_many(one, keys, strategy=study.strategy)

  return common.timed(program, original, study.data, request, study.keys(10))


def stacked(study: Study, params: PyTree) -> PyTree:
  """The same params for every seed."""
  count = len(study.seeds)
  spread = lambda leaf: jnp.broadcast_to(leaf[None], (count, *leaf.shape))
  return jax.tree.map(spread, params)


def twin_of_each_seed(study: Study, twins: PyTree) -> PyTree:
  """The retrained model that a seed is held against, leaves [S, ...]."""
  turn = jnp.arange(len(study.seeds)) % study.size.twins
  return jax.tree.map(lambda leaf: leaf[turn], twins)


def guided(study: Study) -> Maker:
  """Plain classifier-free guidance."""
  return Maker(
    lambda params, tokens: diffusion.classifier_free(
      study.bed.model, params, tokens, GUIDANCE
    )
  )


def generate(
  study: Study,
  maker: Maker,
  params: PyTree,
  tokens: jax.Array,
  keys: jax.Array,
) -> jax.Array:
  """An image for each prompt [B, L] and key [B], a chunk at a time."""

  def one(row):
    prompt, key = row[0][None], row[1][None]
    if maker.predictor is None:
      return maker.images(params, prompt, key)[0]
    x = diffusion.start_noise(study.bed.model, key)
    made = diffusion.walk(
      study.bed.model,
      maker.predictor(params, prompt),
      x,
      key,
      num_steps=study.size.sampler_steps,
    )
    return made[0]

  return jax.lax.map(one, (tokens, keys), batch_size=study.size.chunk)


def judged(
  study: Study, judge: Variables, images: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
  """The classifier's logits by domain, and its features.

  Values are clipped to those that an image can have: guidance overshoots.
  """
  x = jnp.clip(images, -1, 1)
  logits = study.bed.judge.predict(judge, x)
  count = len(study.bed.names["object"])
  by_domain = {"object": logits[..., :count], "style": logits[..., count:]}
  return by_domain, study.bed.judge.features(judge, x)["features"]
