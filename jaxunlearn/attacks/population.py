"""Population attacks: one rule for all rows, from the outputs of one model.

`membership_signals` turns logits into scores, HIGH for membership. A score by
itself is an attack for `roc.attack_summary`; here are the rules that also
decide: thresholds fitted on shadow rows (one, or one a class), and the p-value
of a row among a population of non-members. No model is trained.

Class: heuristic; `population_attack` controls its false-positive rate exactly
for rows that are exchangeable with the population. Data access: outputs of the
model under audit, on shadow rows or a population too. Cost: a forward pass and
a sort.

Sources: Song and Mittal (2020), arXiv:2003.10595 (signals and thresholds per
class, as in SalUn's code, arXiv:2310.12508); Ye et al. (2021),
arXiv:2111.09679 (Attack-P); Cheng et al. (2023), arXiv:2302.13406 (the ratio of
GNNDelete).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks import roc
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.metrics import (
  _rows,
  confidence,
  entropy,
  logit_confidence,
  modified_entropy,
)


class MembershipSignals(NamedTuple):
  """Scores of rows, float [...], each signed so that high means member.

  Attributes:
    negative_loss: log p_y, in (-inf, 0].
    confidence: p_y, in [0, 1].
    negative_entropy: in [-log C, 0]; needs no label.
    negative_modified_entropy: in (-inf, 0].
    logit_confidence: log p_y - log(1 - p_y), exact for sure predictions.
    margin: z_y minus the largest other logit.
    correctness: 1 where the prediction is the label, else 0.
  """

  negative_loss: jax.Array
  confidence: jax.Array
  negative_entropy: jax.Array
  negative_modified_entropy: jax.Array
  logit_confidence: jax.Array
  margin: jax.Array
  correctness: jax.Array


def membership_signals(
  logits: jax.Array, labels: jax.Array
) -> MembershipSignals:
  """All signals of the population attacks; unused ones cost nothing under jit.

  Args:
    logits: float [..., C], C >= 2.
    labels: int [...], in 0 .. C - 1.

  Returns:
    See `MembershipSignals`; at least float32. A constant added to the logits of
    a row changes nothing.

  Raises:
    ValueError: shapes do not match; labels are no integers or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    >>> found = attacks.membership_signals(logits, jnp.array([0, 1]))
    >>> found.margin.tolist(), found.correctness.tolist()
    ([1.0, -2.0], [1.0, 0.0])
  """
  # A common shift would cost digits in float32.
  logits = _rows.widened(logits, "logits")
  top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  logits = logits - jnp.where(jnp.isfinite(top), top, 0)
  return MembershipSignals(
    -cross_entropy(logits, labels),
    confidence(logits, labels),
    -entropy(logits),
    -modified_entropy(logits, labels),
    logit_confidence(logits, labels),
    margin(logits, labels),
    correctness(logits, labels),
  )


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """z_y - max of the other logits (the hinge). High speaks for membership.

  Args:
    logits: float [..., C], C >= 2.
    labels: int [...], in 0 .. C - 1.

  Returns:
    [...], any real number; positive where the prediction is right.

  Raises:
    ValueError: shapes do not match; labels are no integers or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    >>> attacks.margin(logits, jnp.array([0, 1])).tolist()
    [1.0, -2.0]
  """
  logits = _rows.widened(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(is_label, -jnp.inf, logits).max(axis=-1)
  return _rows.at_label(logits, labels) - others


def correctness(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """1.0 where the largest logit is the label's, else 0.0; see `margin`.

  nan where a logit is nan or +inf.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    >>> attacks.correctness(logits, jnp.array([0, 1])).tolist()
    [1.0, 0.0]
  """
  logits = arrays("logits [...]", logits)
  return _rows.is_right(logits, _rows.labels_of(labels, logits))


def fit_thresholds(
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_labels: jax.Array | None = None,
  other_labels: jax.Array | None = None,
  *,
  num_classes: int = 1,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
) -> jax.Array:
  """The threshold of best balanced accuracy, of all rows or for each class.

  t_c = argmax over observed scores t of (P[member >= t] + P[other < t]) / 2,
  the first such score in the order members, then others, as in the published
  code. A sort by class and score: O((N + M) log(N + M)) however many classes.

  Args:
    member_scores: float [N], of shadow rows (known members).
    other_scores: float [M], of known non-members.
    member_labels: int [N], in 0 .. num_classes - 1; None for one threshold.
    other_labels: int [M].
    num_classes: static; C.
    member_mask: bool [N], the rows that count.
    other_mask: bool [M].

  Returns:
    float [C]. A class without rows of both kinds has the threshold of all
    classes together (the published code has 0, whatever the score). nan where
    a counted score is nan or a group empty (traced).

  Raises:
    ValueError: as `roc.roc_curve`; labels of one group only, of another shape, or out
      of range; num_classes < 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> members, others = jnp.array([3.0, 5.0]), jnp.array([1.0, 2.0])
    >>> attacks.fit_thresholds(members, others).tolist()
    [3.0]
  """
  checks.counts(num_classes=num_classes)
  members, others, *weights = roc.groups_of(
    member_scores, other_scores, member_mask, other_mask
  )
  if (member_labels is None) != (other_labels is None):
    raise ValueError(
      "Expected labels of both groups or of none, got those of one."
    )
  labels = jnp.concatenate(
    [
      _labels(member_labels, members, num_classes, "member_labels"),
      _labels(other_labels, others, num_classes, "other_labels"),
    ]
  )
  pooled = jnp.concatenate([members, others.astype(members.dtype)])
  counted = jnp.concatenate(weights) > 0
  unknown = (counted & jnp.isnan(pooled)).any()
  pooled = jnp.where(counted & ~jnp.isnan(pooled), pooled, -jnp.inf)
  is_member = jnp.arange(pooled.size) < members.size
  thresholds = _best_in_class(pooled, is_member, counted, labels, num_classes)
  if num_classes > 1:
    of_all = _best_in_class(pooled, is_member, counted, 0 * labels, 1)
    thresholds = jnp.where(jnp.isnan(thresholds), of_all, thresholds)
  return jnp.where(unknown, jnp.nan, thresholds)


def _best_in_class(pooled, is_member, counted, labels, num_classes):
  """Thresholds [C], nan for a class without rows of both kinds."""
  per_class = lambda x: jax.ops.segment_sum(
    (x & counted).astype(jnp.int32), labels, num_classes
  )
  num_members, num_others = per_class(is_member), per_class(~is_member)
  # Rows of a class are neighbours, the highest first.
  order = jnp.lexsort((-pooled, labels))
  score, label = pooled[order], labels[order]
  is_last = (score[1:] != score[:-1]) | (label[1:] != label[:-1])
  end = jnp.where(
    jnp.append(is_last, True), jnp.arange(pooled.size), pooled.size
  )
  end = jax.lax.cummin(end, reverse=True)

  def at_least(kind, totals):
    """How many of a kind in the row's class score at least what it does."""
    run = jnp.cumsum((kind & counted)[order].astype(jnp.int32))[end]
    before = jnp.cumsum(totals) - totals
    return (run - before[label]).astype(jnp.float32)

  found = at_least(is_member, num_members) * num_others[label]
  wrong = at_least(~is_member, num_others) * num_members[label]
  gain = jnp.where(counted[order], found - wrong, -jnp.inf)
  best = jax.ops.segment_max(gain, label, num_classes)
  place = jnp.where(gain == best[label], order, pooled.size)
  first = jax.ops.segment_min(place, label, num_classes)
  chosen = pooled[jnp.minimum(first, pooled.size - 1)]
  return jnp.where((num_members > 0) & (num_others > 0), chosen, jnp.nan)


