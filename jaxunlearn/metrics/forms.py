"""Whether what is forgotten in one form is forgotten in the others.

Source: ORT (2025), arXiv:2506.07795: a fact that a method forgot as a
question and answer may come back as a statement with a gap, as a choice among
answers or spelt letter by letter.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows

FORMS = (
  "trained",
  "paraphrase",
  "declarative",
  "cloze",
  "choice",
  "spaced",
)


class FormIndependence(NamedTuple):
  """What an unlearned model still gives of each form.

  Attributes:
    before: [F], mean P of the original model's right answers, in [0, 1].
    after: [F], of the unlearned one.
    kept: [F], after / before; nan of a form that the original did not know.
    change: [F], 100 (after - before) / before; -100 forgets all.
    gap: [], largest minus smallest share kept; 0 forgets all forms alike.
  """

  before: jax.Array
  after: jax.Array
  kept: jax.Array
  change: jax.Array
  gap: jax.Array


def form_independence(
  after: jax.Array, before: jax.Array, counts: jax.Array | None = None
) -> FormIndependence:
  """Compares forms of the same facts.

  Args:
    after: [F, N], P of the right answer by form and item, in [0, 1]:
      `text.probability` of its tokens, or `text.choice_probability`.
    before: [F, N], of the original model.
    counts: bool [F, N], which items there are; all by default.

  Raises:
    ValueError: shapes that do not match.
  """
  shaped("after [F, N] and before [F, N]", after, before)
  after, before = _rows.widened(after, "after"), _rows.widened(before, "before")
  there = jnp.ones(after.shape, bool) if counts is None else counts
  shaped("after [F, N] and counts [F, N]", after, there)
  number = there.sum(axis=1)
  mean = lambda p: jnp.where(there, p, 0).sum(axis=1) / number
  old, new = mean(before), mean(after)
  kept = jnp.where(old > 0, new / jnp.where(old > 0, old, 1), jnp.nan)
  known = ~jnp.isnan(kept) | jnp.isnan(new)
  gap = jnp.where(known, kept, -jnp.inf).max()
  gap -= jnp.where(known, kept, jnp.inf).min()
  return FormIndependence(old, new, kept, 100 * (kept - 1), gap)
