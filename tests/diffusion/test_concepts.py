"""What every method must do with a concept, method by method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_attention
from tiny_attention import CONCEPT, OTHER, RETAIN, SHAPE
from tiny_diffusion import check_only_group_moved

import jaxunlearn as ju
from jaxunlearn import diffusion
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.types import Draw, Request, Variables
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


# With the group that each moves by default.
METHODS = {
  "esd": (lambda m: diffusion.esd(m, fit=sgd(), sampling=FEW), "xattn"),
  "concept_ablation": (
    lambda m: diffusion.concept_ablation(
      m, fit=sgd(), sampling=FEW, prior_weight=1.0
    ),
    "xattn-kv",
  ),
  "uce": (diffusion.uce, "xattn-kv"),
  "sfd": (
    lambda m: diffusion.sfd(
      m,
      fit=sgd(rate=1e-3),
      fake=sgd(1, rate=1e-3),
      loss=Distillation(forget_weight=1.0, times=(1, 10, 18)),
      ema_decay=0.5,
    ),
    "full",
  ),
  "doco": (
    lambda m: diffusion.doco(
      m, fit=sgd(), critic=Critic(fit=sgd(1), warm_up=1), sampling=FEW
    ),
    "xattn-kv",
  ),
  "adv_unlearn": (
    lambda m: diffusion.adv_unlearn(
      m, fit=sgd(), adversary=Adversary(sgd(), 2, warm_up=1), sampling=FEW
    ),
    "text-layers",
  ),
  "forget_me_not": (
    lambda m: diffusion.forget_me_not(m, fit=sgd(), inversion=sgd()),
    "full",
  ),
  "salun": (lambda m: diffusion.salun(m, fit=sgd(), keep=1.0), "full"),
}
READS_ROWS = ("forget_me_not", "salun")
EVERY = pytest.mark.parametrize("name", METHODS)
EVERY_LIGHT = pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      name,
      marks=[pytest.mark.slow]
      if name in ("sfd", "doco", "adv_unlearn")
      else [],
    )
    for name in METHODS
  ],
)


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
  return METHODS[name][0](MODEL)


@functools.cache
def served(name, key=0):
  """The models without one concept and without another."""
  run = lambda asked: ju.unlearn(
    method(name), VARIABLES, data_of(name), asked, jax.random.key(key)
  )
  return run(request_of(name)), run(request_of(name, OTHER, CONCEPT))


def far(a, b):
  gaps = jax.tree.map(lambda x, y: float(abs(x - y).max()), a, b)
  return max(jax.tree.leaves(gaps))


@EVERY_LIGHT
def test_a_second_concept_gives_another_model_without_compiling(name):
  (first, info), (second, _) = served(name)
  assert method(name).compiled._cache_size() == 1
  assert far(first, second) > 1e-4
  for leaf in jax.tree.leaves((first, second, info)):
    assert np.isfinite(leaf).all()
  again, _ = served.__wrapped__(name)[0]
  jax.tree.map(np.testing.assert_array_equal, again, first)
  if name != "uce":  # Which draws nothing.
    assert far(served(name, key=5)[0][0], first) > 1e-6


@EVERY_LIGHT
def test_only_the_group_moves(name):
  (first, _), _ = served(name)
  check_only_group_moved(VARIABLES.params, first.params, METHODS[name][1])


@pytest.mark.slow
@EVERY
def test_stacked_concepts_are_those_one_by_one(name):
  asked = request_of(name), request_of(name, OTHER, CONCEPT)
  many, _ = ju.unlearn_many(
    method(name),
    VARIABLES,
    data_of(name),
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *asked),
    jnp.stack([KEY, KEY]),
  )
  for i, (one, _) in enumerate(served(name)):
    assert far(jax.tree.map(lambda leaf, i=i: leaf[i], many), one) < 1e-3


@EVERY
def test_shapes_alone_are_enough_and_dtypes_stay(name):
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), VARIABLES)
  asked, data = request_of(name), data_of(name)
  out, _ = jax.eval_shape(method(name), half, data, asked, KEY)
  assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {
    jnp.dtype(jnp.bfloat16)
  }


@EVERY
def test_a_method_says_what_it_reads(name):
  if name not in READS_ROWS:
    assert method(name).needs == Draw()
  else:
    assert method(name).needs.forget == 4


@EVERY
def test_without_a_concept_there_is_nothing_to_forget(name):
  nothing = request_of(name)._replace(concept=None)
  with pytest.raises(ValueError, match="in a request of a concept"):
    jax.eval_shape(method(name), VARIABLES, data_of(name), nothing, KEY)


def test_what_the_factory_is_told_comes_first():
  told = diffusion.uce(MODEL, CONCEPT, OTHER, preserve_tokens=RETAIN)
  asked = requests.concept(MODEL, CONCEPT, OTHER, RETAIN)
  found = [
    transform(VARIABLES, None, request, KEY)[0]
    for transform, request in (
      (told, Request()),
      (told, requests.concept(MODEL, RETAIN)),
      (method("uce"), asked),
      (method("uce"), Request(concept=asked.concept._asdict())),
    )
  ]
  for other in found[1:]:
    assert far(found[0], other) < 1e-5


def wanting(name, **fields):
  """The method, asked for a concept that lacks something."""
  concept = request_of(name).concept._replace(**fields)
  asked = request_of(name)._replace(concept=concept)
  return jax.eval_shape(method(name), VARIABLES, data_of(name), asked, KEY)


NULL = MODEL.null_tokens[None]
BAD = {
  # What a concept is.
  "no prompts": (lambda: requests.concept(MODEL, CONCEPT[:0]), "got none"),
  "the empty prompt": (lambda: requests.concept(MODEL, NULL), "prompt at 0"),
  "a wrong length": (
    lambda: requests.concept(MODEL, CONCEPT[:, :3]),
    r"prompts of shape \[B, 5\]",
  ),
  "out of range": (lambda: requests.concept(MODEL, CONCEPT + 9), "in 0 .. 7"),
  "no integers": (lambda: requests.concept(MODEL, CONCEPT * 1.0), "integer"),
  "other anchors": (
    lambda: requests.concept(MODEL, CONCEPT, OTHER[:1]),
    r"anchors of shape \(2, 5\), one per prompt",
  ),
  "marks of nothing": (
    lambda: requests.concept(MODEL, CONCEPT, marks=CONCEPT < 0),
    "marks to mark the concept",
  ),
  "marks of integers": (
    lambda: requests.concept(MODEL, CONCEPT, marks=CONCEPT),
    r"marks bool \(2, 5\), got int32",
  ),
  "no anchors": (lambda: wanting("salun", anchors=None), "with .'anchors'"),
  "no marks": (lambda: wanting("forget_me_not", marks=None), "with .'marks'"),
  "no retain": (lambda: wanting("adv_unlearn", retain=None), "with .'retain'"),
  "a string": (
    lambda: jax.eval_shape(
      method("uce"), VARIABLES, None, Request(concept=CONCEPT), KEY
    ),
    "in a request of a concept",
  ),
  # ESD.
  "group": (lambda: diffusion.esd(MODEL, group="heads"), "group to be one of"),
  "no such group": (
    lambda: diffusion.esd(MODEL, CONCEPT, group="selfattn", sampling=FEW)(
      VARIABLES, None, Request(), KEY
    ),
    "'selfattn', got none",
  ),
  "base": (
    lambda: diffusion.esd(MODEL, variant=SECOND_RELEASE._replace(base="x")),
    "base to be one of 'null', 'cond'",
  ),
  "sampler": (
    lambda: diffusion.esd(MODEL, variant=SECOND_RELEASE._replace(sampler="x")),
    "sampler to be one of",
  ),
  "times": (
    lambda: diffusion.esd(MODEL, variant=SECOND_RELEASE._replace(times="x")),
    "times to be one of",
  ),
  "batch size": (lambda: diffusion.esd(MODEL, batch_size=0), "batch_size"),
  "steps": (lambda: diffusion.esd(MODEL, num_steps=-1), "num_steps"),
  "sampler's steps": (
    lambda: diffusion.esd(MODEL, sampling=Sampling(21)),
    "num_steps in 1 .. 20, got 21",
  ),
  "images": (
    lambda: diffusion.esd(MODEL, sampling=FEW._replace(num_images=0)),
    "num_images > 0",
  ),
  "chunks": (
    lambda: diffusion.esd(MODEL, sampling=FEW._replace(chunk_size=0)),
    "chunk_size > 0",
  ),
  "from prompts": (
    lambda: diffusion.esd(MODEL, CONCEPT, from_prompts=OTHER[:1], sampling=FEW)(
      VARIABLES, None, Request(), KEY
    ),
    r"from_prompts of shape \(2, 5\)",
  ),
  "a time weight": (
    lambda: diffusion.esd(MODEL, sampling=FEW, time_weights=-jnp.ones(20)),
    "time_weights >= 0",
  ),
  "anchors out of range": (
    lambda: requests.concept(MODEL, CONCEPT, OTHER + 9),
    "anchors in 0 .. 7",
  ),
  "time weights": (
    lambda: diffusion.esd(MODEL, sampling=FEW, time_weights=jnp.ones(3)),
    "time_weights of shape",
  ),
  # Concept Ablation.
  "target": (
    lambda: diffusion.concept_ablation(MODEL, target="frozen"),
    "target to be one of 'self', 'original', 'noise'",
  ),
  "prior": (
    lambda: diffusion.concept_ablation(MODEL, prior_weight=-1.0, sampling=FEW),
    "prior_weight >= 0",
  ),
  # UCE.
  "positions": (
    lambda: diffusion.uce(
      MODEL, CONCEPT, positions=Positions(jnp.zeros(3, int))
    )(VARIABLES, None, Request(), KEY),
    "positions.erase of shape",
  ),
  "a position": (
    lambda: diffusion.uce(
      MODEL, CONCEPT, positions=Positions(jnp.array([0, 5]))
    )(VARIABLES, None, Request(), KEY),
    "positions.erase in 0 .. 4",
  ),
  "identity": (
    lambda: diffusion.uce(MODEL, identity_weight=0.0),
    "identity_weight > 0",
  ),
  "erase": (lambda: diffusion.uce(MODEL, erase_weight=-1.0), "erase_weight >="),
  "preserve": (
    lambda: diffusion.uce(MODEL, preserve_weight=-1.0),
    "preserve_weight >= 0",
  ),
  "span": (lambda: diffusion.uce(MODEL, span="all"), "span to be one of"),
  "no cross-attention": (
    lambda: diffusion.uce(MODEL, CONCEPT)(
      {**VARIABLES.params, "denoiser": {}}, None, Request(), KEY
    ),
    "in the group 'xattn-kv'",
  ),
  "no kernels": (
    lambda: diffusion.uce(MODEL, CONCEPT)(
      {
        **VARIABLES.params,
        "denoiser": {"attn2": {"to_k": {"bias": jnp.zeros(8)}}},
      },
      None,
      Request(),
      KEY,
    ),
    r"kernels \[D, out\] of keys",
  ),
  # Forget-Me-Not.
  "attention": (
    lambda: diffusion.forget_me_not(MODEL._replace(eps_with_attention=None)),
    "eps_with_attention, got None",
  ),
  "inversion": (
    lambda: diffusion.forget_me_not(
      MODEL._replace(embed=None), inversion=sgd()
    ),
    "encode_embeddings for inversion",
  ),
  "layers": (
    lambda: diffusion.attention_norm((), jnp.array([True])),
    "maps of cross-attention layers",
  ),
  "rows": (
    lambda: jax.eval_shape(
      method("forget_me_not"),
      VARIABLES,
      {"tokens": ROWS["tokens"]},
      request_of("forget_me_not"),
      KEY,
    ),
    "data to have 'x', got 'tokens'",
  ),
  # SalUn.
  "keep": (lambda: diffusion.salun(MODEL, keep=1.5), "keep in"),
  "retain weight": (
    lambda: diffusion.salun(MODEL, retain_weight=-1.0),
    "retain_weight >= 0",
  ),
  "null rate": (lambda: diffusion.salun(MODEL, null_rate=2.0), "null_rate in"),
  "table": (lambda: diffusion.replace_words(CONCEPT), "table of shape"),
  "table's words": (
    lambda: diffusion.replace_words(jnp.arange(6) + 1),
    "table in 0 .. 5",
  ),
  # SFD.
  "override": (
    lambda: diffusion.sfd(MODEL, CONCEPT, CONCEPT),
    "override_tokens other than",
  ),
  "kept concept": (
    lambda: diffusion.sfd(MODEL, CONCEPT, OTHER, retain_tokens=CONCEPT),
    "retain_tokens without prompts of the concept",
  ),
  "decay": (
    lambda: diffusion.sfd(
      MODEL, ema_decay=1.5, loss=Distillation(times=(1, 10, 18))
    ),
    "decay in",
  ),
  "forget weight": (
    lambda: diffusion.sfd(MODEL, loss=Distillation(forget_weight=-1.0)),
    "forget_weight >= 0",
  ),
  "order of times": (
    lambda: diffusion.sfd(MODEL, loss=Distillation(times=(9, 5, 9))),
    "t_min < t_max",
  ),
  "largest time": (
    lambda: diffusion.sfd(MODEL, loss=Distillation(times=(0, 5, 21))),
    "t_max=21",
  ),
  "first time": (
    lambda: diffusion.sfd(MODEL, loss=Distillation(times=(0, 20, 9))),
    "t_init in 0 .. 19",
  ),
  "times of integers": (
    lambda: diffusion.sfd(MODEL, loss=Distillation(times=(0.5, 5, 9))),
    "t_min of integer",
  ),
  # DoCo.
  "anchors alike": (
    lambda: diffusion.doco(MODEL, CONCEPT, CONCEPT, sampling=FEW),
    "anchor_prompts other than",
  ),
  "warm-up": (
    lambda: diffusion.doco(MODEL, critic=Critic(warm_up=-1)),
    "warm_up",
  ),
  "mode": (
    lambda: diffusion.doco(MODEL, preservation=Preservation("code")),
    "mode to be one of",
  ),
  "strength": (
    lambda: diffusion.doco(MODEL, preservation=Preservation(strength=-1.0)),
    "strength >= 0",
  ),
  "length": (
    lambda: diffusion.doco(MODEL, preservation=Preservation(clip_gradient=0.0)),
    "clip_gradient > 0",
  ),
  # AdvUnlearn.
  "concept retained": (
    lambda: diffusion.adv_unlearn(MODEL, CONCEPT, CONCEPT, sampling=FEW),
    "retain_prompts without prompts of the concept",
  ),
  "room": (
    lambda: diffusion.adv_unlearn(
      MODEL, CONCEPT, adversary=Adversary(sgd(), 3), sampling=FEW
    ),
    "padding for num_tokens=3",
  ),
  "insertion": (
    lambda: diffusion.adv_unlearn(MODEL, adversary=Adversary(insertion="in")),
    "insertion to be one of",
  ),
  "start": (
    lambda: diffusion.adv_unlearn(MODEL, adversary=Adversary(start="zero")),
    "start to be one of",
  ),
  "long warm-up": (
    lambda: diffusion.adv_unlearn(MODEL, num_steps=3, sampling=FEW),
    "num_steps >= 200",
  ),
  "retained steps": (
    lambda: diffusion.adv_unlearn(MODEL, retention=Retention(steps=-1)),
    "steps",
  ),
  "retained rows": (
    lambda: diffusion.adv_unlearn(MODEL, retention=Retention(batch_size=0)),
    "batch_size > 0",
  ),
  "embeddings": (
    lambda: diffusion.adv_unlearn(MODEL._replace(encode_embeddings=None)),
    "encode_embeddings to be set",
  ),
}


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD)
def test_mistakes_are_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