class ThresholdAttack(NamedTuple):
  """How well fitted thresholds do on other rows, floats in [0, 1].

  Attributes:
    member_accuracy: share of members called members; nan without members.
    other_accuracy: share of non-members called non-members.
    accuracy: the mean of both, 0.5 for an attack that knows nothing.
  """

  member_accuracy: jax.Array
  other_accuracy: jax.Array
  accuracy: jax.Array


def threshold_attack(
  thresholds: jax.Array,
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_labels: jax.Array | None = None,
  other_labels: jax.Array | None = None,
  *,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
) -> ThresholdAttack:
  """Calls a row of the target a member if score >= threshold of its class.

  Args:
    thresholds: float [C], of `fit_thresholds`.
    member_scores: float [N], of the target's members or forget rows.
    other_scores: float [M].
    member_labels: int [N]; None where there is one threshold.
    other_labels: int [M].
    member_mask: bool [N], the rows that count.
    other_mask: bool [M].

  Returns:
    See `ThresholdAttack`.

  Raises:
    ValueError: as `fit_thresholds`; several thresholds without labels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget, unseen = jnp.array([4.0, 2.0]), jnp.array([1.0, 2.0])
    >>> found = attacks.threshold_attack(jnp.array([3.0]), forget, unseen)
    >>> float(found.member_accuracy), float(found.accuracy)
    (0.5, 0.75)
  """
  members, others, *weights = roc.groups_of(
    member_scores, other_scores, member_mask, other_mask
  )
  shares = []
  for scores, labels, weight, name in (
    (members, member_labels, weights[0], "member_labels"),
    (others, other_labels, weights[1], "other_labels"),
  ):
    labels = _labels(labels, scores, thresholds.shape[0], name)
    called = (scores >= thresholds[labels]).astype(jnp.float32)
    unknown = jnp.isnan(scores) | jnp.isnan(thresholds[labels])
    right = called if name == "member_labels" else 1 - called
    right = jnp.where(unknown, jnp.nan, right)
    shares.append(_rows.weighted_mean(right, weight))
  return ThresholdAttack(shares[0], shares[1], (shares[0] + shares[1]) / 2)


