"""Normal distributions fitted to each row over shadow models.

What the likelihood-ratio attacks share. Medians come by bisection over the bits
of the numbers: exact, without sorting or copying the statistics; and whatever a
fit says without one of its models follows from a few order statistics and sums.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays

VARIANCES = ("per_example", "fixed")
CENTERS = ("median", "mean")


class RowFit(NamedTuple):
  """What a group of models says of each row; leaves [N, A].

  Attributes:
    size: models of the group that cover the row.
    center: median or mean.
    first: sum of the residuals about the centre.
    second: sum of their squares.
    low: order statistic `size // 2 - 1` (from 0), which with the next two
      gives the median without any one model.
    middle: the next.
    high: the next.
  """

  size: jax.Array
  center: jax.Array
  first: jax.Array
  second: jax.Array
  low: jax.Array
  middle: jax.Array
  high: jax.Array


class Normal(NamedTuple):
  """Normal distributions; leaves broadcast to [T, N, A].

  Attributes:
    center: their centre.
    std: their standard deviation, at least the floor.
    is_known: bool, whether enough models were left to fit it.
  """

  center: jax.Array
  std: jax.Array
  is_known: jax.Array

  def log_density(self, x: jax.Array) -> jax.Array:
    z = (x - self.center) / self.std
    return -0.5 * z**2 - jnp.log(self.std) - 0.5 * np.log(2 * np.pi).item()


def fit_rows(
  values: jax.Array,
  masks: jax.Array,
  center: str,
  chunk_size: int | None = None,
  member: bool = True,
) -> RowFit:
  """Fits each row over the models whose masks [S, N] say `member`.

  So the OUT side is read off the masks a chunk at a time, and no program holds
  their complement.
  """
  if chunk_size is not None:
    checks.counts(chunk_size=chunk_size)
  num_rows = values.shape[1]
  if chunk_size is None or chunk_size >= num_rows:
    return _fit(values, masks == member, center)
  # The last chunk starts early instead of being short: slices of one length,
  # no padded copy.
  chunks = jnp.arange(-(-num_rows // chunk_size))
  starts = jnp.minimum(chunks * chunk_size, num_rows - chunk_size)

  def one(start: jax.Array) -> RowFit:
    def part(x: jax.Array) -> jax.Array:
      return jax.lax.dynamic_slice_in_dim(x, start, chunk_size, axis=1)

    return _fit(part(values), part(masks) == member, center)

  fits = jax.lax.map(one, starts)
  row = jnp.arange(num_rows)
  chunk = row // chunk_size
  return jax.tree.map(lambda leaf: leaf[chunk, row - starts[chunk]], fits)


def normal_of(
  fit: RowFit,
  variance: str,
  floor: float | jax.Array,
  leave_out: tuple[jax.Array, jax.Array, str] | None = None,
) -> Normal:
  """The normal distributions of a fit, leaves [1, N, A].

  With `leave_out`, the values [S, N, A], masks [S, N] and centre of the fit: for
  each model the distributions without it, leaves [S, N, A].
  """
  fit = jax.tree.map(lambda leaf: leaf[None], fit)
  count, middle, first, second = fit.size, fit.center, fit.first, fit.second
  if leave_out is not None:
    values, use, center = leave_out
    own = use[..., None]
    residual = jnp.where(own, values - fit.center, 0)
    count = fit.size - own
    if center == "mean":
      middle = fit.center - residual / jnp.maximum(count, 1)
    else:
      middle = jnp.where(own, _median_without(fit, values), fit.center)
    # Sums about the old centre without the model's own part, then moved to the
    # new centre.
    first, second = fit.first - residual, fit.second - residual**2
    move = jnp.where(count > 0, middle - fit.center, 0)
    second = second - 2 * move * first + count * move**2
    first = first - count * move
  needed = 2 if variance == "per_example" else 1
  is_known = count >= needed
  if variance == "fixed":

    def pool(x: jax.Array) -> jax.Array:
      axes = (1, 2)
      return jnp.where(count > 0, x, 0).sum(axes, keepdims=True)

    total = pool(count.astype(first.dtype))
    first, second = pool(first), pool(second)
  else:
    total = count.astype(first.dtype)
  total = jnp.maximum(total, 1)
  spread = jnp.sqrt(jnp.maximum(second / total - (first / total) ** 2, 0))
  return Normal(middle, jnp.maximum(spread, floor), is_known)


def leave_one_out_scores(
  statistics: jax.Array,
  sides: list[jax.Array],
  *,
  variance: str = "per_example",
  center: str = "median",
  two_sided: bool = False,
  floor: float | jax.Array = 1e-6,
  chunk_size: int | None = None,
) -> jax.Array:
  """Scores [S, N] of each model against the others, nan where they are too few.

  `sides` holds masks [S, N] of IN and OUT models, or of OUT models only; a model
  may be on neither side of a row.
  """
  normals = [
    normal_of(
      fit_rows(statistics, use, center, chunk_size),
      variance,
      floor,
      (statistics, use, center),
    )
    for use in sides
  ]
  return score(statistics, normals, two_sided)


def score(
  target: jax.Array, normals: list[Normal], two_sided: bool
) -> jax.Array:
  """Scores [T, N] of targets [T, N, A]; the OUT distribution comes last."""
  outside = normals[-1]
  if len(normals) == 2:
    values = normals[0].log_density(target) - outside.log_density(target)
    is_known = normals[0].is_known & outside.is_known
  elif two_sided:
    values, is_known = -outside.log_density(target), outside.is_known
  else:
    values = (target - outside.center) / outside.std
    is_known = outside.is_known
  return jnp.where(is_known, values, jnp.nan).mean(axis=-1)


def _fit(values: jax.Array, use: jax.Array, center: str) -> RowFit:
  use = use[..., None]
  count = jnp.broadcast_to(_sum(use), (1, *values.shape[1:]))
  if center == "mean":
    safe = jnp.maximum(count, 1).astype(values.dtype)
    middle = _sum(jnp.where(use, values, 0)) / safe
    near = (middle,) * 3
  else:
    near = _near_median(values, use, count)
    is_even = count % 2 == 0
    middle = jnp.where(is_even, (near[0] + near[1]) / 2, near[1])
    middle = jnp.where(count > 0, middle, 0)
  residual = jnp.where(use, values - middle, 0)
  fit = RowFit(count, middle, _sum(residual), _sum(residual**2), *near)
  return jax.tree.map(lambda leaf: leaf[0], fit)


def _sum(x: jax.Array) -> jax.Array:
  """The sum over models, which keeps their axis."""
  return x.sum(axis=0, keepdims=True)


def _median_without(fit: RowFit, x: jax.Array) -> jax.Array:
  """The median of the numbers behind a fit after one of them, x, is gone."""
  # Numbers above x move down a place.
  lower = jnp.where(x <= fit.low, fit.middle, fit.low)
  upper = jnp.where(x <= fit.middle, fit.high, fit.middle)
  return jnp.where(fit.size % 2 == 0, lower, (lower + upper) / 2)


def _near_median(
  values: jax.Array, use: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Order statistics count // 2 - 1 and the next two, along the first axis."""
  half = count // 2

  def after(x: jax.Array, place: jax.Array) -> jax.Array:
    """The order statistic that follows x, which has that place."""
    repeats = _sum(use & (values <= x)) > place + 1
    larger = jnp.where(use & (values > x), values, jnp.inf)
    return jnp.where(repeats, x, larger.min(axis=0, keepdims=True))

  place = jnp.maximum(half - 1, 0)
  low = _order_statistic(values, use, place)
  middle = jnp.where(half == 0, low, after(low, place))
  return low, middle, after(middle, half)


