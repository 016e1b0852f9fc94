"""How each diffusion method is set for the models of the audit.

Steps, rates and batches were chosen on MiniT2I, digits in styles, with other
random numbers than those reported, and on two trainings of it: one model reads
the object from its word, another from the words after it, and a method that is
told of the concept's word alone erases it from the former only. So methods are
told of the prompts in which the concept stands with something else too. Losses in
the noise are weighted over time as the models' training is, since their networks
predict v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import Fit, Request, Transform, diffusion
from jaxunlearn.diffusion.adv_unlearn import Adversary, Retention
from jaxunlearn.diffusion.doco import Critic, Preservation
from jaxunlearn.diffusion.esd import Variant
from jaxunlearn.diffusion.sfd import Distillation
from jaxunlearn.diffusion.steps import Sampling, clipped_adamw
from jaxunlearn.diffusion.uce import Positions

from ..datasets import prompted
from .diffusion import (
  GUIDANCE,
  Concept,
  Images,
  Maker,
  denoising,
)

# What a concept is steered to where a method asks for one: half round the circle
# of objects, the first style.
_ANCHOR_STEP = 5
# How far ESD negates a concept: objects take more than styles.
_ETA_X = {"object": 1.15, "style": 1.0}
_ETA_U = {"object": 2.2, "style": 1.6}


class Task(NamedTuple):
  """What a method's factory is told.

  Attributes:
    bed: see `Images`.
    concept: see `Concept`.
    shrink: by how much there are fewer steps, images and rows than there
      should be.
  """

  bed: Images
  concept: Concept
  shrink: int

  @property
  def model(self) -> diffusion.Diffusion:
    return self.bed.model

  @property
  def time_weights(self) -> Any:
    """Of losses in the noise: those of the models' own training."""
    return 1 / self.model.alphas_bar

  @property
  def anchor(self) -> int:
    """The label that takes the concept's place."""
    if self.concept.domain == "style":
      return int(self.concept.index == 0)
    count = len(self.bed.names["object"])
    return (self.concept.index + _ANCHOR_STEP) % count

  def few(self, count: int) -> int:
    """Steps or images, at least two."""
    return max(count // self.shrink, 2)

  def named(self, index: int) -> np.ndarray:
    """Prompts that name a label of the concept's domain and nothing else.

    Of a pair its style too. With every template and synonym, int [M, L].
    """
    is_object = self.concept.domain == "object"
    style = -1 if self.concept.within is None else self.concept.within
    labels = ([index], [style]) if is_object else ([-1], [index])
    lines = [
      prompted.prompts(*labels, template=template, synonym=synonym)
      for template in range(len(prompted.TEMPLATES))
      for synonym in range(3 if is_object else 1)
    ]
    return np.concatenate(lines)

  def every(self, index: int) -> np.ndarray:
    """Prompts of a label with every other label and every synonym; [A, L]."""
    return self._with(index, self._others)

  def alone(self, index: int) -> np.ndarray:
    """The prompts of `every` without what each names besides; [A, L].

    A pair names nothing besides.
    """
    if self.concept.within is not None:
      return self.every(index)
    return self._with(index, np.full_like(self._others, -1))

  @property
  def _others(self) -> np.ndarray:
    """The labels of the other domain; of a pair its style alone."""
    if self.concept.within is not None:
      return np.array([self.concept.within])
    other = "style" if self.concept.domain == "object" else "object"
    return np.arange(len(self.bed.names[other]))

  def _with(self, index: int, others: np.ndarray) -> np.ndarray:
    own = np.full(len(others), index)
    is_object = self.concept.domain == "object"
    labels = (own, others) if is_object else (others, own)
    synonyms = range(len(self.words))
    lines = [prompted.prompts(*labels, synonym=s) for s in synonyms]
    return np.concatenate(lines)

  @property
  def prompts(self) -> np.ndarray:
    """The concept's own prompts, int [M, L]."""
    return self.named(self.concept.index)

  @property
  def words(self) -> np.ndarray:
    """The concept's words, int [K]: the synonyms of an object, or a style."""
    return self._words(self.concept.index)

  @property
  def anchor_words(self) -> np.ndarray:
    """The anchor's words, int [K]."""
    return self._words(self.anchor)

  def _words(self, index: int) -> np.ndarray:
    domain = self.concept.domain
    words = (
      prompted.OBJECTS[index]
      if domain == "object"
      else (prompted.STYLES[index],)
    )
    return np.array([prompted.tokenize(word)[1] for word in words])

  @property
  def kept_prompts(self) -> np.ndarray:
    """Every prompt of an object and a style that does not name the concept."""
    every = self.bed.every_prompt()
    return every["tokens"][~self.concept.shown_in(every)]

  @property
  def drop_words(self) -> Any:
    """What training does to prompts."""
    return diffusion.drop_words(jnp.asarray(prompted.drop_rates()))


class Method(NamedTuple):
  """A method and what it is told and given.

  Attributes:
    make: `task -> transform`; None where nothing is changed but the sampler.
    reads: what it is told and reads, in words.
    concept: None, or `task -> request`, what it is told of the concept.
    maker: None, or `task -> Maker`, if images are made in another way.
  """

  make: Callable[[Task], Transform] | None
  reads: str
  concept: Callable[[Task], Request] | None = None
  maker: Callable[[Task], Maker] | None = None


def finetune(task: Task) -> Transform:
  """Training goes on, on all rows but the concept's."""
  fit = Fit(optax.adam(5e-4), task.few(300), 128)
  return ju.methods.finetune(denoising(task.model), fit)


def esd(group: str, rate: float, eta: Mapping[str, float]) -> Any:
  """Erases from every prompt with the concept what its name alone brings in."""
  return lambda task: diffusion.esd(
    task.model,
    fit=Fit(optax.adam(rate), task.few(220), 16),
    from_prompts=jnp.asarray(task.every(task.concept.index)),
    eta=eta[task.concept.domain],
    group=group,
    variant=Variant(base="cond"),
    sampling=Sampling(num_steps=10),
  )


def esd_alone(task: Task) -> Transform:
  """As published: the concept's name alone is trained."""
  return diffusion.esd(
    task.model,
    fit=Fit(optax.adam(1e-4), task.few(220), 16),
    group="xattn",
    sampling=Sampling(num_steps=10),
  )


def sdd(task: Task) -> Transform:
  """Told of the concept's name alone, as published; of whole prompts it loses all."""
  return diffusion.sdd(
    task.model,
    fit=Fit(clipped_adamw(4e-5, weight_decay=1e-4), task.few(300), 16),
    ema_decay=0.98,
    sampling=Sampling(num_steps=10),
    time_weights=task.time_weights,
  )


def safegen(task: Task) -> Transform:
  """The concept's images become mosaics of four blocks.

  Where there is no self-attention, all that no prompt reaches is trained.
  """
  shapes = jax.eval_shape(task.model.init, jax.random.key(0))
  groups = diffusion.parameter_groups(shapes)
  has_own = any(jax.tree.leaves(groups["selfattn"]))
  side = task.model.image_shape[0] // 2
  return diffusion.safegen(
    task.model,
    Fit(clipped_adamw(1e-3), task.few(300), 32),
    censored=lambda rows: diffusion.mosaic(rows["x"], side),
    group="selfattn" if has_own else "noxattn",
    time_weights=task.time_weights,
  )


def concept_ablation(task: Task) -> Transform:
  images = max(task.few(128), len(task.every(task.anchor)))
  return diffusion.concept_ablation(
    task.model,
    fit=Fit(clipped_adamw(1e-3), task.few(300), 32),
    target="original",
    sampling=Sampling(20, GUIDANCE, images),
  )


def forget_me_not(task: Task) -> Transform:
  """The best of settings that all damage more than they erase."""
  rate = 4e-4 if task.concept.domain == "object" else 3e-3
  fit = Fit(clipped_adamw(rate), task.few(35), 1)
  return diffusion.forget_me_not(task.model, fit=fit, group="xattn")


def uce(task: Task) -> Transform:
  """The concept's word and all after it, in every prompt; others preserved."""
  erased, guides = task.every(task.concept.index), task.every(task.anchor)
  positions = Positions(
    jnp.asarray(_position(erased, task.words)),
    jnp.asarray(_position(guides, task.anchor_words)),
    # All of a prompt but its start.
    jnp.ones(len(task.kept_prompts), jnp.int32),
  )
  return diffusion.uce(task.model, positions=positions, span="tail")


def salun(task: Task) -> Transform:
  table = np.arange(len(prompted.VOCABULARY), dtype=np.int32)
  table[task.words] = task.anchor_words
  return diffusion.salun(
    task.model,
    diffusion.replace_words(jnp.asarray(table)),
    Fit(optax.adam(1e-4), task.few(200), 32),
    augment=task.drop_words,
    time_weights=task.time_weights,
  )


def sfd(task: Task) -> Transform:
  """Also distils the sampler into one step."""
  optimizer = lambda rate: optax.chain(
    optax.clip(1.0), optax.adam(rate, b1=0.0)
  )
  return diffusion.sfd(
    task.model,
    fit=Fit(optimizer(2e-4), task.few(100), 64),
    fake=Fit(optimizer(5e-4), 1, 64),
    loss=Distillation(forget_weight=1.0),
    ema_decay=0.98,
  )


def doco(task: Task) -> Transform:
  """The prior holds every prompt that is to stay; L_p is added after the cut."""
  return diffusion.doco(
    task.model,
    fit=Fit(optax.adamw(1e-3, weight_decay=0.01), task.few(500), 32),
    critic=Critic(
      fit=Fit(optax.adam(1e-3, b1=0.5), 1, 32),
      warm_up=task.few(200),
      clip_clean=3.0,
    ),
    preservation=Preservation(keep=True),
    sampling=Sampling(20, GUIDANCE, task.few(512)),
    time_weights=task.time_weights,
  )


def adv_unlearn(task: Task) -> Transform:
  """As many adversarial tokens as the attacker's."""
  return diffusion.adv_unlearn(
    task.model,
    fit=Fit(optax.adam(1e-3), task.few(40) + task.few(160), 16),
    adversary=Adversary(
      Fit(optax.adam(0.05), 5, 16), num_tokens=3, warm_up=task.few(40)
    ),
    retention=Retention(batch_size=16),
    sampling=Sampling(20, num_images=max(task.few(128), 16)),
    time_weights=task.time_weights,
  )


def _told(task: Task, prompts: Any, *fields: Any) -> Request:
  """A request of a concept; the fields are those of `diffusion.Concept`."""
  arrays = (None if f is None else jnp.asarray(f) for f in fields)
  return diffusion.requests.concept(task.model, jnp.asarray(prompts), *arrays)


def _marked_name(task: Task) -> Request:
  """One prompt, and which of its words are the concept's."""
  prompt = task.prompts[:1]
  return _told(task, prompt, None, None, np.isin(prompt, task.words))


def _alone(task: Task) -> Request:
  return _told(task, task.alone(task.concept.index))


def _anchored(task: Task, *kept: Any) -> Request:
  """Every prompt with the concept, and the same with its anchor."""
  erased, guides = task.every(task.concept.index), task.every(task.anchor)
  return _told(task, erased, guides, *kept)


def _anchored_among_kept(task: Task) -> Request:
  return _anchored(task, task.kept_prompts)


def _named_among_kept(task: Task) -> Request:
  own = np.concatenate([task.prompts, task.every(task.concept.index)])
  return _told(task, own, None, task.kept_prompts)


def safe_guidance(task: Task) -> Maker:
  """The preset "strong", its warm-up scaled to 20 steps."""
  strength = diffusion.SAFETY_STRONG._replace(warmup=3)
  return Maker(
    lambda params, tokens: diffusion.safe_guidance(
      task.model,
      params,
      tokens,
      GUIDANCE,
      safety_tokens=jnp.asarray(task.prompts[0]),
      strength=strength,
    )
  )


def one_step(task: Task) -> Maker:
  """Images of what `sfd` made, in one evaluation of the network."""
  return Maker(
    None,
    lambda params, tokens, keys: diffusion.one_step(
      task.model, params, tokens, keys
    ),
  )


_PROMPTS = "the concept's prompts, no images"
_ANCHORED = f"{_PROMPTS}; an anchor's; all prompts to keep"
METHODS: Mapping[str, Method] = {
  "finetune": Method(finetune, "the rows kept"),
  "esd_x": Method(esd("xattn", 1e-4, _ETA_X), _PROMPTS, _alone),
  "esd_u": Method(esd("noxattn", 5e-4, _ETA_U), _PROMPTS, _alone),
  "esd_alone": Method(
    esd_alone, _PROMPTS, lambda task: _told(task, task.prompts)
  ),
  "sdd": Method(sdd, _PROMPTS, lambda task: _told(task, task.prompts)),
  "safegen": Method(safegen, "the concept's rows and those kept, no prompts"),
  "concept_ablation": Method(
    concept_ablation, f"{_PROMPTS}; an anchor's", _anchored
  ),
  "forget_me_not": Method(
    forget_me_not, "the concept's rows and prompt", _marked_name
  ),
  "uce": Method(uce, _ANCHORED, _anchored_among_kept),
  "salun": Method(salun, "all rows; an anchor's words"),
  "doco": Method(doco, _ANCHORED, _anchored_among_kept),
  "adv_unlearn": Method(
    adv_unlearn, f"{_PROMPTS}; all prompts to keep", _named_among_kept
  ),
  "safe_guidance": Method(None, "the concept's prompt", maker=safe_guidance),
  "sfd": Method(sfd, _ANCHORED, _anchored_among_kept, one_step),
}
# What runs unless told otherwise: one of each kind, and one that fails.
USUAL = ("esd_x", "concept_ablation", "forget_me_not", "uce", "salun")


def _position(tokens: np.ndarray, words: np.ndarray) -> np.ndarray:
  """Where in each prompt [A, L] the first of some words stands, int32 [A]."""
  return np.isin(tokens, words).argmax(axis=1).astype(np.int32)
