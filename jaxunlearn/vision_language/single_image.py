"""Single image unlearning (SIU): a new name for what one image shows.

Fine-tuning on a handful of rows made of one image and texts, with four targets: the
image under an invented name; its description under that name; what is known of
the concept, told without the image; and other concepts as they are. A divergence
from the original holds what the rows do not speak of, with two masks: it counts
neither at tokens of the invented name, which contradict the original, nor for the
tokens of the true name, which it would hold on to.

Class: heuristic. Data access: one image, and a few rows of other concepts. Cost: a
gradient per step and a forward pass of the original.
Source: Li et al. (2024), arXiv:2405.12523, as a third party has written it again;
that the divergence is a mean over the positions that count is from there.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, with_term
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  Draw,
  Losses,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.language._objectives import answer_logits, over_tokens
from jaxunlearn.language.requests import phrases
from jaxunlearn.language.scores import token_nll
from jaxunlearn.language.types import LanguageModel, Text, counted
from jaxunlearn.losses import sequences

Scalar = float | jax.Array


class Targets(NamedTuple):
  """What SIU trains on: the `concept` of a request; several can be stacked.

  Attributes:
    rows: `Text` [M, L].
    agrees: bool [M, L], tokens at which the original is still right.
    vocab_mask: float [V], 0 for the tokens of the true name, else 1.
  """

  rows: Text
  agrees: jax.Array
  vocab_mask: jax.Array

  @property
  def unmasked(self) -> Targets:
    """The same rows for the plain divergence."""
    every = map(jnp.ones_like, (self.agrees, self.vocab_mask))
    return Targets(self.rows, *every)


def four_targets(
  aligned: Text,
  described: Text,
  decoupled: Text,
  preserved: Text,
  *,
  new_name: Any,
  true_name: Any,
  vocab_size: int,
) -> Targets:
  """The rows of one concept; all [*, L].

  Args:
    aligned: the image, answered with an invented name.
    described: the image, described under that name.
    decoupled: facts of the concept, asked and answered without the image.
    preserved: rows of other concepts.
    new_name: int [P, K], the tokens of the invented name in each of its
      spellings, padded on the right by -1.
    true_name: int [C], the tokens of the true name.
    vocab_size: V.

  Raises:
    ValueError: no token in true_name or one out of range; a target without rows.

  Example:
    >>> import jax
    >>> from jaxunlearn import toy, vision_language
    >>> rows = toy.vision_language().data["x"]
    >>> aligned, told, facts, others = (
    ...   jax.tree.map(lambda leaf: leaf[i : i + 1], rows) for i in range(4)
    ... )
    >>> named = {"new_name": [[12]], "true_name": [14], "vocab_size": 28}
    >>> targets = vision_language.four_targets(
    ...   aligned, told, facts, others, **named
    ... )
    >>> targets.agrees.astype(int).tolist()
    [[1, 1, 0, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    >>> int(targets.vocab_mask.sum())  # All words but the true name.
    27
  """
  parts = (aligned, described, decoupled, preserved)
  names = ("aligned", "described", "decoupled", "preserved")
  for name, part in zip(names, parts):
    if not len(part.length):
      raise ValueError(f"Expected rows in {name}, got none.")
  concept = np.asarray(true_name)
  shaped("true_name [C > 0]", concept)
  checks.labels(concept, vocab_size, "true_name")
  agrees = [jnp.ones(part.tokens.shape, bool) for part in parts]
  agrees[0] = ~phrases(aligned, jnp.asarray(new_name))
  told = jnp.pad(counted(described), ((0, 0), (1, 0)))
  agrees[1] = ~told
  rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
  mask = jnp.ones(vocab_size).at[concept].set(0)
  return Targets(rows, jnp.concatenate(agrees), mask)


def siu(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  ce_weight: Scalar = 0.9,
  kl_weight: Scalar = 0.75,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains on `Targets`: ce_weight * cross-entropy + kl_weight * dual masked KL.

  Args:
    lm: the model.
    fit: published: Adam at 3e-4, batches of 4, 6 steps.
    ce_weight: alpha. May be traced.
    kl_weight: beta; 0 is plain fine-tuning. May be traced.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` that reads no data: `Request(concept=targets)` says it all, and
    a `vmap` over it serves several concepts.

  Raises:
    ValueError: from the call, a request without `Targets`.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy, vision_language
    >>> problem, words = toy.vision_language(), toy.decoder().data["x"]
    >>> x = problem.data["x"]
    >>> cut = lambda x, i, j: jax.tree.map(lambda leaf: leaf[i:j], x)
    >>> new = cut(x._replace(tokens=x.tokens.at[0, 2].set(3)), 0, 1)
    >>> named = {"new_name": [[3]], "true_name": [12], "vocab_size": 28}
    >>> targets = vision_language.four_targets(
    ...   new, new, cut(words, 0, 1), cut(x, 1, 8), **named
    ... )
    >>> fit = ju.Fit(optax.adam(0.01), num_steps=40, batch_size=10)
    >>> asked = problem._replace(data=None, request=ju.Request(concept=targets))
    >>> after, info = vision_language.siu(problem.model, fit)(
    ...   *asked.arguments
    ... )
    >>> p = vision_language.lens(problem.model, after, x, layers=[2])
    >>> p[:, 0].argmax(axis=-1).tolist()  # It was 12 to 19; 3 is new.
    [3, 13, 14, 15, 16, 17, 18, 19]
  """
  fit = as_fit(fit, fields)
  rows_of: Slot[PyTree] = Slot("targets")
  mask_of: Slot[jax.Array] = Slot("vocab_mask")

  def put(slot: Slot, read: Any) -> Transform:
    def found(carry, data, request, key):
      return read(_targets(request))

    return provide(slot, found, reads="nothing")

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    return token_nll(lm, variables, step.rows["x"])

  def held(variables: Variables, step: Step, key: jax.Array) -> Losses:
    x, agrees = step.rows["x"], step.rows["agrees"]
    now = answer_logits(lm, variables, x)
    before = answer_logits(lm, step.original, x)
    values = sequences.dual_masked_kl(now, before, step[mask_of])
    return over_tokens(values, step.rows, agrees[:, 1:])

  draw = Draw(retain=fit.batch_size, source=rows_of)
  tune = phase(objective, fit, draw=draw, retain_weight=ce_weight, name="tune")
  return chain(
    put(rows_of, lambda t: {"x": t.rows, "agrees": t.agrees}),
    put(mask_of, lambda t: t.vocab_mask),
    with_term(tune, held, kl_weight, of="retain"),
    name="siu",
  )


def _targets(request: Request) -> Targets:
  if not isinstance(request.concept, Targets):
    raise ValueError(
      "Expected Targets in a request of a concept, got "
      f"{type(request.concept).__name__}."
    )
  return request.concept