class PopulationAttack(NamedTuple):
  """Rows [N] among a population of non-members.

  Attributes:
    score: float, share of the population with a lower score; high = member.
    p_value: float in (0, 1], (1 + how many score at least as high) / (Z + 1).
    is_member: bool, p_value <= fpr.
  """

  score: jax.Array
  p_value: jax.Array
  is_member: jax.Array


def population_attack(
  scores: jax.Array,
  population_scores: jax.Array,
  population_mask: jax.Array | None = None,
  *,
  fpr: Any = 0.05,
) -> PopulationAttack:
  """Attack-P: how a row ranks among rows that are known to be no members.

  Difference from the source: it compares with an empirical quantile, whose
  false-positive rate is `fpr` for a large population only; the p-value here
  counts the row itself and keeps the rate at most `fpr` for any.

  Args:
    scores: float [N], minus the loss in the source.
    population_scores: float [Z].
    population_mask: bool [Z], the rows that count.
    fpr: limit; may be traced.

  Returns:
    See `PopulationAttack`; nan, and False, for a score that is nan, and for all
    where the population is empty or a counted score of it nan (traced).

  Raises:
    ValueError: as `roc.roc_curve`; fpr outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> population = jnp.arange(19.0)
    >>> found = attacks.population_attack(jnp.array([9.0, 99.0]), population)
    >>> [round(p, 2) for p in found.p_value.tolist()], found.is_member.tolist()
    ([0.55, 0.05], [False, True])
  """
  checks.fraction(fpr=fpr)
  scores, population, _, weights = roc.groups_of(
    scores, population_scores, None, population_mask
  )
  order = jnp.argsort(population)
  below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(weights[order])])
  lower = below[jnp.searchsorted(population[order], scores, side="left")]
  total = below[-1]
  unknown = jnp.isnan(scores) | (total <= 0)
  unknown |= (jnp.isnan(population) & (weights > 0)).any()
  share = jnp.where(unknown, jnp.nan, lower / total)
  p_value = jnp.where(unknown, jnp.nan, (1 + total - lower) / (total + 1))
  # 1 / 20 <= 0.05 must hold in float32 too.
  return PopulationAttack(share, p_value, p_value <= fpr * (1 + 1e-6))


class MembershipRatio(NamedTuple):
  """Presence of deleted rows before and after unlearning, floats [].

  Attributes:
    before_over_after: mean of P_before / P_after; > 1 is forgotten, as in the
      tables of the source.
    after_over_before: mean of P_after / P_before; < 1 is forgotten, what the
      published code logs. Not one over the other: both are means of ratios.
    absent_after: share of rows with P_after < 0.5.
  """

  before_over_after: jax.Array
  after_over_before: jax.Array
  absent_after: jax.Array


def membership_ratio(
  before: jax.Array,
  after: jax.Array,
  mask: jax.Array | None = None,
  *,
  floor: Any = 1e-6,
) -> MembershipRatio:
  """Membership-inference ratio of GNNDelete, for edges or any rows.

  Args:
    before: float [E], an attack's probability of presence under the original
      model, in [0, 1].
    after: float [E], under the unlearned one.
    mask: bool [E], the deleted rows, or weights; all by default.
    floor: a probability in a denominator is at least this, so that one row of
      probability 0 does not make the mean infinite. May be traced.

  Returns:
    See `MembershipRatio`; nan for an empty mask or (traced) a counted nan. The retrained model, in the
    place of `after`, has the value to aim at.

  Raises:
    ValueError: shapes do not match; a counted value outside [0, 1]; floor <= 0.

  Source: arXiv:2302.13406.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> before, after = jnp.array([1.0, 0.8]), jnp.array([0.5, 0.2])
    >>> found = attacks.membership_ratio(before, after)
    >>> round(float(found.before_over_after), 3), float(found.absent_after)
    (3.0, 0.5)
  """
  checks.positive(floor=floor)
  given = {"before": before, "after": after}
  before, after = _rows.widened(before, "before"), _rows.widened(after, "after")
  _rows.same_shape(before, after, "before", "after")
  weights = _rows.weights_of(mask, before)
  for name, values in given.items():
    if checks.is_concrete(values) and checks.is_concrete(mask):
      seen = np.asarray(values)
      counted = True if mask is None else np.asarray(mask) > 0
      if (~((seen >= 0) & (seen <= 1)) & counted).any():
        raise ValueError(f"Expected {name} in [0, 1], got values outside.")
  mean = lambda values: _rows.weighted_mean(values, weights)
  return MembershipRatio(
    mean(before / jnp.maximum(after, floor)),
    mean(after / jnp.maximum(before, floor)),
    mean(jnp.where(jnp.isnan(after), jnp.nan, after < 0.5)),
  )


def _labels(labels, like, num_classes, name):
  """Labels int32 of the shape of `like`; None is class 0 of one."""
  if labels is None:
    if num_classes != 1:
      raise ValueError(f"Expected {name} for {num_classes} classes, got None.")
    return jnp.zeros(like.shape, jnp.int32)
  labels = arrays(f"{name} {list(like.shape)}", labels)
  checks.labels(labels, num_classes, name)
  return labels.astype(jnp.int32)
