"""Data Banzhaf by maximum sample reuse: every model serves every row.

Class: unbiased estimate. Data access: the utility. Cost: `num_samples`
utilities, whatever N, and two matrix products.

Rows are drawn into M random sets, each with the same chance, and

    phi_i = mean of U over the sets with i - mean of U over those without.

In expectation that is the Banzhaf value for chance 1/2, its weighted form else,
and the slope of a regression of U on the masks.

Source: Wang and Jia (2022), arXiv:2205.15466. Differences: none; the standard
errors are ours (those of a difference of two means).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.valuation.sizes import inner_rate
from jaxunlearn.valuation.types import Utility, Valuation, require_finite

_CHUNK = 1024  # Masks of one matrix product.


def banzhaf_msr(
  utility: Utility,
  key: jax.Array,
  *,
  num_samples: int,
  rate: float | jax.Array = 0.5,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """Banzhaf values of rows by maximum sample reuse.

  Args:
    utility: of N rows.
    key: PRNG key; of the masks. One key gives the same masks whatever the
      strategy, and the first of more masks are those of fewer.
    num_samples: M; static, >= 1; 1,000 is usual.
    rate: chance of a row to be in a set, strictly in (0, 1); may be traced.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    The values and their standard errors; nan for a row that is in all sets or
    in none (errors: in fewer than two). `utility_full` is nan.

  Raises:
    ValueError: num_samples < 1, a rate outside (0, 1), no rows, or (outside
      jit) utilities that are not finite.

  Example:
    >>> game = Utility(lambda mask: mask @ jnp.array([1.0, 2.0]), 2)
    >>> found = banzhaf_msr(game, jax.random.key(0), num_samples=4000)
    >>> [round(value) for value in found.values.tolist()]
    [1, 2]
  """
  checks.counts(num_samples=num_samples)
  inner_rate(rate)
  n = utility.num_rows
  draw = lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), rate, (n,))
  index = jnp.arange(num_samples, dtype=jnp.int32)
  utilities = utility.over(draw, index, strategy=strategy, mesh=mesh)
  require_finite((~jnp.isfinite(utilities)).sum(), num_samples)
  values, error = _difference_of_means(draw, utilities, n)
  return Valuation(
    values,
    error,
    jnp.asarray(num_samples, jnp.int32),
    jnp.full((), jnp.nan, jnp.float32),
    jnp.array(True),
  )


def msr_values(
  masks: jax.Array, utilities: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Banzhaf's difference of means from masks and utilities that one has.

  Args:
    masks: bool [M, N].
    utilities: float [M].

  Returns:
    Values and standard errors, float32 [N]; see `banzhaf_msr`.

  Raises:
    ValueError: masks that are not bool [M, N], or utilities of another length.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> masks = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], bool)
    >>> values, _ = valuation.msr_values(masks, jnp.array([0.0, 2.0, 1.0, 3.0]))
    >>> values.tolist()
    [1.0, 2.0]
  """
  shaped("masks bool [M > 0, N] and utilities [M]", masks, utilities)
  masks, utilities = jnp.asarray(masks), jnp.asarray(utilities, jnp.float32)
  return _difference_of_means(lambda i: masks[i], utilities, masks.shape[1])


def _difference_of_means(mask_of, utilities, n):
  """Two passes over the masks, so that an offset of U costs no digits."""
  count = utilities.shape[0]
  size = min(_CHUNK, count)
  offset = utilities.mean()

  def total(terms):
    """Sums over masks of terms [B, K, N] or [B, K, 1] where the row is in/out."""

    def body(chunk, sums):
      start = jnp.minimum(chunk * size, count - size)
      index = start + jnp.arange(size, dtype=jnp.int32)
      # The last chunk starts early; what was counted already counts no more.
      is_new = index >= chunk * size
      masks = jax.vmap(mask_of)(index)
      inside = (masks & is_new[:, None]).astype(jnp.float32)
      outside = (~masks & is_new[:, None]).astype(jnp.float32)
      return terms(sums, utilities[index] - offset, inside, outside)

    zero = jnp.zeros((2, 2, n), jnp.float32)
    return jax.lax.fori_loop(0, -(-count // size), body, zero)

  product = lambda a, b: jnp.matmul(a, b, precision="highest")

  def first(sums, u, inside, outside):
    both = jnp.stack([jnp.ones_like(u), u])
    return sums + jnp.stack([product(both, inside), product(both, outside)])

  sums = total(first)
  counts, means = sums[:, 0], sums[:, 1] / jnp.maximum(sums[:, 0], 1)

  def second(sums, u, inside, outside):
    squares = jnp.stack(
      [
        (side * (u[:, None] - mean[None]) ** 2).sum(0)
        for side, mean in zip((inside, outside), means)
      ]
    )
    return sums.at[:, 0].add(squares)

  spread = total(second)[:, 0] / jnp.maximum(counts - 1, 1)
  error = jnp.sqrt((spread / jnp.maximum(counts, 1)).sum(0))
  values = jnp.where(counts.min(0) > 0, means[0] - means[1], jnp.nan)
  return values, jnp.where(counts.min(0) > 1, error, jnp.nan)
