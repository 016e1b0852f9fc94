"""Adversarial training as a composition of phases: two optimisers in turn.

Source: the non-saturating loss and R1 of Mescheder et al. (2018),
arXiv:1801.04406, its lazy form and the averaged generator of StyleGAN2 (Karras et
al. 2020, arXiv:1912.04958).
Differences: R1 is added to the loss of every `r1_every`-th step instead of having
a step of its own; no regularisation of path lengths; no mixing of styles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import ema, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.reduction import mask_change
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  Draw,
  Info,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.gan.networks import DISCRIMINATOR, GENERATOR, Gan

# `(generator, step, key) -> []`, what is added to the generator's loss.
Penalty = Callable[[PyTree, Step, jax.Array], jax.Array]


class GanFit(NamedTuple):
  """How a generator and a discriminator are trained.

  Attributes:
    optimizer: of the generator; any optax optimiser, starts fresh.
    judge: of the discriminator; None for one like the generator's.
    num_steps: static; updates of each.
    batch_size: static; real rows a step, and as many samples.
    r1: weight of the discriminator's squared gradient at real rows, >= 0.
    r1_every: static; it is reckoned every so many steps, and weighs as much
      more then.
    ema: in [0, 1), the share that the generator's running average, which is what
      comes out, keeps in a step.
  """

  optimizer: optax.GradientTransformation = optax.adam(2e-3, b1=0.0, b2=0.99)
  num_steps: int = 2000
  batch_size: int = 32
  judge: optax.GradientTransformation | None = None
  r1: float | jax.Array = 10.0
  r1_every: int = 16
  ema: float | jax.Array = 0.998


def r1_penalty(
  discriminate: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
  """||d D(x) / d x||^2 of each row, [B]; D judges each by itself."""
  slope = jax.grad(lambda x: discriminate(x).sum())(x)
  return jnp.square(slope).reshape(len(x), -1).sum(axis=1)


def adversarial(
  gan: Gan,
  fit: GanFit,
  draw: Draw,
  penalty: Penalty | None = None,
  *,
  name: str = "adversarial",
) -> Transform:
  """Trains discriminator and generator in turn, an update each.

  Args:
    gan: the model.
    fit: how.
    draw: the rows that are real to the discriminator, of one kind.
    penalty: what is added to the generator's loss, or None.
    name: the key of its info in a chain.

  Returns:
    A `Transform` with infos "discriminator" and "generator", leaves [num_steps,
    1]; the generator that comes out is the running average.

  Raises:
    ValueError: a weight or count out of range.

  Example:
    >>> import optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> fit = gan.GanFit(optax.sgd(0.1), num_steps=4, batch_size=8, r1=0.1)
    >>> method = gan.adversarial(problem.model, fit, ju.Draw(retain=8))
    >>> after, info = method.compiled(*problem.arguments)
    >>> {part: turn.loss.shape for part, turn in info["turns"].items()}
    {'discriminator': (4, 1), 'generator': (4, 1)}
  """
  checks.non_negative(r1=fit.r1)
  checks.fraction(ema=fit.ema)
  checks.count(1, r1_every=fit.r1_every, batch_size=fit.batch_size)
  judge = fit.optimizer if fit.judge is None else fit.judge
  average: Slot[PyTree] = Slot("running average")

  def judging(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    params, x = variables.params, step.rows["x"]
    logits = lambda x: gan.discriminate(params[DISCRIMINATOR], x)
    fake = gan.generate(params[GENERATOR], gan.noise(step.keys(key)))
    losses = jax.nn.softplus(-logits(x)) + jax.nn.softplus(logits(fake))
    # The count of steps is the same in all lanes, so that `vmap` keeps the
    # branch.
    lazy = jax.lax.cond(
      step.index % fit.r1_every == 0,
      lambda x: r1_penalty(logits, x).astype(losses.dtype),
      lambda x: jnp.zeros_like(losses),
      x,
    )
    return losses + 0.5 * fit.r1 * fit.r1_every * lazy

  def generating(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    params = variables.params
    z = gan.noise(jax.random.split(key, fit.batch_size))
    x = gan.generate(params[GENERATOR], z)
    losses = jax.nn.softplus(-gan.discriminate(params[DISCRIMINATOR], x))
    more = 0.0 if penalty is None else penalty(params[GENERATOR], step, key)
    return losses + more

  return chain(
    provide(
      average,
      # In float32, or small steps of half precision would be lost.
      lambda carry, data, request, key: jax.tree.map(
        lambda p: p.astype(jnp.float32), carry.variables.params
      ),
      reads="nothing",
    ),
    alternate(
      phase(judging, judge, 1, draw=draw, on=DISCRIMINATOR, name=DISCRIMINATOR),
      phase(generating, fit.optimizer, 1, on=GENERATOR, name=GENERATOR),
      ema(average, fit.ema),
      rounds=fit.num_steps,
      name="turns",
    ),
    adopt(lambda carry: carry[average][GENERATOR], name="average"),
    name=name,
  )


def adopt(fn: Callable[[Any], PyTree], *, name: str = "adopt") -> Transform:
  """Puts another generator, `carry -> params`, in the place of the present one."""

  def run(carry, data, request, key, env):
    del data, request, key
    before = carry.variables.params
    cast = lambda new, old: new.astype(old.dtype)
    params = {
      **before,
      GENERATOR: jax.tree.map(cast, fn(carry), before[GENERATOR]),
    }
    for weight_mask in env.weight_masks:
      params = mask_change(before, params, weight_mask)
    return carry._replace(
      variables=carry.variables._replace(params=params)
    ), None

  this = Transform(name, run, 0, Draw(), lambda key: [(this, key)])
  return this


def train(
  gan: Gan,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  fit: GanFit,
) -> tuple[Variables, Info]:
  """Trains from scratch on the rows {"x": [N, *shape]} of weight > 0, [N].

  Of all rows that is the original, without a class the gold standard. Returns
  variables and the info of `adversarial`.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> model, _, data, request, key = toy.gan()
    >>> fit = gan.GanFit(optax.sgd(0.1), num_steps=4, batch_size=8, r1=0.1)
    >>> variables, info = gan.train(model, data, ~request, key, fit)
    >>> sorted(variables.params), sorted(info["turns"])
    (['discriminator', 'generator'], ['discriminator', 'generator'])
  """
  begin, run = jax.random.split(key)
  weights = jnp.asarray(weights)
  nothing = jnp.zeros_like(weights)
  training = adversarial(gan, fit, Draw(retain=fit.batch_size))
  return training(gan.init(begin), data, Request(nothing, weights), run)


def finetune(gan: Gan, fit: GanFit) -> Transform:
  """Goes on with the rows to retain as the real ones.

  Example:
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> problem = toy.gan()
    >>> fit = gan.GanFit(
    ...   optax.sgd(0.02), 150, 16, optax.sgd(0.5), r1=0.5, r1_every=1, ema=0.9
    ... )
    >>> method = gan.finetune(problem.model, fit)
    >>> after, info = method.compiled(*problem.arguments)
    >>> toy.large_share(problem, after)  # It was 0.25.
    0.16
  """
  return adversarial(gan, fit, Draw(retain=fit.batch_size), name="finetune")


def pool(
  gan: Gan, variables: Variables, key: jax.Array, count: int
) -> dict[str, jax.Array]:
  """Samples for a request: {"x": [count, *shape], "z": [count, Z]}.

  A user, or a classifier, marks those that must go: the mask over them is the
  request.

  Example:
    >>> from jaxunlearn import gan, toy
    >>> model, variables, *_, key = toy.gan()
    >>> data = gan.pool(model, variables, key, count=10)
    >>> {name: column.shape for name, column in data.items()}
    {'x': (10, 3), 'z': (10, 3)}
  """
  z = gan.noise(jax.random.split(key, count))
  return {"x": gan.generate(variables.params[GENERATOR], z), "z": z}
