"""CIFAR-10 in six styles, prompted as the digits are, and a convolutional model.

The words of `diffusion_data` serve as they are: the ten classes take the places
of the ten digits, the six styles those of the digits' styles.
"""

from __future__ import annotations

import jax
import numpy as np
import optax

from experiments import data as datasets
from experiments import diffusion_data as prompted
from experiments import diffusion_testbed as testbed
from jaxunlearn import diffusion
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Variables
from jaxunlearn.models.resnet import resnet18

OBJECTS = datasets.CIFAR10_CLASSES
STYLES = ("photo", "negative", "grey", "turned", "posterised", "mosaic")
SHAPE = (32, 32, 3)


def images_in_styles(
  data_dir: str | None, *, rows: int | None = None, seed: int = 0
) -> prompted.PromptedImages:
  """CIFAR-10, each image in a random style; test and labelled images too.

  Args:
    data_dir: see `experiments.data.cifar10`.
    rows: training rows; None takes all.
    seed: of styles and prompts.

  Raises:
    ValueError: there are no files, or none of that form.
  """
  loaded = datasets.cifar10(data_dir, rows and (rows, rows))
  rng = np.random.default_rng(seed)
  parts = []
  for part in (loaded.train, loaded.test):
    x = _unit(part["x"])
    style = rng.integers(len(STYLES), size=len(x)).astype(np.int32)
    parts.append(
      {
        "x": styled(x, style),
        "object": part["label"].astype(np.int32),
        "style": style,
      }
    )
  train, test = parts
  tokens = np.stack(
    [
      prompted.prompts(
        [o], [s], template=rng.integers(3), synonym=rng.integers(3)
      )[0]
      for o, s in zip(train["object"], train["style"])
    ]
  )
  return prompted.PromptedImages({**train, "tokens": tokens}, train, test)


def styled(x: np.ndarray, style: np.ndarray) -> np.ndarray:
  """Images [N, 32, 32, 3] in [-1, 1], each in its style [N]; float32.

  In the order of `STYLES`: as they are; negated; without colour; the channels
  turned round; in four levels; in tiles of 4x4.
  """
  x = np.asarray(x, np.float32)
  grey = np.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape)
  levels = np.round((x + 1) * 1.5) / 1.5 - 1
  tiles = x.reshape(len(x), 8, 4, 8, 4, 3).mean(axis=(2, 4))
  tiles = tiles.repeat(4, axis=1).repeat(4, axis=2)
  ways = (x, -x, grey, np.roll(x, 1, axis=-1), levels, tiles)
  out = np.empty_like(x)
  for number, way in enumerate(ways):
    out[style == number] = way[style == number]
  return out


def model(**options) -> diffusion.Diffusion:
  """A U-Net of 32x32 images; options are those of `text_to_image_unet`."""
  return diffusion.text_to_image_unet(
    **{
      "image_shape": SHAPE,
      "vocab_size": len(prompted.VOCABULARY),
      "null_tokens": prompted.NULL_TOKENS,
      "alphas_bar": diffusion.schedules.linear(1000),
      "prediction": "v",
      **options,
    }
  )


def classifier() -> Model:
  """A ResNet with two heads: logits [B, 16], objects first."""
  return testbed.judge_of(resnet18(len(OBJECTS) + len(STYLES)))


def train_classifier(
  labelled: dict[str, np.ndarray], key: jax.Array, num_steps: int
) -> Variables:
  """Trains it; see `diffusion_testbed.train_judge`."""
  rate = optax.cosine_decay_schedule(1e-3, num_steps)
  return testbed.train_judge(
    classifier(), labelled, key, optax.adamw(rate), num_steps, batch_size=256
  )


def _unit(x: np.ndarray) -> np.ndarray:
  """Images as `experiments.data` normalises them, back in [-1, 1]."""
  return 2 * (x * datasets.CIFAR10_STD + datasets.CIFAR10_MEAN) - 1
