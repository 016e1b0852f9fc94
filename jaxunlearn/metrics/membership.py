"""Was a row trained on? Signals from logits, and the SVC attack built on them.

The signals are pure and work on any leading axes; a large value speaks for
membership in `confidence` and `logit_confidence`, a small one in `entropy` and
`modified_entropy`. None is good or bad by itself: the aim is that forget rows
have the values that they have under the retrained model.

Sources: modified entropy, Song & Mittal (2020), arXiv:2003.10595;
logit-scaled confidence, Carlini et al. (2021), arXiv:2112.03570; the SVC
attack, Chundawat et al. (2022), arXiv:2205.08096, on the entropy, and SalUn,
Fan et al. (2023), arXiv:2310.12508, on the confidence.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.metrics import _rows


def entropy(logits: jax.Array) -> jax.Array:
  """Entropy of the softmax, -sum_k p_k log p_k, 0 log 0 = 0.

  Low speaks for membership.

  Args:
    logits: float [..., C]; -inf is allowed and means probability 0.

  Returns:
    [...], nats, in [0, log C].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.array([[0.0, 0.0], [9.0, -9.0]])
    >>> print(metrics.entropy(logits).round(3))
    [0.693 0.   ]
  """
  log_p, _ = _log_probs(_rows.widened(logits, "logits"))
  p = jnp.exp(log_p)
  return -jnp.sum(p * jnp.where(p == 0, 0, log_p), axis=-1)


def confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Probability of the label, p_y. High speaks for membership.

  Args:
    logits: float [..., C].
    labels: int [...], in 0 .. C - 1.

  Returns:
    [...], in [0, 1].

  Raises:
    ValueError: shapes do not match; labels are no integers or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.5, 0.5]]))
    >>> print(metrics.confidence(logits, jnp.array([0, 1])).round(3))
    [0.8 0.5]
  """
  logits = _rows.widened(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  return jnp.exp(_rows.at_label(jax.nn.log_softmax(logits), labels))


def modified_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """-(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k).

  An entropy that knows the label: 0 for a sure and right prediction, large for
  a sure and wrong one. Low speaks for membership.

  Args:
    logits: float [..., C].
    labels: int [...], in 0 .. C - 1.

  Returns:
    [...], nats, >= 0, inf where p_y is exactly 0 (a logit of -inf).

  Raises:
    ValueError: shapes do not match; labels are no integers or out of range.

  Source: arXiv:2003.10595. SalUn's released code computes something else under
  this name (all labels' columns at once, and log p for log(1 - p)).

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.array([[9.0, -9.0], [-9.0, 9.0]])
    >>> print(metrics.modified_entropy(logits, jnp.array([0, 0])).round(3))
    [ 0. 36.]
  """
  logits = _rows.widened(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  num_classes = logits.shape[-1]
  log_p, is_top = _log_probs(logits)
  p = jnp.exp(log_p)
  # 1 - p loses its digits only where p > 1/2, which is one class at most: sum
  # the others there.
  others = jax.nn.logsumexp(
    jnp.where(is_top, -jnp.inf, log_p), axis=-1, keepdims=True
  )
  log_rest = jnp.where(is_top, others, jnp.log1p(-jnp.where(is_top, 0, p)))
  is_label = jax.nn.one_hot(labels, num_classes, dtype=bool)
  terms = jnp.where(is_label, jnp.exp(log_rest) * log_p, p * log_rest)
  known = (labels >= 0) & (labels < num_classes)
  # `0 -` rather than a minus sign: a sure prediction has 0, not -0.
  return jnp.where(known, 0 - terms.sum(axis=-1), jnp.nan)


def logit_confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """log p_y - log(1 - p_y), as z_y - logsumexp of the other logits.

  Nearly normal over models, hence the statistic of likelihood-ratio attacks.
  This form is exact however sure the model is. High speaks for membership.

  Args:
    logits: float [..., C], C >= 2.
    labels: int [...], in 0 .. C - 1.

  Returns:
    [...], any real number.

  Raises:
    ValueError: shapes do not match; labels are no integers or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.array([[2.0, -1.0], [2.0, 5.0]])
    >>> metrics.logit_confidence(logits, jnp.array([0, 0])).tolist()
    [3.0, -3.0]
  """
  logits = _rows.widened(logits, "logits")
  labels = _rows.labels_of(labels, logits)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.where(is_label, -jnp.inf, logits)
  return _rows.at_label(logits, labels) - jax.nn.logsumexp(others, axis=-1)


def _log_probs(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """log softmax [..., C] and which class is the largest (one a row, bool).

  The largest probability of a sure prediction rounds to 1, its logarithm to 0;
  summing the others keeps its digits, on which a ranking of rows depends.
  """
  log_p = jax.nn.log_softmax(logits)
  top = jnp.argmax(logits, axis=-1)
  is_top = jax.nn.one_hot(top, logits.shape[-1], dtype=bool)
  rest = jnp.where(is_top, 0, jnp.exp(log_p)).sum(axis=-1, keepdims=True)
  is_sure = rest < 0.5
  log_top = jnp.log1p(-jnp.where(is_sure, rest, 0))
  return jnp.where(is_top & is_sure, log_top, log_p), is_top


def separation_auc(
  positive: jax.Array,
  negative: jax.Array,
  positive_weights: jax.Array | None = None,
  negative_weights: jax.Array | None = None,
) -> jax.Array:
  """The chance that a positive row scores higher than a negative one.

  The area under the ROC curve of the attack that calls a row a member by its
  score (minus its loss, say), ties counted half.

  For unlearning, positive rows are the forget set and negative ones rows of the
  same kind that were never trained on. Nearest to the retrained model's value is
  best; that is 0.5 in expectation.

  Args:
    positive: float [N], scores of the rows that should score high.
    negative: float [M].
    positive_weights: bool or float [N], the rows that count; all by default.
    negative_weights: bool or float [M]; all by default.

  Returns:
    In [0, 1]; nan if one side is empty or a counted score is nan.

  Raises:
    ValueError: shapes do not match; (concrete) a weight that is negative or nan.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> forget, unseen = jnp.array([2.0, 3.0]), jnp.array([1.0, 2.0])
    >>> float(metrics.separation_auc(forget, unseen))
    0.875
  """
  positive, negative = (
    _rows.widened(positive, "positive"),
    _rows.widened(negative, "negative"),
  )
  sides = []
  for name, scores, weights in (
    ("positive", positive, positive_weights),
    ("negative", negative, negative_weights),
  ):
    shaped(f"{name} [N]", scores)
    weights = jnp.ones(scores.shape) if weights is None else weights
    weights = jnp.asarray(weights).astype(jnp.float32)
    _rows.same_shape(scores, weights, name, f"{name}_weights")
    if checks.is_concrete(weights) and not (np.asarray(weights) >= 0).all():
      raise ValueError(
        f"Expected {name}_weights >= 0, got some that are negative or nan."
      )
    sides.append(weights)
  positive_w, negative_w = sides
  order = jnp.argsort(negative)
  # Weight of the negative rows among the first k of the sorted ones.
  below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(negative_w[order])])
  ranks = (
    below[jnp.searchsorted(negative[order], positive, side=side)]
    for side in ("left", "right")
  )
  won = sum(ranks) / 2
  total = positive_w.sum() * negative_w.sum()
  unknown = (jnp.isnan(positive) & (positive_w > 0)).any() | (
    jnp.isnan(negative) & (negative_w > 0)
  ).any()
  area = jnp.where(positive_w > 0, positive_w * won, 0.0).sum()
  area = area / jnp.where(total > 0, total, 1.0)
  return jnp.where(unknown | (total <= 0), jnp.nan, area)


def svc_membership(
  member_features: Any,
  non_member_features: Any,
  forget_features: Any,
  *,
  balance: bool = True,
  max_rows: int | None = 2000,
  seed: int = 0,
) -> float:
  """Share of the forget set that an SVC takes for training rows.

  Fits `SVC(C=3, gamma="auto", kernel="rbf")` on features of rows known to be
  members (retain set) and non-members (test set), all of the model under audit,
  and asks it about the forget set. Runs on the host, with scikit-learn.

  Better: near the retrained model's share (in expectation the share of unseen
  rows of the same kind that the attack takes for members); below it,
  forgetting itself becomes visible. SalUn's MIA-efficacy is one minus this
  share with `confidence` as the feature and equal classes; Bad Teaching's
  attack is this share with `entropy` and `balance=False`. With many more
  members than non-members that one calls nearly everything a member, whatever
  the model: compare methods with the balanced one.

  Args:
    member_features: float [M] or [M, F].
    non_member_features: float [K] or [K, F].
    forget_features: float [R] or [R, F].
    balance: fit on equally many rows of both classes, a random subset of the
      larger; False keeps their proportion.
    max_rows: at most so many rows of a class are fitted on, a random subset of
      more (with `balance=False` of both, in proportion): time and memory grow
      with the square of their number. None is no limit.
    seed: of the random subsets; the same seed, the same share.

  Returns:
    The share, in [0, 1]; nan for an empty forget set.

  Raises:
    ValueError: no member or no non-member rows, features of different widths,
      values that are nan or infinite, max_rows < 1.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import metrics
    >>> members, others = np.array([0.9, 0.95, 1.0]), np.array([0.1, 0.2, 0.3])
    >>> forget = np.array([0.92, 0.97, 0.98, 0.2])
    >>> metrics.svc_membership(members, others, forget)
    0.75
  """
  members = _feature_rows(member_features, "member_features")
  non_members = _feature_rows(non_member_features, "non_member_features")
  forget = _feature_rows(forget_features, "forget_features")
  for name, rows in (("non_member", non_members), ("forget", forget)):
    shaped(f"member_features [N, F] and {name}_features [M, F]", members, rows)
  for name, rows in (("member", members), ("non_member", non_members)):
    if len(rows) == 0:
      raise ValueError(f"Expected {name}_features of some rows, got 0.")
  if max_rows is not None:
    checks.counts(max_rows=max_rows)
  if len(forget) == 0:
    return float("nan")

  from sklearn.svm import SVC

  counts = [len(members), len(non_members)]
  if balance:
    counts = [min(counts)] * 2
  if max_rows is not None and max(counts) > max_rows:
    counts = [max(1, count * max_rows // max(counts)) for count in counts]
  rng = np.random.default_rng(seed)
  members = _subset(members, counts[0], rng)
  non_members = _subset(non_members, counts[1], rng)
  attack = SVC(C=3, gamma="auto", kernel="rbf")
  attack.fit(
    np.concatenate([members, non_members]),
    np.repeat([1, 0], [len(members), len(non_members)]),
  )
  return float(attack.predict(forget).mean())


def _feature_rows(features: Any, name: str) -> np.ndarray:
  """Features as float64 [N, F], a vector as one feature a row."""
  shaped(f"{name} [...]", features)
  rows = np.asarray(features).astype(np.float64)
  if rows.ndim == 1:
    rows = rows[:, None]
  if rows.ndim != 2:
    raise ValueError(f"Expected {name} [N] or [N, F], got shape {rows.shape}.")
  checks.finite(rows, name)
  return rows


def _subset(rows: np.ndarray, count: int, rng: np.random.Generator):
  if count == len(rows):
    return rows
  return rows[np.sort(rng.choice(len(rows), count, replace=False))]
