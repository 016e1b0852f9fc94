"""Text-to-Unlearn: forget what a prompt names, by its direction among embeddings.

Source: "Prompting Forgetting: Unlearning in GANs via Textual Guidance" (2025),
arXiv:2504.01218, which has no code; its parents StyleCLIP (arXiv:2103.17249) and
StyleGAN-NADA (directional loss, arXiv:2108.00946) do.
Class: heuristic. Data: none; a request is the embedding of a prompt. Model state:
there is none. The encoders are functions of the caller.
Differences: weights of the losses are ours, as the paper's could not be read; the
cosine's denominator has a floor, as nothing has changed at the beginning; a hinge
asks for the length of the change too, which the cosine leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Slot
from jaxunlearn.gan.latent_edits import (
  MAPPER,
  Encoder,
  Keep,
  Mapper,
  edited,
  mapping,
  pixels,
  told,
  unit,
)
from jaxunlearn.gan.networks import GENERATOR, Gan

SYNTHESIS = f"{GENERATOR}/synthesis"  # What moves by default: the edit is in w.
_FLOOR = 1e-2  # Of the length of a change of unit embeddings.


def directional_loss(moved: jax.Array, direction: jax.Array) -> jax.Array:
  """1 - cosine of changes [B, E] and a direction [E]: 0 along it, 2 against."""
  length = jnp.sqrt(jnp.square(moved).sum(axis=-1) + _FLOOR**2)
  return 1 - moved @ unit(direction) / length


def reference_direction(plain: jax.Array, edit: jax.Array) -> jax.Array:
  """From edited samples' embeddings [N, E] to the plain ones': their mean, [E].

  Raises:
    ValueError: concrete embeddings that are not finite, or among which the edit
      changes nothing.
  """
  checks.finite((plain, edit), "embeddings")
  found = (unit(plain) - unit(edit)).mean(axis=0)
  if checks.is_concrete(found) and not np.asarray(found).any():
    raise ValueError(
      "Expected a prompt that changes the embeddings of samples, got one that "
      "has no effect."
    )
  return found


def text_to_unlearn(
  gan: Gan,
  encode: Encoder,
  fit: Fit,
  *,
  mapper: Mapper = MAPPER,
  keep: Sequence[Keep] = (Keep(1.0, pixels),),
  keep_edited: Sequence[Keep] = (),
  direction: float | jax.Array = 1.0,
  hinge: float | jax.Array = 1.0,
  num_samples: int = 256,
  on: str = SYNTHESIS,
) -> Transform:
  """Teaches edited latents to give samples without what the prompt names.

  Args:
    gan: the model.
    encode: embeds samples; in the space of the prompts.
    fit: of the last phase, `batch_size` latents a step.
    mapper: how its edit of latents is trained, on the original generator.
    keep: what holds the samples of latents that are not edited.
    keep_edited: what draws the samples of edited latents to those that the
      original has of the same latents without the edit. Not in the paper, whose
      loss says where an embedding goes and nothing of how an image looks.
    direction: weight of the directional loss; may be traced.
    hinge: weight of what the change of an embedding along the direction lacks of
      the mean change that the edit had made; may be traced.
    num_samples: static; latents that the direction is a mean over.
    on: static; the part of the params that moves. Edited latents are those of
      the original mapping network.

  Returns:
    A `Transform` with infos "mapper" and "unlearn", which reads no data. Its
    request has a prompt's embedding [E] as concept; a sum of unit embeddings
    forgets jointly, `vmap` over a stack makes a generator a prompt.

  Raises:
    ValueError: weights or counts out of range; see `latent_edits.told`.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> encode = lambda x: jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    >>> prompt = jnp.array([1.0, 0.0, 0.0, 0.0])  # What is large in x[0].
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=20, batch_size=8)
    >>> mapper = gan.Mapper(fit, hidden=(4,), near=0.0)
    >>> method = gan.text_to_unlearn(problem.model, encode, fit, mapper=mapper)
    >>> asked = problem._replace(data=None, request=ju.Request(concept=prompt))
    >>> after, info = method.compiled(*asked.arguments)
    >>> toy.large_share(problem, after)  # It was 0.25.
    0.16
  """
  checks.non_negative(direction=direction, hinge=hinge)
  checks.count(1, num_samples=num_samples)
  prompt, link = told(gan, encode)
  edit, links = mapping(gan, encode, prompt, mapper)
  reference: Slot[jax.Array] = Slot("reference direction")
  embed = lambda generator, w: unit(encode(gan.synthesis(generator, w)))

  def aim(carry, data, request, key):
    del data, request
    generator = carry.original.params[GENERATOR]
    z = gan.noise(jax.random.split(key, num_samples))
    w = gan.mapping(generator, z)
    v = edited(carry[edit], w)
    return reference_direction(embed(generator, w), embed(generator, v))

  def objective(variables, step, key):
    now, before = (v.params[GENERATOR] for v in (variables, step.original))
    z = gan.noise(jax.random.split(key, fit.batch_size))
    w = gan.mapping(before, z)
    towards, v = step[reference], edited(step[edit], w)
    moved = embed(now, v) - embed(before, v)
    short = jnp.linalg.norm(towards) - moved @ unit(towards)
    losses = direction * directional_loss(moved, towards)
    losses += hinge * jax.nn.relu(short)
    old = gan.synthesis(before, w)
    pairs = (keep, gan.generate(now, z)), (keep_edited, gan.synthesis(now, v))
    return losses + sum(
      part.weight * part.distance(old, new)
      for parts, new in pairs
      for part in parts
    )

  return chain(
    link,
    *links,
    provide(reference, aim, reads="nothing"),
    phase(objective, fit.optimizer, fit.num_steps, on=on, name="unlearn"),
    name="text_to_unlearn",
  )


def prompt_ascent(
  gan: Gan, encode: Encoder, fit: Fit, *, on: str = SYNTHESIS
) -> Transform:
  """Plain ascent on the distance from the prompt, with nothing to keep the rest.

  The paper's baseline; it reads what `text_to_unlearn` does.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> encode = lambda x: jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    >>> prompt = jnp.array([1.0, 0.0, 0.0, 0.0])  # What is large in x[0].
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=20, batch_size=8)
    >>> method = gan.prompt_ascent(problem.model, encode, fit)
    >>> asked = problem._replace(data=None, request=ju.Request(concept=prompt))
    >>> after, info = method.compiled(*asked.arguments)
    >>> toy.large_share(problem, after)  # It was 0.25.
    0.02
  """
  prompt, link = told(gan, encode)

  def objective(variables, step, key):
    z = gan.noise(jax.random.split(key, fit.batch_size))
    x = gan.generate(variables.params[GENERATOR], z)
    return unit(encode(x)) @ step[prompt]

  steps = phase(objective, fit.optimizer, fit.num_steps, on=on, name="ascend")
  return chain(link, steps, name="prompt_ascent")
