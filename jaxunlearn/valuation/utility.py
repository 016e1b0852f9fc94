"""Utilities: what a set of rows is worth to a model trained on it.

`trained_utility` trains any model with the library's own loop; `closed_form` has
learners that are much faster. `restricted` and `grouped` turn a utility of rows
into one of fewer players, for any estimator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.per_example import map_chunks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import train
from jaxunlearn.core.types import PyTree
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.metrics.utility import accuracy
from jaxunlearn.valuation.types import Utility

Score = Callable[[jax.Array, jax.Array], jax.Array]


def log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Mean log-probability of the labels, nats, <= 0; higher is better.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]]))
    >>> score = valuation.log_likelihood(logits, jnp.array([0, 0]))
    >>> round(float(score), 3)
    -1.498
  """
  return -cross_entropy(logits, labels).mean()


def squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
  """Minus the mean squared distance of outputs [V, C] to one-hot labels [V].

  Raises:
    ValueError: labels of another shape, or that are no classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> outputs = jnp.array([[0.5, 0.5], [1.0, 0.0]])
    >>> float(valuation.squared_error(outputs, jnp.array([0, 0])))
    -0.25
  """
  checks.labels(labels, outputs.shape[-1], "labels", length=len(outputs))
  target = jax.nn.one_hot(labels, outputs.shape[-1], dtype=jnp.float32)
  return -((outputs - target) ** 2).sum(-1).mean()


SCORES: dict[str, Score] = {
  "log_likelihood": log_likelihood,
  "accuracy": accuracy,
  "squared_error": squared_error,
}


def trained_utility(
  model: Model,
  data: PyTree,
  validation: PyTree,
  key: jax.Array,
  *,
  score: str | Score = "log_likelihood",
  empty_value: float | jax.Array | None = None,
  chunk_size: int | None = None,
  **recipe: Any,
) -> Utility:
  """The score on validation rows of a model trained under the mask.

  All masks share the initial params and the randomness of training, so that
  their utilities differ by the rows alone.

      utility = trained_utility(
        model, data, validation, key,
        optimizer=optax.adam(1e-2), num_steps=100, batch_size=64)
      jax.jit(lambda key: shapley(utility, key, num_permutations=100))(key)

  Args:
    model: a classifier, outputs [B, C].
    data: {"x": [N, ...], "label": int [N]}.
    validation: the same of V >= 1 rows that are not trained on.
    key: decides the initial params and the order of rows, for all masks.
    score: "log_likelihood" (mean, nats), "accuracy", or a function of outputs
      [V, C] and labels [V]. Log-likelihood tells rows apart that accuracy does
      not.
    empty_value: of no rows; by default -log C for the log-likelihood and the
      share of the largest class of the validation rows for the accuracy. A
      function of one's own needs it.
    chunk_size: static; validation rows at a time, all by default.
    **recipe: the other keyword arguments of `core.training.train`.

  Returns:
    The utility; nan where training diverged.

  Raises:
    ValueError: no validation rows, labels out of range, an unknown score, a
      score of one's own without `empty_value`; as `train`, when it is asked.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> from jaxunlearn import toy, valuation
    >>> problem = toy.classifier()
    >>> utility = valuation.trained_utility(
    ...   problem.model, problem.data, problem.data, problem.key,
    ...   score="accuracy", optimizer=optax.adam(0.1), num_steps=20,
    ...   batch_size=16)
    >>> utility.num_rows, float(utility.empty_value)
    (60, 0.25)
    >>> round(float(utility.value(jnp.ones(60, bool))), 1)
    1.0
  """
  n = checks.num_rows(data)
  num_classes = _num_outputs(model, validation, key)
  labels = validation_labels(data, validation, num_classes)
  if isinstance(score, str):
    checks.one_of(("log_likelihood", "accuracy"), score=score)
  empty_value = empty_value_of(score, labels, num_classes, empty_value)
  rate = SCORES[score] if isinstance(score, str) else score

  def value(mask: jax.Array) -> jax.Array:
    variables, _ = train(model, data, mask, key, **recipe)
    predict = lambda x: model.predict(variables, x)
    if chunk_size is None:
      outputs = predict(validation["x"])
    else:
      outputs = map_chunks(predict, validation["x"], chunk_size=chunk_size)
    return rate(outputs, labels)

  return Utility(value, n, empty_value)


