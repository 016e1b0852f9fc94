"""What the methods for text share: scores of rows, and the term that keeps.

`keeping` puts a loss of forget rows beside one of retain rows. Each has its own
exact mean, over tokens or over rows as its `Losses.weight` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.links import per_row
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, PyTree, Slot, Step, Variables
from jaxunlearn.language.scores import summed, token_nll
from jaxunlearn.language.types import LanguageModel, Text, check_text, counted

Objective = Callable[[Variables, Step, jax.Array], Losses]

RETAIN = (None, "nll", "kl")


def keeping(
  lm: LanguageModel,
  forget: Objective,
  fit: Fit,
  retain: str | Objective | None,
  forget_weight: float | jax.Array,
  retain_weight: float | jax.Array,
) -> Transform:
  """A phase of forget_weight * forget + retain_weight * retain.

  Args:
    lm: the model.
    forget: the loss of forget rows.
    fit: how; each step takes `batch_size` rows of either kind.
    retain: "nll", the model's own loss, a mean over tokens; "kl", the mean over
      counted tokens of KL(original || model); None, no retain row is read; or an
      objective.
    forget_weight: of the forget term. May be traced.
    retain_weight: of the retain term. May be traced.

  Raises:
    ValueError: another name.
  """
  keep: Objective | None = retain if callable(retain) else None
  if keep is None:
    checks.one_of(RETAIN, retain=retain)
    keep = _kl(lm) if retain == "kl" else _nll(lm)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    size = len(step.weight)
    first, last, _ = (size, 0, 0) if step.sizes is None else step.sizes
    found = []
    if first:
      found.append(forget(variables, step.cut(0, first), key))
    if last:
      found.append(keep(variables, step.cut(first, size), key))
    values, weights = zip(*((out.value, out.weight) for out in found))
    return Losses(jnp.concatenate(values), jnp.concatenate(weights))

  draw = Draw(fit.batch_size, 0 if retain is None else fit.batch_size)
  return phase(
    objective,
    fit,
    draw=draw,
    forget_weight=forget_weight,
    retain_weight=retain_weight,
    name="unlearn",
  )


def _nll(lm: LanguageModel) -> Objective:
  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    del key
    scores = answer_score(lm, variables, step.rows)
    return scores._replace(value=-scores.value)

  return objective


def _kl(lm: LanguageModel) -> Objective:
  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    del key
    student = answer_logits(lm, variables, step.rows["x"])
    teacher = answer_logits(lm, step.original, step.rows["x"])
    return over_tokens(losses.kl_to_teacher(student, teacher), step.rows)

  return objective


def answer_score(
  lm: LanguageModel, variables: Variables, rows: PyTree, column: str = "x"
) -> Losses:
  """Per row the sum of log p over its counted tokens, and their number."""
  checks.columns(rows, column)
  weight = rows.get("token_weight") if column == "x" else None
  out = token_nll(lm, variables, rows[column], weight)
  return out._replace(value=-out.value)


def provide_score(
  lm: LanguageModel, slot: Slot[jax.Array], column: str = "x"
) -> Transform:
  """A link: the original model's `answer_score` of each forget row, [N]."""
  score = lambda variables, rows: answer_score(lm, variables, rows, column)
  of_rows = lambda variables, rows: score(variables, rows).value
  return per_row(slot, of_rows, chunk_size=32, of="forget")


def per_answer(values: jax.Array, scores: Losses) -> Losses:
  """Losses [B] of answers; one without tokens does not count."""
  return Losses(values, (count(scores) > 0).astype(values.dtype))


def count(out: Losses) -> jax.Array:
  """How many tokens were summed, [B]."""
  assert out.weight is not None  # Sums over tokens have one.
  return out.weight


def answer_logits(
  lm: LanguageModel, variables: Variables, x: Text
) -> jax.Array:
  """What predicts tokens 1, 2, ...: [B, L - 1, V]."""
  check_text(x, lm.config)
  hidden = lm.blocks(variables, lm.embed(variables, x.tokens)).hidden
  return lm.logits(variables, hidden[:, :-1])


def answer_labels(x: Text) -> jax.Array:
  """Tokens 1, 2, ...; 0 where they do not count: int [B, L - 1]."""
  return jnp.where(counted(x), x.tokens[:, 1:], 0)


def over_tokens(
  values: jax.Array, rows: Any, mask: jax.Array | None = None
) -> Losses:
  """Sums of losses [B, L - 1] over counted tokens, and their number.

  Args:
    values: of tokens 1, 2, ....
    rows: of the step.
    mask: bool [B, L - 1], which of the counted ones do; all by default.
  """
  counts = counted(rows["x"])
  counts = counts if mask is None else counts & mask
  return summed(values, counts, rows.get("token_weight"))
