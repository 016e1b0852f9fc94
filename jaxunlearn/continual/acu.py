"""Analytic continual unlearning: a linear head that forgets in closed form.

Source: Tang et al. 2025, "ACU: Analytic Continual Unlearning", arXiv:2505.12239;
learning as in analytic continual learning (ACIL and its family).
Class: exact. On frozen features z(x) the head is the ridge regression

    argmin_W |Y - Z W|^2 + l2 |W|^2 = (Z'Z + l2 I)^-1 Z'Y

of what has been learned and not forgotten, whatever came in which order. That is
no statement about the features: forgotten rows must not have trained them.
Data access: a request brings the rows to forget (or, by class, nothing); no
other row is kept. The sums Z'Z and Z'Y are kept, which give away the rows if
these are few: no stored examples is not differential privacy.
Cost a request of k rows: O(k D^2), six times for the exact form, and O(D^3) when
a head is asked for.

Three forms of one method (`form`):

- "exact" (default): Z'Z and Z'Y as integers on a fixed grid, `acu_sums`. State
  and head after any stream equal, bit for bit, those of learning the remaining
  rows alone, in any order, in float32 too, whatever l2. (A solve in float32 has
  its own distance from the true ridge, the same before and after.)
- "statistics": Z'Z and Z'Y as floats. Rounding stays behind, about
  eps |Z'Z| / l2 of the head: on digits (512 ReLU features) in float32 below 1e-4
  for l2 from 3% of the mean diagonal of Z'Z, and 8e-4 at 0.3%.
- "recursive": (Z'Z + l2 I)^-1 and W, updated by Woodbury's identity as the
  paper does. The most sensitive to rounding: for float64.

Differences from the paper: solves instead of explicit inverses; rows may have
weights; the first two forms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.continual import acu_sums
from jaxunlearn.continual.acu_recursive import (
  AcuRecursiveState,
  finite,
  woodbury,
)
from jaxunlearn.core import checks
from jaxunlearn.core.per_example import sum_chunks
from jaxunlearn.core.sampling import blank_rows
from jaxunlearn.core.shaped import shaped

FORMS = ("exact", "statistics", "recursive")
_PRESENT = 1e-3  # A class of less weight than this has been forgotten.


class AcuState(NamedTuple):
  """What has been learned, as sums over rows.

  Attributes:
    gram: Z'Z [D, D]; an `ExactSum`, or floats.
    moment: Z'Y [D, C]; the same.
    class_weight: weight of the rows with a target that is not 0, [1, C]; the same.
    num_clipped: int32 [], rows learned of which a number lies outside of the
      scale, so that it was cut ("exact" only).
  """

  gram: Any
  moment: Any
  class_weight: Any
  num_clipped: jax.Array


class AcuHead(NamedTuple):
  """A linear classifier.

  Attributes:
    kernel: [D, C].
    class_active: bool [C], whether the class has rows. The scores of a
      forgotten class are 0, which may still be the largest.
  """

  kernel: jax.Array
  class_active: jax.Array


class Acu(NamedTuple):
  """The learner as pure functions, made by `acu`.

  Attributes:
    init: `() -> state`, nothing learned.
    learn: `(state, features [k, D], targets [k, C], weights=None) -> state`.
      Weights are bool or float [k] in [0, 1]; rows of weight 0 are not read.
    forget: the same arguments, bit for bit; takes rows out that are in. Of rows
      that are not in, it makes nonsense: keep a mask, as `acu_stream` does.
    solve: `state -> AcuHead`, in the dtype of the state. nan where the matrix is
      not positive definite in it, which raises a ValueError outside jit.
    inverse: `state -> (Z'Z + l2 I)^-1` [D, D], for leverages.
    check: the arguments of `learn`; raises what that would raise, learns nothing.
  """

  init: Callable[[], Any]
  learn: Callable[..., Any]
  forget: Callable[..., Any]
  solve: Callable[[Any], AcuHead]
  inverse: Callable[[Any], jax.Array]
  check: Callable[..., None]


def acu(
  num_features: int,
  num_classes: int,
  *,
  l2: float | jax.Array = 0.1,
  scale: float | jax.Array = 1.0,
  target_scale: float | jax.Array = 1.0,
  form: str = "exact",
  dtype: Any = jnp.float32,
) -> Acu:
  """Ridge regression on frozen features that learns and forgets exactly.

  Args:
    num_features: D; static.
    num_classes: C, those to come included; static. Any real targets will do.
    l2: > 0; may be traced. Only "recursive" needs it before `solve`.
    scale: > 0, features lie in [-scale, scale]; a power of two costs no bits.
      May be traced. Choose it without looking at rows that may have to be
      forgotten. "exact" only: float32 features are put on a grid of step
      scale / 2^23, and at least 131,071 rows at the end of the scale fit a sum.
    target_scale: > 0, the same of targets.
    form: "exact", "statistics" or "recursive"; see the module.
    dtype: float32 or, in JAX's x64 mode, float64; of the state and the head.

  Returns:
    An `Acu`. Forgetting rows of weight 0 changes nothing, bit for bit
    ("exact" and "statistics"); forgetting all that was learned gives zeros
    (exactly so in "exact").

  Raises:
    ValueError: a count or l2 or a scale <= 0, an unknown form, another dtype,
      float64 outside x64 mode; on a call outside jit: features or targets of
      another shape, nan in a row of positive weight, features outside of the
      scale, weights outside [0, 1], a matrix that is not positive definite.

  Example:
    >>> learner = acu(2, 2, l2=1.0)
    >>> z, y = jnp.eye(2), jnp.eye(2)
    >>> state = learner.learn(learner.init(), z, y)
    >>> state = learner.forget(state, z[:1], y[:1])
    >>> learner.solve(state).kernel.round(3).tolist()
    [[0.0, 0.0], [0.0, 0.5]]
  """
  checks.counts(num_features=num_features, num_classes=num_classes)
  checks.positive(l2=l2, scale=scale, target_scale=target_scale)
  checks.one_of(FORMS, form=form)
  dtype = jnp.dtype(dtype)
  if dtype not in (jnp.float32, jnp.float64):
    raise ValueError(f"Expected dtype float32 or float64, got {dtype}.")
  if dtype != jax.dtypes.canonicalize_dtype(dtype):
    raise ValueError(f"Expected JAX's x64 mode for dtype={dtype}, got it off.")
  scales = (scale, target_scale) if form == "exact" else (None, None)

  def rows_of(features: Any, targets: Any, weights: Any) -> tuple[Any, ...]:
    """Rows and roots of weights, those of weight 0 blank; checked."""
    z, y = jnp.asarray(features), jnp.asarray(targets)
    for name, found, width in (
      ("features", z, num_features),
      ("targets", y, num_classes),
    ):
      shaped(f"{name} [k, {width}]", found)
    n = checks.num_rows((z, y), name="features and targets")
    if weights is None:
      weights = jnp.ones(n, bool)
    checks.request({"x": z}, weights, name="weights")
    weights = jnp.asarray(weights)
    z, y = blank_rows((z.astype(dtype), y.astype(dtype)), weights)
    weight = weights.astype(dtype)
    _check_rows(z, y, weight, scales)
    return z, y, weight

  def sums(features: Any, targets: Any, weights: Any) -> AcuState:
    z, y, weight = rows_of(features, targets, weights)
    if form == "statistics":
      gram, moment, count = sum_chunks(
        lambda r, w: _float_sums(r[0], r[1], w), (z, y), weight, chunk_size=1024
      )
      return AcuState(gram, moment, count, jnp.zeros((), jnp.int32))
    outside = (jnp.abs(z) > scale).any(1) | (jnp.abs(y) > target_scale).any(1)
    root = jnp.sqrt(weight)[:, None]
    has_class = jnp.where(y != 0, root, 0)
    # Cut before the weight; it also keeps compilers from reordering the product,
    # which would move the last bit, so that rows would leave a trace.
    unit = lambda x, s: jnp.clip(x / jnp.asarray(s, dtype), -1, 1) * root
    z, y = unit(z, scale), unit(y, target_scale)
    return AcuState(
      acu_sums.products(z),
      acu_sums.products(z, y),
      acu_sums.products(root, has_class),
      (outside & (weight > 0)).sum(dtype=jnp.int32),
    )

  def init() -> Any:
    d, c = num_features, num_classes
    shapes = ((d, d), (d, c), (1, c))
    if form == "recursive":
      inverse = jnp.eye(d, dtype=dtype) / jnp.asarray(l2, dtype)
      kernel, count = (jnp.zeros(shape, dtype) for shape in shapes[1:])
      return AcuRecursiveState(inverse, kernel, count)
    make: Callable[..., Any] = jnp.zeros
    if form == "exact":
      make = acu_sums.zeros
    gram, moment, count = (make(shape, dtype) for shape in shapes)
    return AcuState(gram, moment, count, jnp.zeros((), jnp.int32))

  def change(sign: int) -> Callable[..., Any]:
    def run(state, features, targets, weights=None):
      if form == "recursive":
        rows = rows_of(features, targets, weights)
        return woodbury(state, rows, sign)
      new = sums(features, targets, weights)
      return _added(state, new if sign > 0 else _negated(new))

    return run

  def factor_of(state: AcuState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Z'Z + l2 I by Cholesky, Z'Y and the counts, as floats."""
    gram, moment, count = state[:3]
    if form == "exact":
      gram, moment, count = (acu_sums.value(s, dtype) for s in state[:3])
      own, other = (jnp.asarray(s, dtype) for s in scales)
      gram, moment = gram * own**2, moment * (own * other)
    ridge = jnp.asarray(l2, dtype) * jnp.eye(num_features, dtype=dtype)
    return jnp.linalg.cholesky(gram + ridge), moment, count

  def solve(state: Any) -> AcuHead:
    if form == "recursive":
      return finite(AcuHead(state.kernel, state.class_weight[0] > _PRESENT))
    factor, moment, count = factor_of(state)
    kernel = jax.scipy.linalg.cho_solve((factor, True), moment)
    return finite(AcuHead(kernel, count[0] > _PRESENT))

  def inverse(state: Any) -> jax.Array:
    if form == "recursive":
      return state.inverse
    identity = jnp.eye(num_features, dtype=dtype)
    factor = factor_of(state)[0]
    return finite(jax.scipy.linalg.cho_solve((factor, True), identity))

  def check(features: Any, targets: Any, weights: Any = None) -> None:
    rows_of(features, targets, weights)

  return Acu(init, change(1), change(-1), solve, inverse, check)


