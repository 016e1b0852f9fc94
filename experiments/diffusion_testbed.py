"""The text-to-image model of the quick experiments, and what judges it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import diffusion_data as prompted
from jaxunlearn import diffusion
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.tasks import Fit, Model, Task
from jaxunlearn.core.training import train as train_model
from jaxunlearn.core.types import Variables
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.models.mlp import MLP

NUM_OBJECTS, NUM_STYLES = len(prompted.OBJECTS), len(prompted.STYLES)
LEVELS = diffusion.schedules.linear(100, 1e-3, 0.12)
# Of the images that the classifier sees beside clean ones: generated images are
# never quite clean.
_SPREAD = 0.15


class Recipe(NamedTuple):
  """How a model is trained; the same for the original and the retrained one."""

  num_steps: int = 3000
  batch_size: int = 128
  learning_rate: float = 1.5e-3
  warmup: int = 100
  final_rate: float = 1e-5

  @property
  def fit(self) -> Fit:
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, self.learning_rate, self.warmup, self.num_steps, self.final_rate
    )
    return Fit(optax.adam(schedule), self.num_steps, self.batch_size)


def denoising(model: diffusion.Diffusion) -> Task:
  """What is trained; the loss is that of v, whatever the schedule."""
  return diffusion.denoising_task(
    model,
    augment=diffusion.drop_words(jnp.asarray(prompted.drop_rates())),
    time_weights=1 / model.alphas_bar,
  )


def model(width: int = 256, num_blocks: int = 3) -> diffusion.Diffusion:
  """The model: 8x8x3 images, 64 words, 100 times."""
  return diffusion.text_to_image(
    image_shape=prompted.SHAPE,
    vocab_size=len(prompted.VOCABULARY),
    null_tokens=prompted.NULL_TOKENS,
    alphas_bar=LEVELS,
    clip=1.5,
    width=width,
    num_blocks=num_blocks,
  )


def classifier() -> Model:
  """A network with two heads: logits [B, 16], ten of objects, six of styles."""
  return judge_of(MLP(NUM_OBJECTS + NUM_STYLES, hidden=(256, 128)))


def judge_of(module: Any) -> Model:
  """A module with logits [B, 16] as a classifier of objects and of styles."""

  def loss(outputs, rows):
    objects, styles = heads(outputs)
    return cross_entropy(objects, rows["object"]) + cross_entropy(
      styles, rows["style"]
    )

  return from_linen(module, loss=loss)


def heads(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Logits of objects [..., 10] and of styles [..., 6]."""
  return outputs[..., :NUM_OBJECTS], outputs[..., NUM_OBJECTS:]


def train_classifier(
  labelled: dict[str, np.ndarray], key: jax.Array, num_steps: int = 1500
) -> Variables:
  """Trains the classifier of digits; see `train_judge`."""
  rate = optax.cosine_decay_schedule(2e-3, num_steps)
  return train_judge(
    classifier(), labelled, key, optax.adam(rate), num_steps, batch_size=128
  )


def train_judge(
  judge: Model,
  labelled: dict[str, np.ndarray],
  key: jax.Array,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  *,
  batch_size: int,
) -> Variables:
  """Trains a classifier on clean images and on slightly noisy ones."""
  noise_key, fit_key = jax.random.split(key)
  x = jnp.asarray(labelled["x"])
  noisy = x + _SPREAD * jax.random.normal(noise_key, x.shape)
  data = {
    "x": jnp.concatenate([x, noisy]),
    **{k: jnp.tile(labelled[k], 2) for k in ("object", "style")},
  }
  fit = jax.jit(
    lambda data, key: train_model(
      judge,
      data,
      jnp.ones(data["x"].shape[0], bool),
      key,
      optimizer=optimizer,
      num_steps=num_steps,
      batch_size=batch_size,
    )
  )
  return fit(data, fit_key)[0]


def judged(judge: Variables, images: jax.Array) -> jax.Array:
  """The classifier's logits [B, 16] of images [B, 8, 8, 3].

  Values are clipped to those that an image can have: guidance overshoots.
  """
  return classifier().predict(judge, jnp.clip(images, -1, 1))


def recognised(
  judge: Variables, images: jax.Array, objects: jax.Array, styles: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Which images [B, ...] show their object, and their style; bool [B] each."""
  by_object, by_style = heads(judged(judge, images))
  return by_object.argmax(-1) == objects, by_style.argmax(-1) == styles
