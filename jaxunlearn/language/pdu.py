"""PDU: flat logits on forget rows while the retain loss stays below a bound.

Source: Entesari et al. (2025), arXiv:2506.05314.
Class: heuristic. Data access: forget and retain rows. Cost: a gradient per step,
and a forward pass of retain rows each time that the multiplier moves.
Difference from open-unlearning's code: logits count where they predict a token of
the answer, not where one stands; the multiplier sees a retain batch of its own.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, Slot, Step, Variables
from jaxunlearn.language._objectives import (
  answer_logits,
  answer_score,
  count,
  keeping,
  over_tokens,
)
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


def pdu(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  bound: Scalar = 0.3,
  dual_rate: Scalar = 1.0,
  dual_start: Scalar = 0.0,
  every: int = 1,
  forget_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Minimises (max - mean)^2 of logits subject to retain loss <= bound.

  The multiplier of the retain loss moves by m <- max(0, m + rate (loss - bound)).

  Args:
    lm: the model.
    fit: see `npo`.
    bound: nats a token. May be traced.
    dual_rate: > 0, of the multiplier. May be traced.
    dual_start: >= 0, its first value. May be traced.
    every: static; steps between its moves; must divide `num_steps`.
    forget_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: dual_rate <= 0, dual_start < 0, steps that `every` does not
      divide.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=3, batch_size=2)
    >>> method = language.pdu(problem.model, fit, bound=0.1)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.06, 0.86)
  """
  fit = as_fit(fit, fields)
  checks.positive(dual_rate=dual_rate)
  checks.non_negative(dual_start=dual_start)
  checks.count(1, every=every)
  if fit.num_steps % every:
    raise ValueError(
      f"Expected every to divide num_steps={fit.num_steps}, got every={every}."
    )
  multiplier: Slot[jax.Array] = Slot("multiplier")

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    logits = answer_logits(lm, variables, step.rows["x"])
    return over_tokens(sequences.logit_spread(logits), step.rows)

  def keep(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = answer_score(lm, variables, step.rows)
    return scores._replace(value=-step[multiplier] * scores.value)

  def slack(value: jax.Array, step: Step, key: jax.Array) -> Losses:
    """Descended in the multiplier it climbs by the violation."""
    scores = answer_score(lm, step.variables, step.rows)
    excess = jax.lax.stop_gradient(-scores.value - bound * count(scores))
    return scores._replace(value=-value * excess)

  start: Any = lambda *args: jnp.asarray(dual_start, jnp.float32)
  primal = keeping(
    lm, forget, fit._replace(num_steps=every), keep, forget_weight, 1.0
  )
  climb = optax.chain(optax.sgd(dual_rate), optax.keep_params_nonnegative())
  dual = phase(
    slack,
    Fit(climb, 1, fit.batch_size),
    draw=Draw(retain=fit.batch_size),
    on=multiplier,
    name="multiplier",
  )
  return chain(
    provide(multiplier, start, reads="nothing"),
    alternate(primal, dual, rounds=fit.num_steps // every, name="unlearn"),
    name="pdu",
  )
