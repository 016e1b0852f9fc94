"""Looking at a model on the way, without touching it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide, repeat
from jaxunlearn.core.types import (
  Carry,
  Draw,
  Info,
  Slot,
  Transform,
  Variables,
)

_COUNT: Slot[jax.Array] = Slot("rounds done")


def record(name: str, fn: Callable[[Carry], Info]) -> Transform:
  """A link that changes nothing and leaves `fn(carry)` as its info.

  Args:
    name: the key of the info in a chain.
    fn: of what flows through the chain; what gives None is left out.
  """

  def run(carry, data, request, key, env):
    return carry, fn(carry)

  this = Transform(name, run, 0, Draw(), lambda key: [(this, key)])
  return this


def repeat_with_curve(
  transform: Transform,
  times: int,
  evaluate: Callable[[Variables], Any] | None,
  *,
  every: int = 1,
) -> Transform:
  """`repeat`, with the model evaluated after every so many rounds.

  Evaluating changes no bit of the result.

  Args:
    transform: what to repeat; its info must be a dict, as a chain's is.
    times: static, >= 0.
    evaluate: `variables -> pytree of arrays`; None records nothing. Its cost is
      that of the evaluations that are kept.
    every: static, >= 1.

  Returns:
    A `Transform` whose info is that of `transform`, leaves [times, ...], and
    "curve", leaves [times // every, ...], of the rounds every, 2 every, ...

  Raises:
    ValueError: times < 0, every < 1.
  """
  checks.positive(every=every)

  def look(carry):
    if evaluate is None:
      return None
    shapes = jax.eval_shape(evaluate, carry.variables)
    # The count belongs to no lane: under vmap this stays one branch or other.
    return jax.lax.cond(
      carry[_COUNT] % every == 0,
      evaluate,
      lambda _: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
      carry.variables,
    )

  count = provide(_COUNT, lambda c, *_: c[_COUNT] + 1, reads="nothing")
  start = provide(_COUNT, lambda *_: jnp.zeros((), jnp.int32), reads="nothing")
  one = chain(transform, count, record("curve", look), name="rounds")
  whole = chain(start, repeat(one, times), name=transform.name)

  def run(*args):
    carry, info = whole.run(*args)
    slots = {k: v for k, v in carry.slots.items() if k is not _COUNT}
    rounds = info["rounds"]
    found = dict(rounds[transform.name])
    if "curve" in rounds:
      thin = lambda leaf: leaf[every - 1 :: every]
      found["curve"] = jax.tree.map(thin, rounds["curve"])
    return carry._replace(slots=slots), found

  return dataclasses.replace(whole, run=run)
