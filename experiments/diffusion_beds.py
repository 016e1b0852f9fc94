"""What diffusion models are audited on: images with an object and a style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments import diffusion_cifar as cifar
from experiments import diffusion_data as prompted
from experiments import diffusion_testbed as testbed
from jaxunlearn import diffusion
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Variables

DOMAINS = ("object", "style")
# Forgotten unless told otherwise, and what a concept becomes where a method asks
# for another one: the label at that distance, in a circle.
DEFAULT_CONCEPT = "object:3"
DIGIT_NAMES = {
  "object": tuple(words[0] for words in prompted.OBJECTS),
  "style": prompted.STYLES,
}
_KEPT_STEP = 2


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

  recipe: testbed.Recipe
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


class Bed(NamedTuple):
  """A model, its images and who says what they show.

  Attributes:
    model: what is trained.
    train: rows "x", "tokens", "object" and "style".
    test: labelled images never trained on.
    names: by domain, the words for its labels.
    judge: logits, the objects' first and the styles' after; has "features".
    train_judge: `key -> variables` of it.
    prompts: `(objects [B], styles [B]) -> tokens [B, L]`; -1 leaves a word out.
  """

  model: diffusion.Diffusion
  train: Mapping[str, np.ndarray]
  test: Mapping[str, np.ndarray]
  names: Mapping[str, tuple[str, ...]]
  judge: Model
  train_judge: Callable[[jax.Array], Variables]
  prompts: Callable[..., np.ndarray]


class Concept(NamedTuple):
  """What is to be forgotten.

  Attributes:
    domain: "object" or "style".
    index: the label.
    kept: another label of the domain, on which the attack's scores are taken
      for comparison.
    name: as in "object:three".
  """

  domain: str
  index: int
  kept: int
  name: str


SIZES: Mapping[str, Size] = {
  "smoke": Size(
    testbed.Recipe(40, 32, warmup=5), 60, 1, 4, 8, 4, 4, 40, 2, 512, 2, 1
  ),
  "quick": Size(testbed.Recipe(), 1500, 5, 32, 100, 300, 20, 1, 10, 512, 3, 1),
  "paper": Size(
    testbed.Recipe(100_000, 256, 2e-4, 1000),
    *(10_000, 50, 64, 500, 1000, 50, 1, 50, 1024, 3, 3),
  ),
}


def load(preset: str, data_dir: str | None, size: Size) -> Bed:
  """The bed of a preset: digits in styles, or CIFAR-10 in styles for "paper".

  Raises:
    ValueError: there is no CIFAR-10, in one line.
  """
  if preset == "paper":
    data = cifar.images_in_styles(data_dir)
    return Bed(
      cifar.model(),
      data.train,
      data.test,
      {"object": cifar.OBJECTS, "style": cifar.STYLES},
      cifar.classifier(),
      lambda key: cifar.train_classifier(data.labelled, key, size.judge_steps),
      prompted.prompts,
    )
  small = preset == "smoke"
  data = prompted.digits_in_styles(1024 if small else 16384)
  return Bed(
    testbed.model(width=32, num_blocks=1) if small else testbed.model(),
    data.train,
    data.test,
    DIGIT_NAMES,
    testbed.classifier(),
    lambda key: testbed.train_classifier(data.labelled, key, size.judge_steps),
    prompted.prompts,
  )


def parse_concept(text: str, names: Mapping[str, Sequence[str]]) -> Concept:
  """ "object:3" or "style:ember", by number or word.

  Raises:
    ValueError: there is no such domain or label.
  """
  domain, _, label = text.partition(":")
  if domain not in names:
    raise ValueError(
      f"Expected --concept object:NAME or style:NAME, got {text!r}."
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


def every_prompt(bed: Bed) -> dict[str, np.ndarray]:
  """All prompts: {"tokens": [A, L], "object": [A], "style": [A]}."""
  counts = [len(bed.names[domain]) for domain in DOMAINS]
  objects, styles = (a.ravel().astype(np.int32) for a in np.indices(counts))
  tokens = bed.prompts(objects, styles)
  return {"tokens": tokens, "object": objects, "style": styles}


def prompts_with(bed: Bed, domain: str, index: int, count: int) -> np.ndarray:
  """`count` prompts that name a label, the other domain's in turn; [count, L]."""
  other = DOMAINS[domain == "object"]
  labels = {
    domain: np.full(count, index),
    other: np.arange(count) % len(bed.names[other]),
  }
  return bed.prompts(labels["object"], labels["style"])
