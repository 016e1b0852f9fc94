"""How much a synthetic table is like a real one: TabSynDex.

Chundawat et al. (2022), "A Universal Metric for Robust Evaluation of Synthetic
Tabular Data", arXiv:2207.05295. Five scores in [0, 1] and their mean: statistics
of columns, associations of pairs, what models learn from the table, coverage of
the support, and whether logistic regression tells the two apart. Higher is
better. All but the estimators of scikit-learn are pure functions of tables and
row weights, under `jit` and `vmap`, so that masks and resamples are one program.

Mode "published" is the authors' code, whose odd sides are kept: an exact copy
has 1, 1, 1, 1 and 1 / 1.2, in all 0.9667, because a copy is easier to fit than
a sample; a constant column or an association of exactly 0 makes the correlation
score 0. Mode "fixed", the default, mends, one by one:

  basic: errors of mean and median in units of the real standard deviation, not
    of the value itself; categories by total variation of their shares, not by
    statistics of their codes.
  correlation: absolute differences of associations, not relative ones of their
    logarithms; pairs with a column that is constant in the real table are left
    out.
  efficacy: measured on rows set aside; the target is never split into
    indicators; lasso and elastic net with alpha = 0.001 (with the published 1
    they predict the mean of any table).
  support: a bin counts at most fully, so that one that is too full makes up for
    none that is empty.
  distinguishability: no penalty (1e-6); levels of categories one by one;
    expected is what two independent samples give. The published expectation is
    that of rows drawn from a model that was fitted to the real ones, half of it.

Cost: with D columns, L levels and F = D + L inputs, O(N (L^2 + 25 F^2)) and the
training of eight (six to classify) small models.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.columns import Columns, columns_of
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.metrics import _association, _efficacy, _efficacy_sklearn
from jaxunlearn.metrics._propensity import (
  Propensity,
  fixed_propensity,
  published_propensity,
)
from jaxunlearn.metrics._table_columns import (
  Table,
  table_of,
)
from jaxunlearn.metrics._table_statistics import (
  fixed_basic,
  published_basic,
  support,
)
from jaxunlearn.metrics.tabsyndex_frames import encode_frames, is_frame

MODES = ("published", "fixed")
EFFICACIES = ("jax", "sklearn", None)
F1_KINDS = ("micro", "macro")


class TabSynDex(NamedTuple):
  """The scores; float arrays, [] each.

  Attributes:
    total: the mean of the next five.
    basic: statistics of columns.
    correlation: associations of pairs of columns.
    efficacy: what models learn from the table.
    support: coverage of bins and categories.
    distinguishability: 1.2^-|1 - pmse_ratio|.
    pmse_ratio: how well logistic regression tells the tables apart, over what
      is expected of tables of one law; 0 for a copy.
    correlation_is_nan: bool; in mode "published" whether the correlation score
      is 0 because it is undefined.
  """

  total: jax.Array
  basic: jax.Array
  correlation: jax.Array
  efficacy: jax.Array
  support: jax.Array
  distinguishability: jax.Array
  pmse_ratio: jax.Array
  correlation_is_nan: jax.Array


class Weights(NamedTuple):
  """How much the rows of two tables count; None is 1 each.

  Attributes:
    real: bool [N], or float [N] >= 0; rows of weight 0 are not read.
    fake: the same [M].
  """

  real: jax.Array | None = None
  fake: jax.Array | None = None


WEIGHTS = Weights()


@old_fields(weights={"real_weights": "real", "fake_weights": "fake"})
def tabsyndex(
  real: Any,
  fake: Any,
  key: jax.Array,
  *,
  categories: Sequence[Any],
  target: int | str = -1,
  task: str = "regression",
  mode: str = "fixed",
  efficacy: str | None = "jax",
  f1: str = "micro",
  weights: Weights = WEIGHTS,
) -> TabSynDex:
  """Scores a synthetic table against a real one.

  Args:
    real: float [N, D], numbers and category codes; or a data frame (anything
      with `columns` and `to_numpy`, such as pandas').
    fake: float [M, D], the same columns; of frames in any order.
    key: PRNG key; which rows models are fitted to, and their first weights. A
      row's part depends on its place alone, so that masks share the split (and
      the efficacy of a table under a mask is not that of its rows taken out).
    categories: static. Of arrays D whole numbers: 0 for a column of numbers, K
      for one of codes 0 .. K - 1. Of frames the names of the columns that hold
      categories.
    target: static; the column that models predict: its place, or its name.
    task: static; "regression" or "classification".
    mode: static; "fixed" or "published", see above.
    efficacy: static; "jax" (least squares, lasso, elastic net and a small
      network; to classify, least squares, logistic regression and the network),
      "sklearn" (the paper's estimators; outside jit), or None: the efficacy
      and the total are nan.
    f1: static; "micro" (the accuracy, as published) or "macro".
    weights: of the rows; see `Weights`.

  Returns:
    See `TabSynDex`. nan where no row counts or, under jit, where one that
    counts is not finite. The retrained generator, the standard, has what its
    law allows; a genuine further sample does not reach 1 either, so compare
    with its score, or within `tabsyndex_bands`.

  Raises:
    ValueError: shapes or columns that do not fit, an unknown name, a target
      that does not fit the task; of concrete tables also fewer than 2 rows,
      missing values, and codes out of range.

  Source: arXiv:2207.05295 and the authors' code.

  Example:
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(50, 3))
    >>> score = jax.jit(
    ...   lambda real, fake, key: tabsyndex(
    ...     real, fake, key, categories=(0, 0, 0), mode="published"
    ...   )
    ... )
    >>> found = score(rows, rows, jax.random.key(0))
    >>> round(float(found.total), 4)
    0.9667
  """
  if is_frame(real) or is_frame(fake):
    real, fake, categories, names = encode_frames(real, fake, categories)
    target = _target_place(target, names)
  layout = columns_of(categories, at_least=2)
  target = _checked_target(target, layout)
  _check_names(task, mode, efficacy, f1, layout, target)
  real = table_of(real, weights.real, layout, "real")
  fake = table_of(fake, weights.fake, layout, "fake")
  is_published = mode == "published"
  found = _components(real, fake, layout.categories, is_published)
  if efficacy is None:
    learnt = jnp.asarray(jnp.nan, real.values.dtype)
  else:
    module: Any = _efficacy if efficacy == "jax" else _efficacy_sklearn
    learnt = module.efficacy(
      real, fake, layout, target, task, key, is_published=is_published, f1=f1
    )
    learnt = jnp.asarray(learnt, real.values.dtype)
  return _gathered(found, learnt, real.is_usable & fake.is_usable)


def association_matrix(
  table: jax.Array,
  *,
  categories: Sequence[int],
  weights: jax.Array | None = None,
) -> jax.Array:
  """Pearson, correlation ratio or Theil's U of every pair of columns: [D, D].

  Args:
    table: float [N, D].
    categories: see `tabsyndex`.
    weights: see `tabsyndex`.

  Returns:
    Entry [i, j] of two columns of categories is U(j given i), in [0, 1]; of
    numbers Pearson's r; of both the correlation ratio, in [0, 1]. Rows and
    columns of a constant column are 0; nan where no row counts.

  Raises:
    ValueError: as `tabsyndex`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> table = jnp.array([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [3.0, 6.0, 0.0]])
    >>> matrix = metrics.association_matrix(table, categories=(0, 0, 2))
    >>> print(matrix.round(3))
    [[1. 1. 0.]
     [1. 1. 0.]
     [0. 0. 1.]]
  """
  layout = columns_of(categories, at_least=2)
  rows = table_of(table, weights, layout, "table")
  return _associations(rows, layout.categories)


def support_coverage(
  real: jax.Array,
  fake: jax.Array,
  *,
  categories: Sequence[int],
  mode: str = "fixed",
  real_weights: jax.Array | None = None,
  fake_weights: jax.Array | None = None,
) -> jax.Array:
  """The support score of every column: [D], in [0, 1]; see `tabsyndex`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> real = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    >>> fake = jnp.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    >>> print(metrics.support_coverage(real, fake, categories=(2, 2)).round(3))
    [0.5 1. ]
  """
  checks.one_of(MODES, mode=mode)
  layout = columns_of(categories, at_least=2)
  tables = (
    table_of(real, real_weights, layout, "real"),
    table_of(fake, fake_weights, layout, "fake"),
  )
  return _support(*tables, layout.categories, mode == "published")


class _Found(NamedTuple):
  basic: jax.Array
  correlation: jax.Array
  is_nan: jax.Array
  support: jax.Array
  propensity: Propensity


# Compiled even where the caller is not: hundreds of small operations.
@functools.partial(jax.jit, static_argnums=1)
def _associations(rows: Table, categories: tuple[int, ...]) -> jax.Array:
  found = _association.associations(rows, columns_of(categories, at_least=2))
  return jnp.where(rows.is_usable, found, jnp.nan)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _support(
  real: Table, fake: Table, categories: tuple[int, ...], is_published: bool
) -> jax.Array:
  found = support(
    real, fake, columns_of(categories, at_least=2), is_published=is_published
  )
  return jnp.where(real.is_usable & fake.is_usable, found, jnp.nan)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _components(
  real: Table, fake: Table, categories: tuple[int, ...], is_published: bool
) -> _Found:
  """The four components that are closed programs."""
  layout = columns_of(categories, at_least=2)
  matrix = functools.partial(_association.associations, layout=layout)
  matrices = matrix(real), matrix(fake)
  cover = support(real, fake, layout, is_published=is_published).mean()
  if is_published:
    correlation, is_nan = _association.published_correlation(*matrices)
    propensity = published_propensity(real, fake)
    basic = published_basic(real, fake)
    return _Found(basic, correlation, is_nan, cover, propensity)
  correlation = _association.fixed_correlation(*matrices, layout)
  basic = fixed_basic(real, fake, layout)
  propensity = fixed_propensity(real, fake, layout)
  return _Found(basic, correlation, jnp.array(False), cover, propensity)


def _gathered(
  found: _Found, learnt: jax.Array, is_usable: jax.Array
) -> TabSynDex:
  scores = jnp.stack(
    [
      found.basic,
      found.correlation,
      learnt,
      found.support,
      found.propensity.score,
    ]
  )
  scores = jnp.where(is_usable, scores, jnp.nan)
  ratio = jnp.where(is_usable, found.propensity.ratio, jnp.nan)
  total, rest = scores.mean(), tuple(scores)
  return TabSynDex(
    total, rest[0], rest[1], rest[2], rest[3], rest[4], ratio, found.is_nan
  )


def _target_place(target: int | str, names: tuple[str, ...]) -> int:
  if isinstance(target, str):
    if target not in names:
      raise ValueError(
        f"Expected target to be one of {', '.join(names)}, got {target!r}."
      )
    return names.index(target)
  return target


def _checked_target(target: int | str, layout: Columns) -> int:
  count = layout.num_columns
  if isinstance(target, str) or not -count <= target < count:
    raise ValueError(
      f"Expected target in {-count} .. {count - 1}, got {target!r}."
    )
  return target % count


def _check_names(
  task, mode, efficacy, f1, layout: Columns, target: int
) -> None:
  checks.one_of(_efficacy.TASKS, task=task)
  checks.one_of(MODES, mode=mode)
  checks.one_of(EFFICACIES, efficacy=efficacy)
  checks.one_of(F1_KINDS, f1=f1)
  if efficacy is None:
    return
  size = layout.categories[target]
  if task == "regression" and size:
    raise ValueError(
      f"Expected a column of numbers for regression, got column {target} of "
      f"{size} categories."
    )
  is_authors = mode == "published" and efficacy == "sklearn"
  if task == "classification" and size < 2 and not (is_authors and size == 0):
    raise ValueError(
      f"Expected a target of at least 2 categories to classify by, got column "
      f"{target} with categories={size}."
    )
