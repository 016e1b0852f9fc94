"""Ascent in which each token counts by how likely it still is: WGA and SatImp.

Sources: WGA, Wang et al. (2025), arXiv:2502.19301; SatImp, Yang et al. (2025),
arXiv:2505.11953.
Class: heuristic. Data access and cost: as `gradient_ascent`. A forgotten token has
weight near 0, so that unlike plain ascent it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Step, Variables
from jaxunlearn.language._objectives import Objective, keeping, over_tokens
from jaxunlearn.language.scores import token_scores
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


def wga(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  beta: Scalar = 1.0,
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Ascent with token weights p^beta, held constant.

  Args:
    lm: the model.
    fit: see `npo`.
    beta: >= 0; 0 is `gradient_ascent`. May be traced.
    retain: see `npo`.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: beta < 0, an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> after, info = language.wga(problem.model, fit)(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.39, 0.96)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(beta=beta)
  forget = _ascent(lm, lambda log_p: sequences.wga_weight(log_p, beta))
  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="wga")


def satimp(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  saturation: Scalar = 5.0,
  importance: Scalar = 1.0,
  retain: str | None = "nll",
  forget_weight: Scalar = 0.1,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Ascent with token weights p^saturation (1 - p)^importance, held constant.

  Args:
    lm: the model.
    fit: see `npo`.
    saturation: >= 0. May be traced.
    importance: >= 0. May be traced.
    retain: see `npo`.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: an exponent < 0, an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.satimp(problem.model, fit, forget_weight=1.0)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.76, 0.96)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(saturation=saturation, importance=importance)
  forget = _ascent(
    lm, lambda log_p: sequences.satimp_weight(log_p, saturation, importance)
  )
  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="satimp")


def _ascent(
  lm: LanguageModel, weight: Callable[[jax.Array], jax.Array]
) -> Objective:
  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    log_p = token_scores(lm, variables, step.rows["x"]).log_prob
    return over_tokens(weight(log_p) * log_p, step.rows)

  return forget
