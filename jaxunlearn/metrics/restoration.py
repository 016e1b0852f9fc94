"""Is what a model knew before bad data back, or only the bad data gone?

Of each fact there are candidates of three kinds: what is right, what the bad data
said, and others; a model is held to believe the kind of the likeliest of them.
Restoration counts between the clean model and the corrupted one.

Source: RESTOR, Rezaei et al. (2025), arXiv:2411.00204, whose scores these are (mean
log p of a token of a candidate); judged by the likeliest candidate, where the paper
has a language model judge sampled answers. Recovery, forgetting and the restored
margin are defined here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import _rows

RIGHT, CORRUPTED, OTHER = range(3)


class Beliefs(NamedTuple):
  """What a model holds of F facts; leaves [..., F].

  Attributes:
    kind: int, `RIGHT`, `CORRUPTED` or `OTHER`; -1 where a score is nan.
    margin: mean score of what is right minus that of what the bad data said.
  """

  kind: jax.Array
  margin: jax.Array


class Restoration(NamedTuple):
  """Rates [...], and how far they went back; nan where nothing had been lost.

  Attributes:
    accuracy: share of facts of which the model believes what is right.
    corrupted: share of which it believes the bad data.
    recovery: (accuracy - the corrupted model's) / what corruption cost: 1 all is
      back, 0 nothing, below it was harm.
    forgetting: share of the corrupted beliefs that are gone.
    restored_margin: as recovery, of the mean margins.
  """

  accuracy: jax.Array
  corrupted: jax.Array
  recovery: jax.Array
  forgetting: jax.Array
  restored_margin: jax.Array


def beliefs(scores: jax.Array, there: jax.Array | None = None) -> Beliefs:
  """From scores of candidates to beliefs.

  Args:
    scores: [..., F, 3, A], mean log p of a token of each candidate; of a
      classifier log p of classes.
    there: bool, the same shape; candidates that there are. All by default.

  Raises:
    ValueError: not three kinds; (concrete) a fact without a candidate of one of
      the first two.
  """
  shaped("scores [..., F, 3, A]", scores)
  scores = _rows.widened(scores, "scores")
  there = jnp.ones(scores.shape, bool) if there is None else there
  there = arrays(f"there bool {list(scores.shape)}", there)
  asked = there[..., :2, :].any(axis=-1)
  if checks.is_concrete(asked) and not bool(asked.all()):
    raise ValueError(
      "Expected a right and a corrupted candidate of each fact, got a fact "
      "without."
    )
  unknown = (jnp.isnan(scores) & there).any(axis=(-2, -1))
  shown = jnp.where(there, scores, -jnp.inf)
  kind = shown.max(axis=-1).argmax(axis=-1)
  count = jnp.maximum(there.sum(axis=-1), 1)
  means = jnp.where(there, scores, 0).sum(axis=-1) / count
  return Beliefs(
    jnp.where(unknown, -1, kind),
    means[..., RIGHT] - means[..., CORRUPTED],
  )


def restoration(
  clean: Beliefs, corrupted: Beliefs, unlearned: Beliefs
) -> Restoration:
  """How far a model went back from the corrupted to the clean one.

  Args:
    clean: of the model before the bad data, leaves [..., F].
    corrupted: of the model after it.
    unlearned: of the model that was to forget it.
  """
  right, wrong, margin = (
    [of(b) for b in (clean, corrupted, unlearned)]
    for of in (
      lambda b: _share(b, RIGHT),
      lambda b: _share(b, CORRUPTED),
      lambda b: b.margin.mean(axis=-1),
    )
  )
  return Restoration(
    right[2],
    wrong[2],
    _ratio(right[2] - right[1], right[0] - right[1]),
    _ratio(wrong[1] - wrong[2], wrong[1]),
    _ratio(margin[2] - margin[1], margin[0] - margin[1]),
  )


def _share(found: Beliefs, kind: int) -> jax.Array:
  share = (found.kind == kind).mean(axis=-1)
  return jnp.where((found.kind < 0).any(axis=-1), jnp.nan, share)


def _ratio(gain: jax.Array, whole: jax.Array) -> jax.Array:
  safe = jnp.where(whole != 0, whole, 1)
  return jnp.where(whole != 0, gain / safe, jnp.nan)
