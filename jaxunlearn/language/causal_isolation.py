"""Causal isolation: a joint loss on the perceptrons of the blocks that hold a fact.

Source: SHA256 at SemEval-2025 task 4, arXiv:2504.12996, and its released code.
Class: heuristic. Data access: forget and retain rows. Cost: a gradient of the
blocks from the first trained one on per step, and a forward pass of retain rows for
the reference.
Differences from the released code: forget and retain rows are drawn apart, as many
of either, where a mixed batch may have one kind only; the reference is a mean of
retain losses of batches of its own (the code divides their sum by the number of
rows, so that it is too small by the batch's size and the weight almost always at
its largest); there is no choice among the steps by the loss on other rows.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, Slot, Step, Variables
from jaxunlearn.core.views import through
from jaxunlearn.language._objectives import answer_score, count, keeping
from jaxunlearn.language.lora import block_window
from jaxunlearn.language.types import LanguageModel

Scalar = float | jax.Array
MLP = r"blocks/mlp/.*/kernel"


def causal_isolation(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  start: int = 0,
  stop: int = 6,
  alpha: Scalar = 1.2,
  alpha_max: Scalar = 2.3,
  targets: str = MLP,
  **fields: Unpack[FitFields],
) -> Transform:
  """Ascent on answers beside a retain loss that weighs more where it has grown.

  Args:
    lm: the model.
    fit: see `npo`.
    start: static; the first block that is trained. `window` finds where a trace
      says that facts are.
    stop: static; one after the last.
    alpha: weight of the retain loss while it is no larger than in its first
      epoch. May be traced.
    alpha_max: the largest weight; 2.8 in the paper. May be traced.
    targets: regular expression of the paths of what is trained.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: alpha_max < alpha; from the call, blocks that are not there or
      targets that match nothing.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=2, batch_size=2)
    >>> method = language.causal_isolation(problem.model, fit, stop=1)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.66, 0.75)
  """
  fit = as_fit(fit, fields)
  checks.positive(alpha=alpha)
  if checks.is_concrete(alpha) and checks.is_concrete(alpha_max):
    checks.non_negative(**{"alpha_max - alpha": alpha_max - alpha})
  view = block_window(start, stop, targets)
  make = lambda part: _joint(part, fit, alpha, alpha_max)
  return chain(through(view, make, lm), name="causal_isolation")


def _joint(
  lm: LanguageModel, fit: Fit, alpha: Scalar, alpha_max: Scalar
) -> Transform:
  seen: Slot[dict[str, jax.Array]] = Slot("retain losses")

  def retain_loss(variables: Variables, step: Step) -> tuple[Losses, jax.Array]:
    """Of each row, and of a token of the batch."""
    scores = answer_score(lm, variables, step.rows)
    share = (step.weight > 0).astype(scores.value.dtype)
    tokens = (share * count(scores)).sum()
    mean = -(share * scores.value).sum() / jnp.maximum(tokens, 1e-12)
    return scores, jax.lax.stop_gradient(jnp.where(tokens > 0, mean, jnp.nan))

  def forget(variables: Variables, step: Step, key: jax.Array) -> Losses:
    del key
    return answer_score(lm, variables, step.rows)

  def keep(variables: Variables, step: Step, key: jax.Array) -> Losses:
    del key
    scores, now = retain_loss(variables, step)
    total = step[seen]
    before = total["sum"] / jnp.maximum(total["count"], 1)
    excess = jnp.where((step.epoch == 0).any(), jnp.nan, now - before)
    weight = adaptive_weight(excess, alpha, alpha_max)
    return scores._replace(value=-weight * scores.value)

  def watch(value: Any, step: Step, key: jax.Array) -> jax.Array:
    """Descended at a rate of 1 it adds the loss of the first epoch's batches."""
    del key
    _, now = retain_loss(step.variables, step)
    counts = (step.epoch == 0).all() & jnp.isfinite(now)
    added = value["sum"] * now + value["count"]
    one = -jnp.where(counts, added, 0)
    return jnp.broadcast_to(one, step.weight.shape)

  zero: Any = lambda *args: {"sum": jnp.zeros(()), "count": jnp.zeros(())}
  step_fit = fit._replace(num_steps=1)
  return chain(
    provide(seen, zero, reads="nothing"),
    alternate(
      keeping(lm, forget, step_fit, keep, 1.0, 1.0),
      phase(
        watch,
        Fit(optax.sgd(1.0), 1, fit.batch_size),
        draw=Draw(retain=fit.batch_size),
        on=seen,
        name="reference",
      ),
      rounds=fit.num_steps,
      name="unlearn",
    ),
    name="joint",
  )


def adaptive_weight(
  excess: jax.Array, alpha: Scalar = 1.2, alpha_max: Scalar = 2.3
) -> jax.Array:
  """0.3 * 6^excess + 0.8, rounded to tenths, within [alpha, alpha_max].

  Args:
    excess: [...], by how much the retain loss is above its reference, nats; nan
      where that is not known.
    alpha: the weight of no excess.
    alpha_max: the largest.

  Returns:
    [...]; alpha for nan.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.causal_isolation import adaptive_weight
    >>> weight = adaptive_weight(jnp.array([-1.0, 0.5, 2.0, jnp.nan]))
    >>> [round(w, 1) for w in weight.tolist()]  # Between 1.2 and 2.3.
    [1.2, 1.5, 2.3, 1.2]
  """
  excess = jnp.asarray(excess, jnp.float32)
  grown = jnp.round(0.3 * 6 ** jnp.minimum(excess, 20.0) + 0.8, 1)
  weight = jnp.clip(grown, alpha, alpha_max)
  return jnp.where(excess > 0, weight, jnp.asarray(alpha, jnp.float32))


def window(effect: jax.Array, width: int) -> jax.Array:
  """Where the blocks begin that bring most of a fact back, int32 [].

  Args:
    effect: [layers], of a trace: its indirect effect, a mean over facts and the
      last places of their subjects.
    width: static; blocks.

  Raises:
    ValueError: no axis of layers, or a width beyond it.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.causal_isolation import window
    >>> effect = jnp.array([0.1, 0.0, 0.4, 0.5, 0.1])
    >>> int(window(effect, width=2))  # Blocks 2 and 3.
    2
  """
  if effect.ndim != 1 or not 1 <= width <= effect.shape[0]:
    raise ValueError(
      f"Expected effect [layers] of at least width={width}, got shape "
      f"{effect.shape}."
    )
  total = jnp.convolve(effect, jnp.ones(width, effect.dtype), mode="valid")
  return total.argmax().astype(jnp.int32)
