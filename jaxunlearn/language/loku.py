"""LoKU: the inverted hinge, through Fisher-weighted low-rank adapters.

Source: Cha et al. (2024), arXiv:2408.06621.
Class: heuristic; bounded. Data access: forget and retain rows; the start of the
adapters reads all of them once. Cost: a squared gradient for each batch of rows,
then a gradient per step.
Differences from the released code: the probabilities are always a softmax's, where
it takes logits within [0, 1] for probabilities; the SVD is exact; what comes back
is merged, where it saves the base without its adapters.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Step, Variables
from jaxunlearn.core.views import through
from jaxunlearn.language._objectives import (
  answer_labels,
  answer_logits,
  keeping,
  over_tokens,
)
from jaxunlearn.language.lora import LINEAR, fila
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import sequences
from jaxunlearn.methods.ssd import importance as importance_of

Scalar = float | jax.Array


def inverted_hinge(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Lowers each token of the answer and raises its strongest rival (IHL).

  Args:
    lm: the model.
    fit: see `npo`.
    retain, forget_weight, retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: an unknown retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.inverted_hinge(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.38, 0.96)
  """
  fit = as_fit(fit, fields)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    x = step.rows["x"]
    logits = answer_logits(lm, variables, x)
    return over_tokens(
      sequences.inverted_hinge(logits, answer_labels(x)), step.rows
    )

  weights = (forget_weight, retain_weight)
  return chain(
    keeping(lm, forget, fit, retain, *weights), name="inverted_hinge"
  )


@renamed(importance_batch_size="importance_batch")
def loku(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  rank: int = 8,
  alpha: Scalar | None = None,
  targets: str = LINEAR,
  importance_batch_size: int = 4,
  estimator: str = "batch",
  **options: Any,
) -> Transform:
  """`inverted_hinge` through adapters that begin as `fila` says.

  Args:
    lm: the model.
    fit: see `npo`; published: AdamW at 1e-4 to 2e-4.
    rank: static; of the adapters.
    alpha: see `lora`.
    targets: see `lora`.
    importance_batch_size: static; rows at a time, see `ssd`.
    estimator: of the importance: "batch", of the mean of so many rows as
      released; "example", of single rows, the Fisher information.
    **options: the other keyword arguments of `inverted_hinge`.

  Raises:
    ValueError: see `inverted_hinge`, `fila` and `ssd`.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=2, batch_size=2)
    >>> method = language.loku(problem.model, fit, rank=2)
    >>> after, info = method.compiled(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.6, 0.8)
  """
  checks.count(1, rank=rank, importance_batch_size=importance_batch_size)

  def importance(variables, data, request):
    of = lambda weights: importance_of(
      lm,
      variables,
      data,
      weights,
      estimator=estimator,
      batch_size=importance_batch_size,
    )
    return of(request.forget), of(request.retain)

  view = fila(importance, rank=rank, alpha=alpha, targets=targets)
  make = lambda part: inverted_hinge(part, fit, **options)
  return chain(through(view, make, lm), name="loku")
