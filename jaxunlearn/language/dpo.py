"""DPO: prefers a refusal to the answer to be forgotten.

Source: Rafailov et al. (2023), arXiv:2305.18290; against refusals as run by TOFU,
Maini et al. (2024), arXiv:2401.06121.
Class: heuristic. Data access: forget rows with their "alternative", and retain rows
unless retain=None. Cost: a gradient of all per step, once a forward of the forget
rows and alternatives for the reference. A factor of 2, as in the code of NPO.
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
  keeping,
  per_answer,
  provide_score,
)
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


def dpo(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  beta: Scalar = 0.1,
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Prefers the rows' "alternative", a refusal, to their answer (IdkDPO).

  Args:
    lm: the model; its data has a column "alternative".
    fit: see `npo`.
    beta: > 0. May be traced.
    retain: see `npo`.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: beta <= 0, an unknown retain; from the call, no "alternative".

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()  # Its data has a column "alternative".
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.dpo(problem.model, fit, beta=0.5)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.35, 0.94)
  """
  fit = as_fit(fit, fields)
  checks.positive(beta=beta)
  slots = {
    c: Slot[jax.Array](f"reference of {c}") for c in ("x", "alternative")
  }

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = {c: answer_score(lm, variables, step.rows, c) for c in slots}
    value = sequences.dpo(
      scores["x"].value,
      step[slots["x"]][step.row_id],
      scores["alternative"].value,
      step[slots["alternative"]][step.row_id],
      beta,
    )
    return per_answer(value, scores["x"])

  weights = (forget_weight, retain_weight)
  return chain(
    *(provide_score(lm, slot, column) for column, slot in slots.items()),
    keeping(lm, forget, fit, retain, *weights),
    name="dpo",
  )