def _order_statistic(
  values: jax.Array, use: jax.Array, place: jax.Array
) -> jax.Array:
  """The number of a given place in the ascending order of the first axis.

  It lies above `low`, which `below` <= place values reach, and up to `high`, which
  more do. The two close in on it, to where it would be if values were spread
  evenly between them, a little below and a little above, and to the middle in
  turn, until two values are left, or equal ones. Some ten passes do for numbers
  of a bell's shape, where every bit of a float would take one.
  """
  bottom = jnp.where(use, values, jnp.inf).min(axis=0, keepdims=True)
  top = jnp.where(use, values, -jnp.inf).max(axis=0, keepdims=True)
  upto_bottom = _sum(use & (values <= bottom))
  is_bottom = place < upto_bottom

  def between(low: jax.Array, high: jax.Array, share: Any) -> jax.Array:
    return low * (1 - share) + high * share

  def is_open(low, high, below, upto):
    middle = between(low, high, 0.5)
    is_apart = (low < middle) & (middle < high)
    return ~is_bottom & (upto - below > 2) & is_apart

  def narrow(state):
    step, *bounds = state
    low, high, below, upto = bounds
    aim = jnp.asarray([-0.5, 1.5, 0.0], values.dtype)[step % 3]
    share = (place - below + aim) / jnp.maximum(upto - below, 1)
    share = jnp.where(step % 3 == 2, 0.5, share.astype(values.dtype))
    probe = between(low, high, share)
    is_within = (low < probe) & (probe < high)
    probe = jnp.where(is_within, probe, between(low, high, 0.5))
    reach = _sum(use & (values <= probe))
    now, is_above = is_open(*bounds), reach > place
    up, down = now & ~is_above, now & is_above
    return (
      step + 1,
      jnp.where(up, probe, low),
      jnp.where(down, probe, high),
      jnp.where(up, reach, below),
      jnp.where(down, reach, upto),
    )

  everything = jnp.broadcast_to(_sum(use), upto_bottom.shape)
  start = (jnp.zeros((), jnp.int32), bottom, top, upto_bottom, everything)
  _, low, high, below, _ = jax.lax.while_loop(
    lambda state: is_open(*state[1:]).any(), narrow, start
  )
  first = jnp.where(use & (values > low), values, jnp.inf)
  last = jnp.where(use & (values <= high), values, -jnp.inf)
  found = jnp.where(
    place <= below,
    first.min(axis=0, keepdims=True),
    last.max(axis=0, keepdims=True),
  )
  return jnp.where(is_bottom, bottom, found)


