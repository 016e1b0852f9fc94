"""Datamodels: linear models of what training on a subset gives.

Class: an estimate by regression. Data access: outputs of models trained on
random subsets, as any estimator here asks a utility for them. Cost: M trainings,
whatever N and however many outputs T, and one regression.

    f_t(S) ~ bias_t + sum over i in S of weights_it,

f_t an output of the model trained on S: a utility, or a test row's margin. A
row's weight is its value for that output. `linear_datamodelling_score` says on
subsets that were held out how far such a model can be believed.

Sources: Ilyas et al. (2022), arXiv:2202.00622; AME: Lin et al. (2022),
arXiv:2206.10013. Differences: ridge regression beside their lasso; it is closed
form and stays on the device. The score is that of the TRAK paper
(arXiv:2303.14186).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.valuation.types import Utility, Valuation, require_finite
from jaxunlearn.valuation.uses import rank_correlation

RATES = (0.2, 0.4, 0.6, 0.8)


class Datamodels(NamedTuple):
  """Linear models of T outputs; without the axis T where one was asked for.

  Attributes:
    weights: float32 [N, T] or [N], of each row.
    bias: float32 [T] or [], of the empty set.
    standard_error: float32 [N, T] or [N], of the weights, as a regression states
      it; what a penalty takes off them is not in it. nan from the lasso.
  """

  weights: jax.Array
  bias: jax.Array
  standard_error: jax.Array

  def predict(self, masks: jax.Array) -> jax.Array:
    """Outputs for masks bool [M, N]: [M, T] or [M]."""
    outputs = _dot(masks.astype(jnp.float32), self.weights)
    return outputs + jnp.broadcast_to(self.bias, outputs.shape)


def subset_masks(
  key: jax.Array,
  *,
  num_masks: int,
  num_rows: int,
  rate: float = 0.5,
  fixed_size: bool = True,
) -> jax.Array:
  """Uniformly random subsets of one size, round(rate * N) rows.

  Subsets of one size cannot tell what all rows have in common: a constant may
  move from the weights to the bias, and the regressions here choose weights
  around 0. Their order and predictions for that size are not affected.

  Args:
    key: PRNG key; the first of more masks are those of fewer.
    num_masks: M; static.
    num_rows: N; static.
    rate: share of the rows, in [0, 1].
    fixed_size: static; False takes each row with chance `rate` instead, so that
      weights are worth what they say.

  Returns:
    bool [M, N].

  Raises:
    ValueError: counts that are not positive, a rate outside [0, 1].

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> masks = valuation.subset_masks(
    ...   jax.random.key(0), num_masks=3, num_rows=10, rate=0.3)
    >>> masks.shape, masks.sum(axis=1).tolist()
    ((3, 10), [3, 3, 3])
  """
  checks.counts(num_masks=num_masks, num_rows=num_rows)
  checks.fraction(rate=rate)
  chosen = jnp.arange(num_rows) < jnp.round(rate * num_rows)

  def draw(index: jax.Array) -> jax.Array:
    own = jax.random.fold_in(key, index)
    if fixed_size:
      return jax.random.permutation(own, chosen)
    return jax.random.bernoulli(own, rate, (num_rows,))

  return jax.lax.map(draw, jnp.arange(num_masks, dtype=jnp.int32))


def fit_ridge(
  masks: jax.Array, outputs: jax.Array, *, l2: float | jax.Array = 1.0
) -> Datamodels:
  """Minimises sum over masks (f - bias - mask weights)^2 + l2 |weights|^2.

  Solved in the smaller of the spaces of rows and of masks, so that no matrix is
  larger than the masks themselves.

  Args:
    masks: bool [M, N], M >= 2.
    outputs: float [M] or [M, T].
    l2: > 0; scikit-learn's `Ridge(alpha)`, the bias is not penalised; may be
      traced. Far below float32's rounding of M it gives nan.

  Returns:
    The models. A row that is in all masks or in none has weight 0. Standard
    errors are those of the noise that the residuals show, nan where these have
    less than one degree of freedom.

  Raises:
    ValueError: shapes or dtypes that do not fit, l2 <= 0, or (outside jit)
      outputs that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> masks = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], bool)
    >>> found = valuation.fit_ridge(
    ...   masks, jnp.array([0.0, 2.0, 1.0, 3.0]), l2=1e-3)
    >>> found.weights.round().tolist()
    [1.0, 2.0]
  """
  checks.positive(l2=l2)
  masks, outputs = _checked(masks, outputs)
  x = masks.astype(jnp.float32)
  y = outputs.reshape(len(outputs), -1)
  x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
  x, y = x - x_mean[None], y - y_mean[None]
  m, n = x.shape
  # weights = solution y, whichever of the two matrices is the smaller.
  if n <= m:
    inverse = _solve(_dot(x.T, x) + l2 * jnp.eye(n), jnp.eye(n))
    solution = _dot(inverse, x.T)
    used = n - l2 * jnp.trace(inverse)
  else:
    inverse = _solve(_dot(x, x.T) + l2 * jnp.eye(m), jnp.eye(m))
    solution = _dot(x.T, inverse)
    used = m - l2 * jnp.trace(inverse)
  weights = _dot(solution, y)
  freedom = m - 1 - used
  residual = ((y - _dot(x, weights)) ** 2).sum(axis=0)
  noise = residual / jnp.where(freedom >= 1, freedom, jnp.nan)
  error = jnp.sqrt((solution**2).sum(axis=1)[:, None] * noise[None, :])
  return _shaped(weights, y_mean - _dot(x_mean, weights), error, outputs)


def fit_lasso(
  masks: jax.Array,
  outputs: jax.Array,
  *,
  l1: float | None = None,
  num_folds: int = 5,
) -> Datamodels:
  """Minimises mean over masks (f - bias - mask weights)^2 / 2 + l1 |weights|_1.

  By scikit-learn, on the host, one output after the other; not under jit.

  Args:
    masks: bool [M, N], M >= 2.
    outputs: float [M] or [M, T].
    l1: > 0, `Lasso(alpha)`; None chooses it by cross-validation.
    num_folds: of the cross-validation.

  Returns:
    The models.

  Raises:
    ValueError: shapes or dtypes that do not fit, l1 <= 0, fewer than 2 folds or
      more than masks, outputs that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> masks = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]], bool)
    >>> found = valuation.fit_lasso(
    ...   masks, jnp.array([0.0, 2.0, 0.0, 2.0]), l1=1e-3)
    >>> found.weights.round().tolist()
    [0.0, 2.0]
  """
  masks, outputs = _checked(masks, outputs)
  if l1 is not None:
    checks.positive(l1=l1)
  elif not 2 <= num_folds <= len(outputs):
    raise ValueError(
      f"Expected num_folds in 2 .. {len(outputs)}, the masks, got {num_folds}."
    )
  x = np.asarray(masks, np.float64)
  y = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
  # Folds of their own order, which has nothing to do with that of the masks.
  found = [_lasso(x, column, l1, num_folds) for column in y.T]
  weights = np.stack([w for w, _ in found], axis=1)
  bias = np.array([b for _, b in found])
  return _shaped(
    jnp.asarray(weights, jnp.float32),
    jnp.asarray(bias, jnp.float32),
    jnp.full(weights.shape, jnp.nan, jnp.float32),
    outputs,
  )


def linear_datamodelling_score(
  models: Datamodels, masks: jax.Array, outputs: jax.Array
) -> jax.Array:
  """Spearman correlation of predicted and true outputs over held-out masks.

  Args:
    models: fitted to other masks.
    masks: bool [M, N].
    outputs: float [M] or [M, T], as the models have them.

  Returns:
    [] or [T], in [-1, 1], higher is better; nan where either side is constant.

  Raises:
    ValueError: shapes or dtypes that do not fit, or (outside jit) outputs that
      are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> models = valuation.Datamodels(
    ...   jnp.array([1.0, 2.0]), jnp.array(0.0), jnp.zeros(2))
    >>> masks = jnp.array([[0, 0], [1, 0], [0, 1]], bool)
    >>> outputs = jnp.array([0.1, 0.5, 0.9])
    >>> float(valuation.linear_datamodelling_score(models, masks, outputs))
    1.0
  """
  masks, outputs = _checked(masks, outputs)
  shape = (masks.shape[1], *outputs.shape[1:])
  shaped(f"weights {list(shape)}", models.weights)
  predicted = models.predict(masks).reshape(len(outputs), -1)
  true = outputs.reshape(len(outputs), -1)
  scores = jax.vmap(rank_correlation, in_axes=1)(predicted, true)
  return scores.reshape(outputs.shape[1:])


def ame(
  utility: Utility,
  key: jax.Array,
  *,
  num_samples: int,
  rates: Sequence[float] = RATES,
  l1: float | None = None,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """Average marginal effects: what a row adds to sets of several sizes.

  Each set takes every row with a chance that is drawn from `rates`. The
  utilities are regressed by the lasso on x_i = 1 / p where row i is in the set
  and -1 / (1 - p) where it is not; the slopes, times the features' variance,
  estimate the mean over p of E[U with i] - E[U without i]. The regression is
  scikit-learn's, on the host; not under jit.

  Args:
    utility: of N rows.
    key: PRNG key, of the sets.
    num_samples: M sets; static, >= 2.
    rates: chances, strictly in (0, 1), taken in turn.
    l1: > 0, of the lasso; None chooses it by 5-fold cross-validation.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    The values; `utility_full` is nan. Standard errors are those of a regression
    without penalty, whose noise the residuals show, row by row (they differ
    between rates); what the lasso takes off the values is not in them. nan where
    as many slopes as sets are not 0.

  Raises:
    ValueError: num_samples < 2 (< 5 with cross-validation), no rates or one
      outside (0, 1), l1 <= 0, utilities that are not finite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> found = valuation.ame(
    ...   game, jax.random.key(0), num_samples=400, l1=1e-3)
    >>> [round(v) for v in found.values.tolist()]
    [1, 2, 5]
  """
  least = 5 if l1 is None else 2
  if num_samples < least:
    raise ValueError(f"Expected num_samples >= {least}, got {num_samples}.")
  if not rates or not all(0 < rate < 1 for rate in rates):
    raise ValueError(f"Expected rates strictly in (0, 1), got {rates}.")
  if l1 is not None:
    checks.positive(l1=l1)
  n = utility.num_rows
  chance = jnp.asarray(rates, jnp.float32)

  def draw(index: jax.Array) -> jax.Array:
    own = jax.random.fold_in(key, index)
    return jax.random.bernoulli(own, chance[index % len(rates)], (n,))

  index = jnp.arange(num_samples, dtype=jnp.int32)
  utilities = utility.over(draw, index, strategy=strategy, mesh=mesh)
  if not checks.is_concrete(utilities):
    raise ValueError(
      "Expected ame outside of jit, got a traced utility or key."
    )
  require_finite((~jnp.isfinite(utilities)).sum(), num_samples)
  masks = np.asarray(jax.vmap(draw)(index))
  p = np.asarray(rates, np.float64)[np.arange(num_samples) % len(rates)][
    :, None
  ]
  variance = np.mean(1 / (p * (1 - p)))
  x = np.where(masks, 1 / p, -1 / (1 - p)) / np.sqrt(variance)
  y = np.asarray(utilities, np.float64)
  slopes, offset = _lasso(x, y, l1, 5)
  # The features are independent and of variance 1, so that their matrix need
  # not be inverted.
  residual = y - offset - x @ slopes
  spread = ((x - x.mean(axis=0)) ** 2 * residual[:, None] ** 2).sum(axis=0)
  freedom = num_samples - 1 - np.count_nonzero(slopes)
  error = np.full(n, np.nan)
  if freedom > 0:
    error = np.sqrt(spread / (num_samples * freedom))
  return Valuation(
    jnp.asarray(slopes * np.sqrt(variance), jnp.float32),
    jnp.asarray(error * np.sqrt(variance), jnp.float32),
    jnp.asarray(num_samples, jnp.int32),
    jnp.full((), jnp.nan, jnp.float32),
    jnp.array(True),
  )


def _lasso(
  x: np.ndarray, y: np.ndarray, l1: float | None, num_folds: int
) -> tuple[np.ndarray, float]:
  from sklearn.linear_model import Lasso, LassoCV
  from sklearn.model_selection import KFold

  # Its stopping rule is relative to the outputs' variance; units drop out.
  scale = y.std() or 1.0
  if l1 is None:
    # In an order of their own, as masks may be made in turns.
    folds = KFold(num_folds, shuffle=True, random_state=0)
    model = LassoCV(cv=folds, max_iter=20_000)
  else:
    model = Lasso(alpha=l1 / scale, max_iter=100_000, tol=1e-6)
  model.fit(x, y / scale)
  return model.coef_ * scale, float(model.intercept_) * scale


def _checked(
  masks: jax.Array, outputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
  masks, outputs = arrays(
    "masks bool [M > 1, N] and outputs [M] or [M, T]", masks, outputs
  )
  checks.finite(outputs, "outputs")
  return masks, outputs.astype(jnp.float32)


def _shaped(
  weights: jax.Array, bias: jax.Array, error: jax.Array, outputs: jax.Array
) -> Datamodels:
  if outputs.ndim == 1:
    return Datamodels(weights[:, 0], bias[0], error[:, 0])
  return Datamodels(weights, bias, error)


def _solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  factor = jnp.linalg.cholesky(matrix)
  return jax.scipy.linalg.cho_solve((factor, True), right)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
  # Accelerators would otherwise round the factors to bfloat16 or tf32.
  return jnp.matmul(a, b, precision="highest")
