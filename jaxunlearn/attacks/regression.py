"""Membership inference from the errors of a regression model.

Source: Deep Regression Unlearning, arXiv:2210.08196: a support vector machine on
one number a row, the absolute error.
Class: heuristic. Data access: errors of training rows, of test rows and of
forget rows. Cost: one SVC of at most 2 * max_rows numbers.

The forget set of a request by range of the target is unlike the test rows that
the attack learns from, so that the share says more about how hard these rows are
than about membership; against the retrained model's share that cancels.
`metrics.separation_auc` between forget rows and UNSEEN rows of the same kind has
no such fault. The anamnesis index of regression is `attacks.relearn` with
direction="lower".

Differences from the released code: random subsets for the first rows; errors on
deterministic inputs, where that code goes on cropping and flipping at random.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped


class RegressionAttack(NamedTuple):
  """Shares of rows that the attack takes for members, floats in [0, 1].

  Attributes:
    forget: of the forget set; best where the retrained model has it.
    train: of training rows, those that the attack learned from included.
    test: of test rows, likewise. Equal to `train` where errors tell nothing.
  """

  forget: float
  train: float
  test: float


def regression_attack(
  train_errors: Any,
  test_errors: Any,
  forget_errors: Any,
  *,
  max_rows: int | None = 2000,
  balance: bool = True,
  seed: int = 0,
) -> RegressionAttack:
  """Fits an SVC on errors of training and test rows and asks about the others.

  `SVC(C=3, gamma="auto", kernel="rbf")`: its kernel is as wide as ONE unit of
  the errors, so give them in a unit of their own order, such as the standard
  deviation of the targets; in dollars or in shares of a metre it sees nothing.

  Args:
    train_errors: float [N], |output - target| of the model under audit on
      training rows, those to forget included.
    test_errors: float [M], on rows never trained on.
    forget_errors: float [R].
    max_rows: at most so many rows of each kind, a random subset of more; None is
      no limit.
    balance: learn from equally many rows of both kinds.
    seed: of the subsets; the same seed, the same shares.

  Returns:
    See `RegressionAttack`; `forget` is nan for an empty forget set.

  Raises:
    ValueError: errors that are no vectors, nan or infinite or negative; no
      training or no test rows; max_rows < 1.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import attacks
    >>> train, test = np.linspace(0.0, 0.2, 20), np.linspace(2.0, 3.0, 20)
    >>> forget = np.array([0.1, 0.15, 2.5, 0.05])
    >>> attacks.regression_attack(train, test, forget)
    RegressionAttack(forget=0.75, train=1.0, test=0.0)
  """
  if max_rows is not None:
    checks.counts(max_rows=max_rows)
  train, test, forget = (
    _errors(values, name)
    for name, values in (
      ("train_errors", train_errors),
      ("test_errors", test_errors),
      ("forget_errors", forget_errors),
    )
  )
  for name, rows in (("train_errors", train), ("test_errors", test)):
    if len(rows) == 0:
      raise ValueError(f"Expected {name} of some rows, got 0.")

  from sklearn.svm import SVC

  rng = np.random.default_rng(seed)
  limit = max(len(train), len(test)) if max_rows is None else max_rows
  if balance:
    limit = min(limit, len(train), len(test))
  train, test = (_subset(rows, limit, rng) for rows in (train, test))
  attack = SVC(C=3, gamma="auto", kernel="rbf")
  attack.fit(
    np.concatenate([train, test])[:, None],
    np.repeat([1, 0], [len(train), len(test)]),
  )

  def share(rows: np.ndarray) -> float:
    if len(rows) == 0:
      return float("nan")
    return float(attack.predict(rows[:, None]).mean())

  most = len(forget) if max_rows is None else max_rows
  return RegressionAttack(
    share(_subset(forget, most, rng)), share(train), share(test)
  )


def _errors(values: Any, name: str) -> np.ndarray:
  rows = np.asarray(values).astype(np.float64)
  shaped(f"{name} [N]", rows)
  checks.finite(rows, name)
  if (rows < 0).any():
    raise ValueError(f"Expected {name} >= 0, got {rows.min()}.")
  return rows


def _subset(
  rows: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
  if len(rows) <= count:
    return rows
  return rows[np.sort(rng.choice(len(rows), count, replace=False))]