def floats(x: Any, name: str, ndim: int | None = None) -> jax.Array:
  """An array in at least float32, without nan."""
  x = arrays(f"{name} [...]", x)
  x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  if ndim is not None and x.ndim != ndim:
    raise ValueError(f"Expected {name} [S, N, A], got shape {x.shape}.")
  checks.finite(x, name)
  return x


def mask_of(masks: Any, statistics: jax.Array, name: str) -> jax.Array:
  return arrays(f"{name} bool {list(statistics.shape[:2])}", masks)


def check_options(
  variance: str,
  center: str,
  floor: float | jax.Array,
  two_sided: bool = False,
  mode: str = "offline",
) -> None:
  checks.one_of(VARIANCES, variance=variance)
  checks.one_of(CENTERS, center=center)
  checks.positive(floor=floor)
  if two_sided and mode != "offline":
    raise ValueError(
      f"Expected mode='offline' with two_sided=True, got {mode!r}."
    )


def enough_models(
  masks: Any, needed: int, side: str, member: bool = True
) -> None:
  """Each row has so many models on a side, where values are at hand."""
  if not checks.is_concrete(masks):
    return
  masks = np.asarray(masks)
  count = masks.sum(axis=0)
  count = count if member else masks.shape[0] - count
  if count.size and count.min() < needed:
    row = int(count.argmin())
    raise ValueError(
      f"Expected at least {needed} {side} models for each row, got "
      f"{int(count[row])} for row {row}."
    )
