"""What the estimators of values have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.training import map_many


class Utility(NamedTuple):
  """What a set of rows is worth.

  Attributes:
    value: `mask bool [N] -> float []`, pure; the same mask always gives the same
      value, since the randomness of training is fixed when a utility is made
      (common random numbers: differences are those of the rows).
    num_rows: N.
    empty_value: of the empty set, whatever `value` would say of it (which may be
      nan).
  """

  value: Callable[[jax.Array], jax.Array]
  num_rows: int
  empty_value: float | jax.Array = 0.0

  def many(
    self,
    masks: jax.Array,
    *,
    strategy: str | int = "vmap",
    mesh: jax.sharding.Mesh | None = None,
  ) -> jax.Array:
    """The utilities of a stack of masks; see `core.training.map_many`.

    Args:
      masks: bool [M, N].
      strategy: an int bounds memory to so many models at a time.
      mesh: devices to spread the masks over.

    Returns:
      float32 [M].

    Raises:
      ValueError: masks of another shape or dtype.
    """
    masks = arrays(f"masks bool [M, {self.num_rows}]", masks)
    return self.over(lambda mask: mask, masks, strategy=strategy, mesh=mesh)

  def over(
    self,
    make_mask: Callable[..., jax.Array],
    *stacked: Any,
    strategy: str | int = "vmap",
    mesh: jax.sharding.Mesh | None = None,
  ) -> jax.Array:
    """The utilities of masks that are made where they are needed.

    A stack of masks [M, N] never exists unless all are evaluated at once.

    Args:
      make_mask: of one slice of each argument; returns a mask bool [N].
      *stacked: pytrees, leaves [M, ...].
      strategy: see `many`.
      mesh: see `many`; M need not be a multiple of its devices.

    Returns:
      float32 [M].

    Raises:
      ValueError: no rows; as `map_many`.
    """
    checks.counts(num_rows=self.num_rows)
    many = checks.num_rows(stacked, name="stacked arguments")
    if mesh is not None:
      extra = -many % mesh.size
      stacked = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[:1], extra, 0)]),
        stacked,
      )

    def one(*slices: Any) -> jax.Array:
      mask = make_mask(*slices)
      value = jnp.asarray(self.value(mask), jnp.float32)
      return jnp.where(mask.any(), value, self.empty_value)

    return map_many(one, *stacked, strategy=strategy, mesh=mesh)[:many]


class Valuation(NamedTuple):
  """Values of rows, as an estimator gives them.

  Attributes:
    values: float32 [N]; a row that the estimate says nothing of is nan.
    standard_error: float32 [N]; 0 where the value is exact, nan where there are
      too few draws to tell.
    num_evaluations: int [], how often a utility was asked (models trained).
    utility_full: float32 [], of all rows; nan where it was not needed.
    converged: bool [], whether a stopping rule was met; True without one.
  """

  values: jax.Array
  standard_error: jax.Array
  num_evaluations: jax.Array
  utility_full: jax.Array
  converged: jax.Array


def require_finite(num_bad: jax.Array, num_evaluations: Any) -> None:
  """Utilities that were asked are finite, where they can be looked at.

  Under jit nothing is raised: a utility that is nan or infinite makes the values
  of the rows that it has to do with nan or infinite.

  Args:
    num_bad: int [], how many are not.
    num_evaluations: how many were asked.

  Raises:
    ValueError: (outside jit) some are nan or infinite.
  """
  if checks.is_concrete(num_bad) and int(num_bad):
    raise ValueError(
      f"Expected finite utilities, got {int(num_bad)} of "
      f"{int(num_evaluations)} that are nan or infinite."
    )
