"""ROC curves of membership scores.

Shared by all attacks: a score is one number a row and HIGH speaks for
membership. Members and non-members are two score arrays with optional masks,
so that no shape depends on a request and everything runs under `jit` and
`vmap` over models, requests and seeds. Where a mask is taken, non-negative
weights are too: a resample of rows is the same scores under their counts, so
that a bootstrap sorts once and not once a replicate.

For unlearning members are forget rows, non-members rows of the same kind that
were never trained on. Every number is best where the retrained model has it,
not where it is smallest.

Class: exact statistics of the scores given; no data access, no randomness.
Cost: a sort of the N + M scores, O((N + M) log(N + M)). `kind="hull"` is
computed on the host (SciPy).

Source: TPR at low FPR, Carlini et al. (2021), arXiv:2112.03570. The step curve
is sound: each of its points is a threshold that can be used. The convex hull is
what randomised tests reach.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows, separation_auc

# Shares are compared with counts: 0.1 * 10 may be a hair under 1.
_SLACK = 1 + 4 * float(np.finfo(np.float32).eps)


class Roc(NamedTuple):
  """A curve of K = N + M + 1 points from (0, 0) to (1, 1).

  Attributes:
    fpr: float [K], share of non-members with score >= threshold; ascending.
    tpr: float [K], share of members with score >= threshold; ascending.
    threshold: float [K], descending from inf, where nobody is called a member.
      Equal scores, and rows that do not count, repeat a point.
  """

  fpr: jax.Array
  tpr: jax.Array
  threshold: jax.Array


class AttackSummary(NamedTuple):
  """The usual numbers of an attack, each float [].

  Attributes:
    auc: area under the curve, ties half; 0.5 tells nothing.
    balanced_accuracy: of the best threshold, in [0.5, 1].
    tpr_at_1_percent_fpr: see `tpr_at_fpr`; nan below 100 non-members.
    tpr_at_01_percent_fpr: at 0.1 %; nan below 1,000 non-members.
  """

  auc: jax.Array
  balanced_accuracy: jax.Array
  tpr_at_1_percent_fpr: jax.Array
  tpr_at_01_percent_fpr: jax.Array


def roc_curve(
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
  *,
  kind: str = "step",
) -> Roc:
  """The curve of the attack "a member if score >= threshold".

  Args:
    member_scores: float [N].
    other_scores: float [M], of non-members.
    member_mask: bool [N], the rows that count, or float weights >= 0, such as
      counts of a resample; all rows by default.
    other_mask: the same [M].
    kind: "step", or "hull" for the upper convex hull at the same `fpr`, which
      is computed on the host and cannot be traced.

  Returns:
    See `Roc`. Traced, nan everywhere for an empty group or a nan that counts.

  Raises:
    ValueError: shapes or dtypes do not match; where values can be looked at, a
      group is empty, a counted score is nan, a weight is negative, or, with one
      array for both scores, a row counts on both sides; kind="hull" under jit.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget, unseen = jnp.array([3.0, 1.0]), jnp.array([2.0, 0.0])
    >>> curve = attacks.roc_curve(forget, unseen)
    >>> curve.fpr.tolist(), curve.tpr.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
  """
  checks.one_of(("step", "hull"), kind=kind)
  counts = _curve(member_scores, other_scores, member_mask, other_mask)
  false_positive, true_positive, threshold, others, members = counts
  fpr, tpr = false_positive / others, true_positive / members
  if kind == "hull":
    if not checks.is_concrete(tpr):
      raise ValueError(
        'Expected concrete scores for kind="hull", got traced ones.'
      )
    tpr = jnp.asarray(_hull(np.asarray(fpr), np.asarray(tpr)), tpr.dtype)
  return Roc(fpr, tpr, threshold)


def tpr_at_fpr(
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
  *,
  fpr: Any,
) -> jax.Array:
  """Share of members found at a false-positive rate of at most `fpr`.

  Of the smallest threshold whose empirical FPR is <= fpr; nothing is
  interpolated.

  Args:
    member_scores, other_scores, member_mask, other_mask: see `roc`.
    fpr: float, any shape, in [0, 1]; may be traced.

  Returns:
    Of the shape of `fpr`, in [0, 1]; nan where there are fewer than 1 / fpr
    non-members, so that no rate between 0 and fpr can be told, and where `roc`
    is nan.

  Raises:
    ValueError: as `roc`; fpr outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget, unseen = jnp.array([3.0, 1.5, 0.5]), jnp.arange(4.0)
    >>> round(float(attacks.tpr_at_fpr(forget, unseen, fpr=0.5)), 3)
    0.667
  """
  if checks.is_concrete(fpr) and not np.all(
    (np.asarray(fpr) >= 0) & (np.asarray(fpr) <= 1)
  ):
    raise ValueError(f"Expected fpr in [0, 1], got fpr={fpr}.")
  counts = _curve(member_scores, other_scores, member_mask, other_mask)
  return _tpr_at(counts, fpr)


def auc(
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
) -> jax.Array:
  """Area under the step curve: `metrics.separation_auc`, checked as `roc` is.

  Returns:
    float [], in [0, 1].

  Raises:
    ValueError: as `roc`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget, unseen = jnp.array([3.0, 1.0]), jnp.array([2.0, 0.0])
    >>> float(attacks.auc(forget, unseen))
    0.75
  """
  groups = groups_of(member_scores, other_scores, member_mask, other_mask)
  return separation_auc(*groups)


def balanced_accuracy(
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
) -> jax.Array:
  """max over thresholds of (TPR + 1 - FPR) / 2.

  The threshold is chosen on these very rows: the number is optimistic for few
  of them. `population.fit_thresholds` fits on other ones.

  Returns:
    float [], in [0.5, 1].

  Raises:
    ValueError: as `roc`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget, unseen = jnp.array([3.0, 1.0]), jnp.array([2.0, 0.0])
    >>> float(attacks.balanced_accuracy(forget, unseen))
    0.75
  """
  counts = _curve(member_scores, other_scores, member_mask, other_mask)
  return _best_accuracy(counts)


def attack_summary(
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
) -> AttackSummary:
  """AUC, balanced accuracy, and TPR at 1 % and 0.1 % FPR of two groups.

  Args:
    member_scores, other_scores, member_mask, other_mask: see `roc`.

  Returns:
    See `AttackSummary`.

  Raises:
    ValueError: as `roc`.

  Example:
    >>> float(attack_summary(jnp.array([2.0, 3.0]), jnp.array([1.0, 2.0])).auc)
    0.875
  """
  groups = groups_of(member_scores, other_scores, member_mask, other_mask)
  counts = _counted(*groups)
  low = _tpr_at(counts, jnp.array([0.01, 0.001]))
  area = separation_auc(*groups)
  return AttackSummary(area, _best_accuracy(counts), low[0], low[1])


def check_groups(members: Any, others: Any) -> None:
  """Refuses rows that stand on both sides.

  Args:
    members: ids of rows, any dtype, any shape; or a bool mask over rows.
    others: ids, or a mask over the same rows.

  Raises:
    ValueError: a row is in both; an empty side; a mask beside ids, or beside a
      mask of another length.

  Example:
    >>> from jaxunlearn import attacks
    >>> attacks.check_groups([3, 5], [4, 5])
    Traceback (most recent call last):
      ...
    ValueError: Expected no row to be in both groups, got 1.
  """
  members, others = np.asarray(members), np.asarray(others)
  if (members.dtype == bool) != (others.dtype == bool) or (
    members.dtype == bool and members.shape != others.shape
  ):
    raise ValueError(
      "Expected members and others to be ids, or masks of one shape, got "
      f"{members.dtype} {members.shape} and {others.dtype} {others.shape}."
    )
  if members.dtype == bool:
    members, others = np.flatnonzero(members), np.flatnonzero(others)
  for name, ids in (("members", members), ("others", others)):
    if ids.size == 0:
      raise ValueError(f"Expected {name} to hold rows, got 0.")
  both = np.intersect1d(members, others).size
  if both:
    raise ValueError(f"Expected no row to be in both groups, got {both}.")


def groups_of(member_scores, other_scores, member_mask, other_mask):
  """Both groups in at least float32, with float32 weights; see `roc`."""
  if member_scores is other_scores and not (
    member_mask is None or other_mask is None
  ):
    _check_disjoint(member_mask, other_mask)
  scores, weights = [], []
  for name, values, mask in (
    ("member", member_scores, member_mask),
    ("other", other_scores, other_mask),
  ):
    given, mask_given = values, mask
    shaped(f"{name}_scores [N]", values)
    values = _rows.widened(values, "values")
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask)
    shaped(f"{name}_scores [N] and {name}_mask [N]", values, mask)
    if mask.dtype != jnp.bool_ and not jnp.issubdtype(mask.dtype, jnp.floating):
      raise ValueError(f"Expected {name}_mask bool or float, got {mask.dtype}.")
    _look(name, given, mask_given)
    scores.append(values)
    weights.append(mask.astype(jnp.float32))
  return *scores, *weights


def _check_disjoint(member_mask, other_mask):
  """Of one array of scores no row is on both sides."""
  if not (checks.is_concrete(member_mask) and checks.is_concrete(other_mask)):
    return
  if np.shape(member_mask) == np.shape(other_mask):
    both = (np.asarray(member_mask) > 0) & (np.asarray(other_mask) > 0)
    if both.any():
      raise ValueError(
        "Expected no row to be in both member_mask and other_mask, got "
        f"{int(both.sum())}."
      )


def _look(name, scores, mask):
  """Refuses what can be seen to be wrong, also when `jit` closes over it."""
  if not checks.is_concrete(mask):
    return
  mask = np.ones(np.shape(scores), bool) if mask is None else np.asarray(mask)
  if (mask < 0).any():
    raise ValueError(f"Expected {name}_mask >= 0, got a negative weight.")
  if not (mask > 0).any():
    raise ValueError(f"Expected {name}_scores of some rows, got 0.")
  if checks.is_concrete(scores):
    bad = int((np.isnan(np.asarray(scores)) & (mask > 0)).sum())
    if bad:
      raise ValueError(f"Expected {name}_scores, got {bad} that are nan.")


def _curve(member_scores, other_scores, member_mask, other_mask):
  return _counted(
    *groups_of(member_scores, other_scores, member_mask, other_mask)
  )


def _counted(members, others, member_weights, other_weights):
  """False and true positives of K thresholds, and the groups' totals.

  The order does not depend on the weights: under `vmap` over weights the sort
  stays one.
  """
  pooled = jnp.concatenate([members, others.astype(members.dtype)])
  weights = jnp.concatenate([member_weights, other_weights])
  unknown = (jnp.isnan(pooled) & (weights > 0)).any()
  pooled = jnp.where(jnp.isnan(pooled), -jnp.inf, pooled)
  order = jnp.argsort(pooled, descending=True)
  threshold = pooled[order]
  is_last = jnp.append(threshold[1:] != threshold[:-1], True)

  def cumulated(kept):
    count = jnp.cumsum(jnp.where(kept, weights[order], 0))
    # A tie is one step: each of its rows has the count of its last one.
    count = jax.lax.cummin(jnp.where(is_last, count, jnp.inf), reverse=True)
    return jnp.concatenate([jnp.zeros(1), count])

  is_member = order < members.size
  true_positive, false_positive = cumulated(is_member), cumulated(~is_member)
  totals = [
    jnp.where(unknown | (count[-1] <= 0), jnp.nan, count[-1])
    for count in (false_positive, true_positive)
  ]
  threshold = jnp.concatenate([jnp.full(1, jnp.inf, pooled.dtype), threshold])
  return false_positive, true_positive, threshold, *totals


def _tpr_at(counts, fpr):
  false_positive, true_positive, _, others, members = counts
  allowed = jnp.asarray(fpr, jnp.float32) * others * _SLACK
  last = jnp.searchsorted(false_positive, allowed, side="right") - 1
  # `>=` is False for the nan of an unknown total.
  return jnp.where(allowed >= 1, true_positive[last] / members, jnp.nan)


def _best_accuracy(counts):
  false_positive, true_positive, _, others, members = counts
  best = (true_positive / members - false_positive / others).max()
  return (best + 1) / 2


def _hull(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
  """The upper convex hull of the points, at their own `fpr`."""
  if np.isnan(tpr).any():
    return tpr
  from scipy.optimize import isotonic_regression

  # Of the points of one fpr only the highest can lie on the hull, and the
  # slopes of a concave majorant are the slopes between points made monotone.
  top = np.append(fpr[1:] != fpr[:-1], True)
  x, y = fpr[top].astype(np.float64), tpr[top].astype(np.float64)
  run = np.diff(x)
  if run.size == 0:
    return tpr
  slopes = isotonic_regression(np.diff(y) / run, weights=run, increasing=False)
  hull = np.interp(fpr, x, y[0] + np.append(0, np.cumsum(slopes.x * run)))
  return np.where(fpr > 0, np.clip(hull, tpr, 1), tpr)
