"""Rows of the methods for diffusion models with prompts.

The concept comes with the request, where a row does not say otherwise.
"""

import jax.numpy as jnp
import optax
import tiny_attention
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import diffusion
from jaxunlearn.diffusion.adv_unlearn import Adversary, Retention
from jaxunlearn.diffusion.doco import Critic
from jaxunlearn.diffusion.sfd import Distillation

CONCEPT = tiny_attention.CONCEPT
# With a decay, which moves what has no gradient, too.
FIT = ju.Fit(optax.chain(optax.add_decayed_weights(0.1), ADAM), 3, 8)
SGD = ju.Fit(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05)), 3, 8)
THREE_STEPS = diffusion.Sampling(num_steps=3, num_images=8)


def _concept(factory, build, variant="", **flags):
  """A row that reads no data: the request says in prompts what must go."""
  return row(worlds.prompts, factory, build, variant, reads="nothing", **flags)


PROMPTED = [
  _concept(
    diffusion.esd,
    lambda d: diffusion.esd(d, fit=SGD, sampling=THREE_STEPS),
    group="xattn",
  ),
  _concept(
    diffusion.esd,
    lambda d: diffusion.esd(d, CONCEPT, SGD, sampling=THREE_STEPS),
    "told",
    requestless=True,
    slow=True,
  ),
  _concept(
    diffusion.concept_ablation,
    lambda d: diffusion.concept_ablation(d, fit=FIT, sampling=THREE_STEPS),
    group="xattn-kv",
    slow=True,
  ),
  row(
    worlds.kernels,
    diffusion.uce,
    diffusion.uce,
    reads="nothing",
    keyless=True,
    devices=False,  # It has no batch.
    group="xattn-kv",
  ),
  row(
    worlds.images,
    diffusion.forget_me_not,
    lambda d: diffusion.forget_me_not(d, fit=FIT, inversion=ju.Fit(ADAM, 2, 8)),
    reads="forget",
    slow=True,
  ),
  # Of the library's methods, one of each way to use a task.
  row(
    worlds.images,
    ju.methods.finetune,
    lambda d: ju.methods.finetune(d, FIT),
    "images",
    reads="retain",
    slow=True,
  ),
  row(
    worlds.images,
    ju.methods.ssd,
    lambda d: ju.methods.ssd(d, alpha=1.0, dampening=0.5, batch_size=8),
    "images",
    slow=True,
  ),
  row(
    worlds.images,
    diffusion.salun,
    lambda d: diffusion.salun(d, fit=FIT),
    slow=True,
  ),
  row(
    worlds.images,
    diffusion.salun,
    lambda d: diffusion.salun(
      d, diffusion.replace_words(jnp.arange(8).at[2].set(4)), FIT
    ),
    "told",
    slow=True,
  ),
  row(
    worlds.images,
    diffusion.safegen,
    lambda d: diffusion.safegen(
      d, FIT, censored=lambda rows: 0.5 * rows["x"], group="xattn"
    ),
    group="xattn",
    slow=True,
  ),
  _concept(
    diffusion.sdd,
    lambda d: diffusion.sdd(d, fit=SGD, sampling=THREE_STEPS, ema_decay=0.5),
    group="xattn",
    slow=True,
  ),
  _concept(
    diffusion.sfd,
    lambda d: diffusion.sfd(
      d,
      fit=FIT,
      fake=ju.Fit(ADAM, 1, 8),
      loss=Distillation(forget_weight=1.0),
      ema_decay=0.5,
    ),
    slow=True,
  ),
  _concept(
    diffusion.adv_unlearn,
    lambda d: diffusion.adv_unlearn(
      d,
      fit=FIT._replace(num_steps=4),
      adversary=Adversary(ju.Fit(ADAM, 2, 8), num_tokens=2, warm_up=1),
      retention=Retention(batch_size=3),
      sampling=THREE_STEPS,
    ),
    devices=False,  # A batch of three does not fall into eight parts.
    group="text-layers",
    slow=True,
  ),
  _concept(
    diffusion.doco,
    lambda d: diffusion.doco(
      d,
      fit=FIT._replace(num_steps=5),
      critic=Critic(warm_up=2),
      sampling=diffusion.Sampling(num_steps=2, num_images=4),
    ),
    group="xattn-kv",
    slow=True,
  ),
]
