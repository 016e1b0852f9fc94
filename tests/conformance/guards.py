"""Rows of guards, edits and what is trained under privacy, for language models."""

import functools

import jax.numpy as jnp
import numpy as np
from conformance.answers import FIT, answers
from conformance.case import row
from conformance.worlds import World

import jaxunlearn as ju
from jaxunlearn import language

GUARD = {"moves": False, "keeps_state": False}


@functools.cache
def told() -> World:
  """`answers` with phrases that must not be said, and names to be redirected."""
  world, rng = answers(), np.random.default_rng(5)
  draw = lambda *shape: rng.integers(0, 32, shape).astype(np.int32)
  names = language.Subjects(
    draw(2, 2, 3, 6), rng.integers(2, 6, (2, 2, 3)), draw(2, 6), np.full(2, 4)
  )
  names = language.Subjects(*map(jnp.asarray, names))
  phrases = jnp.asarray(draw(24, 2, 3))
  requests = ju.Request(world.requests, ~world.requests, names)
  data = {**world.data, "phrases": phrases}
  return world._replace(data=data, requests=requests)


def _rocr(lm):
  return language.rocr(lm, jnp.broadcast_to(jnp.eye(24), (2, 24, 24)), (0, 1))


GUARDS = [
  row(answers, language.eco, lambda lm: language.eco(lm, FIT), **GUARD),
  row(
    told,
    language.guard,
    lambda lm: language.guard(lm, FIT, layer=1, width=4),
    slow=True,
    **GUARD,
  ),
  row(
    answers,
    language.o3,
    lambda lm: language.o3(lm, FIT, capacity=2, rank=2),
    reads="forget",
    slow=True,
    **GUARD,
  ),
  row(told, language.rocr, _rocr, reads="nothing", keyless=True, slow=True),
  row(
    answers,
    language.causal_isolation,
    lambda lm: language.causal_isolation(lm, FIT, stop=1),
    devices=False,  # Each would weigh by the retain loss of its own rows.
    slow=True,
  ),
  row(
    answers,
    language.protect,
    lambda lm: language.protect(lm, FIT, noise_multiplier=0.5),
    requestless=True,
    slow=True,
  ),
]
