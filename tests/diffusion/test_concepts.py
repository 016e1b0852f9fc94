"""What every method must do with a concept, method by method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tiny_attention
from closeness import change
from refusals import refused
from tiny_attention import CONCEPT, OTHER, RETAIN, SHAPE

from jaxunlearn import diffusion
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.types import Request, Variables
from jaxunlearn.diffusion import requests
from jaxunlearn.diffusion.adv_unlearn import Adversary, Retention
from jaxunlearn.diffusion.doco import Critic, Preservation
from jaxunlearn.diffusion.esd import SECOND_RELEASE
from jaxunlearn.diffusion.sfd import Distillation
from jaxunlearn.diffusion.steps import Sampling
from jaxunlearn.diffusion.uce import Positions

KEY = jax.random.key(0)
MODEL = tiny_attention.model()
VARIABLES = Variables(tiny_attention.params(jax.random.key(2)))
FEW = Sampling(2, num_images=4)
MASK = jnp.arange(6) < 3
ROWS = {
  "x": jax.random.uniform(KEY, (6, *SHAPE), minval=-1.0),
  "tokens": jnp.concatenate([CONCEPT, CONCEPT[:1], RETAIN]),
}


def sgd(num_steps=2, batch_size=4, rate=0.1):
  """With a decay that moves what has no gradient, too."""
  optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate))
  return Fit(optimizer, num_steps, batch_size)


METHODS = {
  "uce": diffusion.uce,
  "adv_unlearn": lambda m: diffusion.adv_unlearn(
    m, fit=sgd(), adversary=Adversary(sgd(), 2, warm_up=1), sampling=FEW
  ),
  "forget_me_not": lambda m: diffusion.forget_me_not(
    m, fit=sgd(), inversion=sgd()
  ),
  "salun": lambda m: diffusion.salun(m, fit=sgd(), keep=1.0),
}
READS_ROWS = ("forget_me_not", "salun")


def request_of(name, prompts=CONCEPT, anchors=OTHER):
  marks = diffusion.word_positions(prompts, prompts[:1, 1])
  asked = requests.concept(MODEL, prompts, anchors, RETAIN, marks)
  return (
    asked._replace(forget=MASK, retain=~MASK) if name in READS_ROWS else asked
  )


def data_of(name):
  return ROWS if name in READS_ROWS else None


@functools.cache
def method(name):
  return METHODS[name](MODEL)


def test_what_the_factory_is_told_comes_first():
  told = diffusion.uce(MODEL, CONCEPT, OTHER, preserve_tokens=RETAIN)
  asked = requests.concept(MODEL, CONCEPT, OTHER, RETAIN)
  found = [
    transform.compiled(VARIABLES, None, request, KEY)[0]
    for transform, request in (
      (told, Request()),
      (told, requests.concept(MODEL, RETAIN)),
      (method("uce"), asked),
      (method("uce"), Request(concept=asked.concept._asdict())),
    )
  ]
  for other in found[1:]:
    assert change(found[0], other) < 1e-5


def wanting(name, **fields):
  """The method, asked for a concept that lacks something."""
  concept = request_of(name).concept._replace(**fields)
  asked = request_of(name)._replace(concept=concept)
  return jax.eval_shape(method(name), VARIABLES, data_of(name), asked, KEY)


def serve(factory, *tokens, **options):
  method = factory(MODEL, *tokens, **options)
  return method(VARIABLES, None, Request(), KEY)


def test_a_concept_of_lists_is_that_of_arrays():
  marks = CONCEPT == 2
  given = (CONCEPT, OTHER, RETAIN, marks)
  found = requests.concept(MODEL, *(rows.tolist() for rows in given))
  jax.tree.map(np.testing.assert_array_equal, found.concept[:], given)


def test_what_is_no_concept_is_refused():
  of = functools.partial(requests.concept, MODEL)
  refused("got none", of, CONCEPT[:0])
  refused("prompt at 0", of, MODEL.null_tokens[None])
  refused(r"prompts int \[B, 5\]", of, CONCEPT[:, :3])
  refused("in 0 .. 7", of, CONCEPT + 9)
  refused(r"prompts int \[B, 5\], got float32", of, CONCEPT * 1.0)
  refused(r"anchors \[2, 5\], got", of, CONCEPT, OTHER[:1])
  refused("anchors in 0 .. 7", of, CONCEPT, OTHER + 9)
  refused("marks to mark the concept", of, CONCEPT, marks=CONCEPT < 0)
  refused(r"marks bool \[2, 5\], got int32", of, CONCEPT, marks=CONCEPT)
  refused("with .'anchors'", wanting, "salun", anchors=None)
  refused("with .'marks'", wanting, "forget_me_not", marks=None)
  refused("with .'retain'", wanting, "adv_unlearn", retain=None)
  bare = Request(concept=CONCEPT)
  call = functools.partial(jax.eval_shape, method("uce"), VARIABLES, None)
  refused("in a request of a concept", call, bare, KEY)
  data, name = {"tokens": ROWS["tokens"]}, "forget_me_not"
  call = functools.partial(jax.eval_shape, method(name), VARIABLES, data)
  refused("data to have 'x', got 'tokens'", call, request_of(name), KEY)


def test_bad_options_of_esd_are_named():
  esd = functools.partial(diffusion.esd, MODEL)
  variant = lambda **change: {"variant": SECOND_RELEASE._replace(**change)}
  few = lambda **change: {"sampling": FEW._replace(**change)}
  ask = functools.partial(serve, diffusion.esd, CONCEPT, sampling=FEW)
  for message, options in (
    ("group to be one of", {"group": "heads"}),
    ("base to be one of 'null', 'cond'", variant(base="x")),
    ("sampler to be one of", variant(sampler="x")),
    ("times to be one of", variant(times="x")),
    ("batch_size", {"batch_size": 0}),
    ("num_steps", {"num_steps": -1}),
    ("num_steps in 1 .. 20, got 21", {"sampling": Sampling(21)}),
    ("num_images > 0", few(num_images=0)),
    ("chunk_size > 0", few(chunk_size=0)),
    ("time_weights >= 0", {"time_weights": -jnp.ones(20), **few()}),
    ("time_weights ", {"time_weights": jnp.ones(3), **few()}),
  ):
    refused(message, esd, **options)
  refused("'selfattn', got none", ask, group="selfattn")
  refused(r"from_prompts \[2, 5\]", ask, from_prompts=OTHER[:1])


def test_bad_options_of_uce_are_named():
  uce = functools.partial(diffusion.uce, MODEL)
  ask = functools.partial(serve, diffusion.uce, CONCEPT)
  at = lambda *places: Positions(jnp.array(places))
  refused("positions.erase ", ask, positions=at(0, 0, 0))
  refused("positions.erase in 0 .. 4", ask, positions=at(0, 5))
  refused("identity_weight > 0", uce, identity_weight=0.0)
  refused("erase_weight >= 0", uce, erase_weight=-1.0)
  refused("preserve_weight >= 0", uce, preserve_weight=-1.0)
  refused("span to be one of", uce, span="all")
  for message, denoiser in (
    ("in the group 'xattn-kv'", {}),
    (r"kernels \[D, out\]", {"attn2": {"to_k": {"bias": jnp.zeros(8)}}}),
  ):
    params = {**VARIABLES.params, "denoiser": denoiser}
    refused(message, uce(CONCEPT), params, None, Request(), KEY)


def test_bad_options_of_the_others_are_named():
  names = ("concept_ablation", "salun", "sfd", "doco", "adv_unlearn")
  ablate, salun, sfd, doco, adv = (
    functools.partial(getattr(diffusion, name), MODEL) for name in names
  )
  refused("target to be one of 'self', 'orig", ablate, target="frozen")
  refused("prior_weight >= 0", ablate, prior_weight=-1.0, sampling=FEW)
  bare = MODEL._replace(eps_with_attention=None)
  refused("eps_with_attention, got None", diffusion.forget_me_not, bare)
  bare = MODEL._replace(embed=None)
  fit = {"inversion": sgd()}
  refused("encode_embeddings for", diffusion.forget_me_not, bare, **fit)
  refused("maps of cross-", diffusion.attention_norm, (), jnp.array([True]))
  refused("keep in", salun, keep=1.5)
  refused("retain_weight >= 0", salun, retain_weight=-1.0)
  refused("null_rate in", salun, null_rate=2.0)
  refused("table ", diffusion.replace_words, CONCEPT)
  refused("table in 0 .. 5", diffusion.replace_words, jnp.arange(6) + 1)
  # SFD.
  refused("override_tokens other than", sfd, CONCEPT, CONCEPT)
  kept = {"retain_tokens": CONCEPT}
  refused("retain_tokens without prompts of the", sfd, CONCEPT, OTHER, **kept)
  short = {"loss": Distillation(times=(1, 10, 18))}
  refused("decay in", sfd, ema_decay=1.5, **short)
  refused("forget_weight >= 0", sfd, loss=Distillation(forget_weight=-1.0))
  for message, times in (
    ("t_min < t_max", (9, 5, 9)),
    ("t_max=21", (0, 5, 21)),
    ("t_init in 0 .. 19", (0, 20, 9)),
    ("t_min of integer", (0.5, 5, 9)),
  ):
    refused(message, sfd, loss=Distillation(times=times))
  # DoCo.
  same = "anchor_prompts other than"
  refused(same, doco, CONCEPT, CONCEPT, sampling=FEW)
  refused("warm_up", doco, critic=Critic(warm_up=-1))
  for message, kept in (
    ("mode to be one of", Preservation("code")),
    ("strength >= 0", Preservation(strength=-1.0)),
    ("clip_gradient > 0", Preservation(clip_gradient=0.0)),
  ):
    refused(message, doco, preservation=kept)
  # AdvUnlearn.
  same = "retain_prompts without prompts of the concept"
  refused(same, adv, CONCEPT, CONCEPT, sampling=FEW)
  long = {"adversary": Adversary(sgd(), 3), "sampling": FEW}
  refused("padding for num_tokens=3", adv, CONCEPT, **long)
  refused("insertion to be one of", adv, adversary=Adversary(insertion="in"))
  refused("start to be one of", adv, adversary=Adversary(start="zero"))
  refused("num_steps >= 200", adv, num_steps=3, sampling=FEW)
  refused("steps", adv, retention=Retention(steps=-1))
  refused("batch_size > 0", adv, retention=Retention(batch_size=0))
  bare = MODEL._replace(encode_embeddings=None)
  refused("encode_embeddings to be set", diffusion.adv_unlearn, bare)