def restricted(
  utility: Utility, rows: jax.Array, fixed: jax.Array | None = None
) -> Utility:
  """The game of some rows, the others being in the set always or never.

  Args:
    utility: of N rows.
    rows: int [K], the players, distinct.
    fixed: bool [N], rows that are always in; none by default. Players' own
      entries do not matter.

  Returns:
    A utility of K rows. Its empty set is the fixed rows, which are evaluated
    here, once.

  Raises:
    ValueError: rows that are no distinct row numbers, fixed of another shape.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> players = valuation.restricted(
    ...   game, jnp.array([0, 2]), fixed=jnp.array([False, True, False]))
    >>> float(players.empty_value)
    2.0
    >>> float(players.value(jnp.array([True, True])))
    8.0
  """
  n = utility.num_rows
  rows = arrays("rows int [K]", rows)
  if checks.is_concrete(rows):
    numbers = np.asarray(rows)
    distinct = len(np.unique(numbers)) == len(numbers)
    if not distinct or (numbers < 0).any() or (numbers >= n).any():
      raise ValueError(f"Expected distinct rows in 0 .. {n - 1}, got {rows}.")
  base = jnp.zeros(n, bool) if fixed is None else fixed
  base = arrays(f"fixed bool [{n}]", base)
  base = base.at[rows].set(False)
  return Utility(
    lambda mask: utility.value(base.at[rows].set(mask)),
    rows.shape[0],
    utility.many(base[None])[0],
  )


def grouped(utility: Utility, group: jax.Array, num_groups: int) -> Utility:
  """The game of groups of rows: clusters, classes, owners of data.

  Args:
    utility: of N rows.
    group: int [N], in 0 .. num_groups - 1; may be traced.
    num_groups: K; static.

  Returns:
    A utility of K players, each of which brings its rows. A set of groups
    without rows is worth what the empty set is.

  Raises:
    ValueError: num_groups < 1, groups of another shape or out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> owners = valuation.grouped(game, jnp.array([0, 0, 1]), num_groups=2)
    >>> owners.many(jnp.array([[True, False], [False, True]])).tolist()
    [3.0, 5.0]
  """
  checks.counts(num_groups=num_groups)
  group = arrays(f"group [{utility.num_rows}]", group)
  checks.labels(group, num_groups, "group")

  def value(mask: jax.Array) -> jax.Array:
    rows = mask[group]
    return jnp.where(rows.any(), utility.value(rows), utility.empty_value)

  return Utility(value, num_groups, utility.empty_value)


def validation_labels(
  data: PyTree, validation: PyTree, num_classes: int
) -> jax.Array:
  """The labels of the validation rows, both label columns being in range.

  Raises:
    ValueError: no validation rows, or labels that are no classes.
  """
  checks.counts(num_classes=num_classes)
  if checks.num_rows(validation, "validation") == 0:
    raise ValueError("Expected validation to hold rows, got 0.")
  checks.labels(data["label"], num_classes, "data['label']")
  checks.labels(validation["label"], num_classes, "validation['label']")
  return jnp.asarray(validation["label"])


def empty_value_of(
  score: str | Score,
  labels: jax.Array,
  num_classes: int,
  given: float | jax.Array | None,
) -> float | jax.Array:
  """What no rows are worth: of the best guess that looks at no input.

  Raises:
    ValueError: nothing is given for a score of one's own.
  """
  if given is not None:
    return given
  if score == "log_likelihood":
    return -math.log(num_classes)
  if score == "accuracy":
    counts = jnp.bincount(labels, length=num_classes)
    return counts.max() / labels.shape[0]
  if score == "squared_error":
    return -1.0  # Outputs of zero.
  raise ValueError("Expected empty_value for a score of one's own, got None.")


def _num_outputs(model: Model, validation: PyTree, key: jax.Array) -> int:
  """C, without computing anything."""

  def outputs(key: jax.Array, x: PyTree) -> jax.Array:
    return model.predict(model.init(key, x), x)

  found = jax.eval_shape(outputs, key, validation["x"])
  shaped("model outputs [B, C]", found)
  return found.shape[1]
