"""NPO and its kin: preferences in which a forgotten answer always loses.

Sources: NPO, Zhang et al. (2024), arXiv:2404.05868; SimNPO, Fan et al. (2024),
arXiv:2410.07163.
Class: heuristic. Data access: forget rows, and retain rows unless retain=None.
Cost: a gradient of both per step, once a forward of the forget rows for the
reference, which is a number per row and no second model.
Differences from released codes: the sum of log-probabilities of a sequence,
where the code for MUSE has a mean of raw logits and the one for WMDP a mean over
the batch; retain rows are drawn anew at each step.
"""

from __future__ import annotations

from typing import Unpack

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Slot, Step, Variables
from jaxunlearn.language._objectives import (
  answer_score,
  count,
  keeping,
  per_answer,
  provide_score,
)
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


def npo(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  beta: Scalar = 0.1,
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Minimises (2 / beta) softplus(beta (log p - log p of the original)).

  Args:
    lm: the model.
    fit: how; each step takes `batch_size` rows of either kind.
    beta: > 0; towards 0 it becomes ascent, larger ones stop sooner. May be
      traced.
    retain: "nll", the mean loss of retain tokens (NPO+RT); "kl", the divergence
      from the original model on them; None, no retain row is read.
    forget_weight, retain_weight: of the two terms. May be traced.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`. An empty request trains on the retain rows alone.

  Raises:
    ValueError: beta <= 0, an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.npo(problem.model, fit, beta=0.1)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.25, 0.66)
    >>> round(float(info["unlearn"].loss[0]), 1)  # 20 log 2 and what keeps.
    13.9
  """
  fit = as_fit(fit, fields)
  checks.positive(beta=beta)
  reference: Slot[jax.Array] = Slot("reference")

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = answer_score(lm, variables, step.rows)
    before = step[reference][step.row_id]
    return per_answer(sequences.npo(scores.value, before, beta), scores)

  weights = (forget_weight, retain_weight)
  return chain(
    provide_score(lm, reference),
    keeping(lm, forget, fit, retain, *weights),
    name="npo",
  )


def simnpo(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  beta: Scalar = 2.5,
  margin: Scalar = 0.0,
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """NPO of the mean log p of a token, without a reference.

  Args:
    lm: the model.
    fit: see `npo`.
    beta: > 0. May be traced.
    margin: delta, nats a token. May be traced.
    retain: see `npo`.
    forget_weight: see `npo`; published: 0.125 beside a retain term.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: beta <= 0, an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.simnpo(problem.model, fit, retain_weight=0.1)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.25, 0.53)
  """
  fit = as_fit(fit, fields)
  checks.positive(beta=beta)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = answer_score(lm, variables, step.rows)
    found = sequences.simnpo(scores.value, count(scores), beta, margin)
    return per_answer(found, scores)

  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="simnpo")
