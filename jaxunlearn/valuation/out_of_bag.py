"""Data-OOB: how well models that did not draw a row predict it.

Class: heuristic. Data access: the training rows alone, no validation rows.
Cost: `num_models` trainings, whatever N.

Each of B models is trained on a bootstrap sample, N draws with replacement, so
that a row is in it c_bi times (0, 1, 2, ...). A row's value is the mean score of
the models that did not draw it, about 37 % of them:

    phi_i = sum_b 1[c_bi = 0] T(y_i, f_b(x_i)) / sum_b 1[c_bi = 0].

Source: Kwon and Zou (2023), arXiv:2304.07718 (ykwon0407/dataoob). Differences:
the sample is counts on the rows of one copy of the data, not a copy a model, see
`trained_scores`; standard errors are ours, those of a mean over models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.per_example import map_chunks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.types import PyTree
from jaxunlearn.metrics import _rows
from jaxunlearn.valuation.closed_form import logistic_fit
from jaxunlearn.valuation.types import Valuation, require_finite

ScoreRows = Callable[[jax.Array, jax.Array], jax.Array]


def data_oob(
  score_rows: ScoreRows,
  num_rows: int,
  key: jax.Array,
  *,
  num_models: int,
  num_draws: int | None = None,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """The mean out-of-bag score of every row.

  Args:
    score_rows: `(counts int32 [N], key) -> float [N]`, pure: trains a model on
      each row as often as the counts say, and scores its prediction of every
      row; `trained_scores` makes one, `logistic_scores` a much faster one.
    num_rows: N.
    key: PRNG key; of the samples, and one of its own for every model. The first
      of more models are those of fewer.
    num_models: B; static; the paper takes 1,000.
    num_draws: rows in a sample; static; N by default. Fewer leave more rows out
      of each bag.
    strategy: see `core.training.map_many`. Its chunk, times the mesh's devices,
      is also how many models' scores [N] are held at a time; "vmap" holds all.
    mesh: devices to spread the models over.

  Returns:
    Values in the unit of the score (correct: a share in [0, 1]); nan for a row
    that no model left out. Standard errors, nan for fewer than two models;
    `num_evaluations` is B; `utility_full` is nan.

  Raises:
    ValueError: counts that are not positive, scores of another shape, or
      (outside jit) some that are not finite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> truth = jnp.array([1.0, 0.0, 0.5])
    >>> found = valuation.data_oob(
    ...   lambda counts, key: truth, 3, jax.random.key(0), num_models=20)
    >>> found.values.round(3).tolist()
    [1.0, 0.0, 0.5]
  """
  num_draws = num_rows if num_draws is None else num_draws
  checks.counts(num_rows=num_rows, num_models=num_models, num_draws=num_draws)
  block = num_models
  if strategy != "vmap":
    lanes = 1 if strategy == "map" else int(strategy)
    checks.positive(strategy=lanes)
    block = lanes * (1 if mesh is None else mesh.size)
  if mesh is not None:
    block = -(-block // mesh.size) * mesh.size

  def one(index: jax.Array) -> tuple[jax.Array, jax.Array]:
    draw_key, fit_key = jax.random.split(jax.random.fold_in(key, index))
    drawn = jax.random.randint(draw_key, (num_draws,), 0, num_rows)
    counts = jnp.zeros(num_rows, jnp.int32).at[drawn].add(1)
    scores = jnp.asarray(score_rows(counts, fit_key))
    shaped(f"score_rows to return scores [{num_rows}]", scores)
    return scores.astype(jnp.float32), (counts == 0) & (index < num_models)

  def add(carry: Any, start: jax.Array) -> tuple[Any, None]:
    index = start + jnp.arange(block, dtype=jnp.int32)
    scores, is_out = map_many(one, index, strategy=strategy, mesh=mesh)
    *running, bad = carry
    bad = bad + (is_out & ~jnp.isfinite(scores)).sum()
    return (*_merge(running, scores, is_out), bad), None

  zeros = jnp.zeros(num_rows, jnp.float32)
  starts = jnp.arange(0, num_models, block, dtype=jnp.int32)
  start = (zeros, zeros, zeros, jnp.zeros((), jnp.int32))
  (count, mean, squares, bad), _ = jax.lax.scan(add, start, starts)
  require_finite(bad, num_models * num_rows)
  spread = squares / jnp.maximum(count - 1, 1)
  error = jnp.sqrt(spread / jnp.maximum(count, 1))
  return Valuation(
    jnp.where(count > 0, mean, jnp.nan),
    jnp.where(count > 1, error, jnp.nan),
    jnp.asarray(num_models, jnp.int32),
    jnp.full((), jnp.nan, jnp.float32),
    jnp.array(True),
  )


def trained_scores(
  model: Model,
  data: PyTree,
  *,
  score: Callable[[jax.Array, PyTree], jax.Array] | None = None,
  chunk_size: int = 1024,
  **recipe: Any,
) -> ScoreRows:
  """Scores of models that `core.training.train` trains, for `data_oob`.

  `train` takes weights in [0, 1], so a row drawn c times has weight c / max c:
  losses are averaged by their weights, and a common factor drops out. With all
  rows in every batch this is the bootstrap exactly. With smaller batches an
  epoch holds each drawn row once, about 63 % of N, and a row drawn twice counts
  double in one batch instead of being in two: the same loss on average over
  batches of many rows, not batch by batch.

  Args:
    model: what to train; a classifier unless there is a score.
    data: {"x": [N, ...], ...}.
    score: `(outputs [B, ...], rows) -> [B]`, higher is better; by default
      whether the largest output is that of `rows["label"]`. For regression:
      minus the squared error.
    chunk_size: static; rows predicted at a time.
    **recipe: the other keyword arguments of `train`.

  Returns:
    `(counts, key) -> scores`; each key gives initial params of its own.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> from jaxunlearn import toy, valuation
    >>> problem = toy.classifier()
    >>> scores = valuation.trained_scores(
    ...   problem.model, problem.data,
    ...   optimizer=optax.adam(0.1), num_steps=20, batch_size=16)
    >>> scores(jnp.ones(60, int), problem.key).shape
    (60,)
  """
  score = is_correct if score is None else score

  def score_rows(counts: jax.Array, key: jax.Array) -> jax.Array:
    weights = counts / jnp.maximum(counts.max(), 1)
    variables, _ = train(model, data, weights, key, **recipe)
    predict = lambda rows: score(model.predict(variables, rows["x"]), rows)
    return map_chunks(predict, data, chunk_size=chunk_size)

  return score_rows


def logistic_scores(
  data: PyTree,
  *,
  num_classes: int,
  score: Callable[[jax.Array, PyTree], jax.Array] | None = None,
  **options: Any,
) -> ScoreRows:
  """Scores of logistic regression by Newton's method, for `data_oob`.

  Counts are weights of the rows in its sum of losses, which is the bootstrap
  exactly.

  Args:
    data: {"x": [N, ...], "label": int [N]}.
    num_classes: C >= 2; static.
    score: see `trained_scores`; outputs are logits [N, C].
    **options: the other keyword arguments of `closed_form.logistic_fit`.

  Returns:
    `(counts, key) -> scores`; the key is not used.

  Raises:
    ValueError: as `logistic_fit`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> data = {"x": jnp.array([[-1.0], [1.0]]), "label": jnp.array([0, 1])}
    >>> scores = valuation.logistic_scores(data, num_classes=2)
    >>> scores(jnp.array([1, 1]), jax.random.key(0)).tolist()
    [1.0, 1.0]
  """
  score = is_correct if score is None else score
  fit = logistic_fit(
    data["x"], data["label"], num_classes=num_classes, **options
  )
  return lambda counts, key: score(fit(counts)(data["x"]), data)


def is_correct(outputs: jax.Array, rows: PyTree) -> jax.Array:
  """1 where the largest of outputs [B, C] is that of `rows["label"]`, else 0.

  nan where an output is nan or +inf.

  Raises:
    ValueError: a label that is no integer, or not one for each row.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> outputs, rows = jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1])
    >>> valuation.is_correct(outputs, {"label": rows}).tolist()
    [1.0, 0.0]
  """
  checks.labels(rows["label"], length=len(outputs))
  return _rows.is_right(outputs, rows["label"])


def _merge(
  running: Sequence[jax.Array], scores: jax.Array, is_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Count, mean and sum of squared deviations [N] with those of a block [B, N].

  The rule of Chan, Golub and LeVeque: no difference of two large sums.
  """
  count, mean, squares = running
  more = is_out.sum(axis=0).astype(jnp.float32)
  own = jnp.where(is_out, scores, 0).sum(axis=0) / jnp.maximum(more, 1)
  deviation = jnp.where(is_out, scores - own[None], 0)
  total = count + more
  gap = own - mean
  share = more / jnp.maximum(total, 1)
  return (
    total,
    mean + gap * share,
    squares + (deviation**2).sum(axis=0) + gap**2 * count * share,
  )
