"""Attacks that fit a classifier on scores: logistic regression and the SVC.

`logistic_attack` is the attack of the 2023 unlearning challenge, on the host
with scikit-learn; `logistic_accuracy` is the same attack in JAX, of one feature
by Newton's method, for many models, requests and seeds under `vmap`.
`svc_attack` is SalUn's, feature by feature.

Class: heuristic. Data access: scores or logits of forget rows and of rows never
trained on; `svc_attack` also of retain rows. Cost: num_splits fits of two
numbers, or one SVC for each feature (see `metrics.svc_membership`).

Sources: the NeurIPS 2023 machine unlearning challenge's starting kit; SalUn,
Fan et al. (2023), arXiv:2310.12508.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks import population, roc
from jaxunlearn.core import checks
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import (
  _rows,
  confidence,
  entropy,
  modified_entropy,
  svc_membership,
)

_NUM_HALVINGS = 8  # Of a Newton step that overshoots.


class LogisticAttack(NamedTuple):
  """Accuracy of telling forget rows from others over random splits.

  Attributes:
    accuracy: mean over splits, in [0, 1]; 0.5 where the rows cannot be told
      apart, which is the aim only if both groups come from one distribution.
    std: population standard deviation over splits.
    splits: [num_splits], the accuracy of each.
  """

  accuracy: Any
  std: Any
  splits: Any


def logistic_attack(
  forget_features: Any,
  other_features: Any,
  *,
  num_splits: int = 10,
  test_share: float = 0.1,
  seed: int = 0,
) -> LogisticAttack:
  """The challenge's attack: logistic regression on the loss, on the host.

  Both groups are cut to equal size, `LogisticRegression()` (C = 1) is fitted on
  the training part of each split and scored on its test part.

  Args:
    forget_features: float [N] or [N, F]; the loss, or any score.
    other_features: float [M] or [M, F], of rows never trained on.
    num_splits: of `StratifiedShuffleSplit`.
    test_share: share of the rows in the test part, in (0, 1).
    seed: of the subset and of the splits; the same seed, the same numbers.

  Returns:
    See `LogisticAttack`, float64.

  Raises:
    ValueError: a group with fewer than two rows, features that are nan or
      infinite or of different widths, num_splits < 1, test_share outside
      (0, 1), or so small that no row of a group is in a part.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import attacks
    >>> forget_losses, other_losses = np.full(20, 0.1), np.full(20, 3.0)
    >>> attacks.logistic_attack(forget_losses, other_losses).accuracy
    1.0
  """
  _check_splits(num_splits, test_share)
  groups = []
  for name, features in (
    ("forget_features", forget_features),
    ("other_features", other_features),
  ):
    shaped(f"{name} [...]", features)
    rows = np.asarray(features).astype(np.float64)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
      raise ValueError(f"Expected {name} [N] or [N, F], got {rows.shape}.")
    checks.finite(rows, name)
    groups.append(rows)
  shaped("forget_features [N, F] and other_features [M, F]", *groups)
  count = min(map(len, groups))
  # The split takes its share of both groups together.
  _check_parts(count, math.ceil(test_share * 2 * count) / 2)

  from sklearn.linear_model import LogisticRegression
  from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

  rng = np.random.default_rng(seed)
  groups = [
    rows[np.sort(rng.choice(len(rows), count, replace=False))]
    for rows in groups
  ]
  splits = cross_val_score(
    LogisticRegression(),
    np.concatenate(groups),
    np.repeat([1, 0], count),
    cv=StratifiedShuffleSplit(
      num_splits, test_size=test_share, random_state=seed
    ),
    scoring="accuracy",
  )
  return LogisticAttack(float(splits.mean()), float(splits.std()), splits)


@renamed(chunk_size="batch_size")
def logistic_accuracy(
  key: jax.Array,
  member_scores: jax.Array,
  other_scores: jax.Array,
  member_mask: jax.Array | None = None,
  other_mask: jax.Array | None = None,
  *,
  num_splits: int = 10,
  test_share: Any = 0.1,
  strength: Any = 1.0,
  num_steps: int = 20,
  chunk_size: int = 10,
) -> LogisticAttack:
  """`logistic_attack` on one score a row, pure: jit, and vmap over models.

  Differs from it in the random numbers only: n rows of each group, n the
  smaller count, are drawn anew for each split, ceil(test_share * n) of them for
  the test part.

  Args:
    key: PRNG key; the same key, the same bits.
    member_scores: float [N], of forget rows.
    other_scores: float [M], of rows never trained on.
    member_mask: bool [N], the rows that count.
    other_mask: bool [M].
    num_splits: static.
    test_share: in (0, 1); may be traced.
    strength: C of scikit-learn, > 0; see `fit_logistic`.
    num_steps: static; of `fit_logistic`.
    chunk_size: static; splits at a time, each of about 20 (N + M) numbers.

  Returns:
    See `LogisticAttack`; nan for an empty or a single-row group, or a score
    that is nan (traced).

  Raises:
    ValueError: as `roc.roc_curve`; num_splits < 1, test_share outside (0, 1),
      strength <= 0; concrete groups too small to be split.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget_scores, other_scores = jnp.full(20, -0.1), jnp.full(20, -3.0)
    >>> found = attacks.logistic_accuracy(
    ...   jax.random.key(0), forget_scores, other_scores)
    >>> float(found.accuracy)
    1.0
  """
  _check_splits(num_splits, test_share)
  checks.counts(num_steps=num_steps, chunk_size=chunk_size)
  checks.positive(strength=strength)
  members, others, *weights = roc.groups_of(
    member_scores, other_scores, member_mask, other_mask
  )
  counted = [weight > 0 for weight in weights]
  count = jnp.minimum(*(c.sum() for c in counted))
  num_test = jnp.ceil(test_share * count * (1 - 1e-6))
  if checks.is_concrete(num_test):
    _check_parts(int(count), int(num_test))
  scores = jnp.concatenate([members, others.astype(members.dtype)])
  is_member = jnp.arange(scores.size) < members.size
  unknown = (jnp.isnan(scores) & jnp.concatenate(counted)).any()
  unknown |= (num_test < 1) | (num_test >= count)

  def split(split_key):
    ranks = []
    for row_key, kept in zip(jax.random.split(split_key), counted):
      # A random place among the rows that count; the others come last.
      draw = jnp.where(kept, jax.random.uniform(row_key, kept.shape), 2.0)
      rank = jnp.argsort(jnp.argsort(draw))
      ranks.append(jnp.where(kept, rank, kept.size + count))
    rank = jnp.concatenate(ranks)
    is_test = rank < num_test
    slope, intercept = fit_logistic(
      scores,
      is_member,
      (rank < count) & ~is_test,
      strength=strength,
      num_steps=num_steps,
    )
    right = (slope * scores + intercept > 0) == is_member
    return _rows.weighted_mean(right.astype(jnp.float32), is_test)

  splits = jax.lax.map(
    split,
    jax.random.split(key, num_splits),
    batch_size=min(chunk_size, num_splits),
  )
  splits = jnp.where(unknown, jnp.nan, splits)
  return LogisticAttack(splits.mean(), splits.std(), splits)


def fit_logistic(
  scores: jax.Array,
  is_member: jax.Array,
  weights: jax.Array | None = None,
  *,
  strength: Any = 1.0,
  num_steps: int = 20,
) -> tuple[jax.Array, jax.Array]:
  """Logistic regression of one feature: log-odds = slope * score + intercept.

  Minimises strength * sum of log losses + slope^2 / 2, the objective of
  scikit-learn's `LogisticRegression(C=strength)`; the intercept is free.
  Newton's method with halved steps, on standardised scores.

  Args:
    scores: float [N].
    is_member: bool [N], the class.
    weights: bool or float [N] >= 0, the rows that count; all by default.
    strength: > 0; may be traced.
    num_steps: static; about ten reach float32 accuracy.

  Returns:
    (slope, intercept), float32 []; nan if a counted score is nan or a class has
    no row.

  Raises:
    ValueError: shapes or dtypes do not match, strength <= 0, num_steps < 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> scores = jnp.array([1.0, 2.0, 4.0, 5.0])
    >>> is_member = jnp.array([False, False, True, True])
    >>> slope, intercept = attacks.fit_logistic(scores, is_member)
    >>> round(float(-intercept / slope), 2)
    3.0
  """
  checks.counts(num_steps=num_steps)
  checks.positive(strength=strength)
  scores = _rows.widened(scores, "scores")
  shaped("scores [N] and is_member [N]", scores, is_member)
  is_member = arrays("is_member [...]", is_member)
  checks.hard_request(is_member, "is_member")
  weight = _rows.weights_of(weights, scores)
  total = weight.sum()
  mean = _rows.weighted_mean(scores, weight)
  centred = jnp.where(weight > 0, scores - mean, 0)
  scale = jnp.sqrt(_rows.weighted_mean(centred**2, weight))
  x = centred / jnp.where(scale > 0, scale, 1)
  scale = jnp.where(scale > 0, scale, 1)
  # In units of x; both terms over strength * total, to stay near one.
  ridge = 1 / (strength * total * scale**2)
  share = weight / total
  sign = jnp.where(is_member, 1.0, -1.0)

  def objective(theta):
    losses = jax.nn.softplus(-sign * (theta[0] * x + theta[1]))
    return (share * losses).sum() + ridge * theta[0] ** 2 / 2

  def step(theta, _):
    p = jax.nn.sigmoid(theta[0] * x + theta[1])
    error, curvature = share * (p - is_member), share * p * (1 - p)
    gradient = jnp.stack([(error * x).sum() + ridge * theta[0], error.sum()])
    a = (curvature * x * x).sum() + ridge
    b, c = (curvature * x).sum(), curvature.sum()
    tiny = jnp.finfo(x.dtype).tiny
    determinant = jnp.maximum(a * c - b * b, tiny)
    newton = jnp.stack(
      [
        c * gradient[0] - b * gradient[1],
        a * gradient[1] - b * gradient[0],
      ]
    )
    newton = newton / determinant
    sizes = 0.5 ** jnp.arange(_NUM_HALVINGS)
    tried = theta[None] - sizes[:, None] * newton[None]
    values = jax.vmap(objective)(tried)
    best = jnp.argmin(values)
    # Near the optimum all are equal but for rounding: take the full step.
    flat = values[0] <= values[best] + 4 * jnp.finfo(x.dtype).eps
    return tried[jnp.where(flat, 0, best)], None

  theta, _ = jax.lax.scan(step, jnp.zeros(2, x.dtype), length=num_steps)
  members = jnp.where(is_member, weight, 0).sum()
  unknown = jnp.isnan(mean) | (members <= 0) | (members >= total)
  slope = jnp.where(unknown, jnp.nan, theta[0] / scale)
  return slope, theta[1] - slope * mean


class SvcAttack(NamedTuple):
  """MIA-efficacy for each feature, floats in [0, 1].

  Share of forget rows that the attack calls non-members: high after good
  forgetting, best where the retrained model has it. The "MIA" column of the
  paper is 100 times `confidence`.
  """

  correctness: float
  confidence: float
  entropy: float
  modified_entropy: float
  probability: float


def svc_attack(
  retain: tuple[Any, Any],
  test: tuple[Any, Any],
  forget: tuple[Any, Any],
  *,
  variant: str = "paper",
  balance: bool = True,
  max_rows: int | None = 2000,
  seed: int = 0,
) -> SvcAttack:
  """SalUn's SVC attack: five features of the unlearned model, one SVC each.

  Fits on retain rows (members) against test rows and asks about forget rows;
  see `metrics.svc_membership`, which also balances by a random subset where the
  published code takes the first rows of the retain set.

  Args:
    retain: (logits [M, C], labels [M]) of the model under audit, evaluation
      mode, no augmentation.
    test: the same of rows never trained on.
    forget: the same of forget rows.
    variant: "paper", or "released" for the modified entropy of the published
      code: -sum_k q_k log p_k with q_k = 1 - p_k for every class that occurs
      among the labels of the group, whatever the row's own, else p_k.
    balance: see `metrics.svc_membership`.
    max_rows: see there.
    seed: see there.

  Returns:
    See `SvcAttack`; nan for an empty forget set.

  Raises:
    ValueError: as `metrics.svc_membership` and `metrics.confidence`; an unknown
      variant.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> sure = jnp.tile(jnp.array([[9.0, 0.0]]), (6, 1))
    >>> unsure = jnp.tile(jnp.array([[0.2, 0.0]]), (6, 1))
    >>> labels = jnp.zeros(6, int)
    >>> found = attacks.svc_attack(
    ...   (sure, labels), (unsure, labels), (unsure, labels))
    >>> found.confidence, found.correctness
    (1.0, 0.0)
  """
  checks.one_of(("paper", "released"), variant=variant)
  groups = [
    _svc_features(jnp.asarray(logits), jnp.asarray(labels), variant)
    for logits, labels in (retain, test, forget)
  ]
  return SvcAttack(
    *(
      1.0
      - svc_membership(*features, balance=balance, max_rows=max_rows, seed=seed)
      for features in zip(*groups)
    )
  )


def _svc_features(logits, labels, variant):
  if variant == "paper":
    last = modified_entropy(logits, labels)
  else:
    log_p = jax.nn.log_softmax(_rows.widened(logits, "logits"))
    p = jnp.exp(log_p)
    occurs = jnp.zeros(logits.shape[-1], bool).at[labels].set(True)
    q = jnp.where(occurs[None], 1 - p, p)
    # The code's floor under the logarithm.
    last = -(q * jnp.maximum(log_p, math.log(1e-30))).sum(axis=-1)
  return (
    population.correctness(logits, labels),
    confidence(logits, labels),
    entropy(logits),
    last,
    jax.nn.softmax(_rows.widened(logits, "logits")),
  )


def _check_splits(num_splits: int, test_share: Any) -> None:
  checks.counts(num_splits=num_splits)
  if checks.is_concrete(test_share) and not 0 < float(test_share) < 1:
    raise ValueError(
      f"Expected test_share in (0, 1), got test_share={test_share}."
    )


def _check_parts(count: int, num_test: float) -> None:
  """Both parts of a split of two times `count` rows must hold both groups."""
  if not 1 <= num_test <= count - 1:
    raise ValueError(
      "Expected groups and a test_share that leave rows in both parts, got "
      f"{count} rows in each group, {num_test:g} of them in the test part."
    )
