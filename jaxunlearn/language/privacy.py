"""How private a training was: the accountant of jax_privacy, by the extra `privacy`.

Imported when it is asked for; on the host. See `dp2`.
"""

from __future__ import annotations

import math
from typing import Any

from jaxunlearn.core import checks


def epsilon(
  noise_multiplier: float,
  *,
  batch_size: int,
  num_rows: int,
  num_steps: int,
  delta: float,
) -> float:
  """That of DP-SGD with Poisson batches, by Renyi differential privacy.

  Args:
    noise_multiplier: sigma > 0.
    batch_size: rows that a step takes on average.
    num_rows: N.
    num_steps: of training.
    delta: in (0, 1).

  Raises:
    ValueError: a number out of its range; ImportError without jax_privacy.

  Example:
    >>> from jaxunlearn.language.privacy import epsilon
    >>> of = {"batch_size": 32, "num_rows": 1000, "num_steps": 100}
    >>> round(epsilon(1.0, delta=1e-5, **of), 1)
    2.7
  """
  checks.positive(noise_multiplier=noise_multiplier)
  _check(delta, batch_size=batch_size, num_rows=num_rows, num_steps=num_steps)
  accounting, accountant = _accountant()
  params = accounting.DpParams(
    noise_multipliers=noise_multiplier,
    num_samples=num_rows,
    delta=delta,
    batch_size=batch_size,
  )
  return float(accountant.compute_epsilon(num_steps, params))


def noise_multiplier(
  epsilon: float,
  *,
  batch_size: int,
  num_rows: int,
  num_steps: int,
  delta: float,
) -> float:
  """The smallest sigma that an epsilon allows; arguments and errors likewise.

  Example:
    >>> from jaxunlearn.language.privacy import noise_multiplier
    >>> of = {"batch_size": 32, "num_rows": 1000, "num_steps": 100}
    >>> round(noise_multiplier(2.0, delta=1e-5, **of), 1)
    1.1
  """
  checks.positive(epsilon=epsilon)
  _check(delta, batch_size=batch_size, num_rows=num_rows, num_steps=num_steps)
  accounting, accountant = _accountant()
  return float(
    accounting.calibrate_noise_multiplier(
      target_epsilon=epsilon,
      accountant=accountant,
      batch_sizes=batch_size,
      num_updates=num_steps,
      num_samples=num_rows,
      target_delta=delta,
    )
  )


def group_privacy(
  epsilon: float, delta: float, rows: int
) -> tuple[float, float]:
  """What is true of k rows at once where (epsilon, delta) is of each.

  (k epsilon, delta (e^(k epsilon) - 1) / (e^epsilon - 1)).

  Raises:
    ValueError: epsilon < 0, delta outside (0, 1), rows < 1.

  Example:
    >>> from jaxunlearn.language.privacy import group_privacy
    >>> epsilon, delta = group_privacy(0.5, 1e-6, rows=3)
    >>> epsilon, f"{delta:.2e}"
    (1.5, '5.37e-06')
  """
  checks.non_negative(epsilon=epsilon)
  _check(delta, rows=rows)
  if epsilon == 0:
    return 0.0, rows * delta
  ratio = math.expm1(min(rows * epsilon, 700.0)) / math.expm1(epsilon)
  return rows * epsilon, min(1.0, delta * ratio)


def _check(delta: float, **counts: int) -> None:
  checks.count(1, **counts)
  if not 0 < delta < 1:
    raise ValueError(f"Expected delta in (0, 1), got delta={delta}.")


def _accountant() -> tuple[Any, Any]:
  try:
    from jax_privacy import accounting
  except ImportError as error:
    raise ImportError(
      "Expected the package jax-privacy, which counts epsilon; pip install "
      "'jaxunlearn[privacy]' brings it."
    ) from error
  return accounting, accounting.DpsgdTrainingAccountant(
    accounting.RdpAccountantConfig()
  )
