"""Going away from the original model's distribution: the KL method of RESTOR.

Source: Rezaei et al. (2024), arXiv:2411.00204, and its released code.
Class: heuristic; bounded, since log p of the original is. Data access: forget rows,
and retain rows unless retain=None. Cost: a gradient per step, and a forward pass of
the original.
Difference from the released code, which averages over prompts and padding too:
tokens of the answer only.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Step, Variables
from jaxunlearn.language._objectives import answer_logits, keeping, over_tokens
from jaxunlearn.language.types import LanguageModel

Scalar = float | jax.Array

_LEAST = float(np.log(1e-12))  # As in the released code.


def diverge(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  divergence: str = "cross_entropy",
  retain: str | None = "nll",
  forget_weight: Scalar = 1.0,
  retain_weight: Scalar = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Maximises how far p of each answer's token is from the original's.

  Args:
    lm: the model.
    fit: see `npo`.
    divergence: "cross_entropy", -sum p log p_original, as released, which rewards
      what is unlikely and certain; "kl", KL(p || p_original), whose gradient is 0
      where it begins: it moves only as far as the retain rows move it.
    retain: see `npo`.
    forget_weight: see `npo`.
    retain_weight: see `npo`.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: an unknown divergence or retain.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=2)
    >>> method = language.diverge(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> info["unlearn"].loss.shape
    (2,)
  """
  fit = as_fit(fit, fields)
  checks.one_of(("cross_entropy", "kl"), divergence=divergence)

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    x = step.rows["x"]
    log_p, before = (
      jax.nn.log_softmax(answer_logits(lm, v, x))
      for v in (variables, step.original)
    )
    gap = -jnp.maximum(before, _LEAST)
    gap = gap + log_p if divergence == "kl" else gap
    return over_tokens(-(jnp.exp(log_p) * gap).sum(axis=-1), step.rows)

  weights = (forget_weight, retain_weight)
  return chain(keeping(lm, forget, fit, retain, *weights), name="diverge")
