"""Distributional Shapley: what a point is worth to a sample of a distribution.

Class: an unbiased estimate by sampling. Data access: a utility over rows of a
pool and of points beside it. Cost: T (K + 1) utilities for K points.

    value(z) = mean over k = 1 .. m of E_S [U(S with z) - U(S)],

S being k - 1 points drawn from the distribution, here the pool without z. With m
the number of the pool's rows that is Data Shapley of a game of which the other
players are random too; a small m says what a point adds to few data. Points need
not be rows of the pool: this values what one does not have yet.

Source: Ghorbani, Kim and Zou (2020), arXiv:2002.12334, the Monte-Carlo estimator
over uniform sizes; its interpolation to further points is not here. Draws are
without replacement.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.valuation.types import Utility, Valuation, require_finite


def distributional_shapley(
  utility: Utility,
  pool: jax.Array,
  points: jax.Array,
  key: jax.Array,
  *,
  num_sets: int,
  max_size: int,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """Values of points by random sets of a pool, the same sets for all of them.

  Args:
    utility: of N rows.
    pool: bool [N], rows that sets are drawn from.
    points: int [K], rows to value, in the pool or not.
    key: PRNG key; of sizes and sets.
    num_sets: T; static. Sizes are spread evenly over 0 .. m - 1.
    max_size: m in 1 .. rows of the pool; static.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    The values [K] and their standard errors. A set that holds a point says
    nothing of it; the others of its size count for more in its place. Where all
    hold it the value is nan. `utility_full` is nan.

  Raises:
    ValueError: a size or number outside its range, a pool of another shape, or
      (outside jit) utilities that are not finite.

  Example:
    >>> game = Utility(lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> pool = jnp.array([True, True, False])
    >>> found = distributional_shapley(
    ...   game, pool, jnp.array([2]), jax.random.key(0), num_sets=4, max_size=2
    ... )
    >>> found.values.tolist()
    [5.0]
  """
  checks.counts(num_sets=num_sets, max_size=max_size)
  n, pool = utility.num_rows, jnp.asarray(pool)
  shaped(f"pool bool [{n}]", pool)
  points = arrays("points int [K]", points)
  if checks.is_concrete(pool) and max_size > int(pool.sum()):
    raise ValueError(
      f"Expected max_size at most the pool's {int(pool.sum())} rows, got "
      f"{max_size}."
    )
  sizes = jnp.arange(num_sets) % max_size
  # Few sets are spread over all sizes, in an order that does not matter.
  sizes = jnp.where(num_sets < max_size, (sizes * max_size) // num_sets, sizes)

  def members(index: jax.Array) -> jax.Array:
    draw = jax.random.uniform(jax.random.fold_in(key, index), (n,))
    order = jnp.argsort(jnp.where(pool, draw, 2.0))
    return jnp.zeros(n, bool).at[order].set(jnp.arange(n) < sizes[index])

  def with_point(index: jax.Array, point: jax.Array) -> jax.Array:
    # -1 is no point: the set alone.
    own = members(index)
    return jnp.where(point < 0, own, own.at[point].set(True))

  sets = jnp.arange(num_sets, dtype=jnp.int32)
  asked = jnp.append(points.astype(jnp.int32), -1)
  pairs = jnp.meshgrid(sets, asked, indexing="ij")
  utilities = utility.over(
    with_point, *(p.reshape(-1) for p in pairs), strategy=strategy, mesh=mesh
  ).reshape(num_sets, -1)
  require_finite((~jnp.isfinite(utilities)).sum(), utilities.size)
  gains = utilities[:, :-1] - utilities[:, -1:]
  holds = jax.lax.map(lambda i: members(i)[points], sets)
  # Large sets hold a point of the pool more often than small ones.
  free = jnp.where(pool[points][None], 1 - sizes[:, None] / pool.sum(), 1.0)
  weight = jnp.where(holds, 0.0, 1 / free)
  total = weight.sum(axis=0)
  mean = lambda x: jnp.where(
    total > 0,
    (weight * x).sum(axis=0) / jnp.where(total > 0, total, 1),
    jnp.nan,
  )
  values = mean(gains)
  spread = (weight**2 * (gains - values[None]) ** 2).sum(axis=0)
  few = (~holds).sum(axis=0) < 2
  error = jnp.where(few, jnp.nan, jnp.sqrt(spread) / jnp.maximum(total, 1e-12))
  return Valuation(
    values,
    error,
    jnp.asarray(utilities.size, jnp.int32),
    jnp.full((), jnp.nan, jnp.float32),
    jnp.array(True),
  )
