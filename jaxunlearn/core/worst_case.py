"""The request that is hardest to serve, or easiest: chosen against a model.

Source: Fan et al., "Challenging Forgets: Unveiling the Worst-Case Forget Sets in
Machine Unlearning", ECCV 2024, arXiv:2403.07362.

Upper level: min over w in [0, 1]^n with sum w = m of sum_i w_i l_i(theta(w)) +
penalty |w|^2. Lower level: theta(w) forgets w by SignSGD, whose sign has no
derivative, so that the gradient of the upper level is l_i + 2 penalty w_i.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, per_example
from jaxunlearn.core.keys import derive
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Task, as_task
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import (
  Draw,
  Losses,
  PyTree,
  Request,
  Step,
  Variables,
  as_step,
)

_BISECTIONS = 40  # Of a bracket; the rest is solved for.
_CHUNK = 1024  # Rows at a time, where losses are asked for.


class Search(NamedTuple):
  """How a worst case is searched for; defaults of the paper where it says.

  Attributes:
    outer_steps: static, T.
    rate: of the upper level; may be traced. Losses have no natural scale: the
      released 0.01 hardly moves anything on a model that fits its rows.
    penalty: gamma, on the squares of w; may be traced.
    forget_weight: lambda of the lower level, whose rows have weight 1 - (1 +
      lambda) w; 1 as in the paper, 0 as in the released code. May be traced.
    by_rank: static; whether the upper level sees the rank of a loss, in [0, 1],
      in its place; then a rate of 1 is one.
    inner_steps: static, of SignSGD from the original model, in each outer step.
    inner_rate: of SignSGD; may be traced.
    batch_size: static, of SignSGD.
  """

  outer_steps: int = 20
  rate: float | jax.Array = 1.0
  penalty: float | jax.Array = 1e-4
  forget_weight: float | jax.Array = 1.0
  by_rank: bool = True
  inner_steps: int = 30
  inner_rate: float | jax.Array = 1e-3
  batch_size: int = 128


class Chosen(NamedTuple):
  """A request, and how it came about.

  Attributes:
    mask: bool [N], an ordinary request.
    score: float32 [U] in [0, 1], w of each unit, a row where there are no units.
    loss: float32 [U], of the last lower level.
  """

  mask: jax.Array
  score: jax.Array
  loss: jax.Array


def worst_case(
  task: Task | Any,
  variables: Variables,
  data: PyTree,
  count: int | jax.Array,
  key: jax.Array,
  search: Search | None = None,
  *,
  easiest: bool | jax.Array = False,
  units: jax.Array | None = None,
  num_units: int | None = None,
) -> Chosen:
  """The rows that an unlearned model is still best on; of all sets of a size.

  Args:
    task: a `Task`, or a model that has one.
    variables: those of the model that was trained on all rows.
    data: pytree of arrays [N, ...].
    count: m, how many units, in 1 .. U - 1; may be traced.
    key: PRNG key.
    search: see `Search`.
    easiest: the other end: those that it is worst on; may be traced.
    units: None, or int [N], which unit, a class or a person, each row belongs
      to; a unit goes as a whole and its loss is the mean of its rows'.
    num_units: static, U, beside `units`.

  Raises:
    ValueError: a count out of range, units that are none, nan in the rows or
      the variables.
  """
  task, search = as_task(task), Search() if search is None else search
  checks.typed_key(key)
  checks.count(0, inner_steps=search.inner_steps)
  checks.count(outer_steps=search.outer_steps, batch_size=search.batch_size)
  rows = checks.num_rows(data)
  checks.finite(data, "data")
  checks.finite(variables, "variables")
  size = rows
  if units is not None:
    checks.count(num_units=num_units)
    size = int(num_units or 0)
    checks.labels(units, size, "units", length=rows)
  if checks.is_concrete(count) and not 1 <= int(count) < size:
    raise ValueError(f"Expected count in 1 .. {size - 1}, got {int(count)}.")
  data = jax.tree.map(jnp.asarray, data)
  of_row = jnp.arange(rows) if units is None else jnp.asarray(units)
  members = jnp.zeros(size).at[of_row].add(1.0)
  sign = jnp.where(jnp.asarray(easiest), -1.0, 1.0)

  def losses(now: Variables) -> jax.Array:
    def of_rows(part: PyTree) -> jax.Array:
      out = task.loss(now, as_step(part), key)
      weight = 1.0 if out.weight is None else out.weight
      return out.value / weight

    found = per_example.map_chunks(of_rows, data, chunk_size=_CHUNK)
    total = jnp.zeros(size).at[of_row].add(found.astype(jnp.float32))
    return total / jnp.maximum(members, 1.0)

  def outer(w: jax.Array, step_key: jax.Array) -> Any:
    loss = losses(_forget(task, variables, data, w[of_row], search, step_key))
    slope = _ranks(loss) if search.by_rank else loss
    moved = w - sign * search.rate * (slope + 2 * search.penalty * w)
    return project_capped_simplex(moved, count), loss

  order = jax.random.permutation(derive(key, "first"), size)
  first = (order < count).astype(jnp.float32)
  keys = jax.random.split(derive(key, "forget"), search.outer_steps)
  score, found = jax.lax.scan(outer, first, keys)
  loss = found[-1]
  # Ties, most of them at 1, go to what is hardest, or easiest, and then in order.
  best = jnp.lexsort((sign * loss, -score))
  chosen = jnp.zeros(size, bool).at[best].set(jnp.arange(size) < count)
  return Chosen(chosen[of_row], score, loss)


def _forget(
  task: Task,
  variables: Variables,
  data: PyTree,
  w: jax.Array,
  search: Search,
  key: jax.Array,
) -> Variables:
  """The lower level: SignSGD from the original model on weighted rows."""

  def objective(now: Variables, step: Step, key: jax.Array) -> Losses:
    out = task.loss(now, step, key)
    weight = 1 - (1 + search.forget_weight) * w[step.row_id]
    return Losses(weight * out.value, out.weight)

  link = phase(
    objective,
    optax.sign_sgd(search.inner_rate),
    search.inner_steps,
    draw=Draw(mixed=search.batch_size),
  )
  everything = jnp.ones(w.shape, bool)
  carry, _ = link.run(
    Carry(variables, variables, {}),
    data,
    Request(~everything, everything),
    key,
    Env(),
  )
  return carry.variables


def project_capped_simplex(a: jax.Array, total: Any) -> jax.Array:
  """The nearest point of {w in [0, 1]^n, sum w = total}.

  Which entries end at 0 and 1 is found by bisection, the shift of the others is
  then solved for, so that the sum is right up to rounding.

  Args:
    a: float [n].
    total: in [0, n]; may be traced.

  Returns:
    float [n].

  Example:
    >>> import jax.numpy as jnp
    >>> found = project_capped_simplex(jnp.array([3.0, 0.5, -1.0]), 1.25)
    >>> [round(float(w), 3) for w in found]
    [1.0, 0.25, 0.0]
  """
  total = jnp.asarray(total, a.dtype)
  clipped = lambda shift: jnp.clip(a - shift, 0, 1)

  def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> Any:
    low, high = ends
    middle = (low + high) / 2
    is_low = clipped(middle).sum() >= total
    return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

  ends = a.min() - 1, a.max()
  low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
  shift = (low + high) / 2
  moved = a - shift
  inside = (moved > 0) & (moved < 1)
  ones = (moved >= 1).sum()
  rest = jnp.where(inside, moved, 0).sum() - (total - ones)
  return clipped(shift + rest / jnp.maximum(inside.sum(), 1) * inside.any())


def _ranks(loss: jax.Array) -> jax.Array:
  """Of each entry the share of entries below it; equal ones are alike."""
  below = jnp.searchsorted(jnp.sort(loss), loss)
  return below / jnp.maximum(loss.shape[0] - 1, 1)
