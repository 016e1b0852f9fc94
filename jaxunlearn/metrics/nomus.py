"""NoMUS: utility and forgetting in one number, for requests by person.

Source: Choi and Na, "Towards Machine Unlearning Benchmarks: Forgetting the
Personal Identities in Facial Recognition Systems", arXiv:2311.02240. The attack
whose accuracy it reads is `attacks.logistic_accuracy` on losses of forgotten rows
and of rows of people that nobody trained on.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks


def forgetting_score(attack_accuracy: Any) -> jax.Array:
  """How far an attack is from guessing: |M - 1/2|, in [0, 1/2]; 0 is best.

  The retrained model has 0 in expectation, if forgotten and unseen people are
  alike. The released tables call it MIA.

  Args:
    attack_accuracy: M in [0, 1], of any shape, balanced groups.

  Raises:
    ValueError: (concrete) a value outside of [0, 1].

  Example:
    >>> from jaxunlearn import metrics
    >>> float(metrics.forgetting_score(0.75))
    0.25
  """
  _in_unit(attack_accuracy=attack_accuracy)
  return jnp.abs(jnp.asarray(attack_accuracy) - 0.5)


def nomus(
  accuracy: Any, attack_accuracy: Any, utility_share: Any = 0.5
) -> jax.Array:
  """Normalised machine unlearning score, in [0, 1]; higher is better.

      utility_share * accuracy + (1 - utility_share) * (1 - 2 |M - 1/2|)

  A model that answers at random has 1/2 and more: read it beside its parts.

  Args:
    accuracy: on test rows, in [0, 1], of any shape.
    attack_accuracy: M, of the same shape.
    utility_share: lambda in [0, 1].

  Raises:
    ValueError: (concrete) a value outside of [0, 1].

  Example:
    >>> float(nomus(1.0, 0.5))
    1.0
  """
  _in_unit(accuracy=accuracy)
  checks.fraction(utility_share=utility_share)
  forgot = 1 - 2 * forgetting_score(attack_accuracy)
  return utility_share * jnp.asarray(accuracy) + (1 - utility_share) * forgot


def _in_unit(**named: Any) -> None:
  for name, values in named.items():
    if not checks.is_concrete(values):
      continue
    array = jnp.asarray(values)
    if bool(((array < 0) | (array > 1)).any()):  # nan is passed on.
      raise ValueError(f"Expected {name} in [0, 1], got values outside.")
