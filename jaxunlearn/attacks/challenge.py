"""Forgetting quality: how far apart unlearned and retrained models can be told.

The estimator of the NeurIPS 2023 unlearning challenge. For each forget row the
statistics of many unlearned and many retrained models are two samples; the best
threshold or interval that separates them gives a lower estimate of the epsilon
in (epsilon, delta)-unlearning, and small epsilons score high.

Source: Triantafillou et al. (2024), arXiv:2406.09073, and the released code of
the challenge (google-deepmind/unlearning_evaluation), whose decisions are kept:
thresholds on a grid of 100 a unit of the statistic (so that scaling the
statistic changes the result a little), thresholds with exactly one of the two
error rates at zero dropped, the cap at 50.
Class: heuristic; a finite sample certifies no epsilon.
Data access: `forgetting_quality_runs` trains; the estimator reads statistics.
Cost: N runs of the method and N retrainings; the estimator sorts 2 N numbers a
row and looks 160,000 intervals up. Of a grid over the range of the numbers only
the points that follow one of them are visited: between those nothing changes.
Differences: the released code ends in an error for rows with more than one
threshold left; a row with none left has epsilon 0 here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.attacks import _normals
from jaxunlearn.attacks.shadow import Statistic, query_statistics
from jaxunlearn.attacks.u_lira import Unlearn
from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.legacy import old_fields, renamed
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import _rows
from jaxunlearn.metrics.membership import logit_confidence

CAP = 50.0
_PEAKED = 0.01  # Ratio of ranges below which a sample counts as degenerate.
_BIN = 0.5
# Apart from every key that training makes of the same one.


class ForgettingQuality(NamedTuple):
  """The result of the estimator.

  Attributes:
    epsilon: float [F], in [0, 50]; 0 if the models cannot be told apart.
    score: float [], mean over the rows of 2^-b, b the bin of width 1/2 that
      epsilon falls into; 0 beyond the last bin. In [0, 1], higher is better. Two
      samples of one law do NOT score 1, since the best of many rules finds
      differences by chance: normal samples 0.18 with 64 models, 0.19 with 512.
      Hold it against a second stack of retrained models.
  """

  epsilon: jax.Array
  score: jax.Array


class QualityRuns(NamedTuple):
  """Two stacks of models, asked about the same rows.

  Attributes:
    unlearned: float [M, Q], statistics of the unlearned models.
    retrained: float [M, Q], of the retrained ones.
    unlearned_retain_accuracy: float [M], in [0, 1].
    retrained_retain_accuracy: float [M].
    unlearned_test_accuracy: float [M]; nan without test data.
    retrained_test_accuracy: float [M]; nan without test data.
  """

  unlearned: jax.Array
  retrained: jax.Array
  unlearned_retain_accuracy: jax.Array
  retrained_retain_accuracy: jax.Array
  unlearned_test_accuracy: jax.Array
  retrained_test_accuracy: jax.Array


def forgetting_quality(
  unlearned_statistics: jax.Array,
  retrained_statistics: jax.Array,
  weights: jax.Array | None = None,
  *,
  delta: float | jax.Array = 1e-5,
  thresholds_per_unit: int = 100,
  buffer: float = 2.0,
  chunk_size: int = 64,
) -> ForgettingQuality:
  """Epsilon of each forget row and the score of the challenge.

  For a decision rule with false positive and negative rates FPR and FNR over
  models, epsilon = max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) -
  log FPR); a row has the largest over two families of rules: "the statistic is
  at least t", for the models of the larger median, and "it lies in [l, r]", for
  the models of the smaller range. Rules without any error give 50, so do rows
  of which one range is below 1 % of the other.

  Args:
    unlearned_statistics: float [M, F], a model and forget row each. The scale
      matters: use `logit_confidence`, as the challenge does.
    retrained_statistics: float [M, F].
    weights: bool or float [F], rows that count for the score; all by default.
    delta: in [0, 1]. May be traced.
    thresholds_per_unit: static; of the grids.
    buffer: static; how far intervals reach around the narrower sample, in units
      of the statistic.
    chunk_size: static; rows at a time, each with
      `(2 * buffer * thresholds_per_unit)^2` intervals (0.64 MB as float32).

  Returns:
    Epsilons [F] and the score; nan without a row that counts. A row that is not
    finite has epsilon nan under jit.

  Raises:
    ValueError: arrays that are not of one shape [M, F], M < 3, nan or infinite
      numbers, a delta outside [0, 1], counts that are not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> same = jnp.linspace(0.0, 1.0, 8)
    >>> retrained = jnp.stack([same, same], axis=1)
    >>> unlearned = jnp.stack([same, same + 9], axis=1)
    >>> found = attacks.forgetting_quality(unlearned, retrained)
    >>> found.epsilon.round(2).tolist()
    [0.0, 50.0]
  """
  unlearned = _normals.floats(unlearned_statistics, "unlearned_statistics")
  retrained = _normals.floats(retrained_statistics, "retrained_statistics")
  shaped(
    "unlearned_statistics [M, F] and retrained_statistics [M, F]",
    unlearned,
    retrained,
  )
  num_models = unlearned.shape[0]
  if num_models < 3:
    raise ValueError(
      f"Expected at least 3 models of each kind, got {num_models}."
    )
  checks.fraction(delta=delta)
  checks.counts(chunk_size=chunk_size)
  checks.positive(thresholds_per_unit=thresholds_per_unit, buffer=buffer)
  grid = math.ceil(round(2 * buffer * thresholds_per_unit, 6))

  def one(row: tuple[jax.Array, jax.Array]) -> jax.Array:
    return _row_epsilon(*row, delta, thresholds_per_unit, buffer, max(grid, 2))

  epsilon = jax.lax.map(
    one,
    (unlearned.T, retrained.T),
    batch_size=min(chunk_size, max(unlearned.shape[1], 1)),
  )
  num_bins = 2 * math.ceil(math.log(num_models - 1))
  place = jnp.floor(epsilon / _BIN)
  points = jnp.where(place < num_bins, 2.0**-place, 0.0)
  points = jnp.where(jnp.isnan(epsilon), jnp.nan, points)
  return ForgettingQuality(epsilon, _rows.weighted_mean(points, weights))


def challenge_score(quality: jax.Array, runs: QualityRuns) -> jax.Array:
  """The challenge's final number: quality times two ratios of utility.

  score * (RA_u / RA_r) * (TA_u / TA_r), mean accuracies over the models on
  retain rows and on test rows, unlearned over retrained. The test ratio is left
  out where there are no test data.

  Args:
    quality: float [], `ForgettingQuality.score`.
    runs: see `forgetting_quality_runs`.

  Returns:
    float [], >= 0, higher is better; 1 or a little less for retrained models.
    nan if the retrained models are never right.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> runs = attacks.QualityRuns(
    ...   jnp.zeros((2, 5)), jnp.zeros((2, 5)), jnp.array([0.4, 0.4]),
    ...   jnp.array([0.8, 0.8]), jnp.array([0.7, 0.7]), jnp.array([0.7, 0.7]))
    >>> round(float(attacks.challenge_score(jnp.array(0.2), runs)), 3)
    0.1
  """

  def ratio(found: jax.Array, wanted: jax.Array) -> jax.Array:
    below = wanted.mean()
    safe = jnp.where(below > 0, below, 1)
    return jnp.where(below > 0, found.mean() / safe, jnp.nan)

  retain = ratio(runs.unlearned_retain_accuracy, runs.retrained_retain_accuracy)
  test = ratio(runs.unlearned_test_accuracy, runs.retrained_test_accuracy)
  absent = jnp.isnan(runs.retrained_test_accuracy).all()
  return quality * retain * jnp.where(absent, 1.0, test)


class Questions(NamedTuple):
  """What a run of the challenge asks its models.

  Attributes:
    query: the rows to ask about, {"x": [Q, ...], "label": [Q]}: the forget rows.
      All data by default; `forgetting_quality` then wants `forget_mask` as its
      weights.
    test_data: None, or rows of the same kind for the test accuracy.
    statistic: see `shadow.query_statistics`.
    query_chunk_size: static; rows at a time.
  """

  query: PyTree | None = None
  test_data: PyTree | None = None
  statistic: Statistic = logit_confidence
  query_chunk_size: int = 1024


QUESTIONS = Questions()


@renamed(query_chunk_size="query_batch_size")
@old_fields(questions=Questions)
def forgetting_quality_runs(
  model: Model,
  data: PyTree,
  forget_mask: jax.Array,
  keys: jax.Array,
  retrain_keys: jax.Array,
  unlearn: Unlearn,
  *,
  questions: Questions = QUESTIONS,
  original: Variables | None = None,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  **recipe: Any,
) -> QualityRuns:
  """Unlearned and retrained models in one program, of which statistics remain.

  Args:
    model: what to train.
    data: {"x": [N, ...], "label": [N]}.
    forget_mask: bool [N].
    keys: PRNG keys [M], of the unlearned models: of the original's training and,
      folded, of the method.
    retrain_keys: PRNG keys [M]; independent of `keys`.
    unlearn: a `Transform`, or any `(variables, data, forget_mask, key) ->
      (variables, info)`.
    questions: which rows to ask about, and how; see `Questions`.
    original: None, each unlearned model starts from an original of its own,
      trained with its key on all rows; or the variables of one original that all
      of them start from, as in the challenge.
    strategy: see `core.training.map_many`.
    mesh: see `core.training.map_many`.
    **recipe: the keyword arguments of `core.training.train`.

  Returns:
    The runs.

  Raises:
    ValueError: what `train` and `map_many` raise; a request that is not bool.

  Example:
    >>> import jax, optax
    >>> from jaxunlearn import attacks, methods, toy
    >>> problem = toy.classifier()
    >>> fit = dict(optimizer=optax.adam(0.1), num_steps=20, batch_size=16)
    >>> keys = jax.random.split(problem.key, (2, 3))
    >>> runs = attacks.forgetting_quality_runs(
    ...   problem.model, problem.data, problem.request, keys[0], keys[1],
    ...   methods.finetune(problem.model, **fit), **fit)
    >>> runs.unlearned.shape, runs.retrained_retain_accuracy.shape
    ((3, 60), (3,))
  """
  checks.request(data, forget_mask)
  checks.hard_request(forget_mask)
  data = jax.tree.map(jnp.asarray, data)
  forget_mask = arrays("forget_mask [...]", forget_mask)
  query, test_data, statistic, chunk_size = questions
  query = data if query is None else query
  everything = jnp.ones(forget_mask.shape, bool)

  def accuracy(variables, rows, weights=None):
    right = query_statistics(
      model,
      variables,
      rows,
      statistic=_rows.is_right,
      chunk_size=chunk_size,
    )
    return _rows.weighted_mean(right[:, 0], weights)

  def ask(variables: Variables) -> tuple[jax.Array, jax.Array, jax.Array]:
    values = query_statistics(
      model,
      variables,
      query,
      statistic=statistic,
      chunk_size=chunk_size,
    )[:, 0]
    retain = accuracy(variables, data, ~forget_mask)
    if test_data is None:
      return values, retain, jnp.full((), jnp.nan, retain.dtype)
    return values, retain, accuracy(variables, test_data)

  def one(key: jax.Array, retrain_key: jax.Array) -> Any:
    start = original
    if start is None:
      start, _ = train(model, data, everything, key, **recipe)
    method_key = derive(key, "unlearn")
    unlearned, _ = unlearn(start, data, forget_mask, method_key)
    retrained, _ = train(model, data, ~forget_mask, retrain_key, **recipe)
    return ask(unlearned), ask(retrained)

  unlearned, retrained = map_many(
    one, keys, retrain_keys, strategy=strategy, mesh=mesh
  )
  pairs = zip(unlearned, retrained)
  return QualityRuns(*(part for pair in pairs for part in pair))


def _row_epsilon(
  unlearned: jax.Array,
  retrained: jax.Array,
  delta: float | jax.Array,
  per_unit: int,
  buffer: float,
  grid: int,
) -> jax.Array:
  """Epsilon of one row from two samples [M]."""
  unlearned, retrained = jnp.sort(unlearned), jnp.sort(retrained)
  of_retrained = jnp.median(retrained) > jnp.median(unlearned)
  positive = jnp.where(of_retrained, retrained, unlearned)
  negative = jnp.where(of_retrained, unlearned, retrained)
  widths = positive[-1] - positive[0], negative[-1] - negative[0]
  smaller, larger = jnp.minimum(*widths), jnp.maximum(*widths)
  single = _threshold_errors(positive, negative, per_unit)
  narrow = jnp.where(widths[0] < widths[1], positive, negative)
  wide = jnp.where(widths[0] < widths[1], negative, positive)
  double = _interval_errors(narrow, wide, buffer, grid)
  count = unlearned.shape[0]
  best = jnp.maximum(
    _best_epsilon(*single, count, delta), _best_epsilon(*double, count, delta)
  )
  is_peaked = (larger > 0) & (smaller < _PEAKED * larger)
  is_known = jnp.isfinite(unlearned).all() & jnp.isfinite(retrained).all()
  return jnp.where(is_known, jnp.where(is_peaked, CAP, best), jnp.nan)


def _threshold_errors(
  positive: jax.Array, negative: jax.Array, per_unit: int
) -> tuple[jax.Array, jax.Array]:
  """False positives and negatives of "x >= t" for t on a grid; counts [2 M].

  The grid runs from the smallest to the largest number. Of its points the first
  after each number are taken: others in the same gap decide alike.
  """
  both = jnp.concatenate([positive, negative])
  low, high = both.min(), both.max()
  num = jnp.ceil((high - low) * per_unit)
  last = jnp.maximum(num - 1, 1)
  step = (high - low) / last
  place = jnp.floor((both - low) / jnp.where(step > 0, step, 1)) + 1
  # The end of the grid is the largest number itself, whatever rounding says. A
  # grid of one point has no end.
  threshold = jnp.where(place >= last, high, low + place * step)
  threshold = jnp.where(num > 1, threshold, low)
  missed = jnp.searchsorted(positive, threshold, side="left")
  rejected = jnp.searchsorted(negative, threshold, side="left")
  return negative.shape[0] - rejected, missed


def _interval_errors(
  narrow: jax.Array, wide: jax.Array, buffer: float, grid: int
) -> tuple[jax.Array, jax.Array]:
  """False positives and negatives of "l <= x <= r"; counts [grid, grid].

  r runs over `buffer` on either side of the narrow sample's largest number, l
  over as much on either side of r less its width. Both grids have one spacing,
  so that there are 2 grid - 1 values of l, not grid^2.
  """
  spacing = 2 * buffer / (grid - 1)
  right = narrow[-1] - buffer + jnp.arange(grid) * spacing
  # Written from its middle, which is exactly the smallest number.
  left = narrow[0] + (jnp.arange(2 * grid - 1) - (grid - 1)) * spacing
  pair = jnp.arange(grid)[:, None] + jnp.arange(grid)[None, :]

  def inside(x: jax.Array) -> jax.Array:
    until = jnp.searchsorted(x, right, side="right")
    before = jnp.searchsorted(x, left, side="left")
    return jnp.maximum(until[:, None] - before[pair], 0)

  return inside(wide), narrow.shape[0] - inside(narrow)


def _best_epsilon(
  false_positives: jax.Array,
  false_negatives: jax.Array,
  count: int,
  delta: float | jax.Array,
) -> jax.Array:
  """The largest epsilon over rules, from counts out of `count` models."""
  # Rates are multiples of 1 / count: logarithms come from two small tables.
  rates = jnp.arange(count + 1) / count
  log_rate = jnp.log(rates)
  room = 1 - delta - rates
  log_room = jnp.where(
    room > 0, jnp.log(jnp.where(room > 0, room, 1)), -jnp.inf
  )
  epsilon = jnp.maximum(
    log_room[false_positives] - log_rate[false_negatives],
    log_room[false_negatives] - log_rate[false_positives],
  )
  no_errors = (false_positives == 0) & (false_negatives == 0)
  one_zero = (false_positives == 0) ^ (false_negatives == 0)
  epsilon = jnp.where(one_zero, 0, jnp.clip(epsilon, 0, CAP))
  return jnp.where(no_errors, CAP, epsilon).max()
