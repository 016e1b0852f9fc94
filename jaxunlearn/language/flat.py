"""FLAT: forgets with forget rows alone, by a divergence from a template's answer.

Source: Wang et al. (2024), arXiv:2410.11143.
Class: heuristic; bounded. Data access: forget rows and their "alternative". Cost: a
gradient of both per step. A template must not be impossible under the model, and
nothing protects the other rows but small steps.
Differences from the released code: see `losses.sequences.flat` for three signs; the
mean probability is of a row's own tokens, where it averages over all positions of
a batch, padding included.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, PyTree, Step, Variables
from jaxunlearn.language._objectives import keeping
from jaxunlearn.language.scores import token_scores
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences


def flat(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  divergence: str = "total_variation",
  **fields: Unpack[FitFields],
) -> Transform:
  """Raises the probability of the "alternative" and lowers the answer's.

  Args:
    lm: the model; its data has a column "alternative".
    fit: how; each step takes `batch_size` forget rows.
    divergence: static; one of `losses.sequences.DIVERGENCES`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`. An empty request changes nothing.

  Raises:
    ValueError: an unknown divergence; from the call, no "alternative".

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()  # Its data has a column "alternative".
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> after, info = language.flat(problem.model, fit)(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.25, 0.44)
  """
  fit = as_fit(fit, fields)
  checks.one_of(sequences.DIVERGENCES, divergence=divergence)

  def probability(
    variables: Variables, rows: PyTree, column: str
  ) -> tuple[jax.Array, jax.Array]:
    scores = token_scores(lm, variables, rows[column])
    p = sequences.answer_probability(scores.log_prob, scores.mask)
    return p, scores.mask.any(axis=1)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    checks.columns(step.rows, "x", "alternative")
    template, is_said = probability(variables, step.rows, "alternative")
    answer, is_there = probability(variables, step.rows, "x")
    value = sequences.flat(template, answer, divergence)
    return Losses(value, (is_said & is_there).astype(jnp.float32))

  return chain(keeping(lm, forget, fit, None, 1.0, 1.0), name="flat")
