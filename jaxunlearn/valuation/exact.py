"""Values without sampling: leave-one-out, and any semivalue of a few rows.

Class: exact. Data access: the utility. Cost: N + 1 utilities for leave-one-out;
2^N for `exact_semivalue`, against which estimators are tested.

Sources: see `sizes`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxunlearn.valuation.sizes import shapley_sizes, size_probabilities_of
from jaxunlearn.valuation.types import Utility, Valuation, require_finite

_MOST_ROWS = 20


def loo(
  utility: Utility,
  *,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """Leave-one-out: what the utility loses without the row, U(D) - U(D - i).

  Give it a log-likelihood: an accuracy hardly ever changes with one row, and
  nearly all values are 0.

  Args:
    utility: of N rows.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    The values, exact for this utility; N + 1 evaluations.

  Raises:
    ValueError: no rows, or (outside jit) utilities that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> game = Utility(lambda mask: mask @ jnp.array([1.0, 2.0, 3.0]), 3)
    >>> loo(game).values.tolist()
    [1.0, 2.0, 3.0]
  """
  n = utility.num_rows
  # Number N leaves nobody out.
  left_out = jnp.arange(n + 1, dtype=jnp.int32)
  rows = jnp.arange(n, dtype=jnp.int32)
  utilities = utility.over(
    lambda i: rows != i, left_out, strategy=strategy, mesh=mesh
  )
  require_finite((~jnp.isfinite(utilities)).sum(), n + 1)
  full = utilities[n]
  return _exact(full - utilities[:n], n + 1, full)


def exact_semivalue(
  utility: Utility,
  size_probabilities: jax.Array | None = None,
  *,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """A semivalue from the utilities of all 2^N sets.

  Args:
    utility: of N <= 20 rows.
    size_probabilities: float [N], see `sizes`; None is the Shapley value.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    The values; 2^N evaluations (the empty set's is `empty_value`).

  Raises:
    ValueError: more than 20 rows or none, probabilities that are none, or
      (outside jit) utilities that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> both = valuation.Utility(lambda mask: mask[:2].all() * 4.0, 3)
    >>> found = valuation.exact_semivalue(both)
    >>> [round(v, 2) for v in found.values.tolist()]
    [2.0, 2.0, 0.0]
  """
  n = utility.num_rows
  if not 1 <= n <= _MOST_ROWS:
    raise ValueError(
      f"Expected 1 .. {_MOST_ROWS} rows to evaluate all of their subsets, got "
      f"{n}; sample permutations of more."
    )
  if size_probabilities is None:
    size_probabilities = shapley_sizes(n)
  p = size_probabilities_of(size_probabilities, n)
  combinations = [math.comb(n - 1, k) for k in range(n)]
  weight = p / jnp.asarray(combinations, jnp.float32)
  sets = jnp.arange(2**n, dtype=jnp.int32)
  bits = jnp.arange(n, dtype=jnp.int32)
  has = lambda s, bit: (s >> bit) & 1 == 1
  utilities = utility.over(
    lambda s: has(s, bits), sets, strategy=strategy, mesh=mesh
  )
  require_finite((~jnp.isfinite(utilities)).sum(), 2**n)
  size = jax.lax.population_count(sets)

  def of_row(bit: jax.Array) -> jax.Array:
    marginal = utilities[sets | (1 << bit)] - utilities
    # Where the row is in the set already there is no marginal.
    w = weight[jnp.minimum(size, n - 1)]
    return jnp.where(has(sets, bit), 0, w * marginal).sum()

  return _exact(jax.lax.map(of_row, bits), 2**n, utilities[-1])


def _exact(values: jax.Array, count: int, full: jax.Array) -> Valuation:
  return Valuation(
    values,
    jnp.zeros_like(values),
    jnp.asarray(count, jnp.int32),
    full,
    jnp.array(True),
  )
