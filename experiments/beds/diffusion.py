"""What diffusion models are audited on: images with an object and a style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import diffusion
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.models.mlp import MLP
from jaxunlearn.models.resnet import resnet18

from .. import data
from ..datasets import prompted

DOMAINS = ("object", "style")
DIGITS = {
  "object": tuple(words[0] for words in prompted.OBJECTS),
  "style": prompted.STYLES,
}
PHOTOS = {"object": data.CIFAR10_CLASSES, "style": prompted.PHOTO_STYLES}
_NUM_OBJECTS, _NUM_STYLES = len(prompted.OBJECTS), len(prompted.STYLES)
GUIDANCE = 4.0
# The label at that distance, in a circle, is the kept one that is attacked too.
_KEPT_STEP = 2
# Of the noise on half of the images that the classifier learns from: generated
# images are never quite clean.
_SPREAD = 0.15


class Recipe(NamedTuple):
  """How a model is trained; the same for the original and the retrained one."""

  num_steps: int = 3000
  batch_size: int = 128
  learning_rate: float = 1.5e-3
  warmup: int = 100
  final_rate: float = 1e-5

  @property
  def fit(self) -> ju.Fit:
    schedule = optax.warmup_cosine_decay_schedule(
      0.0, self.learning_rate, self.warmup, self.num_steps, self.final_rate
    )
    return ju.Fit(optax.adam(schedule), self.num_steps, self.batch_size)


class Size(NamedTuple):
  """How much of everything.

  Attributes:
    recipe: of training and retraining.
    judge_steps: of the classifier.
    images: of each prompt, for UA, IRA and CRA.
    attack_keys: of each point of a curve over psi.
    references: of each model, on which the probe is trained.
    probe_steps: of that training.
    sampler_steps: of every sampler.
    shrink: by how much methods do fewer steps than they should.
    attacked: prompts for the attack by adversarial tokens; 0 leaves it out.
    chunk: images made at a time.
    seeds: of unlearning and of all draws after it.
    twins: models retrained without the concept.
  """

  recipe: Recipe
  judge_steps: int
  images: int
  attack_keys: int
  references: int
  probe_steps: int
  sampler_steps: int
  shrink: int
  attacked: int
  chunk: int
  seeds: int
  twins: int


SIZES: Mapping[str, Size] = {
  "smoke": Size(Recipe(40, 32, warmup=5), 60, 1, 4, 8, 4, 4, 40, 2, 512, 2, 1),
  "quick": Size(Recipe(), 1500, 5, 32, 100, 300, 20, 1, 10, 512, 3, 1),
  "paper": Size(
    Recipe(100_000, 256, 2e-4, 1000),
    *(10_000, 50, 64, 500, 1000, 50, 1, 50, 1024, 3, 3),
  ),
}


class Concept(NamedTuple):
  """What is to be forgotten.

  Attributes:
    domain: "object" or "style".
    index: the label.
    kept: another label of the domain, on which the attack's scores are taken
      for comparison.
    name: as in "object:three".
    within: of a pair, as in "pair:three,ember", the style; else None. It is told
      and attacked as the object of prompts with this style.
  """

  domain: str
  index: int
  kept: int
  name: str
  within: int | None = None

  @property
  def target(self) -> dict[str, int]:
    """By domain what an image of the concept shows."""
    style = {} if self.within is None else {"style": self.within}
    return {self.domain: self.index, **style}

  def shown_in(self, labels: Mapping[str, Any]) -> Any:
    """Which of some images, by their labels [N], are the concept's; bool [N]."""
    hits = [labels[name] == label for name, label in self.target.items()]
    return hits[0] if len(hits) == 1 else hits[0] & hits[1]


