"""Adapt-then-Unlearn: learn what must go, then train on the rest away from it.

Source: Tiwary, Guha, Panda and Prathosh (2023), arXiv:2309.14054, and its released
code. Class: heuristic. Data: samples of the generator that a user or a classifier
marked; no training row. Model state: there is none.
Cost: K adaptations side by side, then one training on the samples to keep.
Differences from the released code: both stages begin with the generator as it is,
the running average of its training, and with fresh optimisers; distances from the
anchors count in units of that at the beginning, so that gamma and alpha mean the
same for every network; the mean over anchors is one, where the code multiplies by
half their number; the two repulsions without a bound are cut off.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.recording import record
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Info, PyTree, Slot
from jaxunlearn.gan.networks import DISCRIMINATOR, GENERATOR, Gan
from jaxunlearn.gan.repulsion import (
  Repulsion,
  consolidated,
  elastic_penalty,
  exponential,
  fisher_diagonal,
  tensor_distance,
)
from jaxunlearn.gan.training import GanFit, adopt, adversarial


def adapt_to_negatives(
  gan: Gan,
  fit: GanFit,
  *,
  ewc: float | jax.Array = 10.0,
  fisher_samples: int = 32,
) -> Transform:
  """Stage 1: goes on with the samples to forget as the real ones.

  Args:
    gan: the model.
    fit: of the phase.
    ewc: weight of elastic weight consolidation, >= 0; F is of the
      discriminator's logit of a sample. May be traced.
    fisher_samples: static; samples that F is a mean over.

  Raises:
    ValueError: a weight or count out of range.

  Example:
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> fit = gan.GanFit(
    ...   optax.sgd(0.02), 150, 16, optax.sgd(0.5), r1=0.5, r1_every=1, ema=0.9
    ... )
    >>> method = gan.adapt_to_negatives(problem.model, fit)
    >>> after, info = method.compiled(*problem.arguments)
    >>> toy.large_share(problem, after)  # It was 0.25.
    0.52
  """
  checks.non_negative(ewc=ewc)
  checks.count(1, fisher_samples=fisher_samples)
  fisher: Slot[tuple[PyTree, PyTree]] = Slot("Fisher information")

  def importance(carry, data, request, key):
    del data, request
    params = carry.variables.params

    def logit(generator: PyTree, z: jax.Array) -> jax.Array:
      x = gan.generate(generator, z[None])
      return gan.discriminate(params[DISCRIMINATOR], x)[0]

    z = gan.noise(jax.random.split(key, fisher_samples))
    found = fisher_diagonal(logit, params[GENERATOR], z)
    held = jax.tree.map(jnp.multiply, found, consolidated(found))
    return held, params[GENERATOR]

  def penalty(generator, step, key):
    del key
    weights, start = step[fisher]
    return ewc * elastic_penalty(generator, start, weights)

  return chain(
    provide(fisher, importance, reads="nothing"),
    adversarial(gan, fit, Draw(forget=fit.batch_size), penalty, name="adapt"),
    name="adapt_to_negatives",
  )


def adapt_unlearn(
  gan: Gan,
  fit: GanFit,
  *,
  adapt: GanFit | None = None,
  num_anchors: int = 5,
  ewc: float | jax.Array = 10.0,
  repulsion: Repulsion | None = None,
  distance: Callable[[PyTree, PyTree], jax.Array] = tensor_distance,
) -> Transform:
  """Trains on samples to keep, repelled by K generators of those to forget.

  Args:
    gan: the model.
    fit: of stage 2.
    adapt: of stage 1; that of stage 2 by default.
    num_anchors: static; K, published: 5.
    ewc: see `adapt_to_negatives`.
    repulsion: from the distance V, 1 at the beginning, to what is added to the
      generator's loss: `exponential()` by default, `inverse`, `negative`.
    distance: `(generator, K anchors) -> []`; made relative here.

  Returns:
    A `Transform` with infos "anchors", leaves [K, ...], and "unlearn". Its data
    are samples, {"x": [N, *shape]}, and its request the mask of the marked ones.

  Raises:
    ValueError: a weight or count out of range.

  Example:
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> fit = gan.GanFit(
    ...   optax.sgd(0.02), 150, 16, optax.sgd(0.5), r1=0.5, r1_every=1, ema=0.9
    ... )
    >>> method = gan.adapt_unlearn(problem.model, fit, num_anchors=2)
    >>> after, info = method.compiled(*problem.arguments)
    >>> toy.large_share(problem, after)  # It was 0.25.
    0.08
  """
  repel = exponential() if repulsion is None else repulsion
  anchors, learning = _learning(gan, adapt or fit, num_anchors, ewc)
  unit: Slot[jax.Array] = Slot("distance from the anchors")

  def measure(carry, data, request, key):
    del data, request, key
    found = distance(carry.variables.params[GENERATOR], carry[anchors][0])
    # Anchors that did not move have no distance to count in.
    return jnp.where(found > 0, found, 1.0)

  def penalty(generator, step, key):
    del key
    return repel(distance(generator, step[anchors][0]) / step[unit])

  draw = Draw(retain=fit.batch_size)
  return chain(
    *learning,
    provide(unit, measure, reads="nothing"),
    adversarial(gan, fit, draw, penalty, name="unlearn"),
    name="adapt_unlearn",
  )


def extrapolate(
  gan: Gan,
  fit: GanFit,
  *,
  gamma: float | jax.Array = 0.5,
  num_anchors: int = 5,
  ewc: float | jax.Array = 10.0,
) -> Transform:
  """The edit that stage 2 refines: generator - gamma (anchor - generator).

  Args:
    gan: the model.
    fit: of stage 1.
    gamma: how far away from the mean of K anchors. May be traced.
    num_anchors: static; K.
    ewc: see `adapt_to_negatives`.

  Example:
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> fit = gan.GanFit(
    ...   optax.sgd(0.02), 150, 16, optax.sgd(0.5), r1=0.5, r1_every=1, ema=0.9
    ... )
    >>> method = gan.extrapolate(problem.model, fit, gamma=0.5, num_anchors=2)
    >>> after, info = method.compiled(*problem.arguments)
    >>> toy.large_share(problem, after)  # It was 0.25.
    0.16
  """
  anchors, learning = _learning(gan, fit, num_anchors, ewc)
  beyond = lambda p, many: p - gamma * (many.mean(axis=0) - p)
  away = lambda carry: jax.tree.map(
    beyond, carry.variables.params[GENERATOR], carry[anchors][0]
  )
  return chain(*learning, adopt(away), name="extrapolate")


def _learning(gan: Gan, fit: GanFit, num_anchors: int, ewc: float | jax.Array):
  """The slot of the anchors, leaves [K, ...], and what fills it."""
  checks.count(1, num_anchors=num_anchors)
  stage = adapt_to_negatives(gan, fit, ewc=ewc)
  anchors: Slot[tuple[PyTree, Info]] = Slot("anchors")

  def learn(carry, data, request, key):
    one = lambda k: stage(carry.variables, data, request, k)
    made, info = jax.vmap(one)(jax.random.split(key, num_anchors))
    return made.params[GENERATOR], info

  return anchors, (
    provide(anchors, learn, needs=stage.needs),
    record("anchors", lambda carry: carry[anchors][1]),
  )
