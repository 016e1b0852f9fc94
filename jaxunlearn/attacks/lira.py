"""LiRA: was a row trained on, by the likelihood of its statistic?

For each row two normal distributions are fitted to the statistic (logit-scaled
confidence) under shadow models that were trained on the row (IN) and that were
not (OUT); the score of a target is the log of their likelihood ratio. HIGH
speaks for membership.

Source: Carlini et al. (2021), arXiv:2112.03570.
Data access: statistics only; see `attacks.shadow`.
Differences: offline attacks are one-sided as in the paper (only an unusually
high statistic is suspicious), where the released code scores -log N(out), which
`two_sided=True` gives. A fixed variance is that of the residuals about each
row's centre, IN and OUT apart, as in tensorflow-privacy's library; the paper's
own script takes the raw statistics of the IN models for both. Spreads have a
floor instead of the code's 1e-30, which float32 cannot hold. Queries are
averaged, not added up.
Cost: about 20 passes over the statistics for each of IN and OUT, no sort. Leaving
each shadow out in turn costs a few passes more, not a fit a shadow. 50,000 rows
under 256 shadows, 51 MB of statistics: 6.5 MB beside them, 0.3 GB for all 256
shadows as targets.
"""

from __future__ import annotations

import jax

from jaxunlearn.attacks import _normals
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped

MODES = ("online", "offline")


def lira_scores(
  target_statistics: jax.Array,
  shadow_statistics: jax.Array,
  shadow_masks: jax.Array,
  *,
  mode: str = "online",
  variance: str = "per_example",
  center: str = "median",
  two_sided: bool = False,
  floor: float = 1e-6,
  chunk_size: int | None = 1024,
) -> jax.Array:
  """Scores of rows under one or several targets.

  online: mean over queries of log N(phi; IN) - log N(phi; OUT).
  offline: mean over queries of (phi - centre of OUT) / spread of OUT, the
  z-score that the paper's probability Phi(z) is a function of, but that does
  not saturate.

  Args:
    target_statistics: float [N, A] or [T, N, A], of the models under attack.
    shadow_statistics: float [S, N, A], see `shadow.train_shadows`.
    shadow_masks: bool [S, N], True = the shadow was trained on the row.
    mode: static, "online" or "offline", which looks at OUT models only.
    variance: static, "per_example", or "fixed", one for all rows and queries,
      better with few shadows (up to some tens).
    center: static, "median" as the released code or "mean".
    two_sided: static; offline only, -log N(phi; OUT): the released code.
    floor: smallest spread, in units of the statistic. May be traced.
    chunk_size: static; fits so many rows at a time, None all at once. The
      result is the same. Beside the statistics and the scores, memory holds
      about `3 * S * chunk_size * A` numbers; small chunks also fit caches.

  Returns:
    [N] or [T, N]; nan in rows with too few models under jit.

  Raises:
    ValueError: shapes or dtypes that do not match, unknown options, floor <= 0;
      with values at hand: nan or infinite statistics, a row with no IN or OUT
      model, or one only for a variance per example.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> shadows = jnp.array([2.0, 4.0, -1.0, 1.0])[:, None, None]
    >>> masks = jnp.array([True, True, False, False])[:, None]
    >>> target = jnp.array([[3.0]])
    >>> scores = attacks.lira_scores(target, shadows, masks, center="mean")
    >>> scores.round(3).tolist()
    [4.5]
  """
  target = _normals.floats(target_statistics, "target_statistics")
  shadow = _normals.floats(shadow_statistics, "shadow_statistics", ndim=3)
  wanted = (
    "shadow_statistics [S, N, A] and target_statistics [N, A] or [T, N, A]"
  )
  shaped(wanted, shadow, target)
  masks = _normals.mask_of(shadow_masks, shadow, "shadow_masks")
  checks.one_of(MODES, mode=mode)
  _normals.check_options(variance, center, floor, two_sided, mode)
  sides = {"IN": True, "OUT": False}
  if mode == "offline":
    del sides["IN"]
  needed = 2 if variance == "per_example" else 1
  for side, member in sides.items():
    _normals.enough_models(masks, needed, side, member)
  normals = [
    _normals.normal_of(
      _normals.fit_rows(shadow, masks, center, chunk_size, member),
      variance,
      floor,
    )
    for member in sides.values()
  ]
  many = target if target.ndim == 3 else target[None]
  scores = _normals.score(many, normals, two_sided)
  return scores if target.ndim == 3 else scores[0]


def lira_leave_one_out(
  statistics: jax.Array,
  masks: jax.Array,
  *,
  mode: str = "online",
  variance: str = "per_example",
  center: str = "median",
  two_sided: bool = False,
  floor: float = 1e-6,
  chunk_size: int | None = 1024,
) -> jax.Array:
  """Every shadow model in turn as the target of all others.

  Equal to `lira_scores` with the shadow's own row taken out, at the cost of one fit:
  a median or a variance without one number follows from a few order statistics
  and sums.

  Args:
    statistics: float [S, N, A].
    masks: bool [S, N].
    mode: as of `lira_scores`, as are the rest.
    variance: see `lira_scores`.
    center: see `lira_scores`.
    two_sided: see `lira_scores`.
    floor: see `lira_scores`.
    chunk_size: see `lira_scores`.

  Returns:
    [S, N]: row s holds the scores under target s, whose members are `masks[s]`.

  Raises:
    ValueError: as `lira_scores`; a row needs one model more on either side.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> statistics = jnp.array([5.0, 6.0, 7.0, -1.0, 0.0, 1.0])[:, None, None]
    >>> masks = jnp.array([True] * 3 + [False] * 3)[:, None]
    >>> scores = attacks.lira_leave_one_out(
    ...   statistics, masks, variance="fixed")
    >>> (scores[:, 0] > 0).tolist()
    [True, True, True, False, False, False]
  """
  statistics = _normals.floats(statistics, "statistics", ndim=3)
  masks = _normals.mask_of(masks, statistics, "masks")
  checks.one_of(MODES, mode=mode)
  _normals.check_options(variance, center, floor, two_sided, mode)
  sides = {"IN": masks, "OUT": ~masks}
  if mode == "offline":
    del sides["IN"]
  for side, use in sides.items():
    _normals.enough_models(use, 3 if variance == "per_example" else 2, side)
  return _normals.leave_one_out_scores(
    statistics,
    list(sides.values()),
    variance=variance,
    center=center,
    two_sided=two_sided,
    floor=floor,
    chunk_size=chunk_size,
  )


def global_threshold(target_statistics: jax.Array) -> jax.Array:
  """The baseline without shadows: the statistic itself, mean over queries.

  Args:
    target_statistics: float [N, A] or [T, N, A].

  Returns:
    [N] or [T, N].

  Raises:
    ValueError: another number of axes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> two_queries = jnp.array([[1.0, 3.0], [0.0, -2.0]])
    >>> attacks.global_threshold(two_queries).tolist()
    [2.0, -1.0]
  """
  target = _normals.floats(target_statistics, "target_statistics")
  shaped("target_statistics [N, A] or [T, N, A]", target)
  return target.mean(axis=-1)
