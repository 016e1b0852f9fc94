"""UnLOK's defences: objectives that take a fact out of where attacks look.

Each is a method of any language model; `fact_edits.edit_facts` runs one for each
fact on a single kernel, as published. All keep retain rows, the neutral prompts,
by retain_weight * KL(original || model).

Class: heuristic. Data access: a fact's row, neutral retain rows.
Source: Patil et al. (2024), arXiv:2309.17410, for the losses, which the code of
arXiv:2505.01456 does not contain; the weight 1 of the divergence is from its
commands (0.0625 in the former).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Step, Variables
from jaxunlearn.language._objectives import (
  Objective,
  answer_score,
  count,
  keeping,
  per_answer,
)
from jaxunlearn.language.types import LanguageModel
from jaxunlearn.losses import readout
from jaxunlearn.vision_language.fact_edits import (
  check_layers,
  first_token,
  lens,
)

Scalar = float | jax.Array


def fact_erasure(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Minimises p(answer)^(1 / tokens), not its logarithm: it stops by itself.

  Args:
    lm: the model.
    fit: each step takes `batch_size` rows of either kind.
    retain_weight: of the divergence. May be traced.
    **fields: the fields of `Fit` by keyword.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = vision_language.fact_erasure(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.93 and 0.93.
    (0.1, 0.59)
  """
  fit = as_fit(fit, fields)
  return _keeping(lm, _probability(lm), fit, retain_weight, "fact_erasure")


def input_rephrasing(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """`fact_erasure`, a mean over other ways to ask.

  Args:
    lm: the model; its data has a column "paraphrases", `Text` of leaves [N, K,
      ...].
    fit, retain_weight, **fields: see `fact_erasure`.

  Raises:
    ValueError: from the call, no such column.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> words = toy.decoder().data["x"]  # One other way to ask.
    >>> ways = jax.tree.map(lambda leaf: leaf[:, None], words)
    >>> problem.data["paraphrases"] = ways
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = vision_language.input_rephrasing(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> forgotten, kept = toy.likelihoods(problem, after)  # 0.93, 0.93 before.
    >>> forgotten < 0.4 < kept
    True
  """
  fit = as_fit(fit, fields)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    checks.columns(step.rows, "paraphrases")
    asked = step.rows["paraphrases"]
    rows, ways = asked.length.shape
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), asked)
    scores = answer_score(lm, variables, {"x": flat})
    p = jnp.exp(scores.value / jnp.maximum(count(scores), 1))
    p = p.reshape(rows, ways).mean(axis=1)
    return Losses(p, jnp.ones_like(p))

  return _keeping(lm, forget, fit, retain_weight, "input_rephrasing")


def head_projection(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  layers: Sequence[int],
  k: int = 4,
  erasure_weight: Scalar = 0.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Pushes the answer out of both tails of what layers read out.

  Args:
    lm: the model.
    fit: see `fact_erasure`.
    layers: static; of `lens`.
    k: static; tokens of a tail.
    erasure_weight: of `fact_erasure`'s loss beside it, as the paper has it; the
      code has none. May be traced.
    retain_weight, **fields: see `fact_erasure`.

  Raises:
    ValueError: layers that are not there; a k that does not fit.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = vision_language.head_projection(problem.model, fit, layers=[2])
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.93 and 0.93.
    (0.46, 0.56)
  """
  fit = as_fit(fit, fields)
  check_layers(lm, layers)
  checks.count(1, k=k)
  erase = _probability(lm)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    x = step.rows["x"]
    read = lens(lm, variables, x, layers)
    hinge = readout.head_projection(read, first_token(x), k)
    out = erase(variables, step, key)
    return out._replace(value=hinge + erasure_weight * out.value)

  return _keeping(lm, forget, fit, retain_weight, "head_projection")


def max_entropy(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  layers: Sequence[int],
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Makes what layers read out uniform.

  Args:
    lm, fit, layers, retain_weight, **fields: see `head_projection`.

  Raises:
    ValueError: layers that are not there.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = vision_language.max_entropy(problem.model, fit, layers=(1, 2))
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.93 and 0.93.
    (0.46, 0.48)
  """
  fit = as_fit(fit, fields)
  check_layers(lm, layers)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    read = lens(lm, variables, step.rows["x"], layers)
    out = readout.negative_entropy(read)
    return Losses(out, jnp.ones_like(out))

  return _keeping(lm, forget, fit, retain_weight, "max_entropy")


def _probability(lm: LanguageModel) -> Objective:
  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    scores = answer_score(lm, variables, step.rows)
    mean = scores.value / jnp.maximum(count(scores), 1)
    return per_answer(jnp.exp(mean), scores)

  return forget


def _keeping(
  lm: LanguageModel, forget: Objective, fit: Fit, weight: Scalar, name: str
) -> Transform:
  return chain(keeping(lm, forget, fit, "kl", 1.0, weight), name=name)
