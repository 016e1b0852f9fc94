"""Gradient ascent on answers, GradDiff, KL minimisation; and saying "I don't know".

Sources: as run by TOFU, Maini et al. (2024), arXiv:2401.06121.
Class: heuristic; ascent has no bound, and a few steps too many destroy the model.
Data access: forget rows, and retain rows unless retain=None. Cost: a gradient per
step; "kl" a forward pass of the original model besides.
Difference from the released code: the refusals and the retain rows have a mean
over tokens each, where it takes one over both; its KL is averaged over prompts
and padding too.
"""

from __future__ import annotations

from typing import Unpack

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Step, Variables
from jaxunlearn.language._objectives import answer_score, keeping, per_answer
from jaxunlearn.language.types import LanguageModel

Scalar = float | jax.Array


def gradient_ascent(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  reduction: str = "token",
  retain: str | None = None,
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Minimises log p of the answers: GA; with retain="nll" GradDiff, "kl" KL.

  Args:
    lm: the model.
    fit: see `npo`; a few steps.
    reduction: "token", the mean over all tokens of a batch, as published;
      "sequence", the mean over rows of their sums, NPO's limit for beta = 0.
    retain: see `npo`.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: an unknown reduction or retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.gradient_ascent(problem.model, fit, retain="nll")
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.44, 0.93)
  """
  fit = as_fit(fit, fields)
  checks.one_of(("token", "sequence"), reduction=reduction)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = answer_score(lm, variables, step.rows)
    if reduction == "token":
      return scores
    return per_answer(scores.value, scores)

  weights = (forget_weight, retain_weight)
  ascent = keeping(lm, forget, fit, retain, *weights)
  return chain(ascent, name="gradient_ascent")


def idk(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains on the rows' "alternative", a refusal, in the place of their answer.

  Args:
    lm: the model; its data has a column "alternative".
    fit: see `npo`.
    retain: see `npo`.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: an unknown retain; from the call, no "alternative".

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()  # Its data has a column "alternative".
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=15, batch_size=2)
    >>> after, info = language.idk(problem.model, fit)(*problem.arguments)
    >>> refusal = problem._replace(data={"x": problem.data["alternative"]})
    >>> toy.likelihoods(refusal, problem.variables)
    (0.0, 0.0)
    >>> toy.likelihoods(refusal, after)
    (0.99, 0.04)
  """
  fit = as_fit(fit, fields)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = answer_score(lm, variables, step.rows, "alternative")
    return scores._replace(value=-scores.value)

  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="idk")