class Images(NamedTuple):
  """A model, its images and who says what they show.

  Attributes:
    model: what is trained.
    train: rows "x", "tokens", "object" and "style".
    test: labelled images never trained on.
    names: by domain, the words for its labels.
    labelled: rows that the judge learns from.
    judge: logits, the objects' first and the styles' after; has "features".
    train_judge: `(labelled, key) -> variables` of it.
  """

  model: diffusion.Diffusion
  train: Mapping[str, np.ndarray]
  test: Mapping[str, np.ndarray]
  names: Mapping[str, tuple[str, ...]]
  labelled: Mapping[str, np.ndarray]
  judge: ju.Model
  train_judge: Callable[[Mapping[str, Any], jax.Array], Variables]

  def every_prompt(self) -> dict[str, np.ndarray]:
    """{"tokens": [A, L], "object": [A], "style": [A]}."""
    counts = [len(self.names[domain]) for domain in DOMAINS]
    objects, styles = (a.ravel().astype(np.int32) for a in np.indices(counts))
    tokens = prompted.prompts(objects, styles)
    return {"tokens": tokens, "object": objects, "style": styles}

  def prompts_with(
    self, domain: str, index: int, count: int, within: int | None = None
  ) -> np.ndarray:
    """`count` prompts of a label, the other domain's in turn; [count, L].

    With `within` the other domain's label is always that.
    """
    other = DOMAINS[domain == "object"]
    in_turn = np.arange(count) % len(self.names[other])
    labels = {
      domain: np.full(count, index),
      other: in_turn if within is None else np.full(count, within),
    }
    return prompted.prompts(labels["object"], labels["style"])

  def judged(
    self, judge: Variables, images: jax.Array
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    """The classifier's logits by domain, and its features.

    Values are clipped to those that an image can have: guidance overshoots.
    """
    x = jnp.clip(images, -1, 1)
    logits = _heads(self.judge.predict(judge, x))
    return logits, self.judge.features(judge, x)["features"]


def load(preset: str, data_dir: str | None, steps: int) -> Images:
  """Digits in styles, or CIFAR-10 in styles for "paper".

  Args:
    preset: of the study.
    data_dir: folder of CIFAR-10.
    steps: of training the classifier.

  Raises:
    ValueError: there is no CIFAR-10, in one line.
  """
  if preset == "paper":
    loaded = prompted.photos_in_styles(data_dir)
    painter = photo_model()
    judge = judge_of(resnet18(_NUM_OBJECTS + _NUM_STYLES))
    fit = ju.Fit(
      optax.adamw(optax.cosine_decay_schedule(1e-3, steps)), steps, 256
    )
  else:
    small = preset == "smoke"
    loaded = prompted.digits_in_styles(1024 if small else 16384)
    painter = digit_model(width=32, num_blocks=1) if small else digit_model()
    judge = judge_of(MLP(_NUM_OBJECTS + _NUM_STYLES, hidden=(256, 128)))
    fit = ju.Fit(
      optax.adam(optax.cosine_decay_schedule(2e-3, steps)), steps, 128
    )
  return Images(
    painter,
    loaded.train,
    loaded.test,
    PHOTOS if preset == "paper" else DIGITS,
    loaded.labelled,
    judge,
    lambda labelled, key: train_judge(judge, labelled, key, fit),
  )


def digit_model(width: int = 256, num_blocks: int = 3) -> diffusion.Diffusion:
  """A transformer: 8x8x3 images, 64 words, 100 times."""
  return diffusion.text_to_image(
    image_shape=prompted.SHAPE,
    vocab_size=len(prompted.VOCABULARY),
    null_tokens=prompted.NULL_TOKENS,
    alphas_bar=diffusion.schedules.linear(100, 1e-3, 0.12),
    clip=1.5,
    denoiser=diffusion.Denoiser(width, num_blocks),
  )


def photo_model() -> diffusion.Diffusion:
  """A U-Net of 32x32 images."""
  return diffusion.text_to_image_unet(
    image_shape=(32, 32, 3),
    vocab_size=len(prompted.VOCABULARY),
    null_tokens=prompted.NULL_TOKENS,
    alphas_bar=diffusion.schedules.linear(1000),
    prediction="v",
  )


def denoising(model: diffusion.Diffusion) -> ju.Task:
  """What is trained; the loss is that of v, whatever the schedule."""
  return diffusion.denoising_task(
    model,
    augment=diffusion.drop_words(jnp.asarray(prompted.drop_rates())),
    time_weights=1 / model.alphas_bar,
  )


def judge_of(module: Any) -> ju.Model:
  """A module with logits [B, 16] as a classifier of objects and of styles."""

  def loss(outputs, rows):
    losses = [cross_entropy(z, rows[d]) for d, z in _heads(outputs).items()]
    return losses[0] + losses[1]

  return from_linen(module, loss=loss)


def _heads(outputs: jax.Array) -> dict[str, jax.Array]:
  """Logits of objects [..., 10] and of styles [..., 6]."""
  parts = outputs[..., :_NUM_OBJECTS], outputs[..., _NUM_OBJECTS:]
  return dict(zip(DOMAINS, parts))


def train_judge(
  judge: ju.Model, labelled: Mapping[str, Any], key: jax.Array, fit: ju.Fit
) -> Variables:
  """Trains a classifier on clean images and on slightly noisy ones; traced."""
  noise_key, fit_key = jax.random.split(key)
  x = jnp.asarray(labelled["x"])
  noisy = x + _SPREAD * jax.random.normal(noise_key, x.shape)
  rows = {
    "x": jnp.concatenate([x, noisy]),
    **{k: jnp.tile(labelled[k], 2) for k in DOMAINS},
  }
  every = jnp.ones(rows["x"].shape[0], bool)
  return ju.train(judge, rows, every, fit_key, fit)[0]


def parse_concept(text: str, names: Mapping[str, Sequence[str]]) -> Concept:
  """ "object:3", "style:ember" or "pair:3,ember", by number or word.

  Raises:
    ValueError: there is no such domain or label.
  """
  domain, _, label = text.partition(":")
  if domain == "pair":
    first, comma, second = label.partition(",")
    if not comma:
      raise ValueError(f"Expected --concept pair:OBJECT,STYLE, got {text!r}.")
    whole = parse_concept(f"object:{first.strip()}", names)
    style = parse_concept(f"style:{second.strip()}", names).index
    words = names["object"][whole.index], names["style"][style]
    return whole._replace(name=f"pair:{','.join(words)}", within=style)
  if domain not in names:
    raise ValueError(
      "Expected --concept object:NAME, style:NAME or pair:OBJECT,STYLE, got "
      f"{text!r}."
    )
  words = names[domain]
  if label.isdecimal() and int(label) < len(words):
    index = int(label)
  elif label in words:
    index = words.index(label)
  else:
    raise ValueError(
      f"Expected --concept {domain}: and one of {', '.join(words)}, or its "
      f"number below {len(words)}, got {label!r}."
    )
  kept = (index + _KEPT_STEP) % len(words)
  return Concept(domain, index, kept, f"{domain}:{words[index]}")


class Maker(NamedTuple):
  """How images are made.

  Attributes:
    predictor: `(params, tokens [B, L]) -> Predictor`, what a sampler asks for the
      noise; None where there is no sampler, and so no attack on its steps.
    images: `(params, tokens [B, L], keys [B]) -> images`, then.
  """

  predictor: Callable[[PyTree, jax.Array], diffusion.Predictor] | None
  images: Callable[[PyTree, jax.Array, jax.Array], jax.Array] | None = None


def guided(model: diffusion.Diffusion) -> Maker:
  """Plain classifier-free guidance."""
  return Maker(
    lambda params, tokens: diffusion.classifier_free(
      model, params, tokens, GUIDANCE
    )
  )


def generate(
  model: diffusion.Diffusion,
  size: Size,
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
    x = diffusion.start_noise(model, key)
    predict, steps = maker.predictor(params, prompt), size.sampler_steps
    return diffusion.walk(model, predict, x, key, num_steps=steps)[0]

  return jax.lax.map(one, (tokens, keys), batch_size=size.chunk)
