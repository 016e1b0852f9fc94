"""Shapley values, Beta Shapley and other semivalues from random permutations.

Rows join one after the other in a random order; a row's marginal contribution
is what the utility gains when it joins. The mean over orders is the Shapley
value; weighted by N p(k), k the number of rows before it, any other semivalue
(see `sizes`). Without truncation the Shapley values of an order add up to
U(D) - U(empty), so theirs do.

Class: unbiased estimate; with truncation biased towards 0 where U is noisy.
Data access: the utility. Cost: `num_permutations` x N utilities, fewer with
truncation. The prefixes of an order are trained together, in one program that
loops over orders; masks of prefixes are made where they are needed.

Sources: Data Shapley with truncation, Ghorbani and Zou (2019),
arXiv:1904.02868; Beta Shapley, Kwon and Zou (2021), arXiv:2110.14049.
Differences: truncation goes by blocks of prefixes, all of which have to be
within the tolerance (the authors' code stops after more than five in a row);
the tolerance is a share of U(D) - U(empty), not of U(D), so that it means the
same for a log-likelihood; antithetic orders and standard errors are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.valuation import sizes
from jaxunlearn.valuation.types import Utility, Valuation, require_finite

_LANES = 1024  # Models trained together, unless the caller says otherwise.


class Progress(NamedTuple):
  """What a stopping rule looks at.

  Attributes:
    values: float32 [N], means so far.
    standard_error: float32 [N]; nan for fewer than two draws.
    previous: float32 [N], the values at the last check; zeros at the first.
    num_draws: float32 [], permutations so far, or pairs of them.
  """

  values: jax.Array
  standard_error: jax.Array
  previous: jax.Array
  num_draws: jax.Array


StopRule = Callable[[Progress], jax.Array]


def standard_error_below(limit: float | jax.Array) -> StopRule:
  """Stops when every value's standard error is below a limit (units of U).

  Raises:
    ValueError: limit <= 0.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> found = valuation.shapley(
    ...   game, jax.random.key(0), num_permutations=40, check_every=4,
    ...   permutations_at_once=4,
    ...   stop=valuation.standard_error_below(0.1))
    >>> int(found.num_evaluations)  # Of 120: orders of a sum all agree.
    12
  """
  checks.positive(limit=limit)
  return lambda progress: (progress.standard_error < limit).all()


def relative_change_below(limit: float | jax.Array) -> StopRule:
  """Stops when the values have changed little since the last check.

  The mean over rows of |now - before| / |now|; 0.05 between checks 100
  permutations apart is the rule of arXiv:1904.02868.

  Raises:
    ValueError: limit <= 0.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> found = valuation.shapley(
    ...   game, jax.random.key(0), num_permutations=40, check_every=4,
    ...   permutations_at_once=4,
    ...   stop=valuation.relative_change_below(0.05))
    >>> int(found.num_evaluations)  # Of 120: nothing moved between two checks.
    24
  """
  checks.positive(limit=limit)

  def rule(progress: Progress) -> jax.Array:
    now = jnp.abs(progress.values)
    change = jnp.abs(progress.values - progress.previous)
    # A value of 0 that was 0 has not changed; one that was not, infinitely.
    same = change == 0
    ratio = jnp.where(same, 0.0, change / jnp.where(same, 1.0, now))
    return ratio.mean() < limit

  return rule


def shapley(
  utility: Utility, key: jax.Array, *, num_permutations: int, **options: Any
) -> Valuation:
  """Shapley values; `truncation=0.01` makes it TMC-Shapley.

  Args:
    utility: of N rows.
    key: see `semivalue`.
    num_permutations: see `semivalue`.
    **options: the other keyword arguments of `semivalue`.

  Returns:
    See `semivalue`.

  Raises:
    ValueError: see `semivalue`.

  Example:
    >>> game = Utility(lambda mask: mask @ jnp.array([1.0, 2.0]), 2)
    >>> shapley(game, jax.random.key(0), num_permutations=4).values.tolist()
    [1.0, 2.0]
  """
  probabilities = sizes.shapley_sizes(utility.num_rows)
  return semivalue(
    utility, key, probabilities, num_permutations=num_permutations, **options
  )


def beta_shapley(
  utility: Utility,
  key: jax.Array,
  *,
  alpha: float | jax.Array,
  beta: float | jax.Array,
  num_permutations: int,
  **options: Any,
) -> Valuation:
  """Beta Shapley values: alpha > beta favours small sets, where noise shows.

  Args:
    utility: of N rows.
    key: see `semivalue`.
    alpha: > 0, may be traced; (alpha, beta) = (16, 1) and (4, 1) are in use, (1,
      1) is Shapley.
    beta: > 0, may be traced.
    num_permutations: see `semivalue`.
    **options: the other keyword arguments of `semivalue`.

  Returns:
    See `semivalue`.

  Raises:
    ValueError: alpha <= 0 or beta <= 0; see `semivalue`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> found = valuation.beta_shapley(
    ...   game, jax.random.key(0), alpha=1.0, beta=1.0, num_permutations=4)
    >>> [round(v, 2) for v in found.values.tolist()]
    [1.0, 2.0, 5.0]
  """
  probabilities = sizes.beta_sizes(utility.num_rows, alpha, beta)
  return semivalue(
    utility, key, probabilities, num_permutations=num_permutations, **options
  )


def semivalue(
  utility: Utility,
  key: jax.Array,
  size_probabilities: jax.Array,
  *,
  num_permutations: int,
  antithetic: bool = True,
  truncation: float | jax.Array | None = None,
  block_size: int = 32,
  stop: StopRule | None = None,
  check_every: int = 100,
  permutations_at_once: int | None = None,
  **mapping: Any,
) -> Valuation:
  """Any semivalue, from the marginal contributions along permutations.

  A position's contribution counts N p(k) times, so that probabilities far from
  even make large errors: for Banzhaf values take `banzhaf_msr`.

  Args:
    utility: of N rows.
    key: PRNG key; of the orders. One key gives the same orders whatever the
      strategy, and the first of more orders are those of fewer.
    size_probabilities: float [N], see `sizes`; may be traced.
    num_permutations: static, >= 1, the most to draw (rounded up to what is
      evaluated together); even if antithetic. 100 to 1,000 are usual.
    antithetic: static; every other order is the one before it reversed. The two
      err in opposite directions where rows have diminishing returns.
    truncation: None, or >= 0, may be traced: an order ends at the first block
      all of whose prefixes are less than this share of |U(D) - U(empty)| from
      U(D); later rows get 0 from it. 0 truncates nothing.
    block_size: static; prefixes evaluated together when truncating.
    stop: None, or a rule that ends the run (`standard_error_below`,
      `relative_change_below`, or one's own).
    check_every: static; permutations between two looks at the rule.
    permutations_at_once: static; by default as many as make about a thousand
      models, or with truncation one order (a pair), since a finished order
      waits for the others.
    **mapping: `strategy` and `mesh`, see `Utility.many`; an int as strategy
      bounds how many of a round's models are trained together.

  Returns:
    The values, with standard errors over permutations (over pairs if
    antithetic; nan for fewer than two).

  Raises:
    ValueError: counts < 1, an odd number of antithetic permutations, truncation
      < 0, size probabilities that are none, no rows, or (outside jit) utilities
      that are not finite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> sizes = valuation.shapley_sizes(3)
    >>> found = valuation.semivalue(
    ...   game, jax.random.key(0), sizes, num_permutations=4)
    >>> [round(v, 2) for v in found.values.tolist()]
    [1.0, 2.0, 5.0]
  """
  n = utility.num_rows
  checks.counts(
    num_rows=n,
    num_permutations=num_permutations,
    block_size=block_size,
    check_every=check_every,
  )
  unit = 2 if antithetic else 1  # Permutations of one independent draw.
  if num_permutations % unit:
    raise ValueError(
      "Expected num_permutations even for antithetic pairs, got "
      f"{num_permutations}."
    )
  if truncation is not None:
    checks.non_negative(truncation=truncation)
  p = sizes.size_probabilities_of(size_probabilities, n)
  draws, rounds = _rounds(
    num_permutations, unit, n, permutations_at_once, truncation is not None
  )
  evaluate = lambda make_mask, *stacked: utility.over(
    make_mask, *stacked, **mapping
  )
  empty = jnp.asarray(utility.empty_value, jnp.float32)
  none = jnp.zeros((), jnp.int32)
  start = _Counts(none, none)
  full = jnp.full((), jnp.nan, jnp.float32)
  tolerance = None
  if truncation is not None:
    full = evaluate(lambda i: i <= jnp.arange(n), none[None])[0]
    tolerance = jnp.asarray(truncation, jnp.float32) * jnp.abs(full - empty)
    start = start.add(jnp.isfinite(full)[None], jnp.array(True))

  def one_round(index, counts):
    """Values of the round's draws, float32 [draws, N]."""
    lane = jnp.arange(draws * unit, dtype=jnp.int32)
    rank = _ranks(key, index * draws * unit + lane, n, antithetic)
    marginals, counts, top = _marginals(
      evaluate, rank, empty, full, tolerance, block_size, counts
    )
    credit = jnp.take_along_axis(marginals * (n * p)[None], rank, axis=1)
    return credit.reshape(draws, unit, n).mean(1), counts, top

  every = -(-check_every // (draws * unit))

  def body(carry):
    index, running, previous, _, counts, top = carry
    credit, counts, top = one_round(index, counts)
    running = running.add(credit)
    done = jnp.array(stop is None)
    if stop is not None:
      due = (index + 1) % every == 0
      done = due & stop(running.progress(previous))
      previous = jnp.where(due, running.mean, previous)
    return index + 1, running, previous, done, counts, top

  zeros = jnp.zeros(n, jnp.float32)
  running = _Running(jnp.zeros((), jnp.float32), zeros, zeros)
  carry = (none, running, zeros, jnp.array(False), start, full)
  _, running, _, done, counts, full = jax.lax.while_loop(
    lambda carry: (carry[0] < rounds) & (~carry[3] | (stop is None)),
    body,
    carry,
  )
  require_finite(counts.bad, counts.asked)
  found = running.progress(zeros)
  return Valuation(found.values, found.standard_error, counts.asked, full, done)


class _Counts(NamedTuple):
  asked: jax.Array
  bad: jax.Array

  def add(self, is_finite: jax.Array, counted: jax.Array) -> _Counts:
    bad = (~is_finite & counted).sum(dtype=jnp.int32)
    return _Counts(self.asked + is_finite.size, self.bad + bad)


class _Running(NamedTuple):
  """Mean and sum of squared deviations of draws [.., N] (Welford)."""

  num_draws: jax.Array
  mean: jax.Array
  squares: jax.Array

  def add(self, draws: jax.Array) -> _Running:
    mean = draws.mean(0)
    squares = ((draws - mean[None]) ** 2).sum(0)
    count = self.num_draws + draws.shape[0]
    step, share = mean - self.mean, draws.shape[0] / count
    between = step**2 * self.num_draws * share
    return _Running(
      count, self.mean + step * share, self.squares + squares + between
    )

  def progress(self, previous: jax.Array) -> Progress:
    variance = self.squares / jnp.maximum(self.num_draws - 1, 1)
    error = jnp.sqrt(variance / jnp.maximum(self.num_draws, 1))
    error = jnp.where(self.num_draws > 1, error, jnp.nan)
    return Progress(self.mean, error, previous, self.num_draws)


def _rounds(
  num_permutations: int,
  unit: int,
  num_rows: int,
  at_once: int | None,
  truncates: bool,
) -> tuple[int, int]:
  """Draws in a round and rounds, with as few draws too many as can be."""
  if at_once is not None:
    checks.counts(permutations_at_once=at_once)
  elif truncates:
    at_once = 1
  else:
    at_once = _LANES // num_rows
  total = num_permutations // unit
  rounds = -(-total // max(at_once // unit, 1))
  return -(-total // rounds), rounds


def _ranks(key, permutation, n, antithetic):
  """A row's place in each permutation, int32 [P, N], by its number [P]."""

  def rank(number: jax.Array) -> jax.Array:
    source = number // 2 if antithetic else number
    order = jax.random.permutation(jax.random.fold_in(key, source), n)
    if antithetic:
      order = jnp.where(number % 2 == 1, n - 1 - order, order)
    return order.astype(jnp.int32)

  return jax.vmap(rank)(permutation)


def _marginals(
  evaluate: Callable[..., jax.Array],
  rank: jax.Array,
  empty: jax.Array,
  full: jax.Array,
  tolerance: jax.Array | None,
  block_size: int,
  counts: _Counts,
) -> tuple[jax.Array, _Counts, jax.Array]:
  """What each position adds, [P, N]; the counts; the utility of all rows."""
  num_orders, n = rank.shape
  blocks = 1 if tolerance is None else -(-n // block_size)
  block = -(-n // blocks)
  lane = jnp.repeat(jnp.arange(num_orders, dtype=jnp.int32), block)
  offset = jnp.tile(jnp.arange(block, dtype=jnp.int32), num_orders)

  def prefixes(first: jax.Array | int) -> jax.Array:
    # A position that does not exist any more is that of all rows.
    found = evaluate(lambda i, j: rank[i] <= first + j, lane, offset)
    return found.reshape(num_orders, block)

  def gains(before: jax.Array, u: jax.Array) -> jax.Array:
    return u - jnp.concatenate([before[:, None], u[:, :-1]], axis=1)

  before = jnp.broadcast_to(empty, (num_orders,))
  if tolerance is None:
    u = prefixes(0)
    counts = counts.add(jnp.isfinite(u), jnp.array(True))
    return gains(before, u), counts, u[0, -1]

  def body(carry):
    first, before, goes_on, marginals, counts = carry
    u = prefixes(first)
    gained = jnp.where(goes_on[:, None], gains(before, u), 0)
    marginals = jax.lax.dynamic_update_slice(
      marginals, gained, (jnp.zeros_like(first), first)
    )
    counts = counts.add(jnp.isfinite(u), goes_on[:, None])
    goes_on &= ~(jnp.abs(u - full) < tolerance).all(axis=1)
    return first + block, u[:, -1], goes_on, marginals, counts

  marginals = jnp.zeros((num_orders, blocks * block), jnp.float32)
  goes_on = jnp.ones(num_orders, bool)
  carry = (jnp.zeros((), jnp.int32), before, goes_on, marginals, counts)
  *_, marginals, counts = jax.lax.while_loop(
    lambda carry: (carry[0] < n) & carry[2].any(), body, carry
  )
  return marginals[:, :n], counts, full
