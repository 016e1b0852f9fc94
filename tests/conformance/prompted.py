"""Rows of the methods for diffusion models with prompts."""

import jax.numpy as jnp
import optax
import tiny_attention
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

from jaxunlearn import diffusion

CONCEPT, OTHER = tiny_attention.CONCEPT, tiny_attention.OTHER
RETAIN = tiny_attention.RETAIN
# No row is read: the concept comes as prompts.
BY_CONCEPT = {"requestless": True, "reads": "nothing"}
SGD = optax.sgd(0.05)


def _prompts(factory, build, variant="", **flags):
  return row(worlds.prompts, factory, build, variant, **flags)


PROMPTED = [
  _prompts(
    diffusion.esd,
    lambda d: diffusion.esd(
      d,
      CONCEPT,
      optimizer=SGD,
      num_steps=3,
      batch_size=8,
      sampler_steps=3,
    ),
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.concept_ablation,
    lambda d: diffusion.concept_ablation(
      d,
      CONCEPT,
      OTHER,
      optimizer=ADAM,
      num_images=6,
      sampler_steps=3,
      batch_size=8,
      num_steps=3,
    ),
    **BY_CONCEPT,
  ),
  row(
    worlds.kernels,
    diffusion.uce,
    lambda d: diffusion.uce(d, CONCEPT, OTHER, preserve_tokens=RETAIN),
    keyless=True,
    devices=False,  # It has no batch.
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.forget_me_not,
    lambda d: diffusion.forget_me_not(
      d,
      CONCEPT[0],
      jnp.arange(tiny_attention.LENGTH) == 1,
      optimizer=ADAM,
      num_steps=3,
      batch_size=8,
      inversion_steps=2,
    ),
    reads="forget",
  ),
  _prompts(
    diffusion.salun,
    lambda d: diffusion.salun(
      d,
      diffusion.replace_words(jnp.arange(8).at[2].set(4)),
      optimizer=ADAM,
      num_steps=3,
      batch_size=8,
    ),
    slow=True,
  ),
  _prompts(
    diffusion.sfd,
    lambda d: diffusion.sfd(
      d,
      CONCEPT,
      OTHER,
      retain_tokens=RETAIN,
      optimizer=ADAM,
      fake_optimizer=ADAM,
      num_steps=3,
      batch_size=8,
      forget_weight=1.0,
      ema_decay=0.5,
    ),
    slow=True,
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.adv_unlearn,
    lambda d: diffusion.adv_unlearn(
      d,
      CONCEPT,
      RETAIN,
      optimizer=ADAM,
      num_steps=4,
      warm_up=1,
      batch_size=8,
      retain_batch_size=3,
      num_tokens=2,
      attack_steps=2,
      num_images=8,
      sampler_steps=3,
    ),
    devices=False,  # A batch of three does not fall into eight parts.
    slow=True,
    **BY_CONCEPT,
  ),
  _prompts(
    diffusion.doco,
    lambda d: diffusion.doco(
      d,
      CONCEPT,
      OTHER,
      optimizer=ADAM,
      num_steps=5,
      warm_up=2,
      batch_size=8,
      num_images=4,
      sampler_steps=2,
    ),
    slow=True,
    **BY_CONCEPT,
  ),
]
