"""What can be said of one model where none can be trained without the rows.

The rows are held against rows of their kind that no model was trained on, and
what was to be kept against the model as it was. Intervals are bootstrapped over
rows, since there is one model. A model that passes need not be near one trained
without the rows: of that nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
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
  """
  rng = np.random.default_rng(seed)
  traces, damage = (margin, TRACE, TELLTALE), (kept_margin, NOTHING, DAMAGE)
  kept, others = ~forget, np.ones_like(kind) if kind.all() else ~kind

  def check(words, ours, theirs, standard, rest, statistic=_gap, paired=False):
    low, high = _interval(rng, ours, theirs, statistic, paired)
    value = standard + statistic(ours, theirs)
    return Check(words, value, standard, low, high, *rest)

  return [
    check(
      "membership AUC by the loss, against unseen rows of the kind",
      -now.loss[forget],
      -now.unseen_loss[kind],
      0.5,
      traces,
      statistic=_auc_gap,
    ),
    check(
      "accuracy on the rows, against unseen rows of the kind",
      now.right[forget],
      now.unseen_right[kind],
      now.unseen_right[kind].mean(),
      traces,
    ),
    check(
      "accuracy on the rows kept, against the model as it was",
      now.right[kept],
      before.right[kept],
      before.right[kept].mean(),
      damage,
      paired=True,
    ),
    check(
      "accuracy on other unseen rows, against the model as it was",
      now.unseen_right[others],
      before.unseen_right[others],
      before.unseen_right[others].mean(),
      damage,
      paired=True,
    ),
  ]


def _interval(
  rng: np.random.Generator,
  ours: np.ndarray,
  theirs: np.ndarray,
  statistic: Callable[[np.ndarray, np.ndarray], float],
  paired: bool,
) -> tuple[float, float]:
  """95 % by the percentiles of resampled rows."""
  drawn = []
  for _ in range(_RESAMPLES):
    mine = rng.integers(len(ours), size=len(ours))
    yours = mine if paired else rng.integers(len(theirs), size=len(theirs))
    drawn.append(statistic(ours[mine], theirs[yours]))
  low, high = np.quantile(drawn, (0.025, 0.975))
  return float(low), float(high)


def _gap(ours: np.ndarray, theirs: np.ndarray) -> float:
  return float(ours.mean() - theirs.mean())


def _auc_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
  """How often ours is above theirs, ties counted half, less one half."""
  order = np.sort(theirs)
  below = np.searchsorted(order, ours) + np.searchsorted(order, ours, "right")
  return float(below.mean() / (2 * len(theirs))) - 0.5
