"""Prompt decoupling: a question is refused with its image, not for its words.

A model that learns to refuse harmful questions about harmful images refuses the
same words about any. The PD loss trains, beside whatever method, on the question
of a forget row with a benign image and its normal answer.

Class: heuristic. Data access: a pair to each forget row, besides the method's own.
Source: SafeEraser, Chen et al. (2025), arXiv:2502.12520. There GD + PD halves the
retain term too (retain_weight=0.5), and KL + PD and PO + PD have weight 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import with_term
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, PyTree, Request, Step, Variables
from jaxunlearn.language._objectives import answer_score
from jaxunlearn.language.types import LanguageModel, Text


def prompt_decoupling(
  lm: LanguageModel, method: Transform, weight: float | jax.Array = 0.5
) -> Transform:
  """A method with the mean loss of the pairs of its forget rows added.

  Args:
    lm: the model; its data has a column "decoupled", see `decoupled`.
    method: any of this model that draws forget rows; inside of a `through`, of
      the part's model.
    weight: of the term; 0 leaves the method as it is. May be traced.

  Raises:
    ValueError: from the call, no such column; (concrete) a forget row without
      a pair.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy, vision_language
    >>> problem = toy.vision_language()
    >>> problem.data["decoupled"] = toy.decoder().data["x"]  # Without an image.
    >>> lm, fit = problem.model, ju.Fit(optax.adam(0.02), 2, batch_size=2)
    >>> method = language.gradient_ascent(lm, fit, retain="nll")
    >>> method = vision_language.prompt_decoupling(lm, method, weight=0.5)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.93 and 0.93.
    (0.17, 0.62)
  """

  def loss(variables: Variables, step: Step, key: jax.Array) -> Losses:
    del key
    scores = answer_score(lm, variables, step.rows, "decoupled")
    return scores._replace(value=-scores.value)

  made = with_term(method, loss, weight)

  def run(carry, data, request, key, env):
    _check(data, request)
    return made.run(carry, data, request, key, env)

  return dataclasses.replace(made, run=run)


def decoupled(pairs: Text, partner: Any) -> Text:
  """The column "decoupled": for each row the pair of its question.

  Args:
    pairs: [M, L], questions with a benign image and their normal answers.
    partner: int [N], which of them a row has; -1: none.

  Returns:
    `Text` [N, L]; of length 0 where there is none.

  Raises:
    ValueError: an index out of range.

  Example:
    >>> from jaxunlearn import toy, vision_language
    >>> pairs = toy.vision_language().data["x"]
    >>> column = vision_language.decoupled(pairs, [1, 0, -1])
    >>> column.tokens[:2].tolist(), column.length.tolist()
    ([[30, 31, 13, 21], [28, 29, 12, 20]], [4, 4, 0])
  """
  partner = np.asarray(partner)
  most = len(pairs.length) - 1
  if partner.size and not (partner.min() >= -1 and partner.max() <= most):
    raise ValueError(
      f"Expected partner in -1 .. {most}, got {partner.min()} .. "
      f"{partner.max()}."
    )
  found = jax.tree.map(lambda leaf: jnp.asarray(leaf)[partner], pairs)
  return found._replace(length=jnp.where(partner >= 0, found.length, 0))


def _check(data: PyTree, request: Request) -> None:
  checks.columns(data, "decoupled")
  length, forget = data["decoupled"].length, request.forget
  if checks.is_concrete(length) and checks.is_concrete(forget):
    alone = (np.asarray(forget) > 0) & (np.asarray(length) == 0)
    if alone.any():
      raise ValueError(
        "Expected a pair for each forget row, got none (partner -1) for row "
        f"{alone.argmax()}."
      )
