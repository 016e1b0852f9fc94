"""Looking at a model on the way, without touching it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.transform import Carry, Transform
from jaxunlearn.core.types import Draw, Info, Slot, Variables


def record(name: str, fn: Callable[[Carry], Info]) -> Transform:
  """A link that changes nothing and leaves `fn(carry)` as its info.

  Args:
    name: the key of the info in a chain.
    fn: of what flows through the chain; what gives None is left out.

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> count = lambda carry: len(carry.variables.params)
    >>> ju.core.record("layers", count)(*problem.arguments)[1]
    2
  """

  def run(carry, data, request, key, env):
    return carry, fn(carry)

  this = Transform(name, run, 0, Draw(), lambda key: [(this, key)])
  return this


def alternate_with_curve(
  *links: Transform,
  rounds: int,
  evaluate: Callable[[Variables], Any] | None,
  every: int = 1,
  name: str = "rounds",
) -> Transform:
  """`alternate`, with the model evaluated after every so many rounds.

  Evaluating changes no bit of the result.

  Args:
    *links: see `alternate`.
    rounds: static, >= 0.
    evaluate: `variables -> pytree of arrays`; None records nothing. Its cost is
      that of the evaluations that are kept.
    every: static, >= 1.
    name: the key of the info in an outer chain.

  Returns:
    A `Transform` whose info is that of `alternate`, leaves [rounds, ...], and
    "curve", leaves [rounds // every, ...], of the rounds every, 2 every, ...

  Raises:
    ValueError: rounds < 0, every < 1.
  """
  checks.count(1, every=every)
  done: Slot[jax.Array] = Slot("rounds done")

  def look(carry):
    if evaluate is None:
      return None
    shapes = jax.eval_shape(evaluate, carry.variables)
    # The count belongs to no lane: under vmap this stays one branch or other.
    return jax.lax.cond(
      carry[done] % every == 0,
      evaluate,
      lambda _: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
      carry.variables,
    )

  zero = provide(done, lambda *_: jnp.zeros((), jnp.int32), reads="nothing")
  one_more = provide(done, lambda c, *_: c[done] + 1, reads="nothing")
  turns = alternate(*links, one_more, record("curve", look), rounds=rounds)
  whole = chain(zero, turns, name=name)

  def run(*args):
    carry, info = whole.run(*args)
    found = dict(info[turns.name])
    if "curve" in found:
      thin = lambda leaf: leaf[every - 1 :: every]
      found["curve"] = jax.tree.map(thin, found["curve"])
    slots = {k: v for k, v in carry.slots.items() if k is not done}
    return carry._replace(slots=slots), found

  return dataclasses.replace(whole, run=run)
