"""Semivalues by the size of the set that a row joins.

A semivalue averages the marginal contribution U(S + i) - U(S) over sets S of the
other rows:

    phi_i = sum_k p(k) mean over S of size k of U(S + i) - U(S),

p(k) = C(N - 1, k) w(k), the probability that the set has size k = 0 .. N - 1.
The weights w themselves overflow; the probabilities do not.

Sources: Data Shapley, Ghorbani and Zou (2019), arXiv:1904.02868; Beta Shapley,
Kwon and Zou (2021), arXiv:2110.14049; Data Banzhaf, Wang and Jia (2022),
arXiv:2205.15466.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks


def shapley_sizes(num_rows: int) -> jax.Array:
  """Every size alike: p(k) = 1 / N. float32 [N].

  Example:
    >>> from jaxunlearn import valuation
    >>> valuation.shapley_sizes(4).tolist()
    [0.25, 0.25, 0.25, 0.25]
  """
  checks.counts(num_rows=num_rows)
  return jnp.full(num_rows, 1 / num_rows, jnp.float32)


def loo_sizes(num_rows: int) -> jax.Array:
  """All other rows: p(N - 1) = 1, which is leave-one-out. float32 [N].

  Example:
    >>> from jaxunlearn import valuation
    >>> valuation.loo_sizes(4).tolist()
    [0.0, 0.0, 0.0, 1.0]
  """
  checks.counts(num_rows=num_rows)
  return jnp.zeros(num_rows, jnp.float32).at[-1].set(1)


def beta_sizes(
  num_rows: int, alpha: float | jax.Array, beta: float | jax.Array
) -> jax.Array:
  """p(k) = C(N - 1, k) B(k + beta, N - 1 - k + alpha) / B(alpha, beta).

  The share of the other rows that are in the set is drawn from Beta(beta,
  alpha): alpha > beta favours small sets, where noise shows. (16, 1) and (4, 1)
  are in use; (1, 1) is the Shapley value.

  Args:
    num_rows: N; static.
    alpha: > 0; may be traced.
    beta: > 0; may be traced.

  Returns:
    float32 [N], sum 1.

  Raises:
    ValueError: num_rows < 1, alpha <= 0 or beta <= 0.

  Example:
    >>> [round(p, 3) for p in beta_sizes(5, 4.0, 1.0).tolist()]
    [0.5, 0.286, 0.143, 0.057, 0.014]
  """
  checks.counts(num_rows=num_rows)
  checks.positive(alpha=alpha, beta=beta)
  k = jnp.arange(num_rows - 1, dtype=jnp.float32)
  rest = num_rows - 1 - k  # Sizes above k.
  return _from_ratios(
    jnp.log(rest)
    - jnp.log(k + 1)
    + jnp.log(k + beta)
    - jnp.log(rest - 1 + alpha)
  )


def banzhaf_sizes(num_rows: int, rate: float | jax.Array = 0.5) -> jax.Array:
  """Every other row with the same chance, p = Binomial(N - 1, rate).

  Args:
    num_rows: N; static.
    rate: strictly between 0 and 1; 1/2 is the Banzhaf value. May be traced.

  Returns:
    float32 [N], sum 1.

  Raises:
    ValueError: num_rows < 1 or a rate outside (0, 1).

  Example:
    >>> from jaxunlearn import valuation
    >>> [round(p, 3) for p in valuation.banzhaf_sizes(4).tolist()]
    [0.125, 0.375, 0.375, 0.125]
  """
  checks.counts(num_rows=num_rows)
  inner_rate(rate)
  k = jnp.arange(num_rows - 1, dtype=jnp.float32)
  odds = jnp.log(rate) - jnp.log1p(-jnp.asarray(rate, jnp.float32))
  return _from_ratios(jnp.log(num_rows - 1 - k) - jnp.log(k + 1) + odds)


def inner_rate(rate: float | jax.Array) -> None:
  """A rate at which rows are both in and out.

  Raises:
    ValueError: it is not strictly between 0 and 1.
  """
  if checks.is_concrete(rate) and not 0 < float(rate) < 1:
    raise ValueError(f"Expected rate strictly in (0, 1), got rate={rate}.")


def size_probabilities_of(values: jax.Array, num_rows: int) -> jax.Array:
  """`values` as float32 [N].

  Raises:
    ValueError: another shape, or (concrete values) no probabilities.
  """
  given, values = values, jnp.asarray(values, jnp.float32)
  if values.shape != (num_rows,):
    raise ValueError(
      f"Expected size_probabilities of shape ({num_rows},), one for each size "
      f"0 .. {num_rows - 1} of a set of the other rows, got {values.shape}."
    )
  if checks.is_concrete(given):
    p = np.asarray(given, np.float64)  # Also under jit, if it closes over them.
    if not (p.min() >= 0 and abs(p.sum() - 1) < 1e-3):
      raise ValueError(
        "Expected size_probabilities >= 0 with sum 1, got minimum "
        f"{p.min():g} and sum {p.sum():g}."
      )
  return values


def _from_ratios(log_ratios: jax.Array) -> jax.Array:
  """Probabilities from log p(k + 1) - log p(k), [N - 1] to [N].

  Neighbours' ratios are exact in float32, where log-gammas of thousands, or
  binomial coefficients, have no digits left to be subtracted.
  """
  log_ratios = log_ratios.astype(jnp.float32)
  zero = jnp.zeros(1, jnp.float32)
  return jax.nn.softmax(jnp.concatenate([zero, jnp.cumsum(log_ratios)]))
