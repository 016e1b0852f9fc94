"""Self-distillation from the original model with the answer's tokens lowered.

Sources: UNDIAL, Dong et al. (2024), arXiv:2402.10052; CE-U, Yang (2025),
arXiv:2503.01224.
Class: heuristic; bounded. Data access: forget rows, and retain rows if asked.
Cost: a gradient per step, and for `undial` a forward pass of the original.
Difference from open-unlearning's code, which averages `undial` over all positions
and lowers a wrong token where none counts: answers only.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Step, Variables
from jaxunlearn.language._objectives import (
  answer_labels,
  answer_logits,
  keeping,
  over_tokens,
)
from jaxunlearn.language.types import LanguageModel, counted
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


def undial(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  strength: Scalar = 10.0,
  retain: str | None = None,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Imitates the original's distribution with `strength` off the true logit.

  Args:
    lm: the model.
    fit: see `npo`.
    strength: >= 0; 0 changes nothing. May be traced.
    retain: see `npo`; published without.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: strength < 0, an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.undial(problem.model, fit, retain="nll")
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.07, 0.93)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(strength=strength)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    x = step.rows["x"]
    student = answer_logits(lm, variables, x)
    teacher = answer_logits(lm, step.original, x)
    value = sequences.undial(student, teacher, answer_labels(x), strength)
    return over_tokens(value, step.rows)

  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="undial")


def ceu(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  skip: int = 1,
  retain: str | None = None,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Imitates the model's own distribution without the true token (CE-U).

  Args:
    lm: the model.
    fit: see `npo`.
    skip: static, >= 0; so many first tokens of an answer do not count.
    retain: see `npo`; published without.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: skip < 0, an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.ceu(problem.model, fit, skip=0, retain="nll")
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.0, 0.85)
  """
  fit = as_fit(fit, fields)
  checks.count(0, skip=skip)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    x = step.rows["x"]
    value = sequences.ceu(answer_logits(lm, variables, x), answer_labels(x))
    later = jnp.cumsum(counted(x), axis=1) > skip
    return over_tokens(value, step.rows, later)

  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="ceu")
