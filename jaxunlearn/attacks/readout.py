"""Attacks on what layers of a decoder would say: is an answer still in there?

An attacker with the weights reads out the layers (see `losses.readout`), takes the
k likeliest and k least likely tokens of each, or of what changes between layers,
and has found the answer if it is among them. Of S layers that is a budget of
2 k S guesses, whose chance `tail_chance` gives.

Class: heuristic. Data access: the question, and the answer to know of success.
Source: Patil et al. (2024), arXiv:2309.17410. Differences: of tied tokens none is
a candidate (layers that change nothing inform nobody, where code that sorts finds
the answer); only the first token of an answer is looked for, as there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.losses.readout import check_tails, of_token


def tail_hit(readout: jax.Array, answer: jax.Array, k: int) -> jax.Array:
  """Whether a token is among the k highest or k lowest of each layer.

  Args:
    readout: float [..., S, V]; probabilities, or differences of them.
    answer: int [...], the token.
    k: static, >= 1; 2 k <= V.

  Returns:
    float32 [..., S], 0 or 1; nan where a layer has one. The attack's success is
    its largest over layers.

  Raises:
    ValueError: a k that does not fit.
  """
  readout = arrays("readout [...]", readout)
  check_tails(k, readout.shape[-1])
  own = of_token(readout, answer)[..., None]
  # The token is one of those that are counted, and so is what is tied with it.
  above = (readout >= own).sum(axis=-1)
  below = (readout <= own).sum(axis=-1)
  hit = ((above <= k) | (below <= k)).astype(jnp.float32)
  return jnp.where(jnp.isnan(readout).any(axis=-1), jnp.nan, hit)


def probability_delta(readout: jax.Array, order: int) -> jax.Array:
  """Differences between layers that follow each other, [..., S - order, V].

  Order 0 is the read-out itself: the head-projection attack; 1 and 2 are the
  probability-delta attacks PD and PD^2.

  Args:
    readout: float [..., S, V], of the layers in their order.
    order: static, >= 0, < S.

  Raises:
    ValueError: an order that leaves nothing.
  """
  checks.count(0, order=order)
  if order >= readout.shape[-2]:
    raise ValueError(
      f"Expected order < {readout.shape[-2]} layers, got order={order}."
    )
  return jnp.diff(readout, n=order, axis=-2)


def tail_chance(k: int, num_layers: int, vocab_size: int) -> float:
  """How often `tail_hit` finds a random token in any of some layers.

  Args:
    k: >= 1; 2 k <= V.
    num_layers: of the read-out, or of its differences; taken as independent, so
      that it is an upper bound.
    vocab_size: V.
  """
  check_tails(k, vocab_size)
  checks.count(1, num_layers=num_layers)
  return 1 - (1 - 2 * k / vocab_size) ** num_layers
