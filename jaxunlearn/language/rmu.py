"""RMU: steers the states of forget rows to one random vector.

Source: Li et al. (2024), WMDP, arXiv:2403.03218.
Class: heuristic. Data access: forget and retain rows. Cost: a gradient through the
first blocks per step, and a forward pass of the original through them.
The published recipe moves mlp/down of three blocks only: `through(block_window(...))`
or `masked`. Difference from open-unlearning's code, which divides each row's sum by
every row's number of tokens: by its own.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Slot, Step, Variables
from jaxunlearn.language._objectives import (
  count,
  keeping,
  over_tokens,
  per_answer,
)
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


def rmu(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  layer: int,
  strength: Scalar = 20.0,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Pulls a block's output on answers to strength * u, u drawn once.

  On retain rows it is pulled to that of the original model. Blocks after it, the
  last norm and the head do not move.

  Args:
    lm: the model.
    fit: see `npo`.
    layer: static; the block, 0 .. num_layers - 1. Published: 7 of 32.
    strength: length of the vector, >= 0. May be traced.
    forget_weight: see `npo`.
    retain_weight: see `npo`; published: 1200.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: a layer out of range, strength < 0.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=8, batch_size=2)
    >>> method = language.rmu(problem.model, fit, layer=1, retain_weight=10.0)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.25, 0.53)
  """
  fit = as_fit(fit, fields)
  checks.count(0, layer=layer)
  if layer >= lm.config.num_layers:
    raise ValueError(
      f"Expected layer < {lm.config.num_layers}, got layer={layer}."
    )
  checks.non_negative(strength=strength)
  control: Slot[jax.Array] = Slot("control vector")

  def draw(carry, data, request, key):
    u = jax.random.uniform(key, (lm.config.width,))
    return strength * u / jnp.linalg.norm(u)

  def states(variables: Variables, step: Step) -> jax.Array:
    hidden = lm.embed(variables, step.rows["x"].tokens)
    return lm.blocks(variables, hidden, layers=layer + 1).hidden[:, 1:]

  def apart(variables: Variables, step: Step, target: jax.Array) -> Losses:
    value = sequences.states_apart(states(variables, step), target)
    out = over_tokens(value, step.rows)
    return per_answer(out.value / jnp.maximum(count(out), 1e-12), out)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    return apart(variables, step, step[control].reshape(1, 1, -1))

  def keep(variables: Variables, step: Step, key: jax.Array) -> Losses:
    return apart(variables, step, states(step.original, step))

  weights = (forget_weight, retain_weight)
  return chain(
    provide(control, draw, reads="nothing"),
    keeping(lm, forget, fit, keep, *weights),
    name="rmu",
  )
