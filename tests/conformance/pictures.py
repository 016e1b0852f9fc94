"""Rows of the methods for vision-language models, and of text's on images."""

import jax.numpy as jnp
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import language, vision_language
from jaxunlearn.vision_language.prefix_model import LINEAR

FIT = ju.Fit(ADAM, 3, 8)


def _pictures(factory, build, variant="", **flags):
  return row(worlds.pictures, factory, build, variant, **flags)


def _defence(factory, **options):
  return _pictures(
    factory, lambda lm: factory(lm, FIT, **options), slow=factory is not FIRST
  )


FIRST = vision_language.head_projection
PICTURES = [
  _defence(vision_language.fact_erasure),
  _defence(vision_language.input_rephrasing),
  _defence(
    vision_language.head_projection, layers=(1, 2), k=3, erasure_weight=1.0
  ),
  _defence(vision_language.max_entropy, layers=(1, 2)),
  _pictures(
    vision_language.prompt_decoupling,
    lambda lm: vision_language.prompt_decoupling(
      lm, language.gradient_ascent(lm, FIT), 0.5
    ),
    reads="forget",
  ),
  row(
    worlds.concepts,
    vision_language.siu,
    lambda lm: vision_language.siu(lm, ju.Fit(ADAM, 3, 4)),
    reads="nothing",
    devices=False,
  ),
  # Of the language room, with the tower frozen and through adapters.
  _pictures(
    language.gradient_ascent,
    lambda lm: ju.masked(
      language.gradient_ascent(lm, FIT), vision_language.FROZEN_TOWER
    ),
    "pictures",
    reads="forget",
    slow=True,
  ),
  _pictures(
    language.npo,
    lambda lm: ju.through(
      vision_language.lora_and_projector(rank=2, targets=LINEAR),
      lambda part: language.npo(part, FIT, beta=jnp.float32(0.1)),
      lm,
    ),
    "pictures",
    slow=True,
  ),
]
