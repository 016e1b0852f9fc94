"""What can be said of one model where none can be trained without the rows.

The rows are held against rows of their kind that no model was trained on, and
what was to be kept against the model as it was. Intervals are over rows, since
there is one model. A model that passes need not be near one trained without the
rows: of that nothing is known.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from jaxunlearn.report.verdict import (
  DAMAGE,
  NOTHING,
  TELLTALE,
  TRACE,
  Check,
)

_RESAMPLES = 1000
_Z = 1.959964
# With fewer rows on a side no interval is worth its name.
MIN_ROWS = 10


class Answers(NamedTuple):
  """What a model says of each row; of N training and M unseen ones.

  Attributes:
    right: float [N], 1 where it is.
    loss: float [N].
    unseen_right: float [M].
    unseen_loss: float [M].
  """

  right: np.ndarray
  loss: np.ndarray
  unseen_right: np.ndarray
  unseen_loss: np.ndarray


def checks_by_unseen(
  now: Answers,
  before: Answers,
  forget: np.ndarray,
  kind: np.ndarray,
  *,
  margin: float = 0.05,
  kept_margin: float = 0.02,
  seed: int = 0,
) -> list[Check]:
  """Checks of a model without a retrained one.

  Args:
    now: of the model that was made to forget.
    before: of the same model as it was.
    forget: bool [N], the rows.
    kind: bool [M], the unseen rows that are like them; all, unless the request
      was for a whole class. The others are of what was to be kept.
    margin: of the two tests for traces.
    kept_margin: of the two tests for damage.
    seed: of the bootstrap.

  Returns:
    Two checks of the rows against unseen ones (how well the loss tells them
    apart, and accuracy), two of what was kept against before.

  Raises:
    ValueError: masks that are not bool, or of another length than the answers.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn.report import unseen
    >>> forget, kind = np.arange(90) < 30, np.ones(40, bool)
    >>> says = lambda right: unseen.Answers(
    ...   right, 1 - right, np.ones(40), np.zeros(40))
    >>> before, now = says(np.ones(90)), says(np.where(forget, 0.0, 1.0))
    >>> checks = unseen.checks_by_unseen(now, before, forget, kind)
    >>> [(check.finding, round(check.value, 2)) for check in checks]
    [('telltale', 0.0), ('telltale', 0.0), ('', 1.0), ('', 1.0)]
  """
  for name, mask, answers in (
    *(("forget", forget, of.right) for of in (now, before)),
    *(("kind", kind, of.unseen_right) for of in (now, before)),
  ):
    # Numbers would be read as places of rows.
    if mask.dtype != bool or mask.shape != answers.shape:
      raise ValueError(
        f"Expected {name} bool {answers.shape}, got {mask.dtype} {mask.shape}."
      )
  rng = np.random.default_rng(seed)
  traces, damage = (margin, TRACE, TELLTALE), (kept_margin, NOTHING, DAMAGE)
  kept, others = ~forget, np.ones_like(kind) if kind.all() else ~kind

  def check(words, test, ours, theirs, rest):
    value, standard, low, high = test(ours, theirs)
    if min(len(ours), len(theirs)) < MIN_ROWS:
      low, high = -math.inf, math.inf
    return Check(words, value, standard, low, high, *rest)

  return [
    check(
      "membership AUC by the loss, against unseen rows of the kind",
      functools.partial(_auc, rng),
      -now.loss[forget],
      -now.unseen_loss[kind],
      traces,
    ),
    check(
      "accuracy on the rows, against unseen rows of the kind",
      _shares,
      now.right[forget],
      now.unseen_right[kind],
      traces,
    ),
    check(
      "accuracy on the rows kept, against the model as it was",
      _paired,
      now.right[kept],
      before.right[kept],
      damage,
    ),
    check(
      "accuracy on other unseen rows, against the model as it was",
      _paired,
      now.unseen_right[others],
      before.unseen_right[others],
      damage,
    ),
  ]


def doubts_by_unseen(forget: np.ndarray, kind: np.ndarray) -> list[str]:
  """Why the tests for traces can decide nothing; see `checks_by_unseen`.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn.report import unseen
    >>> forget, kind = np.arange(90) < 3, np.ones(40, bool)
    >>> unseen.doubts_by_unseen(forget, kind)
    ['Rows of the request: 3; fewer than 10 show nothing.']
  """
  sides = {"the request": forget, "its kind that are unseen": kind}
  return [
    f"Rows of {name}: {int(rows.sum())}; fewer than {MIN_ROWS} show nothing."
    for name, rows in sides.items()
    if rows.sum() < MIN_ROWS
  ]


_Found = tuple[float, float, float, float]  # Value, standard, low, high.


def _shares(ours: np.ndarray, theirs: np.ndarray) -> _Found:
  """Two shares, and Newcombe's interval (1998, method 10) for their difference.

  Unlike one of resampled rows it has a width where all are right.
  """
  p, q = float(ours.mean()), float(theirs.mean())
  return p, q, *_newcombe((p, len(ours)), (q, len(theirs)), 0)


def _paired(ours: np.ndarray, theirs: np.ndarray) -> _Found:
  """The same of the same rows, by the shares that were gained and lost."""
  gained, lost = (
    float(np.maximum(change, 0).mean())
    for change in (ours - theirs, theirs - ours)
  )
  # Two parts of one whole.
  rest = (1 - gained) * (1 - lost)
  correlation = -math.sqrt(gained * lost / rest) if rest > 0 else 0
  ends = _newcombe((gained, len(ours)), (lost, len(ours)), correlation)
  return float(ours.mean()), float(theirs.mean()), *ends


def _newcombe(
  first: tuple[float, int], second: tuple[float, int], correlation: float
) -> tuple[float, float]:
  """Two shares, each with its count, by the Wilson intervals of both."""
  (low, high), (other_low, other_high) = _wilson(*first), _wilson(*second)
  p, q = first[0], second[0]
  reach = lambda x, y: math.sqrt(
    max(x * x - 2 * correlation * x * y + y * y, 0)
  )
  gap = float(p - q)
  return (
    gap - reach(p - low, other_high - q),
    gap + reach(high - p, q - other_low),
  )


def _wilson(share: float, count: int) -> tuple[float, float]:
  scale = 1 + _Z**2 / count
  middle = (share + _Z**2 / (2 * count)) / scale
  spread = share * (1 - share) / count + _Z**2 / (4 * count**2)
  half = _Z * math.sqrt(spread) / scale
  return middle - half, middle + half


def _auc(
  rng: np.random.Generator, ours: np.ndarray, theirs: np.ndarray
) -> _Found:
  """The AUC, and at each end the wider of two intervals for it less one half.

  The percentiles of resampled rows, and Hanley and McNeil's (1982) standard error,
  which does not vanish where few rows are alike by chance.
  """
  drawn = [
    _auc_gap(rng.choice(ours, len(ours)), rng.choice(theirs, len(theirs)))
    for _ in range(_RESAMPLES)
  ]
  low, high = np.quantile(drawn, (0.025, 0.975))
  gap = _auc_gap(ours, theirs)
  auc, n, m = gap + 0.5, len(ours), len(theirs)
  spread = auc * (1 - auc)
  spread += (n - 1) * (auc / (2 - auc) - auc**2)
  spread += (m - 1) * (2 * auc**2 / (1 + auc) - auc**2)
  half = _Z * math.sqrt(max(spread, 0) / (n * m))
  return auc, 0.5, float(min(low, gap - half)), float(max(high, gap + half))


def _auc_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
  """How often ours is above theirs, ties counted half, less one half."""
  order = np.sort(theirs)
  below = np.searchsorted(order, ours) + np.searchsorted(order, ours, "right")
  return float(below.mean() / (2 * len(theirs))) - 0.5
