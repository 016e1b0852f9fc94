"""CS-Shapley: values within a class, weighed by what happens to the others.

Class: unbiased estimate before the rescaling. Data access: training and
validation rows. Cost: `num_permutations` x (N + C) trainings.

For a row of class y, a set S of rows of y and a set O of rows of other classes,

    u(S | O) = a_in exp(a_out),

of the model trained on S and O: a_in the validation rows of class y that it
predicts right, a_out those of the other classes, both as shares of all
validation rows. The value is the mean over random O of the row's Shapley value
in its class. At last the values of each class are scaled to add up to a_in of
the model trained on all rows.

Source: Schoch, Xu and Ji (2022), arXiv:2211.06800, formulas as read in pyDVL
(the authors' repository holds no code). Differences: each permutation of a class
comes with a set O of its own; no truncation, since the prefixes of all classes
are trained together; standard errors are ours and take the scale as given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.types import PyTree
from jaxunlearn.metrics import _rows
from jaxunlearn.valuation.types import Valuation, require_finite

ClassScores = Callable[[jax.Array], jax.Array]


def class_wise_shapley(
  class_scores: ClassScores,
  labels: jax.Array,
  key: jax.Array,
  *,
  num_classes: int,
  num_permutations: int,
  rate: float | jax.Array = 0.5,
  empty_scores: jax.Array | None = None,
  rescale: bool = True,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Valuation:
  """Class-wise Shapley values.

  Args:
    class_scores: `mask bool [N] -> float [C]`, pure: for each class its
      validation rows that the model trained on the mask predicts right, as a
      share of all validation rows; `trained_class_scores` makes one.
    labels: int [N], of the training rows, in 0 .. C - 1.
    key: PRNG key.
    num_classes: C; static.
    num_permutations: of every class; static; the authors take 500.
    rate: chance of a row of another class to be in O, in [0, 1]; may be traced.
    empty_scores: float [C], of no rows; zeros by default.
    rescale: static; False leaves the Shapley values of u as they are.
    strategy: see `core.training.map_many`; of the N + C models of one
      permutation of every class.
    mesh: devices to spread these models over.

  Returns:
    The values; `utility_full` is the accuracy of the model trained on all rows.
    A class whose values add up to 0 is not rescaled.

  Raises:
    ValueError: labels that are no classes, counts that are not positive, a rate
      outside [0, 1], scores that are not [C], or (outside jit) not finite.

  Example:
    >>> label = jnp.array([0, 0, 1])
    >>> scores = lambda mask: jnp.array([0.2, 0.4]) * mask[1:]
    >>> found = class_wise_shapley(
    ...   scores, label, jax.random.key(0), num_classes=2, num_permutations=4)
    >>> [round(value, 3) for value in found.values.tolist()]
    [0.0, 0.2, 0.4]
  """
  checks.counts(num_permutations=num_permutations, num_classes=num_classes)
  checks.fraction(rate=rate)
  labels = arrays("labels [N > 0]", labels)
  checks.labels(labels, num_classes, "labels")
  n, c = labels.shape[0], num_classes
  empty = jnp.zeros(c) if empty_scores is None else empty_scores
  empty = arrays(f"empty_scores [{c}]", empty)
  classes = jnp.arange(c, dtype=labels.dtype)
  # The N + C sets of a round: up to each row, and of each class the set O.
  own_class = jnp.concatenate([labels, classes])

  def scores_of(mask: jax.Array) -> jax.Array:
    scores = jnp.asarray(class_scores(mask), jnp.float32)
    shaped(f"class_scores to return [{c}]", scores)
    return jnp.where(mask.any(), scores, empty)

  def one_round(carry: Any, index: jax.Array) -> tuple[Any, None]:
    order_key, other_key = jax.random.split(jax.random.fold_in(key, index))
    rank, before = _ranks(order_key, labels, c)
    others = jax.random.bernoulli(other_key, rate, (n,))

    def one(y: jax.Array, up_to: jax.Array) -> jax.Array:
      # All classes share one draw of rows, of which each takes those outside.
      mask = jnp.where(labels == y, rank <= up_to, others)
      scores = scores_of(mask)
      return scores[y] * jnp.exp(scores.sum() - scores[y])

    up_to = jnp.concatenate([rank, jnp.full(c, -1, rank.dtype)])
    lanes = _padded(mesh, own_class, up_to)
    u = map_many(one, *lanes, strategy=strategy, mesh=mesh)
    # A first row comes after the set O of its class.
    previous = jnp.where(rank > 0, before, n + labels)
    marginal = u[:n] - u[previous]
    mean, squares, bad = carry
    gap = marginal - mean
    mean = mean + gap / (index + 1)
    bad = bad + (~jnp.isfinite(u[: n + c])).sum()
    return (mean, squares + gap * (marginal - mean), bad), None

  zeros = jnp.zeros(n, jnp.float32)
  rounds = jnp.arange(num_permutations, dtype=jnp.int32)
  start = (zeros, zeros, jnp.zeros((), jnp.int32))
  (values, squares, bad), _ = jax.lax.scan(one_round, start, rounds)
  full = scores_of(jnp.ones(n, bool))
  count = num_permutations * (n + c) + 1
  require_finite(bad + (~jnp.isfinite(full)).sum(), count)
  error = jnp.full(n, jnp.nan)
  if num_permutations > 1:
    error = jnp.sqrt(squares / (num_permutations - 1) / num_permutations)
  if rescale:
    total = jnp.zeros(c).at[labels].add(values)
    # A sum that is but the rounding of its terms is 0, not something to divide
    # by.
    size = jnp.zeros(c).at[labels].add(jnp.abs(values))
    is_sum = jnp.abs(total) > 1e-5 * size
    scale = jnp.where(is_sum, full / jnp.where(is_sum, total, 1), 1)
    values, error = values * scale[labels], error * jnp.abs(scale[labels])
  return Valuation(
    values, error, jnp.asarray(count, jnp.int32), full.sum(), jnp.array(True)
  )


def trained_class_scores(
  model: Model,
  data: PyTree,
  validation: PyTree,
  key: jax.Array,
  *,
  num_classes: int,
  **recipe: Any,
) -> ClassScores:
  """Class scores of models that `core.training.train` trains.

  Args:
    model: a classifier, outputs [B, C].
    data: {"x": [N, ...], "label": int [N]}.
    validation: the same of V >= 1 rows.
    key: of the initial params and of the order of rows, the same for all masks.
    num_classes: C; static.
    **recipe: the other keyword arguments of `train`.

  Returns:
    `mask bool [N] -> float32 [C]`; a class without validation rows has 0.

  Raises:
    ValueError: no validation rows, or labels that are no classes.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> from jaxunlearn import toy, valuation
    >>> problem = toy.classifier()
    >>> scores = valuation.trained_class_scores(
    ...   problem.model, problem.data, problem.data, problem.key, num_classes=4,
    ...   optimizer=optax.adam(0.1), num_steps=20, batch_size=16)
    >>> scores(jnp.ones(60, bool)).shape
    (4,)
  """
  if checks.num_rows(validation, "validation") == 0:
    raise ValueError("Expected validation to hold rows, got 0.")
  checks.labels(validation["label"], num_classes, "validation['label']")
  label = jnp.asarray(validation["label"])

  def scores(mask: jax.Array) -> jax.Array:
    variables, _ = train(model, data, mask, key, **recipe)
    outputs = model.predict(variables, validation["x"])
    right = _rows.is_right(outputs, label)
    return jnp.zeros(num_classes).at[label].add(right) / label.shape[0]

  return scores


def _ranks(
  key: jax.Array, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
  """Of each row, its place in a random order of its class and who is before it.

  Returns:
    Places int32 [N] from 0, and row numbers int32 [N], of no meaning at place 0.
  """
  n = labels.shape[0]
  shuffled = jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))
  order = shuffled[jnp.argsort(labels[shuffled], stable=True)]
  sizes = jnp.bincount(labels, length=num_classes)
  first = (jnp.cumsum(sizes) - sizes).astype(jnp.int32)
  place = jnp.arange(n, dtype=jnp.int32) - first[labels[order]]
  rank = jnp.zeros(n, jnp.int32).at[order].set(place)
  before = jnp.zeros(n, jnp.int32).at[order].set(jnp.roll(order, 1))
  return rank, before


def _padded(
  mesh: jax.sharding.Mesh | None, *stacked: jax.Array
) -> tuple[jax.Array, ...]:
  """Repeats of the first lane, so that devices have equally many."""
  extra = 0 if mesh is None else -stacked[0].shape[0] % mesh.size
  repeat = lambda x: jnp.concatenate([x, jnp.repeat(x[:1], extra, axis=0)])
  return tuple(map(repeat, stacked))