def acu_logits(head: AcuHead, features: jax.Array) -> jax.Array:
  """Scores [B, C] of features [B, D]; -inf for classes that have no rows.

  Raises:
    ValueError: features of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> learner = continual.acu(2, 2, l2=3.0)
    >>> state = learner.learn(learner.init(), jnp.eye(2)[:1], jnp.eye(2)[:1])
    >>> head = learner.solve(state)  # Of class 1 there are no rows.
    >>> continual.acu_logits(head, jnp.eye(2)).tolist()
    [[0.25, -inf], [0.0, -inf]]
  """
  width = head.kernel.shape[0]
  shaped(f"features [B, {width}]", features)
  scores = jnp.matmul(
    features.astype(head.kernel.dtype),
    head.kernel,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.where(head.class_active[None, :], scores, -jnp.inf)


def acu_ridge(
  learner: Acu, features: jax.Array, targets: jax.Array, weights: jax.Array
) -> AcuHead:
  """The retrained head: ridge regression on the rows that a mask selects.

  Args:
    learner: see `acu`.
    features: [N, D].
    targets: [N, C].
    weights: bool or float [N]; may be mapped over, one head a mask.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> learner, z = continual.acu(2, 2, l2=3.0), jnp.eye(2)
    >>> head = continual.acu_ridge(learner, z, z, jnp.array([True, False]))
    >>> head.kernel.tolist()
    [[0.25, 0.0], [0.0, 0.0]]
  """
  state = learner.learn(learner.init(), features, targets, weights)
  return learner.solve(state)


def _float_sums(
  z: jax.Array, y: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  highest = jax.lax.Precision.HIGHEST
  weighted = z * weight[:, None].astype(z.dtype)
  gram = jnp.matmul(weighted.T, z, precision=highest)
  moment = jnp.matmul(weighted.T, y, precision=highest)
  count = jnp.where(y != 0, weight[:, None].astype(z.dtype), 0).sum(0)
  return gram, moment, count[None, :]


def _is_exact(leaf: Any) -> bool:
  return isinstance(leaf, acu_sums.ExactSum)


def _added(a: AcuState, b: AcuState) -> AcuState:
  plus = lambda x, y: acu_sums.add(x, y) if _is_exact(x) else x + y
  return jax.tree.map(plus, a, b, is_leaf=_is_exact)


def _negated(a: AcuState) -> AcuState:
  minus = lambda x: acu_sums.negative(x) if _is_exact(x) else -x
  return jax.tree.map(minus, a, is_leaf=_is_exact)


def _check_rows(
  z: jax.Array, y: jax.Array, weight: jax.Array, scales: tuple[Any, Any]
) -> None:
  if checks.is_concrete(weight) and weight.size:
    w = np.asarray(weight)
    if not (np.isfinite(w).all() and w.min() >= 0 and w.max() <= 1):
      raise ValueError("Expected weights in [0, 1], got values outside.")
  for name, x, scale in zip(("features", "targets"), (z, y), scales):
    checks.finite(x, name)
    known = checks.is_concrete(x) and checks.is_concrete(scale)
    if scale is not None and known and x.size:
      largest = float(jnp.abs(x).max())
      if largest > scale:
        kind = "scale" if name == "features" else "target_scale"
        raise ValueError(
          f"Expected {name} in [-{kind}, {kind}], {kind}={float(scale)}, got "
          f"one of size {largest}."
        )
