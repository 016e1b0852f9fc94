"""KLoM: are unlearned models distributed like retrained ones, row by row?

Source: arXiv:2410.23232 and its released code, whose number of bins differs from
version to version and which drops the largest sample in one of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped

LIMIT = 100.0  # Margins are clipped to it, as released.
DIRECTIONS = ("unlearned", "retrained")


def klom(
  unlearned: jax.Array,
  retrained: jax.Array,
  *,
  num_bins: int = 20,
  floor: float | jax.Array = 1e-5,
  direction: str = "unlearned",
) -> jax.Array:
  """KL divergence of histograms of margins, for each row.

  Margins of both sides share `num_bins` equal bins from their smallest to their
  largest. Better: lower; in expectation that of two sets of retrained models,
  which is not 0 (`klom_floor`).

  Args:
    unlearned: float [M, E], margins (`logit_confidence`) of M unlearned models,
      each made of an original of its own seed, on E rows.
    retrained: float [K, E], those of K models trained without the request.
    num_bins: static, >= 2.
    floor: > 0, the least share of a bin on the right side of the divergence.
    direction: "unlearned", KL(unlearned || retrained); "retrained", the other.

  Returns:
    float32 [E], nats, in [0, -log(floor)] up to rounding and the little that
    the floor adds; nan where a margin is.

  Raises:
    ValueError: shapes that do not fit, num_bins < 2, floor <= 0.

  Example:
    >>> apart = klom(jnp.zeros((4, 1)), jnp.ones((4, 1)))
    >>> f"{apart[0]:.3f}"
    '11.513'
  """
  checks.count(2, num_bins=num_bins)
  checks.positive(floor=floor)
  checks.one_of(DIRECTIONS, direction=direction)
  wanted = "unlearned [M > 0, E] and retrained [K > 0, E]"
  shaped(wanted, unlearned, retrained)
  sides = [jnp.asarray(side, jnp.float32) for side in (unlearned, retrained)]
  if direction == "retrained":
    sides.reverse()

  def one(p_margins: jax.Array, q_margins: jax.Array) -> jax.Array:
    both = jnp.concatenate([p_margins, q_margins])
    low, high = both.min(), both.max()
    width = jnp.where(high > low, high - low, 1.0)

    def shares(margins: jax.Array) -> jax.Array:
      place = jnp.floor((margins - low) / width * num_bins)
      # The largest of all closes the last bin.
      place = jnp.clip(place, 0, num_bins - 1).astype(jnp.int32)
      return jnp.zeros(num_bins).at[place].add(1.0 / len(margins))

    p, q = shares(p_margins), jnp.maximum(shares(q_margins), floor)
    ratio = jnp.log(jnp.where(p > 0, p, 1.0) / q)
    value = jnp.where(p > 0, p * ratio, 0.0).sum()
    return jnp.where(jnp.isnan(both).any(), jnp.nan, value)

  clipped = [jnp.clip(side, -LIMIT, LIMIT) for side in sides]
  return jax.vmap(one, in_axes=1)(*clipped)


def klom_floor(
  retrained: jax.Array, *, num_bins: int = 20, floor: float | jax.Array = 1e-5
) -> jax.Array:
  """KLoM of one half of the retrained models from the other: [E].

  No method can be expected to be below it; of half as many models it is a bit
  higher than that of all would be.

  Args:
    retrained: float [K, E], K >= 2, margins of models of independent seeds.
    num_bins: see `klom`.
    floor: see `klom`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> margins = jnp.array([[0.0, 1.0], [1.0, 2.0], [0.0, 3.0], [1.0, 4.0]])
    >>> floor = metrics.klom_floor(margins)
    >>> float(floor[0]), round(float(floor[1]), 2)
    (0.0, 10.82)
  """
  shaped("retrained [K > 1, E]", retrained)
  half = len(retrained) // 2
  first, second = retrained[:half], retrained[half : 2 * half]
  return klom(first, second, num_bins=num_bins, floor=floor)
